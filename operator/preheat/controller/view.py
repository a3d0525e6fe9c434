"""What we know of the cluster without asking: the newest version of every object that concerns us.

Fed by watch events, by full lists (at start and at every resync) and by the answers to our own writes,
so a pass sees what the pass before it wrote. A watch may miss a deletion (kopf lists anew after a gap and
reports only what is there); the next full list finds that out.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import Any, TypeVar

from preheat.api.constants import (
    ANNOTATION_APPLIED,
    ANNOTATION_BOOT,
    ANNOTATION_DELETION_COST,
    ANNOTATION_NODE,
    ANNOTATION_PEERS,
    ANNOTATION_REMOVES,
    ANNOTATION_ROOM,
    ANNOTATION_VERIFIES,
    COMPONENT_KEEPER,
    LABEL_CACHE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
)
from preheat.api.quantity import parse_count
from preheat.resources.metadata import Manifest

T = TypeVar("T")

DEEPEST = 200
"""Levels of an object's fields, one in the other. No object that we work with has thirty."""

SHARED_LETTERS = 64
"""Texts up to this long are kept once: most are the same in a thousand models' objects, or many times in one."""

log = logging.getLogger(__name__)

Key = tuple[str, str, str]
"""(kind, namespace, name)"""


def key_of(body: Manifest) -> Key:
    """Return the key of an object."""
    metadata = body["metadata"]
    return body["kind"], metadata.get("namespace", ""), metadata["name"]


Changed = Callable[[Manifest | None, Manifest | None, Key | None], None]
"""Told of every change: what was known before and what is known now, None for an object that is not there.

And which loop made it by writing its own object's status, None for anybody else and any other change.
"""


