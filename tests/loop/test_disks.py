"""Two caches and a disk with room for one, wrong bytes, a cache that goes: what happens in which order."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from preheat.api.constants import ANNOTATION_BUDGET
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import Unavailable
from preheat.resources.caching import cache_key
from preheat.resources.names import volume_name
from typing_extensions import override

from tests.fakes import Crash, FakeKube
from tests.loop.test_controller import NODE, NOW, a_controller, done

pytestmark = pytest.mark.looptime
ROOM_FOR_ONE = OperatorConfig(node_budget_bytes=150)


@pytest.fixture
def kube() -> FakeKube:
    """A cluster with one node and nothing else."""
    made = FakeKube()
    made.put(NODE)
    return made


def now() -> datetime:
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


@asynccontextmanager
async def operator(kube: FakeKube, config: OperatorConfig = ROOM_FOR_ONE) -> AsyncIterator[None]:
    made = a_controller(kube, config, now)
    await made.start()
    try:
        yield
    finally:
        kube.watcher = None
        await made.stop()


def a_cache(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "ModelCache",
        "metadata": {"name": name, "namespace": "team", "creationTimestamp": now().isoformat()},
        "spec": {"source": {"uri": f"http://store/{name}/", "format": "GGUF"}, **spec},
    }


def job_of(kube: FakeKube, cache: str) -> dict[str, Any] | None:
    found = [
        b
        for k, b in kube.store.items()
        if k[0] == "Job" and b["metadata"]["labels"].get("preheat.dev/modelcache") == cache
    ]
    return found[0] if found else None


def keeper_of(kube: FakeKube) -> dict[str, Any] | None:
    found = [b for k, b in kube.store.items() if k[0] == "Job" and k[1] == "preheat-system"]
    return found[0] if found else None


def labels(kube: FakeKube) -> dict[str, str]:
    """By cache: what the node's label says."""
    keys = {b["status"]["key"]: k[2] for k, b in kube.store.items() if k[0] == "ModelCache" and "status" in b}
    found = kube.store["Node", "", "n1"]["metadata"]["labels"].items()
    prefix = "cache.preheat.dev/"
    return {keys.get(k.removeprefix(prefix), "gone"): v for k, v in found if k.startswith(prefix)}


def told(kube: FakeKube, cache: str) -> dict[str, Any]:
    body = kube.store["ModelCache", "team", cache]
    return next(c for c in body["status"]["conditions"] if c["type"] == "Ready")


def ends(
    kube: FakeKube, job: dict[str, Any] | None, container: str, words: dict[str, Any], *, well: bool = True
) -> None:
    """A Job's pod says its last words, and the Job controller what became of it."""
    assert job is not None
    assert not job["spec"].get("suspend"), "it was not let begin"
    says(kube, job, container, words, well=well)
    condition = done(now()) if well else {**done(now()), "type": "Failed"}
    kube.put(
        {
            **job,
            "metadata": {**job["metadata"], "creationTimestamp": now().isoformat()},
            "status": {"conditions": [condition]},
        }
    )


def says(
    kube: FakeKube, job: dict[str, Any], container: str, words: dict[str, Any], *, well: bool = True
) -> None:
    """A Job's pod ends and says its last words."""
    metadata = job["metadata"]
    template = job["spec"]["template"]["metadata"]
    owner = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
    terminated = {"exitCode": 0 if well else 2, "message": json.dumps(words)}
    kube.put(
        {
            "kind": "Pod",
            "metadata": {
                "name": f"{metadata['name']}-x",
                "namespace": metadata["namespace"],
                "labels": template["labels"],
                "annotations": template.get("annotations", {}),
                "ownerReferences": [owner],
            },
            "status": {
                "phase": "Succeeded" if well else "Failed",
                "containerStatuses": [{"name": container, "state": {"terminated": terminated}}],
            },
        }
    )


def warmed(kube: FakeKube, cache: str, size: int = 100) -> None:
    ends(kube, job_of(kube, cache), "warmer", {"state": "Published", "bytesTotal": size})


