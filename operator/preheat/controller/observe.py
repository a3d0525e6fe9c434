"""All reads of one pass, gathered into one value. Missing things are missing, never an error."""

import json
from collections.abc import Sequence
from dataclasses import replace

from preheat.api.constants import LABEL_DEPLOYMENT
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse
from preheat.cluster.sidecars import Sidecars
from preheat.controller.complaints import Complaints
from preheat.controller.view import Key, View, key_of
from preheat.decide.caching import CacheObservation
from preheat.decide.capacity import GPUUse
from preheat.decide.nodes import NodeObservation
from preheat.decide.observed import (
    DeploymentView,
    JobState,
    JobView,
    NodeView,
    PodView,
    WarmerReport,
    controller_name,
    is_controlled_by,
    is_replica_of,
)
from preheat.decide.orphans import OrphanObservation
from preheat.decide.ownership import is_orphan
from preheat.decide.wish import ServiceObservation
from preheat.resources.caching import cache_key
from preheat.resources.metadata import Manifest
from preheat.resources.names import key_of_volume, namespace_key, volume_name


async def observe_service(
    service: LLMDeployment, view: View, sidecars: Sidecars, complaints: Complaints
) -> ServiceObservation:
    """Gather what a pass over one LLMDeployment looks at.

    Agents of pods on their way are asked, and what is said of pods that do not start.
    """
    parent = ("LLMDeployment", service.namespace, service.name)
    deployments = [b for b in view.children(parent, "Deployment") if is_controlled_by(b, service.uid)]
    ours = {body["metadata"]["name"] for body in deployments}
    pods = [
        view.derived(key_of(body), _model_pod)
        for body in view.children(parent, "Pod")
        if is_replica_of(body, ours)
    ]
    reports = await sidecars.agents(
        {pod.name: pod.ip for pod in pods if pod.ip and not pod.ready and not pod.deleting}
    )
    said, again = await complaints.about(
        service.namespace, [pod.uid for pod in pods if pod.starting and not pod.deleting]
    )
    resource = service.spec.hardware.gpu.resource_name
    short = any(resource in (pod.unschedulable or "") for pod in pods)
    return ServiceObservation(
        nodes=nodes(view),
        deployments=[DeploymentView.from_body(body) for body in deployments],
        pods=[replace(pod, report=reports.get(pod.name), complaint=said.get(pod.uid)) for pod in pods],
        caches=caches(view, service.namespace),
        children=[
            body
            for kind in ("ControllerRevision", "Deployment", "ModelCache")
            for body in view.children(parent, kind)
        ],
        uses=gpu_uses(view, resource) if short else (),
        look_again=again,
    )


async def observe_cache(
    cache: ModelCache, view: View, sidecars: Sidecars, complaints: Complaints
) -> CacheObservation:
    """Gather what a pass over one ModelCache looks at.

    Warmers that run are asked, last words are read, and what is said of Jobs and pods that do not start.
    """
    parent = ("ModelCache", cache.namespace, cache.name)
    bodies = [body for body in view.children(parent, "Job") if is_controlled_by(body, cache.uid)]
    jobs = [JobView.from_body(body) for body in bodies]
    ours = {job.name for job in jobs}
    newest: dict[str, PodView] = {}
    for body in sorted(view.children(parent, "Pod"), key=_created):
        if controller_name(body, "Job") not in ours:
            continue
        pod = view.derived(key_of(body), _warmer_pod)
        if pod.job_node is not None:
            newest[pod.job_node] = pod
    running = {node: pod.ip for node, pod in newest.items() if pod.ip and pod.phase == "Running"}
    reports = await sidecars.warmers(running)
    for node, pod in newest.items():
        last_words = _last_words(pod)
        if last_words is not None:
            reports[node] = last_words
    said, again = await complaints.about(
        cache.namespace,
        [pod.uid for pod in newest.values() if pod.starting and not pod.deleting],
        [job.uid for job in jobs if job.podless and not job.deleting],
    )
    return CacheObservation(
        nodes=nodes(view),
        jobs=[replace(job, complaint=said.get(job.uid)) for job in jobs],
        reports=reports,
        pods={node: replace(pod, complaint=said.get(pod.uid)) for node, pod in newest.items()},
        orphans=[body for body in view.children(parent, "Job") if is_orphan(body)],
        paths=_paths(cache, view),
        look_again=again,
    )


