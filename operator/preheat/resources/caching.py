"""The children of a ModelCache, and the ModelCache that an LLMDeployment makes for itself.

On every node each namespace has a folder, and in it each cache has one. PersistentVolumes reach them:

make   ROOT/NAMESPACE      hostPath, DirectoryOrCreate: mounting it makes the kubelet create the folder (as root)
warm   ROOT/NAMESPACE      local: mounting it with fsGroup gives the folder to our group; warmers may write
serve  ROOT/NAMESPACE/KEY  local, read-only in pods: its node affinity asks for the label of complete nodes

A warmer mounts make and warm: no pod of ours runs as root and none uses a hostPath volume itself, so Pod
Security `restricted` holds. A model pod mounts serve: the scheduler itself keeps it off incomplete nodes.
make and warm are there once per namespace, serve once per cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from preheat.api.base import APIModel
from preheat.api.constants import (
    ANNOTATION_BOOT,
    ANNOTATION_NODES_FIRST,
    ANNOTATION_RESOLVED,
    ANNOTATION_ROOM,
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
from preheat.api.modelcache import CacheMode, ModelCache, ModelFormat, PlacementSpec, Toleration
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources import names
from preheat.resources.jobs import make_container, make_job, make_pod, on_node, tolerating, tries
from preheat.resources.metadata import Manifest, child
from preheat.resources.overlay import without_nulls
from preheat.resources.serving import cache_source, cache_storage
from preheat.resources.volumes import ANYWHERE, folder, folder_made, make_claim, make_volume

DEFAULT_INCLUDES = {
    ModelFormat.GGUF: ["*.gguf", "*.json"],
    ModelFormat.ONNX: ["*.onnx", "*.onnx_data", "*.json", "*.txt", "*.model"],
}


def make_cache(
    service: LLMDeployment, name: str, nodes: int, resolved: str = "", first: Sequence[str] = ()
) -> Manifest:
    """Ask for the service's weights on as many nodes as it needs, or on its volume.

    ``resolved``: the digest of the image that its pods name already. ``first``: the nodes that get them before others.
    """
    gpu, asked = service.spec.hardware.gpu, wanted_placement(service)
    placement: dict[str, Any] = {
        "gpuTypes": [kind.value for kind in asked.gpu_types],
        "nodeSelector": asked.node_selector,
        "tolerations": [
            {"key": gpu.resource_name, "operator": "Exists"},
            *(toleration.to_api() for toleration in asked.tolerations),
        ],
    }
    spec: dict[str, Any] = {"source": cache_source(service), "placement": placement}
    if service.spec.cache.mode is not CacheMode.SHARED:
        placement["nodes"] = nodes
    if storage := cache_storage(service):
        spec["storage"] = storage
    if service.spec.cache.max_bytes_per_second is not None:
        spec["maxBytesPerSecond"] = service.spec.cache.max_bytes_per_second
    labels = {LABEL_DEPLOYMENT: service.name}
    told = {ANNOTATION_NODES_FIRST: ",".join(first)} if first else None
    body = child(API_VERSION, "ModelCache", name, service, labels, told, spec=spec)
    if resolved:
        body["metadata"]["annotations"][ANNOTATION_RESOLVED] = resolved
    return body


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
    return names.cache_key(cache.namespace, cache.name, _given(cache.spec.source), _given(cache.spec.storage))


def same_source(cache: ModelCache, service: LLMDeployment) -> bool:
    """Tell whether a cache holds the very bytes that a service asks for, where it asks for them."""
    theirs = _given(cache.spec.source), _given(cache.spec.storage)
    return theirs == (cache_source(service), cache_storage(service))


def _given(part: APIModel) -> dict[str, Any]:
    """Return what of a part of a spec is not as it is when left out."""
    return part.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def made_for(cache: ModelCache) -> str | None:
    """Return the service that made a cache for itself, None for one that a person made."""
    return cache.labels.get(LABEL_DEPLOYMENT)


def lies_on_disks(cache: ModelCache) -> bool:
    """Tell whether a cache's weights take up room on the disks of nodes, where keepers and budgets look after them."""
    return cache.spec.storage.mode is CacheMode.NODE


