"""Lays spec.template over the pod template that we make, as Kubernetes merges a patch. Pure.

Maps are merged deeply, lists with a merge key item by item, other lists replaced. Where that would break a
promise, it is otherwise:

tolerations, affinity   added to ours: neither the GPU type nor the taint of GPU nodes can get lost
env, volumes            an item replaces its namesake whole: half of one and half of another is no item
initContainers          the user's come before the agent: its watch begins when the engine may start
securityContext         of a user's container: ours by default, the user's fields win

What may not be overlaid at all is refused before (``template_check``).
"""

from collections.abc import Callable, Mapping
from typing import Any

from preheat.api.template import AGENT, ENGINE, PodTemplate
from preheat.resources.metadata import Manifest

MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "claims": ("name",),
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "protocol"),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""The lists that Kubernetes merges, and what tells their items apart."""
KEY_DEFAULTS: Mapping[str, str] = {"protocol": "TCP"}
WHOLE = frozenset({"env", "volumes"})
"""Lists whose items are replaced, not merged."""


def overlay(template: Manifest, wanted: PodTemplate, restricted: Callable[[], Manifest]) -> Manifest:
    """Return the pod template with the user's laid over it.

    ``restricted`` gives the security context that a container of the user's own gets by default.
    """
    metadata, spec = wanted.metadata, without_nulls(wanted.spec or {})
    return {
        "metadata": {
            "labels": {**((metadata and metadata.labels) or {}), **template["metadata"]["labels"]},
            "annotations": {
                **template["metadata"]["annotations"],
                **((metadata and metadata.annotations) or {}),
            },
        },
        "spec": _pod(template["spec"], spec, restricted),
    }


def _pod(ours: Manifest, theirs: Manifest, restricted: Callable[[], Manifest]) -> Manifest:
    special = {"tolerations", "affinity", "containers", "initContainers"}
    merged: Manifest = merge(ours, {key: value for key, value in theirs.items() if key not in special})
    engine, mine = _split(theirs.get("containers", []), ENGINE, restricted)
    agent, before = _split(theirs.get("initContainers", []), AGENT, restricted)
    (our_engine,), (our_agent,) = ours["containers"], ours["initContainers"]
    added = {
        "containers": [_container(our_engine, engine), *mine],
        "initContainers": [*before, _container(our_agent, agent)],
        "tolerations": [
            *ours["tolerations"],
            *(t for t in theirs.get("tolerations", []) if t not in ours["tolerations"]),
        ],
        "affinity": _added(ours["affinity"], theirs.get("affinity", {})),
    }
    return {**merged, **added}


def _split(
    containers: list[Manifest], name: str, restricted: Callable[[], Manifest]
) -> tuple[Manifest, list[Manifest]]:
    """Return what is laid over a container of ours, and the user's own ones, secured."""
    over = next((c for c in containers if c["name"] == name), {})
    own = [
        _container({"securityContext": restricted()}, container)
        for container in containers
        if container["name"] != name
    ]
    return over, own


def _container(ours: Manifest, theirs: Manifest) -> Manifest:
    merged: Manifest = merge(ours, theirs)
    resources = merged.get("resources")
    if not isinstance(resources, dict):
        return merged
    # The API server stores a quantity as text: a number would differ from what is there for ever.
    amounts = {
        kind: {name: str(amount) for name, amount in values.items()} if isinstance(values, dict) else values
        for kind, values in resources.items()
    }
    return {**merged, "resources": amounts}


def merge(ours: Any, theirs: Any, field: str = "") -> Any:
    """Return a strategic merge of two values of a field.

    >>> merge({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}})
    {'a': 1, 'b': {'c': 2, 'd': 3}}
    >>> merge([{"name": "A", "value": "1"}], [{"name": "A", "valueFrom": {}}, {"name": "B"}], "env")
    [{'name': 'A', 'valueFrom': {}}, {'name': 'B'}]
    >>> merge(["x"], ["y"], "args")
    ['y']
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        changed = {k: merge(ours[k], v, k) if k in ours else v for k, v in theirs.items()}
        return {**ours, **changed}
    if isinstance(ours, list) and isinstance(theirs, list) and field in MERGE_KEYS:
        result = {identity(item, field): item for item in ours}
        for item in theirs:
            key = identity(item, field)
            known = key in result and field not in WHOLE
            result[key] = merge(result[key], item, field) if known else item
        return list(result.values())
    return theirs


def identity(item: Manifest, field: str) -> tuple[Any, ...]:
    """Return what tells an item of a merged list apart.

    >>> identity({"containerPort": 80}, "ports")
    (80, 'TCP')
    """
    return tuple(item.get(key, KEY_DEFAULTS.get(key)) for key in MERGE_KEYS[field])


def _added(ours: Any, theirs: Any) -> Any:
    """Return both: terms of affinity are added, never replaced."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        both = {k: _added(ours[k], v) if k in ours else v for k, v in theirs.items()}
        return {**ours, **both}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *theirs]
    return ours


def without_nulls(value: Any) -> Any:
    """Return the value without keys that are null: the API server drops them, and a file may hold them.

    >>> without_nulls({"a": None, "b": [{"c": None, "d": 0}]})
    {'b': [{'d': 0}]}
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
