"""Who asked for what, for each deployment. It forgets a deployment with its slice, so it does not grow."""

import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

Name = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True)
class Counts:
    """Of one deployment. They only grow."""

    arrivals: int = 0
    """Requests that are a reason to wake it."""
    others: int = 0
    """Those that are none: probes, looks at metrics."""
    last: float = 0.0
    """When the last arrival was, by a clock that never goes back."""


class Tally:
    """Owned by one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[Name, Counts] = {}
        self.since = uuid.uuid4().hex
        """Another one is another process, whose counts began at zero."""
        self.cut_off = 0
        """Connections that were ended because there were too many."""
        self.malformed = 0
        """What came and was no request, or none in time."""

    def count(self, name: Name, *, arrival: bool) -> None:
        """Count one request."""
        counts = self._counts.setdefault(name, Counts())
        if arrival:
            counts.arrivals += 1
            counts.last = self._clock()
        else:
            counts.others += 1

    def keep(self, names: Collection[Name]) -> None:
        """Forget all but these."""
        self._counts = {name: counts for name, counts in self._counts.items() if name in names}

    def all(self) -> dict[Name, Counts]:
        """Return what was counted."""
        return dict(self._counts)

    def seconds_since(self, counts: Counts) -> float:
        """Return how long ago the last arrival was."""
        return max(0.0, self._clock() - counts.last)
