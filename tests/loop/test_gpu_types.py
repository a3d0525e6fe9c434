"""Replicas on several GPU types, and a revision that no node can take: the whole controller on virtual time."""

import asyncio
import copy
from datetime import timedelta
from typing import Any

import pytest
from preheat.decide.plan import RESYNC_SECONDS
from typing_extensions import override

from tests.loop.test_controller import NODE
from tests.loop.test_rollback import SERVICE, Cluster, _condition, clock, condition, quality, running

pytestmark = pytest.mark.looptime
PATIENCE = 60
L4, A10G = "nvidia-l4", "nvidia-a10g"
TWO_TYPES = {"gpu": {"types": [L4, A10G], "patienceSeconds": PATIENCE}}
H100 = "nvidia-h100-80gb"
PRODUCTS = {L4: "NVIDIA-L4", A10G: "NVIDIA-A10G", H100: "NVIDIA-H100-80GB-HBM3"}


class TwoTypes(Cluster):
    """A node of each type, with one GPU each; strangers hold some. A pod starts where its weights are."""

    def __init__(self, strangers: int = 0) -> None:
        super().__init__(1)
        self.remove("Node", "", "n1")
        self.strangers = strangers
        """GPUs of the first type that pods hold which are not ours."""
        for gpu_type in (L4, A10G):
            self.node(gpu_type)

    def node(self, gpu_type: str, gpus: int = 1, **spec: Any) -> None:
        """Put the node of a type as it is now; it keeps the labels that it has."""
        before = self.store.get(("Node", "", gpu_type))
        labels = {"nvidia.com/gpu.product": PRODUCTS[gpu_type]}
        labels = {**(before["metadata"]["labels"] if before else {}), **labels}
        status = {**NODE["status"], "allocatable": {"nvidia.com/gpu": str(gpus)}}
        self.put(
            {"kind": "Node", "metadata": {"name": gpu_type, "labels": labels}, "spec": spec, "status": status}
        )

    def placed(self) -> dict[str, int]:
        """How many pods each type has, with and without a GPU."""
        types = [pod["metadata"]["labels"]["preheat.dev/gpu-type"] for pod in self.all("Pod")]
        return {gpu_type: types.count(gpu_type) for gpu_type in sorted(set(types))}

    @override
    def _schedule(self, pod: dict[str, Any]) -> None:
        wanted = pod["metadata"]["labels"]["preheat.dev/gpu-type"]
        node = self.store.get(("Node", "", wanted))
        used = sum(p["spec"].get("nodeName") == wanted for p in self.all("Pod"))
        used += self.strangers if wanted == L4 else 0
        free = int(node["status"]["allocatable"]["nvidia.com/gpu"]) - used if node else 0
        warm = node is not None and "ready" in node["metadata"]["labels"].values()
        cordoned = node is not None and node["spec"].get("unschedulable")
        if node is not None and free > 0 and warm and not cordoned:
            conditions = [_condition("PodScheduled", True), _condition("Ready", False)]
            ip = f"10.0.0.{pod['metadata']['name'][1:]}"
            status = {"phase": "Running", "podIP": ip, "conditions": conditions}
            self.put({**copy.deepcopy(pod), "spec": {**pod["spec"], "nodeName": wanted}, "status": status})
            return
        words = (
            "1 Insufficient nvidia.com/gpu" if free <= 0 else "1 node(s) had volume node affinity conflict"
        )
        words = "2 node(s) were unschedulable" if cordoned else words
        told = {"reason": "Unschedulable", "message": f"0/2 nodes are available: {words}."}
        before = pod["status"].get("conditions")
        if not before or before[0]["message"] != told["message"]:
            conditions = [{**_condition("PodScheduled", False), **told}]
            self.put({**copy.deepcopy(pod), "status": {"phase": "Pending", "conditions": conditions}})


def types_told(cluster: Cluster) -> dict[str, tuple[int, int]]:
    told = cluster.store[SERVICE]["status"]["gpuTypes"]
    return {one["type"]: (one["replicas"], one["readyReplicas"]) for one in told}


def events(cluster: Cluster, reason: str) -> list[str]:
    return [e["note"] for e in cluster.events if e["reason"] == reason]


