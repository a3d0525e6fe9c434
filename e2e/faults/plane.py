"""A real control plane with a real scheduler, an administrator, and everything that is there, watched."""

import asyncio
import json
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from preheat.cluster.kinds import KINDS, Kind

from e2e.cluster.local import processes
from e2e.cluster.local.build import binaries
from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.provider import ROOT, kubectl
from e2e.rights import admit_operator

Body = dict[str, Any]
Key = tuple[str, str, str]
"""(kind, namespace, name)"""
CONTROLLERS_QPS = 500
STAMP = "2026-01-01T00:00:00Z"


class Admin:
    """The administrator's hands on the API server, past the proxies."""

    def __init__(self, url: str, token: str, context: ssl.SSLContext) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> tuple[int, Body]:
        """Return status and body."""
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self._url + path, data=data, headers={"Content-Type": content}
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else {"text": text}

    async def get(self, path: str) -> Body | None:
        status, body = await self.call("GET", path)
        return body if status == 200 else None

    async def create(self, path: str, body: Body) -> Body:
        status, answer = await self.call("POST", path, body)
        assert status in {200, 201, 409}, (path, answer)
        return answer

    async def patch(self, path: str, body: Any) -> None:
        """Merge patch; what is gone meanwhile is no error."""
        status, answer = await self.call("PATCH", path, body, "application/merge-patch+json")
        assert status in {200, 404, 409}, (path, answer)

    async def delete(self, path: str, body: Body | None = None) -> None:
        status, answer = await self.call("DELETE", path, body)
        assert status in {200, 202, 404, 409}, (path, answer)

    async def watch(self, path: str) -> AsyncIterator[Body]:
        """Yield the events of a watch, what is there already first."""
        async with self._session.get(self._url + path) as answer:
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in filter(None, lines):
                    yield json.loads(line)


@dataclass(frozen=True, slots=True)
class Change:
    """An object that came or went."""

    key: Key
    body: Body
    created: bool


