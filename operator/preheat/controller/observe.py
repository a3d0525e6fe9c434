"""All reads of one pass, gathered into one value. Missing things are missing, never an error."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from preheat.api.constants import (
    COMPONENT_PAGER,
    COMPONENT_PULLER,
    COMPONENT_SEEDER,
    COMPONENT_VERIFIER,
    COMPONENT_WARMER,
    VERIFIER_SITE,
)
from preheat.api.llmdeployment import LLMDeployment, PageCache, ScalingMode
from preheat.api.modelcache import CacheMode, ModelCache
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.complaints import Complaints
from preheat.controller.disks import (
    found_wrong,
    is_keepers,
    last_words,
    mounts_of,
    what_is_corrupt,
    why_it_waits,
)
from preheat.controller.front import Front
from preheat.controller.keys import cache_keys, parsed_cache, running_keys, serve_path, used_keys
from preheat.controller.scaling import Scaling
from preheat.controller.view import Key, View, key_of
from preheat.decide.caching import CacheObservation
from preheat.decide.capacity import GPUUse, gpus_held, memory_held
from preheat.decide.judgement.judge import is_compared
from preheat.decide.loads import is_unlearned
from preheat.decide.observed import (
    DeploymentView,
    JobState,
    JobView,
    KeeperReport,
    NodeView,
    PodView,
    Puller,
    WarmerReport,
    controller_name,
    is_controlled_by,
    is_replica_of,
)
from preheat.decide.orphans import OrphanObservation
from preheat.decide.ownership import is_orphan
from preheat.decide.sites import misses_image, resolved
from preheat.decide.traffic import RouteObservation, is_of_a_revision
from preheat.decide.wish import ServiceObservation, pinned_revisions
from preheat.resources import caching, names
from preheat.resources.caching import cache_key
from preheat.resources.metadata import Manifest
from preheat.resources.names import namespace_key, volume_name
from preheat.resources.serving import cache_source, cache_storage, revision_id


async def observe_service(
    service: LLMDeployment,
    view: View,
    sidecars: Sidecars,
    complaints: Complaints,
    scaling: Scaling,
    front: Front,
    now: datetime,
) -> ServiceObservation:
    """Gather what a pass over one LLMDeployment looks at.

    Agents of pods on their way are asked, and what is said of pods that do not start.
    """
    parent = ("LLMDeployment", service.namespace, service.name)
    deployments = [b for b in view.children(parent, "Deployment") if is_controlled_by(b, service.uid)]
    ours = {body["metadata"]["name"] for body in deployments}
    pods = [
        pod
        for body in view.children(parent, "Pod")
        if is_replica_of(body, ours) and not (pod := view.derived(key_of(body), _model_pod)).has_ended
    ]
    children = [
        body
        for kind in ("ControllerRevision", "Deployment", "ModelCache")
        for body in view.children(parent, kind)
    ]
    resource = service.spec.hardware.gpu.resource_name
    short = any(resource in (pod.unschedulable or "") for pod in pods)
    scaled = service.spec.scaling.mode is not ScalingMode.EXTERNAL
    views = [DeploymentView.from_body(body) for body in deployments]
    rolling = len({view.revision for view in views if view.replicas} | {revision_id(service)}) > 1
    pages = service.spec.cache.page_cache is PageCache.AHEAD
    counted = short or scaled or rolling or pages
    seen = ServiceObservation(
        nodes=nodes(view),
        deployments=views,
        pods=pods,
        caches=caches(view, service.namespace),
        children=children,
        uses=view.memo(("GPUUses", resource, ""), lambda: gpu_uses(view, resource)) if counted else (),
        warmed=_warmed(service, view),
        narrow=_narrow(service, view),
        front=front.observe(service),
        route=RouteObservation(
            installed="HTTPRoute" not in view.absent,
            live=view.get("HTTPRoute", service.namespace, service.name),
            services=[body for body in view.children(parent, "Service") if is_of_a_revision(body)],
        ),
        pullers=_jobs_ahead(service, view, COMPONENT_PULLER, _puller_pod),
        pagers=_jobs_ahead(service, view, COMPONENT_PAGER, _pager_pod),
        memory=view.memo(("MemoryUses", "", ""), lambda: memory_uses(view)) if pages else {},
    )
    # From here on others work meanwhile. All of the above is of one moment: a GPU that is taken has its pod beside it.
    reports = await sidecars.agents({pod.name: pod.ip for pod in _asked(service, pods) if pod.ip})
    readings = await sidecars.signals(
        {p.uid: p.ip for p in pods if p.ready and p.ip and not p.deleting}
        if is_compared(service, pinned_revisions(service, children))
        else {}
    )
    said, again = await complaints.about(
        service.namespace, [pod.uid for pod in pods if pod.starting and not pod.deleting]
    )
    pullers, again_for_pullers = await _with_complaints(service, seen.pullers, complaints)
    return replace(
        seen,
        pods=complaints.timed(
            replace(pod, report=reports.get(pod.name), complaint=said.get(pod.uid)) for pod in pods
        ),
        scaling=await scaling.observe(service, pods, seen.nodes, seen.uses, view, now),
        readings=readings,
        look_again=min((wait for wait in (again, again_for_pullers) if wait is not None), default=None),
        pullers=pullers,
    )


def _jobs_ahead(
    service: LLMDeployment, view: View, component: str, read: Callable[[Manifest], PodView]
) -> list[Puller]:
    """Return the Jobs that have nodes pull images or read weights, each with its newest pod and that pod's last words."""
    parent = ("LLMDeployment", service.namespace, service.name)
    jobs = {
        job.name: (job, is_orphan(body))
        for body in view.children(parent, "Job")
        if is_controlled_by(body, service.uid) or is_orphan(body)
        if (job := view.derived(key_of(body), JobView.from_body)).component == component
    }
    pods: dict[str, PodView] = {}
    for body in sorted(view.children(parent, "Pod"), key=_created) if jobs else ():
        owner = controller_name(body, "Job")
        if owner in jobs:
            pods[owner] = view.derived(key_of(body), read)
    return [
        Puller(
            job,
            pods.get(name),
            last_words(pods[name], WarmerReport.from_json) if name in pods else None,
            orphan,
        )
        for name, (job, orphan) in jobs.items()
    ]


