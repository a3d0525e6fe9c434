"""A new revision goes out, or is taken back, while the model is asked all the time. The rest: `make e2e-rollout`."""

from collections.abc import Iterator

import pytest

from e2e.rollout.cases import CASES
from e2e.rollout.stage import Stage
from e2e.tests.cluster import Cluster


@pytest.fixture(scope="module")
def stage(cluster: Cluster) -> Iterator[Stage]:
    """The campaign's own namespace. What other tests left serving is gone: its GPUs are needed."""
    cluster.clear()
    made = Stage(cluster.provider)
    made.prepare()
    yield made
    made.kubectl("delete", "namespace", made.namespace, "--timeout=120s")


@pytest.mark.parametrize("name", ["good/one-full", "bad/load-raises", "back/by-hand"])
def test_nothing_is_lost_by_a_new_revision(stage: Stage, name: str) -> None:
    outcome = CASES[name].play(stage, print)
    print(outcome)
    assert not outcome.problems
