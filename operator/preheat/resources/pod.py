"""The model pod: an engine that serves, and beside it an agent that loads, watches, proves and drains.

What Kubernetes does in which order decides the shape: the agent is a native sidecar (an init container
that stays), so it runs before the engine and hears SIGTERM after it. Its own startup probe must not wait
for the engine: that would be a deadlock. The engine's probes and its preStop hook ask the agent, which
knows more than the engine's own health endpoints admit. Both share the process namespace and the uid, so
the agent can read how far the engine's load is.
"""

import json
from typing import Any

from preheat.api.constants import (
    AGENT_METRICS,
    ANNOTATION_REPOSITORY_PREFIX,
    COMPONENT_ENGINE,
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
    REPOSITORY_DIRECTORY,
    RUN_AS,
    WEIGHTS_DIRECTORY,
)
from preheat.api.gpu import GPU_MODELS, GPU_TAINT, LABEL_ACCELERATOR, LABEL_PRODUCT, GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources import patterns
from preheat.resources.engines.base import Rendering
from preheat.resources.metadata import Manifest
from preheat.resources.weights import Weights

ENDPOINT_DELAY_SECONDS = 3
"""Between "not ready" and the last new connection: endpoints and kube-proxy rules need that long."""
GRACE_MARGIN_SECONDS = 15


def selector(service: str) -> dict[str, str]:
    """Return the labels by which the Service and /scale find all replicas. They never change."""
    return {LABEL_DEPLOYMENT: service, LABEL_COMPONENT: COMPONENT_ENGINE}


