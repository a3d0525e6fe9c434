"""What could be reached at all: three bounds on the GPU time of a trace, from those that know the future.

- the work bound: every slot busy all the time; nobody can be below it;
- zero wait: no request ever waits, replicas are packed full. Level j of them is needed while more than (j-1) * slots
  requests are in service; over a gap that is longer than a load it is cheaper to load again (Lin, Wierman, Andrew and
  Thereska's right-sizing falls apart into levels like that). The least that zero wait can cost;
- the clairvoyant: a plan that is carried out in the simulator, with at least 99 % in time. An upper bound of the best.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from e2e.bench.scaling import kernel
from e2e.bench.scaling.measures import gpu_seconds
from e2e.bench.scaling.simulate import Setting, blank
from e2e.bench.scaling.trace import Floats, Trace

Ints = NDArray[np.int64]

GOAL = 0.99
LATE_SECONDS = 10.0
SMOOTHINGS_SECONDS = (60, 15, 120, 300, 1)
"""Over which the clairvoyant's demand is averaged: one that waits a little needs no replica of its own."""
WARM_UP_SECONDS = 3600.0
HEADROOMS = (0.7, 1.7)
HEADROOM_STEP = 0.02


@dataclass(frozen=True, slots=True)
class Bounds:
    """In GPU seconds of the scored part of a trace."""

    work: float
    zero_wait: float
    clairvoyant: float
    attained: float
    """By the clairvoyant; below the goal where no plan reaches it."""
    peak: int
    """The most replicas that it has."""


def bounds(trace: Trace, setting: Setting) -> Bounds:
    """Work out all three."""
    work = float(trace.services[trace.scored].sum()) / setting.slots
    cost, attained, peak = clairvoyant(trace, setting)
    return Bounds(work, zero_wait(trace, setting), cost, attained, peak)


def zero_wait(trace: Trace, setting: Setting) -> float:
    """Return the least GPU seconds at which no request waits."""
    ends = np.sort(trace.arrivals + trace.services)
    scored = (trace.history_seconds, trace.end_seconds)
    return float(
        levels_cost(trace.arrivals, ends, setting.slots, setting.load_seconds, setting.min_replicas, *scored)
    )


