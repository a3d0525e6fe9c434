"""What a decision is: writes in order, one status, events to emit after it, and when to look again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from preheat.resources.metadata import Manifest

RESYNC_SECONDS = 300.0
"""How often an object at rest is looked at again."""
POLL_SECONDS = 1.0
"""How often progress is asked for while something is under way."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make an object so (server-side apply). ``once``: its fields cannot change, so only create it."""

    manifest: Manifest
    once: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """Become the controller of an object of ours that has none: its owner was deleted, and it was left."""

    live: Manifest
    owner: Manifest


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object, if it still is the one that was observed."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class LabelNode:
    """Set labels of a node, or remove them (None)."""

    node: str
    labels: Mapping[str, str | None]


Write = Adopt | Apply | Delete | LabelNode


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An Event to emit once the status that it tells of is written."""

    reason: str
    message: str
    warning: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass's outcome. ``status`` None leaves the status as it is."""

    writes: tuple[Write, ...]
    status: dict[str, Any] | None
    events: tuple[EventDraft, ...]
    requeue_after: float


def timestamp(now: datetime) -> str:
    """Return a time as the API writes it: whole seconds, UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
