"""What the peers have in common: how they read a view, and the per-replica target that a user would choose."""

from collections import deque
from dataclasses import replace

from e2e.bench.scaling.scaler import ClusterView, Workload

UTILISATION = 0.7
"""Share of a replica's slots that a default configuration aims for. Knative's own default (container-concurrency-target
percentage 70), and the headroom that most guides name; given to every peer that has no default of its own."""


def target_of(workload: Workload, absolute: float | None, share: float) -> float:
    """Return the requests per replica to aim for: a number where one is given, else a share of the slots."""
    return share * workload.slots if absolute is None else absolute


def ready_of(view: ClusterView) -> int:
    """Return how many replicas serve. Counted by what loads, because making every PodView costs more."""
    return len(view.pods) - len(view.eta_seconds)


def in_flight(view: ClusterView) -> float:
    """Return all requests that hold a slot or wait for one."""
    return view.in_service + view.queued


def clamp(replicas: int, workload: Workload) -> int:
    """Keep a number of replicas within the workload's bounds."""
    return max(workload.min_replicas, min(workload.max_replicas, replicas))


def at_least_one(workload: Workload) -> Workload:
    """Return the bounds for a peer that has no way to or from zero: who uses it keeps one replica."""
    return replace(workload, min_replicas=max(1, workload.min_replicas))


class Ticks:
    """A loop of its own period inside ``decide``: an engine beside an HPA, a predictor beside a planner."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.due: float | None = None

    def fires(self, now: float) -> bool:
        """Return whether the period is over. The first look fires; a late one does not shift those after it."""
        if self.due is None:
            self.due = now + self.seconds
            return True
        if now < self.due:
            return False
        while self.due <= now:
            self.due += self.seconds
        return True


class Mean:
    """The mean of the values of the last ``seconds``, each value counted once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.values: deque[tuple[float, float]] = deque()
        self.total = 0.0

    def add(self, now: float, value: float) -> float:
        """Record a value and return the mean with it. Values exactly ``seconds`` old count no more."""
        self.values.append((now, value))
        self.total += value
        while self.values[0][0] <= now - self.seconds:
            self.total -= self.values.popleft()[1]
        return self.total / len(self.values)
