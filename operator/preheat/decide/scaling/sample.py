"""What was seen of one deployment: a ``Sample`` may lack anything, a ``Known`` says how much was wanted."""

import math
from dataclasses import dataclass

LONGEST_WINDOW_SECONDS = 900.0
"""A window longer than this says nothing of what happened within it."""


SHORTEST_WINDOW_SECONDS = 1e-3
SHORTEST_SERVICE_SECONDS = 1e-6
MOST_REQUESTS = 1e12
"""Nobody serves so many, nor any so fast: such numbers are not believed, and their quotients stay numbers."""


@dataclass(frozen=True, slots=True)
class Known:
    """A window of which it is known how much was wanted. The rules look at nothing else. Fields as in ``Sample``."""

    at: float
    seconds: float
    arrivals: float
    in_service: float
    queued: float
    service_seconds: float | None
    ready: int
    loading: tuple[float, ...] = ()
    available: int | None = None

    @property
    def replicas(self) -> int:
        """Ready ones and those on their way."""
        return self.ready + len(self.loading)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of one deployment over one window. None means unknown: never zero."""

    at: float
    """Unix seconds, the end of the window."""
    seconds: float
    """Its length."""
    arrivals: float | None
    """Requests that came within it, also those that nobody could serve."""
    in_service: float | None
    """Mean of the requests that held a slot during the window."""
    queued: float | None
    """Requests that wait for a slot at its end."""
    service_seconds: float | None
    """Mean seconds that a request held a slot, of those that ended in the window; None when none ended."""
    ready: int
    """Replicas that serve at its end."""
    loading: tuple[float, ...] = ()
    """One per replica on its way: seconds until it is expected to be ready; infinite when nobody knows."""
    available: int | None = None
    """The most replicas that the cluster's GPUs allow now, those it has included; None when nobody knows."""

    @property
    def replicas(self) -> int:
        """Ready ones and those on their way."""
        return self.ready + len(self.loading)

    @property
    def is_known(self) -> bool:
        """Whether it says how much was wanted."""
        return self.known() is not None

    def known(self) -> Known | None:
        """Return it as a window that says how much was wanted, None where it does not. Numbers that cannot be are not believed."""
        arrivals, in_service, queued = self.arrivals, self.in_service, self.queued
        if arrivals is None or in_service is None or queued is None:
            return None
        if not all(_can_be(value) for value in (self.at, arrivals, in_service, queued)):
            return None
        service = self.service_seconds
        if not SHORTEST_WINDOW_SECONDS <= self.seconds <= LONGEST_WINDOW_SECONDS:
            return None
        if service is not None and not (_can_be(service) and service >= SHORTEST_SERVICE_SECONDS):
            return None
        return Known(
            self.at,
            self.seconds,
            arrivals,
            in_service,
            queued,
            service,
            self.ready,
            self.loading,
            self.available,
        )


def _can_be(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= MOST_REQUESTS
