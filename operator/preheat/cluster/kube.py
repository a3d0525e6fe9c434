"""The one door to the API server. Nothing above it sees the client library or a status code.

The client is synchronous; each call runs in a thread, so that no object's loop stops another's.

    404            -> None (reads), nothing (deletes)
    409            -> Unavailable: look again
    400, 422       -> InvalidSpec: the API server refuses what we built
    401, 403       -> Unavailable, with the server's words (RBAC, quota and admission speak through 403)
    429, 5xx, none -> Unavailable
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from preheat.api.constants import FIELD_MANAGER
from preheat.cluster.kinds import EVENTS, KINDS
from preheat.errors import InvalidSpec, Unavailable
from preheat.resources.metadata import Manifest

CONNECT_SECONDS, READ_SECONDS = 5, 30
PAGE = 500
"""Objects per list call."""


class Kube:
    """A small client: list, get, apply, patch, delete, and Events."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    def connect(cls) -> "Kube":
        """Connect with the pod's own credentials, or with the kubeconfig outside a cluster."""
        try:
            config.load_incluster_config()  # type: ignore[no-untyped-call]
        except config.ConfigException:
            config.load_kube_config()  # type: ignore[no-untyped-call]
        return cls(client.ApiClient())

    async def list_all(self, kind: str) -> list[Manifest]:
        """Return every object of a kind that concerns us, over all namespaces."""
        resource = KINDS[kind]
        query: list[tuple[str, str]] = [("limit", str(PAGE))]
        if resource.selector:
            query.append(("labelSelector", resource.selector))
        items: list[Manifest] = []
        token = ""
        while True:
            page = await self._call(
                "GET", resource.path(), [*query, *([("continue", token)] if token else [])]
            )
            # Lists leave out what their items have in common.
            common = {"apiVersion": resource.api_version, "kind": kind}
            items.extend({**common, **item} for item in page.get("items") or ())
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object, None when it does not exist."""
        try:
            return await self._call("GET", KINDS[kind].path(namespace, name))
        except _Missing:
            return None

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make an object so, by server-side apply; return it as it is now."""
        metadata = manifest["metadata"]
        path = KINDS[manifest["kind"]].path(metadata.get("namespace", ""), metadata["name"])
        return await self._write(path, manifest, "application/apply-patch+yaml")

    async def apply_status(
        self, kind: str, namespace: str, name: str, uid: str, status: Manifest
    ) -> Manifest | None:
        """Make an object's status so; return the object, None when it is gone."""
        resource = KINDS[kind]
        body = {
            "apiVersion": resource.api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": status,
        }
        try:
            path = resource.path(namespace, name) + "/status"
            return await self._write(path, body, "application/apply-patch+yaml")
        except _Missing:
            return None

    async def label_node(self, node: str, key: str, value: str | None) -> Manifest | None:
        """Set or remove one label of a node; return the node, None when it is gone.

        A merge patch: the labels of one node belong to many caches, so there is no one applied set.
        """
        try:
            return await self._call(
                "PATCH",
                KINDS["Node"].path("", node),
                [("fieldManager", FIELD_MANAGER)],
                {"metadata": {"labels": {key: value}}},
                "application/merge-patch+json",
            )
        except _Missing:
            return None

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> Manifest | None:
        """Delete an object with all that it owns, if it still has this uid.

        Return the object when it stays for a while (finalizers), None when it is gone.
        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            answer = await self._call("DELETE", KINDS[kind].path(namespace, name), [], body)
        except _Missing:
            return None
        return answer if answer.get("kind") == kind else None

    async def create_event(self, event: Manifest) -> None:
        """Post an Event. One that is refused is not worth a retry."""
        path = EVENTS.path(event["metadata"]["namespace"])
        await self._call("POST", path, [], event, "application/json")

    async def _write(self, path: str, body: Manifest, content_type: str) -> Manifest:
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        return await self._call("PATCH", path, query, body, content_type)

    async def _call(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        return await asyncio.to_thread(self._send, method, path, query or [], body, content_type)

    def _send(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: Mapping[str, Any] | None,
        content_type: str,
    ) -> Manifest:
        try:
            response = self._api.call_api(
                *self._api.param_serialize(
                    method=method,
                    resource_path=path,
                    query_params=query,
                    header_params={"Accept": "application/json", "Content-Type": content_type},
                    body=body,
                    auth_settings=["BearerToken"],
                ),
                _request_timeout=(CONNECT_SECONDS, READ_SECONDS),
            )
            content: bytes = response.read() or b""  # type: ignore[no-untyped-call]
        except client.ApiException as error:
            raise _translated(error.status or 0, str(error.reason), error.body, f"{method} {path}") from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{method} {path}: {error}") from error
        if not 200 <= response.status < 300:
            raise _translated(response.status, str(response.reason), content, f"{method} {path}")
        try:
            result = json.loads(content)
        except ValueError as error:
            raise Unavailable(f"{method} {path}: the answer is no JSON, {len(content)} bytes") from error
        return result if isinstance(result, dict) else {}


class _Missing(Unavailable):
    """404. Never leaves this file, except from a write to a namespace that is going away."""


def _translated(status: int, reason: str, body: Any, call: str) -> Exception:
    message = f"{call}: {status} {_words(body) or reason}"
    if status == 404:
        return _Missing(message)
    if status in {400, 422}:
        return InvalidSpec(message)
    return Unavailable(message)


def _words(body: Any) -> str:
    """Return the message of a Status object."""
    try:
        return str(json.loads(body)["message"])
    except (KeyError, TypeError, ValueError):
        return ""
