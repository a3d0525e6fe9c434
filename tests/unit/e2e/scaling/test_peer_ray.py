"""Ray Serve's port: the cases of its own tests.

ray-project/ray @ 01624ad4, python/ray/serve/tests/unit/test_autoscaling_policy.py, by test name.
"""

import pytest

from e2e.bench.scaling.peers.ray import Delay, RayServe, from_zero, stretched
from tests.unit.e2e.scaling.views import FROM_ZERO, WORKLOAD, a_view


@pytest.mark.parametrize(("factor", "wanted"), [(10.0, 10), (0.5, 1)])
def test_scaling_factor_scale_up_from_0_replicas(factor: float, wanted: int) -> None:
    assert from_zero(1.0, 0, factor) == wanted


def test_scaling_factor_scale_down_to_0_replicas() -> None:
    now = Delay(0.0, 0.0)
    # A factor of 10 goes far below zero: held at the bound of 0, and from 5 it stops at 1.
    assert now.decide(0.0, max(0, stretched(0.0, 5, 1.0, 10.0)), 5) == 1
    assert now.decide(0.1, max(0, stretched(0.0, 1, 1.0, 10.0)), 1) == 0
    replicas = 5
    for i in range(5):
        replicas = now.decide(float(i), max(0, stretched(0.0, replicas, 1.0, 0.2)), replicas)
    assert replicas == 0


@pytest.mark.parametrize("to_zero", [None, 300.0])
def test_upscale_downscale_delay(to_zero: float | None) -> None:
    delay = Delay(30.0, 600.0, to_zero)
    zero = 600.0 if to_zero is None else to_zero
    assert [delay.decide(at, 2, 1) for at in (0.0, 29.9, 30.0)] == [1, 1, 2]
    assert [delay.decide(at, 0, 2) for at in (31.0, 630.9, 631.0)] == [2, 2, 1]
    assert [delay.decide(700.0 + at, 0, 1) for at in (0.0, zero - 0.1, zero)] == [1, 1, 0]
    # A wish in the other direction begins both anew.
    assert [
        delay.decide(at, wish, 1) for at, wish in ((2000.0, 2), (2015.0, 0), (2016.0, 2), (2045.0, 2))
    ] == [1] * 4
    assert delay.decide(2046.0, 2, 1) == 2


def test_replicas_delayed_startup() -> None:
    delay = Delay(0.0, 100_000.0)
    calls = [(100, 1, 1, 100), (100, 1, 100, 100), (123, 3, 100, 123), (10, 4, 123, 123)]
    for i, (requests, running, target, wanted) in enumerate(calls):
        desired = max(1, stretched(float(requests), running, 1.0, 1.0))
        assert delay.decide(float(i), desired, target) == wanted


@pytest.mark.parametrize(("delay_s", "wanted"), [(30.0, [1, 2]), (0.0, [2, 1])])
def test_fluctuating_ongoing_requests(delay_s: float, wanted: list[int]) -> None:
    delay = Delay(delay_s, delay_s)
    for trial in range(50):
        requests, replicas = ((100, 1), (40, 2))[trial % 2]
        desired = stretched(requests / 50, replicas, 1.0, 1.0)
        assert delay.decide(0.1 * trial, desired, replicas) == wanted[trial % 2]


@pytest.mark.parametrize("requests", [20, 100, 10])
def test_single_replica_receives_all_requests(requests: int) -> None:
    delay = Delay(0.0, 0.0)
    assert delay.decide(0.0, stretched(requests / 5, 4, 1.0, 1.0), 4) == requests / 5


def test_it_averages_thirty_seconds() -> None:
    scaler = RayServe(up_delay_seconds=0.0)
    scaler.start(WORKLOAD)
    loads = [5.6, 5.6, 5.6, 22.4, 22.4, 22.4]
    wanted = [scaler.decide(a_view(10.0 * i, ready=1, in_service=load)) for i, load in enumerate(loads)]
    assert wanted == [1, 1, 1, 2, 3, 4]


def test_it_wakes_at_once_and_asks_for_no_more_while_none_runs() -> None:
    scaler = RayServe()
    scaler.start(FROM_ZERO)
    assert scaler.decide(a_view(0.0, ready=0, queued=1.0)) == 1
    assert scaler.decide(a_view(10.0, ready=0, loading=1, queued=90.0)) == 1
