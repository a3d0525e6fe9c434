"""A deployment on paper: a trace's requests, replicas that take their time, and the operator's own policy.

One queue, first come, first served, and slots that are all alike. Metrics are read every 15 s, at once; a replica that
loads is ready after a load time, drawn with a spread of 10 %. What loads goes first, as in Kubernetes. While no replica
is ready nothing is known, and at zero nobody is seen to ask, as in a cluster.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from preheat.cli.traces import Trace
from preheat.decide.autoscale import ASK_SECONDS, what_counts
from preheat.decide.scaling import Memory, Policy, Recommendation, Sample, recommend

SPREAD = 0.1
"""Of the logarithm of a load time."""


@dataclass(frozen=True, slots=True)
class Step:
    """Fifteen seconds."""

    at: float
    """Seconds since the beginning; the end of it."""
    asked: int
    ready: int
    wanted: float
    """Requests that would have held a slot if nobody had waited: the mean."""
    came: int
    late: int
    """Of those that came in it: how many waited too long, or gave up."""


@dataclass(frozen=True, slots=True)
class Change:
    """The number of replicas became another one."""

    at: float
    before: int
    after: int
    why: Recommendation


@dataclass(frozen=True, slots=True)
class Result:
    """What happened."""

    steps: Sequence[Step]
    changes: Sequence[Change]
    requests: int
    late: int
    gpu_seconds: float
    """Of replicas that loaded, served or ended their last requests."""
    loads: int
    """Begun after the beginning."""

    @property
    def late_share(self) -> float:
        """Of the requests."""
        return self.late / self.requests

    @property
    def most(self) -> int:
        """The most replicas that were asked for at a time."""
        return max(step.asked for step in self.steps)


@dataclass(slots=True)
class Scaler:
    """What the operator does with a sample, step after step."""

    policy: Policy
    holds: int
    memory: Memory = field(default_factory=Memory)

    def decide(self, sample: Sample, now: float) -> Recommendation | None:
        """Return what the number goes by from now on, None when nothing moves it."""
        said, self.memory = recommend(self.policy, [sample], self.memory, now)
        counts = what_counts(self.policy, sample, said, self.holds, now)
        if counts is not None:
            self.holds = self.policy.bounded(counts.replicas)
        return counts


class Replay:
    """One run of a trace."""

    def __init__(self, trace: Trace, policy: Policy, replicas: int, seed: int) -> None:
        self.trace, self.policy = trace, policy
        self.rng = Random(seed)  # noqa: S311
        self.loads: list[tuple[float, float]] = []
        """When each is expected to be ready, and when it will be."""
        self.ready, self.asked = replicas, replicas
        self.busy: list[float] = []
        """When each request that holds a slot ends."""
        self.waiting: deque[int] = deque()
        self.next, self.now = 0, 0.0
        self.late = [False] * len(trace.arrivals)
        self.held = self.gpu_seconds = 0.0
        self.ended, self.begun = 0, 0

    def run(self, scaler: Scaler | None) -> Result:
        """Let the whole trace pass; without a scaler the number stays as it is."""
        steps, changes = [], []
        until = self.trace.seconds + self.policy.patience_seconds
        while self.now < until:
            first, ready = self.next, self.ready
            sample = self.passed(ASK_SECONDS, first)
            came = range(first, self.next)
            steps.append((self.now, self.asked, ready, came))
            if scaler is not None:
                before = scaler.holds
                counts = scaler.decide(sample, sample.at)
                if counts is not None and scaler.holds != before:
                    changes.append(Change(self.now, before, scaler.holds, counts))
                self.go_to(scaler.holds)
            if self.now >= self.trace.seconds and not self.waiting:
                break
        for request in self.waiting:
            self.late[request] = True
        return Result(
            [
                Step(at, asked, ready, sum(self.trace.services[i] for i in came) / ASK_SECONDS, len(came),
                     sum(self.late[i] for i in came))
                for at, asked, ready, came in steps
            ],
            changes, len(self.late), sum(self.late), self.gpu_seconds, self.begun,
        )  # fmt: skip

    def passed(self, seconds: float, first: int) -> Sample:
        """Let time pass, and return what the operator would have seen of it."""
        end, held = self.now + seconds, self.held
        ended, asleep = self.ended, self.asked == 0 and self.ready == 0
        arrivals, services = self.trace.arrivals, self.trace.services
        served = self.ready > 0
        while True:
            at = min(
                end,
                arrivals[self.next] if self.next < len(arrivals) else math.inf,
                self.busy[0] if self.busy else math.inf,
                min((due for _, due in self.loads), default=math.inf),
            )
            self.let(at - self.now)
            self.now = at
            if at >= end:
                break
            while self.busy and self.busy[0] <= at:
                heapq.heappop(self.busy)
                self.ended += 1
            arrived = [load for load in self.loads if load[1] <= at]
            self.ready += len(arrived)
            self.loads = [load for load in self.loads if load[1] > at]
            while self.next < len(arrivals) and arrivals[self.next] <= at:
                self.waiting.append(self.next)
                self.next += 1
            self.serve(services)
        self.give_up()
        many = self.ended - ended
        at = self.trace.begins + self.now
        loading = tuple(max(1.0, expected - self.now) for expected, _ in self.loads)
        if asleep:
            return Sample(at, seconds, 0.0, 0.0, 0.0, None, 0)
        if not served:
            return Sample(at, seconds, None, None, None, None, self.ready, loading)
        took = (self.held - held) / many if many else None
        return Sample(
            at, seconds, float(self.next - first), (self.held - held) / seconds, float(len(self.waiting)),
            took or None, self.ready, loading,
        )  # fmt: skip

    def let(self, seconds: float) -> None:
        """Bill what passes."""
        self.held += len(self.busy) * seconds
        draining = max(0, math.ceil(len(self.busy) / self.policy.slots) - self.ready)
        self.gpu_seconds += (self.ready + len(self.loads) + draining) * seconds

    def serve(self, services: Sequence[float]) -> None:
        """Give free slots to those who wait longest."""
        room = int(self.ready * self.policy.slots)
        while self.waiting and len(self.busy) < room:
            request = self.waiting.popleft()
            waited = self.now - self.trace.arrivals[request]
            self.late[request] = waited > self.policy.late_seconds
            if waited <= self.policy.patience_seconds:
                heapq.heappush(self.busy, self.now + services[request])

    def give_up(self) -> None:
        """Let those leave whose patience is over."""
        while self.waiting and self.now - self.trace.arrivals[self.waiting[0]] > self.policy.patience_seconds:
            self.late[self.waiting.popleft()] = True

    def go_to(self, wanted: int) -> None:
        """Ask for so many: what loads goes first, the furthest from ready; then ready ones, which end what they have."""
        while self.ready + len(self.loads) > wanted and self.loads:
            self.loads.remove(max(self.loads))
        self.ready = min(self.ready, wanted)
        while self.ready + len(self.loads) < wanted:
            load = self.policy.load_seconds
            self.loads.append((self.now + load, self.now + load * self.rng.lognormvariate(0.0, SPREAD)))
            self.begun += 1
        self.asked = wanted


def least_gpu_seconds(trace: Trace, policy: Policy) -> float:
    """Return the least GPU time at which nobody ever waits, for one who knows the future.

    Level j of the replicas is needed while more than (j - 1) * slots requests are in service; over a gap between two
    needs that is longer than a load it is cheaper to load again.
    """
    slots, load = int(policy.slots), policy.load_seconds
    ends = sorted(at + lasts for at, lasts in zip(trace.arrivals, trace.services, strict=True))
    least = policy.min_replicas
    cost, busy, begun = least * trace.seconds, 0, 0
    since: dict[int, float] = {}
    until: dict[int, float] = {}
    for end in ends:
        while begun < len(ends) and trace.arrivals[begun] < end:
            level, at = busy // slots, trace.arrivals[begun]
            if busy % slots == 0 and level >= least:
                cost += min(load, at - until.get(level, -math.inf))
                since[level] = at
            busy, begun = busy + 1, begun + 1
        busy -= 1
        level = busy // slots
        if busy % slots == 0 and level >= least:
            cost += end - since[level]
            until[level] = end
    return cost
