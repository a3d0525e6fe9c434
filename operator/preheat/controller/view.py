"""What we know of the cluster without asking: the newest version of every object that concerns us.

Fed by watch events, by full lists (at start and at every resync) and by the answers to our own writes,
so a pass sees what the pass before it wrote. A watch may miss a deletion (kopf lists anew after a gap and
reports only what is there); the next full list finds that out.
"""

from collections import defaultdict
from collections.abc import Iterable

from preheat.api.constants import LABEL_CACHE, LABEL_DEPLOYMENT
from preheat.resources.metadata import Manifest

Key = tuple[str, str, str]
"""(kind, namespace, name)"""


def key_of(body: Manifest) -> Key:
    """Return the key of an object."""
    metadata = body["metadata"]
    return body["kind"], metadata.get("namespace", ""), metadata["name"]


class View:
    """A store of objects with an index by parent. Owned by one event loop: no locks."""

    def __init__(self) -> None:
        self._objects: dict[Key, Manifest] = {}
        self._by_kind: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)
        self._children: defaultdict[Key, set[Key]] = defaultdict(set)
        self._tombs: dict[Key, int] = {}

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object, None when it is not there."""
        return self._objects.get((kind, namespace, name))

    def all(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        """Return every object of a kind, in one namespace or in all, in a stable order."""
        if namespace is not None:
            keys: Iterable[Key] = self._by_kind[kind, namespace]
        else:
            keys = (key for (k, _), found in self._by_kind.items() if k == kind for key in found)
        return [self._objects[key] for key in sorted(keys)]

    def children(self, parent: Key, kind: str) -> list[Manifest]:
        """Return the objects of a kind whose labels name a parent."""
        return [self._objects[key] for key in sorted(self._children[parent]) if key[0] == kind]

    def put(self, body: Manifest) -> bool:
        """Take in an object unless a newer version is known; tell whether anything changed."""
        key, version = key_of(body), _version(body)
        known = self._objects.get(key)
        if known is not None and not _is_newer(body, known):
            return False
        if self._tombs.get(key, -1) >= version:
            return False
        if known is not None:
            self._unlink(key, known)
        self._tombs.pop(key, None)
        self._objects[key] = body
        self._by_kind[key[0], key[1]].add(key)
        for parent in parents(body):
            self._children[parent].add(key)
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

    def replace(self, kind: str, bodies: Iterable[Manifest], known_before: frozenset[Key]) -> list[Manifest]:
        """Take in a full list; return what changed or turned out to be gone.

        ``known_before``: what was known of the kind before the list was asked for. Only that can be
        gone: what came since may be newer than the list.
        """
        changed, there = [], set()
        for body in bodies:
            there.add(key_of(body))
            if self.put(body):
                changed.append(body)
        for key in known_before - there:
            ghost = self._objects.get(key)
            if ghost is not None:
                changed.append(ghost)
                self._forget(key)
        self._tombs = {key: version for key, version in self._tombs.items() if key[0] != kind}
        return changed

    def keys(self, kind: str) -> frozenset[Key]:
        """Return the keys of every object of a kind."""
        return frozenset(key for key in self._objects if key[0] == kind)

    def _forget(self, key: Key) -> None:
        body = self._objects.pop(key)
        self._by_kind[key[0], key[1]].discard(key)
        self._unlink(key, body)

    def _unlink(self, key: Key, body: Manifest) -> None:
        for parent in parents(body):
            self._children[parent].discard(key)
            if not self._children[parent]:
                del self._children[parent]


def parents(body: Manifest) -> list[Key]:
    """Return the objects whose loop an object concerns, by its labels."""
    metadata = body["metadata"]
    labels, namespace = metadata.get("labels") or {}, metadata.get("namespace", "")
    found: list[Key] = []
    if LABEL_DEPLOYMENT in labels:
        found.append(("LLMDeployment", namespace, labels[LABEL_DEPLOYMENT]))
    if LABEL_CACHE in labels:
        found.append(("ModelCache", namespace, labels[LABEL_CACHE]))
    return found


def _is_newer(body: Manifest, known: Manifest) -> bool:
    """Tell whether a message is newer than what is known. A late one about a predecessor is not."""
    version, known_version = _version(body), _version(known)
    return version > known_version or (version == known_version and _uid(body) != _uid(known))


def _version(body: Manifest) -> int:
    """Return the resourceVersion as a number: since Kubernetes 1.35 they are documented to compare."""
    text = str(body["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0


def _uid(body: Manifest) -> str:
    return str(body["metadata"].get("uid", ""))
