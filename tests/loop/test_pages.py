"""Weights into memory ahead of a load by the whole controller: woken, going back, refused, killed after any write; at rest."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from preheat.errors import InvalidSpec, Unavailable
from typing_extensions import override

from tests.fakes import FakeKube
from tests.loop import test_rollout
from tests.loop.test_controller import NODE, example
from tests.loop.test_images import condition, is_at_rest
from tests.loop.test_rollout import (
    LOAD_SECONDS,
    OTHER,
    Kubelets,
    change,
    crash_after,
    now,
    operator,
    serve,
    until_ready,
)

pytestmark = pytest.mark.looptime
PAGE_SECONDS = 2
LAST_WORDS = '{"state": "Failed", "reason": "NoMemory", "message": "9 bytes are missing, 5 are available"}'


class Paging(Kubelets):
    """Kubelets whose pagers end after a while, well or for want of memory; warmers say how large the weights are."""

    def __init__(self, kube: FakeKube, *, short: bool = False) -> None:
        super().__init__(kube)
        self.short = short
        self.made: list[str] = []
        """The uids of all pagers that there ever were."""
        self._seen: dict[str, int] = {}

    @override
    def _all(self, kind: str) -> list[dict[str, Any]]:
        return [body for body in super()._all(kind) if not _is_pager(body)]

    def pagers(self) -> list[dict[str, Any]]:
        return [body for body in super()._all("Job") if _is_pager(body)]

    @override
    def _warm(self) -> None:
        super()._warm()
        for cache in self._all("ModelCache"):
            status = cache.get("status") or {}
            if status and not status.get("totalBytes"):
                self.kube.put({**cache, "status": {**status, "totalBytes": 1000}})
        jobs = {job["metadata"]["uid"]: job for job in self.pagers()}
        for pod in [body for body in super()._all("Pod") if _is_pager(body)]:
            if pod["metadata"]["ownerReferences"][0]["uid"] not in jobs:
                self.kube.remove("Pod", "preheat-demo", pod["metadata"]["name"])
        for uid, job in jobs.items():
            self.made += [uid] if uid not in self.made else []
            self._seen[uid] = self._seen.get(uid, 0) + 1
            if self._seen[uid] == PAGE_SECONDS:
                self._end(job)

    def _end(self, job: dict[str, Any]) -> None:
        name = f"{job['metadata']['name']}-abcde"
        owner = {"controller": True, "kind": "Job", **{key: job["metadata"][key] for key in ("name", "uid")}}
        template = copy.deepcopy(job["spec"]["template"])
        ended = {"exitCode": 2 if self.short else 0, "message": LAST_WORDS if self.short else ""}
        self.kube.put({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {**template["metadata"], "name": name, "namespace": "preheat-demo",
                         "uid": f"pod-of-{job['metadata']['uid']}", "ownerReferences": [owner]},
            "spec": {**template["spec"], "nodeName": "n1"},
            "status": {"phase": "Failed" if self.short else "Succeeded",
                       "containerStatuses": [{"name": "pager", "state": {"terminated": ended}}]},
        })  # fmt: skip
        told = {"type": "Failed" if self.short else "Complete", "status": "True"}
        self.kube.put({**job, "status": {"conditions": [{**told, "lastTransitionTime": now().isoformat()}]}})


def _is_pager(body: dict[str, Any]) -> bool:
    return (body["metadata"].get("labels") or {}).get("preheat.dev/component") == "pager"


@asynccontextmanager
async def a_cluster(*, short: bool = False, cache: dict[str, Any] | None = None) -> AsyncIterator[Paging]:
    """A node with two GPUs and memory, one replica, kubelets at work."""
    kube = FakeKube()
    node = copy.deepcopy(NODE)
    node["status"]["allocatable"] |= {"memory": "64Gi"}
    kube.put(node)
    kube.put(example(replicas=1, cache={"pageCache": "Ahead"} if cache is None else cache))
    kubelets = Paging(kube, short=short)
    task = asyncio.get_running_loop().create_task(kubelets.run())
    try:
        yield kubelets
    finally:
        task.cancel()


async def asleep(kubelets: Paging) -> None:
    """Served once, and at zero since long ago: what is remembered of the rollout is written."""
    await serve(kubelets)
    async with operator(kubelets.kube):
        change(kubelets.kube, replicas=0)
        await asyncio.sleep(700)
    kubelets.made.clear()
    kubelets.kube.events.clear()


async def test_a_first_revision_is_read_ahead_too_and_costs_two_writes_more() -> None:
    """What was fetched a moment ago is not in memory, for the most part."""
    counts, made = [], []
    for cache in ({}, {"pageCache": "Ahead"}):
        async with a_cluster(cache=cache) as kubelets:
            await serve(kubelets)
            made.append(len(kubelets.made))
            counts.append(len(kubelets.kube.writes))
    assert made == [0, 1]
    assert counts[1] == counts[0] + 2


async def test_who_is_woken_finds_its_weights_read_and_the_pager_goes_with_the_load() -> None:
    async with a_cluster() as kubelets:
        kube = kubelets.kube
        await asleep(kubelets)
        async with operator(kube):
            change(kube, replicas=1)
            await asyncio.sleep(1)
            (pager,) = kubelets.pagers()
            assert pager["metadata"]["annotations"]["preheat.dev/node"] == "n1"
            await asyncio.sleep(LOAD_SECONDS - 2)
            assert len(kubelets.pagers()) == 1, "it has ended, and is not made again"
            await until_ready(kube, seconds=10)
            await asyncio.sleep(2)
            assert (kubelets.pagers(), len(kubelets.made)) == ([], 1)
            assert condition(kube, "PageCacheFilled") is None
            await is_at_rest(kube)
            assert len(kubelets.made) == 1


async def test_a_rollout_and_going_back_read_the_weights_first() -> None:
    async with a_cluster() as kubelets:
        kube, first = kubelets.kube, await serve(kubelets)
        kubelets.made.clear()
        model = kube.store["LLMDeployment", "preheat-demo", "smollm2"]["spec"]["model"]
        async with operator(kube):
            change(kube, **OTHER)
            await until_ready(kube, first)
            await asyncio.sleep(2)
            assert (kubelets.pagers(), len(kubelets.made)) == ([], 1)
            second = kube.store["LLMDeployment", "preheat-demo", "smollm2"]["status"]["revision"]
            change(kube, model=model)
            await until_ready(kube, second)
            await asyncio.sleep(2)
            assert (kubelets.pagers(), len(kubelets.made)) == ([], 2)


async def test_memory_that_is_short_is_told_once_and_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_rollout, "LOAD_SECONDS", 60)
    async with a_cluster(short=True) as kubelets:
        kube = kubelets.kube
        await asleep(kubelets)
        async with operator(kube):
            change(kube, replicas=1)
            await asyncio.sleep(50)
            assert condition(kube, "PageCacheFilled") == ("False", "PageCacheNotFilled")
            assert condition(kube, "Ready") == ("False", "EngineStarting")
            await until_ready(kube, seconds=15)
            assert len(kubelets.made) == 1
            assert [event["reason"] for event in kube.events].count("PageCacheNotFilled") == 1
            await is_at_rest(kube)
            assert condition(kube, "PageCacheFilled") is None
            assert len(kubelets.made) == 1


@pytest.mark.parametrize("error", [InvalidSpec("exceeded quota: jobs"), Unavailable("403 Forbidden")])
async def test_a_pager_that_is_not_let_in_is_tried_once_and_delays_nothing(error: Exception) -> None:
    async with a_cluster() as kubelets:
        kube = kubelets.kube
        await asleep(kubelets)
        kube.refuses["create Job"] = error
        async with operator(kube):
            change(kube, replicas=1)
            told = set()
            for _ in range(LOAD_SECONDS + 3):
                await asyncio.sleep(1)
                told.add(condition(kube, "PageCacheFilled"))
                assert condition(kube, "Ready") != ("False", "ChildRefused")
            assert ("Unknown", "PageCacheNotFilled") in told
            await until_ready(kube, seconds=3)
            assert [event["reason"] for event in kube.events].count("PageCacheNotFilled") == 1
            await is_at_rest(kube)
            assert condition(kube, "PageCacheFilled") is None


WRITES = 6
"""Waking makes at least so many."""


@pytest.mark.parametrize("write", range(1, WRITES + 1))
async def test_killed_after_any_write_it_serves_and_leaves_no_pager(write: int) -> None:
    async with a_cluster() as kubelets:
        kube = kubelets.kube
        await asleep(kubelets)
        change(kube, replicas=1)
        await crash_after(kube, write)
        async with operator(kube):
            await until_ready(kube)
            await asyncio.sleep(3)
            assert kubelets.pagers() == []
            assert len(kubelets.made) <= 1