def gpu_uses(view: View, resource: str) -> list[GPUUse]:
    """Return which of our own replicas hold GPUs, and where."""
    held = (view.derived(key, _holds) for key in view.keys("Pod"))
    return [use for uses in held if (use := uses.get(resource)) is not None]


def _holds(pod: Manifest) -> dict[str, GPUUse]:
    """Return what a model pod that has a node and has not ended holds there, by resource."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    service = (metadata.get("labels") or {}).get(LABEL_DEPLOYMENT)
    ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    if service is None or ended or not spec.get("nodeName"):
        return {}
    counts: dict[str, int] = {}
    for container in spec.get("containers") or ():
        for resource, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in resource and str(amount).isdigit():
                counts[resource] = counts.get(resource, 0) + int(amount)
    holder = f"{metadata['namespace']}/{service}"
    return {resource: GPUUse(spec["nodeName"], holder, count) for resource, count in counts.items() if count}


def observe_node(key: Key, view: View) -> NodeObservation:
    """Gather what a pass over one node looks at: its labels, and the warmers that ended well on it."""
    jobs = [JobView.from_body(body) for body in view.children(key, "Job")]
    done = {(job.namespace, job.owner) for job in jobs if job.state is JobState.COMPLETE and not job.deleting}
    complete = {
        found
        for cache in view.keys("ModelCache")
        if (cache[1], view.uid(cache)) in done and (found := cache_key_of(view, cache))
    }
    return NodeObservation(
        node=view.derived(key, NodeView.from_body),
        complete=frozenset(complete),
        keys=cache_keys(view) | used_keys(view),
    )


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
    )


def nodes(view: View) -> Sequence[NodeView]:
    """Return every node."""
    return view.derived_of_all("Node", NodeView.from_body)


def caches(view: View, namespace: str) -> list[ModelCache]:
    """Return every ModelCache that can be read; one that cannot says so itself, in its own loop."""
    read = (view.derived(key_of(body), _parsed) for body in view.all("ModelCache", namespace))
    return [cache for cache in read if cache is not None]


def cache_keys(view: View) -> frozenset[str]:
    """Return the keys of all caches."""
    return frozenset(key for cache in view.keys("ModelCache") if (key := cache_key_of(view, cache)))


def used_keys(view: View) -> frozenset[str]:
    """Return the keys of all caches whose volume a Deployment mounts: while it does, they stay.

    A cache that is deleted under a running model is made again, and finds its volume and its nodes as they were.
    """
    found = (view.derived(deployment, mounted_key) for deployment in view.keys("Deployment"))
    return frozenset(key for key in found if key is not None)


def mounted_key(deployment: Manifest) -> str | None:
    """Return the key of the cache whose volume a Deployment's pods mount."""
    pod = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    for volume in pod.get("volumes") or ():
        claim = str((volume.get("persistentVolumeClaim") or {}).get("claimName", ""))
        if (key := key_of_volume(claim, "serve")) is not None:
            return key
    return None


def cache_key_of(view: View, cache: Key) -> str | None:
    """Return a cache's key. One that cannot be read has the key that its status tells, if any."""
    return view.derived(cache, _key)


def _key(body: Manifest) -> str | None:
    cache = _parsed(body)
    told: str | None = (body.get("status") or {}).get("key")
    return cache_key(cache) if cache is not None else told


def _parsed(body: Manifest) -> ModelCache | None:
    try:
        return parse(ModelCache, body)
    except InvalidSpecError:
        return None


def _paths(cache: ModelCache, view: View) -> dict[str, str]:
    names = (volume_name(namespace_key(cache.namespace), "warm"), volume_name(cache_key(cache), "serve"))
    volumes = ((name, view.get("PersistentVolume", "", name)) for name in names)
    return {name: path for name, body in volumes if body and (path := _path(body))}


def _path(volume: Manifest) -> str | None:
    path: str | None = ((volume.get("spec") or {}).get("local") or {}).get("path")
    return path


def _model_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="engine")


def _warmer_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="warmer")


def _created(body: Manifest) -> tuple[str, str]:
    return str(body["metadata"].get("creationTimestamp", "")), str(body["metadata"]["name"])


def _last_words(pod: PodView) -> WarmerReport | None:
    if pod.termination_message is None:
        return None
    try:
        return WarmerReport.from_json(json.loads(pod.termination_message))
    except (KeyError, TypeError, ValueError):
        return None
