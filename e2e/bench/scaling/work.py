"""The units of the benchmark: a cell with a load time and a seed, all scalers one after the other."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache

from e2e.bench.scaling import oracle
from e2e.bench.scaling.baselines import Static
from e2e.bench.scaling.cells import Cell, Group
from e2e.bench.scaling.contenders import contenders, who
from e2e.bench.scaling.foresight import unforeseen
from e2e.bench.scaling.measures import HOUR, Measured, measured
from e2e.bench.scaling.oracle import Bounds
from e2e.bench.scaling.simulate import run
from e2e.bench.scaling.trace import Trace


@dataclass(frozen=True, slots=True)
class Row:
    """What one scaler did in one unit."""

    who: str
    """Name, configuration and label."""
    scaler: str
    config: str
    trace: str
    group: Group
    load_seconds: float
    seed: int
    slots: int
    bounds: Bounds
    measured: Measured

    @property
    def cost(self) -> float:
        """GPU-hours over the clairvoyant's."""
        return self.measured.gpu_hours * HOUR / self.bounds.clairvoyant


@dataclass(frozen=True, slots=True)
class Done:
    """A unit that is over."""

    trace: str
    load_seconds: float
    seed: int
    seconds: float
    rows: tuple[Row, ...]


def unit(cell: Cell, load_seconds: float, seed: int, scalers: Sequence[str]) -> Done:
    """Run all scalers on a trace, and one that always has as many replicas as the clairvoyant at its peak."""
    began = time.monotonic()
    trace = made(cell.make, seed)
    setting = cell.setting(load_seconds, seed)
    limits, jumped = oracle.bounds(trace, setting), unforeseen(trace, load_seconds)
    rows = []
    for scaler in [*(make() for name, make in contenders().items() if name in scalers), Static(limits.peak)]:
        result = measured(trace, run(trace, setting, scaler), load_seconds, jumped)
        rows.append(
            Row(
                who(scaler),
                scaler.name,
                scaler.config,
                cell.name,
                cell.group,
                load_seconds,
                seed,
                cell.slots,
                limits,
                result,
            )
        )
    return Done(cell.name, load_seconds, seed, time.monotonic() - began, tuple(rows))


@lru_cache(maxsize=1)
def made(make: Callable[[int], Trace], seed: int) -> Trace:
    """Return a trace; the one before last is forgotten, they are large."""
    return make(seed)


def all_of(
    cells: Sequence[Cell],
    loads: Sequence[float],
    seeds: Sequence[int],
    scalers: Sequence[str],
    processes: int,
) -> Iterator[Done]:
    """Run everything on so many processors, and yield units as they end."""
    units = [(cell, load, seed, scalers) for cell in cells for seed in seeds for load in loads]
    if processes < 2:
        for each in units:
            yield unit(*each)
        return
    pool = ProcessPoolExecutor(processes, initializer=leave_interrupts_to_the_parent)
    try:
        for future in as_completed([pool.submit(unit, *each) for each in units]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def leave_interrupts_to_the_parent() -> None:
    """Let a process end its unit when somebody presses Ctrl-C: the parent asks for no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
