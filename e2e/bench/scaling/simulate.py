"""Run one trace past one scaler, as it would see it: metrics every 15 s, 15 s old, loads that take their time."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from e2e.bench.scaling import kernel
from e2e.bench.scaling.scaler import ClusterView, PodView, Scaler, Workload
from e2e.bench.scaling.trace import Floats, Trace

T = TypeVar("T")

P90 = 1.2815515655446004
"""The 90 % quantile of a normal law."""
UNLIMITED = 1 << 40
DRAWS = 4096
"""Load times are drawn in pieces of this size: a longer run sees the same ones first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for every scaler of a cell."""

    load_seconds: float
    """The median."""
    slots: int = 8
    load_sigma: float = 0.1
    """Of the logarithm."""
    fail: float = 0.0
    """The probability that a load fails at its end and begins anew."""
    patience_seconds: float = 300.0
    scrape_seconds: float = 15.0
    delay_seconds: float = 15.0
    """A scrape is seen this long after it was made."""
    min_replicas: int = 1
    max_replicas: int = 200
    seed: int = 1

    @property
    def workload(self) -> Workload:
        """What a scaler is told."""
        p90 = self.load_seconds * math.exp(P90 * self.load_sigma)
        return Workload(self.slots, self.load_seconds, p90, self.min_replicas, self.max_replicas)


@dataclass(frozen=True, slots=True)
class Run:
    """What happened: for each request, for each replica, for each change of spec.replicas."""

    waits: Floats
    """Seconds until each request got a slot; infinite for one that gave up, -1 for one that still waits."""
    lives: Floats
    """A row for each replica: asked, started, ready, removed, ended; infinite for what never came."""
    changes: tuple[tuple[float, int], ...]
    """When spec.replicas became what."""
    decisions: int
    decision_seconds: float


class Snapshot(NamedTuple):
    """A scrape: totals since the start, gauges, and how busy each replica (its row) was."""

    at: float
    arrivals: int
    done: int
    done_seconds: float
    in_service: int
    queued: int
    busy: NDArray[np.int64]


def run(trace: Trace, setting: Setting, scaler: Scaler) -> Run:
    """Run a scaler through a whole trace, and on until the last client had a slot or gave up."""
    return Simulation(trace, setting, scaler).run()


class Simulation:
    """One run: the clock, and what the scaler has seen of it."""

    def __init__(self, trace: Trace, setting: Setting, scaler: Scaler) -> None:
        self.trace, self.setting, self.scaler = trace, setting, scaler
        self.draws = load_draws(setting)
        self.state = blank(trace, setting.slots, setting.max_replicas)
        self.state = self.state._replace(draws=next(self.draws))
        self.spec = initial_replicas(trace, setting)
        self.changes: list[tuple[float, int]] = [(0.0, self.spec)]
        self.snapshots: deque[Snapshot] = deque([self.snapshot(0.0)])
        self.seen = self.snapshots[0]
        self.decisions, self.decision_ns = 0, 0

    def run(self) -> Run:
        """Let time pass from scrape to decision to scrape."""
        setting, scaler = self.setting, self.scaler
        scaler.start(setting.workload)
        ready_at_once = self.state._replace(draws=np.zeros(setting.max_replicas))
        kernel.set_replicas(ready_at_once, self.spec, False)
        kernel.give_gpus(ready_at_once)
        wakes, idlest = getattr(scaler, "wakes_at_once", False), getattr(scaler, "prefers_idle", False)
        patience = setting.patience_seconds
        end = self.trace.end_seconds + (patience + 1 if math.isfinite(patience) else 0.0)
        scrapes, decides = 1, 1
        while True:
            scrape, decide = scrapes * setting.scrape_seconds, decides * scaler.interval_seconds
            until = min(scrape, decide, end)
            woken = kernel.advance(self.state, until, setting.slots, patience, wakes and self.spec == 0)
            now = float(self.state.clocks[kernel.NOW])
            if woken:
                self.decide(now, idlest)
                continue
            if until == end:
                return self.result()
            if until == scrape:
                self.snapshots.append(self.snapshot(now))
                scrapes += 1
            if until == decide:
                self.decide(now, idlest)
                decides += 1
            else:
                self.give_gpus(now)

    def decide(self, now: float, idlest: bool) -> None:
        """Ask the scaler, and do what it says within the bounds."""
        view = self.view(now)
        began = time.thread_time_ns()
        wanted = self.scaler.decide(view)
        self.decision_ns += time.thread_time_ns() - began
        self.decisions += 1
        wanted = min(max(int(wanted), self.setting.min_replicas), self.setting.max_replicas)
        if wanted != self.spec:
            self.spec = wanted
            self.changes.append((now, wanted))
            self.make_room()
            kernel.set_replicas(self.state, wanted, idlest)
        self.give_gpus(now)

    def view(self, now: float) -> ClusterView:
        """Return what the scaler sees now."""
        snapshots, counts = self.snapshots, self.state.counts
        while len(snapshots) > 1 and snapshots[1].at <= now - self.setting.delay_seconds:
            snapshots.popleft()
        last, seen = snapshots[0], self.seen
        self.seen = last
        ended = last.done - seen.done
        coming = int(counts[kernel.PENDINGS] + counts[kernel.LOADINGS])
        current = coming + int(counts[kernel.READIES])
        return ClusterView(
            now=now,
            spec=self.spec,
            pods=Lazy(current, lambda: self.pods(last, now)),
            in_service=float(last.in_service),
            queued=float(
                last.queued if counts[kernel.READIES] else counts[kernel.NEXT] - counts[kernel.HEAD]
            ),
            arrivals=float(last.arrivals - seen.arrivals),
            service_seconds=(last.done_seconds - seen.done_seconds) / ended if ended else None,
            scraped_seconds_ago=now - last.at,
            window_seconds=last.at - seen.at,
            eta_seconds=Lazy(coming, lambda: self.etas(now)),
            available=self.trace.available(now),
        )

    def snapshot(self, now: float) -> Snapshot:
        """Scrape everything."""
        state, counts = self.state, self.state.counts
        return Snapshot(
            now,
            int(counts[kernel.NEXT]),
            int(counts[kernel.DONE]),
            float(state.clocks[kernel.DONE_SERVICE]),
            int(counts[kernel.SERVING]),
            int(counts[kernel.NEXT] - counts[kernel.HEAD]),
            state.pods[state.alive[: counts[kernel.ALIVE]]],
        )

    def pods(self, last: Snapshot, now: float) -> list[PodView]:
        """Return the replicas, oldest first."""
        state = self.state
        busy = {row: many for kind, many, _, row in last.busy.tolist() if kind == kernel.READY}
        kinds = {row: kind for kind, _, _, row in self.alive() if kind != kernel.DRAINING}
        rows = sorted(kinds)
        return [
            PodView(kinds[row] == kernel.READY, now - asked, float(busy.get(row, 0)), 0.0)
            for row, asked in zip(rows, state.log[rows, kernel.ASKED].tolist(), strict=True)
        ]

    def etas(self, now: float) -> list[float]:
        """Return when each replica on its way is expected to be ready, oldest first."""
        rows = sorted(row for kind, _, _, row in self.alive() if kind in {kernel.PENDING, kernel.LOADING})
        return [
            max(self.setting.load_seconds - (now - started), 0.0) if math.isfinite(started) else math.inf
            for started in self.state.log[rows, kernel.STARTED].tolist()
        ]

    def alive(self) -> list[list[int]]:
        """Return kind, busy slots, place and row of all replicas."""
        state = self.state
        alive: list[list[int]] = state.pods[state.alive[: state.counts[kernel.ALIVE]]].tolist()
        return alive

    def give_gpus(self, now: float) -> None:
        """Start the loads of those that wait for a GPU, as far as there are GPUs now."""
        if self.state.counts[kernel.PENDINGS]:
            available = self.trace.available(now)
            self.state.counts[kernel.MOST] = UNLIMITED if available is None else available
            kernel.give_gpus(self.state)

    def make_room(self) -> None:
        """Grow what holds the replicas' lives before the next ones are asked for."""
        state, most = self.state, self.setting.max_replicas
        if state.counts[kernel.ALIVE] + most > state.spare.size:
            raise RuntimeError(
                f"{self.scaler.name} drains more than {state.spare.size - most} replicas at once"
            )
        rows = int(state.counts[kernel.ROWS]) + most
        if rows > state.log.shape[0]:
            state = state._replace(log=np.concatenate([state.log, np.full_like(state.log, np.inf)]))
        while rows > state.draws.size:
            state = state._replace(draws=np.concatenate([state.draws, next(self.draws)]))
        self.state = state

    def result(self) -> Run:
        """Return what happened."""
        state = self.state
        lives = state.log[: state.counts[kernel.ROWS]].copy()
        return Run(state.waits, lives, tuple(self.changes), self.decisions, self.decision_ns / 1e9)


