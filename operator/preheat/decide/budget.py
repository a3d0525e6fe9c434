"""What may lie on one node's disk: which weights get room, and which have to leave for them.

A cache that wants a node says so with a Job that is suspended. Room is given in order of rank: weights that running
replicas need, then those that a rollout may have to go back to, then by when they were used last. Only what nobody
needs has to leave, the least recently used first, and only for what is of a better rank: no two ever throw each
other out in turn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from preheat.config import OperatorConfig
from preheat.decide import text
from preheat.decide.observed import NodeView

SOAK_SECONDS = 600.0
"""How long a new revision has to serve before the weights of the one before it may leave a disk."""


class DiskState(StrEnum):
    """How weights stand on a node."""

    WAITING = "Waiting"
    """They want room: nothing of them counts yet."""
    WARMING = "Warming"
    READY = "Ready"
    LEAVING = "Leaving"
    """No pod may start with them any more; their bytes count until they are gone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The weights of one cache on one node, or its wish for room there."""

    key: str
    namespace: str
    name: str
    state: DiskState
    last_used: datetime
    size_bytes: int | None = None
    """None: not known before a warmer has seen the list of files."""
    room_bytes: int | None = None
    """What its running warmer was allowed to take, None without a budget."""
    needed: bool = False
    """Whether a Deployment with replicas mounts them."""
    kept: bool = False
    """Whether they are what a rollout that has not proved itself would go back to."""

    gave_up: bool = False
    """Whether its last warmer here gave up before anybody knew how much they take: it held all the room meanwhile."""

    @property
    def rank(self) -> tuple[int, bool, float, str]:
        """Order of who gets room first; the last is the first to leave."""
        need = 0 if self.needed else 1 if self.kept else 2
        return need, self.gave_up, -self.last_used.timestamp(), self.key

    @property
    def taken_bytes(self) -> int | None:
        """What it counts: its size, or while that is not known the room that it was given. None: nobody knows."""
        return self.room_bytes if self.size_bytes is None else self.size_bytes

    @property
    def can_leave(self) -> bool:
        """Whether it may be taken off the disk."""
        return self.state is DiskState.READY and not self.needed and not self.kept


@dataclass(frozen=True, slots=True)
class Limits:
    """The most bytes on one node: of all weights, and of one namespace's. None: no limit."""

    node: int | None = None
    namespace: int | None = None

    def __bool__(self) -> bool:
        return self.node is not None or self.namespace is not None


@dataclass(frozen=True, slots=True)
class Wait:
    """Why there is no room yet. ``refused``: there will be none by itself."""

    message: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Allotment:
    """Who gets room, who has to leave, and why the others wait."""

    admitted: Mapping[str, int | None] = field(default_factory=dict)
    """By key: how many bytes it may take, None for as many as it likes."""
    evicted: Mapping[str, str] = field(default_factory=dict)
    """By key: why."""
    waiting: Mapping[str, Wait] = field(default_factory=dict)
    """By key: for what."""


def limits_of(node: NodeView, config: OperatorConfig) -> Limits:
    """Return what one node's disk may hold: as its own annotation says, else as the installation does."""
    whole = config.node_budget_bytes if node.budget_bytes is None else node.budget_bytes
    return Limits(whole, config.namespace_budget_bytes)


def allot(entries: Iterable[Entry], limits: Limits, node: str) -> Allotment:
    """Return what happens on a node. Names of other namespaces' caches are told to nobody."""
    ordered = sorted(entries, key=lambda entry: entry.rank)
    claims = [entry for entry in ordered if entry.state is DiskState.WAITING]
    if not limits:
        return Allotment(admitted={claim.key: None for claim in claims})
    there = [entry for entry in ordered if entry.state is not DiskState.WAITING]
    disk = _Disk(there, limits, node)
    for claim in claims:
        disk.serve(claim)
    return Allotment(disk.admitted, disk.evicted, disk.waiting)


