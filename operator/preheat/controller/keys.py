"""Which caches there are, by the keys of their weights, and which Deployments mount them."""

from collections.abc import Collection

from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse
from preheat.controller.view import Key, View
from preheat.resources.caching import cache_key
from preheat.resources.metadata import Manifest
from preheat.resources.names import volume_name
from preheat.resources.weights import key_in_pod


def serve_path(view: View, key: str) -> str:
    """Return the path of a cache's serve volume on nodes, empty while there is none."""
    volume = view.get("PersistentVolume", "", volume_name(key, "serve"))
    path: str = (((volume or {}).get("spec") or {}).get("local") or {}).get("path") or ""
    return path


def cache_keys(view: View) -> frozenset[str]:
    """Return the keys of all caches."""
    return frozenset(key for cache in view.keys("ModelCache") if (key := cache_key_of(view, cache)))


def used_keys(view: View) -> frozenset[str]:
    """Return the keys of all caches whose volume a Deployment mounts: while it does, they stay.

    A cache that is deleted under a running model is made again, and finds its volume and its nodes as they were.
    """
    return frozenset(key for key, namespace in used_namespaces(view) if is_of(view, key, namespace))


def mounted_key(deployment: Manifest) -> str | None:
    """Return the key of the cache whose weights a Deployment's pods mount."""
    return key_in_pod(((deployment.get("spec") or {}).get("template") or {}).get("spec") or {})


def cache_key_of(view: View, cache: Key) -> str | None:
    """Return a cache's key. One that cannot be read has the key that its status tells, if any."""
    return view.derived(cache, key_in)


def key_in(body: Manifest) -> str | None:
    """Return the key of a ModelCache, None for one that can neither be read nor tells it."""
    cache = parsed_cache(body)
    told: str | None = (body.get("status") or {}).get("key")
    return cache_key(cache) if cache is not None else told


def parsed_cache(body: Manifest) -> ModelCache | None:
    """Return a ModelCache, None for one that cannot be read: it says so itself, in its own loop."""
    try:
        return parse(ModelCache, body)
    except InvalidSpecError:
        return None


def running_keys(view: View) -> Collection[tuple[str, str]]:
    """Return the keys of all caches that a Deployment with replicas says it mounts, each with its namespace."""
    return [pair for pair in view.derived_of_all("Deployment", _running_where) if pair is not None]


def _running_where(deployment: Manifest) -> tuple[str, str] | None:
    return mounted_where(deployment) if running_key(deployment) is not None else None


def running_key(deployment: Manifest) -> str | None:
    """Return the key of the cache that a Deployment with replicas mounts."""
    wanted = int((deployment.get("spec") or {}).get("replicas", 1))
    return mounted_key(deployment) if wanted > 0 else None


def used_namespaces(view: View) -> list[tuple[str, str]]:
    """Return the keys of all caches that a Deployment says it mounts, with its namespace."""
    return [pair for pair in view.derived_of_all("Deployment", mounted_where) if pair is not None]


def mounted_where(deployment: Manifest) -> tuple[str, str] | None:
    """Return the key of the cache that a Deployment mounts, and the namespace."""
    key = mounted_key(deployment)
    return None if key is None else (key, deployment["metadata"].get("namespace", ""))


def is_of(view: View, key: str, namespace: str) -> bool:
    """Tell whether weights can be of a namespace: a Deployment may name any claim, but its volume is bound to one."""
    return namespace_of(view, key) in {None, namespace}


def namespace_of(view: View, key: str) -> str | None:
    """Return the namespace that the volume with a cache's weights is for, None while there is none."""
    volume = view.get("PersistentVolume", "", volume_name(key, "serve"))
    claim: Manifest = ((volume or {}).get("spec") or {}).get("claimRef") or {}
    return None if volume is None else str(claim.get("namespace", ""))
