"""AIBrix' port: the cases of its own tests.

vllm-project/aibrix @ e3e10f9e, pkg/controller/podautoscaler/algorithm/{apa,kpa}_test.go; @ 029a38b1 (with the
pending replica guard), pkg/controller/podautoscaler/autoscaler_test.go; by case name.
"""

import pytest

from e2e.bench.scaling.peers.aibrix import (
    Aibrix,
    Cooldown,
    Rates,
    Source,
    Strategy,
    Window,
    apa,
    guarded,
    kpa,
)
from tests.unit.e2e.scaling.views import WORKLOAD, a_view


@pytest.mark.parametrize(
    ("name", "current", "use", "target", "rates", "wanted"),
    [
        ("basic_scale_up", 2, 45.0, 30.0, Rates(), 3),
        ("scale_up_upto_ceiling", 2, 35.0, 30.0, Rates(), 3),
        ("scale_up_upto_max_scale_up", 2, 90.0, 30.0, Rates(), 4),
        ("scale_up_upto_max_scale_up_ceiling", 2, 90.0, 30.0, Rates(max_up=2.5), 5),
        ("basic_scale_down", 6, 20.0, 30.0, Rates(), 4),
        ("scale_down_upto_ceiling", 6, 18.0, 30.0, Rates(), 4),
        ("scale_down_upto_max_scale_down", 6, 10.0, 30.0, Rates(), 3),
        ("scale_down_upto_max_scale_down_floor", 6, 5.0, 30.0, Rates(max_down=2.5), 2),
        ("no_scaling_as_within_up_tolerance", 2, 33.0, 30.0, Rates(), 2),
        ("no_scaling_as_within_down_tolerance", 2, 27.0, 30.0, Rates(), 2),
        ("division_by_zero", 1, 10.0, 0.0, Rates(max_up=1000.0), 1),
    ],
)
def test_apa(name: str, current: int, use: float, target: float, rates: Rates, wanted: int) -> None:
    assert apa(current, use, target, rates) == wanted, name


EXACT = Rates(up_tolerance=0.0, down_tolerance=0.0)


@pytest.mark.parametrize(
    ("name", "current", "stable", "panic", "rates", "wanted"),
    [
        ("stable_mode_basic_scaling", 2, 20.0, 20.0, EXACT, 2),
        ("max_scale_up_rate_limit", 2, 100.0, 100.0, Rates(1.5, 2.0, 0.0, 0.0), 3),
        ("max_scale_down_rate_limit", 4, 5.0, 5.0, EXACT, 2),
        ("scale_to_zero", 1, 0.0, 0.0, EXACT, 0),
        ("panic: the larger window counts", 2, 15.0, 40.0, EXACT, 4),
    ],
)
def test_kpa(name: str, current: int, stable: float, panic: float, rates: Rates, wanted: int) -> None:
    assert kpa(current, stable, panic, 10.0, rates) == wanted, name


@pytest.mark.parametrize(
    ("name", "strategy", "value", "current", "ready", "wanted"),
    [
        ("kpa scale-up adjusted", Strategy.KPA, 250.0, 4, 2, 4),
        ("kpa scale-up dampened", Strategy.KPA, 350.0, 4, 3, 6),
        ("kpa scale-down adjusted", Strategy.KPA, 10.0, 10, 5, 6),
        ("apa scale-up adjusted", Strategy.APA, 90.0, 4, 2, 4),
        ("apa scale-down adjusted", Strategy.APA, 10.0, 4, 2, 3),
        ("no replicas pending", Strategy.APA, 90.0, 4, 4, 8),
    ],
)
def test_pending_replica_guard(
    name: str, strategy: Strategy, value: float, current: int, ready: int, wanted: int
) -> None:
    rates = Rates(max_up=4.0)
    if strategy is Strategy.APA:
        wish = apa(current, value, 50.0, rates)
    else:
        wish = kpa(current, value, value, 50.0, rates)
    assert guarded(strategy, wish, current, ready, value, 50.0) == wanted, name


def test_an_external_metric_is_not_guarded() -> None:
    scaler = Aibrix(
        strategy=Strategy.KPA, source=Source.IN_FLIGHT_TOTAL, target=50.0, rates=Rates(max_up=4.0)
    )
    scaler.start(WORKLOAD)
    assert scaler.decide(a_view(0.0, ready=2, loading=2, in_service=16.0, queued=334.0)) == 7


def test_windows() -> None:
    """ConfiguresMetricWindowsFromPodAutoscalerSpec: 10, then 70 a minute later, over 120 s and 30 s."""
    stable, panic = Window(120), Window(30)
    for window in (stable, panic):
        window.add(0.0, 10.0)
    assert (stable.add(60.0, 70.0), panic.add(60.0, 70.0)) == (40.0, 70.0)
    assert stable.add(120.0, 70.0) == 50.0  # a value as old as the window still counts
    assert stable.add(121.0, 70.0) == 70.0


def test_the_cooldown_takes_the_lowest_wish() -> None:
    cooldown = Cooldown()
    assert cooldown.stabilise(0.0, 3, 10) == 3
    assert cooldown.stabilise(10.0, 8, 10) == 3
    assert cooldown.stabilise(320.0, 8, 10) == 8
    assert cooldown.stabilise(330.0, 12, 10) == 12


def test_with_the_guard_a_load_is_not_compounded() -> None:
    def grown(*, guard: bool) -> int:
        scaler, spec = Aibrix(source=Source.IN_FLIGHT, guard=guard), 4
        scaler.start(WORKLOAD)
        for now in range(0, 300, 10):
            spec = scaler.decide(a_view(float(now), ready=4, loading=spec - 4, in_service=32.0, queued=8.0))
        return spec

    assert grown(guard=True) == 8
    assert grown(guard=False) == 200
