"""The workload-variant-autoscaler's port: the cases of its own tests.

llm-d/llm-d-workload-variant-autoscaler @ b08b1c77, internal/saturation/analyzer_test.go, by test name; variants
are one here.
"""

import pytest

from e2e.bench.scaling.peers import wva
from e2e.bench.scaling.peers.wva import Analysis, Thresholds, Wva, analyse, target
from tests.unit.e2e.scaling.views import FROM_ZERO, WORKLOAD, a_view

STILL = Analysis(2, grow=False, may_shrink=False)
GROW = Analysis(2, grow=True, may_shrink=False)
SHRINK = Analysis(2, grow=False, may_shrink=True)


@pytest.mark.parametrize(
    ("name", "replicas", "grow"),
    [
        ("low KV spare", [(0.75, 2), (0.76, 2)], True),
        ("low queue spare", [(0.5, 3), (0.5, 3)], True),
        ("healthy", [(0.5, 1), (0.5, 1)], False),
        ("EmptyMetrics", [], False),
        ("AllSaturated", [(0.85, 2), (0.5, 6), (0.9, 7)], True),
    ],
)
def test_scale_up(name: str, replicas: list[tuple[float, float]], *, grow: bool) -> None:
    assert analyse(replicas, Thresholds()).grow is grow, name


@pytest.mark.parametrize(
    ("name", "replicas", "safe"),
    [
        ("adequate headroom", [(0.2, 1), (0.3, 1), (0.25, 1)], True),
        ("insufficient headroom", [(0.7, 2), (0.75, 2)], False),
        ("enough now, too little with one fewer", [(0.5, 1), (0.5, 1)], False),
        ("only one non-saturated replica", [(0.5, 2)], False),
        ("EmptyMetrics", [], False),
        ("AllSaturated", [(0.85, 2), (0.5, 6), (0.9, 7)], False),
    ],
)
def test_scale_down_safety(name: str, replicas: list[tuple[float, float]], *, safe: bool) -> None:
    assert analyse(replicas, Thresholds()).may_shrink is safe, name


@pytest.mark.parametrize(
    ("name", "analysis", "reporting", "current", "desired", "pending", "wanted"),
    [
        ("ScaleUpCheapest", GROW, 2, 2, 0, 0, 3),
        ("ScaleDownMostExpensive", SHRINK, 2, 2, 0, 0, 1),
        ("ModelLevelTransitionBlocking", GROW, 2, 2, 4, 0, 4),
        ("MetricsMismatchBlocksScaling", GROW, 2, 3, 0, 1, 3),
        ("nothing to do", STILL, 2, 2, 2, 0, 2),
        ("never below one", SHRINK, 1, 1, 1, 0, 1),
    ],
)
def test_targets(
    name: str, analysis: Analysis, reporting: int, current: int, desired: int, pending: int, wanted: int
) -> None:
    assert target(analysis, reporting, current, desired, pending) == wanted, name


def run(scaler: Wva, replicas: int, seconds: int) -> int:
    """Everything is saturated; a load takes longer than the run."""
    scaler.start(WORKLOAD)
    spec = replicas
    for now in range(0, seconds, 15):
        busy = a_view(
            float(now), ready=replicas, loading=spec - replicas, in_service=8.0 * replicas, queued=90.0
        )
        spec = scaler.decide(busy)
    return spec


def test_one_replica_a_load_after_the_hpa_has_waited() -> None:
    assert run(Wva(), 3, 240) == 3
    assert run(Wva(), 3, 3600) == 4


def test_the_hpa_of_the_chart_swallows_the_eleventh() -> None:
    assert run(Wva(behavior=wva.CHART), 9, 3600) == 10
    assert run(Wva(behavior=wva.CHART), 10, 3600) == 10
    assert run(Wva(), 10, 3600) == 11


def test_the_hpa_of_the_chart_does_not_leave_ten() -> None:
    def idle(scaler: Wva) -> int:
        scaler.start(WORKLOAD)
        spec = 10
        for now in range(0, 3600, 15):
            spec = scaler.decide(a_view(float(now), ready=spec, in_service=1.0))
        return spec

    assert idle(Wva(behavior=wva.CHART)) == 10
    assert idle(Wva()) < 5


def test_to_zero_after_ten_minutes_without_a_request_and_back() -> None:
    scaler = Wva()
    scaler.start(FROM_ZERO)
    spec, at_zero = 1, 0.0
    for now in range(0, 900, 15):
        spec = scaler.decide(a_view(float(now), ready=spec))
        if spec == 0:
            at_zero = float(now)
            break
    assert at_zero == 600.0
    assert scaler.decide(a_view(630.0, ready=0, queued=1.0)) == 1
