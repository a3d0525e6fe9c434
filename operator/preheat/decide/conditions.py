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
            ready.message if stalled else "Nothing stands in the way.",
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
    same = before is not None and before.status is status
    return Condition(
        type=verdict.type,
        status=status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and same else timestamp(now),
        reason=verdict.reason,
        message=verdict.message[:MESSAGE_LIMIT],
    )


def events(
    verdicts: Sequence[Verdict], previous: Sequence[Condition], bad: frozenset[Reason]
) -> list[EventDraft]:
    """Return an Event for Ready when its status or reason moved. One per transition, none for repeats."""
    before = {condition.type: condition for condition in previous}
    drafts = []
    for verdict in verdicts:
        old = before.get(verdict.type)
        if verdict.type is not ConditionType.READY:
            continue
        if old is None or old.reason != verdict.reason:
            drafts.append(EventDraft(verdict.reason, verdict.message, verdict.reason in bad))
    return drafts
