"""The children of a ModelCache, and the ModelCache that an LLMDeployment makes for itself.

On every node each namespace has a folder, and in it each cache has one. PersistentVolumes reach them:

make   ROOT/NAMESPACE      hostPath, DirectoryOrCreate: mounting it makes the kubelet create the folder (as root)
warm   ROOT/NAMESPACE      local: mounting it with fsGroup gives the folder to our group; warmers may write
serve  ROOT/NAMESPACE/KEY  local, read-only in pods: its node affinity asks for the label of complete nodes

A warmer mounts make and warm: no pod of ours runs as root and none uses a hostPath volume itself, so Pod
Security `restricted` holds. A model pod mounts serve: the scheduler itself keeps it off incomplete nodes.
make and warm are there once per namespace, serve once per cache.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

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
from preheat.api.modelcache import ModelCache, ModelFormat, PlacementSpec, Toleration
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources import names
from preheat.resources.metadata import Manifest, child, stamped
from preheat.resources.overlay import without_nulls
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
    gpu, asked = service.spec.hardware.gpu, wanted_placement(service)
    placement: dict[str, Any] = {
        "gpuTypes": [kind.value for kind in asked.gpu_types],
        "nodeSelector": asked.node_selector,
        "tolerations": [
            {"key": gpu.resource_name, "operator": "Exists"},
            *(toleration.to_api() for toleration in asked.tolerations),
        ],
        "nodes": nodes,
    }
    spec: dict[str, Any] = {"source": cache_source(service), "placement": placement}
    if service.spec.cache.max_bytes_per_second is not None:
        spec["maxBytesPerSecond"] = service.spec.cache.max_bytes_per_second
    return child(API_VERSION, "ModelCache", name, service, {LABEL_DEPLOYMENT: service.name}, spec=spec)


def wanted_placement(service: LLMDeployment) -> PlacementSpec:
    """Return where a service's pods may go, and so its weights: as hardware and the pod template say.

    A toleration for a limited time is a wish to leave later, not to live there: it places no weights.
    Raises InvalidSpec for one that an older operator let in and Kubernetes does not know.
    """
    hardware, template = service.spec.hardware, service.spec.template
    pod = without_nulls((template and template.spec) or {})
    try:
        tolerations = [
            Toleration.model_validate(t) for t in pod.get("tolerations", []) if "tolerationSeconds" not in t
        ]
    except ValidationError as problem:
        raise InvalidSpec(f"spec.template.spec.tolerations: {problem.errors()[0]['msg']}") from problem
    return PlacementSpec(
        gpu_types=hardware.gpu.types,
        node_selector={**hardware.node_selector, **pod.get("nodeSelector", {})},
        tolerations=[*hardware.tolerations, *tolerations],
    )


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cache lies on every node, and through which volumes its warmers reach it.

    ``home``: the folder that they mount. ``volumes``: the key in the names of make and warm.
    ``folder``: the cache's own folder below home, empty when home is its own.
    """

    home: str
    volumes: str
    folder: str

    @property
    def path(self) -> str:
        """The cache's own folder."""
        return f"{self.home}/{self.folder}" if self.folder else self.home


def place_of(cache: ModelCache, paths: Mapping[str, str], config: OperatorConfig) -> Place:
    """Return where a cache lies. ``paths``: of the volumes that exist, by name.

    A volume's path can never change. So where there are volumes they say where it is, and the setting of
    the installation is only for new ones. A cache that lies elsewhere (made by a release before 0.2, or
    under another root) has make and warm volumes of its own.
    """
    key, shared = cache_key(cache), names.namespace_key(cache.namespace)
    home = paths.get(names.volume_name(shared, "warm"), f"{config.cache_root}/{cache.namespace}")
    place = Place(home, shared, key)
    own = paths.get(names.volume_name(key, "serve"), place.path)
    return place if own == place.path else Place(own, key, "")


