"""What is wanted for one LLMDeployment: how many replicas, of which revision, on which GPU types, from which cache."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment, StorageTier
from preheat.api.modelcache import CacheMode, ModelCache, NodeCacheState
from preheat.config import OperatorConfig
from preheat.decide.autoscale import NextLoad, Outcome, ScalingObservation, decide_scaling
from preheat.decide.capacity import GPUUse
from preheat.decide.fallback import Split, split_over_types
from preheat.decide.front import FrontObservation
from preheat.decide.neighbours import WAITS
from preheat.decide.observed import DeploymentView, NodeView, PodView, Puller, Reading, is_controlled_by
from preheat.decide.quarantine import runs_on_quarantined
from preheat.decide.target import Target
from preheat.decide.traffic import RouteObservation
from preheat.resources import caching, names, serving
from preheat.resources.metadata import Manifest
from preheat.resources.serving import Revision
from preheat.resources.weights import digest_in


@dataclass(frozen=True, slots=True)
class ServiceObservation:
    """Everything that a pass over one LLMDeployment looks at."""

    nodes: Sequence[NodeView]
    deployments: Sequence[DeploymentView]
    pods: Sequence[PodView]
    """Of every revision, those that are on their way out as well. None that has ended: it is no replica any more."""
    caches: Sequence[ModelCache]
    """All ModelCaches of the namespace: one made ahead of time serves as well as our own."""
    children: Sequence[Manifest]
    """Live ControllerRevisions, Deployments and ModelCaches of this service."""
    uses: Sequence[GPUUse] = ()
    """GPUs that our own replicas hold; looked up when a pod of this service finds none, and in a rollout."""
    look_again: float | None = None
    """In how many seconds there may be more to see of pods that do not start."""
    warmed: Mapping[str, datetime] = field(default_factory=dict)
    """When the weights were complete on a node, where that is known."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """How much ready replicas were asked, by the uid of their pods; only while a new revision is compared."""
    scaling: ScalingObservation | None = None
    """What is known of its scaling; None where somebody else decides the number."""
    narrow: Collection[str] = ()
    """The keys of caches that it may use whose serve volume shows their folder alone: made by an older release."""
    front: FrontObservation | None = None
    """What is known of the front; None where nobody looked."""
    route: RouteObservation | None = None
    """What is known of the way through gateways; None where nobody looked."""
    pullers: Sequence[Puller] = ()
    """The Jobs that have nodes pull the images of pods."""
    pagers: Sequence[Puller] = ()
    """The Jobs that have nodes read weights into memory."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """How much memory our own pods ask for, by node; only looked up where weights may be read into memory."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What should be."""

    replicas: int
    id: str
    split: Split
    revisions: tuple[Revision, ...]
    """The wanted revision, once per GPU type that gets replicas; none while nobody knows which image a tag is."""
    cache: str
    key: str
    """The key of the weights that it needs. A cache of that name with another key holds others."""
    makes_cache: bool
    resolved: str = ""
    """The digest of the image with the weights, where they are in one."""
    forecast: int | None = None
    """The most replicas that are expected within the time that a node needs to get the weights."""
    going_back: bool = False
    """Whether its revision served before, and the one after it failed or was given up."""

    @property
    def shares(self) -> Mapping[GPUType, int]:
        """How many replicas each GPU type gets."""
        return self.split.shares


def desired_replicas(service: LLMDeployment, scaled: Outcome | None = None) -> int:
    """Return how many replicas should serve: what Preheat decided, or spec.replicas within the bounds of spec.scaling."""
    if scaled is not None:
        return scaled.replicas
    scaling = service.spec.scaling
    return max(scaling.min_replicas, min(scaling.max_replicas, service.spec.replicas))


def stored_revisions(service: LLMDeployment, seen: ServiceObservation) -> list[Revision]:
    """Return what our ControllerRevisions pin: every revision that can be gone back to."""
    return pinned_revisions(service, seen.children)


def pinned_revisions(service: LLMDeployment, children: Iterable[Manifest]) -> list[Revision]:
    """Return what the ControllerRevisions among a service's children pin."""
    bodies = (
        body
        for body in children
        if body["kind"] == "ControllerRevision" and is_controlled_by(body, service.uid)
    )
    return [r for body in bodies if (r := serving.parse_controller_revision(body)) is not None]


