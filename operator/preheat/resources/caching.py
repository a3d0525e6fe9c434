"""The children of a ModelCache, and the ModelCache that an LLMDeployment makes for itself.

One folder per cache on every node, reached through three PersistentVolumes of the same path:

make   hostPath, DirectoryOrCreate: mounting it makes the kubelet create the folder (owned by root)
warm   local: mounting it with fsGroup gives the folder to our group, so the warmer may write; any node
serve  local, read-only in pods: its node affinity asks for the label that only complete nodes carry

A warmer mounts make and warm: no pod of ours runs as root and none uses a hostPath volume itself, so Pod
Security `restricted` holds. A model pod mounts serve: the scheduler itself keeps it off incomplete nodes.
"""

import json
from typing import Any

from preheat.api.constants import (
    ANNOTATION_NODE,
    API_VERSION,
    COMPONENT_WARMER,
    LABEL_CACHE,
    LABEL_CACHE_NAMESPACE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    NODE_LABEL_PREFIX,
    NODE_LABEL_READY,
    PORT_WARMER,
)
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache, ModelFormat
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.metadata import Manifest, child, stamped
from preheat.resources.pod import container_security, pod_security
from preheat.resources.serving import cache_source

CLAIM_SIZE = "1Gi"
"""Volumes on a node's disk know no size; the API asks for one. The warmer checks the real free space."""

DEFAULT_INCLUDES = {
    ModelFormat.GGUF: ["*.gguf", "*.json"],
    ModelFormat.ONNX: ["*.onnx", "*.onnx_data", "*.json", "*.txt", "*.model"],
}


def make_cache(service: LLMDeployment, name: str, nodes: int) -> Manifest:
    """Ask for the service's weights on as many nodes as it needs."""
    hardware = service.spec.hardware
    placement: dict[str, Any] = {
        "gpuTypes": [gpu.value for gpu in hardware.gpu.types],
        "nodeSelector": hardware.node_selector,
        "tolerations": [
            {"key": hardware.gpu.resource_name, "operator": "Exists"},
            *(toleration.to_api() for toleration in hardware.tolerations),
        ],
        "nodes": nodes,
    }
    spec: dict[str, Any] = {"source": cache_source(service), "placement": placement}
    if service.spec.cache.max_bytes_per_second is not None:
        spec["maxBytesPerSecond"] = service.spec.cache.max_bytes_per_second
    return child(API_VERSION, "ModelCache", name, service, {LABEL_DEPLOYMENT: service.name}, spec=spec)


def cache_key(cache: ModelCache) -> str:
    """Return the cache's key: its folder's name and its node label."""
    source = cache.spec.source.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    return names.cache_key(cache.namespace, cache.name, source)


def same_source(cache: ModelCache, service: LLMDeployment) -> bool:
    """Tell whether a cache holds the very bytes that a service asks for."""
    theirs = cache.spec.source.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    return theirs == cache_source(service)


def made_for(cache: ModelCache) -> str | None:
    """Return the service that made a cache for itself, None for one that a person made."""
    return cache.labels.get(LABEL_DEPLOYMENT)


def node_label(key: str) -> str:
    """Return the label that a node carries when it holds the cache complete and verified."""
    return NODE_LABEL_PREFIX + key


def make_volumes(cache: ModelCache, config: OperatorConfig) -> list[Manifest]:
    """Return the three PersistentVolumes. They are cluster-scoped, so no owner can delete them: we do."""
    key = cache_key(cache)
    path = f"{config.cache_root}/{key}"
    anywhere = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
    complete = {"key": node_label(key), "operator": "In", "values": [NODE_LABEL_READY]}
    return [
        _volume(cache, "make", {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}, anywhere),
        _volume(cache, "warm", {"local": {"path": path}}, anywhere),
        _volume(cache, "serve", {"local": {"path": path}}, complete),
    ]


def make_claims(cache: ModelCache) -> list[Manifest]:
    """Return the claims that pods use, each bound to its volume from the start."""
    key = cache_key(cache)
    return [
        child(
            "v1",
            "PersistentVolumeClaim",
            names.volume_name(key, role),
            cache,
            {LABEL_CACHE: cache.name},
            spec={
                "storageClassName": "",
                "volumeName": names.volume_name(key, role),
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": CLAIM_SIZE}},
            },
        )
        for role in ("make", "warm", "serve")
    ]


