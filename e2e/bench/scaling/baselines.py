"""Scalers that need no thought: what the benchmark is tried with, and what a peer should at least beat."""

from dataclasses import dataclass

from e2e.bench.scaling.scaler import ClusterView, Workload


@dataclass
class Static:
    """Always the same number; which one, only hindsight knows."""

    replicas: int
    name: str = "static"
    config: str = "hindsight"
    interval_seconds: float = 15.0

    def start(self, workload: Workload) -> None:
        """Nothing to remember."""

    def decide(self, view: ClusterView) -> int:  # noqa: ARG002
        """Return it."""
        return self.replicas


class Proportional:
    """As many as keep 70 % of the slots busy by what is in flight now: what a first attempt does."""

    name = "proportional"
    config = "baseline"
    interval_seconds = 15.0

    def start(self, workload: Workload) -> None:
        """Remember the slots."""
        self.target = 0.7 * workload.slots

    def decide(self, view: ClusterView) -> int:
        """Return what is in flight, divided."""
        return -int(-(view.in_service + view.queued) // self.target)
