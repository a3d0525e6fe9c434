"""What a decision is: writes in order, one status, events to emit after it, and when to look again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from preheat.resources.metadata import Manifest

if TYPE_CHECKING:
    from preheat.decide.autoscale import Outcome

RESYNC_SECONDS = 300.0
"""How often an object at rest is looked at again."""
POLL_SECONDS = 1.0
"""How often progress is asked for while something is under way."""


IMAGES = "images"
"""The part of what has images pulled ahead. What is refused of it keeps nobody from being Ready."""
PAGES = "pages"
"""The part of what has weights read into memory ahead. What is refused of it is told, and nothing more."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make an object so (server-side apply). ``once``: its fields cannot change, so only create it."""

    manifest: Manifest
    once: bool = False
    part: str = ""
    """Writes of one part are made in order, up to the first that is refused. Another part is made all the same."""


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
    part: str = ""


@dataclass(frozen=True, slots=True)
class LabelNode:
    """Set labels of a node, or remove them (None), if it still is as it was observed."""

    node: str
    labels: Mapping[str, str | None]
    version: str
    """The resourceVersion that was observed."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Let a suspended warmer begin, if it still is the one that was observed.

    ``room_bytes``: the most that it may take on its node, None for as much as it likes.
    """

    namespace: str
    name: str
    uid: str
    room_bytes: int | None


@dataclass(frozen=True, slots=True)
class PricePod:
    """Say what deleting a pod costs, or nothing any more (None), if it still is the one that was observed."""

    namespace: str
    name: str
    uid: str
    cost: int | None


@dataclass(frozen=True, slots=True)
class Advise:
    """Tell an agent what it may do, and what to expect. No write: nothing of it is kept in the cluster. Seconds."""

    ip: str
    uid: str
    """Of its pod: another pod may have the address by then."""
    waits: bool
    """Whether it waits for a grant, and is told whether it has one."""
    grant: int | None
    """The step of healing that it may take."""
    grant_seconds: float
    load_seconds: float | None
    """How long a load takes nearly always, None when it knows."""


Write = Admit | Adopt | Apply | Delete | LabelNode | PricePod


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An Event to emit once the status that it tells of is written."""

    reason: str
    message: str
    warning: bool


class Milestone(StrEnum):
    """What is counted in a metric, once the status that tells of it is written."""

    ROLLOUT_STARTED = "rollout started"
    ROLLOUT_COMPLETED = "rollout completed"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass's outcome. ``status`` None leaves the status as it is."""

    writes: tuple[Write, ...]
    status: dict[str, Any] | None
    events: tuple[EventDraft, ...]
    requeue_after: float
    scaled: "Outcome | None" = None
    """What was decided of the number of replicas: the next pass has to know."""
    advice: tuple[Advise, ...] = ()
    """What agents are told."""
    milestones: tuple[tuple[Milestone, str], ...] = ()
    """What has happened since the status that is there, and the reason; empty where there is none to tell."""


def apart(part: str, writes: Iterable[Write]) -> list[Write]:
    """Return writes that do not wait for others, nor others for them."""
    return [replace(write, part=part) if isinstance(write, Apply | Delete) else write for write in writes]


def part_of(write: Write) -> str:
    """Return the part that a write belongs to."""
    return write.part if isinstance(write, Apply | Delete) else ""


def timestamp(now: datetime) -> str:
    """Return a time as the API writes it: whole seconds, UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
