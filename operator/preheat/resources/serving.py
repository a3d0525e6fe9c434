"""The children of an LLMDeployment, one function each."""

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from preheat.api.constants import (
    ANNOTATION_APPLIED,
    ANNOTATION_BASELINE,
    ANNOTATION_MEMORY,
    ANNOTATION_MEMORY_TIME,
    ANNOTATION_SERVED,
    ANNOTATION_SOAKED,
    ANNOTATION_VERDICT,
    COMPONENT_ENGINE,
    COMPONENT_SCALER,
    LABEL_CACHE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_GPU_TYPE,
    LABEL_MANAGED_BY,
    LABEL_REVISION,
    MANAGED_BY,
    PORT_AGENT,
    PORT_AGENT_METRICS,
    PORT_GRPC,
    PORT_HTTP,
    PORT_METRICS,
)
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.quantity import parse_count
from preheat.api.template import ENGINE
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.engines import ENGINES
from preheat.resources.engines.per_type import on_type
from preheat.resources.metadata import Manifest, child, stamped
from preheat.resources.overlay import overlay
from preheat.resources.pod import container_security, pod_template, selector
from preheat.resources.template_check import check_template
from preheat.resources.weights import key_in_pod, weights_of

MARKS = (ANNOTATION_VERDICT, ANNOTATION_SERVED, ANNOTATION_SOAKED, ANNOTATION_BASELINE)
"""What is remembered of a revision. Its data cannot change; its annotations can."""
SPEC_PARTS = frozenset({"model", "runtime", "template", "health", "hardware", "cache"})
"""Of the spec: what a revision was made of."""

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
    marks: Mapping[str, str] = field(default_factory=dict)
    """Annotations by which it is remembered that it failed or is good (``MARKS``)."""

    @property
    def spec(self) -> Manifest | None:
        """The parts of the spec that it was made of; None for one that 0.1.0 stored."""
        found: Manifest | None = self.data.get("spec")
        return found

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
        """The name of the claim through which pods reach them; empty for an image."""
        return str(self.data["claim"])

    @property
    def key(self) -> str | None:
        """The key of the cache that its pods reach, whatever a cache of that name holds now; None where they do not tell."""
        return names.key_of_volume(self.claim, "serve") or key_in_pod(self.template.get("spec") or {})

    def gpus(self, resource: str) -> int:
        """Return how many of a resource one replica holds."""
        containers: list[Manifest] = (self.template.get("spec") or {}).get("containers") or []
        engine: Manifest = next((c for c in containers if c.get("name") == ENGINE), {})
        amount = ((engine.get("resources") or {}).get("limits") or {}).get(resource, "0")
        return parse_count(amount) or 0

    @property
    def resolved(self) -> str:
        """The digest of the image with its weights; empty where they are in none."""
        return str(self.data.get("resolved", ""))


def revision_id(service: LLMDeployment) -> str:
    """Return the hash of everything that changes what a pod runs.

    Defaults are left out, so that a new field with a default is no new revision. So are replicas,
    scaling, rollout and most cache settings, and the list of GPU types with its patience: they change how many
    and where, not what.
    """
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    hardware = spec.get("hardware", {})
    gpu = {
        key: value
        for key, value in hardware.get("gpu", {}).items()
        if key not in {"types", "patienceSeconds"}
    }
    wish = {
        "model": spec.get("model"),
        "runtime": spec.get("runtime"),
        "health": spec.get("health"),
        "hardware": {**hardware, "gpu": gpu},
    }
    if spec.get("template"):  # no template is no part of the hash: older ids stay what they are
        wish["template"] = spec["template"]
    if storage := cache_storage(
        service
    ):  # nor are node disks: only pods that reach their weights otherwise differ
        wish["storage"] = storage
    return names.digest(wish, 10)


def render_revision(
    service: LLMDeployment,
    gpu_type: GPUType,
    number: int,
    cache: str,
    config: OperatorConfig,
    resolved: str = "",
    narrow: Collection[str] = (),
) -> Revision:
    """Return the revision that the service's spec asks for on one GPU type.

    ``resolved``: for mode Image the digest of the image, which pods name, whatever a tag stands for later.
    ``narrow``: the keys of caches whose serve volume shows their folder alone.
    Raises InvalidSpec when the engine cannot do what the spec asks, or the template would break a promise.
    """
    rendering = ENGINES[service.spec.runtime.engine].render(on_type(service, gpu_type), config)
    identity = revision_id(service)
    key = names.cache_key(service.namespace, cache, cache_source(service), cache_storage(service))
    weights = weights_of(service, key, resolved, narrow=key in narrow)
    template = pod_template(
        service,
        rendering,
        gpu_type=gpu_type,
        revision=identity,
        weights=weights,
        config=config,
    )
    if service.spec.template is not None:
        check_template(service)
        template = overlay(template, service.spec.template, container_security)
    if weights.sub_path.startswith(f"{key}/"):
        template = _below(template, key)
    parts = service.spec.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, include=set(SPEC_PARTS)
    )
    data = {"template": template, "cache": cache, "claim": weights.claim, "spec": parts}
    if resolved:
        template["metadata"]["labels"][LABEL_CACHE] = cache
        data["resolved"] = resolved
    return Revision(identity, number, gpu_type, data)


