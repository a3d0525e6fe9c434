"""The whole controller where it decides the number of replicas: asks, decides, keeps, and costs nothing elsewhere."""

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.controller.service import Controller
from preheat.decide.autoscale import KEEP_SECONDS
from preheat.decide.observed import Reading

from tests.fakes import FakeKube, FakeSidecars
from tests.loop.test_controller import CONFIG, NODE, a_controller, example, running

pytestmark = pytest.mark.looptime
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVICE = ("LLMDeployment", "preheat-demo", "smollm2")
MEMORY = ("ControllerRevision", "preheat-demo", "smollm2-scaler")


def clock() -> datetime:
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


def controller(kube: FakeKube, sidecars: FakeSidecars) -> AbstractAsyncContextManager[Controller]:
    return running(kube, a_controller(kube, CONFIG, clock, sidecars))


@pytest.fixture
def kube() -> FakeKube:
    made = FakeKube()
    made.put({**NODE, "status": {**NODE["status"], "allocatable": {"nvidia.com/gpu": "8"}}})
    made.put(example(replicas=2, scaling={"mode": "Predictive", "maxReplicas": 6, "targetConcurrency": 4}))
    return made


def deployment(kube: FakeKube) -> dict[str, Any]:
    (found,) = [body for key, body in kube.store.items() if key[0] == "Deployment"]
    return found


def status(kube: FakeKube) -> dict[str, Any]:
    found: dict[str, Any] = kube.store[SERVICE]["status"]
    return found


def run_pods(kube: FakeKube, count: int, *, ready: bool = True) -> None:
    """Make pods of the Deployment, as its controller and kubelets would."""
    body = deployment(kube)
    for number in range(count):
        kube.put({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": f"p{number}", "namespace": "preheat-demo",
                "labels": body["spec"]["template"]["metadata"]["labels"],
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"kind": "ReplicaSet", "name": f"{body['metadata']['name']}-abc",
                                     "uid": "rs", "controller": True}],
            },
            "spec": {"nodeName": "n1"},
            "status": {
                "phase": "Running", "podIP": f"10.0.0.{number}",
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"},
                    {"type": "Ready", "status": "True" if ready else "False",
                     "lastTransitionTime": "2026-01-01T00:00:20Z"},
                ],
            },
        })  # fmt: skip


def tell(sidecars: FakeSidecars, pods: int, running: float, waiting: float = 0) -> None:
    """Have each of so many agents tell this much, from now on."""
    seconds = asyncio.get_running_loop().time()
    for number in range(pods):
        sidecars.told[f"10.0.0.{number}"] = Reading(
            "a", 1.0, seconds, seconds, 0, running, waiting, seconds * running
        )


async def test_what_is_asked_decides_the_number_of_replicas(kube: FakeKube) -> None:
    sidecars = FakeSidecars()
    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        assert deployment(kube)["spec"]["replicas"] == 2
        run_pods(kube, 2)
        for _ in range(12):
            tell(sidecars, 2, running=4, waiting=40)
            await asyncio.sleep(15)
        assert deployment(kube)["spec"]["replicas"] > 2
        told = status(kube)["scaling"]
        assert told["wantedReplicas"] == deployment(kube)["spec"]["replicas"]
        assert told["decisions"][-1]["previousReplicas"] == 2
        events = [e["reason"] for e in kube.events if e["reason"].startswith("Scaling")]
        assert events == ["ScalingUp"] * len(told["decisions"])
        assert kube.store[SERVICE]["spec"]["replicas"] == 2, "the spec is the user's"


async def test_missing_signals_move_nothing_and_are_told(kube: FakeKube) -> None:
    sidecars = FakeSidecars()
    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        await asyncio.sleep(100)
        assert deployment(kube)["spec"]["replicas"] == 2
        (active,) = [c for c in status(kube)["conditions"] if c["type"] == "ScalingActive"]
        assert (active["status"], active["reason"]) == ("False", "SignalsMissing")
        for _ in range(3):
            tell(sidecars, 2, running=4)
            await asyncio.sleep(15)
        (active,) = [c for c in status(kube)["conditions"] if c["type"] == "ScalingActive"]
        assert active["status"] == "True"


async def test_a_replica_that_was_healed_does_not_come_back_with_all_that_it_ever_served(
    kube: FakeKube,
) -> None:
    sidecars = FakeSidecars()

    async def ask(times: int) -> None:
        for _ in range(times):
            tell(sidecars, 2, running=2)
            await asyncio.sleep(15)

    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        await ask(40)
        run_pods(kube, 2, ready=False)
        await ask(2)
        run_pods(kube, 2)
        await ask(8)
        assert deployment(kube)["spec"]["replicas"] == 2


async def test_a_restart_goes_on_where_it_was(kube: FakeKube) -> None:
    sidecars = FakeSidecars()
    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        for _ in range(12):
            tell(sidecars, 2, running=4, waiting=40)
            await asyncio.sleep(15)
    wanted, kept = deployment(kube)["spec"]["replicas"], kube.store[MEMORY]["metadata"]["annotations"]
    assert wanted > 2
    assert "preheat.dev/scaling-memory" in kept
    sidecars.told.clear()
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        assert deployment(kube)["spec"]["replicas"] == wanted


async def test_a_steady_load_writes_no_more_than_its_memory_now_and_then(kube: FakeKube) -> None:
    sidecars = FakeSidecars()
    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        for _ in range(480):
            tell(sidecars, 2, running=3)
            await asyncio.sleep(15)
        done, rounds = len(kube.writes), 240
        for _ in range(rounds):
            tell(sidecars, 2, running=3)
            await asyncio.sleep(15)
        written = kube.writes[done:]
        assert len(written) <= 2 * rounds * 15 / KEEP_SECONDS, written


async def test_in_mode_external_no_agent_of_a_ready_pod_is_asked(kube: FakeKube) -> None:
    kube.put(example(replicas=2))
    sidecars = FakeSidecars()
    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        await asyncio.sleep(200)
        assert sidecars.asked == []
        assert MEMORY not in kube.store


async def test_to_be_fewer_the_idlest_is_priced_before_the_deployment_shrinks(kube: FakeKube) -> None:
    sidecars = FakeSidecars()
    async with controller(kube, sidecars):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        tell(sidecars, 2, running=3, waiting=3)
        await asyncio.sleep(7)
        sidecars.told["10.0.0.1"] = Reading("a", 1.0, 90, 90, 0, 1, 0, 90)
        await asyncio.sleep(6)
        assert deployment(kube)["spec"]["replicas"] > 1
        body = kube.store[SERVICE]
        spec = {**body["spec"], "scaling": {**body["spec"]["scaling"], "maxReplicas": 1}}
        before = len(kube.writes)
        kube.put({**body, "spec": spec})
        await asyncio.sleep(1)
        made = kube.writes[before:]
        assert made.index("price Pod") < made.index("apply Deployment")
        costs = {
            key[2]: pod["metadata"].get("annotations", {}).get("controller.kubernetes.io/pod-deletion-cost")
            for key, pod in kube.store.items()
            if key[0] == "Pod"
        }
        assert costs == {"p0": None, "p1": "-1"}
        assert deployment(kube)["spec"]["replicas"] == 1
