"""A rollout by the whole controller, with kubelets and a scheduler of a few lines: also when it is killed after any write."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from preheat.controller.service import Controller

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, NOW, a_controller, crash_of, example, running

pytestmark = pytest.mark.looptime
SERVICE = ("LLMDeployment", "preheat-demo", "smollm2")
OTHER = {"model": {"uri": "http://model-store.preheat-demo.svc/other/", "format": "GGUF"}}
LOAD_SECONDS, DRAIN_SECONDS = 5, 3


class Kubelets:
    """What makes pods of Deployments, gives them nodes, loads and ends them, once a second; and ends warmers' Jobs well."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.least = 10_000
        """The fewest replicas that ever answered since ``watch`` was set."""
        self.watch = False
        self._made = 0
        self._ages: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._warm()
            for body in self._all("Deployment"):
                self._scale(body)
            self._schedule()
            self._age()
            if self.watch:
                self.least = min(self.least, self.serving())

    def serving(self) -> int:
        return sum(_holds(pod, "Ready") and not _leaves(pod) for pod in self._all("Pod"))

    def _all(self, kind: str) -> list[dict[str, Any]]:
        return [copy.deepcopy(body) for key, body in sorted(self.kube.store.items()) if key[0] == kind]

    def _warm(self) -> None:
        for job in self._all("Job"):
            if not job.get("status"):
                job["status"] = {
                    "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": str(NOW)}]
                }
                self.kube.put(job)

    def _scale(self, deployment: dict[str, Any]) -> None:
        name = deployment["metadata"]["name"]
        mine = [
            pod for pod in self._all("Pod") if pod["metadata"]["ownerReferences"][0]["name"] == f"{name}-1"
        ]
        live = [pod for pod in mine if not _leaves(pod)]
        live.sort(key=lambda pod: (bool(pod["spec"].get("nodeName")), _holds(pod, "Ready")))
        wanted = deployment["spec"]["replicas"]
        for pod in live[: max(0, len(live) - wanted)]:
            pod["metadata"]["deletionTimestamp"] = str(NOW)
            self.kube.put(pod)
            self._ages[pod["metadata"]["name"]] = 0
        for _ in range(wanted - len(live)):
            self._made += 1
            owner = {"controller": True, "kind": "ReplicaSet", "name": f"{name}-1", "uid": name}
            metadata = {
                "name": f"pod-{self._made}", "namespace": "preheat-demo", "uid": f"pod-{self._made}",
                "labels": deployment["spec"]["template"]["metadata"]["labels"], "ownerReferences": [owner],
            }  # fmt: skip
            spec = copy.deepcopy(deployment["spec"]["template"]["spec"])
            self.kube.put(
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {}}
            )

    def _schedule(self) -> None:
        used = sum(bool(pod["spec"].get("nodeName")) for pod in self._all("Pod"))
        gpus = int(self.kube.store["Node", "", "n1"]["status"]["allocatable"]["nvidia.com/gpu"])
        for pod in self._all("Pod"):
            if pod["spec"].get("nodeName") or _leaves(pod):
                continue
            fits = used < gpus and self._is_warm(pod)
            used += fits
            if fits:
                pod["spec"]["nodeName"] = "n1"
            words = {"reason": "Unschedulable", "message": "0/1 nodes: 1 Insufficient nvidia.com/gpu"}
            told = {
                "type": "PodScheduled",
                "status": str(fits),
                "lastTransitionTime": str(NOW),
                **({} if fits else words),
            }
            if pod["status"].get("conditions") != [told]:
                pod["status"] = {"conditions": [told], "phase": "Pending"}
                self.kube.put(pod)

    def _is_warm(self, pod: dict[str, Any]) -> bool:
        revision = pod["metadata"]["labels"]["preheat.dev/revision"]
        pins = [
            b
            for b in self._all("ControllerRevision")
            if b["metadata"]["labels"].get("preheat.dev/revision") == revision
        ]
        cache = self.kube.store["ModelCache", "preheat-demo", pins[0]["data"]["cache"]]
        key = (cache.get("status") or {}).get("key", "")
        labels = self.kube.store["Node", "", "n1"]["metadata"]["labels"]
        return labels.get(f"cache.preheat.dev/{key}") == "ready"

    def _age(self) -> None:
        for pod in self._all("Pod"):
            name = pod["metadata"]["name"]
            self._ages[name] = self._ages.get(name, 0) + bool(pod["spec"].get("nodeName") or _leaves(pod))
            if _leaves(pod) and (self._ages[name] >= DRAIN_SECONDS or not pod["spec"].get("nodeName")):
                self.kube.remove("Pod", "preheat-demo", name)
            elif not _leaves(pod) and self._ages[name] == LOAD_SECONDS:
                told = {"type": "Ready", "status": "True", "lastTransitionTime": str(NOW)}
                pod["status"] = {"phase": "Running", "conditions": [*pod["status"]["conditions"], told]}
                self.kube.put(pod)


