"""Which loops a change concerns. A change wakes those, and no more: a thousand objects must not wake each other."""

from collections.abc import Callable, Mapping

from preheat.api.constants import (
    ANNOTATION_APPLIED,
    ANNOTATION_BUDGET,
    ANNOTATION_VERIFY,
    COMPONENT_FRONT,
    LABEL_CACHE,
    LABEL_CACHE_NAMESPACE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    NODE_LABEL_AVOIDED,
    NODE_LABEL_PREFIX,
)
from preheat.controller.disks import avoided_nodes
from preheat.controller.keys import cache_key_of, mounted_key, running_key
from preheat.controller.view import Key, View, key_of, parents
from preheat.decide.observed import DeploymentView, JobState, JobView, PodView
from preheat.decide.orphans import is_spent
from preheat.decide.traffic import RouteView
from preheat.resources.metadata import Manifest
from preheat.resources.names import volume_name

ORPHANS: Key = ("Orphans", "", "")
"""The loop over what has no owner: one for the whole cluster."""


def concerned(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return the loops that a change concerns. None: the object was or is not there."""
    body = after or before or {}
    if before is not None and after is not None and _are_alike(before, after):
        return []
    special = _SPECIAL.get(body["kind"])
    return special(before, after, view) if special else _of_child(before, after)


def is_only_status(before: Manifest | None, after: Manifest | None) -> bool:
    """Tell whether two versions of an object differ in the status alone.

    The answer to a write of the status may hold a new spec: somebody was quicker.
    """
    return before is not None and after is not None and _but_status(before) == _but_status(after)


def _but_status(body: Manifest) -> object:
    metadata = {k: v for k, v in body["metadata"].items() if k not in {"resourceVersion", "managedFields"}}
    return metadata, {k: v for k, v in body.items() if k not in {"metadata", "status"}}


def _are_alike(before: Manifest, after: Manifest) -> bool:
    """Tell whether no decision can see a difference: controllers write more into a status than anybody reads."""
    view = _VIEWS.get(before["kind"])
    return view is not None and view(before) == view(after)


def _seen_of_deployment(body: Manifest) -> object:
    return _seen_of_metadata(body), body.get("spec"), DeploymentView.from_body(body)


def _seen_of_job(body: Manifest) -> object:
    return _seen_of_metadata(body), JobView.from_body(body)


def _seen_of_volume(body: Manifest) -> object:
    """Nobody can change the spec of a volume or claim; what the binder notes in it is its own.

    But for a volume that nobody can bind any more.
    """
    return _seen_of_metadata(body), is_spent(body)


def _seen_of_route(body: Manifest) -> object:
    """Gateways write into its status when nothing that anybody reads has changed."""
    return _seen_of_metadata(body), body.get("spec"), RouteView.from_body(body)


_VIEWS: Mapping[str, Callable[[Manifest], object]] = {
    "HTTPRoute": _seen_of_route,
    "Deployment": _seen_of_deployment,
    "Job": _seen_of_job,
    "PersistentVolume": _seen_of_volume,
    "PersistentVolumeClaim": _seen_of_volume,
}


def _seen_of_metadata(body: Manifest) -> object:
    metadata = body["metadata"]
    fields = ("uid", "labels", "ownerReferences", "deletionTimestamp")
    applied = (metadata.get("annotations") or {}).get(ANNOTATION_APPLIED)
    return [metadata.get(field) for field in fields], applied


def _of_child(before: Manifest | None, after: Manifest | None) -> list[Key]:
    """Return the parents that a child's labels name, and those that they named before."""
    return list(dict.fromkeys(parent for body in (before, after) if body for parent in parents(body)))


def _of_deployment(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return its parents. With a Deployment goes what kept a cache's volumes: its pods used them.

    When its last replica goes, or the first comes, its cache notes it: who was used last leaves a disk last.
    """
    found = _of_child(before, after)
    if after is None or _runs(before) != _runs(after):
        found += [parent for body in (before, after) if body for parent in _caches_of_claims(body, view)]
    if after is None and before is not None:
        key = mounted_key(before)
        found += [("Node", "", n["metadata"]["name"]) for n in view.all("Node") if key in _caches(n)]
        found.append(ORPHANS)
    return found


def _runs(deployment: Manifest | None) -> str | None:
    """Return the key of the cache that a Deployment's replicas use, None without a Deployment or without replicas."""
    return None if deployment is None else running_key(deployment)


def _caches_of_claims(deployment: Manifest, view: View) -> list[Key]:
    """Return the caches whose weights a Deployment mounts: by its claim, else (in images and on shared volumes) by key."""
    namespace, key = deployment["metadata"].get("namespace", ""), mounted_key(deployment)
    if key is None:
        return []
    claim = view.get("PersistentVolumeClaim", namespace, volume_name(key, "serve"))
    if claim is not None:
        return [parent for parent in parents(claim) if parent[0] == "ModelCache"]
    caches = view.all("ModelCache", namespace)
    return [mine for cache in caches if cache_key_of(view, mine := key_of(cache)) == key]


def _of_job(before: Manifest | None, after: Manifest | None, _view: View) -> list[Key]:
    """Return its cache, and its node when a Job there waits for room, has ended, or is gone after that."""
    found = _of_child(before, after)
    if _for_its_node(before) == _for_its_node(after):
        return [key for key in found if key[0] != "Node"]
    return found


def _for_its_node(job: Manifest | None) -> object:
    """Return what a node's loop looks at in a Job. One at work is none of its business."""
    view = JobView.from_body(job) if job is not None else None
    if view is None or view.deleting or (view.state is JobState.ACTIVE and not view.suspended):
        return None
    return view.state, view.suspended, view.uid


def _of_service(before: Manifest | None, after: Manifest | None, _view: View) -> list[Key]:
    """Return the LLMDeployment itself, and nodes that it avoids or no more. With the last of a namespace goes what they shared."""
    moved = avoided_nodes(before or {}) ^ avoided_nodes(after or {})
    nodes: list[Key] = [("Node", "", name) for name in sorted({name for name, _, _ in moved})]
    return [key_of(after), *nodes] if after else [key_of(before or {}), *nodes, ORPHANS]


def _of_cache(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return the cache itself and every LLMDeployment of its namespace that may use it.

    One that a person made may be what any of them waits for. When a cache goes: every node that holds it, too.
    """
    body = after or before or {}
    metadata = body["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    found: list[Key] = [("ModelCache", namespace, name), *parents(body)]
    by_hand = LABEL_DEPLOYMENT not in (metadata.get("labels") or {})
    found += [
        ("LLMDeployment", namespace, service["metadata"]["name"])
        for service in view.all("LLMDeployment", namespace)
        if _uses(service, name) or (by_hand and not _is_ready(service))
    ]
    if after is None:
        key = (body.get("status") or {}).get("key")
        found += [("Node", "", n["metadata"]["name"]) for n in view.all("Node") if key in _caches(n)]
        found.append(ORPHANS)
    elif before is not None and _for_its_nodes(before) != _for_its_nodes(after):
        found += [("Node", "", node["name"]) for node in (after.get("status") or {}).get("nodes") or ()]
    return found


def _for_its_nodes(cache: Manifest) -> object:
    """Return what the loops of nodes look at in a cache that is there."""
    status, metadata = cache.get("status") or {}, cache["metadata"]
    asked = (metadata.get("annotations") or {}).get(ANNOTATION_VERIFY)
    return metadata.get("generation"), asked, status.get("totalBytes"), status.get("inUse")


def _of_node(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return the node itself and whose weights came or went with its labels, and who tells that it is avoided.

    What else changes concerns those objects that are not settled: the next resync tells the settled ones.
    """
    name = (after or before or {})["metadata"]["name"]
    found: list[Key] = []
    labels = _labels_of_caches(before) ^ _labels_of_caches(after)
    moved = {key for key, _ in labels}
    if moved:
        found += [key for key in view.keys("ModelCache") if cache_key_of(view, key) in moved]
    avoided = {key for key, value in labels if value == NODE_LABEL_AVOIDED}
    if avoided:
        caches = [key for key in found if cache_key_of(view, key) in avoided]
        found += [
            ("LLMDeployment", namespace, service["metadata"]["name"])
            for _, namespace, cache in caches
            for service in view.all("LLMDeployment", namespace)
            if _uses(service, cache)
        ]
    changed = before is None or after is None or _gist(before) != _gist(after)
    if changed:
        found += [
            (kind, o["metadata"]["namespace"], o["metadata"]["name"])
            for kind in ("LLMDeployment", "ModelCache")
            for o in view.all(kind)
            if not _is_ready(o)
        ]
    if after is None:
        found.append(ORPHANS)
    # A kubelet reports every few minutes: a heartbeat concerns nobody.
    return [("Node", "", name), *sorted(set(found))] if changed or moved else []


def _of_volume(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return the cache that a volume or claim belongs to: its labels say so.

    What all caches of a namespace share is looked after by any of them.
    """
    metadata = (after or before or {})["metadata"]
    labels = metadata.get("labels") or {}
    namespace = labels.get(LABEL_CACHE_NAMESPACE) or metadata.get("namespace", "")
    if LABEL_CACHE in labels:
        return [("ModelCache", namespace, labels[LABEL_CACHE]), ORPHANS]
    return [*_first("ModelCache", namespace, view), ORPHANS]


def _of_policy(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return the cache whose seeders it is for; else one LLMDeployment of the namespace: any of them makes it right."""
    found = _of_child(before, after)
    if found:
        return found
    metadata = (after or before or {})["metadata"]
    return [*_first("LLMDeployment", metadata["namespace"], view), ORPHANS]


def _of_pod(before: Manifest | None, after: Manifest | None, view: View) -> list[Key]:
    """Return its parents. One of the front concerns everybody whose clients may be sent there."""
    if not is_of_front(after or before or {}, view.namespace):
        return _of_child(before, after)
    if _address(before) == _address(after):
        return []
    slices = (parent for body in view.all("EndpointSlice") for parent in parents(body))
    fronted = (key_of(body) for body in view.all("LLMDeployment") if asks_for_zero(body))
    return list(dict.fromkeys([*slices, *fronted]))


def is_of_front(pod: Manifest, namespace: str) -> bool:
    """Tell whether a pod is one of the front, which runs in one namespace: anybody may give a pod of theirs its labels."""
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    return metadata.get("namespace") == namespace and labels.get(LABEL_COMPONENT) == COMPONENT_FRONT


def asks_for_zero(service: Manifest) -> bool:
    """Tell whether an LLMDeployment asks for scaling to zero, as it was written."""
    scaling = (service.get("spec") or {}).get("scaling") if isinstance(service.get("spec"), dict) else None
    return isinstance(scaling, dict) and scaling.get("scaleToZero") is True


def asks_for_gateway(service: Manifest) -> bool:
    """Tell whether an LLMDeployment asks for a route through a gateway, as it was written."""
    spec = service.get("spec")
    rollout = spec.get("rollout") if isinstance(spec, dict) else None
    return isinstance(rollout, dict) and bool(rollout.get("gateway"))


def _address(pod: Manifest | None) -> str | None:
    """Return where a pod of the front can be reached, None while it cannot."""
    view = PodView.from_body(pod, main="front") if pod is not None else None
    return view.ip if view is not None and view.ready and not view.deleting else None


_SPECIAL: Mapping[str, Callable[[Manifest | None, Manifest | None, View], list[Key]]] = {
    "LLMDeployment": _of_service,
    "ModelCache": _of_cache,
    "Deployment": _of_deployment,
    "Job": _of_job,
    "Node": _of_node,
    "Pod": _of_pod,
    "PersistentVolume": _of_volume,
    "PersistentVolumeClaim": _of_volume,
    "NetworkPolicy": _of_policy,
}
"""Every other kind concerns its parents, by its labels."""


def _first(kind: str, namespace: str, view: View) -> list[Key]:
    return [(kind, namespace, body["metadata"]["name"]) for body in view.all(kind, namespace)[:1]]


def _uses(service: Manifest, cache: str) -> bool:
    return bool(((service.get("status") or {}).get("cache") or {}).get("name") == cache)


def _is_ready(body: Manifest) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _caches(node: Manifest | None) -> frozenset[str]:
    """Return the keys of the caches that a node's labels name."""
    return frozenset(key for key, _ in _labels_of_caches(node))


def _labels_of_caches(node: Manifest | None) -> frozenset[tuple[str, str]]:
    labels: Mapping[str, str] = ((node or {}).get("metadata") or {}).get("labels") or {}
    return frozenset(
        (key.removeprefix(NODE_LABEL_PREFIX), value)
        for key, value in labels.items()
        if key.startswith(NODE_LABEL_PREFIX)
    )


def _gist(node: Manifest) -> object:
    """Return what a decision looks at in a node, but for our own labels."""
    status = node.get("status") or {}
    labels = (node["metadata"].get("labels") or {}).items()
    return (
        {key: value for key, value in labels if not key.startswith(NODE_LABEL_PREFIX)},
        node.get("spec"),
        status.get("allocatable"),
        (status.get("nodeInfo") or {}).get("bootID"),
        (node["metadata"].get("annotations") or {}).get(ANNOTATION_BUDGET),
        [(c.get("type"), c.get("status")) for c in status.get("conditions") or ()],
    )
