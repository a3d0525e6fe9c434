"""What a scaler is here: it sees a deployment as its metrics show it, and says how many replicas it wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PodView:
    """A replica, ready or on its way. Those that drain are not seen."""

    ready: bool
    age_seconds: float
    """Since it was asked for."""
    in_service: float
    """Requests that held one of its slots when it was last scraped; 0 for one that was not ready then."""
    queued: float
    """Its share of what waits, where the queue is in the pods; here it is at the gateway: 0."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What can be seen at a moment. Pods are as they are now; what is counted is as old as the last scrape."""

    now: float
    """Seconds since the start of the trace, history included."""
    spec: int
    """spec.replicas as it stands."""
    pods: Sequence[PodView]
    """Ready and loading; made when they are looked at."""
    in_service: float
    """All requests that held a slot."""
    queued: float
    """All requests that waited at the gateway. With no replica ready it is live: whoever holds them tells."""
    arrivals: float
    """Requests that came since the last scrape that this scaler saw; 0 where there was no new one."""
    service_seconds: float | None
    """The mean time that a request held its slot, of those that ended since then."""
    scraped_seconds_ago: float
    window_seconds: float
    """Between the last scrape and the one before it that this scaler saw; 0 where there was no new one."""
    eta_seconds: Sequence[float]
    """For each loading pod: the median load time less how long it has loaded, at least 0; infinite without a GPU."""
    available: int | None
    """The most replicas that the GPUs allow now; None without a limit."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a scaler is told about a deployment before it begins."""

    slots: int
    """Requests that one replica serves at once."""
    load_p50_seconds: float
    load_p90_seconds: float
    min_replicas: int
    max_replicas: int


class Scaler(Protocol):
    """A policy as it is configured. Three more attributes may be set:

    ``label``: tells it from others of the same name and configuration;
    ``wakes_at_once``: with no replica, an arrival calls ``decide`` (a proxy or an activator);
    ``prefers_idle``: of the ready replicas the idlest goes first (deletion costs), otherwise the youngest does.
    """

    name: str
    config: str
    """default, documented or tuned; baseline and hindsight are no peers."""
    interval_seconds: float
    """How often ``decide`` is called."""

    def start(self, workload: Workload) -> None:
        """Forget everything; a run begins."""

    def decide(self, view: ClusterView) -> int:
        """Return the new spec.replicas; it is kept within the workload's bounds."""
