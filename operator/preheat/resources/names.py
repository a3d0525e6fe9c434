"""Names of children: deterministic, readable, and never too long."""

import hashlib
import json
import re
from typing import Any

from preheat.api.gpu import GPUType

NAME_LIMIT = 52
"""Longest child name: a Job or ReplicaSet still has room for the suffix of its pods (63 in all)."""


def digest(value: Any, length: int) -> str:
    """Return the first hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def fit(name: str, limit: int = NAME_LIMIT) -> str:
    """Return the name, or its beginning and a hash of all of it when it is too long.

    >>> fit("llama"), len(fit("x" * 80)), fit("x" * 80) == fit("x" * 81)
    ('llama', 52, False)
    """
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-.')}-{digest(name, 8)}"


def short_gpu(gpu_type: GPUType) -> str:
    """Return a GPU type without its maker: ``l4``, ``h100-80gb``."""
    return gpu_type.value.split("-", 1)[1]


def child_name(service: str, revision: str, gpu_type: GPUType) -> str:
    """Name of the Deployment, and of the ControllerRevision that pins it."""
    return fit(f"{service}-{revision}-{short_gpu(gpu_type)}")


def scaler_name(service: str) -> str:
    """Name of the ControllerRevision that holds what a scaler must not forget."""
    return f"{service}-scaler"


def front_name(service: str) -> str:
    """Name of the EndpointSlice by which clients come to the front while no replica is ready."""
    return fit(f"{service}-front", 63)


def revision_service_name(service: str, revision: str) -> str:
    """Name of the Service of one revision alone, which a gateway sends that revision's share to."""
    return fit(f"{service}-{revision}", 63)


def cache_name(service: str, source: dict[str, Any], storage: dict[str, Any] | None = None) -> str:
    """Name of the ModelCache that a service makes for itself. ``storage``: left out, or empty, for node disks."""
    return fit(f"{service}-{digest([source, storage] if storage else source, 8)}")


def cache_key(
    namespace: str, cache: str, source: dict[str, Any], storage: dict[str, Any] | None = None
) -> str:
    """Name of a cache's folder wherever it lies, and of its node label: 16 hex digits.

    The namespace is part of it: weights are never shared between namespaces.
    """
    return digest([namespace, cache, source, *([storage] if storage else ())], 16)


def namespace_key(namespace: str) -> str:
    """Name, in volumes, of what all caches of a namespace share."""
    return digest(["namespace", namespace], 16)


def volume_name(key: str, role: str) -> str:
    """Name of a PersistentVolume and of its claim. Role: serve (a cache's), warm or make (a namespace's)."""
    return f"preheat-{key}-{role}"


def key_of_volume(name: str, role: str) -> str | None:
    """Return the key in the name of a volume or claim of ours, None when it has another name.

    >>> key_of_volume("preheat-0123456789abcdef-serve", "serve"), key_of_volume("data", "serve")
    ('0123456789abcdef', None)
    """
    found = re.fullmatch(rf"preheat-([0-9a-f]{{16}})-{role}", name)
    return found and found[1]


def warmer_name(cache: str, node: str) -> str:
    """Name of the Job that warms one node."""
    return fit(f"{fit(cache, NAME_LIMIT - 9)}-{digest(node, 8)}")


def keeper_key() -> str:
    """Name, in volumes, of what every keeper mounts: the folder that all namespaces' weights lie in."""
    return digest(["keeper"], 16)


def keeper_name(node: str) -> str:
    """Name of the Job that keeps one node's disk right."""
    return fit(f"preheat-keeper-{node}")


def seeder_name(cache: str, node: str) -> str:
    """Name of the Job that serves a cache's weights from one node: never that of a warmer."""
    return fit(f"{fit(cache, NAME_LIMIT - 9)}-{digest(['seeder', node], 8)}")


def seeders_name(cache: str) -> str:
    """Name of the NetworkPolicy of a cache's seeders."""
    return fit(f"{cache}-seeders-{digest(['seeders', cache], 8)}", 63)


def puller_name(service: str, images: str, node: str) -> str:
    """Name of the Job that has one node pull the images of a service's pods. ``images``: which, as a digest."""
    return fit(f"{fit(service, NAME_LIMIT - 16)}-image-{digest([images, node], 8)}")


def pager_name(service: str, revision: str, node: str) -> str:
    """Name of the Job that has one node read a revision's weights into memory."""
    return fit(f"{fit(service, NAME_LIMIT - 15)}-page-{digest([revision, node], 8)}")
