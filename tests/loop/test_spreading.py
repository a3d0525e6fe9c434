"""Three nodes want the same weights: the whole controller, and kubelets that take virtual time."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.constants import ANNOTATION_BUDGET
from preheat.config import OperatorConfig
from preheat.controller.service import Controller
from typing_extensions import override

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, a_controller

pytestmark = pytest.mark.looptime
START = datetime(2026, 1, 1, tzinfo=UTC)
CACHE = ("ModelCache", "default", "weights")
KEYS = {"keys": [{"kid": "one", "kty": "RSA"}]}
DIGEST = "d" * 64
STARTS_SECONDS, FETCHES_SECONDS = 3, 20


def clock() -> datetime:
    return START + timedelta(seconds=asyncio.get_running_loop().time())


class Cluster(FakeKube):
    """With kubelets: warmers fetch for a while, seeders get ready after a moment, where they start at all."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.keys = KEYS
        self.seeders_start = True
        self.warmers_fail: set[str] = set()
        self.history: list[tuple[str, tuple[str, ...]]] = []
        """Every warmer that was made: its node, and the neighbours it was told of."""
        for number in range(nodes):
            self.put({**NODE, "metadata": {**NODE["metadata"], "name": f"n{number}"}})
        spec = {"source": {"uri": "http://store/model/", "format": "GGUF"}}
        self.put(
            {"kind": "ModelCache", "metadata": {"name": "weights", "namespace": "default"}, "spec": spec}
        )

    @override
    def _save(self, key: Any, body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"].setdefault("creationTimestamp", clock().isoformat() if self.watcher else None)
        return super()._save(key, body)

    @override
    async def create(self, manifest: dict[str, Any]) -> dict[str, Any] | None:
        made = await super().create(manifest)
        if made is not None and _component(made) == "warmer":
            told = made["metadata"]["annotations"].get("preheat.dev/peers", "")
            self.history.append((_node(made), tuple(filter(None, told.split(",")))))
        return made

    def allow(self, node: str, budget: str) -> None:
        """Say how much may lie on a node's disk."""
        body = copy.deepcopy(self.store["Node", "", node])
        body["metadata"]["annotations"] = {ANNOTATION_BUDGET: budget}
        self.put(body)

    def jobs(self, component: str) -> list[dict[str, Any]]:
        return [b for k, b in self.store.items() if k[0] == "Job" and _component(b) == component]

    async def kubelets(self) -> None:
        """Do what Job controller and kubelets do, twice a second."""
        while True:
            await asyncio.sleep(0.5)
            for job in [*self.jobs("warmer"), *self.jobs("seeder")]:
                self._work(job)
            names = {b["metadata"]["name"] for b in self.store.values() if b["kind"] == "Job"}
            for pod in [b for b in self.store.values() if b["kind"] == "Pod"]:
                if pod["metadata"]["ownerReferences"][0]["name"] not in names:
                    self.remove("Pod", "default", pod["metadata"]["name"])

    def _work(self, job: dict[str, Any]) -> None:
        if (job.get("status") or {}).get("conditions") or job["spec"].get("suspend"):
            return
        age = (clock() - datetime.fromisoformat(job["metadata"]["creationTimestamp"])).total_seconds()
        is_seeder = _component(job) == "seeder"
        if age < STARTS_SECONDS or (is_seeder and not self.seeders_start):
            return
        if is_seeder or age < STARTS_SECONDS + FETCHES_SECONDS:
            self._pod(job, {"phase": "Running"})
            return
        failed = _node(job) in self.warmers_fail
        words = {"state": "Failed", "reason": "NotFound", "message": "404"} if failed else {
            "state": "Published", "bytesTotal": 100, "manifestSHA256": DIGEST}  # fmt: skip
        ended = {"terminated": {"exitCode": 2 if failed else 0, "message": json.dumps(words)}}
        self._pod(job, {"phase": "Failed" if failed else "Succeeded",
                        "containerStatuses": [{"name": "warmer", "state": ended}]})  # fmt: skip
        done = {"type": "Failed" if failed else "Complete", "status": "True",
                "lastTransitionTime": clock().isoformat()}  # fmt: skip
        self.put({**copy.deepcopy(job), "status": {"conditions": [done]}})

    def _pod(self, job: dict[str, Any], status: dict[str, Any]) -> None:
        metadata = job["metadata"]
        name, node = f"{metadata['name']}-x", _node(job)
        before = self.store.get(("Pod", "default", name), {}).get("status")
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready")]
        after = {"podIP": f"10.1.0.{node[1:]}", "conditions": conditions, **status}
        if before == after:
            return
        owner = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        self.put({"kind": "Pod", "status": after, "spec": {"nodeName": node},
                  "metadata": {"name": name, "namespace": "default", "ownerReferences": [owner],
                               "labels": metadata["labels"], "annotations": {"preheat.dev/node": node}}})  # fmt: skip


def _component(body: dict[str, Any]) -> str:
    return str(body["metadata"].get("labels", {}).get("preheat.dev/component", ""))


def _node(job: dict[str, Any]) -> str:
    return str(job["metadata"]["annotations"]["preheat.dev/node"])


def status(kube: FakeKube) -> dict[str, Any]:
    found: dict[str, Any] = kube.store[CACHE].get("status") or {}
    return found


@asynccontextmanager
async def running(kube: Cluster, config: OperatorConfig | None = None) -> AsyncIterator[Controller]:
    made = a_controller(kube, config or OperatorConfig(), clock)
    await made.start()
    work = asyncio.create_task(kube.kubelets())
    try:
        yield made
    finally:
        work.cancel()
        kube.watcher = None
        await made.stop()


async def test_three_nodes_and_the_source_is_asked_once() -> None:
    kube = Cluster(3)
    async with running(kube):
        await asyncio.sleep(10)
        assert len(kube.history) == 1
        waiting = [n for n in status(kube)["nodes"] if n.get("reason") == "WaitsForNeighbour"]
        assert len(waiting) == 2
        assert "fetches it from the source" in waiting[0]["message"]
        await asyncio.sleep(90)
        (first, told), *others = kube.history
        assert told == ()
        assert [peers for _, peers in others] == [(first,), (first,)]
        assert status(kube)["nodeSummary"] == "3/3"
        assert kube.jobs("seeder") == [], "nobody needs it any more"
        done = len(kube.writes)
        await asyncio.sleep(900)
        assert len(kube.writes) == done, f"at rest nothing is written: {kube.writes[done:]}"


async def test_one_that_waited_for_room_learns_who_has_it_by_now() -> None:
    kube = Cluster(2)
    for node in ("n0", "n1"):
        kube.allow(node, "0")
    async with running(kube):
        await asyncio.sleep(150)
        assert [told for _, told in kube.history] == [(), ()]
        (first, _), (second, _) = kube.history
        kube.allow(second, "1000")
        await asyncio.sleep(60)
        assert status(kube)["readyNodes"] == 1
        kube.allow(first, "1000")
        await asyncio.sleep(100)
        assert kube.history[2:] == [(first, (second,))]
        assert status(kube)["readyNodes"] == 2
        assert kube.jobs("seeder") == []


async def test_when_the_first_fails_another_asks() -> None:
    kube = Cluster(3)
    async with running(kube):
        await asyncio.sleep(5)
        ((first, _),) = kube.history
        kube.warmers_fail.add(first)
        await asyncio.sleep(100)
        assert [told for _, told in kube.history[:2]] == [(), ()]
        assert len(kube.history[2][1]) == 1
        assert status(kube)["readyNodes"] == 2


async def test_where_no_seeder_starts_each_asks_the_source_in_its_turn() -> None:
    kube = Cluster(3)
    kube.seeders_start = False
    async with running(kube):
        await asyncio.sleep(20)
        assert len(kube.history) == 1
        await asyncio.sleep(180)
        assert [told for _, told in kube.history] == [(), (), ()]
        assert status(kube)["nodeSummary"] == "3/3"
        assert kube.jobs("seeder") == []


async def test_an_operator_that_is_killed_meanwhile_changes_nothing() -> None:
    kube = Cluster(3)
    for seconds in (1.0, 4.0, 22.5, 24.0, 27.0, 40.0):
        async with running(kube):
            await asyncio.sleep(seconds)
    async with running(kube):
        await asyncio.sleep(90)
        assert [bool(told) for _, told in kube.history] == [False, True, True]
        assert status(kube)["nodeSummary"] == "3/3"
        assert kube.jobs("seeder") == []


async def test_without_keys_all_ask_at_once() -> None:
    kube = Cluster(3)
    kube.keys = None
    async with running(kube):
        await asyncio.sleep(5)
        assert [told for _, told in kube.history] == [(), (), ()]


async def test_a_node_that_joins_later_gets_them_from_one_that_has_them() -> None:
    kube = Cluster(1)
    async with running(kube):
        await asyncio.sleep(60)
        kube.put({**NODE, "metadata": {**NODE["metadata"], "name": "n7"}})
        await asyncio.sleep(400)  # a cache at rest looks around every five minutes
        assert kube.history == [("n0", ()), ("n7", ("n0",))]
        assert status(kube)["nodeSummary"] == "2/2"
        assert kube.jobs("seeder") == []