def node_label(key: str) -> str:
    """Return the label that a node carries when it holds the cache complete and verified."""
    return NODE_LABEL_PREFIX + key


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cache lies on every node, and through which volumes its warmers reach it.

    ``home``: the folder that they mount. ``volumes``: the key in the names of make and warm.
    ``folder``: the cache's own folder below home, empty when home is its own.
    ``narrow``: whether its serve volume shows that folder alone, as volumes of older releases do.
    """

    home: str
    volumes: str
    folder: str
    narrow: bool = False

    @property
    def path(self) -> str:
        """The cache's own folder."""
        return f"{self.home}/{self.folder}" if self.folder else self.home

    @property
    def shown(self) -> str:
        """The folder that the serve volume shows.

        It is the namespace's, which only root can replace: whoever may start pods in a namespace can put a link in
        the place of the cache's own folder, and the kubelet would follow it anywhere on the node. What lies below
        the volume's own folder (subPath) it opens without following links out of it.
        """
        return self.path if self.narrow else self.home


def place_of(cache: ModelCache, paths: Mapping[str, str], config: OperatorConfig) -> Place:
    """Return where a cache lies. ``paths``: of the volumes that exist, by name.

    A volume's path can never change. So where there are volumes they say where it is, and the setting of
    the installation is only for new ones. A cache that lies elsewhere (made by a release before 0.2, or
    under another root) has make and warm volumes of its own.
    """
    key, shared = cache_key(cache), names.namespace_key(cache.namespace)
    home = paths.get(names.volume_name(shared, "warm"), f"{config.cache_root}/{cache.namespace}")
    place = Place(home, shared, key)
    shown = paths.get(names.volume_name(key, "serve"), place.home)
    if shown in {place.home, place.path}:
        return replace(place, narrow=shown == place.path)
    return Place(shown, key, "", narrow=True) if shows_one_cache(shown, key) else Place(shown, key, key)


def shows_one_cache(path: str, key: str) -> bool:
    """Tell whether a serve volume of this path shows its cache's folder alone: one of an older release."""
    return path.endswith(f"/{key}")


def make_volumes(cache: ModelCache, place: Place) -> list[Manifest]:
    """Return the PersistentVolumes. They are cluster-scoped, so no owner can delete them: we do."""
    key, namespace = cache_key(cache), cache.namespace
    complete = {"key": node_label(key), "operator": "In", "values": [NODE_LABEL_READY]}
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_CACHE: names.fit(cache.name, 63),
        LABEL_CACHE_NAMESPACE: namespace,
    }
    both = {k: v for k, v in labels.items() if k != LABEL_CACHE or not place.folder}
    make, warm = (names.volume_name(place.volumes, role) for role in ("make", "warm"))
    return [
        make_volume(namespace, make, both, folder_made(place.home), ANYWHERE),
        make_volume(namespace, warm, both, folder(place.home), ANYWHERE),
        make_volume(namespace, names.volume_name(key, "serve"), labels, folder(place.shown), complete),
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
        *(
            make_claim(cache.namespace, names.volume_name(place.volumes, role), shared)
            for role in ("make", "warm")
        ),
        make_claim(cache.namespace, names.volume_name(cache_key(cache), "serve"), its_own),
    ]


def make_warmer(
    cache: ModelCache, node: str, place: Place, config: OperatorConfig, *, boot: str = "", waits: bool = False
) -> Manifest:
    """Fetch and verify the weights on one node. ``boot``: which of its starts the node is in.

    ``waits``: the Job is suspended until the node's own loop gives it room on the disk (``decide/budget.py``).
    """
    return warmer_job(cache, node, _warmer_pod(cache, node, place, config), boot=boot, waits=waits)


