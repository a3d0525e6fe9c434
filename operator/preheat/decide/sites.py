"""Where a ModelCache's weights can be, besides node disks: what then stands in a node's place, and how it is told.

A shared volume and a registry are looked after as nodes are: each has one Job, one progress, one line in the status.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from preheat.api.constants import ANNOTATION_RESOLVED, REGISTRY_SITE, SHARED_SITE
from preheat.api.modelcache import CacheMode, ModelCache, NodeCacheStatus, StorageSpec
from preheat.decide.observed import JobState, JobView, NodeView, PodView, WarmerReport
from preheat.decide.plan import Delete, LabelNode, Write
from preheat.resources.caching import node_label
from preheat.resources.weights import digest_in

NO_NODES = frozenset({SHARED_SITE, REGISTRY_SITE})
"""What stands in a node's place."""

GONE_SECONDS = 600.0
"""How long a new image may take to be seen by a pod that failed without it: kubelets look every 300 s at last."""

NEVER_PULL = "ErrImageNeverPull"
"""The kubelet's word for an image that is not there and that it must not pull."""

_UNBOUND = "unbound immediate PersistentVolumeClaims"
"""The scheduler's words for a claim that has no volume; it does not say which claim."""


def resolved(cache: ModelCache, reports: Mapping[str, WarmerReport]) -> str:
    """Return the digest of a cache's image; empty while only a tag is known, and for other modes.

    A tag is asked for once: what it stands for later does not matter to a cache that knows.
    """
    if cache.spec.storage.mode is not CacheMode.IMAGE:
        return ""
    asked = reports.get(REGISTRY_SITE)
    known = (
        cache.spec.source.uri,
        cache.annotations.get(ANNOTATION_RESOLVED),
        cache.status.resolved_revision,
        asked.resolved_revision if asked is not None and asked.state == "Published" else None,
    )
    return next((digest for text in known if (digest := digest_in(text))), "")


def instead_of_nodes(
    cache: ModelCache, jobs: Mapping[str, JobView], key: str, resolved: str
) -> list[NodeView] | None:
    """Return what stands in the nodes' place; None where the nodes themselves are meant."""
    mode = cache.spec.storage.mode
    if mode is CacheMode.SHARED:
        job = jobs.get(SHARED_SITE)
        return [_site(SHARED_SITE, {key} if job is not None and job.state is JobState.COMPLETE else ())]
    if mode is CacheMode.IMAGE and not resolved:
        return [_site(REGISTRY_SITE, ())]
    return None


def _site(name: str, caches: Collection[str]) -> NodeView:
    return NodeView(name, {}, (), ready=True, schedulable=True, allocatable={}, caches=frozenset(caches))


def wanted_nodes(cache: ModelCache, states: Sequence[NodeCacheStatus]) -> int | None:
    """Return on how many nodes the weights are asked for; None: wherever they are looked after."""
    return None if any(state.name in NO_NODES for state in states) else cache.spec.placement.nodes


def holding(storage: StorageSpec, ready: int, desired: int) -> str:
    """Say who holds the weights."""
    if storage.mode is CacheMode.SHARED:
        return (
            f"Claim {storage.claim_name} {'holds the weights' if ready else 'does not hold the weights yet'}."
        )
    return f"{ready} of {desired} nodes hold the weights."


def progress(cache: ModelCache, states: Sequence[NodeCacheStatus], ready: int, desired: int) -> str:
    """Say who holds the weights, or what must be known before anybody can."""
    if any(state.name == REGISTRY_SITE for state in states):
        return f"No node pulls before it is known which image {cache.spec.source.uri} stands for."
    return holding(cache.spec.storage, ready, desired)


def misses_image(pod: PodView, resolved: str) -> bool:
    """Tell whether a pod does not start because its node has the image with the weights no more."""
    return bool(resolved) and pod.waiting_reason == NEVER_PULL and resolved in (pod.waiting_message or "")


def is_unbound(pod: PodView) -> bool:
    """Tell whether the warmer of a shared volume waits for the user's claim to get its volume."""
    return pod.job_node == SHARED_SITE and _UNBOUND in (pod.unschedulable or "")


def forgetting(
    missed: Collection[str], nodes: Sequence[NodeView], jobs: Mapping[str, JobView], key: str, namespace: str,
    now: datetime,
) -> list[Write]:  # fmt: skip
    """Return what makes nodes pull an image again that their kubelets have removed.

    The Job goes first: while it is there, the node would be labelled again. A Job that ended a moment ago is
    believed: pods that failed before it look again by themselves.
    """
    writes: list[Write] = []
    for node in nodes:
        job = jobs.get(node.name)
        if node.name not in missed or key not in node.caches or _is_fresh(job, now):
            continue
        if job is not None:
            writes.append(Delete("Job", namespace, job.name, job.uid))
        writes.append(LabelNode(node.name, {node_label(key): None}, node.version))
    return writes


def answers_lost(
    cache: ModelCache, jobs: Mapping[str, JobView], reports: Mapping[str, WarmerReport], resolved: str
) -> list[Write]:
    """Return what has a registry asked again whose answer is gone, with the status or with the pod that had it."""
    job = jobs.get(REGISTRY_SITE)
    is_lost = job is not None and job.state is JobState.COMPLETE and REGISTRY_SITE not in reports
    if cache.spec.storage.mode is not CacheMode.IMAGE or resolved or job is None or not is_lost:
        return []
    return [Delete("Job", cache.namespace, job.name, job.uid)]


def _is_fresh(job: JobView | None, now: datetime) -> bool:
    if job is None:
        return False
    return job.ended is None or now - job.ended < timedelta(seconds=GONE_SECONDS)
