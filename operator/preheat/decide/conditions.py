"""Builds the list of conditions, the one way for both kinds.

Ready sums up. Reconciling and Stalled are kstatus' pair and follow from it:

    Ready   stuck   ->  Reconciling  Stalled
    True    -           False        False
    False   no          True         False     work goes on, wait
    False   yes         False        True      nothing will change until somebody changes something
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.conditions import Condition, ConditionStatus, ConditionType, Reason
from preheat.decide.observed import parse_time
from preheat.decide.plan import EventDraft, timestamp

MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one condition should say. ``holds`` None is Unknown."""

    type: ConditionType
    holds: bool | None
    reason: Reason
    message: str


def summary(ready: Verdict, *, stuck: bool) -> list[Verdict]:
    """Return Ready with the kstatus pair that follows from it."""
    working = not ready.holds and not stuck
    stalled = not ready.holds and stuck
    return [
        ready,
        Verdict(
            ConditionType.RECONCILING,
            working,
            ready.reason if working else Reason.SETTLED,
            ready.message if working else "Nothing is under way.",
        ),
        Verdict(
            ConditionType.STALLED,
            stalled,
            ready.reason if stalled else Reason.PROGRESSING,
            ready.message if stalled else "Nothing waits for somebody to act.",
        ),
    ]


def conditions(
    verdicts: Sequence[Verdict], previous: Sequence[Condition], generation: int, now: datetime
) -> list[Condition]:
    """Return the conditions; lastTransitionTime moves only when a status flips."""
    before = {condition.type: condition for condition in previous}
    return [_condition(verdict, before.get(verdict.type), generation, now) for verdict in verdicts]


def _condition(verdict: Verdict, before: Condition | None, generation: int, now: datetime) -> Condition:
    status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[
        verdict.holds
    ]
    # A time that is none was written by hand: programs that read conditions would fail on it.
    same = before is not None and before.status is status and parse_time(before.last_transition_time)
    return Condition(
        type=verdict.type,
        status=status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and same else timestamp(now),
        reason=verdict.reason,
        message=verdict.message[:MESSAGE_LIMIT],
    )


BRIEF = frozenset({Reason.PODS_PENDING, Reason.ENGINE_STARTING, Reason.MODEL_PROBING})
"""Steps of seconds: their end is told, not their beginning."""


def events(
    verdicts: Sequence[Verdict], previous: Sequence[Condition], bad: frozenset[Reason]
) -> list[EventDraft]:
    """Return an Event for Ready when its reason moved. One per transition, none for repeats.

    What was expected is not news: neither the first step of a new object nor a step of seconds. Each Event is
    a write, and a thousand new objects make a thousand of each kind.
    """
    before = {condition.type: condition for condition in previous}
    drafts = []
    for verdict in verdicts:
        old = before.get(verdict.type)
        if verdict.type is not ConditionType.READY or (old is not None and old.reason == verdict.reason):
            continue
        warning = verdict.reason in bad
        expected = verdict.reason in BRIEF or (old is None and not verdict.holds)
        if warning or not expected:
            drafts.append(EventDraft(verdict.reason, verdict.message, warning))
    return drafts