def make_wish(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    config: OperatorConfig,
    now: datetime,
    scaled: Outcome | None = None,
    target: Target | None = None,
) -> Wish:
    """Return what is wanted now. ``target``: of which revision, left out for the spec's.

    A revision that is gone back to is as it is stored: nothing of it is rendered, and it keeps its number.
    Raises InvalidSpec when the engine cannot do what the spec asks.
    """
    target = target or Target(serving.revision_id(service))
    identity = target.id
    replicas = desired_replicas(service, scaled)
    same = {revision.gpu_type: revision for revision in stored if revision.id == identity}
    cache, makes_cache = _cache(service, seen, next((r.cache for r in same.values()), None))
    key = _key(service, cache, same.values())
    found = _holder(seen, cache, key)
    split = _split(service, seen, identity, replicas, found, now)
    used = [gpu for gpu, share in split.shares.items() if share > 0] or [service.spec.hardware.gpu.types[0]]
    number, resolved = _number(target, stored), _resolved(service, same.values(), found)
    # Of an old version nobody knows the source of its cache: it cannot be made.
    makes_cache = makes_cache and not (target.going_back and all(r.spec is None for r in same.values()))
    revisions = []
    for gpu_type in used:
        # What is stored is taken as it is: a new operator version changes no running pod.
        pinned = same.get(gpu_type)
        if pinned is None and not target.going_back:
            rendered = serving.render_revision(
                service, gpu_type, number, cache, config, resolved or "", seen.narrow
            )
            running = _deployment(service, seen, names.child_name(service.name, identity, gpu_type))
            if running is not None:
                rendered = serving.with_template_of(rendered, running)
            pinned = rendered if resolved is not None else None
        if pinned is not None:
            revisions.append(replace(pinned, number=number))
    forecast = scaled.status.forecast_replicas if scaled is not None else None
    return Wish(
        replicas,
        identity,
        split,
        tuple(revisions),
        cache,
        key,
        makes_cache,
        resolved or "",
        forecast,
        target.going_back,
    )


def _split(
    service: LLMDeployment,
    seen: ServiceObservation,
    identity: str,
    replicas: int,
    cache: ModelCache | None,
    now: datetime,
) -> Split:
    """Return how replicas are split over GPU types. Those on weights that were put aside are the first to be too many."""
    wrong = (cache.status.quarantined if cache is not None else None) or []
    bad = {pod.name for pod in seen.pods if runs_on_quarantined(pod, wrong)} if wrong else frozenset()
    warming = _warming(cache, seen) if len(service.spec.hardware.gpu.types) > 1 else frozenset()
    return split_over_types(
        service, replicas, seen.nodes, seen.deployments, seen.pods, identity, now, bad, warming
    )


def _warming(cache: ModelCache | None, seen: ServiceObservation) -> frozenset[str]:
    """Return the nodes to which weights are on their way: any may be one, as long as none was chosen.

    One where something is in the way, or where they are not to be had, is none of them.
    """
    if cache is None or cache.status.observed_generation is None:
        return frozenset(node.name for node in seen.nodes)
    ended = {NodeCacheState.READY, NodeCacheState.FAILED, NodeCacheState.EVICTING}
    return frozenset(
        node.name
        for node in cache.status.nodes
        if node.state not in ended
        and (node.state is not NodeCacheState.PENDING or node.reason in {None, WAITS})
    )


def _deployment(service: LLMDeployment, seen: ServiceObservation, name: str) -> Manifest | None:
    """Return a Deployment of ours that is there, None when there is none of this name."""
    return next(
        (
            body
            for body in seen.children
            if body["kind"] == "Deployment"
            and body["metadata"]["name"] == name
            and "deletionTimestamp" not in body["metadata"]
            and is_controlled_by(body, service.uid)
        ),
        None,
    )


def scale(service: LLMDeployment, seen: ServiceObservation, now: datetime) -> Outcome | None:
    """Return how many replicas Preheat decides that there should be, None where somebody else decides."""
    if seen.scaling is None:
        return None
    live = [pod for pod in seen.pods if not pod.deleting]
    used = service.status.cache
    cache = next(
        (c for c in seen.caches if used and c.name == used.name and caching.same_source(c, service)), None
    )
    # The weights are on as many nodes as they should be: the next replica finds them there.
    near = cache is not None and (cache.status.ready_nodes or 0) >= max(1, cache.status.desired_nodes or 0)
    following = NextLoad(
        revision=serving.revision_id(service),
        gpu_type=next((pod.gpu_type for pod in live), service.spec.hardware.gpu.types[0].value),
        tier=StorageTier.ON_DISK if near else StorageTier.COLD,
        total_bytes=cache.status.total_bytes if cache else None,
    )
    return decide_scaling(service, seen.scaling, live, following, now)


