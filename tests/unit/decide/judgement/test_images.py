"""What pullers tell against a revision, and what they do not."""

from datetime import UTC, datetime, timedelta

import pytest
from preheat.api.conditions import Reason
from preheat.decide.ahead import Pull, PullState
from preheat.decide.judgement.images import fault_of_images
from preheat.decide.judgement.pods import Patience

from tests.builders import a_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = Patience(start=120.0, progress=1200.0)


def pull(node: str, state: PullState, seconds: float = 0.0) -> Pull:
    refused = {"waiting_reason": "ErrImagePull", "waiting_message": "manifest unknown"}
    since = NOW - timedelta(seconds=seconds)
    pod = a_pod(f"puller-{node}", node=node, phase="Pending", scheduled_at=since, **refused)
    return Pull(
        node, state, "ErrImagePull: manifest unknown", pod if state is PullState.UNAVAILABLE else None
    )


REFUSED = PullState.UNAVAILABLE
CASES = {
    "nobody pulls": ([], False),
    "one node, for longer than a start takes": ([pull("n1", REFUSED, 121)], True),
    "one node, for less": ([pull("n1", REFUSED, 119)], False),
    "two nodes, one of them for less": ([pull("n1", REFUSED, 500), pull("n2", REFUSED, 5)], False),
    "another has them": ([pull("n1", REFUSED, 500), pull("n2", PullState.PULLED)], False),
    "another is at it": ([pull("n1", REFUSED, 500), pull("n2", PullState.PULLING)], False),
    "of another nothing is known": ([pull("n1", REFUSED, 500), pull("n2", PullState.UNKNOWN)], True),
    "nothing is known": ([pull("n1", PullState.UNKNOWN)], False),
}


@pytest.mark.parametrize("case", CASES)
def test_images_that_are_not_to_be_had(case: str) -> None:
    pulls, want = CASES[case]
    fault = fault_of_images(pulls, PATIENCE, NOW)
    assert (fault is not None) is want
    if fault is not None:
        assert fault.reason is Reason.IMAGE_UNAVAILABLE
        assert "manifest unknown" in fault.words
        assert fault.node == "n1"


def test_a_secret_that_is_missing_is_told_as_of_a_replica() -> None:
    """The kubelet tells of it in an Event alone, and looks again after 127 s."""
    since = NOW - timedelta(seconds=136)
    words = 'MountVolume.SetUp failed for volume "named" : secret "keys" not found'
    pod = a_pod("puller-n1", node="n1", phase="Pending", scheduled_at=since, complaint=words)
    found = Pull("n1", PullState.UNAVAILABLE, words, pod, Reason.REFERENCE_MISSING)
    fault = fault_of_images([found], PATIENCE, NOW)
    assert fault is not None
    assert fault.reason is Reason.REFERENCE_MISSING
    assert 'secret "keys" not found' in fault.words
    assert fault_of_images([found], PATIENCE, NOW - timedelta(seconds=10)) is None
    # Of more than three pods that wait for it nobody asks.
    assert fault_of_images([found, pull("n4", PullState.PULLING)], PATIENCE, NOW) is not None
    assert fault_of_images([found, pull("n4", PullState.PULLED)], PATIENCE, NOW) is None
