"""What the Jobs of the warmer's image have in common. They differ in what they mount and are told."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from preheat.api.constants import ANNOTATION_NODE, LABEL_MANAGED_BY, MANAGED_BY
from preheat.api.gpu import GPU_TAINTS
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.resources.metadata import Manifest, child
from preheat.resources.pod import container_security, pod_security

NO_PROXY_LABELS = {"sidecar.istio.io/inject": "false"}
NO_PROXY_ANNOTATIONS = {"linkerd.io/inject": "disabled"}
"""A mesh's proxy beside a container that ends would run on, and the Job with it."""
HOPELESS = 2
"""Exit code: it will not get better by itself (wrong digest, not found, not allowed)."""


def on_node(node: str) -> Manifest:
    """Return the node affinity to one node."""
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    return required([{"matchFields": [here]}])


def required(terms: list[Manifest]) -> Manifest:
    """Return the node affinity that one of these terms must hold."""
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def tolerating(asked: Sequence[Manifest]) -> list[Manifest]:
    """Return what a pod tolerates to run on GPU nodes: the taints that they carry by custom, and what the user adds."""
    custom = [{"key": key, "operator": "Exists"} for key in GPU_TAINTS]
    return [*custom, *(toleration for toleration in asked if toleration not in custom)]


def make_job(
    owner: LLMDeployment | ModelCache,
    name: str,
    labels: Mapping[str, str],
    site: str,
    pod: Manifest,
    spec: Mapping[str, Any],
) -> Manifest:
    """Return a Job of an owner's. ``site``: the node that it works for, or what stands in a node's place; ``spec``: the rest."""
    body = child(
        "batch/v1",
        "Job",
        name,
        owner,
        dict(labels),
        spec={
            **spec,
            "template": {
                "metadata": {
                    "labels": {**labels, LABEL_MANAGED_BY: MANAGED_BY, **NO_PROXY_LABELS},
                    "annotations": {ANNOTATION_NODE: site, **NO_PROXY_ANNOTATIONS},
                },
                "spec": pod,
            },
        },
    )
    body["metadata"]["annotations"][ANNOTATION_NODE] = site
    return body


def tries(container: str) -> Manifest:
    """Return how often a Job tries: not again what is hopeless, and a pod that had to leave its node counts for none."""
    hopeless = {"containerName": container, "operator": "In", "values": [HOPELESS]}
    left = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "backoffLimit": 6,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": hopeless},
                {"action": "Ignore", "onPodConditions": left},
            ]
        },
    }


def make_container(
    name: str,
    settings: Mapping[str, Any],
    config: OperatorConfig,
    *,
    port: tuple[str, int] | None = None,
    requests: Mapping[str, str],
    memory: str,
    mounts: Sequence[Manifest],
) -> Manifest:
    """Return the one container. ``settings``: its configuration (contract: runtime/warmer/README.md)."""
    text = json.dumps(settings, sort_keys=True).replace("$", "$$")
    return {
        "name": name,
        "image": config.warmer_image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "PREHEAT_WARMER_CONFIG", "value": text}],
        **({"ports": [{"name": port[0], "containerPort": port[1], "protocol": "TCP"}]} if port else {}),
        "resources": {"requests": dict(requests), "limits": {"memory": memory}},
        "securityContext": container_security(),
        "volumeMounts": list(mounts),
    }


def make_pod(
    container: Manifest, *, affinity: Manifest, tolerations: Sequence[Manifest], volumes: Sequence[Manifest]
) -> Manifest:
    """Return the pod. ``affinity``: to nodes; empty: any node."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        **({"affinity": {"nodeAffinity": affinity}} if affinity else {}),
        "tolerations": list(tolerations),
        "containers": [container],
        "volumes": list(volumes),
    }
