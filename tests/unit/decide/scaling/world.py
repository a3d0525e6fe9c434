"""A deployment on paper: demand as a fluid, loads that take exactly their time, samples every 15 seconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from preheat.decide.scaling import LoadTime, Memory, Policy, Recommendation, Sample, recommend
from preheat.decide.scaling.sample import Known

START = 1_767_571_200.0
SERVICE_SECONDS = 6.0


def a_policy(**changes: Any) -> Policy:
    """One to fifty replicas of eight slots, loaded in five minutes."""
    load = changes.pop("load", 300.0)
    return replace(Policy(1, 50, 8.0, LoadTime(load, load * 1.14)), **changes)


def a_sample(at: float = START, slots: float = 8.0, **changes: Any) -> Sample:
    """A window of 15 seconds in which so many slots were wanted and had."""
    plain = Sample(at, 15.0, slots * 15 / SERVICE_SECONDS, slots, 0.0, SERVICE_SECONDS, 1)
    return replace(plain, **changes)


def a_known(at: float = START, slots: float = 8.0, **changes: Any) -> Known:
    """The same, as the rules see it."""
    known = a_sample(at, slots, **changes).known()
    assert known is not None
    return known


@dataclass
class World:
    """Runs a policy. ``demand``: slots wanted, of seconds since the start."""

    policy: Policy
    demand: Callable[[float], float]
    ready: int = 1
    memory: Memory = field(default_factory=Memory)
    blind: Callable[[float], bool] = lambda _: False
    """When metrics are missing."""
    available: int | None = None
    loads: list[float] = field(default_factory=list)
    """When each is ready."""
    now: float = 0.0
    backlog: float = 0.0
    started: int = 0
    aborted: int = 0
    said: list[tuple[float, Recommendation]] = field(default_factory=list)

    @property
    def replicas(self) -> int:
        """Ready and loading."""
        return self.ready + len(self.loads)

    def run(self, seconds: float) -> "World":
        """Let time pass."""
        until = self.now + seconds
        while self.now < until:
            self.step()
        return self

    def step(self) -> None:
        """Fifteen seconds, a sample, a decision."""
        self.now += 15.0
        self.ready += sum(due <= self.now for due in self.loads)
        self.loads = [due for due in self.loads if due > self.now]
        wanted, room = self.demand(self.now), self.ready * self.policy.slots
        before, self.backlog = self.backlog, max(0.0, self.backlog + (wanted - room) * 15.0)
        self.backlog = min(self.backlog, wanted * 300.0)
        served = min(room, wanted + before / 15.0)
        known = not self.blind(self.now)
        sample = Sample(
            at=START + self.now,
            seconds=15.0,
            arrivals=wanted * 15.0 / SERVICE_SECONDS if known else None,
            in_service=served if known else None,
            queued=self.backlog / SERVICE_SECONDS if known else None,
            service_seconds=SERVICE_SECONDS if served else None,
            ready=self.ready,
            loading=tuple(due - self.now for due in self.loads),
            available=self.available,
        )
        found, self.memory = recommend(self.policy, [sample], self.memory, START + self.now)
        self.said.append((self.now, found))
        self.go_to(found.replicas)

    def go_to(self, wanted: int) -> None:
        """Do as Kubernetes does: what loads goes first, the furthest from ready."""
        while self.replicas > wanted and self.loads:
            self.loads.remove(max(self.loads))
            self.aborted += 1
        self.ready = min(self.ready, wanted) if self.replicas > wanted else self.ready
        while self.replicas < wanted:
            self.loads.append(self.now + self.policy.load_seconds)
            self.started += 1

    def most(self, since: float = -math.inf) -> int:
        """Return the largest number that was recommended."""
        return max(one.replicas for at, one in self.said if at >= since)

    def least(self, since: float = -math.inf) -> int:
        """Return the smallest number that was recommended."""
        return min(one.replicas for at, one in self.said if at >= since)
