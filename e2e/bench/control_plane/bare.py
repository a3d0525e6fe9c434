"""A bare client: the operator's own writes again, in namespaces of their own, with threads and no thinking.

The bodies come from the audit log. Names of namespaces, keys of caches and uids of owners become those of the
new objects; everything else is what the operator wrote, in its order. The writes of one LLMDeployment follow
each other; those of different ones do not wait for each other.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kubernetes import client

from e2e.bench.control_plane import load
from e2e.bench.control_plane.audit import Call, subject_of

THREADS = 8
"""More make it no faster on two cores."""
WAIT_SECONDS = 120.0
READY_SECONDS = 600.0
LOOK_SECONDS = 1.0

Subject = tuple[str, str]

_UID = r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
_KEY = r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])"
_OURS = re.compile(rf"{_UID}|{_KEY}|\bbench-\d+\b")
_METHODS = {"create": ("POST", "application/json"), "delete": ("DELETE", "application/json")}
_PATCHES = {"nodes": ("PATCH", "application/merge-patch+json")}
_APPLY = ("PATCH", "application/apply-patch+yaml")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What it took, in seconds since the first of the new LLMDeployments was asked for."""

    writes: int
    failed: int
    seconds: float
    """Until the last write was answered."""
    ready_seconds: float
    """Until every model pod was Ready as well: scheduler and controllers have done their part."""


class _Replacements:
    """What stands for what: found out as objects are made."""

    def __init__(self, writes: Sequence[Call]) -> None:
        self._known = {f"bench-{number}": f"bare-{number}" for number in range(load.NAMESPACES)}
        for write in writes:
            if write.resource == "persistentvolumes":
                (key,) = re.findall(_KEY, write.name or _name(write))
                self._known[key] = hashlib.sha256(f"bare {key}".encode()).hexdigest()[:16]

    def learn(self, old: str, new: str) -> None:
        """Note what a new object's uid is."""
        self._known[old] = new

    def wait_for(self, old: str) -> None:
        """Wait until an object of the other client is there."""
        deadline = time.monotonic() + WAIT_SECONDS
        while old not in self._known:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing stands for {old}")
            time.sleep(0.002)

    def in_text(self, text: str) -> str:
        """Return a text with everything replaced."""
        return _OURS.sub(lambda match: self._known.get(match[0], match[0]), text)


def replay(
    api: client.ApiClient,
    creator: client.ApiClient,
    writes: Sequence[Call],
    uids: Mapping[tuple[str, str, str], str],
    count: int,
) -> Replayed:
    """Create as many LLMDeployments again, and make the operator's writes for them.

    ``uids``: of the LLMDeployments and ModelCaches that the operator looked after, by resource, namespace, name.
    """
    made = _Replacements(writes)
    chains = list(_chains(writes))
    load.create_namespaces(creator, "bare")
    subjects = dict(zip(load.subjects(count, "bare"), load.subjects(count, "bench"), strict=True))

    def create() -> None:
        load.create_all(
            creator, list(subjects), lambda new, uid: made.learn(uids["llmdeployments", *subjects[new]], uid)
        )

    def send_all(chain: tuple[Subject | None, list[Call]]) -> int:
        subject, calls = chain
        if subject is not None:
            made.wait_for(uids["llmdeployments", *subject])
        return sum(not _send(api, call, made, uids) for call in calls)

    started = time.monotonic()
    creating = Thread(target=create, name="creator")
    creating.start()
    with ThreadPoolExecutor(THREADS) as pool:
        failed = sum(pool.map(send_all, chains))
    creating.join()
    written = time.monotonic() - started
    _wait_for_pods(creator, count)
    return Replayed(len(writes), failed, written, time.monotonic() - started)


def _wait_for_pods(api: client.ApiClient, count: int) -> None:
    """Wait until as many model pods are Ready. Raises TimeoutError."""
    deadline = time.monotonic() + READY_SECONDS
    pods = client.CoreV1Api(api)
    while True:
        found: Any = pods.list_pod_for_all_namespaces(
            label_selector="preheat.dev/component=engine", resource_version="0", _preload_content=False
        )
        items = json.loads(found.data)["items"]
        ready = sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(pod)) for pod in items
        )
        if ready >= count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{ready} of {count} pods are Ready after {READY_SECONDS:g} s")
        time.sleep(LOOK_SECONDS)


def _conditions(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod.get("status", {}).get("conditions") or []
    return found


def _chains(writes: Sequence[Call]) -> Iterator[tuple[Subject | None, list[Call]]]:
    """Return the writes of each LLMDeployment in their order; what several share is a chain of its own."""
    chains: dict[Subject | int, list[Call]] = {}
    for number, write in enumerate(writes):
        chains.setdefault(subject_of(write) or number, []).append(write)
    for key, chain in chains.items():
        yield (None if isinstance(key, int) else key), chain


def _send(
    api: client.ApiClient, write: Call, made: _Replacements, uids: Mapping[tuple[str, str, str], str]
) -> bool:
    """Make one write again; tell whether the API server took it."""
    method, content_type = _METHODS.get(write.verb) or _PATCHES.get(write.resource, _APPLY)
    parts = urlsplit(made.in_text(write.uri))
    try:
        response = api.call_api(
            *api.param_serialize(
                method=method,
                resource_path=parts.path,
                query_params=parse_qsl(parts.query),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=_of_now(write, json.loads(made.in_text(json.dumps(write.body)))),
                auth_settings=["BearerToken"],
            )
        )
        answer = json.loads(response.read() or b"")  # type: ignore[no-untyped-call]
    except client.ApiException:
        return False
    if write.resource == "modelcaches" and response.status < 300:
        made.learn(uids["modelcaches", write.namespace, write.name], answer["metadata"]["uid"])
    return bool(response.status < 300)


def _of_now(write: Call, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without the version of a node that it was decided from: here the node has another."""
    if write.resource != "nodes":
        return body
    return {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "resourceVersion"}}


def _name(write: Call) -> str:
    name: str = (write.body or {})["metadata"]["name"]
    return name
