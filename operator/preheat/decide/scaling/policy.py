"""What a deployment's owner wants of the scaler, and what is known of its loads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from preheat.decide.scaling.schedule import Window

HEADS_UP_SECONDS = 30.0
"""What passes between a request and the decision that it causes: a scrape, and the pass after it."""

WATCH_SECONDS = 300.0
"""Nothing goes before a load time, and this long at least, has been watched."""


class Mode(StrEnum):
    """Whether the scaler looks ahead."""

    PREDICTIVE = "Predictive"
    REACTIVE = "Reactive"
    """Only what is wanted now counts, and what was wanted within the last load time."""


@dataclass(frozen=True, slots=True)
class LoadTime:
    """How long a load takes, in seconds: from asking for a replica until it answers. Quantiles."""

    p50: float
    p90: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How one deployment is to be scaled."""

    min_replicas: int
    max_replicas: int
    """The budget: never more, whatever is forecast."""
    slots: float
    """Requests that one replica serves at once at full speed."""
    load: LoadTime
    late_seconds: float = 10.0
    """A request that waits longer for its slot is late."""
    patience_seconds: float = 300.0
    """After this a client has given up."""
    mode: Mode = Mode.PREDICTIVE
    schedules: Sequence[Window] = ()
    """Times of the week with more replicas than ``min_replicas``, whatever is forecast."""
    keep_until: float = -math.inf
    """Until then (Unix seconds) somebody may come again who was told to: the last replica does not go before."""

    @property
    def load_seconds(self) -> float:
        """The load time to plan with: the median, and a second at least."""
        return max(1.0, self.load.p50)

    @property
    def horizon_minutes(self) -> int:
        """How many minutes ahead a replica that is asked for now will serve."""
        return max(1, -int(-(self.load_seconds + HEADS_UP_SECONDS) // 60))

    def bounded(self, replicas: int) -> int:
        """Return a number of replicas within the bounds."""
        return max(self.min_replicas, min(self.max_replicas, replicas))

    def replicas_for(self, slots: float) -> int:
        """Return how many replicas hold this many requests at once."""
        return max(0, -int(-(slots - 1e-9) // self.slots))
