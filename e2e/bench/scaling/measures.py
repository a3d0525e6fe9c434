"""What a run was worth: how many were served in time, and what it took."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2e.bench.scaling import kernel
from e2e.bench.scaling.simulate import Run
from e2e.bench.scaling.trace import Floats, Trace

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the scored part of a trace."""

    requests: int
    attained_2s: float
    attained: float
    """The share that had a slot within 10 s of its arrival; who gave up counts as late."""
    attained_30s: float
    wait_p50: float
    wait_p95: float
    wait_p99: float
    """Seconds; those who gave up waited for ever."""
    unforeseen: float
    """The share of the late that came when more was wanted than anybody could foresee; 0 where none was late."""
    lost: int
    """Gave up."""
    gpu_hours: float
    """Loading, ready and draining."""
    cold_starts: int
    """Loads that began."""
    aborted: int
    """Replicas that were taken away while they loaded."""
    aborted_gpu_hours: float
    regret: int
    """Replicas that were taken away and asked for again within one load time."""
    peak: int
    """The most replicas that spec.replicas asked for."""
    decisions: int
    decision_us: float
    """Processor time of one, in microseconds; the only figure that differs from run to run."""

    @property
    def aborted_share(self) -> float:
        """Of the GPU-hours."""
        return self.aborted_gpu_hours / self.gpu_hours if self.gpu_hours else 0.0


def measured(trace: Trace, run: Run, load_seconds: float, unforeseen: NDArray[np.bool_]) -> Measured:
    """Measure a run; ``unforeseen``: for each request, whether it came when nobody could foresee it."""
    waits = run.waits[trace.scored]
    waits = np.where(waits < 0, np.inf, waits)
    lives = run.lives
    started, ready, removed, ended = (
        lives[:, column] for column in (kernel.STARTED, kernel.READY_AT, kernel.REMOVED, kernel.ENDED)
    )
    begun = (started >= trace.history_seconds) & (started < trace.end_seconds)
    aborted = np.isfinite(started) & (removed < ready) & (removed < trace.end_seconds)
    counted = aborted & (removed >= trace.history_seconds)
    p50, p95, p99 = quantiles(waits, (0.5, 0.95, 0.99))
    changes = [many for at, many in run.changes if at < trace.end_seconds]
    return Measured(
        requests=waits.size,
        attained_2s=share(waits <= 2),
        attained=share(waits <= 10),
        attained_30s=share(waits <= 30),
        wait_p50=p50,
        wait_p95=p95,
        wait_p99=p99,
        unforeseen=share(unforeseen[trace.scored][waits > 10]) if (waits > 10).any() else 0.0,
        lost=int(np.isinf(waits).sum()),
        gpu_hours=gpu_seconds(started, ended, trace) / HOUR,
        cold_starts=int(begun.sum()),
        aborted=int(counted.sum()),
        aborted_gpu_hours=gpu_seconds(started[aborted], ended[aborted], trace) / HOUR,
        regret=regret(run.changes, load_seconds, trace),
        peak=max(changes),
        decisions=run.decisions,
        decision_us=run.decision_seconds / max(run.decisions, 1) * 1e6,
    )


def gpu_seconds(started: Floats, ended: Floats, trace: Trace) -> float:
    """Return the time between these that lies in the scored part of a trace."""
    begin = np.maximum(started, trace.history_seconds)
    end = np.minimum(ended, trace.end_seconds)
    return float(np.maximum(end - np.where(np.isfinite(begin), begin, end), 0.0).sum())


def regret(changes: tuple[tuple[float, int], ...], load_seconds: float, trace: Trace) -> int:
    """Count the replicas that were taken away and asked for again within one load time, the last first."""
    gone: list[float] = []
    found, before = 0, changes[0][1]
    for at, many in changes[1:]:
        gone += [at] * max(before - many, 0)
        for _ in range(many - before):
            if not gone or at - gone[-1] > load_seconds:
                break
            removed = gone.pop()
            found += trace.history_seconds <= removed < trace.end_seconds
        before = many
    return found


def share(met: NDArray[np.bool_]) -> float:
    """Return the share of those that are true; 1 of none."""
    return float(met.mean()) if met.size else 1.0


def quantiles(waits: Floats, wanted: tuple[float, ...]) -> list[float]:
    """Return quantiles of waits, infinite ones among them."""
    if not waits.size:
        return [0.0 for _ in wanted]
    ordered = np.sort(waits)
    return [float(ordered[min(int(each * waits.size), waits.size - 1)]) for each in wanted]