class View:
    """A store of objects with an index by parent. Owned by one event loop: no locks."""

    def __init__(self, namespace: str = "preheat-system") -> None:
        self.namespace = namespace
        """Where the operator and its front run."""
        self.on_change: Changed = lambda _before, _after, _author: None
        self.on_kind: Callable[[str], None] = lambda _kind: None
        """Told of a kind that came or went: of one that a cluster may be without."""
        self.absent: frozenset[str] = frozenset()
        """The kinds that the API server does not have."""
        self.issuer_keys: Manifest | None = None
        """The public keys that sign the cluster's tokens, None while they are not known."""
        self._objects: dict[Key, Manifest] = {}
        self._by_kind: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)
        self._children: defaultdict[Key, set[Key]] = defaultdict(set)
        self._tombs: dict[Key, int] = {}
        self._derived: dict[Key, dict[Callable[[Manifest], Any], Any]] = {}
        self._derived_lists: dict[str, dict[Callable[[Manifest], Any], list[Any]]] = {}
        self._memos: dict[Key, Any] = {}

    def know_kind(self, kind: str, *, installed: bool) -> None:
        """Note whether the API server has a kind."""
        before = self.absent
        self.absent = before - {kind} if installed else before | {kind}
        if before != self.absent:
            self.on_kind(kind)

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object, None when it is not there."""
        return self._objects.get((kind, namespace, name))

    def uid(self, key: Key) -> str:
        """Return the uid of an object that is there."""
        return _uid(self._objects[key])

    def all(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        """Return every object of a kind, in one namespace or in all, in a stable order."""
        keys = self.keys(kind) if namespace is None else self._by_kind.get((kind, namespace), ())
        return [self._objects[key] for key in sorted(keys)]

    def children(self, parent: Key, kind: str) -> list[Manifest]:
        """Return the objects of a kind whose labels name a parent."""
        return [self._objects[key] for key in sorted(self._children[parent]) if key[0] == kind]

    def derived(self, key: Key, make: Callable[[Manifest], T]) -> T:
        """Return what is computed from an object that is there; computed once for each of its versions."""
        known = self._derived.setdefault(key, {})
        if make not in known:
            known[make] = make(self._objects[key])
        found: T = known[make]
        return found

    def derived_of_all(self, kind: str, make: Callable[[Manifest], T]) -> Sequence[T]:
        """Return what is computed from each object of a kind, in a stable order; a new list when one changes."""
        known = self._derived_lists.setdefault(kind, {})
        if make not in known:
            known[make] = [self.derived(key, make) for key in sorted(self.keys(kind))]
        return known[make]

    def memo(self, key: Key, make: Callable[[], T]) -> T:
        """Return what is computed from many objects; computed once until any of them all changes."""
        if key not in self._memos:
            self._memos[key] = make()
        found: T = self._memos[key]
        return found

    def take_in(self, body: Manifest) -> None:
        """Put an object that anybody may have written. One that cannot be taken in is left out, with a line in the log.

        It must not keep the others of a list out, nor the operator from starting.
        """
        try:
            self.put(body)
        except Exception:  # as in the loop: whatever is wrong with one object, the others go on
            log.exception("%s cannot be taken in and is left out", "/".join(key_of(body)))

    def put(self, body: Manifest, author: Key | None = None) -> bool:
        """Take in an object unless a newer version is known; tell whether anything changed.

        Raises ValueError for one that is nested deeper than DEEPEST levels.
        """
        key, version, body = key_of(body), _version(body), _readable(body)
        known = self._objects.get(key)
        if known is not None and not _is_newer(body, known):
            return False
        if self._tombs.get(key, -1) >= version:
            return False
        body = slim(body)
        if known is not None:
            self._unlink(key, known)
        self._tombs.pop(key, None)
        self._objects[key] = body
        self._by_kind[key[0], key[1]].add(key)
        for parent in parents(body):
            self._children[parent].add(key)
        self._forget_derived(key)
        self.on_change(known, body, author)
        return True

    def remove(self, body: Manifest) -> bool:
        """Forget an object that was deleted at this version, unless it was made again since."""
        key = key_of(body)
        known = self._objects.get(key)
        if known is None or (_uid(known) != _uid(body) and _version(known) > _version(body)):
            return False
        self._tombs[key] = max(_version(body), _version(known))
        self._forget(key)
        return True

    def replace(self, kind: str, bodies: Iterable[Manifest], known_before: frozenset[Key]) -> None:
        """Take in a full list.

        ``known_before``: what was known of the kind before the list was asked for. Only that can be
        gone: what came since may be newer than the list.
        """
        there = set()
        for body in bodies:
            there.add(key_of(body))
            self.take_in(body)
        for key in sorted(known_before - there):
            if key in self._objects:
                self._forget(key)
        self._tombs = {key: version for key, version in self._tombs.items() if key[0] != kind}

    def keys(self, kind: str) -> frozenset[Key]:
        """Return the keys of every object of a kind."""
        return frozenset().union(*(found for (k, _), found in self._by_kind.items() if k == kind))

    def _forget(self, key: Key) -> None:
        body = self._objects.pop(key)
        self._by_kind[key[0], key[1]].discard(key)
        self._forget_derived(key)
        self._unlink(key, body)
        self.on_change(body, None, None)

    def _forget_derived(self, key: Key) -> None:
        self._memos.clear()
        self._derived.pop(key, None)
        self._derived_lists.pop(key[0], None)

    def _unlink(self, key: Key, body: Manifest) -> None:
        for parent in parents(body):
            self._children[parent].discard(key)
            if not self._children[parent]:
                del self._children[parent]


def slim(body: Manifest) -> Manifest:
    """Return an object without what no decision looks at: a thousand models' pods must fit into memory.

    Which fields somebody owns is half of most objects; who they are is kept. Of pods and Jobs, the spec is most of
    the rest; neither is ever applied again.
    """
    metadata = dict(body["metadata"])
    slimmed = {**body, "metadata": metadata}
    if "managedFields" in metadata:
        metadata["managedFields"] = [_without(entry, "fieldsV1") for entry in metadata["managedFields"] or ()]
    if body["kind"] in {"Pod", "Job"} and "spec" in body:
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = {name: annotations[name] for name in _KEPT if name in annotations}
        slimmed["spec"] = _slim_spec(body["spec"] or {})
    return {intern(field): _with_shared_names(value) for field, value in slimmed.items()}


def _with_shared_names(value: Any, levels: int = DEEPEST) -> Any:
    """Return a value whose fields' names and short texts are kept in memory once, and not once an object.

    Raises ValueError for one with more levels: nothing that looks at it may run out of stack.
    """
    if levels == 0:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        return {intern(name): _with_shared_names(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_shared_names(item, levels - 1) for item in value]
    if isinstance(value, str) and len(value) <= SHARED_LETTERS:
        return intern(value)
    return value


_KEPT = (
    ANNOTATION_NODE,
    ANNOTATION_PEERS,
    ANNOTATION_APPLIED,
    ANNOTATION_BOOT,
    ANNOTATION_DELETION_COST,
    ANNOTATION_REMOVES,
    ANNOTATION_ROOM,
    ANNOTATION_VERIFIES,
)


def _slim_spec(spec: Manifest) -> Manifest:
    kept: Manifest = {name: spec[name] for name in ("nodeName", "readinessGates", "suspend") if name in spec}
    weights = [
        {"persistentVolumeClaim": {"claimName": name}}
        for volume in spec.get("volumes") or ()
        if (name := (volume.get("persistentVolumeClaim") or {}).get("claimName", "")).endswith("-serve")
    ]
    if weights:
        kept["volumes"] = weights
    if "containers" in spec:
        kept["containers"] = [
            {name: value for name, value in container.items() if name in {"name", "resources"}}
            for container in spec["containers"] or ()
        ]
    return kept


def _without(entry: Manifest, field: str) -> Manifest:
    return {name: value for name, value in entry.items() if name != field}


def parents(body: Manifest) -> list[Key]:
    """Return the objects whose loop an object concerns, by its labels."""
    metadata = body["metadata"]
    labels, namespace = metadata.get("labels") or {}, metadata.get("namespace", "")
    found: list[Key] = []
    if LABEL_DEPLOYMENT in labels:
        found.append(("LLMDeployment", namespace, labels[LABEL_DEPLOYMENT]))
    if LABEL_CACHE in labels:
        found.append(("ModelCache", namespace, labels[LABEL_CACHE]))
    of_a_keeper = labels.get(LABEL_COMPONENT) == COMPONENT_KEEPER
    if (body["kind"] == "Job" or of_a_keeper) and ANNOTATION_NODE in (metadata.get("annotations") or {}):
        found.append(("Node", "", metadata["annotations"][ANNOTATION_NODE]))
    return found


def _readable(body: Manifest) -> Manifest:
    """Return an object of ours without a status that is none: it was written by hand under another schema.

    Loops of others look at it, and one such object must not stop them.
    """
    status = body.get("status")
    if body["kind"] not in _OURS or status is None or _is_a_status(status):
        return body
    return {field: value for field, value in body.items() if field != "status"}


_OURS = ("LLMDeployment", "ModelCache")


def _is_a_status(status: Any) -> bool:
    if not isinstance(status, dict):
        return False
    lists = [status.get(field) or [] for field in ("conditions", "nodes", "children", "quarantined")]
    return (
        all(isinstance(items, list) and all(isinstance(item, dict) for item in items) for items in lists)
        and isinstance(status.get("cache") or {}, dict)
        and isinstance(status.get("key") or "", str)
    )


def _is_newer(body: Manifest, known: Manifest) -> bool:
    """Tell whether a message is newer than what is known. A late one about a predecessor is not."""
    version, known_version = _version(body), _version(known)
    return version > known_version or (version == known_version and _uid(body) != _uid(known))


def _version(body: Manifest) -> int:
    """Return the resourceVersion as a number: since Kubernetes 1.35 they are documented to compare."""
    return parse_count(body["metadata"].get("resourceVersion")) or 0


def _uid(body: Manifest) -> str:
    return str(body["metadata"].get("uid", ""))
