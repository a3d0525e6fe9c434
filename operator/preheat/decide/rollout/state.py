"""The values that a rollout is planned from, and the step that comes out. Numbers are replicas, times seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from preheat.api.llmdeployment import RolloutStrategy

ChildKey = tuple[str, str]
"""A Deployment of ours, by revision and GPU type."""


@dataclass(frozen=True, slots=True)
class Child:
    """The replicas of one revision on one GPU type. ``live`` pods are there and not on their way out."""

    revision: str
    gpu_type: str
    asked: int
    live: int = 0
    scheduled: int = 0
    ready: int = 0
    leaving: int = 0
    blocked: int = 0
    """Live pods for which the scheduler finds no place."""
    gpus: int = 1
    """GPUs of one replica."""
    ready_seconds: tuple[float, ...] = ()
    """For how long each ready pod has been ready."""

    @property
    def key(self) -> ChildKey:
        """What it is told by."""
        return self.revision, self.gpu_type


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there: every Deployment of the service, the target's included."""

    children: tuple[Child, ...]
    warm_nodes: int
    """Nodes that hold the target's weights, complete and verified. None counts while no such node has its pods' images."""
    images_missing: bool = False
    """Whether nodes hold the weights, and none of them the images of the target's pods."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The revision that replicas move to, and how many of each GPU type are wanted of it."""

    revision: str
    shares: Mapping[str, int]
    gpus: int = 1
    """GPUs of one replica."""
    going_back: bool = False
    """Whether it served before and the others failed: what of them is not ready goes at once."""

    @property
    def replicas(self) -> int:
        """How many are wanted in all."""
        return sum(self.shares.values())


@dataclass(frozen=True, slots=True)
class Room:
    """What the GPUs of one type can take of the target."""

    fits: int = 0
    """Replicas that free GPUs could hold on nodes with the weights, by the numbers."""
    unpulled: int = 0
    """How many of those would first have their images pulled: the scheduler knows nothing of images."""
    doubted: bool = False
    """Whether the scheduler has said for a while that they are not to be had: pods of strangers are not counted."""
    cold: int = 0
    """Replicas that free GPUs could hold on nodes that are getting the weights."""
    victims: Mapping[str, int] = field(default_factory=dict)
    """The fewest old replicas, by revision, that have to leave one node with weights and images for one of the target to fit
    there. Empty where that helps nobody."""
    serving_victims: int = 0
    """How many of those are ready."""
    useful: tuple[str, ...] = ()
    """The pods of old replicas that are worth most to the target, in that order."""

    @property
    def free(self) -> int:
        """Replicas that come up without an old one going."""
        return (0 if self.doubted else self.fits) + self.cold


@dataclass(frozen=True, slots=True)
class Pause:
    """A step of a canary: so many percent of the replicas are new, for so long."""

    percent: int
    seconds: int
    weight: int | None = None
    """What the new ones then get through a gateway, in percent; None: as many percent as they are."""


class Method(StrEnum):
    """How a rollout goes, as it is told."""

    SURGE = "Surge"
    ONE_BY_ONE = "OneByOne"
    DRAIN_FIRST = "DrainFirst"
    IN_PLACE = "InPlace"
    BLUE_GREEN = "BlueGreen"
    CANARY = "Canary"


class Phase(StrEnum):
    """What a rollout does now, as it is told."""

    WAITING_FOR_WEIGHTS = "WaitingForWeights"
    WAITING_FOR_IMAGE = "WaitingForImage"
    WAITING_FOR_GPU = "WaitingForGPU"
    MAKING_ROOM = "MakingRoom"
    LOADING = "Loading"
    HANDING_OVER = "HandingOver"
    WATCHING = "Watching"
    PAUSED = "Paused"


@dataclass(frozen=True, slots=True)
class Limits:
    """What spec.rollout asks for, and which way was told before."""

    strategy: RolloutStrategy = RolloutStrategy.AUTO
    pauses: tuple[Pause, ...] = ()
    paused: bool = False
    chosen: Method | None = None
    """The way that was told of this very rollout. It is only told: nothing is decided by it."""
    routed: bool = False
    """Whether requests come through a gateway."""


@dataclass(frozen=True, slots=True)
class Step:
    """How many replicas each Deployment should have now, and why."""

    replicas: Mapping[ChildKey, int]
    chosen: Method | None
    """None: it is decided when the weights of the target lie on a node."""
    why: str
    """Why it goes this way, with numbers."""
    phase: Phase
    message: str
    """What is done now, or what it waits for."""
    number: int = 1
    """Which step of how many, where it goes in steps."""
    of: int = 1
    look_again_seconds: float | None = None
    """When there is more to do without anything changing in the cluster."""
    share: int | None = None
    """What the target gets through a gateway, in percent. None: in proportion to ready replicas."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a strategy is given."""

    target: tuple[Child, ...]
    old: tuple[Child, ...]
    goal: Goal
    rooms: Mapping[str, Room]
    limits: Limits
    warm_nodes: int
    images_missing: bool = False

    @property
    def ready(self) -> int:
        """New replicas that answer."""
        return sum(child.ready for child in self.target)

    @property
    def asked(self) -> int:
        """New replicas that are asked for."""
        return sum(child.asked for child in self.target)

    @property
    def scheduled(self) -> int:
        """New replicas that hold GPUs."""
        return sum(child.scheduled for child in self.target)

    @property
    def blocked(self) -> int:
        """New replicas that wait for a place."""
        return sum(child.blocked for child in self.target)

    @property
    def old_asked(self) -> int:
        """Old replicas that are asked for."""
        return sum(child.asked for child in self.old)

    @property
    def serving(self) -> int:
        """Replicas that answer, of whatever revision."""
        return self.ready + sum(child.ready for child in self.old)

    @property
    def is_settled(self) -> bool:
        """Whether no old pod is on its way out, or about to be."""
        return not any(child.leaving or child.live > child.asked for child in self.old)

    def of(self, gpu_type: str) -> Child:
        """Return the target's Deployment on one GPU type, an empty one where there is none yet."""
        found = (child for child in self.target if child.gpu_type == gpu_type)
        return next(found, Child(self.goal.revision, gpu_type, 0, gpus=self.goal.gpus))
