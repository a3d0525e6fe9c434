"""A cluster in memory that keeps state: enough of the API server for the loop to be tried without one."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from preheat.cluster.kinds import KINDS
from preheat.errors import Unavailable

Key = tuple[str, str, str]


class Crash(BaseException):
    """The process is gone: nothing catches this but the test."""


class FakeKube:
    """Stores objects; apply is a deep merge; every write can be made to fail or to be the last."""

    def __init__(self) -> None:
        self.store: dict[Key, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.writes: list[str] = []
        self.crash_after: int | None = None
        self.fail_next = 0
        self.watcher: Callable[[str, dict[str, Any]], None] | None = None
        self._version = 0

    # --- what a user does

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create or change an object as a user would: a spec that changes is a new generation."""
        metadata = body["metadata"]
        key = (body["kind"], metadata.get("namespace", ""), metadata["name"])
        old = self.store.get(key)
        generation = (
            1 if old is None else old["metadata"]["generation"] + (old.get("spec") != body.get("spec"))
        )
        uid = old["metadata"]["uid"] if old else f"uid-{key[0]}-{key[2]}"
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
            for field in ("resourceVersion", "generation"):
                kept["metadata"].pop(field, None)
            for condition in kept.get("status", {}).get("conditions", ()):
                condition.pop("lastTransitionTime", None)
            result[key] = kept
        return result

    # --- what the operator calls

    async def list_all(self, kind: str) -> list[dict[str, Any]]:
        return [copy.deepcopy(body) for key, body in sorted(self.store.items()) if key[0] == kind]

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.store.get((kind, namespace, name)))

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        self._before(f"apply {manifest['kind']}")
        old = self.store.get(key, {"metadata": {"uid": f"uid-{key[0]}-{key[2]}", "generation": 1}})
        body = self._save(key, _merge(old, manifest))
        self._after()
        return body

    async def apply_status(
        self, kind: str, namespace: str, name: str, uid: str, status: dict[str, Any]
    ) -> Any:
        self._before(f"status {kind}")
        key, body = (kind, namespace, name), None
        if key in self.store and self.store[key]["metadata"]["uid"] == uid:
            body = self._save(key, {**self.store[key], "status": copy.deepcopy(status)})
        self._after()
        return body

    async def label_node(self, node: str, key: str, value: str | None) -> dict[str, Any] | None:
        self._before("label Node")
        body = copy.deepcopy(self.store[("Node", "", node)])
        labels = {**body["metadata"].get("labels", {}), key: value}
        body["metadata"]["labels"] = {k: v for k, v in labels.items() if v is not None}
        body = self._save(("Node", "", node), body)
        self._after()
        return body

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._before(f"delete {kind}")
        key = (kind, namespace, name)
        if key in self.store and self.store[key]["metadata"]["uid"] == uid:
            self.remove(*key)
        self._after()

    async def create_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def _before(self, what: str) -> None:
        if self.fail_next:
            self.fail_next -= 1
            raise Unavailable("503 the API server is busy")
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
    """Sidecars that say nothing."""

    async def agents(self, addresses: dict[str, str]) -> dict[str, Any]:
        return dict.fromkeys(())

    async def warmers(self, addresses: dict[str, str]) -> dict[str, Any]:
        return dict.fromkeys(())

    async def close(self) -> None:
        return None
