"""Knative's port: the cases of its own tests.

knative.dev/serving v0.51.0, pkg/autoscaler/scaling/autoscaler_test.go and
pkg/autoscaler/aggregation/bucketing_test.go, by test name. Those tests grow and shrink by at most 10 times and
panic at twice, over a window of 60 s.
"""

from collections.abc import Sequence

import pytest

from e2e.bench.scaling.peers.kpa import Decider, Delay, Kpa, ToZero, Window
from tests.unit.e2e.scaling.views import FROM_ZERO, WORKLOAD, a_view

Call = tuple[float, int, float, float, int]
"""Seconds, ready pods, stable concurrency, panic concurrency, wanted pods."""


def a_decider(target: float, up: float = 10.0, down: float = 10.0, **state: float) -> Decider:
    decider = Decider(target, max_up_rate=up, max_down_rate=down)
    if state:
        decider.panics_since, decider.panic_pods = state["panics_since"], int(state["panic_pods"])
    return decider


@pytest.mark.parametrize(
    ("decider", "calls"),
    [
        (a_decider(10), [(0, 1, 0, 0, 0)]),
        (a_decider(181), [(0, 1, 21, 26, 1)]),
        (a_decider(10), [(0, 1, 50, 49, 5)]),
        (a_decider(10), [(0, 5, 50, 50, 5)]),
        (a_decider(1, panics_since=-5.0, panic_pods=5), [(0, 5, 50, 30, 50)]),
        (a_decider(1, panics_since=-5.0, panic_pods=5), [(0, 5, 20, 30, 30)]),
        (a_decider(1, up=1.1), [(0, 2, 3, 3.1, 3)]),
        (a_decider(10, down=1.1), [(0, 100, 1, 1, 90)]),
        (a_decider(10), [(0, 1, 50, 100, 10)]),
        (a_decider(10), [(0, 1, 50, 10, 5), (0, 1, 100, 10, 10)]),
        (a_decider(1), [(0, 10, 11, 25, 25), (30, 40, 30, 41, 41), (62, 55, 50, 56, 50)]),
        (a_decider(1), [(0, 10, 11, 25, 25), (30, 40, 30, 80, 80)]),
        (a_decider(10), [(0, 8, 100, 100, 10), (0, 8, 50, 50, 5)]),
        (a_decider(10), [(0, 1, 1, 0, 1), (0, 1, 0, 0, 0)]),
        (
            a_decider(1),
            [
                (0, 1, 6, 6, 6),
                (0, 6, 36, 36, 36),
                (1, 36, 216, 216, 216),
                (1, 216, 1296, 1296, 1296),
                (2, 1296, 1296, 1296, 1296),
            ],
        ),
        (
            a_decider(10),
            [(0, 1, 100, 100, 10), (0, 10, 100, 1000, 100), (30, 10, 1, 1, 100), (61, 10, 1, 1, 1)],
        ),
        (a_decider(10), [(0, 1, 1000, 1001, 10), (0, 10, 1000, 1001, 100)]),
        (a_decider(10), [(0, 100, 1, 1, 10), (0, 10, 1, 1, 1)]),
        (a_decider(10), [(0, 0, 1000, 888, 10)]),
    ],
    ids=[
        "NoDataAtZeroNoAutoscale",
        "StableModeUnlimitedTBC",
        "0TBC",
        "StableModeNoChangeAlreadyScaled",
        "PanicStableLargerThanPanic",
        "PanicStableLessThanPanic",
        "IncreaseWithSmallScaleUpRate",
        "DecreaseWithSmallScaleDownRate",
        "PanicModeDoublePodCount",
        "StableModeIncreaseWithConcurrencyDefault",
        "UnpanicAfterSlowIncrease",
        "ExtendPanicWindow",
        "StableModeDecrease",
        "StableModeNoTrafficScaleToZero",
        "PanicModeExponentialTrackAndStabilize",
        "PanicThenUnPanicScaleDown",
        "RateLimitScaleUp",
        "RateLimitScaleDown",
        "UseOnePodAsMinimumIfEndpointsNotFound",
    ],
)
def test_scale(decider: Decider, calls: Sequence[Call]) -> None:
    for now, ready, stable, panic, wanted in calls:
        assert decider.scale(now, ready, stable, panic) == wanted, (now, ready, stable, panic)


