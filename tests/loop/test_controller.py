"""The whole controller over a cluster in memory: converges, rests, survives every crash and every refusal."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

from tests.fakes import Crash, FakeKube, FakeSidecars

pytestmark = pytest.mark.looptime
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


def a_controller(kube: FakeKube) -> Controller:
    made = Controller(
        cast("Kube", kube),
        cast("Sidecars", FakeSidecars()),
        OperatorConfig(),
        Metrics(),
        Probe(lambda: 0.0),
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )
    kube.watcher = made.saw
    return made


@asynccontextmanager
async def controller(kube: FakeKube) -> AsyncIterator[Controller]:
    made = a_controller(kube)
    await made.start()
    try:
        yield made
    finally:
        kube.watcher = None
        await made.stop()


@pytest.fixture
def kube() -> FakeKube:
    made = FakeKube()
    made.put(NODE)
    made.put(example())
    return made


def kinds(kube: FakeKube) -> list[str]:
    return sorted(key[0] for key in kube.store if key[0] not in {"Node", "LLMDeployment"})


EXPECTED = [
    "ConfigMap", "ControllerRevision", "Deployment", "Job", "ModelCache", "NetworkPolicy", "PersistentVolume",
    "PersistentVolume", "PersistentVolume", "PersistentVolumeClaim", "PersistentVolumeClaim",
    "PersistentVolumeClaim", "PodDisruptionBudget", "Service", "ServiceAccount",
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


async def test_a_deletion_that_no_watch_told_is_found_at_the_next_list(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(30)
        before = kube.state()
        del kube.store["Service", "preheat-demo", "smollm2"]
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert kube.state() == before


async def test_events_tell_each_transition_once(kube: FakeKube) -> None:
    async with controller(kube):
        await asyncio.sleep(3 * RESYNC_SECONDS)
    told = [(event["regarding"]["kind"], event["reason"]) for event in kube.events]
    assert len(told) == len(set(told))
    assert ("LLMDeployment", "WeightsFetching") in told


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


@pytest.mark.parametrize("write", range(1, 18))
async def test_killed_after_any_write_the_next_one_ends_in_the_same_state(write: int) -> None:
    undisturbed, kube = FakeKube(), FakeKube()
    for cluster in (undisturbed, kube):
        cluster.put(NODE)
        cluster.put(example())
    async with controller(undisturbed):
        await asyncio.sleep(60)
    kube.crash_after = write
    made = a_controller(kube)
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
    await made.start()
    await asyncio.wait_for(crashed.wait(), 60)
    await made.stop()
    kube.crash_after = None
    async with controller(kube):
        await asyncio.sleep(60)
    assert kube.state() == undisturbed.state()
