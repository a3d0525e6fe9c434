"""Replicas, slots and one queue, event by event: the compiled heart of the simulator.

Requests wait in one queue at a gateway and take a slot of the ready replica that serves the fewest. As all have the
same patience, those who wait are always neighbours: arrivals HEAD..NEXT. Everything is in arrays, because a run serves
millions of requests (docs/decisions/0020-the-simulator-is-compiled.md).

A replica is PENDING (no GPU), LOADING, READY, DRAINING (takes nothing new, ends what it has) and then gone. Its life is a
row of ``log``: asked, started (a GPU was given), ready, removed, ended, in seconds; infinite for what never came.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

FREE, PENDING, LOADING, READY, DRAINING = range(5)
ASKED, STARTED, READY_AT, REMOVED, ENDED = range(5)
"""Columns of ``log``."""
STATE, BUSY, PLACE, ROW = range(4)
"""Columns of ``pods``: PLACE is where it stands among those as busy as it, ROW its row in ``log``."""
HEAD, NEXT, HEAP, ALIVE, PENDINGS, LOADINGS, READIES, DRAININGS, SERVING, DONE, LOST, ROWS, MOST = range(13)
"""In ``counts``. MOST: how many replicas can have a GPU."""
NOW, NEXT_READY, DONE_SERVICE = range(3)
"""In ``clocks``."""
UNRESOLVED = -1.0
"""In ``waits``: still in the queue; infinity is a client who gave up."""

Array = Any
"""A numpy array: numba reads its type when it compiles."""


class State(NamedTuple):
    """Everything that a run changes."""

    arrivals: Array
    services: Array
    waits: Array
    servers: Array
    draws: Array
    log: Array
    pods: Array
    alive: Array
    spare: Array
    by_busy: Array
    how_many: Array
    ends: Array
    enders: Array
    counts: Array
    clocks: Array


@njit(cache=True)
def advance(state: State, until: float, slots: int, patience: float, wake: bool) -> bool:
    """Let time pass until ``until``. With ``wake``, stop at the first arrival: then return True."""
    arrivals, counts, clocks, ends = state.arrivals, state.counts, state.clocks, state.ends
    while True:
        at = until
        what = 0
        if clocks[NEXT_READY] <= at:
            at, what = clocks[NEXT_READY], 1
        if counts[HEAP] > 0 and ends[0] < at:
            at, what = ends[0], 2
        if counts[NEXT] < arrivals.size and arrivals[counts[NEXT]] < at:
            at, what = arrivals[counts[NEXT]], 3
        clocks[NOW] = at
        if what == 0:
            give_up(state, patience)
            return False
        if what == 1:
            become_ready(state)
        elif what == 2:
            end_one(state)
        else:
            counts[NEXT] += 1
        serve(state, slots, patience)
        if wake and what == 3:
            return True


@njit(cache=True)
def serve(state: State, slots: int, patience: float) -> None:
    """Give free slots to those who wait longest."""
    counts, how_many, now = state.counts, state.how_many, state.clocks[NOW]
    level = 0
    while counts[HEAD] < counts[NEXT]:
        while level < slots and how_many[level] == 0:
            level += 1
        if level == slots:
            return
        request = counts[HEAD]
        counts[HEAD] += 1
        if state.arrivals[request] + patience < now:
            state.waits[request] = np.inf
            counts[LOST] += 1
            continue
        state.waits[request] = now - state.arrivals[request]
        pod = state.by_busy[level, how_many[level] - 1]
        set_busy(state, pod, level + 1)
        counts[SERVING] += 1
        state.servers[request] = pod
        push(state, now + state.services[request], request)


@njit(cache=True)
def give_up(state: State, patience: float) -> None:
    """Let those leave whose patience is over."""
    counts, now = state.counts, state.clocks[NOW]
    while counts[HEAD] < counts[NEXT] and state.arrivals[counts[HEAD]] + patience < now:
        state.waits[counts[HEAD]] = np.inf
        counts[LOST] += 1
        counts[HEAD] += 1


@njit(cache=True)
def end_one(state: State) -> None:
    """End the request whose time is over; a draining replica that has none left is gone."""
    request = pop(state)
    pod = state.servers[request]
    pods, counts = state.pods, state.counts
    state.clocks[DONE_SERVICE] += state.services[request]
    counts[SERVING] -= 1
    counts[DONE] += 1
    if pods[pod, STATE] == READY:
        set_busy(state, pod, pods[pod, BUSY] - 1)
        return
    pods[pod, BUSY] -= 1
    if pods[pod, BUSY] == 0:
        counts[DRAININGS] -= 1
        state.log[pods[pod, ROW], ENDED] = state.clocks[NOW]
        forget(state, pod)
        give_gpus(state)


@njit(cache=True)
def become_ready(state: State) -> None:
    """Make the replicas ready whose load has ended, and note when the next one will."""
    pods, alive, counts, clocks = state.pods, state.alive, state.counts, state.clocks
    following = np.inf
    for place in range(counts[ALIVE]):
        pod = alive[place]
        if pods[pod, STATE] != LOADING:
            continue
        ready_at = state.log[pods[pod, ROW], READY_AT]
        if ready_at <= clocks[NOW]:
            pods[pod, STATE] = READY
            counts[LOADINGS] -= 1
            counts[READIES] += 1
            enter(state, pod, 0)
        else:
            following = min(following, ready_at)
    clocks[NEXT_READY] = following


@njit(cache=True)
def set_replicas(state: State, wanted: int, idlest: bool) -> None:
    """Ask for replicas, or take some away: first without a GPU, then loading ones, then ready ones.

    Of the same kind the youngest goes first, as a ReplicaSet has it; with ``idlest``, of the ready ones that which
    serves the fewest.
    """
    counts, clocks = state.counts, state.clocks
    now = clocks[NOW]
    current = counts[PENDINGS] + counts[LOADINGS] + counts[READIES]
    while current < wanted:
        counts[ALIVE] += 1
        pod = state.spare[state.spare.size - counts[ALIVE]]
        state.alive[counts[ALIVE] - 1] = pod
        row = counts[ROWS]
        counts[ROWS] += 1
        state.log[row, :] = np.inf
        state.log[row, ASKED] = now
        state.pods[pod, STATE] = PENDING
        state.pods[pod, BUSY] = 0
        state.pods[pod, ROW] = row
        counts[PENDINGS] += 1
        current += 1
    while current > wanted:
        remove(state, victim(state, idlest))
        current -= 1


@njit(cache=True)
def victim(state: State, idlest: bool) -> int:
    """Return the replica that goes first."""
    pods, alive, log = state.pods, state.alive, state.log
    best = -1
    for place in range(state.counts[ALIVE]):
        pod = alive[place]
        if pods[pod, STATE] == DRAINING:
            continue
        if best < 0 or pods[pod, STATE] < pods[best, STATE]:
            best = pod
            continue
        if pods[pod, STATE] > pods[best, STATE]:
            continue
        if idlest and pods[pod, STATE] == READY and pods[pod, BUSY] != pods[best, BUSY]:
            if pods[pod, BUSY] < pods[best, BUSY]:
                best = pod
            continue
        column = READY_AT if pods[pod, STATE] == READY else ASKED
        mine, its = log[pods[pod, ROW], column], log[pods[best, ROW], column]
        if mine > its or (mine == its and pods[pod, ROW] > pods[best, ROW]):
            best = pod
    return best


@njit(cache=True)
def remove(state: State, pod: int) -> None:
    """Take a replica away. One that serves drains first."""
    pods, counts, now = state.pods, state.counts, state.clocks[NOW]
    row = pods[pod, ROW]
    was = pods[pod, STATE]
    state.log[row, REMOVED] = now
    if was == READY:
        counts[READIES] -= 1
        leave(state, pod)
        if pods[pod, BUSY] > 0:
            pods[pod, STATE] = DRAINING
            counts[DRAININGS] += 1
            return
    elif was == LOADING:
        counts[LOADINGS] -= 1
    else:
        counts[PENDINGS] -= 1
    state.log[row, ENDED] = now
    forget(state, pod)


@njit(cache=True)
def give_gpus(state: State) -> None:
    """Start the loads of those that wait longest for a GPU, as far as there are GPUs."""
    pods, alive, counts, clocks = state.pods, state.alive, state.counts, state.clocks
    while counts[PENDINGS] > 0 and counts[LOADINGS] + counts[READIES] + counts[DRAININGS] < counts[MOST]:
        oldest = -1
        for place in range(counts[ALIVE]):
            pod = alive[place]
            if pods[pod, STATE] == PENDING and (oldest < 0 or pods[pod, ROW] < pods[oldest, ROW]):
                oldest = pod
        row = pods[oldest, ROW]
        pods[oldest, STATE] = LOADING
        counts[PENDINGS] -= 1
        counts[LOADINGS] += 1
        state.log[row, STARTED] = clocks[NOW]
        state.log[row, READY_AT] = clocks[NOW] + state.draws[row]
        clocks[NEXT_READY] = min(clocks[NEXT_READY], state.log[row, READY_AT])


@njit(cache=True)
def replay(state: State, times: Array, levels: Array, slots: int, patience: float) -> None:
    """Have ``levels[i]`` replicas from ``times[i]`` on (draws of 0: ready at once), then let everything end."""
    for i in range(times.size):
        advance(state, times[i], slots, patience, False)
        set_replicas(state, levels[i], True)
        give_gpus(state)


@njit(cache=True)
def forget(state: State, pod: int) -> None:
    """Give a replica's number back."""
    alive, counts = state.alive, state.counts
    for place in range(counts[ALIVE]):
        if alive[place] == pod:
            alive[place] = alive[counts[ALIVE] - 1]
            break
    state.spare[state.spare.size - counts[ALIVE]] = pod
    counts[ALIVE] -= 1
    state.pods[pod, STATE] = FREE