class Lazy(Sequence[T]):
    """Things that are made when somebody looks; how many there are is known before."""

    def __init__(self, many: int, make: Callable[[], list[T]]) -> None:
        self.many, self.make = many, make
        self.made: list[T] | None = None

    @override
    def __len__(self) -> int:
        return self.many

    @override
    def __iter__(self) -> Iterator[T]:
        return iter(self.all())

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    @override
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self.all()[index]

    def all(self) -> list[T]:
        """Make them, once."""
        if self.made is None:
            self.made = self.make() if self.many else []
        return self.made


def blank(trace: Trace, slots: int, max_replicas: int) -> kernel.State:
    """Return the state before anything happened."""
    most = max(1024, 4 * max_replicas)
    counts = np.zeros(13, dtype=np.int64)
    counts[kernel.MOST] = UNLIMITED
    clocks = np.zeros(3)
    clocks[kernel.NEXT_READY] = np.inf
    return kernel.State(
        arrivals=trace.arrivals,
        services=trace.services,
        waits=np.full(trace.arrivals.size, kernel.UNRESOLVED),
        servers=np.zeros(trace.arrivals.size, dtype=np.int16),
        draws=np.zeros(1),
        log=np.full((DRAWS, 5), np.inf),
        pods=np.zeros((most, 4), dtype=np.int64),
        alive=np.zeros(most, dtype=np.int64),
        spare=np.arange(most),
        by_busy=np.zeros((slots + 1, most), dtype=np.int64),
        how_many=np.zeros(slots + 1, dtype=np.int64),
        ends=np.zeros(slots * most),
        enders=np.zeros(slots * most, dtype=np.int64),
        counts=counts,
        clocks=clocks,
    )


def load_draws(setting: Setting) -> Iterator[Floats]:
    """Draw load times, the same for every scaler: the n-th replica that is asked for takes as long in every run."""
    rng = np.random.default_rng([setting.seed, round(setting.load_seconds * 1000)])
    while True:
        attempts = rng.geometric(1 - setting.fail, DRAWS)
        loads = np.exp(setting.load_sigma * rng.standard_normal((DRAWS, 8))) * setting.load_seconds
        yield np.where(np.arange(8) < attempts[:, None], loads, 0.0).sum(axis=1)


def initial_replicas(trace: Trace, setting: Setting) -> int:
    """Return how many replicas stand ready when a trace begins: 70 % busy in its first ten minutes."""
    first = trace.arrivals < 600
    busy = float(trace.services[first].sum()) / 600
    wanted = math.ceil(busy / setting.slots / 0.7)
    return min(max(wanted, setting.min_replicas), setting.max_replicas)


def with_load(setting: Setting, load_seconds: float) -> Setting:
    """Return the same with another load time."""
    return replace(setting, load_seconds=load_seconds)
