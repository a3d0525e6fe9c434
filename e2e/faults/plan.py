"""Which cases there are: every fault at every call of every workload, as the undisturbed runs made them.

A call site is a verb, a resource and a subresource; its occurrences are counted within a workload. A case names
one occurrence, so that it can be run again alone. What is pruned, as Sieve does, because it cannot differ:

- a stop after a write that changed nothing (the API server's answer had the version that was there before);
- a stop after a write that failed;
- a fault at a call that a faster or slower run does not make again: such a case is counted as not met;
- all nine faults at calls that run the same code as another: a read, and a second write of the same kind within a
  workload, meet three of the nine, in rotation; of the lists and the discovery at the operator's start, each call
  meets one, in rotation, so that our lists, kopf's lists and kopf's discovery each meet all nine.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from e2e.faults.proxy import Fault, Record, WatchFault

CALL_FAULTS = (
    Fault.CONFLICT, Fault.THROTTLED, Fault.INTERNAL, Fault.UNAVAILABLE, Fault.GATEWAY_TIMEOUT, Fault.TIMEOUT_BEFORE,
    Fault.CUT, Fault.LOST_ANSWER, Fault.HALF_BODY,
)  # fmt: skip
WATCH_FAULTS = tuple(WatchFault)
CLOCK_JUMPS = {"clock+1h": "+3600", "clock-1h": "-3600", "clock+10y": "+10y"}


class Way(StrEnum):
    """How a case is run."""

    CALL = "call"
    KILLED = "killed"
    AT_START = "at-start"
    WATCH = "watch"
    STALE_START = "stale-start"
    FROZEN = "frozen"
    FROZEN_AT_WORK = "frozen-at-work"
    TWO = "two-operators"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Spec:
    """One case. ``site`` and ``occurrence`` say at which call; empty where the fault has no call."""

    workload: str
    way: Way
    fault: str
    site: str = ""
    occurrence: int = 0

    @property
    def id(self) -> str:
        """What to give to ``CASE=`` to run it alone."""
        at = f"@{self.site}#{self.occurrence}".replace(" ", ":") if self.site else ""
        at += "@start" if self.way is Way.AT_START else ""
        return f"{self.workload}/{self.fault}{at}"

    @property
    def column(self) -> str:
        """The row of the table that it counts in."""
        if self.way is Way.AT_START:
            return f"{self.fault} at start"
        return self.fault


@dataclass
class Trace:
    """The calls that an undisturbed run made: of one workload, and of the operator's start."""

    calls: list[Record] = field(default_factory=list)
    start: list[Record] = field(default_factory=list)


def cases_of(workload: str, trace: Trace) -> list[Spec]:
    """Return every case of one workload."""
    specs = [Spec(workload, Way.KILLED, "killed", *at) for at in _stops(trace.calls)]
    for number, (site, occurrence) in enumerate(_sites(trace.calls)):
        is_first_write = occurrence == 1 and not site.startswith(("GET", "LIST"))
        faults = CALL_FAULTS if is_first_write else _rotated(3 * number, 3)
        specs += [Spec(workload, Way.CALL, fault, site, occurrence) for fault in faults]
    specs += [Spec(workload, Way.AT_START, *which) for which in _at_start(trace.start)]
    specs += [Spec(workload, Way.WATCH, fault) for fault in WATCH_FAULTS]
    specs += [Spec(workload, way, way) for way in (Way.STALE_START, Way.FROZEN, Way.FROZEN_AT_WORK, Way.TWO)]
    specs += [Spec(workload, Way.CLOCK, name) for name in CLOCK_JUMPS]
    return specs


def _rotated(first: int, count: int) -> list[Fault]:
    return [CALL_FAULTS[(first + i) % len(CALL_FAULTS)] for i in range(count)]


def _at_start(records: Sequence[Record]) -> list[tuple[Fault, str, int]]:
    """Return (fault, site, occurrence): our lists come first, then kopf's discovery and lists of the same kinds."""
    families: dict[tuple[bool, int], list[tuple[str, int]]] = {}
    for site, occurrence in _sites(records):
        families.setdefault((site.startswith("LIST"), occurrence), []).append((site, occurrence))
    return [
        (CALL_FAULTS[i % len(CALL_FAULTS)], *sites[i % len(sites)])
        for sites in families.values()
        for i in range(max(len(sites), len(CALL_FAULTS)))
    ]


def _sites(records: Iterable[Record]) -> list[tuple[str, int]]:
    seen: Counter[str] = Counter()
    found = []
    for record in records:
        if record.call.is_watch:
            continue
        seen[record.call.site] += 1
        found.append((record.call.site, seen[record.call.site]))
    return found


def _stops(records: Sequence[Record]) -> list[tuple[str, int]]:
    """Return the writes after which to kill: those that changed something."""
    seen: Counter[str] = Counter()
    found = []
    for record in records:
        if record.call.is_write:
            seen[record.call.site] += 1
            if record.changed:
                found.append((record.call.site, seen[record.call.site]))
    return found


def pruned(trace: Trace, specs: Sequence[Spec]) -> int:
    """Return how many cases of the full product of calls and faults were left out."""
    sites = len(_sites(trace.calls)) + len(_sites(trace.start))
    writes = sum(record.call.is_write for record in trace.calls)
    ways = Counter(spec.way for spec in specs)
    return len(CALL_FAULTS) * sites + writes - ways[Way.CALL] - ways[Way.AT_START] - ways[Way.KILLED]


def fast_part(specs: Sequence[Spec]) -> list[Spec]:
    """Return the part that runs with every change: every fault kind once, one at the operator's start, every
    workload once, and a kill after every write of ``create``."""
    chosen = [spec for spec in specs if (spec.workload, spec.way) == ("create", Way.KILLED)]
    kinds: dict[str, Spec] = {}
    workloads: Counter[str] = Counter()
    others = [spec for spec in specs if spec.fault not in SLOW and spec not in chosen]
    for spec in others:
        kind = spec.way if spec.way is Way.AT_START else spec.column
        if kind in kinds:
            continue
        # The workload that was chosen least so far, and of its calls the last write: the one in the middle of things.
        same = [other for other in others if other.column == spec.column]
        fewest = min(workloads[other.workload] for other in same)
        best = [other for other in same if workloads[other.workload] == fewest]
        best = [other for other in best if other.site.startswith(("PATCH", "DELETE"))] or best
        kinds[kind] = best[len(best) // 2]
        workloads[kinds[kind].workload] += 1
    return [*chosen, *kinds.values()]


SLOW = (WatchFault.HALF_OPEN,)
"""Nobody can notice a silent stream faster than by its silence: half a minute. Not in the fast part."""