def pod_template(
    service: LLMDeployment,
    rendering: Rendering,
    *,
    gpu_type: GPUType,
    revision: str,
    weights: Weights,
    config: OperatorConfig,
) -> Manifest:
    """Return the template of one revision's pods on one GPU type.

    ``weights`` says how they reach theirs, and on which nodes they can. The model repository lies in annotations and is mounted from there: a revision is all in
    one piece, and no other object can get lost or change under it.
    """
    runtime = service.spec.runtime
    return {
        "metadata": {
            "labels": {
                **selector(service.name),
                LABEL_MANAGED_BY: MANAGED_BY,
                LABEL_REVISION: revision,
                LABEL_GPU_TYPE: gpu_type.value,
            },
            "annotations": {
                "kubectl.kubernetes.io/default-container": "engine",
                **{annotation_key(path): text for path, text in sorted(rendering.files.items())},
            },
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": 2 * max(runtime.drain_seconds, 5)
            + ENDPOINT_DELAY_SECONDS
            + GRACE_MARGIN_SECONDS,
            "securityContext": pod_security(),
            "affinity": {
                "nodeAffinity": node_affinity(
                    [gpu_type], {**service.spec.hardware.node_selector, **weights.node_labels}
                )
            },
            "tolerations": tolerations(service),
            **({"imagePullSecrets": [{"name": weights.pull_secret}]} if weights.pull_secret else {}),
            "initContainers": [_agent(service, rendering, weights, config)],
            "containers": [_engine(service, rendering, weights)],
            "volumes": [
                {"name": "weights", **weights.volume},
                {"name": "repository", "downwardAPI": {"items": _repository(rendering)}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": runtime.shared_memory}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def pod_security() -> Manifest:
    """Return the pod half of Pod Security `restricted`."""
    return {
        "runAsNonRoot": True,
        "runAsUser": RUN_AS,
        "runAsGroup": RUN_AS,
        "fsGroup": RUN_AS,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """Return the container half of Pod Security `restricted`, and a read-only root besides."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def node_affinity(gpu_types: list[GPUType], node_selector: dict[str, str]) -> Manifest:
    """Return the affinity to nodes of these GPU types: terms are ORed, expressions in a term ANDed."""
    wanted = [
        {"key": key, "operator": "In", "values": [value]} for key, value in sorted(node_selector.items())
    ]
    products = [p for gpu in gpu_types for p in GPU_MODELS[gpu].products]
    accelerators = [a for gpu in gpu_types for a in GPU_MODELS[gpu].accelerators]
    terms = [
        {"matchExpressions": [{"key": key, "operator": "In", "values": values}, *wanted]}
        for key, values in ((LABEL_PRODUCT, products), (LABEL_ACCELERATOR, accelerators))
        if values
    ]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def tolerations(service: LLMDeployment) -> list[Manifest]:
    """Return what a replica tolerates: the taints that its nodes carry by custom, and what the user adds.

    A node whose GPUs are shared or split (nvidia.com/gpu.shared, nvidia.com/mig-...) is tainted as any other.
    """
    hardware = service.spec.hardware
    return [
        *(
            {"key": key, "operator": "Exists"}
            for key in dict.fromkeys((hardware.gpu.resource_name, GPU_TAINT))
        ),
        *(toleration.to_api() for toleration in hardware.tolerations),
    ]


def _pod_uid() -> Manifest:
    return {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}}


def _agent(
    service: LLMDeployment, rendering: Rendering, weights: Weights, config: OperatorConfig
) -> Manifest:
    alive = {"httpGet": {"path": "/healthz", "port": PORT_AGENT}}
    return {
        "name": "agent",
        "image": config.agent_image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "env": [
            _pod_uid(),
            {"name": "PREHEAT_AGENT_CONFIG", "value": agent_config(service, rendering, weights)},
        ],
        "ports": [
            {"name": "agent", "containerPort": PORT_AGENT, "protocol": "TCP"},
            {"name": AGENT_METRICS, "containerPort": PORT_AGENT_METRICS, "protocol": "TCP"},
        ],
        "startupProbe": {**alive, "periodSeconds": 1, "failureThreshold": 120, "timeoutSeconds": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "256Mi"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
        "volumeMounts": [
            _weights_mount(weights),
            {"name": "tmp", "mountPath": "/tmp", "subPath": "agent"},  # noqa: S108 - a pod's own emptyDir
        ],
    }


def agent_config(service: LLMDeployment, rendering: Rendering, weights: Weights) -> str:
    """Return the agent's configuration as JSON (the contract is in runtime/agent/README.md).

    Raises InvalidSpec for an expectation that is no regular expression.
    """
    health = service.spec.health
    problem = patterns.problem(health.canary.expect or "")
    if problem is not None:
        raise InvalidSpec(
            f"spec.health.canary.expect {health.canary.expect!r} is no good regular expression: {problem}"
        )
    canary: dict[str, Any] = {
        **health.canary.to_api(),
        "inputName": rendering.input_name,
        "outputName": rendering.output_name,
    }
    settings: dict[str, Any] = {
        "modelName": rendering.models[-1],
        "models": list(rendering.models),
        "engineHTTP": f"http://127.0.0.1:{PORT_HTTP}",
        "engineGRPC": f"127.0.0.1:{PORT_GRPC}",
        "engineMetrics": f"http://127.0.0.1:{PORT_METRICS}/metrics",
        "engineProcess": rendering.process,
        "weightsDirectory": WEIGHTS_DIRECTORY,
        "listenPort": PORT_AGENT,
        "metricsPort": PORT_AGENT_METRICS,
        "canary": canary,
        "drainTimeoutSeconds": service.spec.runtime.drain_seconds,
        "endpointDelaySeconds": ENDPOINT_DELAY_SECONDS,
    }
    if health.stall_seconds is not None:
        settings["stallSeconds"] = health.stall_seconds
    if not weights.published:
        settings["checkWeights"] = False
    # Kubernetes expands $(NAME) in values and halves $$; what a user wrote must reach the agent as it is.
    text = json.dumps(settings, sort_keys=True).replace("$", "$$")
    return text.removesuffix("}") + ', "adminKey": "$(POD_UID)"}'


def _weights_mount(weights: Weights) -> Manifest:
    below = {"subPath": weights.sub_path} if weights.sub_path else {}
    return {"name": "weights", "mountPath": WEIGHTS_DIRECTORY, **below, "readOnly": True}


def _engine(service: LLMDeployment, rendering: Rendering, weights: Weights) -> Manifest:
    runtime, gpu = service.spec.runtime, service.spec.hardware.gpu
    amounts = {"memory": runtime.resources.memory, gpu.resource_name: str(gpu.count)}
    files = [
        {
            "name": "repository",
            "mountPath": f"{REPOSITORY_DIRECTORY}/{path}",
            "subPath": file_key(path),
            "readOnly": True,
        }
        for path in sorted(rendering.files)
    ]
    return {
        "name": "engine",
        "image": rendering.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(rendering.command),
        "env": [
            _pod_uid(),
            *({"name": name, "value": value} for name, value in sorted(rendering.environment.items())),
        ],
        "ports": [
            {"name": "http", "containerPort": PORT_HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": PORT_GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": PORT_METRICS, "protocol": "TCP"},
        ],
        # No startup probe: a load ends when it stops making progress, not when a clock runs out.
        # Liveness tolerates a minute without the agent, so that an agent's restart costs no engine.
        "livenessProbe": {
            "httpGet": {"path": "/engine/live", "port": PORT_AGENT},
            "periodSeconds": 10,
            "failureThreshold": 6,
            "timeoutSeconds": 5,
        },
        "readinessProbe": {
            "httpGet": {"path": "/engine/ready", "port": PORT_AGENT},
            "periodSeconds": 2,
            "failureThreshold": 1,
            "timeoutSeconds": 2,
        },
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": PORT_AGENT}}},
        "resources": {
            "requests": {"cpu": runtime.resources.cpu, **amounts},
            "limits": amounts,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
        "volumeMounts": [
            _weights_mount(weights),
            *files,
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            {"name": "tmp", "mountPath": "/tmp", "subPath": "engine"},  # noqa: S108
        ],
    }


def _repository(rendering: Rendering) -> list[Manifest]:
    """Return the files of the model repository, each from its annotation."""
    return [
        {
            "path": file_key(path),
            "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{annotation_key(path)}']"},
        }
        for path in sorted(rendering.files)
    ]


def annotation_key(path: str) -> str:
    """Return the annotation that holds a file of the model repository."""
    return f"{ANNOTATION_REPOSITORY_PREFIX}{file_key(path)}"


def file_key(path: str) -> str:
    """Return the name of a repository file where names know no slash.

    >>> file_key("llama/1/model.json")
    'llama__1__model.json'
    """
    return path.replace("/", "__")
