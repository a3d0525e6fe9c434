"""Conditions: the kstatus pair follows from Ready, times move only on flips, events tell transitions once."""

from datetime import UTC, datetime, timedelta

import pytest
from preheat.api.conditions import Condition, ConditionType, Reason
from preheat.decide.conditions import MESSAGE_LIMIT, Verdict, conditions, events, summary

THEN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = THEN + timedelta(hours=1)
BAD = frozenset({Reason.WEIGHTS_FAILED})


def ready(holds: bool | None, reason: Reason = Reason.WEIGHTS_FETCHING, message: str = "words") -> Verdict:
    return Verdict(ConditionType.READY, holds, reason, message)


def told(*verdicts: Verdict, at: datetime = THEN, generation: int = 1) -> list[Condition]:
    return conditions(verdicts, (), generation, at)


@pytest.mark.parametrize(
    ("holds", "stuck", "reconciling", "stalled"),
    [
        (True, False, "False", "False"),
        (True, True, "False", "False"),
        (False, False, "True", "False"),
        (False, True, "False", "True"),
        (None, False, "True", "False"),
        (None, True, "False", "True"),
    ],
)
def test_reconciling_and_stalled_follow_from_ready(
    holds: bool | None, stuck: bool, reconciling: str, stalled: str
) -> None:
    by_type = {c.type: c.status for c in told(*summary(ready(holds), stuck=stuck))}
    assert by_type["Reconciling"] == reconciling
    assert by_type["Stalled"] == stalled


def test_whichever_of_the_pair_holds_says_why() -> None:
    working = {v.type: v for v in summary(ready(False), stuck=False)}
    assert working[ConditionType.RECONCILING].reason is Reason.WEIGHTS_FETCHING
    assert working[ConditionType.STALLED].reason is Reason.PROGRESSING
    stuck = {v.type: v for v in summary(ready(False, Reason.WEIGHTS_FAILED), stuck=True)}
    assert stuck[ConditionType.STALLED].reason is Reason.WEIGHTS_FAILED
    assert stuck[ConditionType.RECONCILING].reason is Reason.SETTLED


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (ready(False), ready(False), False),
        (ready(False), ready(False, Reason.NO_CAPACITY, "other words"), False),
        (ready(False), ready(True, Reason.SERVING), True),
        (ready(True, Reason.SERVING), ready(False), True),
        (ready(None), ready(False), True),
        (ready(None), ready(None), False),
    ],
)
def test_the_time_moves_only_when_the_status_flips(before: Verdict, after: Verdict, moves: bool) -> None:
    (old,) = told(before)
    (new,) = conditions([after], [old], 2, NOW)
    assert (new.last_transition_time != old.last_transition_time) is moves
    assert new.observed_generation == 2
    assert (new.reason, new.message) == (after.reason, after.message)


@pytest.mark.parametrize("time", ["", " leading", "yesterday"])
def test_a_time_that_somebody_wrote_by_hand_and_that_is_none_is_replaced(time: str) -> None:
    (before,) = told(ready(True))
    odd = before.model_copy(update={"last_transition_time": time})
    (after,) = conditions([ready(True)], [odd], 1, NOW)
    assert after.last_transition_time == "2026-01-01T01:00:00Z"


def test_a_condition_of_its_own_type_is_compared() -> None:
    accepted = Verdict(ConditionType.ACCEPTED, True, Reason.VALID, "ok")
    before = told(ready(False), accepted)
    after = conditions([accepted, ready(True, Reason.SERVING)], before, 2, NOW)
    times = {c.type: c.last_transition_time for c in after}
    assert times["Accepted"] == "2026-01-01T00:00:00Z"
    assert times["Ready"] == "2026-01-01T01:00:00Z"


def test_a_message_is_no_longer_than_the_schema_allows() -> None:
    (condition,) = told(ready(False, message="x" * 5000))
    assert len(condition.message) == MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        (None, ready(False), []),
        (None, ready(True, Reason.SERVING), ["Serving"]),
        (None, ready(False, Reason.WEIGHTS_FAILED), ["WeightsFailed"]),
        (ready(False), ready(False, Reason.PODS_PENDING), []),
        (ready(False), ready(False), []),
        (ready(False), ready(False, message="32 %"), []),
        (ready(False), ready(False, Reason.MODEL_LOADING), ["ModelLoading"]),
        (ready(False), ready(True, Reason.SERVING), ["Serving"]),
        (ready(True, Reason.SERVING), ready(False, Reason.MODEL_HEALING), ["ModelHealing"]),
    ],
)
def test_an_event_tells_a_transition_and_no_repeat(
    before: Verdict | None, after: Verdict, want: list[str]
) -> None:
    previous = told(before) if before is not None else ()
    assert [draft.reason for draft in events([after], previous, BAD)] == want


def test_only_ready_is_told_as_an_event_and_only_trouble_as_a_warning() -> None:
    drafts = events(summary(ready(False, Reason.WEIGHTS_FAILED), stuck=True), (), BAD)
    assert [(draft.reason, draft.warning) for draft in drafts] == [("WeightsFailed", True)]
    (calm,) = events([ready(True, Reason.SERVING)], (), BAD)
    assert not calm.warning
