"""Weights on a shared volume and in an image, from apply to rest, over a cluster in memory."""

import asyncio
import copy
from typing import Any

import pytest
from preheat.decide.plan import RESYNC_SECONDS

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, controller
from tests.pages import manifests

pytestmark = pytest.mark.looptime
NAMESPACE = "default"


def a_cluster(name: str) -> FakeKube:
    """A cluster with one node and an LLMDeployment of docs/weights.md."""
    made = FakeKube()
    made.put(copy.deepcopy(NODE))
    body = manifests("weights.md")[name]
    body["metadata"]["namespace"] = NAMESPACE
    made.put(body)
    return made


def all_of(kube: FakeKube, kind: str) -> list[dict[str, Any]]:
    return [body for key, body in sorted(kube.store.items()) if key[0] == kind]


def only(kube: FakeKube, kind: str) -> dict[str, Any]:
    (found,) = all_of(kube, kind)
    return found


def complete(kube: FakeKube, ended: str = "2026-01-01T00:00:00Z") -> None:
    """Let the one warmer end well."""
    done = {"type": "Complete", "status": "True", "lastTransitionTime": ended}
    kube.put({**only(kube, "Job"), "status": {"conditions": [done]}})


def replicas(kube: FakeKube) -> int:
    return int(only(kube, "Deployment")["spec"]["replicas"])


def labels(kube: FakeKube) -> dict[str, str]:
    found = only(kube, "Node")["metadata"].get("labels", {})
    return {key: value for key, value in found.items() if key.startswith("cache.preheat.dev/")}


async def test_replicas_wait_for_the_volume_and_outlast_its_warmer() -> None:
    kube = a_cluster("on-a-volume")
    async with controller(kube):
        await asyncio.sleep(30)
        assert (replicas(kube), labels(kube)) == (0, {})
        assert all_of(kube, "PersistentVolume") == all_of(kube, "PersistentVolumeClaim") == []
        complete(kube)
        await asyncio.sleep(5)
        assert (replicas(kube), labels(kube)) == (1, {})
        kube.remove("Job", NAMESPACE, only(kube, "Job")["metadata"]["name"])
        await asyncio.sleep(5)
        assert (replicas(kube), len(all_of(kube, "Job"))) == (1, 1), "warmed again, and no pod ends for it"
        done = len(kube.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert kube.writes[done:] == []


async def test_an_operator_that_comes_back_adds_no_replica_before_its_time() -> None:
    kube = a_cluster("on-a-volume")
    async with controller(kube):
        await asyncio.sleep(30)
    async with controller(kube):
        await asyncio.sleep(30)
        assert replicas(kube) == 0
    complete(kube)
    async with controller(kube):
        await asyncio.sleep(5)
        assert replicas(kube) == 1


async def test_a_node_is_labelled_for_an_image_and_its_label_goes_with_the_cache() -> None:
    kube = a_cluster("in-an-image")
    async with controller(kube):
        await asyncio.sleep(30)
        assert labels(kube) == {}
        complete(kube)
        await asyncio.sleep(5)
        key = only(kube, "ModelCache")["status"]["key"]
        assert labels(kube) == {f"cache.preheat.dev/{key}": "ready"}
        for kind in ("LLMDeployment", "ModelCache"):
            kube.remove(kind, NAMESPACE, only(kube, kind)["metadata"]["name"])
        await asyncio.sleep(5)
        ready = {f"cache.preheat.dev/{key}": "ready"}
        assert labels(kube) == ready, "while a Deployment names it, its node keeps the label"
        kube.remove("Deployment", NAMESPACE, only(kube, "Deployment")["metadata"]["name"])
        await asyncio.sleep(5)
        # Nobody knows any more that it was an image: the label goes as for a disk, by a keeper that finds nothing.
        assert labels(kube) == {f"cache.preheat.dev/{key}": "leaving"}