class _Disk:
    """What is taken, as claims are served one after the other."""

    def __init__(self, there: Sequence[Entry], limits: Limits, node: str) -> None:
        self._there = list(there)
        self._limits = limits
        self._node = node
        self.admitted: dict[str, int | None] = {}
        self.evicted: dict[str, str] = {}
        self.waiting: dict[str, Wait] = {}

    def serve(self, claim: Entry) -> None:
        """Give a claim room, make room for it, or say why it waits."""
        unknown = next((entry for entry in self._there if entry.taken_bytes is None), None)
        if unknown is not None:
            words = f"waits until it is known how much {_name(unknown, claim)} takes on {self._node}"
            self.waiting[claim.key] = Wait(words)
            return
        victims: list[Entry] = []
        for limit, pool, of in self._bounds(claim):
            taken = [entry for entry in pool if entry not in victims]
            more = self._victims(claim, taken, limit)
            if more is None and any(entry.size_bytes is None for entry in pool):
                self.waiting[claim.key] = Wait(
                    f"waits until it is known how much others take on {self._node}"
                )
                return
            if more is None:
                self.waiting[claim.key] = Wait(self._refusal(claim, pool, limit, of), refused=True)
                return
            victims += more
        if victims:
            self._evict(victims, claim)
        if any(entry.state is DiskState.LEAVING for entry in self._there) and not self._fits(claim):
            self.waiting[claim.key] = Wait(
                f"waits until other weights are gone from the disk of {self._node}"
            )
            # Its room is being made: whoever comes after it gets none of that.
            self._there.append(replace(claim, room_bytes=_need(claim)))
            return
        room = self._room(claim)
        self.admitted[claim.key] = room
        self._there.append(replace(claim, state=DiskState.WARMING, room_bytes=room))

    def _bounds(self, claim: Entry) -> list[tuple[int, list[Entry], str]]:
        own = [entry for entry in self._there if entry.namespace == claim.namespace]
        found: list[tuple[int, list[Entry], str]] = []
        if self._limits.node is not None:
            found.append((self._limits.node, self._there, "weights"))
        if self._limits.namespace is not None:
            found.append((self._limits.namespace, own, f"weights of namespace {claim.namespace}"))
        return found

    def _victims(self, claim: Entry, taken: Sequence[Entry], limit: int) -> list[Entry] | None:
        """Return who has to leave for a claim under one limit, None when that is not enough."""
        left = limit - _sum(entry for entry in taken if entry.state is not DiskState.LEAVING) - _need(claim)
        victims: list[Entry] = []
        for entry in sorted(taken, key=lambda entry: entry.rank, reverse=True):
            if left >= 0:
                break
            if entry.can_leave and entry.rank > claim.rank:
                victims.append(entry)
                left += entry.taken_bytes or 0
        return victims if left >= 0 else None

    def _evict(self, victims: Sequence[Entry], claim: Entry) -> None:
        for victim in victims:
            self.evicted[victim.key] = (
                f"makes room for {_name(claim, victim)}, which "
                f"{'running replicas need' if claim.needed else 'was asked for or used more recently'}"
            )
            self._there.remove(victim)
            self._there.append(replace(victim, state=DiskState.LEAVING))

    def _fits(self, claim: Entry) -> bool:
        """Tell whether there is room by now. Those who wait for theirs take none yet; one of unknown size might take it."""
        return all(
            _sum(e for e in pool if e.state is not DiskState.WAITING or claim.size_bytes is None)
            + _need(claim)
            <= limit
            for limit, pool, _ in self._bounds(claim)
        )

    def _room(self, claim: Entry) -> int:
        if claim.size_bytes is not None:
            return claim.size_bytes
        return min(limit - _sum(pool) for limit, pool, _ in self._bounds(claim))

    def _refusal(self, claim: Entry, pool: Sequence[Entry], limit: int, of: str) -> str:
        needs = f"{text.size(claim.size_bytes)} are needed" if claim.size_bytes else "more are needed"
        staying = [entry for entry in pool if entry.state is not DiskState.LEAVING]
        own = [entry for entry in staying if entry.namespace == claim.namespace]
        parts = [
            f"{entry.name} {text.size(entry.taken_bytes or 0)}{_why_it_stays(entry)}" for entry in own[:5]
        ]
        if len(own) > 5:
            parts.append(f"{len(own) - 5} more of this namespace {text.size(_sum(own[5:]))}")
        others = [entry for entry in staying if entry.namespace != claim.namespace]
        if others:
            parts.append(f"other namespaces {text.size(_sum(others))}")
        holds = f" ({', '.join(parts)})" if parts else ""
        return (
            f"{needs}, and {text.size(_sum(staying))} of the {text.size(limit)} for {of} on {self._node} are taken"
            f"{holds}. Delete a ModelCache there, raise the budget, or take another node"
        )


def _why_it_stays(entry: Entry) -> str:
    if entry.needed:
        return " in use"
    return " to roll back to" if entry.kept else ""


def _name(entry: Entry, for_whom: Entry) -> str:
    """Return what a cache is called before another: nobody hears of other namespaces' names."""
    if not entry.namespace:
        return "a cache that is gone"
    return entry.name if entry.namespace == for_whom.namespace else "a cache of another namespace"


def _need(claim: Entry) -> int:
    """Return how much room a claim must have to begin: of one whose size nobody knows, any at all."""
    return 1 if claim.size_bytes is None else claim.size_bytes


def _sum(entries: Iterable[Entry]) -> int:
    return sum(entry.taken_bytes or 0 for entry in entries)