async def _with_complaints(
    service: LLMDeployment, pullers: Sequence[Puller], complaints: Complaints
) -> tuple[list[Puller], float | None]:
    """Return pullers with what is said of those that do not start, and in how many seconds there may be more.

    At rest nobody waits for one, and nobody asks.
    """
    if service.status.rollout is None and service.status.observed_generation == service.generation:
        return list(pullers), None
    starting = [p.pod.uid for p in pullers if p.pod is not None and p.pod.starting and not p.pod.deleting]
    podless = [p.job.uid for p in pullers if p.job.podless and not p.job.deleting]
    said, again = await complaints.about(service.namespace, starting, podless)
    pods = complaints.timed(
        replace(p.pod, complaint=said.get(p.pod.uid)) for p in pullers if p.pod is not None
    )
    by_uid = {pod.uid: pod for pod in pods}
    return [
        replace(
            puller,
            job=replace(puller.job, complaint=said.get(puller.job.uid)),
            pod=by_uid[puller.pod.uid] if puller.pod is not None else None,
        )
        for puller in pullers
    ], again


def _narrow(service: LLMDeployment, view: View) -> frozenset[str]:
    """Return the keys of caches that it may use whose serve volume shows their folder alone."""
    source, storage = cache_source(service), cache_storage(service)
    own = names.cache_name(service.name, source, storage)
    made = (c.name for c in caches(view, service.namespace) if caching.made_for(c) is None)
    keys = {names.cache_key(service.namespace, name, source, storage) for name in (own, *made)}
    return frozenset(key for key in keys if caching.shows_one_cache(serve_path(view, key), key))