@njit(cache=True)
def enter(state: State, pod: int, busy: int) -> None:
    """Count a ready replica among those that serve ``busy`` requests."""
    state.pods[pod, BUSY] = busy
    state.pods[pod, PLACE] = state.how_many[busy]
    state.by_busy[busy, state.how_many[busy]] = pod
    state.how_many[busy] += 1


@njit(cache=True)
def leave(state: State, pod: int) -> None:
    """Count it there no more: the last one takes its place."""
    busy, place = state.pods[pod, BUSY], state.pods[pod, PLACE]
    state.how_many[busy] -= 1
    last = state.by_busy[busy, state.how_many[busy]]
    state.by_busy[busy, place] = last
    state.pods[last, PLACE] = place


@njit(cache=True)
def set_busy(state: State, pod: int, busy: int) -> None:
    """Move a ready replica among those that serve ``busy`` requests."""
    leave(state, pod)
    enter(state, pod, busy)


@njit(cache=True)
def push(state: State, at: float, request: int) -> None:
    """Note that a request ends at ``at`` (a binary heap, the earliest first)."""
    ends, enders = state.ends, state.enders
    child = state.counts[HEAP]
    state.counts[HEAP] += 1
    while child > 0:
        parent = (child - 1) >> 1
        if ends[parent] <= at:
            break
        ends[child], enders[child] = ends[parent], enders[parent]
        child = parent
    ends[child], enders[child] = at, request


@njit(cache=True)
def pop(state: State) -> int:
    """Take the earliest end away and return its request."""
    ends, enders = state.ends, state.enders
    first: int = enders[0]
    state.counts[HEAP] -= 1
    size = state.counts[HEAP]
    at, last = ends[size], enders[size]
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and ends[child + 1] < ends[child]:
            child += 1
        if at <= ends[child]:
            break
        ends[parent], enders[parent] = ends[child], enders[child]
        parent = child
    if size > 0:
        ends[parent], enders[parent] = at, last
    return first
