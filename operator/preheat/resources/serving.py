"""The children of an LLMDeployment, one function each."""

import json
from dataclasses import dataclass
from typing import Any

from preheat.api.constants import (
    COMPONENT_ENGINE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_GPU_TYPE,
    LABEL_REVISION,
    PORT_AGENT,
    PORT_GRPC,
    PORT_HTTP,
    PORT_METRICS,
)
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.engines import ENGINES
from preheat.resources.metadata import Manifest, child
from preheat.resources.pod import configmap_key, pod_template, selector

NEVER_SECONDS = 2**31 - 1
"""A progress deadline that never comes: a load is watched by progress, not by the Deployment's clock."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What a ControllerRevision pins: a new operator version renders nothing of it anew.

    ``id`` names the user's wish (all GPU types of a revision share it), ``number`` orders revisions,
    ``template`` is the pod template for ``gpu_type``, ``files`` the model repository, ``cache`` the
    ModelCache with its weights and ``claim`` the volume through which pods reach them.
    """

    id: str
    number: int
    gpu_type: GPUType
    template: Manifest
    files: dict[str, str]
    cache: str
    claim: str


def revision_id(service: LLMDeployment) -> str:
    """Return the hash of everything that changes what a pod runs.

    Defaults are left out, so that a new field with a default is no new revision. So are replicas,
    scaling, cache and rollout settings, and the list of GPU types: they change how many and where,
    not what.
    """
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    hardware = spec.get("hardware", {})
    gpu = {key: value for key, value in hardware.get("gpu", {}).items() if key != "types"}
    wish = {
        "model": spec.get("model"),
        "runtime": spec.get("runtime"),
        "health": spec.get("health"),
        "hardware": {**hardware, "gpu": gpu},
    }
    return names.digest(wish, 10)


def render_revision(
    service: LLMDeployment, gpu_type: GPUType, number: int, cache: str, config: OperatorConfig
) -> Revision:
    """Return the revision that the service's spec asks for on one GPU type.

    Raises InvalidSpec when the engine cannot do what the spec asks.
    """
    rendering = ENGINES[service.spec.runtime.engine].render(service, config)
    identity = revision_id(service)
    source = cache_source(service)
    claim = names.volume_name(names.cache_key(service.namespace, cache, source), "serve")
    template = pod_template(
        service,
        rendering,
        gpu_type=gpu_type,
        revision=identity,
        repository=names.revision_name(service.name, identity),
        claim=claim,
        config=config,
    )
    return Revision(identity, number, gpu_type, template, dict(rendering.files), cache, claim)


def cache_source(service: LLMDeployment) -> dict[str, Any]:
    """Return the part of spec.model that says which bytes: the source of its ModelCache."""
    fields = {"uri", "revision", "format", "files", "include", "endpoint", "credentials"}
    return service.spec.model.model_dump(
        mode="json", by_alias=True, include=fields, exclude_none=True, exclude_defaults=True
    )


def make_controller_revision(service: LLMDeployment, revision: Revision) -> Manifest:
    """Pin one revision on one GPU type."""
    return child(
        "apps/v1",
        "ControllerRevision",
        names.child_name(service.name, revision.id, revision.gpu_type),
        service,
        _labels(service, revision),
        revision=revision.number,
        data={
            "template": revision.template,
            "files": revision.files,
            "cache": revision.cache,
            "claim": revision.claim,
        },
    )


def parse_controller_revision(body: Manifest) -> Revision | None:
    """Return the revision that a ControllerRevision pins, None if it is not one that we wrote."""
    labels = body.get("metadata", {}).get("labels") or {}
    data: Any = body.get("data")
    try:
        if isinstance(data, str):
            data = json.loads(data)
        return Revision(
            id=labels[LABEL_REVISION],
            number=int(body["revision"]),
            gpu_type=GPUType(labels[LABEL_GPU_TYPE]),
            template=data["template"],
            files=data["files"],
            cache=data["cache"],
            claim=data["claim"],
        )
    except (KeyError, TypeError, ValueError):
        return None


def make_repository(service: LLMDeployment, revision: Revision) -> Manifest:
    """Build the engine's model repository as an immutable ConfigMap, one per revision."""
    labels = {LABEL_DEPLOYMENT: service.name, LABEL_REVISION: revision.id}
    return child(
        "v1",
        "ConfigMap",
        names.revision_name(service.name, revision.id),
        service,
        labels,
        immutable=True,
        data={configmap_key(path): text for path, text in sorted(revision.files.items())},
    )


def make_deployment(service: LLMDeployment, revision: Revision, replicas: int) -> Manifest:
    """Run the replicas of one revision on one GPU type."""
    labels = _labels(service, revision)
    return child(
        "apps/v1",
        "Deployment",
        names.child_name(service.name, revision.id, revision.gpu_type),
        service,
        labels,
        spec={
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": NEVER_SECONDS,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": revision.template,
        },
    )


def make_service(service: LLMDeployment) -> Manifest:
    """Reach every ready replica over KServe v2: HTTP 8000, gRPC 8001; metrics on 8002."""
    ports = (
        ("http", PORT_HTTP, "http"),
        ("grpc", PORT_GRPC, "kubernetes.io/h2c"),
        ("metrics", PORT_METRICS, "http"),
    )
    return child(
        "v1",
        "Service",
        service.name,
        service,
        {LABEL_DEPLOYMENT: service.name},
        spec={
            "type": "ClusterIP",
            "selector": selector(service.name),
            "ports": [
                {"name": name, "port": port, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}
                for name, port, protocol in ports
            ],
        },
    )


def make_service_account(service: LLMDeployment) -> Manifest:
    """Give pods an identity without rights and without a token: a model needs no API server."""
    return child(
        "v1",
        "ServiceAccount",
        service.name,
        service,
        {LABEL_DEPLOYMENT: service.name},
        automountServiceAccountToken=False,
    )


def make_disruption_budget(service: LLMDeployment) -> Manifest:
    """Let a drain take one replica at a time, and none while others are still loading."""
    return child(
        "policy/v1",
        "PodDisruptionBudget",
        service.name,
        service,
        {LABEL_DEPLOYMENT: service.name},
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
            "selector": {"matchLabels": selector(service.name)},
        },
    )


def make_network_policy(service: LLMDeployment, config: OperatorConfig) -> Manifest:
    """Let anyone ask the model, only the operator's namespace the agent, and the pod nobody."""
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.namespace}}}
    return child(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        service.name,
        service,
        {LABEL_DEPLOYMENT: service.name},
        spec={
            "podSelector": {"matchLabels": selector(service.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "ports": [
                        {"port": port, "protocol": "TCP"} for port in (PORT_HTTP, PORT_GRPC, PORT_METRICS)
                    ]
                },
                {"from": [operator], "ports": [{"port": PORT_AGENT, "protocol": "TCP"}]},
            ],
            "egress": [],
        },
    )


def _labels(service: LLMDeployment, revision: Revision) -> dict[str, str]:
    return {
        LABEL_DEPLOYMENT: service.name,
        LABEL_COMPONENT: COMPONENT_ENGINE,
        LABEL_REVISION: revision.id,
        LABEL_GPU_TYPE: revision.gpu_type.value,
    }