def _below(template: Manifest, key: str) -> Manifest:
    """Return a pod template whose mounts of weights are all of this cache's folder, also those that a user lays over it."""
    found = copy.deepcopy(template)
    spec = found["spec"]
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        for mount in container.get("volumeMounts", ()):
            field = "subPathExpr" if mount.get("subPathExpr") else "subPath"
            below = str(mount.get(field) or "")
            if mount.get("name") == "weights" and not f"{below}/".startswith(f"{key}/"):
                mount[field] = f"{key}/{below}".rstrip("/")
    return found


def with_template_of(revision: Revision, deployment: Manifest) -> Revision:
    """Return a revision with the template that its Deployment runs, if that mounts the same weights.

    It is asked for where the ControllerRevision was deleted: rendered anew it would have this operator's images, and all
    replicas would restart at once.
    """
    template = deployment["spec"]["template"]
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if v is not None}
    volumes = template["spec"].get("volumes") or ()
    claims = {(volume.get("persistentVolumeClaim") or {}).get("claimName", "") for volume in volumes}
    if revision.claim and revision.claim not in claims:
        return revision
    return replace(revision, data={**revision.data, "template": {**template, "metadata": metadata}})


def cache_source(service: LLMDeployment) -> dict[str, Any]:
    """Return the part of spec.model that says which bytes: the source of its ModelCache."""
    fields = {"uri", "revision", "format", "files", "include", "endpoint", "credentials"}
    return service.spec.model.model_dump(
        mode="json", by_alias=True, include=fields, exclude_none=True, exclude_defaults=True
    )


def cache_storage(service: LLMDeployment) -> dict[str, Any]:
    """Return where the weights wait, as its ModelCache has it in spec.storage; empty for node disks."""
    return service.spec.cache.model_dump(
        mode="json", by_alias=True, include={"mode", "claim_name"}, exclude_none=True, exclude_defaults=True
    )


def make_controller_revision(service: LLMDeployment, revision: Revision) -> Manifest:
    """Pin one revision on one GPU type."""
    return child(
        "apps/v1",
        "ControllerRevision",
        names.child_name(service.name, revision.id, revision.gpu_type),
        service,
        _labels(service, revision),
        annotations=dict(revision.marks),
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
        return Revision(
            labels[LABEL_REVISION],
            int(body["revision"]),
            GPUType(labels[LABEL_GPU_TYPE]),
            data,
            {
                key: value
                for key, value in (body["metadata"].get("annotations") or {}).items()
                if key in MARKS
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def as_stored(manifest: Manifest, live: Manifest) -> Manifest:
    """Return a ControllerRevision's manifest with the data that it has, any other manifest as it is.

    Nobody can change that data. One whose label somebody took away is not seen, and would be rendered anew.
    """
    if manifest["kind"] != "ControllerRevision" or manifest.get("data") == live.get("data"):
        return manifest
    metadata = manifest["metadata"]
    annotations = {k: v for k, v in metadata["annotations"].items() if k != ANNOTATION_APPLIED}
    bare = {k: v for k, v in metadata.items() if k != "annotations"}
    return stamped(
        {
            **manifest,
            "metadata": {**bare, **({"annotations": annotations} if annotations else {})},
            "data": live.get("data"),
        }
    )


def make_scaler_memory(service: LLMDeployment, text: str, time: str) -> Manifest:
    """Keep what the scaler must not forget. A ControllerRevision's data cannot change; its annotations can."""
    return child(
        "apps/v1",
        "ControllerRevision",
        names.scaler_name(service.name),
        service,
        {LABEL_DEPLOYMENT: service.name, LABEL_COMPONENT: COMPONENT_SCALER},
        annotations={ANNOTATION_MEMORY: text, ANNOTATION_MEMORY_TIME: time},
        revision=1,
        # Without data the API server takes none.
        data={"annotation": ANNOTATION_MEMORY},
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
    """Let anyone ask a model and read metrics, only the operator's namespace its agent, and the pod nobody.

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
                            {"port": port, "protocol": "TCP"}
                            for port in (PORT_HTTP, PORT_GRPC, PORT_METRICS, PORT_AGENT_METRICS)
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