async def test_a_replica_that_finds_no_gpu_of_the_first_type_comes_up_on_the_second_and_stays() -> None:
    cluster = TwoTypes(strangers=1)
    async with running(cluster):
        cluster.put(quality("good", hardware=TWO_TYPES))
        await asyncio.sleep(PATIENCE - 5)
        assert cluster.placed() == {L4: 1}, "it waits for the first"
        await asyncio.sleep(40)
        assert cluster.placed() == {A10G: 1}
        assert cluster.ready() == 1
        assert types_told(cluster) == {L4: (0, 0), A10G: (1, 1)}
        told, ready = condition(cluster, "FellBack"), condition(cluster, "Ready")
        assert told is not None
        assert ready is not None
        assert (told["status"], ready["status"]) == ("True", "True")
        assert "no nvidia-l4 was to be had" in told["message"]
        assert len(events(cluster, "FellBack")) == 1
        cluster.strangers, done = 0, len(cluster.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert cluster.placed() == {A10G: 1}, "nothing is torn down for a GPU that is free again"
        assert [w for w in cluster.writes[done:] if w != "apply ControllerRevision"] == []
        cluster.put(quality("good", hardware=TWO_TYPES, replicas=2))
        await asyncio.sleep(60)
        assert cluster.placed() == {L4: 1, A10G: 1}, "another one takes it"
        assert cluster.ready() == 2


async def test_another_operator_goes_on_in_the_middle() -> None:
    cluster = TwoTypes(strangers=1)
    async with running(cluster):
        cluster.put(quality("good", hardware=TWO_TYPES))
        await asyncio.sleep(PATIENCE - 20)
    cluster.store[SERVICE].pop("status", None)
    async with running(cluster):
        await asyncio.sleep(22)
        assert cluster.placed() == {A10G: 1}, "how long it has waited is not forgotten"
    async with running(cluster):
        await asyncio.sleep(30)
        assert cluster.placed() == {A10G: 1}
        assert cluster.ready() == 1


async def test_a_node_that_is_cordoned_moves_nobody() -> None:
    cluster = TwoTypes()
    async with running(cluster):
        cluster.put(quality("good", hardware=TWO_TYPES))
        await asyncio.sleep(30)
        (pod,) = cluster.all("Pod")
        cluster.node(L4, unschedulable=True)
        await asyncio.sleep(5 * PATIENCE)
        assert [p["metadata"]["name"] for p in cluster.all("Pod")] == [pod["metadata"]["name"]]
        assert cluster.placed() == {L4: 1}
        assert cluster.ready() == 1
        cluster.remove("Pod", "preheat-demo", pod["metadata"]["name"])
        await asyncio.sleep(PATIENCE - 5)
        assert cluster.placed() == {L4: 1}, "the node may come back"
        await asyncio.sleep(40)
        assert cluster.placed() == {A10G: 1}
        cluster.node(L4)
        await asyncio.sleep(3 * PATIENCE)
        assert cluster.placed() == {A10G: 1}


async def test_gpus_that_are_gone_with_the_replica_on_them() -> None:
    cluster = TwoTypes()
    async with running(cluster):
        cluster.put(quality("good", hardware=TWO_TYPES))
        await asyncio.sleep(30)
        cluster.node(L4, gpus=0)
        (pod,) = cluster.all("Pod")
        cluster.remove("Pod", "preheat-demo", pod["metadata"]["name"])
        await asyncio.sleep(PATIENCE + 40)
        assert cluster.placed() == {A10G: 1}
        assert cluster.ready() == 1


async def test_a_revision_that_no_node_can_take_is_not_begun_until_one_comes() -> None:
    cluster = TwoTypes()
    async with running(cluster):
        cluster.put(quality("good"))
        await asyncio.sleep(30)
        caches = len(cluster.all("ModelCache"))
        began, cluster.least_ready = clock(), 1
        nowhere = quality("new", hardware={"gpu": {"types": [H100]}})
        nowhere["spec"]["model"] = {"uri": "http://store/other/", "format": "GGUF"}
        cluster.put(nowhere)
        await asyncio.sleep(5)
        told = condition(cluster, "PreflightPassed")
        assert told is not None
        assert (told["status"], told["reason"]) == ("False", "PreflightFailed")
        assert clock() - began < timedelta(seconds=10)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert cluster.wanted() == {"good": 1}
        assert len(cluster.all("ModelCache")) == caches, "nothing is fetched"
        assert len(events(cluster, "PreflightFailed")) == 1
        cluster.node(H100)
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 0, "new": 1}
        assert cluster.ready("new") == 1
        assert condition(cluster, "PreflightPassed") is None
        assert cluster.least_ready == 1, "somebody has served all the time"


async def test_the_held_revision_is_healed_and_scaled_across_a_restart() -> None:
    cluster = TwoTypes()
    nowhere = {"gpu": {"types": [L4], "count": 4}}
    async with running(cluster):
        cluster.put(quality("good"))
        await asyncio.sleep(30)
        cluster.put(quality("new", hardware=nowhere))
        await asyncio.sleep(10)
    cluster.store[SERVICE].pop("status", None)
    (pod,) = cluster.all("Pod")
    cluster.remove("Pod", "preheat-demo", pod["metadata"]["name"])
    async with running(cluster):
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 1}
        assert cluster.ready("good") == 1
        cluster.node(L4, gpus=2)
        cluster.put(quality("new", hardware=nowhere, replicas=2))
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 2}
        assert cluster.ready("good") == 2
