"""The simulator against cases worked out by hand, against queueing theory, and against its own books."""

import math
from itertools import pairwise

import numpy as np
import pytest

from e2e.bench.scaling import kernel
from e2e.bench.scaling.measures import gpu_seconds, measured
from e2e.bench.scaling.simulate import Run, run
from e2e.bench.scaling.trace import Trace
from tests.unit.e2e.scaling.made import Told, Wild, a_setting, a_trace, erlang_c, nothing_jumped

ASKED, STARTED, READY, REMOVED, ENDED = range(5)
NEVER = math.inf


def lives(result: Run) -> list[list[float]]:
    return [[float(value) for value in row] for row in result.lives]


def test_one_slot_serves_one_after_the_other() -> None:
    assert list(run(a_trace([0, 1, 2]), a_setting(), Told({})).waits) == [0, 4, 8]


def test_two_slots_serve_two_at_once() -> None:
    assert list(run(a_trace([0, 1, 2, 3]), a_setting(slots=2), Told({})).waits) == [0, 0, 3, 3]


def test_clients_give_up_when_their_patience_is_over() -> None:
    trace = a_trace([0, 10, 75], [100.0, 5.0, 5.0])
    assert list(run(trace, a_setting(patience_seconds=30), Told({})).waits) == [0, NEVER, 25]


def test_a_client_waits_for_all_of_its_patience() -> None:
    assert list(run(a_trace([0, 70], [100.0, 5.0]), a_setting(patience_seconds=30), Told({})).waits) == [
        0,
        30,
    ]


def test_with_infinite_patience_everybody_is_served_or_still_waits() -> None:
    trace = a_trace([0, 1, 2], [600.0, 5.0, 500.0], end=602)
    result = run(trace, a_setting(patience_seconds=math.inf, max_replicas=1), Told({}))
    assert list(result.waits) == [0, 599, -1]
    assert measured(trace, result, 60, nothing_jumped(trace)).attained == pytest.approx(1 / 3)


def test_a_replica_serves_when_its_load_is_over() -> None:
    result = run(a_trace([20, 21, 22], 100.0), a_setting(), Told({15: 2}))
    assert list(result.waits) == [0, 54, 98]
    assert lives(result) == [[0, 0, 0, NEVER, NEVER], [15, 15, 75, NEVER, NEVER]]
    assert result.changes == ((0, 1), (15, 2))


def test_the_least_busy_replica_takes_a_request() -> None:
    told = Told({0: 2, 90: 1}, prefers_idle=True)
    result = run(a_trace([80, 81], 100.0), a_setting(slots=2), told)
    assert lives(result)[1] == [15, 15, 75, 90, 180]  # it had one of the two and drained


def test_a_draining_replica_takes_nothing_new() -> None:
    told = Told({15: 2, 90: 1})
    result = run(a_trace([76, 77, 95], [20.0, 60.0, 10.0]), a_setting(), told)
    assert lives(result)[1] == [15, 15, 75, 90, 96]
    assert result.waits[2] == 137 - 95


def test_loading_replicas_go_first_and_of_them_the_youngest() -> None:
    result = run(a_trace([]), a_setting(), Told({15: 2, 30: 3, 45: 2, 60: 1}))
    assert [row[REMOVED] for row in lives(result)] == [NEVER, 60, 45]
    assert [row[ENDED] for row in lives(result)] == [NEVER, 60, 45]


def test_of_ready_replicas_the_youngest_goes() -> None:
    result = run(a_trace([]), a_setting(), Told({15: 2, 30: 3, 120: 2, 135: 1}))
    assert [row[REMOVED] for row in lives(result)] == [NEVER, 135, 120]


@pytest.mark.parametrize(("prefers_idle", "gone"), [(True, 0), (False, 1)])
def test_deletion_costs_take_the_idlest(prefers_idle: bool, gone: int) -> None:
    told = Told({15: 2, 90: 1}, prefers_idle=prefers_idle)
    result = run(
        a_trace([60, 80], [25.0, 50.0]), a_setting(), told
    )  # at 90 the first is idle, the second busy
    assert [row[REMOVED] == 90 for row in lives(result)] == [gone == 0, gone == 1]


def test_without_a_gpu_a_replica_waits_and_is_not_billed() -> None:
    trace = a_trace([], gpus=((0, 2), (100, 3)), end=200)
    told = Told({15: 3})
    result = run(trace, a_setting(), told)
    assert lives(result)[2] == [15, 105, 165, NEVER, NEVER]
    assert gpu_seconds(result.lives[:, STARTED], result.lives[:, ENDED], trace) == 200 + 185 + 95
    before, after = told.views[2], told.views[7]
    assert (before.now, list(before.eta_seconds), before.available) == (45, [30, NEVER], 2)
    assert (after.now, list(after.eta_seconds), after.available) == (120, [45], 3)


