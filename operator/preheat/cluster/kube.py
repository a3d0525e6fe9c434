"""The one door to the API server. Nothing above it sees the client library or a status code.

Calls wait on the event loop, not in threads, and a slow caller does not hold up the others (``lanes.py``).

    404            -> None (reads), nothing (deletes)
    409            -> None (creations: the name is taken); else Unavailable: look again
    400, 422       -> InvalidSpec: the API server refuses what we built
    403            -> GoingAway, when its cause is a namespace that is being deleted
    401, 403       -> Unavailable, with the server's words (RBAC, quota and admission speak through 403)
    500 that says that it cannot read what was applied or is stored -> InvalidSpec: nor will it the next time
    429, other 5xx, none -> Unavailable
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import client, config

from preheat.api.constants import ANNOTATION_DELETION_COST, ANNOTATION_ROLLBACK_TO, FIELD_MANAGER
from preheat.api.quantity import parse_count
from preheat.cluster.kinds import EVENTS, KINDS
from preheat.cluster.lanes import Lanes
from preheat.errors import Denied, Forbidden, GoingAway, InvalidSpec, NotInstalled, NotYet, Unavailable
from preheat.resources.metadata import Manifest

CONNECT_SECONDS = 5.0
APPLY = "application/apply-patch+yaml; charset=utf-8"
"""Said so, the client sends our text as it is."""
MERGE = "application/merge-patch+json"
PAGE = 500
"""Objects per list call."""
EVENTS_READ = 100
"""Events of one object that are read. Those who write them combine what repeats: there are about ten."""


def current_namespace() -> str:
    """Return the namespace of the kubeconfig's current context, as kubectl takes it; `default` where none is named."""
    if not _has_kubeconfig():
        return "default"
    try:
        _, active = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return "default"
    return str(active["context"].get("namespace") or "default")


def _kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _has_kubeconfig() -> bool:
    """Tell whether a file is there: the library says of one that is not that it is invalid."""
    return any(Path(place).expanduser().exists() for place in _kubeconfig().split(os.pathsep))


CHECKER = "kubectl-preheat"
AS_CHECKER = ("fieldManager", CHECKER)
DRY = (("dryRun", "All"), ("fieldValidation", "Strict"))
"""Nothing is stored, and a field that nobody knows is refused."""


