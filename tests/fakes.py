"""A cluster in memory that keeps state: enough of the API server for the loop to be tried without one."""

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from preheat.cluster.kinds import KINDS
from preheat.errors import NotInstalled, Unavailable

Key = tuple[str, str, str]


class Crash(BaseException):
    """The process is gone: nothing catches this but the test."""


class FakeKube:
    """Stores objects; apply is a deep merge; every write can be made to fail or to be the last."""

    def __init__(self) -> None:
        self.store: dict[Key, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.said: dict[str, dict[str, Any]] = {}
        """The newest Event regarding an object, by its uid."""
        self.asked: list[str] = []
        self.writes: list[str] = []
        self.crash_after: int | None = None
        self.fail_next = 0
        self.fail_after: int | None = None
        self.keeps_foreign_status = False
        """Whether fields of a status that others wrote survive our apply, as they do on a real API server."""
        self.refuses: dict[str, Exception] = {}
        self.absent: set[str] = set()
        """Kinds that it does not have."""
        self.keys: dict[str, Any] | None = None
        """Those that sign tokens; None: it does not give them, and no node serves another."""
        self.watcher: Callable[[str, dict[str, Any]], None] | None = None
        self._version = 0
        self._made: Counter[Key] = Counter()

    # --- what a user does

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create or change an object as a user would: a spec that changes is a new generation."""
        metadata = body["metadata"]
        key = (body["kind"], metadata.get("namespace", ""), metadata["name"])
        old = self.store.get(key)
        generation = (
            1 if old is None else old["metadata"]["generation"] + (old.get("spec") != body.get("spec"))
        )
        uid = old["metadata"]["uid"] if old else metadata.get("uid", f"uid-{key[0]}-{key[2]}")
        merged = {**(old or {}), **copy.deepcopy(body)}
        merged["metadata"] = {**metadata, "uid": uid, "generation": generation}
        return self._save(key, merged)

    def remove(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        body = self.store.pop((kind, namespace, name))
        self._version += 1
        gone = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
        self._tell("DELETED", gone)
        return gone

    def state(self) -> dict[Key, Any]:
        """What is there, without what differs from run to run."""
        result = {}
        for key, body in self.store.items():
            kept = copy.deepcopy(body)
            for field in ("resourceVersion", "generation", "uid"):
                kept["metadata"].pop(field, None)
            for condition in kept.get("status", {}).get("conditions", ()):
                condition.pop("lastTransitionTime", None)
            result[key] = kept
        return result

    # --- what the operator calls

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def list_all(self, kind: str) -> list[dict[str, Any]]:
        if kind in self.absent:
            raise NotInstalled(kind)
        return [copy.deepcopy(body) for key, body in sorted(self.store.items()) if key[0] == kind]

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.store.get((kind, namespace, name)))

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any] | None:
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        if key in self.store:
            return None
        self._before(f"create {manifest['kind']}")
        body = self._save(key, _merge(self._new(key), manifest))
        self._after()
        return body

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        if manifest["kind"] in self.absent:
            raise NotInstalled(manifest["kind"])
        self._before(f"apply {manifest['kind']}")
        old = self.store.get(key) or self._new(key)
        body = self._save(key, _merge(old, manifest))
        self._after()
        return body

    async def apply_status(
        self, kind: str, namespace: str, name: str, uid: str, status: dict[str, Any]
    ) -> Any:
        self._before(f"status {kind}")
        key, body = (kind, namespace, name), None
        if key in self.store and self.store[key]["metadata"]["uid"] == uid:
            status = copy.deepcopy(status)
            if self.keeps_foreign_status:
                old = self.store[key].get("status") or {}
                types = {c["type"] for c in status["conditions"]}
                kept = [c for c in old.get("conditions", ()) if c["type"] not in types]
                status = {**old, **status, "conditions": [*status["conditions"], *kept]}
            body = self._save(key, {**self.store[key], "status": status})
        self._after()
        return body

    async def adopt(self, live: dict[str, Any], owner: dict[str, Any]) -> dict[str, Any] | None:
        self._before(f"adopt {live['kind']}")
        key = (live["kind"], live["metadata"].get("namespace", ""), live["metadata"]["name"])
        body = copy.deepcopy(self.store[key])
        body["metadata"]["ownerReferences"] = [*body["metadata"].get("ownerReferences", ()), owner]
        body = self._save(key, body)
        self._after()
        return body

    async def clear_status(self, live: dict[str, Any], pointers: Sequence[str]) -> dict[str, Any] | None:
        self._before(f"clear {live['kind']}")
        key = (live["kind"], live["metadata"].get("namespace", ""), live["metadata"]["name"])
        body = copy.deepcopy(self.store[key])
        for pointer in pointers:
            *path, last = pointer.split("/")[1:]
            where: Any = body
            for part in path:
                where = where[int(part)] if isinstance(where, list) else where[part]
            del where[int(last) if isinstance(where, list) else last]
        body = self._save(key, body)
        self._after()
        return body

    async def replace_status(self, live: dict[str, Any], status: dict[str, Any]) -> dict[str, Any] | None:
        self._before(f"status {live['kind']}")
        key = (live["kind"], live["metadata"]["namespace"], live["metadata"]["name"])
        body = self._save(key, {**self.store[key], "status": copy.deepcopy(status)})
        self._after()
        return body

    async def admit(
        self, namespace: str, name: str, uid: str, annotations: dict[str, str]
    ) -> dict[str, Any] | None:
        self._before("admit Job")
        key, body = ("Job", namespace, name), None
        if key in self.store and self.store[key]["metadata"]["uid"] == uid:
            change = {"metadata": {"annotations": dict(annotations)}, "spec": {"suspend": False}}
            body = self._save(key, _merge(self.store[key], change))
        self._after()
        return body

    async def label_node(
        self, node: str, changes: dict[str, str | None], version: str
    ) -> dict[str, Any] | None:
        self._before("label Node")
        body = copy.deepcopy(self.store[("Node", "", node)])
        if body["metadata"]["resourceVersion"] != version:
            raise Unavailable(f"409 Conflict: Node {node} has changed")
        labels = {**body["metadata"].get("labels", {}), **changes}
        body["metadata"]["labels"] = {k: v for k, v in labels.items() if v is not None}
        body = self._save(("Node", "", node), body)
        self._after()
        return body

    async def price_pod(self, namespace: str, name: str, uid: str, cost: int | None) -> dict[str, Any] | None:
        self._before("price Pod")
        key, body = ("Pod", namespace, name), None
        if key in self.store and self.store[key]["metadata"]["uid"] == uid:
            body = copy.deepcopy(self.store[key])
            annotations = body["metadata"].setdefault("annotations", {})
            annotations.pop("controller.kubernetes.io/pod-deletion-cost", None)
            if cost is not None:
                annotations["controller.kubernetes.io/pod-deletion-cost"] = str(cost)
            body = self._save(key, body)
        self._after()
        return body

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._before(f"delete {kind}")
        key = (kind, namespace, name)
        if key in self.store and self.store[key]["metadata"]["uid"] == uid:
            self.remove(*key)
        self._after()

    async def newest_event(self, namespace: str, uid: str) -> dict[str, Any] | None:
        self.asked.append(uid)
        return self.said.get(uid)

    async def issuer_keys(self) -> dict[str, Any] | None:
        return self.keys

    async def create_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def _new(self, key: Key) -> dict[str, Any]:
        """What a new object begins as: another one of the same name has another uid."""
        self._made[key] += 1
        again = "" if self._made[key] == 1 else f"-{self._made[key]}"
        return {"metadata": {"uid": f"uid-{key[0]}-{key[2]}{again}", "generation": 1}}

    def _before(self, what: str) -> None:
        if self.fail_next:
            self.fail_next -= 1
            raise Unavailable("503 the API server is busy")
        if self.fail_after is not None and len(self.writes) >= self.fail_after:
            self.fail_after, self.fail_next = None, 2
            raise Unavailable("503 the API server is busy")
        if what in self.refuses:
            raise self.refuses[what]
        self.writes.append(what)

    def _after(self) -> None:
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash

    def _save(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        assert key[0] in KINDS
        self._version += 1
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self._version)
        self.store[key] = body
        self._tell("MODIFIED", body)
        return copy.deepcopy(body)

    def _tell(self, event: str, body: dict[str, Any]) -> None:
        """Tell whoever watches, a moment later, as a watch does."""
        if self.watcher is not None:
            asyncio.get_running_loop().call_later(0.01, self.watcher, event, copy.deepcopy(body))


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
    return copy.deepcopy(new)


class FakeSidecars:
    """Sidecars that say nothing, but for what a test puts into ``told`` and ``reports`` (signals, status; by pod IP)."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.reports: dict[str, Any] = {}
        self.asked: list[str] = []
        self.arrivals: dict[str, Any] = {}
        """What each pod of the front tells, by its IP."""
        self.fronts_asked = 0
        self.advice: list[Any] = []

    async def signals(self, addresses: dict[str, str]) -> dict[str, Any]:
        self.asked += addresses.values()
        return {key: self.told[ip] for key, ip in addresses.items() if ip in self.told}

    async def fronts(self, addresses: dict[str, str]) -> dict[str, Any]:
        self.fronts_asked += 1
        return {key: self.arrivals[ip] for key, ip in addresses.items() if ip in self.arrivals}

    async def agents(self, addresses: dict[str, str]) -> dict[str, Any]:
        return {key: self.reports[ip] for key, ip in addresses.items() if ip in self.reports}

    async def advise(self, advice: tuple[Any, ...]) -> None:
        self.advice += advice

    async def warmers(self, addresses: dict[str, str]) -> dict[str, Any]:
        return dict.fromkeys(())

    async def close(self) -> None:
        return None
