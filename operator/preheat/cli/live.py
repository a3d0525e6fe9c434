"""What there is of an LLMDeployment, from the lists of a cluster: what ``plan`` decides from. Pure: bodies in, values out."""

from collections.abc import Iterable, Mapping, Sequence

from preheat.api.constants import COMPONENT_PULLER, LABEL_DEPLOYMENT
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse
from preheat.decide.autoscale import ScalingObservation
from preheat.decide.capacity import GPUUse, gpus_held
from preheat.decide.observed import (
    Body,
    DeploymentView,
    JobView,
    NodeView,
    PodView,
    Puller,
    controller_name,
    is_controlled_by,
    is_replica_of,
)
from preheat.decide.traffic import RouteObservation, is_of_a_revision
from preheat.decide.wish import ServiceObservation
from preheat.resources.metadata import Manifest

CHILDREN = ("ControllerRevision", "Deployment", "ModelCache")
KINDS = (*CHILDREN, "Job", "Pod")
"""What is listed, besides nodes, and what a route through gateways is made of."""
OF_ROUTES = ("HTTPRoute", "Service")


def observation(
    service: LLMDeployment,
    nodes: Sequence[NodeView],
    lists: Mapping[str, Sequence[Manifest]],
    scaling: ScalingObservation | None,
    *,
    gateway_api: bool = True,
) -> ServiceObservation:
    """Return what the operator sees of a service, but for what agents and warmers tell.

    ``gateway_api``: whether the cluster has it.
    """
    mine = {kind: [body for body in bodies if _is_of(body, service)] for kind, bodies in lists.items()}
    deployments = [body for body in mine.get("Deployment", ()) if is_controlled_by(body, service.uid)]
    names = {body["metadata"]["name"] for body in deployments}
    pods = [
        PodView.from_body(body, main="engine") for body in mine.get("Pod", ()) if is_replica_of(body, names)
    ]
    return ServiceObservation(
        nodes=nodes,
        deployments=[DeploymentView.from_body(body) for body in deployments],
        pods=[pod for pod in pods if not pod.has_ended],
        caches=_caches(lists.get("ModelCache", ()), service.namespace),
        children=[body for kind in CHILDREN for body in mine.get(kind, ())],
        uses=_uses(lists.get("Pod", ()), service.spec.hardware.gpu.resource_name),
        scaling=scaling,
        route=RouteObservation(
            installed=gateway_api,
            live=next((b for b in mine.get("HTTPRoute", ()) if b["metadata"]["name"] == service.name), None),
            services=[body for body in mine.get("Service", ()) if is_of_a_revision(dict(body))],
        ),
        pullers=_pullers(service, mine.get("Job", ()), mine.get("Pod", ())),
    )


def _pullers(service: LLMDeployment, jobs: Iterable[Body], pods: Sequence[Body]) -> list[Puller]:
    """Return the Jobs that have nodes pull images, each with its newest pod."""
    newest = {
        controller_name(body, "Job"): PodView.from_body(body, main="puller")
        for body in sorted(pods, key=lambda body: str(body["metadata"].get("creationTimestamp", "")))
    }
    views = [JobView.from_body(body) for body in jobs if is_controlled_by(body, service.uid)]
    return [Puller(job, newest.get(job.name)) for job in views if job.component == COMPONENT_PULLER]


def _is_of(body: Body, service: LLMDeployment) -> bool:
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    return (metadata.get("namespace"), labels.get(LABEL_DEPLOYMENT)) == (service.namespace, service.name)


def _caches(bodies: Iterable[Body], namespace: str) -> list[ModelCache]:
    found = []
    for body in bodies:
        if body["metadata"].get("namespace") == namespace:
            try:
                found.append(parse(ModelCache, dict(body)))
            except InvalidSpecError:
                continue
    return found


def _uses(pods: Iterable[Body], resource: str) -> list[GPUUse]:
    return [use for pod in pods if (use := gpus_held(pod).get(resource)) is not None]
