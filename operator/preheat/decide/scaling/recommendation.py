"""What the scaler says: a number, why, and what it did not choose."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why this many replicas."""

    FORECAST_RISES = "ForecastRises"
    """More will be wanted when a replica that is asked for now is ready."""
    DEMAND_RISES = "DemandRises"
    """More is wanted now than there is room for."""
    DRAINING_BACKLOG = "DrainingBacklog"
    """Requests wait; some replicas more than are wanted bring the queue down."""
    HOLDING = "Holding"
    """Some could go, but would be wanted again within a load time; or are loading; or requests wait."""
    STEADY = "Steady"
    """What there is, is right."""
    DEMAND_FALLS = "DemandFalls"
    """Fewer are enough for the next load time and were for the last."""
    IDLE = "Idle"
    """Nobody asked for a load time, and nobody is expected."""
    WAKING = "Waking"
    """Somebody asks, and there is no replica."""
    PREWARMING = "Prewarming"
    """Nobody asks yet, but at this time of day somebody does."""
    SCHEDULED = "Scheduled"
    """A window of the schedule asks for it."""
    AT_MINIMUM = "AtMinimum"
    AT_BUDGET = "AtBudget"
    """More are wanted than maxReplicas allows."""
    STOCK_OUT = "StockOut"
    """More are wanted than the cluster has GPUs for; they are not asked for until there are."""
    UNKNOWN = "Unknown"
    """Nobody knows what is wanted: nothing moves."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A number that was not chosen."""

    replicas: int
    why: str
    """Why not."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How many replicas there should be in all, ready and loading."""

    replicas: int
    reason: Reason
    message: str
    """One sentence with the numbers that decided."""
    inputs: Mapping[str, float]
    """Everything that was looked at, by name with its unit."""
    rejected: Alternative | None
    look_again_seconds: float
    """When to decide again at the latest."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A number, why, and the one that was not taken."""

    replicas: int
    reason: Reason
    rejected: Alternative | None = None