def _asked(service: LLMDeployment, pods: Sequence[PodView]) -> list[PodView]:
    """Return the pods whose agents are asked: those on their way, and what took how long of those that have arrived."""
    live = [pod for pod in pods if not pod.deleting]
    arrived = sum(pod.ready for pod in live) != (service.status.ready_replicas or 0)
    known = service.status.load_times
    return [pod for pod in live if not pod.ready or (arrived and is_unlearned(pod, known))]


def _warmed(service: LLMDeployment, view: View) -> dict[str, datetime]:
    """Return when the weights in use were complete on each node whose warmer's Job is still there."""
    used = service.status.cache
    parent = ("ModelCache", service.namespace, used.name if used else "")
    jobs = (view.derived(key_of(body), JobView.from_body) for body in view.children(parent, "Job"))
    return {
        job.node: job.ended
        for job in jobs
        if job.component == COMPONENT_WARMER and job.state is JobState.COMPLETE and job.ended
    }


async def observe_cache(
    cache: ModelCache,
    view: View,
    sidecars: Sidecars,
    complaints: Complaints,
    config: OperatorConfig,
    now: datetime,
) -> CacheObservation:
    """Gather what a pass over one ModelCache looks at.

    Warmers that run are asked, last words are read, and what is said of Jobs and pods that do not start.
    """
    parent = ("ModelCache", cache.namespace, cache.name)
    bodies = [body for body in view.children(parent, "Job") if is_controlled_by(body, cache.uid)]
    all_jobs = [JobView.from_body(body) for body in bodies]
    jobs = [job for job in all_jobs if job.component == COMPONENT_WARMER]
    verifier = next((job for job in all_jobs if job.component == COMPONENT_VERIFIER), None)
    seeders = [job for job in all_jobs if job.component == COMPONENT_SEEDER]
    newest = _newest_pods(parent, {job.name for job in jobs}, view, _warmer_pod)
    wrong = found_wrong(cache, view, config, jobs)
    words = {node: said for node, pod in newest.items() if (said := last_words(pod, WarmerReport.from_json))}
    seen = CacheObservation(
        nodes=nodes(view),
        waits=why_it_waits(cache, view, config, now),
        corrupt=what_is_corrupt(cache, view, config),
        wrong=wrong,
        mounts=mounts_of(view, cache_key(cache)) if wrong or cache.status.quarantined else (),
        in_use=(cache_key(cache), cache.namespace) in running_keys(view),
        jobs=jobs,
        reports=words,
        pods=newest,
        orphans=[body for body in view.children(parent, "Job") if is_orphan(body)],
        paths=_paths(cache, view),
        missed=_missed(cache, view),
        verifier=verifier,
        verification=_said_by(verifier, parent, view),
        seeders=seeders,
        seeder_pods=_newest_pods(parent, {job.name for job in seeders}, view, _seeder_pod),
        issuer_keys=view.issuer_keys,
    )
    # From here on others work meanwhile. All of the above is of one moment.
    running = {node: pod.ip for node, pod in newest.items() if pod.ip and pod.phase == "Running"}
    reports = await sidecars.warmers(running)
    complained, again = await complaints.about(
        cache.namespace,
        [pod.uid for pod in newest.values() if pod.starting and not pod.deleting],
        [job.uid for job in jobs if job.podless and not job.deleting],
    )
    return replace(
        seen,
        jobs=[replace(job, complaint=complained.get(job.uid)) for job in jobs],
        reports={**reports, **words},
        pods={node: replace(pod, complaint=complained.get(pod.uid)) for node, pod in newest.items()},
        look_again=again,
    )


def _said_by(verifier: JobView | None, parent: Key, view: View) -> KeeperReport | None:
    """Return the last words of the newest pod that hashed what lies on a shared volume."""
    if verifier is None:
        return None
    pod = _newest_pods(parent, {verifier.name}, view, _warmer_pod).get(VERIFIER_SITE)
    return last_words(pod, KeeperReport.from_json) if pod is not None else None