def kept(kube: FakeKube, **words: Any) -> None:
    ends(kube, keeper_of(kube), "keeper", {"state": "Kept", **words})


async def test_the_second_cache_gets_the_room_of_the_first(kube: FakeKube) -> None:
    async with operator(kube):
        kube.put(a_cache("first"))
        await asyncio.sleep(5)
        assert job_of(kube, "first")["metadata"]["annotations"]["preheat.dev/room-bytes"] == "150"
        warmed(kube, "first")
        await asyncio.sleep(20)
        assert labels(kube) == {"first": "ready"}

        kube.put(a_cache("second"))
        await asyncio.sleep(5)
        over = {
            "state": "Failed",
            "reason": "OverBudget",
            "message": "100 B, 50 B are left",
            "bytesTotal": 100,
        }
        ends(kube, job_of(kube, "second"), "warmer", over, well=False)
        kube.store.pop(("Pod", "team", f"{job_of(kube, 'second')['metadata']['name']}-x"))
        await asyncio.sleep(20)
        assert job_of(kube, "second")["spec"]["suspend"], "its size is known now: it waits"
        assert labels(kube) == {"first": "leaving"}
        assert told(kube, "first")["reason"] == "Evicted"
        assert told(kube, "second")["reason"] == "WeightsFetching"
        assert "MakingRoom: waits until other weights are gone" in told(kube, "second")["message"]
        assert "Evicted" in [event["reason"] for event in kube.events]

        kept(kube)
        await asyncio.sleep(30)
        assert labels(kube) == {}
        assert told(kube, "first")["reason"] == "OverBudget"
        assert "100 B of the 150 B" in told(kube, "first")["message"]
        warmed(kube, "second")
        await asyncio.sleep(30)
        assert labels(kube) == {"second": "ready"}
        assert told(kube, "second")["status"] == "True"

        at_rest = len(kube.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert kube.writes[at_rest:] == [], "they do not throw each other out in turn"


async def test_two_caches_of_one_source_count_twice(kube: FakeKube) -> None:
    """Their bytes may be there once, and may be there twice (decision 0019)."""
    async with operator(kube):
        source = {"source": {"uri": "http://store/same/", "format": "GGUF"}}
        for name in ("first", "second"):
            kube.put({**a_cache(name), "spec": source, "status": {"totalBytes": 100}})
            await asyncio.sleep(20)
            if name == "first":
                warmed(kube, "first")
                await asyncio.sleep(20)
        keys = {kube.store["ModelCache", "team", name]["status"]["key"] for name in ("first", "second")}
        assert len(keys) == 2
        assert job_of(kube, "second")["spec"]["suspend"], "100 B and 100 B are more than 150 B"


async def test_wrong_bytes_are_told_and_fetched_anew(kube: FakeKube) -> None:
    async with operator(kube, OperatorConfig()):
        kube.put(a_cache("weights", verifyIntervalSeconds=60))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(20)
        assert labels(kube) == {"weights": "ready"}
        await asyncio.sleep(60)
        key = kube.store["ModelCache", "team", "weights"]["status"]["key"]
        kept(kube, corrupt={key: "model.gguf: other bytes"})
        await asyncio.sleep(20)
        assert labels(kube) == {"weights": "warming"}, "no new pod there"
        assert told(kube, "weights")["status"] == "False"
        assert "WeightsCorrupt" in [event["reason"] for event in kube.events]
        assert any("model.gguf: other bytes" in event["note"] for event in kube.events)
        warmed(kube, "weights")
        await asyncio.sleep(20)
        assert labels(kube) == {"weights": "ready"}
        assert told(kube, "weights")["status"] == "True"


async def test_what_a_killed_keeper_has_found_wrong_counts_before_its_job_has_ended(kube: FakeKube) -> None:
    async with operator(kube, OperatorConfig()):
        kube.put(a_cache("weights", verifyIntervalSeconds=60))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(80)
        key = kube.store["ModelCache", "team", "weights"]["status"]["key"]
        keeper = keeper_of(kube)
        assert keeper is not None
        keeper["metadata"]["creationTimestamp"] = now().isoformat()
        kube.put(keeper)
        words = {"state": "CutShort", "corrupt": {key: "model.gguf: other bytes"}, "corruptCount": 1}
        says(kube, keeper, "keeper", words, well=False)
        await asyncio.sleep(10)
        assert labels(kube) == {"weights": "warming"}, "no new pod there"
        assert any("model.gguf: other bytes" in event["note"] for event in kube.events)


async def test_pods_on_weights_that_were_put_aside_are_remembered_until_they_are_gone(kube: FakeKube) -> None:
    async with operator(kube, OperatorConfig()):
        kube.put(a_cache("weights", verifyIntervalSeconds=60))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(20)
        key = kube.store["ModelCache", "team", "weights"]["status"]["key"]
        claim = {"persistentVolumeClaim": {"claimName": volume_name(key, "serve")}}
        metadata = {"name": "replica", "namespace": "team", "creationTimestamp": now().isoformat()}
        kube.put(
            {
                "kind": "Pod",
                "metadata": metadata,
                "spec": {"nodeName": "n1", "volumes": [claim]},
                "status": {},
            }
        )
        await asyncio.sleep(60)
        kept(kube, corrupt={key: "model.gguf: other bytes"})
        await asyncio.sleep(20)

        def told_of() -> list[str]:
            found = kube.store["ModelCache", "team", "weights"]["status"].get("quarantined", [])
            return [node["name"] for node in found]

        assert told_of() == ["n1"]
        warmed(kube, "weights")
        await asyncio.sleep(20)
        assert labels(kube) == {"weights": "ready"}
        assert told_of() == ["n1"], "the pod still mounts what was put aside"
        kube.remove("Pod", "team", "replica")
        await asyncio.sleep(60)
        assert told_of() == []


async def test_weights_of_a_cache_that_is_gone_are_taken_off_the_disk(kube: FakeKube) -> None:
    async with operator(kube, OperatorConfig()):
        kube.put(a_cache("weights"))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(20)
    # The operator is down while somebody deletes the cache, and the garbage collector what it owned.
    for key in [key for key in kube.store if key[0] in {"ModelCache", "Job", "Pod"}]:
        kube.remove(*key)
    async with operator(kube, OperatorConfig()):
        await asyncio.sleep(20)
        assert labels(kube) == {"gone": "leaving"}
        kept(kube)
        await asyncio.sleep(20)
        assert labels(kube) == {}
        at_rest = len(kube.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert kube.writes[at_rest:] == []


async def test_room_is_there_when_the_bytes_of_a_cache_that_is_gone_are(kube: FakeKube) -> None:
    async with operator(kube):
        kube.put(a_cache("first"))
        await asyncio.sleep(5)
        warmed(kube, "first")
        await asyncio.sleep(20)
        kube.put(a_cache("second"))
        kube.remove("ModelCache", "team", "first")
        for key in [key for key in kube.store if key[0] in {"Job", "Pod"} and key[2].startswith("first")]:
            kube.remove(*key)
        await asyncio.sleep(20)
        second = job_of(kube, "second")
        assert second is not None
        assert second["spec"]["suspend"], "the disk still holds what nobody knows the size of"
        kept(kube)
        await asyncio.sleep(30)
        warmed(kube, "second")
        await asyncio.sleep(10)
        assert labels(kube) == {"second": "ready"}


async def test_a_volume_that_is_being_deleted_holds_up_nobody_while_it_is_bound(kube: FakeKube) -> None:
    """Kubernetes keeps it for as long as its claim is there, and pods mount it: somebody deleted all volumes."""
    async with operator(kube):
        kube.put(a_cache("first"))
        await asyncio.sleep(5)
        warmed(kube, "first")
        await asyncio.sleep(5)
        for key in [key for key in kube.store if key[0] == "PersistentVolume"]:
            body = copy.deepcopy(kube.store[key])
            body["metadata"]["deletionTimestamp"] = now().isoformat()
            kube.put({**body, "status": {"phase": "Bound"}})
        await asyncio.sleep(30)
        assert told(kube, "first")["status"] == "True"
        kube.put(a_cache("second"))
        await asyncio.sleep(5)
        assert job_of(kube, "second") is not None


async def test_where_every_node_refuses_it_a_cache_stays_with_one_and_says_so(kube: FakeKube) -> None:
    kube.put({**NODE, "metadata": {**NODE["metadata"], "name": "n2"}})
    async with operator(kube):
        kube.put(a_cache("first", placement={"nodes": 1}))
        await asyncio.sleep(5)
        job = job_of(kube, "first")
        over = {"state": "Failed", "reason": "OverBudget", "message": "too large", "bytesTotal": 1000}
        ends(kube, job, "warmer", over, well=False)
        assert job is not None
        kube.store.pop(("Pod", "team", f"{job['metadata']['name']}-x"))
        await asyncio.sleep(10)
        at_rest = len(kube.writes)
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert kube.writes[at_rest:] == [], "its warmer went from node to node for ever"
        assert told(kube, "first")["reason"] == "OverBudget"
        assert "OverBudget" in [event["reason"] for event in kube.events]

        body = copy.deepcopy(kube.store["Node", "", other_than(job_of(kube, "first"))])
        body["metadata"]["annotations"] = {ANNOTATION_BUDGET: "2000"}
        kube.put(body)
        await asyncio.sleep(20)
        job = job_of(kube, "first")
        assert job is not None
        assert job["metadata"]["annotations"]["preheat.dev/node"] == body["metadata"]["name"], (
            "there is room there"
        )
        assert not job["spec"].get("suspend")


async def test_a_cache_whose_source_is_not_there_does_not_keep_others_waiting_for_ever() -> None:
    """Nobody knows how much it would take, so it gets all that is left each time that it is tried."""
    kube = Dated()
    kube.put(NODE)
    async with operator(kube):
        kube.put(a_cache("good"))
        await asyncio.sleep(5)
        warmed(kube, "good")
        await asyncio.sleep(20)
        kube.put(a_cache("typo"))
        await asyncio.sleep(5)
        kube.put({**NODE, "metadata": {**NODE["metadata"], "name": "n2"}})
        for _ in range(70):
            await asyncio.sleep(10)
            for job in [b for k, b in kube.store.items() if k[0] == "Job" and k[2].startswith("typo")]:
                if not job["spec"].get("suspend") and not (job.get("status") or {}).get("conditions"):
                    ends(
                        kube,
                        job,
                        "warmer",
                        {"state": "Failed", "reason": "NotFound", "message": "404"},
                        well=False,
                    )
        (good,) = [
            b
            for k, b in kube.store.items()
            if k[2].startswith("good")
            and b["metadata"].get("annotations", {}).get("preheat.dev/node") == "n2"
        ]
        assert not good["spec"].get("suspend"), "it waits for the size of what is not there"


class Dated(FakeKube):
    """Objects know when they were made."""

    @override
    def _save(self, key: Any, body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"].setdefault("creationTimestamp", now().isoformat() if self.watcher else None)
        return super()._save(key, body)


def other_than(job: dict[str, Any] | None) -> str:
    """Name the node that a Job is not for."""
    assert job is not None
    return "n1" if job["metadata"]["annotations"]["preheat.dev/node"] == "n2" else "n2"


async def test_nobody_else_can_play_the_keeper(kube: FakeKube) -> None:
    """Anybody may give a Job in his own namespace a keeper's marks, and a pod that says what he likes."""
    async with operator(kube, OperatorConfig()):
        kube.put(a_cache("weights"))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(20)
        key = kube.store["ModelCache", "team", "weights"]["status"]["key"]
        marks = {"app.kubernetes.io/managed-by": "preheat", "preheat.dev/component": "keeper"}
        notes = {"preheat.dev/node": "n1", "preheat.dev/removes": key, "preheat.dev/verifies": key}
        for name in ("preheat-keeper-n1", "a"):
            job = kube.put(
                {
                    "kind": "Job",
                    "metadata": {"name": name, "namespace": "evil", "labels": marks, "annotations": notes},
                    "spec": {"template": {"metadata": {"labels": marks, "annotations": notes}}},
                }
            )
            ends(kube, job, "keeper", {"state": "Kept", "corrupt": {key: "so they say"}})
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert labels(kube) == {"weights": "ready"}
        assert told(kube, "weights")["status"] == "True"


async def test_a_cache_that_is_made_again_finds_its_size_out(kube: FakeKube) -> None:
    async with operator(kube):
        kube.put(a_cache("weights"))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(20)
        gone = kube.store["ModelCache", "team", "weights"]
        for key in [key for key in kube.store if key[0] in {"Job", "Pod"}]:
            kube.remove(*key)
        kube.put({**gone, "status": {"key": gone["status"]["key"]}})
        await asyncio.sleep(20)
        warmed(kube, "weights", size=120)
        await asyncio.sleep(20)
        assert kube.store["ModelCache", "team", "weights"]["status"]["totalBytes"] == 120
        assert labels(kube) == {"weights": "ready"}


@pytest.mark.parametrize("after", range(1, 9))
async def test_a_crash_while_room_is_made_ends_in_the_same_state(kube: FakeKube, after: int) -> None:
    async with operator(kube):
        kube.put(a_cache("first"))
        await asyncio.sleep(5)
        warmed(kube, "first")
        await asyncio.sleep(20)
    second = a_cache("second")
    second["status"] = {"totalBytes": 100}
    kube.put(second)
    kube.crash_after = len(kube.writes) + after
    with contextlib.suppress(Crash):
        async with operator(kube):
            await asyncio.sleep(40)
    kube.crash_after = None
    async with operator(kube):
        await asyncio.sleep(30)
        if labels(kube).get("first") == "leaving":
            kept(kube)
        await asyncio.sleep(30)
        warmed(kube, "second")
        await asyncio.sleep(30)
        assert labels(kube) == {"second": "ready"}


async def test_a_cache_that_is_heard_of_after_its_label_keeps_its_weights(kube: FakeKube) -> None:
    """An operator that was stopped for a while hears of the label that another set, and not yet of the cache."""
    async with operator(kube, OperatorConfig()):
        tell, kube.watcher = kube.watcher, None
        kube.put(a_cache("weights"))
        kube.watcher = tell
        node = copy.deepcopy(kube.store["Node", "", "n1"])
        key = cache_key(parse(ModelCache, kube.store["ModelCache", "team", "weights"]))
        node["metadata"]["labels"][f"cache.preheat.dev/{key}"] = "ready"
        kube.put(node)
        await asyncio.sleep(20)
        assert labels(kube) == {"weights": "ready"}
        keeper = keeper_of(kube)
        assert keeper is not None, "what lies there without a word of its warmer is verified"
        assert keeper["metadata"]["annotations"]["preheat.dev/removes"] == ""


async def test_without_a_full_list_nothing_is_taken_away(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operator(kube, OperatorConfig()):
        kube.put(a_cache("weights"))
        await asyncio.sleep(5)
        warmed(kube, "weights")
        await asyncio.sleep(20)
        plain = kube.list_all

        async def busy(kind: str) -> Any:
            raise Unavailable(f"503 {kind}: the API server is busy")

        monkeypatch.setattr(kube, "list_all", busy)
        for gone in [key for key in kube.store if key[0] in {"ModelCache", "Job", "Pod"}]:
            kube.remove(*gone)
        await asyncio.sleep(20)
        assert labels(kube) == {"gone": "ready"}
        monkeypatch.setattr(kube, "list_all", plain)
        await asyncio.sleep(60)
        assert labels(kube) == {"gone": "leaving"}
