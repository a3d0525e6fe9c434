"""The oracles against brute force, and the clairvoyant's plan against the ordinary simulator."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from e2e.bench.scaling import oracle
from e2e.bench.scaling.measures import measured, regret
from e2e.bench.scaling.scaler import ClusterView
from e2e.bench.scaling.simulate import run
from e2e.bench.scaling.synthetic import synthetic
from e2e.bench.scaling.trace import Trace
from tests.unit.e2e.scaling.made import Told, a_setting, a_trace, nothing_jumped

BEFORE = 50
"""Everything begins this late, so that loads before it are billed in full."""


def least_cost(wanted: list[int], load: int) -> int:
    """Try every plan that has at least ``wanted[t]`` replicas in second t: seconds on, and a load for each that comes."""
    costs = {0: 0}
    for least in wanted:
        costs = {
            many: min(cost + max(0, many - before) * load for before, cost in costs.items()) + many
            for many in range(least, max(wanted) + 1)
        }
    return min(costs.values())


@pytest.mark.parametrize("seed", range(60))
def test_zero_wait_is_the_cheapest_of_all_plans(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slots, load = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    arrivals = np.sort(rng.integers(0, 25, int(rng.integers(1, 14)))).astype(float) + BEFORE
    services = rng.integers(1, 7, arrivals.size).astype(float)
    wanted = [
        math.ceil(int(((arrivals <= at) & (arrivals + services > at)).sum()) / slots)
        for at in range(BEFORE, 100)
    ]
    trace = a_trace(list(arrivals), list(services), end=200)
    setting = a_setting(load, slots=slots, min_replicas=0)
    assert oracle.zero_wait(trace, setting) == least_cost(wanted, load)


def test_a_gap_is_bridged_when_a_load_takes_longer() -> None:
    trace = a_trace([50, 70], 5.0, end=200)  # a gap of 15
    assert oracle.zero_wait(trace, a_setting(14, min_replicas=0)) == 14 + 5 + 14 + 5
    assert oracle.zero_wait(trace, a_setting(16, min_replicas=0)) == 16 + 5 + 15 + 5


def test_replicas_that_must_be_there_cost_all_the_time() -> None:
    trace = a_trace([50, 50], 5.0, end=200)
    assert oracle.zero_wait(trace, a_setting(10, min_replicas=1)) == 200 + 10 + 5


def test_only_the_scored_part_is_billed() -> None:
    trace = a_trace([50, 100], [10.0, 10.0], end=105, history=52)
    assert oracle.zero_wait(trace, a_setting(20, min_replicas=0)) == 8 + 20 + 5


@pytest.mark.parametrize("seed", range(20))
def test_bridging_fills_gaps_of_a_load_time_and_no_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted, load = rng.integers(0, 4, 40), int(rng.integers(1, 8))
    plan = oracle.bridged(wanted, load)
    for level, now in itertools.product((1, 2, 3), range(40)):
        before = [at for at in range(now) if wanted[at] >= level]
        after = [at for at in range(now + 1, 40) if wanted[at] >= level]
        bridged = bool(before and after) and after[0] - before[-1] - 1 <= load
        assert (plan[now] >= level) == (wanted[now] >= level or bridged), (level, now)


def test_occupancy_is_what_an_endless_number_of_slots_would_hold() -> None:
    demand = oracle.occupancy(a_trace([1.5, 1.7, 4.0], [2.0, 0.2, 3.5], end=10))
    assert list(demand) == [0, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_smoothing_keeps_the_mean_and_looks_both_ways() -> None:
    demand = np.array([0.0, 0, 0, 6, 0, 0, 0])
    assert list(oracle.smoothed(demand, 3)) == [0, 0, 2, 2, 2, 0, 0]
    assert oracle.smoothed(demand, 1) is demand


@pytest.mark.parametrize("name", ["step", "on-off"])
def test_the_clairvoyant_is_in_time_and_between_the_bounds(name: str) -> None:
    trace = short(synthetic(1)[name](), 6 * 3600, 20 * 3600)
    setting = a_setting(300, slots=8, min_replicas=0)
    bounds = oracle.bounds(trace, setting)
    assert bounds.attained >= oracle.GOAL
    assert bounds.work < bounds.clairvoyant < bounds.zero_wait * 1.05


def test_what_the_clairvoyant_did_an_ordinary_scaler_that_asks_in_time_would_do() -> None:
    load = 60
    trace = short(synthetic(2)["ramp"](), 11 * 3600, 12 * 3600)  # demand only grows
    setting = a_setting(load, slots=8)
    demand = np.maximum.accumulate(oracle.smoothed(oracle.occupancy(trace), 300))
    plan = oracle.kept_on(demand, setting)
    cost, attained = oracle.carried_out(trace, setting, plan)

    class InTime(Told):
        def decide(self, view: ClusterView) -> int:
            return int(plan[min(round(view.now) + load, plan.size - 1)])

    told = measured(trace, run(trace, setting, InTime({}, interval_seconds=1.0)), load, nothing_jumped(trace))
    assert told.attained == pytest.approx(attained, abs=2e-3)
    assert told.gpu_hours * 3600 == pytest.approx(cost, rel=0.01)


def test_the_clairvoyant_pays_for_its_loads() -> None:
    trace = a_trace([10, 60, 61, 62], 5.0, end=100)
    plan = np.array([1] * 60 + [2] * 40)
    cost, attained = oracle.carried_out(trace, a_setting(20), plan)
    assert cost == 100 + 20 + 40
    assert attained == 1


def test_what_comes_long_before_the_scored_part_changes_nothing() -> None:
    whole = short(synthetic(1)["step"](), 0, 20 * 3600)
    whole = replace(whole, history_seconds=11 * 3600.0)
    setting = a_setting(300, slots=8)
    cut = oracle.without_history(whole, 3900)
    assert cut.history_seconds == 3900
    assert (cut.scored.sum(), cut.services[cut.scored].sum()) == (
        whole.scored.sum(),
        whole.services[whole.scored].sum(),
    )
    plan = oracle.kept_on(oracle.smoothed(oracle.occupancy(whole), 60), setting)
    later = oracle.kept_on(oracle.smoothed(oracle.occupancy(cut), 60), setting)
    assert oracle.carried_out(cut, setting, later) == pytest.approx(
        oracle.carried_out(whole, setting, plan), rel=2e-3
    )


def test_the_work_bound_is_every_slot_busy() -> None:
    bounds = oracle.bounds(a_trace([100.0 + at for at in range(40)], 8.0, end=500), a_setting(30, slots=4))
    assert bounds.work == 40 * 8 / 4


def test_a_replica_that_is_asked_for_again_within_a_load_time_is_regretted() -> None:
    trace = a_trace([], end=1000, history=100)
    changes = ((0.0, 3), (120.0, 1), (150.0, 2), (400.0, 3), (500.0, 2), (561.0, 3))
    assert regret(changes, 60, trace) == 1
    assert regret(changes, 61, trace) == 2
    assert regret(changes, 300, trace) == 3
    assert regret(((0.0, 3), (50.0, 1), (60.0, 3)), 60, trace) == 0, "before what counts"


def test_what_is_measured_of_a_run() -> None:
    trace = a_trace([10, 100, 101, 102], [5.0, 20.0, 4.0, 4.0], end=180, history=50)
    told = Told({30: 2, 60: 1, 105: 3, 120: 2, 165: 1})
    found = measured(trace, run(trace, a_setting(40), told), 40, nothing_jumped(trace))
    assert found.requests == 3
    assert (found.attained_2s, found.attained, found.attained_30s) == (1 / 3, 1 / 3, 1)
    assert (found.wait_p50, found.lost) == (19, 0)
    assert (found.cold_starts, found.aborted, found.regret, found.peak) == (2, 2, 0, 3)
    assert found.gpu_hours * 3600 == pytest.approx(130 + 10 + 60 + 15)
    assert found.aborted_gpu_hours * 3600 == pytest.approx(10 + 15)
    assert found.aborted_share == pytest.approx(25 / 215)


def short(trace: Trace, begin: float, end: float) -> Trace:
    """Cut a part out."""
    inside = (trace.arrivals >= begin) & (trace.arrivals < end)
    return Trace(trace.name, trace.arrivals[inside] - begin, trace.services[inside], 1800.0, end - begin)