@njit(cache=True)
def levels_cost(
    arrivals: Floats, ends: Floats, slots: int, load: float, least: int, begin: float, end: float
) -> float:
    """Return what it costs to have level j while more than (j-1) * slots requests are in service, for all j."""
    since = np.full(arrivals.size // slots + 2, -np.inf)
    until = np.full(since.size, -np.inf)
    cost = least * (end - begin)
    busy, i, j = 0, 0, 0
    while j < ends.size:
        if i < arrivals.size and arrivals[i] < ends[j]:
            now = arrivals[i]
            i += 1
            level = busy // slots
            if busy % slots == 0 and level >= least:
                cost += overlap(max(until[level], now - load), now, begin, end)  # kept on, or loaded again
                since[level] = now
            busy += 1
        else:
            now = ends[j]
            j += 1
            busy -= 1
            level = busy // slots
            if busy % slots == 0 and level >= least:
                cost += overlap(since[level], now, begin, end)
                until[level] = now
    return cost


@njit(cache=True)
def overlap(a: float, b: float, begin: float, end: float) -> float:
    """Return how much of a..b lies within begin..end."""
    return max(0.0, min(b, end) - max(a, begin))


def clairvoyant(trace: Trace, setting: Setting) -> tuple[float, float, int]:
    """Return the GPU seconds, the attainment and the peak of the cheapest plan found that is in time for 99 %.

    For each smoothing the least headroom that reaches the goal is looked for by halving.
    """
    trace = without_history(trace, setting.load_seconds + WARM_UP_SECONDS)
    demand = occupancy(trace)
    begin, end = math.ceil(trace.history_seconds), math.floor(trace.end_seconds)
    best, fallback = None, (math.inf, 0.0, 0)
    for smoothing in SMOOTHINGS_SECONDS:
        smooth = smoothed(demand, smoothing)
        low, high = 0, round((HEADROOMS[1] - HEADROOMS[0]) / HEADROOM_STEP)
        while low <= high:
            middle = (low + high) // 2
            plan = kept_on(smooth * (HEADROOMS[0] + middle * HEADROOM_STEP), setting)
            if best is not None and plan[begin:end].sum() >= best[0]:
                high = middle - 1  # dearer already than the best one
                continue
            cost, attained = carried_out(trace, setting, plan)
            if attained >= GOAL:
                high = middle - 1
                if best is None or cost < best[0]:
                    best = (cost, attained, int(plan.max()))
            else:
                low = middle + 1
                if (attained, -cost) > (fallback[1], -fallback[0]):
                    fallback = (cost, attained, int(plan.max()))
    return best or fallback


def without_history(trace: Trace, kept_seconds: float) -> Trace:
    """Return a trace with so much of its history left: one that knows the future needs no past."""
    cut = max(0.0, math.floor(trace.history_seconds - kept_seconds))
    if not cut:
        return trace
    left = trace.arrivals >= cut
    return replace(
        trace,
        arrivals=trace.arrivals[left] - cut,
        services=trace.services[left],
        history_seconds=trace.history_seconds - cut,
        end_seconds=trace.end_seconds - cut,
        gpus=(),
    )


def occupancy(trace: Trace) -> Floats:
    """Return for each second the most requests that would be in service if none ever waited."""
    seconds = math.ceil(trace.end_seconds) + 1
    starts = np.bincount(np.minimum(trace.arrivals.astype(np.int64), seconds - 1), minlength=seconds)
    stops = np.bincount(
        np.minimum((trace.arrivals + trace.services).astype(np.int64), seconds - 1), minlength=seconds
    )
    return np.asarray(np.cumsum(starts) - np.concatenate([[0], np.cumsum(stops)[:-1]]), dtype=np.float64)


def smoothed(demand: Floats, seconds: int) -> Floats:
    """Return the mean over ``seconds`` around each second."""
    if seconds <= 1:
        return demand
    sums = np.concatenate([[0.0], np.cumsum(demand)])
    at = np.arange(demand.size)
    first, last = np.maximum(at - seconds // 2, 0), np.minimum(at + (seconds + 1) // 2, demand.size)
    return np.asarray((sums[last] - sums[first]) / (last - first))


def kept_on(demand: Floats, setting: Setting) -> Ints:
    """Return for each second how many replicas to have: what is wanted, and what is cheaper to keep than to load anew."""
    wanted = np.ceil(demand / setting.slots - 1e-9).astype(np.int64)
    wanted = np.clip(wanted, setting.min_replicas, setting.max_replicas)
    return np.asarray(bridged(wanted, math.floor(setting.load_seconds)))


@njit(cache=True)
def bridged(wanted: Ints, load: int) -> Ints:
    """Fill each level's gaps of at most ``load`` seconds."""
    plan = wanted.copy()
    until = np.full(wanted.max() + 2, -1)
    for now in range(wanted.size):
        level = wanted[now]
        if now and level > wanted[now - 1]:
            for each in range(wanted[now - 1] + 1, level + 1):
                if until[each] >= 0 and now - until[each] <= load:
                    for second in range(until[each], now):
                        plan[second] = max(plan[second], each)
        elif now and level < wanted[now - 1]:
            for each in range(level + 1, wanted[now - 1] + 1):
                until[each] = now
    return plan


def carried_out(trace: Trace, setting: Setting, plan: Ints) -> tuple[float, float]:
    """Return the GPU seconds and the attainment of a plan: every load begins as long before as it takes."""
    changes = np.flatnonzero(np.diff(plan, prepend=-1))
    times, levels = changes.astype(np.float64), plan[changes]
    rises = int(np.maximum(np.diff(levels, prepend=0), 0).sum())
    state = blank(trace, setting.slots, setting.max_replicas)
    state = state._replace(draws=np.zeros(rises + 1), log=np.full((rises + 1, 5), np.inf))
    kernel.replay(state, times, levels, setting.slots, setting.patience_seconds)
    end = trace.end_seconds + 1e6
    kernel.advance(state, end, setting.slots, setting.patience_seconds, False)
    lives = state.log[: state.counts[kernel.ROWS]]
    ready = lives[:, kernel.READY_AT]
    before = np.where(ready > 0, setting.load_seconds, 0.0)
    cost = gpu_seconds(ready - before, lives[:, kernel.ENDED], trace)
    waits = state.waits[trace.scored]
    attained = float(((waits >= 0) & (waits <= LATE_SECONDS)).mean()) if waits.size else 1.0
    return cost, attained
