"""What is wanted for one LLMDeployment: how many replicas, of which revision, on which GPU types, from which cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.decide.capacity import GPUUse
from preheat.decide.observed import DeploymentView, NodeView, PodView, is_controlled_by
from preheat.decide.placement import split_over_types
from preheat.resources import caching, names, serving
from preheat.resources.metadata import Manifest
from preheat.resources.serving import Revision


@dataclass(frozen=True, slots=True)
class ServiceObservation:
    """Everything that a pass over one LLMDeployment looks at."""

    nodes: Sequence[NodeView]
    deployments: Sequence[DeploymentView]
    pods: Sequence[PodView]
    caches: Sequence[ModelCache]
    """All ModelCaches of the namespace: one made ahead of time serves as well as our own."""
    children: Sequence[Manifest]
    """Live ControllerRevisions, ConfigMaps, Deployments and ModelCaches of this service."""
    uses: Sequence[GPUUse] = ()
    """GPUs that our own replicas hold; looked up when a pod of this service finds none."""
    look_again: float | None = None
    """In how many seconds there may be more to see of pods that do not start."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What should be."""

    replicas: int
    id: str
    shares: Mapping[GPUType, int]
    revisions: tuple[Revision, ...]
    """The wanted revision, once per GPU type that gets replicas."""
    cache: str
    makes_cache: bool


def desired_replicas(service: LLMDeployment) -> int:
    """Return how many replicas should serve: spec.replicas, held within the bounds of spec.scaling."""
    scaling = service.spec.scaling
    return max(scaling.min_replicas, min(scaling.max_replicas, service.spec.replicas))


def stored_revisions(service: LLMDeployment, seen: ServiceObservation) -> list[Revision]:
    """Return what our ControllerRevisions pin: every revision that can be gone back to."""
    bodies = (
        body
        for body in seen.children
        if body["kind"] == "ControllerRevision" and is_controlled_by(body, service.uid)
    )
    return [r for body in bodies if (r := serving.parse_controller_revision(body)) is not None]


def make_wish(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    config: OperatorConfig,
) -> Wish:
    """Return what is wanted now.

    Raises InvalidSpec when the engine cannot do what the spec asks.
    """
    identity = serving.revision_id(service)
    replicas = desired_replicas(service)
    shares = split_over_types(service, replicas, seen.nodes)
    used = [gpu for gpu, share in shares.items() if share > 0] or [service.spec.hardware.gpu.types[0]]
    same = {revision.gpu_type: revision for revision in stored if revision.id == identity}
    cache, makes_cache = _cache(service, seen, next((r.cache for r in same.values()), None))
    number = _number(identity, stored)
    revisions = []
    for gpu_type in used:
        # What is stored is taken as it is: a new operator version changes no running pod.
        pinned = same.get(gpu_type) or serving.render_revision(service, gpu_type, number, cache, config)
        revisions.append(replace(pinned, number=number))
    return Wish(replicas, identity, shares, tuple(revisions), cache, makes_cache)


def _number(identity: str, stored: Sequence[Revision]) -> int:
    """Return the wanted revision's number: the highest. Going back to an old one makes it the newest."""
    newest = max(stored, key=lambda revision: revision.number, default=None)
    if newest is None:
        return 1
    return newest.number if newest.id == identity else newest.number + 1


def _cache(service: LLMDeployment, seen: ServiceObservation, pinned: str | None) -> tuple[str, bool]:
    """Return the name of the ModelCache to use, and whether it is ours to make.

    A cache that somebody made ahead of time with the very same source is used as it is.
    """
    own = names.cache_name(service.name, serving.cache_source(service))
    made_ahead = (
        cache.name
        for cache in seen.caches
        if caching.made_for(cache) is None and caching.same_source(cache, service)
    )
    name = pinned or min(made_ahead, default=own)
    return name, name == own


def ready_nodes(wish: Wish, seen: ServiceObservation) -> int:
    """Return on how many nodes the wanted weights are complete."""
    cache = the_cache(wish, seen)
    return (cache.status.ready_nodes or 0) if cache else 0


def the_cache(wish: Wish, seen: ServiceObservation) -> ModelCache | None:
    """Return the cache with the wanted weights, None while it is not there."""
    return next((cache for cache in seen.caches if cache.name == wish.cache), None)


def runs(view: DeploymentView, pod: PodView) -> bool:
    """Tell whether a pod is a replica of a Deployment."""
    return pod.revision == view.revision and pod.gpu_type == view.gpu_type
