"""What comes at the wrong moment: between a look and the write after it, or in another order than it happened."""

import asyncio
import copy
from typing import Any

import pytest
from preheat.errors import Unavailable

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, controller, example, kinds, ready

pytestmark = pytest.mark.looptime
LOOKS_AGAIN_SECONDS = 20.0
SERVICE = ("LLMDeployment", "preheat-demo", "smollm2")


def a_cache(name: str) -> dict[str, Any]:
    source = {"uri": f"http://store/{name}/", "format": "GGUF"}
    return {"apiVersion": "preheat.dev/v1alpha1", "kind": "ModelCache",
            "metadata": {"name": name, "namespace": "preheat-demo"},
            "spec": {"source": source, "placement": {"nodes": 1}}}  # fmt: skip


async def test_a_change_that_comes_with_the_answer_to_a_status_is_not_lost(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer holds the new spec, so the watch that tells of it brings nothing newer."""
    plain, raced = kube.apply_status, []

    async def racing(kind: str, *rest: Any) -> Any:
        if kind == "LLMDeployment" and not raced:
            raced.append(kind)
            body = copy.deepcopy(kube.store[SERVICE])
            body["spec"]["replicas"] = 2
            kube.put(body)
        return await plain(kind, *rest)

    async with controller(kube):
        await asyncio.sleep(30)
        monkeypatch.setattr(kube, "apply_status", racing)
        body = copy.deepcopy(kube.store[SERVICE])
        body["spec"]["rollout"] = {"revisionHistoryLimit": 3}
        kube.put(body)
        await asyncio.sleep(5)
        assert raced
        assert [body["spec"]["replicas"] for key, body in kube.store.items() if key[0] == "Deployment"] == [2]


async def test_a_stranger_that_has_the_name_of_a_claim_is_seen_to_go(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger has not our label: no watch tells of it, and nothing of it may be remembered."""
    async with controller(kube):
        await asyncio.sleep(10)
    claim = next(key for key in kube.store if key[0] == "PersistentVolumeClaim" and key[2].endswith("serve"))
    for key in [key for key in kube.store if key[0] != "Node"]:
        del kube.store[key]
    kube.put(example())
    stranger = {"name": claim[2], "namespace": claim[1], "uid": "stranger", "resourceVersion": "5"}
    kube.store[claim] = {"apiVersion": "v1", "kind": claim[0], "metadata": stranger, "spec": {}}
    plain = kube.list_all

    async def without_strangers(kind: str) -> list[dict[str, Any]]:
        return [body for body in await plain(kind) if body["metadata"].get("uid") != "stranger"]

    monkeypatch.setattr(kube, "list_all", without_strangers)
    async with controller(kube):
        await asyncio.sleep(40)
        assert ready(kube)["reason"] == "WeightsFetching"
        (cache,) = (body for key, body in kube.store.items() if key[0] == "ModelCache")
        assert cache["status"]["conditions"][0]["reason"] == "NameTaken"
        del kube.store[claim]
        await asyncio.sleep(LOOKS_AGAIN_SECONDS)
        assert "Job" in kinds(kube)


async def test_an_object_that_goes_before_it_was_told_of_gets_no_children_again(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(1.0)
        assert not kube.store[SERVICE].get("status")
        del kube.store[SERVICE]
        done = len(kube.writes)
        for key in [key for key in kube.store if "ownerReferences" in kube.store[key]["metadata"]]:
            kube.remove(*key)
        await asyncio.sleep(1.5)
        assert not [write for write in kube.writes[done:] if write.startswith(("apply", "create"))]


async def test_a_child_that_another_scaled_for_a_newer_spec_is_not_put_back(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that was stopped for a while hears of the child that the other one scaled, and not yet why."""
    plain, asked_for = kube.apply, []

    async def note(manifest: dict[str, Any]) -> Any:
        if manifest["kind"] == "Deployment":
            asked_for.append(manifest["spec"]["replicas"])
        return await plain(manifest)

    async with controller(kube):
        await asyncio.sleep(30)
        (key,) = (key for key in kube.store if key[0] == "Deployment")
        tell, kube.watcher = kube.watcher, None
        changed = copy.deepcopy(kube.store[SERVICE])
        changed["spec"]["replicas"] = 3
        kube.put(changed)
        kube.watcher = tell
        monkeypatch.setattr(kube, "apply", note)
        scaled = copy.deepcopy(kube.store[key])
        scaled["spec"]["replicas"] = 3
        kube.put(scaled)
        await asyncio.sleep(5)
        assert kube.store[key]["spec"]["replicas"] == 3
        assert set(asked_for) <= {3}
        assert kube.store[SERVICE]["status"]["observedGeneration"] == 2


async def test_a_cache_is_not_told_to_be_unused_before_its_next_deployment_is_heard_of(
    kube: FakeKube,
) -> None:
    """As one revision's replicas go, another's have come: of that one no watch has told yet."""
    async with controller(kube):
        await asyncio.sleep(30)
        (key,) = (key for key in kube.store if key[0] == "Deployment")
        (cache,) = (key for key in kube.store if key[0] == "ModelCache")
        assert kube.store[cache]["status"]["inUse"] is True
        tell, kube.watcher = kube.watcher, None
        other = copy.deepcopy(kube.store[key])
        other["metadata"] |= {"name": "smollm2-next", "uid": "next", "ownerReferences": []}
        kube.put(other)
        kube.watcher = tell
        gone = copy.deepcopy(kube.store[SERVICE])
        gone["spec"]["replicas"] = 0
        kube.put(gone)
        await asyncio.sleep(5)
        assert kube.store[key]["spec"]["replicas"] == 0
        assert kube.store[cache]["status"]["inUse"] is True
        assert "lastUsedTime" not in kube.store[cache]["status"]


async def test_warmers_of_a_cache_that_was_deleted_without_them_are_made_anew(kube: FakeKube) -> None:
    """The operator may not patch Jobs, and need not: a warmer goes on where the one before it was."""
    kube.put(a_cache("weights"))
    async with controller(kube):
        await asyncio.sleep(10)
    (key,) = (key for key in kube.store if key[0] == "Job" and "weights" in key[2])
    metadata = kube.store[key]["metadata"]
    del metadata["ownerReferences"]
    metadata["managedFields"] = [{"manager": "preheat", "operation": "Update"}]
    del kube.store["ModelCache", "preheat-demo", "weights"]
    again = a_cache("weights")
    again["metadata"]["uid"] = "again"
    kube.put(again)
    kube.refuses["adopt Job"] = Unavailable("403 cannot patch jobs")
    async with controller(kube):
        await asyncio.sleep(10)
        (owner,) = kube.store[key]["metadata"]["ownerReferences"]
        assert owner["uid"] == "again"


async def test_what_several_make_together_is_tried_by_one_and_waited_for_by_the_others(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow refusal is waited for once, not once by each after the other."""
    for number in range(30):
        kube.put(a_cache(f"c{number}"))
    loop, told, plain = asyncio.get_running_loop(), {}, kube.apply_status

    async def refuse(_manifest: dict[str, Any]) -> None:
        await asyncio.sleep(10)
        raise Unavailable("failed calling webhook: deadline exceeded")

    async def note(kind: str, namespace: str, name: str, *rest: Any) -> Any:
        told.setdefault(name, loop.time())
        return await plain(kind, namespace, name, *rest)

    monkeypatch.setattr(kube, "create", refuse)
    monkeypatch.setattr(kube, "apply_status", note)
    started = loop.time()
    async with controller(kube):
        await asyncio.sleep(60)
    assert sum(name.startswith("c") for name in told) == 30
    assert max(told.values()) - started < 60


async def test_a_job_of_another_namespace_labels_no_node(kube: FakeKube) -> None:
    """Who knows the uid of a cache elsewhere cannot have a node labelled for it."""
    kube.put({**NODE, "metadata": {"name": "n2", "labels": {}}})
    victim = a_cache("weights")
    victim["metadata"]["uid"] = "known"
    kube.put(victim)
    async with controller(kube):
        await asyncio.sleep(5)
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "q", "uid": "known", "controller": True}
        forged = {"name": "x", "namespace": "attacker", "labels": {"app.kubernetes.io/managed-by": "preheat"},
                  "annotations": {"preheat.dev/node": "n2"}, "ownerReferences": [owner]}  # fmt: skip
        done = {"conditions": [{"type": "Complete", "status": "True"}]}
        kube.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": forged, "spec": {}, "status": done})
        await asyncio.sleep(5)
        assert kube.store["Node", "", "n2"]["metadata"]["labels"] == {}


async def test_of_hundreds_of_new_objects_each_is_told_of_in_its_turn(kube: FakeKube) -> None:
    loop, told = asyncio.get_running_loop(), {}
    plain = kube.apply_status

    async def note(kind: str, namespace: str, name: str, *rest: Any) -> Any:
        if kind == "LLMDeployment":
            told.setdefault(name, loop.time())
        return await plain(kind, namespace, name, *rest)

    kube.apply_status = note  # type: ignore[method-assign]
    async with controller(kube):
        started = loop.time()
        for number in range(99):
            body = example()
            body["metadata"]["name"] = f"m-{number}"
            kube.put(body)
        await asyncio.sleep(60)
        late = example()
        late["metadata"]["name"] = "late"
        kube.put(late)
        await asyncio.sleep(5)
    times = sorted(told.values())
    assert times[49] - started < 5, "few need no turn"
    assert 48 < times[99] - started < 56
    assert told["late"] - started < 63


@pytest.mark.parametrize(
    ("since", "reason"),
    [("2026-01-01T00:00:00Z", "WeightsFetching"), ("2025-12-31T23:59:50Z", "ChildRefused")],
    ids=["just now", "for a while"],
)
async def test_a_child_that_is_being_deleted_is_told_when_it_takes_longer_than_a_moment(
    kube: FakeKube, since: str, reason: str
) -> None:
    """In a namespace that is being deleted, children may go before their owner: that is no news."""
    async with controller(kube):
        await asyncio.sleep(10)
        claim = next(
            key for key in kube.store if key[0] == "PersistentVolumeClaim" and key[2].endswith("serve")
        )
        leaving = copy.deepcopy(kube.store[claim])
        leaving["metadata"]["deletionTimestamp"] = since
        kube.put(leaving)
        await asyncio.sleep(10)
        (cache,) = (body for key, body in kube.store.items() if key[0] == "ModelCache")
        ready_now = next(c for c in cache["status"]["conditions"] if c["type"] == "Ready")
        assert ready_now["reason"] == reason