def _missed(cache: ModelCache, view: View) -> frozenset[str]:
    """Return the nodes whose kubelet does not find the image of a model pod of this cache there."""
    if cache.spec.storage.mode is not CacheMode.IMAGE:
        return frozenset()
    ours = {body["metadata"]["name"] for body in view.all("Deployment", cache.namespace)}
    bodies = view.children(("ModelCache", cache.namespace, cache.name), "Pod")
    pods = [view.derived(key_of(body), _model_pod) for body in bodies if is_replica_of(body, ours)]
    digest = resolved(cache, {})
    return frozenset(pod.node for pod in pods if pod.node and misses_image(pod, digest))


def _newest_pods(
    parent: Key, jobs: Collection[str], view: View, read: Callable[[Manifest], PodView]
) -> dict[str, PodView]:
    """Return the newest pod of each node's Job."""
    newest: dict[str, PodView] = {}
    for body in sorted(view.children(parent, "Pod"), key=_created):
        if controller_name(body, "Job") not in jobs:
            continue
        pod = view.derived(key_of(body), read)
        if pod.job_node is not None:
            newest[pod.job_node] = pod
    return newest


def gpu_uses(view: View, resource: str) -> list[GPUUse]:
    """Return which of our own replicas hold GPUs, and where."""
    held = (view.derived(key, gpus_held) for key in view.keys("Pod"))
    return [use for uses in held if (use := uses.get(resource)) is not None]


def memory_uses(view: View) -> dict[str, int]:
    """Return how much memory our own pods ask for on each node, in bytes."""
    found: dict[str, int] = {}
    for key in view.keys("Pod"):
        node, amount = view.derived(key, memory_held)
        if node:
            found[node] = found.get(node, 0) + amount
    return found


def observe_orphans(view: View) -> OrphanObservation:
    """Gather everything with our marks that has no owner, and what it is there for."""
    running = {namespace for _, namespace, _ in view.keys("Deployment")}
    return OrphanObservation(
        keys=cache_keys(view) | used_keys(view),
        cache_namespaces=running | {namespace for _, namespace, _ in view.keys("ModelCache")},
        service_namespaces=running | {namespace for _, namespace, _ in view.keys("LLMDeployment")},
        volumes=view.all("PersistentVolume"),
        claims=view.all("PersistentVolumeClaim"),
        policies=view.all("NetworkPolicy"),
        nodes={name for _, _, name in view.keys("Node")},
        keepers=[body for body in view.all("Job") if is_keepers(body)],
    )


def nodes(view: View) -> Sequence[NodeView]:
    """Return every node."""
    return view.derived_of_all("Node", NodeView.from_body)


def caches(view: View, namespace: str) -> list[ModelCache]:
    """Return every ModelCache that can be read; one that cannot says so itself, in its own loop."""
    read = (view.derived(key_of(body), parsed_cache) for body in view.all("ModelCache", namespace))
    return [cache for cache in read if cache is not None]


def _paths(cache: ModelCache, view: View) -> dict[str, str]:
    wanted = (volume_name(namespace_key(cache.namespace), "warm"), volume_name(cache_key(cache), "serve"))
    volumes = ((name, view.get("PersistentVolume", "", name)) for name in wanted)
    return {name: path for name, body in volumes if body and (path := _path(body))}


def _path(volume: Manifest) -> str | None:
    path: str | None = ((volume.get("spec") or {}).get("local") or {}).get("path")
    return path


def _model_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="engine")


def _warmer_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="warmer")


def _puller_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="puller")


def _pager_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="pager")


def _seeder_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="seeder")


def _created(body: Manifest) -> tuple[str, str]:
    return str(body["metadata"].get("creationTimestamp", "")), str(body["metadata"]["name"])