def test_what_waits_for_a_gpu_goes_before_what_loads() -> None:
    result = run(a_trace([], gpus=((0, 2),)), a_setting(), Told({15: 3, 30: 2, 45: 1}))
    assert [row[REMOVED] for row in lives(result)] == [NEVER, 45, 30]
    assert lives(result)[2][STARTED] == NEVER


def test_a_drained_replica_gives_its_gpu_to_the_next() -> None:
    trace = a_trace([10], 50.0, gpus=((0, 1),))
    result = run(trace, a_setting(min_replicas=0), Told({15: 0, 30: 1}))
    assert lives(result) == [[0, 0, 0, 15, 60], [30, 60, 120, NEVER, NEVER]]


def test_a_scrape_is_seen_late_and_counts_once() -> None:
    told = Told({}, interval_seconds=10.0)
    run(a_trace([1, 2, 14, 16, 31], 4.0, end=70), a_setting(slots=8), told)
    seen = {view.now: view for view in told.views}
    assert [seen[now].scraped_seconds_ago for now in (10, 20, 30, 40, 50)] == [10, 20, 15, 25, 20]
    assert [seen[now].arrivals for now in (10, 20, 30, 40, 50)] == [0, 0, 3, 0, 1]
    assert [seen[now].window_seconds for now in (10, 20, 30, 40, 50)] == [0, 0, 15, 0, 15]
    assert (seen[30].in_service, seen[30].service_seconds, seen[20].service_seconds) == (1, 4, None)
    assert [pod.in_service for pod in seen[30].pods] == [1]


def test_replicas_are_seen_as_they_are_now() -> None:
    told = Told({15: 2})
    run(a_trace([]), a_setting(load=40), told)
    at_45, at_60 = told.views[2], told.views[3]
    assert [(pod.ready, pod.age_seconds) for pod in at_45.pods] == [(True, 45), (False, 30)]
    assert list(at_45.eta_seconds) == [10]
    assert [pod.ready for pod in at_60.pods] == [True, True]
    assert list(at_60.eta_seconds) == []


@pytest.mark.parametrize(("wakes", "asked"), [(True, 32), (False, 45)])
def test_the_first_request_wakes_what_sleeps(wakes: bool, asked: float) -> None:
    class Waking(Told):
        def decide(self, view):  # type: ignore[no-untyped-def]
            super().decide(view)
            return 1 if view.queued else 0

    told = Waking({}, wakes_at_once=wakes)
    result = run(a_trace([32], 5.0), a_setting(min_replicas=0), told)
    assert lives(result)[1][ASKED] == asked
    assert result.waits[0] == asked + 60 - 32


def test_what_a_scaler_wants_is_kept_within_bounds() -> None:
    result = run(a_trace([]), a_setting(min_replicas=2, max_replicas=4), Told({15: 0, 30: 9}))
    assert result.changes == ((0, 2), (30, 4))


def test_every_scaler_has_the_same_load_times() -> None:
    setting = a_setting(load=100, sigma=0.3)
    early = run(a_trace([]), setting, Told({15: 4})).lives
    late = run(a_trace([]), setting, Told({300: 2, 345: 9})).lives
    loads = [rows[1:4, READY] - rows[1:4, STARTED] for rows in (early, late)]
    assert loads[0] == pytest.approx(loads[1])
    assert len({round(float(load), 3) for load in loads[0]}) == 3


def test_load_times_have_the_median_that_was_asked_for_and_failures_come_on_top() -> None:
    told = {15.0: 200}
    smooth = run(a_trace([], end=5000), a_setting(load=300, sigma=0.1), Told(told)).lives
    failing = run(a_trace([], end=5000), a_setting(load=300, sigma=0.1, fail=0.5), Told(told)).lives
    loads, longer = (rows[1:, READY] - rows[1:, STARTED] for rows in (smooth, failing))
    assert np.median(loads) == pytest.approx(300, rel=0.03)
    assert np.std(np.log(loads)) == pytest.approx(0.1, rel=0.15)
    assert np.mean(longer) == pytest.approx(600, rel=0.2)


def test_a_run_can_be_repeated() -> None:
    trace = poisson(2.0, 500, 1)
    first, second = (run(trace, a_setting(sigma=0.2), Wild(3, 6)) for _ in range(2))
    assert np.array_equal(first.waits, second.waits)
    assert np.array_equal(first.lives, second.lives)


