"""What strangers do to our objects, over a cluster in memory: fights, leftovers, nonsense, a namespace that goes."""

import asyncio
import copy
import json
from typing import Any

import pytest
from preheat.cluster.kube import _translated
from preheat.controller import reconcile
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import GoingAway

from tests.fakes import FakeKube
from tests.loop.test_controller import controller, example, kinds, ready
from tests.loop.test_rollout import operator

pytestmark = pytest.mark.looptime
SERVICE = ("LLMDeployment", "preheat-demo", "smollm2")


def condition(kube: FakeKube, kind: str) -> dict[str, Any]:
    conditions = kube.store[SERVICE].get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == kind), {})


def the(kube: FakeKube, kind: str) -> dict[str, Any]:
    (key,) = [key for key in kube.store if key[0] == kind]
    return kube.store[key]


def change_back(kube: FakeKube) -> bool:
    """Do what an autoscaler of the child does; tell whether there was anything to do."""
    body = copy.deepcopy(the(kube, "Deployment"))
    if body["spec"]["replicas"] == 5:
        return False
    body["spec"]["replicas"] = 5
    body["metadata"]["managedFields"] = [{"manager": "hpa", "time": "2026-01-01T00:00:00Z"}]
    kube.put(body)
    return True


async def test_a_fight_over_a_child_is_bounded_told_and_over_when_it_is_over(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        done = len(kube.writes)
        for _ in range(36_000):
            change_back(kube)
            await asyncio.sleep(0.1)
        applied = [w for w in kube.writes[done:] if w == "apply Deployment"]
        assert 5 < len(applied) < 30, "an hour of fighting"
        assert len(kube.writes) - done < 80, "and few more to tell of it"
        told = condition(kube, "Contested")
        assert told["status"] == "True"
        assert "hpa changes spec.replicas of Deployment" in told["message"]
        assert ready(kube)["reason"] == "WeightsFetching", "what else there is to say is said as well"
        contests = [e for e in kube.events if e["reason"] == "Contested"]
        assert len(contests) == 1
        await asyncio.sleep(1200)
        assert the(kube, "Deployment")["spec"]["replicas"] == 1
        assert condition(kube, "Contested") == {}


async def test_a_person_who_scales_a_child_is_put_back_at_once(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        for _ in range(3):
            assert change_back(kube)
            await asyncio.sleep(1)
            assert the(kube, "Deployment")["spec"]["replicas"] == 1
        assert condition(kube, "Contested") == {}


def orphan(kube: FakeKube) -> None:
    """Delete the LLMDeployment as `kubectl delete --cascade=orphan` does."""
    uid = kube.store[SERVICE]["metadata"]["uid"]
    for key, body in list(kube.store.items()):
        owners = body["metadata"].get("ownerReferences", [])
        if any(owner["uid"] == uid for owner in owners):
            left = copy.deepcopy(body)
            left["metadata"]["ownerReferences"] = []
            left["metadata"]["managedFields"] = [{"manager": "preheat", "operation": "Apply"}]
            kube.put(left)
            assert kube.store[key]["metadata"]["ownerReferences"] == []
    kube.remove(*SERVICE)


@pytest.mark.parametrize(
    "changed", [{}, {"health": {"stallSeconds": 60}}], ids=["the same", "another revision"]
)
async def test_what_a_forced_deletion_left_is_taken_over_by_the_next_of_that_name(
    kube: FakeKube, changed: dict[str, Any]
) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = kube.state()
        orphan(kube)
        await asyncio.sleep(30)
        assert the(kube, "Deployment")["spec"]["replicas"] == 1, "left alone, as asked for"
        body = example(**changed)
        body["metadata"]["uid"] = "another"
        kube.put(body)
        await asyncio.sleep(60)
        left = [
            b
            for b in kube.store.values()
            if b["kind"] in {"Deployment", "ControllerRevision", "Service", "ModelCache"}
        ]
        assert all(b["metadata"]["ownerReferences"][0]["uid"] == "another" for b in left)
        if not changed:
            assert set(kube.state()) == set(before)
        assert ready(kube)["reason"] == "WeightsFetching"


async def test_a_cache_deleted_under_its_pods_comes_back_and_its_volumes_and_labels_stay(
    kube: FakeKube,
) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        cache = the(kube, "ModelCache")
        key = cache["status"]["key"]
        node = copy.deepcopy(kube.store["Node", "", "n1"])
        node["metadata"]["labels"][f"cache.preheat.dev/{key}"] = "ready"
        kube.put(node)
        await asyncio.sleep(5)
        volumes = {k for k in kube.store if k[0].startswith("PersistentVolume")}
        done = len(kube.writes)
        kube.remove("ModelCache", "preheat-demo", cache["metadata"]["name"])
        await asyncio.sleep(60)
        assert the(kube, "ModelCache")["metadata"]["name"] == cache["metadata"]["name"]
        assert volumes <= set(kube.store)
        assert f"cache.preheat.dev/{key}" in kube.store["Node", "", "n1"]["metadata"]["labels"]
        assert not [w for w in kube.writes[done:] if w.startswith(("delete PersistentVolume", "label"))]


async def test_nonsense_in_the_status_of_one_object_stops_no_other(kube: FakeKube) -> None:
    """Written by hand while another, looser definition was installed."""
    for number, status in enumerate(["text", ["list"], {"conditions": "x"}, {"conditions": ["x"]}, {"cache": "x"},
                                     {"key": ["x"]}, 7]):  # fmt: skip
        for kind in ("LLMDeployment", "ModelCache"):
            body = example() if kind == "LLMDeployment" else {"kind": kind, "spec": {"source": 1}}
            metadata = {"name": f"odd-{number}", "namespace": "preheat-demo"}
            kube.put({**body, "metadata": metadata, "status": status})
    async with controller(kube):
        await asyncio.sleep(30)
        assert ready(kube)["reason"] == "WeightsFetching"
        node = copy.deepcopy(kube.store["Node", "", "n1"])
        node["spec"] = {"unschedulable": True}
        kube.put(node)
        await asyncio.sleep(5)
        assert ready(kube)["reason"] == "NoMatchingNode", "news of a node still reach everybody"
        odd = [b for k, b in kube.store.items() if k[0] in {"LLMDeployment", "ModelCache"} and "odd-" in k[2]]
        assert all(b["status"]["conditions"] for b in odd)


async def test_a_status_written_by_hand_is_put_right_and_what_is_not_ours_goes(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = copy.deepcopy(kube.store[SERVICE]["status"])
        body = copy.deepcopy(kube.store[SERVICE])
        theirs = {"type": "Audited", "status": "True"}
        body["status"]["conditions"].append(theirs)
        body["status"]["loading"] = {"percent": 99}
        kube.keeps_foreign_status = True
        kube.put(body)
        await asyncio.sleep(5)
        after = kube.store[SERVICE]["status"]
        assert theirs in after["conditions"]
        assert {**after, "conditions": [c for c in after["conditions"] if c != theirs]} == before
        done = len(kube.writes)
        await asyncio.sleep(1000)
        assert kube.writes[done:] == []


POLICY = "ValidatingAdmissionPolicy 'team' with binding 'all' denied request: no owner"


@pytest.mark.parametrize(
    "words", ["metadata.name must be at most 40 characters", POLICY], ids=["schema", "policy"]
)
async def test_a_status_that_is_refused_leaves_an_event(
    kube: FakeKube, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.refuses["status LLMDeployment"] = refusal = _translated(
        422, "", json.dumps({"message": words}), "PATCH"
    )
    tries = []

    async def refused(*_: Any) -> None:
        tries.append(1)
        raise refusal

    monkeypatch.setattr(kube, "apply_status", refused)
    body = example()
    body["spec"]["hardware"] = "nonsense"
    kube.put(body)
    async with operator(kube) as made:
        for _ in range(100):
            await asyncio.sleep(10)
            made.loops.wake(SERVICE)
    assert {e["reason"] for e in kube.events if e["regarding"]["name"] == "smollm2"} == {"InvalidSpec"}
    assert len(kube.events) == 1, "woken a hundred times, refused and told once"
    assert len(tries) <= 1 + 1000 // RESYNC_SECONDS


async def test_a_status_that_was_refused_once_is_written_later(kube: FakeKube) -> None:
    """A policy of the cluster's refused it: that may be mended without a change to the object."""
    kube.refuses["status LLMDeployment"] = _translated(422, "", json.dumps({"message": POLICY}), "PATCH")
    body = example()
    body["spec"]["hardware"] = "nonsense"
    kube.put(body)
    async with operator(kube):
        await asyncio.sleep(60)
        assert "conditions" not in (kube.store[SERVICE].get("status") or {})
        del kube.refuses["status LLMDeployment"]
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert kube.store[SERVICE]["status"]["conditions"]


async def test_in_a_namespace_that_is_being_deleted_nothing_is_said_or_tried_again(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = copy.deepcopy(kube.store[SERVICE]["status"])
        for kind in ("Service", "Deployment", "ControllerRevision", "NetworkPolicy"):
            kube.refuses[f"apply {kind}"] = GoingAway("403 because it is being terminated")
            body = the(kube, kind)
            kube.remove(kind, body["metadata"]["namespace"], body["metadata"]["name"])
            await asyncio.sleep(1)
        await asyncio.sleep(200)
        assert kube.store[SERVICE]["status"] == before
    assert [r for r in caplog.records if r.levelname in {"WARNING", "ERROR"}] == []
    assert kinds(kube).count("Service") == 0


async def test_a_bug_is_a_condition_of_the_object_that_meets_it(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = reconcile.decide_service

    def fail(service: Any, *rest: Any) -> Any:
        if service.name == "smollm2":
            raise ZeroDivisionError("division by zero")
        return decide(service, *rest)

    monkeypatch.setattr(reconcile, "decide_service", fail)
    other = example()
    other["metadata"]["name"] = "other"
    kube.put(other)
    async with controller(kube):
        await asyncio.sleep(30)
        told = ready(kube)
        assert (told["status"], told["reason"]) == ("Unknown", "OperatorError")
        assert "ZeroDivisionError: division by zero" in told["message"]
        monkeypatch.setattr(reconcile, "decide_service", decide)
        await asyncio.sleep(61)
        assert ready(kube)["reason"] == "WeightsFetching"
        assert ("Service", "preheat-demo", "other") in kube.store