def _holds(pod: dict[str, Any], kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _leaves(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


@asynccontextmanager
async def a_cluster(gpus: int) -> AsyncIterator[Kubelets]:
    """A node with so many GPUs, two replicas wanted, kubelets at work."""
    kube = FakeKube()
    node = copy.deepcopy(NODE)
    node["status"]["allocatable"] = {"nvidia.com/gpu": str(gpus)}
    kube.put(node)
    kube.put(example(replicas=2))
    kubelets = Kubelets(kube)
    task = asyncio.get_running_loop().create_task(kubelets.run())
    try:
        yield kubelets
    finally:
        task.cancel()


def now() -> datetime:
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


def operator(kube: FakeKube) -> AbstractAsyncContextManager[Controller]:
    return running(kube, a_controller(kube, clock=now))


async def until_ready(kube: FakeKube, revision_before: str = "", seconds: int = 300) -> None:
    for _ in range(seconds):
        await asyncio.sleep(1)
        status = kube.store[SERVICE].get("status") or {}
        told = {c["type"]: c["status"] for c in status.get("conditions", ())}
        if told.get("Ready") == "True" and status["revision"] != revision_before:
            return
    raise AssertionError(kube.store[SERVICE].get("status"))


async def serve(kubelets: Kubelets) -> str:
    """Bring the first revision up; return it."""
    async with operator(kubelets.kube):
        await until_ready(kubelets.kube)
    return str(kubelets.kube.store[SERVICE]["status"]["revision"])


def change(kube: FakeKube, **spec: Any) -> None:
    body = copy.deepcopy(kube.store[SERVICE])
    body["spec"] = {**body["spec"], **spec}
    kube.put(body)


@pytest.mark.parametrize(("gpus", "least"), [(2, 1), (3, 2), (4, 2)])
async def test_a_new_revision_takes_over_with_as_many_serving_as_the_gpus_allow(
    gpus: int, least: int
) -> None:
    async with a_cluster(gpus) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        kubelets.watch = True
        async with operator(kube):
            change(kube, **OTHER)
            await until_ready(kube, before)
            assert kubelets.least == least
            status = kube.store[SERVICE]["status"]
            assert "rollout" not in status
            reasons = [event["reason"] for event in kube.events]
            assert reasons.count("RolledOut") == 1
            await asyncio.sleep(700)  # it has soaked, and that is remembered
            done = len(kube.writes)
            await asyncio.sleep(1000)
            assert len(kube.writes) == done, f"at rest nothing is written: {kube.writes[done:]}"


async def test_a_rollout_that_waits_writes_nothing() -> None:
    async with a_cluster(2) as kubelets:
        kube = kubelets.kube
        await serve(kubelets)
        async with operator(kube):
            change(kube, **OTHER, rollout={"strategy": "Surge"})
            await asyncio.sleep(100)
            assert kubelets.serving() == 2
            ready = next(c for c in kube.store[SERVICE]["status"]["conditions"] if c["type"] == "Ready")
            assert ready["reason"] == "RolloutBlocked"
            await asyncio.sleep(700)  # it has soaked, and that is remembered
            done = len(kube.writes)
            await asyncio.sleep(1000)
            assert len(kube.writes) == done, f"{kube.writes[done:]}"


async def test_back_in_the_middle_on_a_full_cluster() -> None:
    async with a_cluster(2) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        first = copy.deepcopy(kube.store[SERVICE]["spec"])
        async with operator(kube):
            change(kube, **OTHER)
            await asyncio.sleep(10)
            change(kube, **first)
            await until_ready(kube)
            await asyncio.sleep(30)
            assert kube.store[SERVICE]["status"]["revision"] == before
            assert kubelets.serving() == 2


async def crash_after(kube: FakeKube, write: int, seconds: float = 150) -> None:
    """Run an operator until it has made so many writes more, and crashes."""
    kube.crash_after = len(kube.writes) + write
    made = a_controller(kube, clock=now)
    crashed = crash_of(made)
    await made.start()
    await asyncio.wait_for(crashed.wait(), seconds)
    kube.watcher = None
    await made.stop()
    kube.crash_after = None


WRITES = 22
"""A rollout of two replicas makes at least so many, with its weights."""


@pytest.mark.parametrize("write", range(1, WRITES + 1))
async def test_killed_after_any_write_of_a_rollout_it_ends_and_gives_no_more_away(write: int) -> None:
    async with a_cluster(2 + write % 2) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        change(kube, **OTHER)
        kubelets.watch = True
        await crash_after(kube, write)
        async with operator(kube):
            await until_ready(kube, before)
            assert kubelets.least >= 1 + write % 2