def warmer_job(
    cache: ModelCache,
    site: str,
    pod: Manifest,
    *,
    boot: str = "",
    waits: bool = False,
    component: str = COMPONENT_WARMER,
) -> Manifest:
    """Return the Job that runs a warmer. ``site``: the node that it works for, or what stands in a node's place."""
    labels = {LABEL_CACHE: cache.name, LABEL_COMPONENT: component}
    spec = {**({"suspend": True} if waits else {}), **tries("warmer")}
    body = make_job(cache, names.warmer_name(cache.name, site), labels, site, pod, spec)
    body["metadata"]["annotations"][ANNOTATION_BOOT] = boot
    return body


@dataclass(frozen=True, slots=True)
class Reach:
    """What a warmer's pod can reach, and where it runs."""

    volumes: list[Manifest]
    mounts: list[Manifest]
    node_affinity: Manifest
    """Of the terms that must hold; empty: any node."""
    pull_secrets: tuple[str, ...] = ()


def _warmer_pod(cache: ModelCache, node: str, place: Place, config: OperatorConfig) -> Manifest:
    volumes: list[Manifest] = [
        {"name": role, "persistentVolumeClaim": {"claimName": names.volume_name(place.volumes, role)}}
        for role in ("make", "warm")
    ]
    mounts: list[Manifest] = [
        {"name": "make", "mountPath": "/run/preheat/make", "readOnly": True},
        {"name": "warm", "mountPath": "/cache"},
    ]
    settings = warmer_settings(cache, node, f"/cache/{place.folder}".rstrip("/"), config)
    return warmer_pod(cache, with_source(cache, Reach(volumes, mounts, on_node(node))), settings, config)


def with_source(cache: ModelCache, reach: Reach) -> Reach:
    """Add what a warmer that fetches needs besides: the claim of a pvc:// source, and credentials."""
    source, volumes, mounts = cache.spec.source, [*reach.volumes], [*reach.mounts]
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
    return replace(reach, volumes=volumes, mounts=mounts)


def warmer_pod(
    cache: ModelCache, reach: Reach, settings: Mapping[str, Any], config: OperatorConfig
) -> Manifest:
    """Return a warmer's pod. ``settings``: its configuration (contract: runtime/warmer/README.md)."""
    container = make_container(
        "warmer",
        settings,
        config,
        port=("progress", PORT_WARMER),
        requests={"cpu": "100m", "memory": "128Mi"},
        memory="1Gi",
        mounts=reach.mounts,
    )
    room = {"fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_ROOM}']"}}
    container["env"].append({"name": "PREHEAT_ROOM_BYTES", "valueFrom": room})
    pod = make_pod(
        container, affinity=reach.node_affinity, tolerations=tolerations(cache), volumes=reach.volumes
    )
    secrets = [{"name": name} for name in reach.pull_secrets]
    return {**pod, "imagePullSecrets": secrets} if secrets else pod


def warmer_settings(cache: ModelCache, site: str, destination: str, config: OperatorConfig) -> dict[str, Any]:
    """Return the configuration of a warmer that fetches."""
    source = cache.spec.source
    hub = source.uri.startswith("hf://")
    return {
        "source": {"uri": source.uri, "revision": source.revision},
        "hfEndpoint": (source.endpoint if hub else None) or config.hf_endpoint,
        "files": [file.to_api() for file in source.files],
        "include": source.include or DEFAULT_INCLUDES.get(source.format, []),
        "allowPickle": source.format is ModelFormat.PICKLE,
        "destination": destination,
        "sourceDirectory": "/source",
        "listenPort": PORT_WARMER,
        "maxBytesPerSecond": cache.spec.max_bytes_per_second,
        "parallelism": 4,
        "nodeName": site,
        **({"endpoint": source.endpoint} if source.endpoint and not hub else {}),
    }


def tolerations(cache: ModelCache) -> list[Manifest]:
    """Return what a warmer tolerates: the taints that GPU nodes carry by custom, and what the user adds."""
    return tolerating([toleration.to_api() for toleration in cache.spec.placement.tolerations])
