"""What is asked for again before replicas move: what was decided from, once, and nothing that this pass made itself."""

import asyncio
import copy
import logging
from collections import Counter
from typing import Any

import pytest
from preheat.controller.apply import SURE_SECONDS

from tests.loop.test_gpu_types import TWO_TYPES, TwoTypes
from tests.loop.test_rollback import Cluster, quality, running, with_a_good_one

pytestmark = pytest.mark.looptime
ANEW = "looking at them anew"


async def test_what_is_not_there_is_asked_for_once_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, plain, asked = Cluster(2), Cluster.get, Counter[tuple[str, str]]()

    async def get(kind: str, namespace: str, name: str) -> Any:
        asked[kind, name] += 1
        return await plain(cluster, kind, namespace, name)

    async with running(cluster):
        await with_a_good_one(cluster)
        before = set(cluster.store)
        monkeypatch.setattr(cluster, "get", get)
        cluster.put(quality("better"))
        await asyncio.sleep(2)
        made = {
            (k[0], k[2])
            for k in cluster.store
            if k not in before and k[0] in {"ControllerRevision", "Deployment"}
        }
        assert len(made) == 2
        assert {key: asked[key] for key in made} == dict.fromkeys(made, 1)


async def test_a_pass_that_takes_long_is_not_begun_anew_for_what_it_made_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every write takes longer than an answer holds, and Deployments have a newer status each time they are asked for."""
    cluster = TwoTypes()
    apply, get, made = cluster.apply, cluster.get, list[str]()

    async def slow(manifest: dict[str, Any]) -> Any:
        made.append(manifest["kind"])
        body = await apply(manifest)
        await asyncio.sleep(SURE_SECONDS + 1)
        return body

    async def counting(kind: str, namespace: str, name: str) -> Any:
        body = await get(kind, namespace, name)
        if kind == "Deployment" and body is not None:
            cluster.put({**body, "status": {"observedGeneration": cluster._version}})
        return await get(kind, namespace, name)

    async with running(cluster):
        await with_a_good_one(cluster, hardware=TWO_TYPES, replicas=2)
        monkeypatch.setattr(cluster, "apply", slow)
        monkeypatch.setattr(cluster, "get", counting)
        caplog.set_level(logging.INFO)
        caplog.clear()
        cluster.put(quality("better", hardware=TWO_TYPES, replicas=2))
        await asyncio.sleep(50)
        assert ANEW not in caplog.text
        # The old ones are remembered to have served, then the new ones come.
        assert made[:6] == ["ControllerRevision"] * 2 + ["ControllerRevision", "Deployment"] * 2


async def test_what_others_annotate_a_revision_with_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is never twice the same, whenever it is asked for."""
    cluster, plain = Cluster(2), Cluster.get

    async def touched(kind: str, namespace: str, name: str) -> Any:
        body = await plain(cluster, kind, namespace, name)
        if kind == "ControllerRevision" and body is not None:
            annotations = {
                **body["metadata"].get("annotations", {}),
                "backup.example.com/seen": str(cluster._version),
            }
            body["metadata"]["annotations"] = annotations
            cluster.put(body)
            body = await plain(cluster, kind, namespace, name)
        return body

    async with running(cluster):
        await with_a_good_one(cluster)
        monkeypatch.setattr(cluster, "get", touched)
        caplog.set_level(logging.INFO)
        caplog.clear()
        cluster.put(quality("better"))
        await asyncio.sleep(40)
        assert ANEW not in caplog.text
        assert cluster.wanted() == {"good": 0, "better": 1}


@pytest.mark.parametrize("what", ["a verdict", "a label", "gone"])
async def test_a_revision_that_is_another_is_looked_at_anew(
    caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """It changed, and no watch has told of it yet."""
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        tell, cluster.watcher = cluster.watcher, None
        (body,) = [copy.deepcopy(r) for r in cluster.all("ControllerRevision")]
        if what == "gone":
            cluster.remove("ControllerRevision", body["metadata"]["namespace"], body["metadata"]["name"])
        elif what == "a label":
            body["metadata"]["labels"]["preheat.dev/revision"] = "another"
        else:
            body["metadata"]["annotations"]["preheat.dev/verdict"] = "{}"
        if what != "gone":
            cluster.put(body)
        cluster.watcher = tell
        caplog.set_level(logging.INFO)
        caplog.clear()
        cluster.put(quality("better"))
        await asyncio.sleep(3)
        assert caplog.text.count(ANEW) == 1