def test_activation_scale() -> None:
    decider = Decider(10.0, max_up_rate=10.0, max_down_rate=10.0, activation_scale=2)
    assert decider.scale(0.0, 1, 0.0, 0.0) == 0
    assert decider.scale(0.0, 1, 1.0, 0.0) == 2


def test_scale_down_delay() -> None:
    decider = Decider(10.0, panic_threshold=100.0, max_up_rate=10.0, max_down_rate=10.0, delay=Delay(150))
    calls = [(2, 40, 4), (300, 0, 4), (302, 0, 0)]
    calls += [(540, 40, 4), (600, 30, 4), (660, 0, 4), (840, 0, 3), (900, 0, 0)]
    for now, load, wanted in calls:
        assert decider.scale(float(now), 0, load, load) == wanted, now


def test_windows_average_over_what_they_have() -> None:
    window = Window(5)
    averages = []
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 91.0):
        window.fill(value, 1)
        averages.append(window.average())
    assert averages == [1.0, 1.5, 2.0, 2.5, 3.0, 21.0]


def test_to_zero_after_the_stable_window_and_the_grace_period() -> None:
    to_zero = ToZero(60.0, 30.0, 630.0)
    seen = [to_zero.scale(float(now), 1, 1, 0) for now in range(0, 93, 2)]
    assert seen == [1] * 45 + [0, 0]


def test_a_request_in_the_grace_period_begins_again() -> None:
    to_zero = ToZero(60.0, 30.0, 630.0)
    for now in range(0, 80, 2):
        to_zero.scale(float(now), 1, 1, 0)
    assert to_zero.scale(80.0, 1, 1, 1) == 1
    assert to_zero.scale(100.0, 1, 1, 0) == 1
    assert to_zero.scale(139.0, 1, 1, 0) == 1
    assert to_zero.scale(140.0, 1, 1, 0) == 1  # inactive from here
    assert to_zero.scale(170.0, 1, 1, 0) == 0


def test_what_does_not_become_ready_is_given_up() -> None:
    to_zero = ToZero(60.0, 30.0, 630.0)
    assert to_zero.scale(0.0, 1, 0, 1) == 1
    assert to_zero.scale(630.0, 1, 0, 0) == 1
    assert to_zero.scale(632.0, 1, 0, 0) == 0


def test_a_slow_load_keeps_it_in_panic() -> None:
    scaler = Kpa()
    scaler.start(WORKLOAD)
    for now in range(0, 120, 2):
        scaler.decide(a_view(float(now), ready=1, in_service=5.0))
    queued, spec = 0.0, 1
    for now in range(120, 720, 2):
        queued += 1.0
        spec = scaler.decide(a_view(float(now), ready=1, loading=spec - 1, in_service=8.0, queued=queued))
    high = spec
    assert high > 50
    for now in range(720, 770, 2):
        assert scaler.decide(a_view(float(now), ready=1, loading=high - 1, in_service=8.0)) == high


def test_it_wakes_at_once() -> None:
    scaler = Kpa()
    scaler.start(FROM_ZERO)
    assert scaler.wakes_at_once
    assert scaler.decide(a_view(0.0, ready=0)) == 0
    assert scaler.decide(a_view(0.7, ready=0, queued=1.0)) == 1


def test_an_autoscaler_that_begins_keeps_what_is_there() -> None:
    scaler = Kpa()
    scaler.start(WORKLOAD)
    assert scaler.decide(a_view(0.0, ready=7, in_service=3.0)) == 7