class Kube:
    """A small client: list, get, apply, patch, delete, and Events."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(CONNECT_SECONDS, timeout_seconds)
        )
        self._lanes = Lanes()
        self._api: client.ApiClient | None = None

    async def open(self) -> None:
        """Connect with the pod's own credentials, or with the kubeconfig outside a cluster.

        Raises Unavailable when there are neither.
        """
        settings = client.Configuration()
        try:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            if not _has_kubeconfig():
                raise Unavailable(
                    f"no cluster is known: there is no {_kubeconfig()}; set KUBECONFIG"
                ) from None
            try:
                await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            except config.ConfigException as error:
                raise Unavailable(f"no cluster is known: {error}") from error
        settings.connection_pool_maxsize = 0  # no limit: lanes bound what is under way
        # Told to look at the environment, aiohttp reads ~/.netrc before every request, on a thread: 15 % of all our CPU.
        settings.client_session_kwargs = {"trust_env": bool(getproxies())}
        self._api = client.ApiClient(settings)

    async def close(self) -> None:
        """Release the sockets."""
        if self._api is not None:
            await self._api.close()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def list_all(self, kind: str) -> list[Manifest]:
        """Return every object of a kind that concerns us, over all namespaces."""
        return await self.list_in(kind, "")

    async def list_in(self, kind: str, namespace: str) -> list[Manifest]:
        """Return every object of a kind that concerns us in a namespace; empty: in all of them.

        Raises NotInstalled for a kind that a cluster may be without, and this one is.
        """
        resource = KINDS[kind]
        query: list[tuple[str, str]] = [("limit", str(PAGE))]
        if resource.selector:
            query.append(("labelSelector", resource.selector))
        items: list[Manifest] = []
        token = ""
        while True:
            try:
                page = await self._call(
                    "GET", resource.path(namespace), [*query, *([("continue", token)] if token else [])]
                )
            except _Missing as error:
                if not resource.optional:
                    raise
                raise NotInstalled(kind) from error
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

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create an object; return it, None when there is one of this name already."""
        path = KINDS[manifest["kind"]].path(manifest["metadata"].get("namespace", ""))
        try:
            return await self._call("POST", path, [("fieldManager", FIELD_MANAGER)], manifest)
        except _Exists:
            return None

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make an object so, by server-side apply; return it as it is now.

        Raises NotInstalled for a kind that a cluster may be without, and this one is.
        """
        metadata, kind = manifest["metadata"], KINDS[manifest["kind"]]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        try:
            return await self._write(path, manifest, APPLY)
        except _Missing as error:
            if not kind.optional or error.names_an_object:
                raise
            raise NotInstalled(kind.name) from error

    async def check_new(self, manifest: Manifest) -> Manifest:
        """Return an object as it would be if somebody created it, and change nothing. Raises InvalidSpec.

        In a namespace that does not exist yet it is asked about as if it were for `default`: the rules of a definition
        are the same everywhere.
        """
        metadata, kind = manifest["metadata"], KINDS[manifest["kind"]]
        try:
            return await self._call("POST", kind.path(metadata["namespace"]), [AS_CHECKER, *DRY], manifest)
        except _Missing:
            moved = {**manifest, "metadata": {**metadata, "namespace": "default"}}
            return await self.check_applied(moved, CHECKER)

    async def check_patched(self, live: Manifest, patch: Manifest) -> Manifest:
        """Return an object that is there as a JSON merge patch would make it, and change nothing. Raises InvalidSpec."""
        path = KINDS[live["kind"]].path(live["metadata"]["namespace"], live["metadata"]["name"])
        return await self._call("PATCH", path, [AS_CHECKER, *DRY], patch, "application/merge-patch+json")

    async def check_applied(self, manifest: Manifest, manager: str) -> Manifest:
        """Return an object as it would be if a manager applied it on the server's side, and change nothing. Raises InvalidSpec."""
        metadata = manifest["metadata"]
        path = KINDS[manifest["kind"]].path(metadata["namespace"], metadata["name"])
        query = [("fieldManager", manager), ("force", "true"), *DRY]
        return await self._call("PATCH", path, query, _yaml(manifest), APPLY)

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
            return await self._write(path, body, APPLY)
        except _Missing:
            return None

    async def adopt(self, live: Manifest, owner: Manifest) -> Manifest | None:
        """Add a controller to the owners of an object, if it still is the one that was observed."""
        metadata = live["metadata"]
        resource, namespace = KINDS[live["kind"]], metadata.get("namespace", "")
        owners = [*(metadata.get("ownerReferences") or ()), owner]
        fence = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            return await self._call(
                "PATCH",
                resource.path(namespace, metadata["name"]),
                [("fieldManager", FIELD_MANAGER)],
                {"metadata": {**fence, "ownerReferences": owners}},
                "application/merge-patch+json",
            )
        except _Missing:
            return None

    async def admit(
        self, namespace: str, name: str, uid: str, annotations: Mapping[str, str]
    ) -> Manifest | None:
        """Let a suspended Job begin, with annotations for it and its pod, if it still has this uid; None when it is gone.

        Raises Unavailable when there is another Job of this name by now.
        """
        template = {"metadata": {"annotations": dict(annotations)}}
        body = {
            "metadata": {"uid": uid, "annotations": dict(annotations)},
            "spec": {"suspend": False, "template": template},
        }
        return await self._patch(KINDS["Job"].path(namespace, name), body, MERGE)

    async def clear_status(self, live: Manifest, pointers: Sequence[str]) -> Manifest | None:
        """Remove fields of an object's status (JSON pointers, last ones first), if it is still this version."""
        version = live["metadata"]["resourceVersion"]
        fence = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
        try:
            return await self._patch_status(
                live, [fence, *({"op": "remove", "path": pointer} for pointer in pointers)]
            )
        except InvalidSpec as error:
            raise Unavailable(f"the object has changed meanwhile: {error}") from error

    async def replace_status(self, live: Manifest, status: Manifest) -> Manifest | None:
        """Put a whole status in the place of one that cannot be applied to; None when the object is gone."""
        fence = {"op": "test", "path": "/metadata/uid", "value": live["metadata"]["uid"]}
        return await self._patch_status(live, [fence, {"op": "add", "path": "/status", "value": status}])

    async def _patch_status(self, live: Manifest, patch: Sequence[Manifest]) -> Manifest | None:
        metadata = live["metadata"]
        path = KINDS[live["kind"]].path(metadata["namespace"], metadata["name"]) + "/status"
        return await self._patch(path, patch, "application/json-patch+json")

    async def _patch(self, path: str, body: Any, content_type: str) -> Manifest | None:
        """Patch an object; return it, None when it is gone."""
        try:
            return await self._call("PATCH", path, [("fieldManager", FIELD_MANAGER)], body, content_type)
        except _Missing:
            return None

    async def label_node(self, node: str, labels: Mapping[str, str | None], version: str) -> Manifest | None:
        """Set or remove (None) labels of a node; return the node, None when it is gone.

        A merge patch: it says only what changes, and nothing of the labels of others. Raises Unavailable when the
        node has another resourceVersion by now: what was decided may be of the past.
        """
        body = {"metadata": {"resourceVersion": version, "labels": dict(labels)}}
        return await self._patch(KINDS["Node"].path("", node), body, MERGE)

    async def price_pod(self, namespace: str, name: str, uid: str, cost: int | None) -> Manifest | None:
        """Say on a pod what deleting it costs, or nothing any more (None); return the pod, None when it is gone.

        Raises Unavailable when there is another pod of this name by now.
        """
        annotations = {ANNOTATION_DELETION_COST: None if cost is None else str(cost)}
        body = {"metadata": {"uid": uid, "annotations": annotations}}
        return await self._patch(KINDS["Pod"].path(namespace, name), body, MERGE)

    async def ask_back(self, namespace: str, name: str, uid: str, value: str) -> Manifest | None:
        """Ask for another revision of an LLMDeployment, as a person does; return it, None when it is gone.

        Raises Unavailable when there is another of this name by now.
        """
        body = {"metadata": {"uid": uid, "annotations": {ANNOTATION_ROLLBACK_TO: value}}}
        query = [("fieldManager", "kubectl-preheat")]
        try:
            return await self._call("PATCH", KINDS["LLMDeployment"].path(namespace, name), query, body, MERGE)
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

    async def newest_event(self, namespace: str, uid: str) -> Manifest | None:
        """Return the newest Event that regards an object, None when there is none. Of hundreds the first are read."""
        query = [("fieldSelector", f"regarding.uid={uid}"), ("limit", str(EVENTS_READ))]
        page = await self._call("GET", EVENTS.path(namespace), query)
        return max(page.get("items") or (), key=_version, default=None)

    async def issuer_keys(self) -> Manifest | None:
        """Return the public keys that sign service accounts' tokens, None where the API server gives none."""
        try:
            keys = await self._call("GET", "/openid/v1/jwks", accept="application/jwk-set+json")
        except _Missing:
            return None
        return keys if keys.get("keys") else None

    async def create_event(self, event: Manifest) -> None:
        """Post an Event. One that is refused is not worth a retry."""
        path = EVENTS.path(event["metadata"]["namespace"])
        await self._call("POST", path, [], event, "application/json")

    async def _write(self, path: str, body: Manifest, content_type: str) -> Manifest:
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        return await self._call("PATCH", path, query, _yaml(body), content_type)

    async def _call(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Mapping[str, Any] | Sequence[Any] | str | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Manifest:
        return await self._lanes.run(self._send(method, path, query or [], body, content_type, accept))

    async def _send(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: Mapping[str, Any] | Sequence[Any] | str | None,
        content_type: str,
        accept: str,
    ) -> Manifest:
        if self._api is None:
            raise RuntimeError("open() comes first")
        try:
            response = await self._api.call_api(
                *await self._api.param_serialize(
                    method=method,
                    resource_path=path,
                    query_params=query,
                    header_params={"Accept": accept, "Content-Type": content_type},
                    body=body,
                    auth_settings=["BearerToken"],
                ),
                _request_timeout=self._timeout,
            )
            content: bytes = await response.read() or b""  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if not 200 <= response.status < 300:
            raise _translated(response.status, str(response.reason), content, f"{method} {path}")
        try:
            result = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{method} {path}: the answer is no JSON, {len(content)} bytes") from error
        return result if isinstance(result, dict) else {}


def _version(body: Manifest) -> int:
    """Return the resourceVersion as a number: of two Events of one second it tells which came later."""
    return parse_count(body["metadata"].get("resourceVersion")) or 0


def _yaml(body: Manifest) -> str:
    r"""Return JSON that a YAML parser reads as well: there is no type for an apply in JSON.

    YAML knows no surrogate pairs: a character beyond 16 bits is one escape of eight digits.

    >>> print(_yaml({"a": chr(0x1F525)}))
    {"a": "\U0001f525"}
    """
    return _PAIR.sub(_one_escape, json.dumps(body))


_PAIR = re.compile(r"(\\\\)|\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")
"""A backslash of the text, which is to be left alone, or a pair."""


def _one_escape(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    return f"\\U{(int(found[2], 16) - 0xD800 << 10) + int(found[3], 16) - 0xDC00 + 0x10000:08x}"


class _Missing(Unavailable):
    """404. Never leaves this file, except from a write to a namespace that is going away."""

    names_an_object = False
    """Whether it is an object that is missing (a namespace), and not the kind: of that the API server says only the path."""


class _Exists(Unavailable):
    """409 to a creation. Never leaves this file."""


_UNREADABLE = (
    "failed to create typed patch object",
    "failed to create typed live object",
    "failed to convert new object",
)
"""Server-side apply answers 500, not 400, to a field that it does not know, a wrong type or a bad quantity, and
where what is stored breaks the schema."""


_BY_ANOTHER = ('admission webhook "', "ValidatingAdmissionPolicy '")
"""Who refuses with 400 or 422 is not always the schema."""


def _translated(status: int, reason: str, body: Any, call: str) -> Exception:
    message = f"{call}: {status} {_words(body) or reason}"
    if status == 409 and _reason(body) == "AlreadyExists":
        return _Exists(message)
    if status == 403 and _is_terminating(body):
        return GoingAway(message)
    if status == 403 and "no matches for kind" in message:
        return NotYet(message)
    is_unreadable = status == 500 and any(words in message for words in _UNREADABLE)
    if status in {400, 422} or is_unreadable:
        return (Denied if any(words in message for words in _BY_ANOTHER) else InvalidSpec)(message)
    if status != 404:
        return (Forbidden if status == 403 else Unavailable)(message)
    missing = _Missing(message)
    missing.names_an_object = bool(_details(body).get("name"))
    return missing


def _is_terminating(body: Any) -> bool:
    """Tell whether a Status object names a namespace that is being deleted as its cause."""
    try:
        causes = json.loads(body)["details"]["causes"]
        return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _details(body: Any) -> Mapping[str, Any]:
    """Return what a Status object is about."""
    try:
        details = json.loads(body)["details"]
    except (KeyError, TypeError, ValueError):
        return {}
    return details if isinstance(details, dict) else {}


def _words(body: Any) -> str:
    """Return the message of a Status object."""
    return _field(body, "message")


def _reason(body: Any) -> str:
    """Return the reason of a Status object."""
    return _field(body, "reason")


def _field(body: Any, name: str) -> str:
    try:
        return str(json.loads(body)[name])
    except (KeyError, TypeError, ValueError):
        return ""