def make_volumes(cache: ModelCache, place: Place) -> list[Manifest]:
    """Return the PersistentVolumes. They are cluster-scoped, so no owner can delete them: we do."""
    key = cache_key(cache)
    anywhere = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
    complete = {"key": node_label(key), "operator": "In", "values": [NODE_LABEL_READY]}
    make = {"hostPath": {"path": place.home, "type": "DirectoryOrCreate"}}
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_CACHE: names.fit(cache.name, 63),
        LABEL_CACHE_NAMESPACE: cache.namespace,
    }
    both = {k: v for k, v in labels.items() if k != LABEL_CACHE or not place.folder}
    return [
        _volume(cache, names.volume_name(place.volumes, "make"), both, make, anywhere),
        _volume(
            cache, names.volume_name(place.volumes, "warm"), both, {"local": {"path": place.home}}, anywhere
        ),
        _volume(cache, names.volume_name(key, "serve"), labels, {"local": {"path": place.path}}, complete),
    ]


def make_claims(cache: ModelCache, place: Place) -> list[Manifest]:
    """Return the claims that pods use, each bound to its volume from the start.

    They have no owner (``decide/orphans.py`` deletes them): what pods mount must outlast a cache that somebody
    deletes under them. A claim that is being deleted lets no new pod start, and stays until the old ones end.
    """
    common = {LABEL_MANAGED_BY: MANAGED_BY}
    its_own = {**common, LABEL_CACHE: cache.name}
    shared = {**common, LABEL_CACHE_NAMESPACE: cache.namespace} if place.folder else its_own
    return [
        *(_claim(cache, names.volume_name(place.volumes, role), shared) for role in ("make", "warm")),
        _claim(cache, names.volume_name(cache_key(cache), "serve"), its_own),
    ]


def _claim(cache: ModelCache, name: str, labels: dict[str, str]) -> Manifest:
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": cache.namespace, "labels": labels},
            "spec": {
                "storageClassName": "",
                "volumeName": name,
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": CLAIM_SIZE}},
            },
        }
    )


def make_warmer(cache: ModelCache, node: str, place: Place, config: OperatorConfig) -> Manifest:
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
                "spec": _warmer_pod(cache, node, place, config),
            },
        },
    )
    body["metadata"]["annotations"][ANNOTATION_NODE] = node
    return body


def _warmer_pod(cache: ModelCache, node: str, place: Place, config: OperatorConfig) -> Manifest:
    source = cache.spec.source
    volumes: list[Manifest] = [
        {"name": role, "persistentVolumeClaim": {"claimName": names.volume_name(place.volumes, role)}}
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
                "env": [
                    {"name": "PREHEAT_WARMER_CONFIG", "value": _warmer_config(cache, node, place, config)}
                ],
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


def _warmer_config(cache: ModelCache, node: str, place: Place, config: OperatorConfig) -> str:
    source = cache.spec.source
    hub = source.uri.startswith("hf://")
    settings = {
        "source": {"uri": source.uri, "revision": source.revision},
        "hfEndpoint": (source.endpoint if hub else None) or config.hf_endpoint,
        "files": [file.to_api() for file in source.files],
        "include": source.include or DEFAULT_INCLUDES.get(source.format, []),
        "allowPickle": source.format is ModelFormat.PICKLE,
        "destination": f"/cache/{place.folder}".rstrip("/"),
        "sourceDirectory": "/source",
        "listenPort": PORT_WARMER,
        "maxBytesPerSecond": cache.spec.max_bytes_per_second,
        "parallelism": 4,
        "nodeName": node,
        **({"endpoint": source.endpoint} if source.endpoint and not hub else {}),
    }
    return json.dumps(settings, sort_keys=True).replace("$", "$$")


def tolerations(cache: ModelCache) -> list[Manifest]:
    """Return what a warmer tolerates: the taint that GPU nodes carry by custom, and what the user adds."""
    custom = {"key": "nvidia.com/gpu", "operator": "Exists"}
    asked = [toleration.to_api() for toleration in cache.spec.placement.tolerations]
    return [custom, *(toleration for toleration in asked if toleration != custom)]


def _volume(
    cache: ModelCache, name: str, labels: dict[str, str], where: Manifest, node: Manifest
) -> Manifest:
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": labels},
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