def make_warmer(cache: ModelCache, node: str, config: OperatorConfig) -> Manifest:
    """Fetch and verify the weights on one node."""
    labels = {LABEL_CACHE: cache.name, LABEL_COMPONENT: COMPONENT_WARMER}
    body = child(
        "batch/v1",
        "Job",
        names.warmer_name(cache.name, node),
        cache,
        labels,
        spec={
            "backoffLimit": 6,
            "podFailurePolicy": {
                "rules": [
                    # 2: it will not get better by itself (wrong digest, not found, not allowed)
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "warmer", "operator": "In", "values": [2]},
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": {
                "metadata": {
                    "labels": {**labels, LABEL_MANAGED_BY: MANAGED_BY},
                    "annotations": {ANNOTATION_NODE: node},
                },
                "spec": _warmer_pod(cache, node, config),
            },
        },
    )
    body["metadata"]["annotations"][ANNOTATION_NODE] = node
    return body


def _warmer_pod(cache: ModelCache, node: str, config: OperatorConfig) -> Manifest:
    key = cache_key(cache)
    source = cache.spec.source
    volumes: list[Manifest] = [
        {"name": role, "persistentVolumeClaim": {"claimName": names.volume_name(key, role)}}
        for role in ("make", "warm")
    ]
    mounts: list[Manifest] = [
        {"name": "make", "mountPath": "/run/preheat/make", "readOnly": True},
        {"name": "warm", "mountPath": "/cache"},
    ]
    if source.uri.startswith("pvc://"):
        claim = source.uri.removeprefix("pvc://").split("/", 1)[0]
        volumes.append({"name": "source", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": "source", "mountPath": "/source", "readOnly": True})
    if source.credentials is not None:
        volumes.append(
            {
                "name": "credentials",
                "secret": {"secretName": source.credentials.secret_name, "defaultMode": 0o440},
            }
        )
        mounts.append(
            {"name": "credentials", "mountPath": "/var/run/secrets/preheat/credentials", "readOnly": True}
        )
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": [here]}]
                }
            }
        },
        "tolerations": tolerations(cache),
        "containers": [
            {
                "name": "warmer",
                "image": config.warmer_image,
                "imagePullPolicy": "IfNotPresent",
                "env": [{"name": "PREHEAT_WARMER_CONFIG", "value": _warmer_config(cache, node, config)}],
                "ports": [{"name": "progress", "containerPort": PORT_WARMER, "protocol": "TCP"}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"memory": "1Gi"},
                },
                "securityContext": container_security(),
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _warmer_config(cache: ModelCache, node: str, config: OperatorConfig) -> str:
    source = cache.spec.source
    settings = {
        "source": {"uri": source.uri, "revision": source.revision},
        "hfEndpoint": source.endpoint or config.hf_endpoint,
        "files": [file.to_api() for file in source.files],
        "include": source.include or DEFAULT_INCLUDES.get(source.format, []),
        "allowPickle": source.format is ModelFormat.PICKLE,
        "destination": "/cache",
        "sourceDirectory": "/source",
        "listenPort": PORT_WARMER,
        "maxBytesPerSecond": cache.spec.max_bytes_per_second,
        "parallelism": 4,
        "nodeName": node,
    }
    return json.dumps(settings, sort_keys=True).replace("$", "$$")


def tolerations(cache: ModelCache) -> list[Manifest]:
    """Return what a warmer tolerates: the taint that GPU nodes carry by custom, and what the user adds."""
    custom = {"key": "nvidia.com/gpu", "operator": "Exists"}
    asked = [toleration.to_api() for toleration in cache.spec.placement.tolerations]
    return [custom, *(toleration for toleration in asked if toleration != custom)]


def _volume(cache: ModelCache, role: str, where: Manifest, node: Manifest) -> Manifest:
    name = names.volume_name(cache_key(cache), role)
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": name,
                "labels": {
                    LABEL_MANAGED_BY: MANAGED_BY,
                    LABEL_CACHE: names.fit(cache.name, 63),
                    LABEL_CACHE_NAMESPACE: cache.namespace,
                },
            },
            "spec": {
                "capacity": {"storage": CLAIM_SIZE},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": cache.namespace,
                    "name": name,
                },
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
                **where,
            },
        }
    )
