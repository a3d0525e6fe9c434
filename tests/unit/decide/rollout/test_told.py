"""When a rollout is said to have ended."""

from datetime import UTC, datetime

from preheat.api.llmdeployment import RolloutStatus
from preheat.decide.rollout.told import events, is_complete

NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
UNDER_WAY = RolloutStatus.model_validate({
    "strategy": "Auto", "reason": "r", "step": "Loading", "message": "m", "fromRevision": "a", "toRevision": "b",
    "oldReplicas": 1, "updatedReplicas": 1, "readyUpdatedReplicas": 0, "startedAt": "2026-01-01T00:00:00Z",
})  # fmt: skip


def test_a_rollout_has_ended_when_nothing_is_left_to_do_for_the_revision_that_is_wanted() -> None:
    (told,) = events(UNDER_WAY, None, "b", NOW)
    assert (told.reason, told.message) == (
        "RolledOut",
        "Revision b has taken over from a, 5m after it began.",
    )
    assert is_complete(UNDER_WAY, None, "b")


def test_one_that_was_given_up_has_not_taken_over() -> None:
    assert events(UNDER_WAY, None, "a", NOW) == []
    assert not is_complete(UNDER_WAY, None, "a")


def test_nothing_ends_that_was_never_told_of_or_goes_on() -> None:
    assert events(None, None, "b", NOW) == []
    assert not is_complete(None, None, "b")
    assert not is_complete(UNDER_WAY, UNDER_WAY, "b")
