"""KubeAI's port: the cases of its own tests.

kubeai-project/kubeai @ f442a2cd: internal/movingaverage/simple_test.go; test/integration/{autoscaler_state,
model_scaling_bounds}_test.go.
"""

import pytest

from e2e.bench.scaling.peers.kubeai import KubeAi, Patience, Ring
from tests.unit.e2e.scaling.views import FROM_ZERO, WORKLOAD, a_view


@pytest.mark.parametrize(
    ("length", "values", "mean"),
    [
        (3, [1, 2, 3], 2.0),
        (3, [3, 2, 1], 2.0),
        (3, [3, 2, 1, 1, 1, 1], 1.0),
        (2, [2, 3], 2.5),
        (3, [2, 2, 2], 2.0),
    ],
)
def test_moving_average(length: int, values: list[float], mean: float) -> None:
    ring = Ring(length)
    assert [ring.push(value) for value in values][-1] == mean


def test_two_active_requests_and_a_target_of_one_are_two_replicas() -> None:
    scaler = KubeAi(target=1.0, window_seconds=1.0, interval_seconds=0.25, scale_down_delay_seconds=2.0)
    scaler.start(FROM_ZERO)
    wanted = [scaler.decide(a_view(0.25 * i, ready=1, in_service=2.0)) for i in range(4)]
    assert wanted == [1, 1, 2, 2]


def test_three_wishes_to_shrink_are_passed_over() -> None:
    patience = Patience(3)
    assert [patience.scale(5, 2) for _ in range(5)] == [5, 5, 5, 2, 2]


def test_a_wish_to_stay_begins_again() -> None:
    patience = Patience(3)
    assert [patience.scale(5, wanted) for wanted in (2, 2, 2, 5, 2)] == [5, 5, 5, 5, 5]


def test_a_surge_counts_fully_after_the_window() -> None:
    scaler = KubeAi()
    scaler.start(WORKLOAD)
    wanted = [scaler.decide(a_view(10.0 * i, ready=1, in_service=8.0, queued=52.0)) for i in range(60)]
    assert wanted[5] == 1
    assert wanted[-1] == 10  # 60 over a target of 6


def test_the_proxy_wakes_and_the_interval_keeps() -> None:
    scaler = KubeAi()
    scaler.start(FROM_ZERO)
    assert scaler.decide(a_view(0.0, ready=0)) == 0
    assert scaler.decide(a_view(3.0, ready=0, queued=1.0)) == 1
    assert scaler.decide(a_view(10.0, ready=0, loading=1, queued=1.0)) == 1
