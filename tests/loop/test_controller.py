"""The whole controller over a cluster in memory: converges, rests, survives every crash and every refusal."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from preheat.cluster.kube import Kube
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.service import Controller
from preheat.controller.telemetry import Metrics, Probe
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import InvalidSpec, Unavailable

from tests.fakes import Crash, FakeKube, FakeSidecars

pytestmark = pytest.mark.looptime
CONFIG = OperatorConfig()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WRITES = 14
"""From an empty cluster until it rests."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2.yaml"
NODE = {
    "kind": "Node",
    "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"nvidia.com/gpu": "2"},
    },
}


def example(**spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    body["spec"].update(spec)
    return body


def crash_of(made: Controller) -> asyncio.Event:
    """Return what is set once a controller has crashed: from then on it does nothing more."""
    crashed = asyncio.Event()
    reconcile = made.loops._reconcile

    async def dies(key: Any) -> float | None:
        if crashed.is_set():
            return 10_000.0
        try:
            return await reconcile(key)
        except Crash:
            crashed.set()
            return 10_000.0

    made.loops._reconcile = dies
    return crashed


def a_controller(
    kube: FakeKube,
    config: OperatorConfig = CONFIG,
    clock: Callable[[], datetime] = lambda: NOW,
    sidecars: FakeSidecars | None = None,
) -> Controller:
    made = Controller(
        cast("Kube", kube),
        cast("Sidecars", sidecars or FakeSidecars()),
        config,
        Metrics(),
        Probe(lambda: 0.0),
        clock=clock,
    )
    kube.watcher = made.saw
    return made


@asynccontextmanager
async def running(kube: FakeKube, made: Controller) -> AsyncIterator[Controller]:
    """Start a controller, and stop it in the end."""
    await made.start()
    try:
        yield made
    finally:
        kube.watcher = None
        await made.stop()


def controller(kube: FakeKube, config: OperatorConfig = CONFIG) -> AbstractAsyncContextManager[Controller]:
    return running(kube, a_controller(kube, config))


def kinds(kube: FakeKube) -> list[str]:
    return sorted(key[0] for key in kube.store if key[0] not in {"Node", "LLMDeployment"})


EXPECTED = [
    "ControllerRevision", "Deployment", "Job", "ModelCache", "NetworkPolicy", "PersistentVolume",
    "PersistentVolume", "PersistentVolume", "PersistentVolumeClaim", "PersistentVolumeClaim",
    "PersistentVolumeClaim", "Service",
]  # fmt: skip


def ready(kube: FakeKube) -> dict[str, Any]:
    service = kube.store["LLMDeployment", "preheat-demo", "smollm2"]
    found: dict[str, Any] = next(c for c in service["status"]["conditions"] if c["type"] == "Ready")
    return found


async def test_one_apply_makes_everything_and_then_it_rests(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        assert kinds(kube) == EXPECTED
        assert ready(kube)["reason"] == "WeightsFetching"
        done = len(kube.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert len(kube.writes) == done, f"at rest nothing is written: {kube.writes[done:]}"


async def test_a_restart_writes_nothing(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
    done, before = len(kube.writes), kube.state()
    async with controller(kube):
        await asyncio.sleep(2 * RESYNC_SECONDS)
    assert kube.state() == before
    assert kube.writes[done:] == []


async def test_a_child_deleted_by_hand_comes_back(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = kube.state()
        kube.remove("Service", "preheat-demo", "smollm2")
        await asyncio.sleep(1)
        assert kube.state() == before


async def test_a_volume_deleted_by_hand_comes_back_at_once(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = kube.state()
        kube.remove(*next(key for key in kube.store if key[0] == "PersistentVolume"))
        await asyncio.sleep(1)
        assert kube.state() == before


async def test_a_volume_of_a_stranger_is_not_used(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        (key,) = (k for k in kube.store if k[0] == "PersistentVolume" and k[2].endswith("-serve"))
    kube.store.clear()
    theirs = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": key[2]},
        "spec": {"nfs": {}},
    }
    for body in (NODE, example(), theirs):
        kube.put(body)
    async with controller(kube):
        await asyncio.sleep(30)
        assert kube.store[key]["spec"] == {"nfs": {}}
        cache = next(body for k, body in kube.store.items() if k[0] == "ModelCache")
        reasons = {c["type"]: c["reason"] for c in cache["status"]["conditions"]}
        assert reasons["Ready"] == "NameTaken"


async def test_a_deletion_that_no_watch_told_is_found_at_the_next_list(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = kube.state()
        del kube.store["Service", "preheat-demo", "smollm2"]
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert kube.state() == before


async def test_events_tell_each_transition_once(kube: FakeKube) -> None:
    kube.remove("Node", "", "n1")
    async with controller(kube):
        await asyncio.sleep(3 * RESYNC_SECONDS)
    told = [(event["regarding"]["kind"], event["reason"]) for event in kube.events]
    assert len(told) == len(set(told))
    assert ("LLMDeployment", "NoMatchingNode") in told


async def test_a_name_that_a_stranger_has_is_never_written_over() -> None:
    kube = FakeKube()
    kube.put(NODE)
    stranger = {
        "kind": "Service",
        "metadata": {"name": "smollm2", "namespace": "preheat-demo"},
        "spec": {"x": 1},
    }
    kube.put(stranger)
    before = copy.deepcopy(kube.store["Service", "preheat-demo", "smollm2"])
    kube.put(example())
    async with controller(kube):
        await asyncio.sleep(RESYNC_SECONDS)
    assert kube.store["Service", "preheat-demo", "smollm2"] == before
    assert ready(kube)["reason"] == "NameTaken"


async def test_a_spec_that_means_nothing_is_told_and_harms_nobody(kube: FakeKube) -> None:
    """As an object of another version of the CRD would be."""
    broken = example()
    broken["metadata"]["name"] = "broken"
    broken["spec"]["hardware"] = {"gpu": "many"}
    kube.put(broken)
    lost = {"kind": "ModelCache", "metadata": {"name": "lost", "namespace": "preheat-demo"},
            "spec": {"source": 7}, "status": {"key": "0123456789abcdef"}}  # fmt: skip
    kube.put(lost)
    marked = copy.deepcopy(NODE)
    marked["metadata"]["labels"]["cache.preheat.dev/0123456789abcdef"] = "ready"  # type: ignore[index]
    kube.put(marked)
    async with controller(kube):
        await asyncio.sleep(30)
        assert kinds(kube) == sorted([*EXPECTED, "ModelCache"])
        for kind, name in (("LLMDeployment", "broken"), ("ModelCache", "lost")):
            conditions = kube.store[kind, "preheat-demo", name]["status"]["conditions"]
            assert {c["reason"] for c in conditions if c["type"] in {"Ready", "Accepted"}} == {"InvalidSpec"}
        labels = kube.store["Node", "", "n1"]["metadata"]["labels"]
        assert "cache.preheat.dev/0123456789abcdef" in labels, "its weights are no leftovers"
        done = len(kube.writes)
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert len(kube.writes) == done


async def test_a_stranger_with_our_labels_is_not_counted(kube: FakeKube) -> None:
    labels = {"preheat.dev/llmdeployment": "smollm2", "preheat.dev/component": "engine",
              "app.kubernetes.io/managed-by": "preheat"}  # fmt: skip
    ready_pod = {
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]
    }
    for kind in ("Pod", "Deployment"):
        kube.put({"kind": kind, "metadata": {"name": "stranger", "namespace": "preheat-demo", "labels": labels},
                  "status": ready_pod})  # fmt: skip
    async with controller(kube):
        await asyncio.sleep(30)
        status = kube.store["LLMDeployment", "preheat-demo", "smollm2"]["status"]
        assert (status["replicas"], status["readyReplicas"]) == (0, 0)
        assert [child["name"] for child in status["children"]] == ["smollm2-e51a87d83c-l4"]


async def test_what_a_namesake_left_is_waited_for_and_not_taken_over(kube: FakeKube) -> None:
    """Deleted and applied again at once: the garbage collector has not come by yet."""
    left = {
        "kind": "Service",
        "metadata": {
            "name": "smollm2", "namespace": "preheat-demo",
            "ownerReferences": [{"kind": "LLMDeployment", "name": "smollm2", "uid": "old", "controller": True}],
        },
    }  # fmt: skip
    kube.put(left)
    async with controller(kube):
        await asyncio.sleep(20)
        assert ready(kube)["reason"] == "ChildRefused"
        assert "waiting until it is gone" in ready(kube)["message"]
        kube.remove("Service", "preheat-demo", "smollm2")
        await asyncio.sleep(90)
        assert kinds(kube) == EXPECTED


async def test_an_api_server_that_refuses_for_a_while_only_delays(kube: FakeKube) -> None:
    kube.fail_next = 5
    async with controller(kube):
        await asyncio.sleep(120)
    assert kinds(kube) == EXPECTED


@pytest.mark.parametrize("write", range(1, WRITES + 1))
async def test_killed_after_any_write_the_next_one_ends_in_the_same_state(write: int) -> None:
    undisturbed, kube = FakeKube(), FakeKube()
    for cluster in (undisturbed, kube):
        cluster.put(NODE)
        cluster.put(example())
    async with controller(undisturbed):
        await asyncio.sleep(60)
    kube.crash_after = write
    made = a_controller(kube)
    crashed = crash_of(made)
    await made.start()
    await asyncio.wait_for(crashed.wait(), 60)
    await made.stop()
    kube.crash_after = None
    async with controller(kube):
        await asyncio.sleep(60)
    assert kube.state() == undisturbed.state()


async def test_the_kill_test_kills_after_every_write_there_is(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(60)
    assert len(kube.writes) == WRITES


@pytest.mark.parametrize("write", range(WRITES))
async def test_refused_at_any_write_it_ends_in_the_same_state(kube: FakeKube, write: int) -> None:
    undisturbed = FakeKube()
    undisturbed.put(NODE)
    undisturbed.put(example())
    async with controller(undisturbed):
        await asyncio.sleep(60)
    kube.fail_after = write
    async with controller(kube):
        await asyncio.sleep(200)
        assert kube.state() == undisturbed.state()
        done = len(kube.writes)
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert len(kube.writes) == done


def warmed_up(kube: FakeKube) -> None:
    """The Job is done, as the Job controller would say."""
    (key,) = [key for key in kube.store if key[0] == "Job"]
    kube.put({**kube.store[key], "status": {"conditions": [done()]}})


def done(moment: datetime = NOW) -> dict[str, str]:
    """The condition of a Job that has ended well."""
    return {"type": "Complete", "status": "True", "lastTransitionTime": moment.isoformat()}


def served(kube: FakeKube) -> None:
    """A pod answers, as the Deployment controller and the kubelet would make it."""
    (key,) = [key for key in kube.store if key[0] == "Deployment"]
    labels = kube.store[key]["spec"]["template"]["metadata"]["labels"]
    owner = {"kind": "ReplicaSet", "name": f"{key[2]}-abc", "uid": "rs", "controller": True}
    conditions = [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]
    kube.put(
        {
            "kind": "Pod",
            "metadata": {"name": f"{key[2]}-abc-x", "namespace": key[1], "labels": labels, "ownerReferences": [owner]},
            "status": {"conditions": conditions, "podIP": "10.0.0.1", "phase": "Running"},
        }
    )  # fmt: skip


async def test_from_weights_to_serving_each_step_is_told_once(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(10)
        warmed_up(kube)
        await asyncio.sleep(10)
        labels = kube.store["Node", "", "n1"]["metadata"]["labels"]
        assert "ready" in labels.values()
        assert ready(kube)["reason"] == "PodsPending"
        served(kube)
        await asyncio.sleep(10)
        assert (ready(kube)["status"], ready(kube)["reason"]) == ("True", "Serving")
        done, told = len(kube.writes), list(kube.events)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert len(kube.writes) == done
        assert kube.events == told
    reasons = [e["reason"] for e in told if e["regarding"]["kind"] == "LLMDeployment"]
    assert reasons == ["Serving"], "what was expected is no news"
    assert len({e["metadata"]["name"] for e in told}) == len(told)


async def test_what_a_person_changes_in_a_child_is_set_right_and_what_is_theirs_is_left(
    kube: FakeKube,
) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        key = ("Service", "preheat-demo", "smollm2")
        body = copy.deepcopy(kube.store[key])
        selector = body["spec"]["selector"]
        body["spec"].update(selector={"app": "mine"}, sessionAffinity="ClientIP")
        kube.put(body)
        await asyncio.sleep(1)
        spec = kube.store[key]["spec"]
        assert selector.items() <= spec["selector"].items()
        assert spec["sessionAffinity"] == "ClientIP"


class AnotherSpelling(FakeKube):
    """Stores quantities as the API server does: in its own spelling."""

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] != "Deployment":
            return await super().apply(manifest)
        spelled = json.loads(json.dumps(manifest).replace('"500m"', '"0.5"').replace('"1Gi"', '"1024Mi"'))
        return await super().apply(spelled)


async def test_a_value_that_is_stored_in_another_spelling_is_not_written_for_ever() -> None:
    kube = AnotherSpelling()
    kube.put(NODE)
    kube.put(example())
    async with controller(kube):
        await asyncio.sleep(30)
        deployment = next(body for key, body in kube.store.items() if key[0] == "Deployment")
        assert '"0.5"' in json.dumps(deployment), "else this test says nothing"
        done = len(kube.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert len(kube.writes) == done


@pytest.mark.parametrize(
    ("error", "stalled"),
    [
        (InvalidSpec("PATCH: 422 spec.ports is wrong"), "True"),
        (Unavailable("PATCH: 403 exceeded quota"), "False"),
    ],
)
async def test_a_child_that_is_refused_is_told_in_the_api_servers_words(
    kube: FakeKube, error: Exception, stalled: str
) -> None:
    kube.refuses["apply Service"] = error
    async with controller(kube):
        await asyncio.sleep(30)
        assert ready(kube)["reason"] == "ChildRefused"
        assert str(error) in ready(kube)["message"]
        conditions = kube.store["LLMDeployment", "preheat-demo", "smollm2"]["status"]["conditions"]
        assert {c["type"]: c["status"] for c in conditions}["Stalled"] == stalled
        done = len(kube.events)
        await asyncio.sleep(RESYNC_SECONDS)
        assert len(kube.events) == done, "the same refusal is not told again"
        kube.refuses.clear()
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert kinds(kube) == EXPECTED
        assert ready(kube)["reason"] == "WeightsFetching"


async def test_an_event_that_cannot_be_posted_changes_nothing_else(kube: FakeKube) -> None:
    async def refused(_event: dict[str, Any]) -> None:
        raise Unavailable("403 no Events here")

    kube.create_event = refused  # type: ignore[method-assign]
    async with controller(kube):
        await asyncio.sleep(30)
        assert kinds(kube) == EXPECTED
        assert ready(kube)["reason"] == "WeightsFetching"


async def test_what_is_deleted_ends_its_loops_and_leaves_nothing_behind(kube: FakeKube) -> None:
    async with controller(kube) as made:
        await asyncio.sleep(10)
        warmed_up(kube)
        await asyncio.sleep(10)
        assert len(made.loops) == 4
        kube.remove("LLMDeployment", "preheat-demo", "smollm2")
        for key in [key for key, body in kube.store.items() if "ownerReferences" in body["metadata"]]:
            kube.remove(*key)
        await asyncio.sleep(2 * RESYNC_SECONDS)
        left = [key for key in kube.store if key[0] not in {"Node", "PersistentVolume"}]
        assert {key[1] for key in left} == {"preheat-system"}, "a keeper takes the weights off the disk"
        assert len(made.loops) == 2, "the loop over leftovers, and the node's"


@pytest.mark.parametrize("made_again", [False, True], ids=["gone", "made again"])
async def test_children_seen_gone_before_their_owner_are_not_made_again(
    kube: FakeKube, made_again: bool
) -> None:
    """Watches of different kinds have no common order."""
    async with controller(kube):
        await asyncio.sleep(10)
        warmed_up(kube)
        await asyncio.sleep(10)
        owner = kube.store.pop(("LLMDeployment", "preheat-demo", "smollm2"))
        if made_again:
            metadata = {**owner["metadata"], "uid": "another"}
            kube.store["LLMDeployment", "preheat-demo", "smollm2"] = {**owner, "metadata": metadata}
        done = len(kube.writes)
        owned = [
            k for k, b in kube.store.items() if "ownerReferences" in b["metadata"] and k[0] != "ModelCache"
        ]
        for key in owned:
            kube.remove(*key)
        await asyncio.sleep(2)
        assert not [w for w in kube.writes[done:] if w in {"apply Deployment", "apply ControllerRevision"}]


async def test_scaled_to_zero_keeps_the_weights(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(10)
        warmed_up(kube)
        await asyncio.sleep(5)
        kube.put(example(replicas=0))
        await asyncio.sleep(10)
        assert ready(kube)["reason"] == "ScaledToZero"
        # And the image beside them: a puller.
        assert kinds(kube) == sorted([*EXPECTED, "Job"])
        (deployment,) = [body for key, body in kube.store.items() if key[0] == "Deployment"]
        assert deployment["spec"]["replicas"] == 0


async def test_a_new_operator_version_restarts_no_model(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
    before, done = kube.state(), len(kube.writes)
    newer = OperatorConfig(agent_image="agent:next", llamacpp_image="engine:next")
    async with controller(kube, newer):
        await asyncio.sleep(2 * RESYNC_SECONDS)
    assert kube.state() == before
    assert kube.writes[done:] == []


async def test_a_revision_that_is_deleted_after_an_upgrade_restarts_no_model(kube: FakeKube) -> None:
    """It is made again of what its Deployment runs, and not of this operator's images."""
    async with controller(kube):
        await asyncio.sleep(30)
    (deployment,) = [key for key in kube.store if key[0] == "Deployment"]
    revision = ("ControllerRevision", *deployment[1:])
    runs, pinned = kube.store[deployment]["spec"]["template"], kube.store[revision]["data"]
    async with controller(kube, OperatorConfig(agent_image="agent:next", llamacpp_image="engine:next")):
        await asyncio.sleep(30)
        kube.remove(*revision)
        await asyncio.sleep(RESYNC_SECONDS)
        assert kube.store[deployment]["spec"]["template"] == runs
        assert kube.store[revision]["data"] == pinned


async def test_a_revision_without_its_label_gets_it_back_and_keeps_its_data(kube: FakeKube) -> None:
    """Nobody can change the data: what another operator would render is refused for ever."""
    async with controller(kube):
        await asyncio.sleep(30)
    (deployment,) = [key for key in kube.store if key[0] == "Deployment"]
    revision = ("ControllerRevision", *deployment[1:])
    body = kube.store[revision]
    del body["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    body["data"] = {**body["data"], "ofAnotherVersion": "more"}
    pinned, runs = body["data"], kube.store[deployment]["spec"]["template"]
    list_all = kube.list_all

    async def list_labelled(kind: str) -> list[dict[str, Any]]:
        """As the API server does it, by the label."""
        bodies = await list_all(kind)
        if kind != "ControllerRevision":
            return bodies
        return [b for b in bodies if "app.kubernetes.io/managed-by" in b["metadata"]["labels"]]

    kube.list_all = list_labelled  # type: ignore[method-assign]
    async with controller(kube, OperatorConfig(agent_image="agent:next", llamacpp_image="engine:next")):
        await asyncio.sleep(RESYNC_SECONDS)
    assert kube.store[revision]["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "preheat"
    assert kube.store[revision]["data"] == pinned
    assert kube.store[deployment]["spec"]["template"] == runs


async def test_a_write_that_is_refused_for_long_is_told_beside_ready(kube: FakeKube) -> None:
    """A blip is not told, and what is told once is told until it is over."""
    kube.put(example(replicas=0))
    async with controller(kube):
        await asyncio.sleep(60)
        assert ready(kube)["status"] == "True"
        done = len(kube.events)
        kube.refuses["apply ModelCache"] = Unavailable("403 a policy denied the request")
        kube.put(example(replicas=0, cache={"maxBytesPerSecond": 1_000_000, "warmNodes": 1}))
        cache = next(key for key in kube.store if key[0] == "ModelCache")
        kube.put({**kube.store[cache], "spec": {**kube.store[cache]["spec"], "maxBytesPerSecond": 5}})
        await asyncio.sleep(10)
        assert reconciling(kube) == ("False", "Settled")
        await asyncio.sleep(RESYNC_SECONDS)
        assert reconciling(kube) == ("True", "ChildRefused")
        assert ready(kube)["status"] == "True"
        told = [event["note"] for event in kube.events[done:] if event["reason"] == "ChildRefused"]
        assert told == ["403 a policy denied the request"]
        kube.refuses.clear()
        await asyncio.sleep(RESYNC_SECONDS)
        assert reconciling(kube) == ("False", "Settled")


def reconciling(kube: FakeKube) -> tuple[str, str]:
    conditions = kube.store["LLMDeployment", "preheat-demo", "smollm2"]["status"]["conditions"]
    return next((c["status"], c["reason"]) for c in conditions if c["type"] == "Reconciling")
