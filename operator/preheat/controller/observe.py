"""All reads of one pass, gathered into one value. Missing things are missing, never an error."""

import json
from dataclasses import replace

from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse
from preheat.cluster.sidecars import Sidecars
from preheat.controller.view import View
from preheat.decide.caching import CacheObservation
from preheat.decide.observed import (
    AgentReport,
    DeploymentView,
    JobView,
    NodeView,
    PodView,
    WarmerReport,
    controller_name,
    is_controlled_by,
    is_replica_of,
)
from preheat.decide.orphans import OrphanObservation
from preheat.decide.wish import ServiceObservation
from preheat.resources.caching import cache_key
from preheat.resources.metadata import Manifest


async def observe_service(service: LLMDeployment, view: View, sidecars: Sidecars) -> ServiceObservation:
    """Gather what a pass over one LLMDeployment looks at. Agents of pods on their way are asked."""
    parent = ("LLMDeployment", service.namespace, service.name)
    deployments = [b for b in view.children(parent, "Deployment") if is_controlled_by(b, service.uid)]
    ours = {body["metadata"]["name"] for body in deployments}
    pods = [
        PodView.from_body(body, main="engine")
        for body in view.children(parent, "Pod")
        if is_replica_of(body, ours)
    ]
    reports = await sidecars.agents(
        {pod.name: pod.ip for pod in pods if pod.ip and not pod.ready and not pod.deleting}
    )
    return ServiceObservation(
        nodes=nodes(view),
        deployments=[DeploymentView.from_body(body) for body in deployments],
        pods=[_with_report(pod, reports.get(pod.name)) for pod in pods],
        caches=caches(view, service.namespace),
        children=[
            body
            for kind in ("ControllerRevision", "ConfigMap", "Deployment", "ModelCache")
            for body in view.children(parent, kind)
        ],
    )


async def observe_cache(cache: ModelCache, view: View, sidecars: Sidecars) -> CacheObservation:
    """Gather what a pass over one ModelCache looks at. Warmers that run are asked, last words are read."""
    parent = ("ModelCache", cache.namespace, cache.name)
    jobs = [body for body in view.children(parent, "Job") if is_controlled_by(body, cache.uid)]
    ours = {body["metadata"]["name"] for body in jobs}
    newest: dict[str, PodView] = {}
    for body in sorted(view.children(parent, "Pod"), key=_created):
        if controller_name(body, "Job") not in ours:
            continue
        pod = PodView.from_body(body, main="warmer")
        if pod.job_node is not None:
            newest[pod.job_node] = pod
    running = {node: pod.ip for node, pod in newest.items() if pod.ip and pod.phase == "Running"}
    reports = await sidecars.warmers(running)
    for node, pod in newest.items():
        last_words = _last_words(pod)
        if last_words is not None:
            reports[node] = last_words
    return CacheObservation(
        nodes=nodes(view),
        jobs=[JobView.from_body(body) for body in jobs],
        reports=reports,
        pods=newest,
    )


def observe_orphans(view: View) -> OrphanObservation:
    """Gather every volume and node that carries our marks, and the keys of all caches.

    A cache that cannot be read has the key that its status tells: its weights are no leftovers.
    """
    told = {(body.get("status") or {}).get("key") for body in view.all("ModelCache")}
    return OrphanObservation(
        keys=frozenset(cache_key(cache) for cache in caches(view, None)) | {str(key) for key in told if key},
        volumes=view.all("PersistentVolume"),
        nodes=nodes(view),
    )


def nodes(view: View) -> list[NodeView]:
    """Return every node."""
    return [NodeView.from_body(body) for body in view.all("Node")]


def caches(view: View, namespace: str | None) -> list[ModelCache]:
    """Return every ModelCache that can be read; one that cannot says so itself, in its own loop."""
    found = []
    for body in view.all("ModelCache", namespace):
        try:
            found.append(parse(ModelCache, body))
        except InvalidSpecError:
            continue
    return found


def _with_report(pod: PodView, report: AgentReport | None) -> PodView:
    return replace(pod, report=report)


def _created(body: Manifest) -> tuple[str, str]:
    return str(body["metadata"].get("creationTimestamp", "")), str(body["metadata"]["name"])


def _last_words(pod: PodView) -> WarmerReport | None:
    if pod.termination_message is None:
        return None
    try:
        return WarmerReport.from_json(json.loads(pod.termination_message))
    except (KeyError, TypeError, ValueError):
        return None