def _resolved(service: LLMDeployment, same: Iterable[Revision], cache: ModelCache | None) -> str | None:
    """Return the digest of the image that pods name: None while a tag is not resolved, empty in other modes.

    What a revision pins stays, whatever the tag stands for when its cache is made again.
    """
    if service.spec.cache.mode is not CacheMode.IMAGE:
        return ""
    told = cache.status.resolved_revision if cache is not None else None
    known = (*(revision.resolved for revision in same), service.spec.model.uri, told)
    return next((digest for text in known if (digest := digest_in(text))), None)


def _number(target: Target, stored: Sequence[Revision]) -> int:
    """Return the wanted revision's number: the highest. A spec that is as an old one was makes that the newest.

    Who goes back while the spec stays as it is keeps the number: another time the spec's is wanted again.
    """
    newest = max(stored, key=lambda revision: revision.number, default=None)
    if newest is None:
        return 1
    if target.going_back:
        return max(revision.number for revision in stored if revision.id == target.id)
    return newest.number if newest.id == target.id else newest.number + 1


def _cache(service: LLMDeployment, seen: ServiceObservation, pinned: str | None) -> tuple[str, bool]:
    """Return the name of the ModelCache to use, and whether it is ours to make.

    A cache that somebody made ahead of time with the very same source is used as it is. What a revision pins stays, also where
    that cache is gone or holds other weights by now: its pods mount the weights of that very one, and with another claim in
    their template all would start again at once. Only another revision may have them fetched under a name of our own.
    """
    own = names.cache_name(service.name, serving.cache_source(service), serving.cache_storage(service))
    made_ahead = (
        cache.name
        for cache in seen.caches
        if caching.made_for(cache) is None and caching.same_source(cache, service)
    )
    name = pinned or min(made_ahead, default=own)
    return name, name == own


def _key(service: LLMDeployment, cache: str, same: Iterable[Revision]) -> str:
    """Return the key of the weights that are wanted: of those that the revision's pods mount, or would."""
    pinned = next((key for revision in same if (key := revision.key) is not None), None)
    return pinned or names.cache_key(
        service.namespace, cache, serving.cache_source(service), serving.cache_storage(service)
    )


def ready_nodes(wish: Wish, seen: ServiceObservation) -> int:
    """Return on how many nodes the wanted weights are complete."""
    cache = the_cache(wish, seen)
    return (cache.status.ready_nodes or 0) if cache else 0


def the_cache(wish: Wish, seen: ServiceObservation) -> ModelCache | None:
    """Return the cache with the wanted weights, None while it is not there, or one of its name holds others."""
    return _holder(seen, wish.cache, wish.key)


def _holder(seen: ServiceObservation, name: str, key: str) -> ModelCache | None:
    return next((c for c in seen.caches if c.name == name and caching.cache_key(c) == key), None)


def why_never(service: LLMDeployment, seen: ServiceObservation, wish: Wish) -> str | None:
    """Say why nobody fetches the wanted weights: a person's cache is gone or holds others. None while somebody does, or has."""
    if wish.makes_cache or the_cache(wish, seen) is not None:
        return None
    other = next((cache for cache in seen.caches if cache.name == wish.cache), None)
    if other is None:
        return f"ModelCache {wish.cache} is gone, and this revision's pods need it: make it again, or change the spec."
    # Of a revision that is gone back to the spec of now may not tell what it needs.
    is_known = _key(service, wish.cache, ()) == wish.key
    needed = f" ({service.spec.model.uri})" if is_known else ""
    return (
        f"ModelCache {wish.cache} holds other weights ({other.spec.source.uri}) than revision {wish.id} needs{needed}: it was "
        "made again with another source or storage. Delete it and make it again with those that it had, or change the "
        "LLMDeployment: a new revision has its weights fetched."
    )


def runs(view: DeploymentView, pod: PodView) -> bool:
    """Tell whether a pod is a replica of a Deployment."""
    return pod.revision == view.revision and pod.gpu_type == view.gpu_type