@pytest.mark.parametrize("seed", range(6))
def test_the_books_are_balanced(seed: int) -> None:
    trace = poisson(1.5, 900, seed)
    slots = 1 + seed % 3
    setting = a_setting(
        load=20, slots=slots, sigma=0.3, min_replicas=0, max_replicas=8, patience_seconds=25.0
    )
    wild = Wild(seed, 8, prefers_idle=seed % 2 == 0)
    result = run(trace, setting, wild)
    waits, rows = result.waits, result.lives
    assert (waits >= 0).all(), "every client had a slot or gave up"
    served = np.isfinite(waits)
    assert 0 < served.sum() < waits.size
    assert (waits[served] <= 25).all()
    starts = trace.arrivals[served] + waits[served]
    assert (np.diff(starts) >= 0).all(), "first come, first served"
    assert wild.seen == (trace.arrivals <= 900 + 25 - 15).sum() or wild.seen == waits.size
    ends = starts + trace.services[served]
    for at in [*starts, *rows[:, READY][np.isfinite(rows[:, READY])]]:
        busy = int(((starts <= at) & (ends > at)).sum())
        serving = int(((rows[:, READY] <= at) & (rows[:, ENDED] > at)).sum())
        assert busy <= slots * serving, "a request without a slot"
    assert ((rows[:, ENDED] >= rows[:, REMOVED]) | np.isinf(rows[:, ENDED])).all()
    told = [many for _, many in result.changes]
    steps = dict(result.changes)
    for at, many in steps.items():
        there = int(((rows[:, ASKED] <= at) & (rows[:, REMOVED] > at)).sum())
        assert there == many, "as many replicas as spec.replicas says"
    assert max(told) <= 8


@pytest.mark.parametrize("seed", range(3))
def test_gpu_seconds_are_the_sum_of_lifetimes(seed: int) -> None:
    trace = poisson(1.5, 900, seed, history=300)
    result = run(trace, a_setting(load=20, sigma=0.3, min_replicas=0, max_replicas=8), Wild(seed, 8))
    rows = result.lives
    moments = np.arange(300, 900, 0.05) + 0.025
    alive = [((rows[:, STARTED] <= at) & (rows[:, ENDED] > at)).sum() for at in moments]
    assert measured(trace, result, 20, nothing_jumped(trace)).gpu_hours * 3600 == pytest.approx(
        sum(alive) * 0.05, rel=1e-3
    )


@pytest.mark.parametrize(("replicas", "slots", "busy"), [(1, 1, 0.6), (2, 4, 0.8), (3, 8, 0.9)])
def test_waits_are_those_of_queueing_theory(replicas: int, slots: int, busy: float) -> None:
    rng = np.random.default_rng(5)
    many, servers = 400_000, replicas * slots
    arrivals = np.cumsum(rng.exponential(1 / (busy * servers), many))
    trace = Trace("M/M/c", arrivals, rng.exponential(1.0, many), 0.0, float(arrivals[-1]))
    setting = a_setting(slots=slots, min_replicas=replicas, max_replicas=replicas, patience_seconds=math.inf)
    waits = run(trace, setting, Told({}, interval_seconds=1e4)).waits
    waits = waits[waits >= 0]
    waiting = erlang_c(servers, busy * servers)
    assert (waits > 0).mean() == pytest.approx(waiting, rel=0.05)
    assert waits.mean() == pytest.approx(waiting / (servers * (1 - busy)), rel=0.08)


def test_waits_of_constant_service_are_those_of_pollaczek_and_khinchine() -> None:
    rng = np.random.default_rng(6)
    arrivals = np.cumsum(rng.exponential(1 / 0.7, 300_000))
    trace = Trace("M/D/1", arrivals, np.ones(arrivals.size), 0.0, float(arrivals[-1]))
    waits = run(
        trace, a_setting(patience_seconds=math.inf, max_replicas=1), Told({}, interval_seconds=1e4)
    ).waits
    assert waits.mean() == pytest.approx(0.7 / (2 * 0.3), rel=0.04)


def test_one_who_never_stops_draining_is_named() -> None:
    trace = a_trace([float(at) for at in range(4000)], 1e5, end=4000)
    told = Told({float(at): 60 if at % 90 else 0 for at in range(15, 4000, 15)})
    with pytest.raises(RuntimeError, match="told drains more than"):
        run(trace, a_setting(load=1, min_replicas=0, patience_seconds=math.inf), told)


def poisson(rate: float, end: float, seed: int, history: float = 0.0) -> Trace:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, round(rate * end * 2)))
    arrivals = arrivals[arrivals < end]
    return Trace("poisson", arrivals, rng.gamma(2.0, 2.0, arrivals.size), history, end)


def test_columns_are_what_the_tests_think() -> None:
    assert (kernel.ASKED, kernel.STARTED, kernel.READY_AT, kernel.REMOVED, kernel.ENDED) == (0, 1, 2, 3, 4)
    assert list(pairwise([1, 2])) == [(1, 2)]