class Eyes:
    """What is there, and what came and went, as watched by the administrator."""

    def __init__(self, admin: Admin) -> None:
        self.objects: dict[Key, Body] = {}
        self._by_place: defaultdict[tuple[str, str], dict[str, Body]] = defaultdict(dict)
        self.changes: list[Change] = []
        self.on_event: Callable[[Body], None] = lambda _body: None
        self._admin = admin
        self._moved = asyncio.Condition()

    async def watch(self, kind: Kind) -> None:
        """Watch one kind until cancelled."""
        while True:
            try:
                async for event in self._admin.watch(f"{kind.path()}?watch=true&resourceVersion=0"):
                    if event.get("type") not in {"ADDED", "MODIFIED", "DELETED"}:
                        break  # not served yet, or too old
                    await self._saw(event["type"], {**event["object"], "kind": kind.name})
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)

    def all(self, kind: str, namespace: str = "") -> list[Body]:
        """Return what is there of a kind, in one namespace or of the cluster, by name."""
        found = self._by_place[kind, namespace]
        return [found[name] for name in sorted(found)]

    async def _saw(self, event: str, body: Body) -> None:
        key = _key(body)
        known = self.objects.get(key)
        if event == "DELETED":
            self.objects.pop(key, None)
            self._by_place[key[:2]].pop(key[2], None)
            self.changes.append(Change(key, body, created=False))
        else:
            if known is None or known["metadata"]["uid"] != body["metadata"]["uid"]:
                self.changes.append(Change(key, body, created=True))
            self.objects[key] = self._by_place[key[:2]][key[2]] = body
        self.on_event(body)
        async with self._moved:
            self._moved.notify_all()

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds of what is there; tell whether it came to hold in time."""
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(holds)
        except TimeoutError:
            return False
        return True


def _key(body: Body) -> Key:
    metadata = body["metadata"]
    return body["kind"], metadata.get("namespace", ""), metadata["name"]


class Hands:
    """What kubelets do: pods that the scheduler placed run, warmers, keepers, pullers and pagers end well, deleted pods go.

    The warmers of a namespace in ``held`` do not end: their weights are still on the way. Of a namespace in
    ``good`` only the pods of these revisions become Ready; the engines of the others do nothing, or end again and again
    where the namespace is in ``crashing``.
    """

    def __init__(self, admin: Admin, eyes: Eyes) -> None:
        self._admin = admin
        self._eyes = eyes
        self._tasks: set[asyncio.Task[None]] = set()
        self.held: set[str] = set()
        self.good: dict[str, set[str]] = {}
        self.crashing: set[str] = set()
        eyes.on_event = self.saw

    def saw(self, body: Body) -> None:
        """Tend to a pod that changed."""
        if body["kind"] == "Pod":
            task = asyncio.get_running_loop().create_task(self._tend(body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Drop what is in hand."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def release(self, namespace: str) -> None:
        """The weights of a namespace arrive."""
        self.held.discard(namespace)
        for pod in self._eyes.all("Pod", namespace):
            self.saw(pod)

    async def _tend(self, pod: Body) -> None:
        metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            if spec.get("nodeName"):
                await self._admin.delete(path, {"gracePeriodSeconds": 0})
        elif spec.get("nodeName") and status.get("phase") == "Pending":
            component = metadata.get("labels", {}).get("preheat.dev/component")
            if component in LAST_WORDS:
                if metadata["namespace"] not in self.held:
                    await self._admin.patch(f"{path}/status", {"status": _ended(component)})
            elif self._comes_up(metadata):
                await self._admin.patch(f"{path}/status", {"status": _serving()})
            elif metadata["namespace"] in self.crashing:
                await self._admin.patch(f"{path}/status", {"status": _crashing()})

    def _comes_up(self, metadata: Body) -> bool:
        good = self.good.get(metadata["namespace"])
        return good is None or metadata["labels"].get("preheat.dev/revision") in good


LAST_WORDS: dict[str, Body] = {
    "warmer": {"state": "Published", "bytesTotal": 1000, "bytesDone": 1000, "manifestSHA256": "f" * 64},
    "keeper": {"state": "Kept"},
    "puller": {"state": "Pulled", "images": 2},
    "pager": {"state": "Paged", "residentBytes": 1000, "bytesTotal": 1000},
}


def _ended(component: str) -> Body:
    ended = {
        "exitCode": 0,
        "reason": "Completed",
        "message": json.dumps(LAST_WORDS[component]),
        "startedAt": STAMP,
        "finishedAt": STAMP,
    }
    return {"phase": "Succeeded", "containerStatuses": [_container(component, {"terminated": ended})]}


def _serving() -> Body:
    true = {"status": "True", "lastTransitionTime": STAMP}
    return {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "conditions": [{"type": kind, **true} for kind in ("Ready", "ContainersReady", "PodScheduled")],
        "containerStatuses": [_container("engine", {"running": {"startedAt": STAMP}})],
    }


def _crashing() -> Body:
    """Return the status of a pod whose engine was started again three times."""
    true, false = {"status": "True"}, {"status": "False"}
    said = {
        "exitCode": 1,
        "reason": "Error",
        "message": "it crashed",
        "startedAt": STAMP,
        "finishedAt": STAMP,
    }
    waits = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
    engine = {**_container("engine", waits), "restartCount": 3, "lastState": {"terminated": said}}
    conditions = (("Ready", false), ("ContainersReady", false), ("PodScheduled", true))
    return {
        "phase": "Running",
        "conditions": [{"type": kind, "lastTransitionTime": STAMP, **holds} for kind, holds in conditions],
        "containerStatuses": [engine],
    }


def _container(name: str, state: Body) -> Body:
    return {
        "name": name,
        "image": "i",
        "imageID": "i",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }


class Plane:
    """One control plane with everything that a case needs."""

    def __init__(self, control: ControlPlane, admin: Admin, context: ssl.SSLContext, token: str) -> None:
        self.control = control
        self.admin = admin
        self.context = context
        self.eyes = Eyes(admin)
        self.hands = Hands(admin, self.eyes)
        self._token = token

    def kubeconfig(self, server: str) -> Path:
        """Write a kubeconfig of the operator's ServiceAccount that goes through a proxy."""
        path = self.control.folder / f"kubeconfig-{server.rsplit(':', 1)[1]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "users": [{"name": "operator", "user": {"token": self._token}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
            "current-context": "proxy",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content))
        return path

    async def add_node(self, name: str, labels: dict[str, str]) -> None:
        """Add a Ready L4 node with two GPUs that nobody runs."""
        found = {"nvidia.com/gpu.product": "NVIDIA-L4", "kubernetes.io/os": "linux", **labels}
        await self.admin.create(
            "/api/v1/nodes",
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": found}},
        )
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Campaign",
            "message": "",
            "lastHeartbeatTime": STAMP,
            "lastTransitionTime": STAMP,
        }
        amounts = {"nvidia.com/gpu": "2", "cpu": "64", "memory": "256Gi", "pods": "110"}
        status = {"conditions": [ready], "capacity": amounts, "allocatable": amounts}
        await self.admin.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        await self.admin.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})


@asynccontextmanager
async def open_plane(folder: Path) -> AsyncIterator[Plane]:
    """Start everything; end everything."""
    # Several cases at a time: without it, Kubernetes' own controllers let each other wait.
    control = ControlPlane(
        folder / "state", controllers="*,-node-lifecycle-controller", controllers_qps=CONTROLLERS_QPS
    )
    try:
        await asyncio.to_thread(control.start)
        token = await asyncio.to_thread(_prepare, control)
        context = ssl.create_default_context(cafile=str(control.certificate))
        admin = Admin(control.url, control.token, context)
        plane = Plane(control, admin, context, token)
        watching = [asyncio.create_task(plane.eyes.watch(kind)) for kind in KINDS.values()]
        try:
            yield plane
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await plane.hands.stop()
            await admin.close()
    finally:
        await asyncio.to_thread(control.stop)


def _prepare(control: ControlPlane) -> str:
    """Start the scheduler, install definitions and the operator's rights; return its token."""
    processes.start(
        control.mark,
        [
            *(str(binaries() / "kubernetes"), "kube-scheduler", "--kubeconfig", str(control.kubeconfig)),
            *("--leader-elect=false", "--secure-port", "0"),
            *("--kube-api-qps", str(CONTROLLERS_QPS), "--kube-api-burst", str(2 * CONTROLLERS_QPS)),
        ],
        control.folder / "logs" / "kube-scheduler.log",
    )
    kubectl(control.kubeconfig, "apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl(control.kubeconfig, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    users = yaml.safe_load(admit_operator(control).read_text())["users"]
    token: str = users[0]["user"]["token"]
    return token
