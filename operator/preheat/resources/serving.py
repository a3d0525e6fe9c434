"""The children of an LLMDeployment, one function each."""

import json
from dataclasses import dataclass
from typing import Any

from preheat.api.constants import (
    COMPONENT_ENGINE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_GPU_TYPE,
    LABEL_MANAGED_BY,
    LABEL_REVISION,
    MANAGED_BY,
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
from preheat.resources.metadata import Manifest, child, stamped
from preheat.resources.overlay import overlay
from preheat.resources.pod import container_security, pod_template, selector
from preheat.resources.template_check import check_template

NEVER_SECONDS = 2**31 - 1
"""A progress deadline that never comes: a load is watched by progress, not by the Deployment's clock."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What a ControllerRevision pins: a new operator version renders nothing of it anew.

    ``id`` names the user's wish (all GPU types of a revision share it), ``number`` orders revisions. ``data`` is
    what is stored, and is written back as it was read: the API server lets nobody change it, and another version of
    the operator may have put more into it.
    """

    id: str
    number: int
    gpu_type: GPUType
    data: Manifest

    @property
    def template(self) -> Manifest:
        """The pod template for ``gpu_type``, with the model repository in it."""
        found: Manifest = self.data["template"]
        return found

    @property
    def cache(self) -> str:
        """The name of the ModelCache with its weights."""
        return str(self.data["cache"])

    @property
    def claim(self) -> str:
        """The name of the claim through which pods reach them."""
        return str(self.data["claim"])


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
    if spec.get("template"):  # no template is no part of the hash: older ids stay what they are
        wish["template"] = spec["template"]
    return names.digest(wish, 10)


def render_revision(
    service: LLMDeployment, gpu_type: GPUType, number: int, cache: str, config: OperatorConfig
) -> Revision:
    """Return the revision that the service's spec asks for on one GPU type.

    Raises InvalidSpec when the engine cannot do what the spec asks, or the template would break a promise.
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
        claim=claim,
        config=config,
    )
    if service.spec.template is not None:
        check_template(service)
        template = overlay(template, service.spec.template, container_security)
    return Revision(identity, number, gpu_type, {"template": template, "cache": cache, "claim": claim})


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
        data=revision.data,
    )


def parse_controller_revision(body: Manifest) -> Revision | None:
    """Return the revision that a ControllerRevision pins, None if it is not one that we wrote."""
    labels = body.get("metadata", {}).get("labels") or {}
    data: Any = body.get("data")
    try:
        if isinstance(data, str):
            data = json.loads(data)
        if not isinstance(data["template"], dict) or not {"cache", "claim"} <= data.keys():
            return None
        return Revision(labels[LABEL_REVISION], int(body["revision"]), GPUType(labels[LABEL_GPU_TYPE]), data)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


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


POLICY = "preheat-model-pods"


def make_network_policy(namespace: str, config: OperatorConfig) -> Manifest:
    """Let anyone ask a model, only the operator's namespace its agent, and the pod nobody.

    One for all model pods of a namespace. It has no owner and goes with the last LLMDeployment.
    """
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.namespace}}}
    pods = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: COMPONENT_ENGINE}
    return stamped(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": POLICY, "namespace": namespace, "labels": pods},
            "spec": {
                "podSelector": {"matchLabels": pods},
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
        }
    )


def _labels(service: LLMDeployment, revision: Revision) -> dict[str, str]:
    return {
        LABEL_DEPLOYMENT: service.name,
        LABEL_COMPONENT: COMPONENT_ENGINE,
        LABEL_REVISION: revision.id,
        LABEL_GPU_TYPE: revision.gpu_type.value,
    }
