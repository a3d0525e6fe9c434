"""How a new revision takes over: which replicas come and which go, one step at a time (README.md)."""

from preheat.decide.rollout.planner import next_step
from preheat.decide.rollout.state import (
    Child,
    ChildKey,
    Goal,
    Limits,
    Method,
    Observed,
    Pause,
    Phase,
    Room,
    Step,
)

__all__ = [
    "Child",
    "ChildKey",
    "Goal",
    "Limits",
    "Method",
    "Observed",
    "Pause",
    "Phase",
    "Room",
    "Step",
    "next_step",
]
