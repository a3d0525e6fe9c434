"""The whole controller with a front: at zero clients are sent there, who comes wakes, who is ready ends it."""

import asyncio
import copy
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import pytest
from preheat.config import OperatorConfig
from preheat.controller.service import Controller
from preheat.decide.observed import FrontReport, Reading
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import InvalidSpec

from tests.fakes import FakeKube, FakeSidecars
from tests.loop.test_controller import NODE, a_controller, example, running
from tests.loop.test_scaling import deployment, run_pods, status

pytestmark = pytest.mark.looptime
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SLICE = ("EndpointSlice", "preheat-demo", "smollm2-front")
NAME = ("preheat-demo", "smollm2")
SCALING = {"mode": "Predictive", "maxReplicas": 4, "scaleToZero": True, "targetConcurrency": 4}


def clock() -> datetime:
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())


def controller(
    kube: FakeKube, sidecars: FakeSidecars, config: OperatorConfig | None = None
) -> AbstractAsyncContextManager[Controller]:
    return running(kube, a_controller(kube, config or OperatorConfig(), clock, sidecars))


def front_pod(
    kube: FakeKube, name: str, ip: str, *, ready: bool = True, namespace: str = "preheat-system"
) -> None:
    kube.put({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}",
                     "labels": {"app.kubernetes.io/managed-by": "preheat", "preheat.dev/component": "front"}},
        "spec": {}, "status": {"phase": "Running", "podIP": ip, "conditions": [
            {"type": "Ready", "status": "True" if ready else "False",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    })  # fmt: skip


@pytest.fixture
def kube() -> FakeKube:
    made = FakeKube()
    made.put({**NODE, "status": {**NODE["status"], "allocatable": {"nvidia.com/gpu": "8"}}})
    made.put(example(replicas=0, scaling=SCALING))
    front_pod(made, "f1", "10.9.0.1")
    front_pod(made, "f2", "10.9.0.2")
    return made


@pytest.fixture
def sidecars() -> FakeSidecars:
    made = FakeSidecars()
    said(made)
    return made


def said(sidecars: FakeSidecars, one: int = 0, two: int = 0, since: str = "a") -> None:
    """Have the two pods of the front tell so many arrivals."""
    for ip, count in (("10.9.0.1", one), ("10.9.0.2", two)):
        sidecars.arrivals[ip] = FrontReport(since + ip, {NAME: (count, 1.0)} if count else {})


def addresses(kube: FakeKube) -> list[str]:
    return [address for endpoint in kube.store[SLICE]["endpoints"] for address in endpoint["addresses"]]


def told(kube: FakeKube) -> tuple[str, str]:
    annotations = kube.store[SLICE]["metadata"]["annotations"]
    return annotations["preheat.dev/ready-at"], annotations["preheat.dev/wakes-in-seconds"]


def wanted(kube: FakeKube) -> int:
    found: int = deployment(kube)["spec"]["replicas"]
    return found


async def test_at_zero_clients_are_sent_to_the_front_and_nothing_more_is_written(
    kube: FakeKube, sidecars: FakeSidecars
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert wanted(kube) == 0
        assert addresses(kube) == ["10.9.0.1", "10.9.0.2"]
        ready_at, wakes_in = told(kube)
        assert ready_at == ""
        assert int(wakes_in) > 0
        done, asked = len(kube.writes), sidecars.fronts_asked
        await asyncio.sleep(2 * RESYNC_SECONDS)
        written = [write for write in kube.writes[done:] if write != "apply ControllerRevision"]
        assert written == [], "quiet writes nothing but the scaler's memory, every ten minutes"
        assert len(kube.writes) - done <= 1
        assert sidecars.fronts_asked - asked <= RESYNC_SECONDS + 1, (
            "once in two seconds, and once at both ends"
        )


async def test_who_comes_wakes_it_within_seconds_and_a_ready_replica_ends_it(
    kube: FakeKube, sidecars: FakeSidecars
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(67)
        said(sidecars, 0, 1)
        await asyncio.sleep(4)
        assert wanted(kube) == 1
        assert status(kube)["scaling"]["reason"] in {"Waking", "DemandRises"}
        run_pods(kube, 1, ready=False)
        await asyncio.sleep(5)
        assert addresses(kube) == ["10.9.0.1", "10.9.0.2"], "it loads: clients still are told when to come"
        assert datetime.fromisoformat(told(kube)[0]) > clock()
        run_pods(kube, 1)
        await asyncio.sleep(1)
        assert addresses(kube) == []
        assert told(kube) == ("", "")
        port = kube.store[SLICE]["ports"][0]["port"]
        for step in range(12):
            sidecars.told["10.0.0.0"] = Reading("a", 1.0, step, step, 0, 0, 0, step)
            await asyncio.sleep(15)
        assert wanted(kube) == 1
        assert kube.store[SLICE]["ports"][0]["port"] == port


async def test_the_last_replica_goes_and_clients_are_sent_to_the_front_again(
    kube: FakeKube, sidecars: FakeSidecars
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(67)
        said(sidecars, 1, 0)
        await asyncio.sleep(4)
        run_pods(kube, 1)
        for _ in range(240):
            sidecars.told["10.0.0.0"] = Reading("a", 1.0, 0, 0, 0, 0, 0, 0)
            await asyncio.sleep(15)
            if wanted(kube) == 0:
                break
        assert wanted(kube) == 0
        kube.remove("Pod", "preheat-demo", "p0")
        await asyncio.sleep(1)
        assert addresses(kube) == ["10.9.0.1", "10.9.0.2"]
        said(sidecars, 2, 0)
        await asyncio.sleep(4)
        assert wanted(kube) == 1, "and a second time"


@pytest.mark.parametrize("which", ["both", "one"])
async def test_a_front_that_is_away_changes_nothing_and_is_told(
    kube: FakeKube, sidecars: FakeSidecars, which: str
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        before, there = addresses(kube), wanted(kube)
        del sidecars.arrivals["10.9.0.1"]
        if which == "both":
            del sidecars.arrivals["10.9.0.2"]
        await asyncio.sleep(200)
        assert (addresses(kube), wanted(kube)) == (before, there)
        (active,) = [c for c in status(kube)["conditions"] if c["type"] == "ScalingActive"]
        assert (active["status"], active["reason"]) == ("False", "SignalsMissing")
        assert "the front" in active["message"]
        assert active["message"].endswith(": kubectl get pods -A -l preheat.dev/component=front"), (
            "nobody knows where it is"
        )
        if which == "one":
            sidecars.arrivals["10.9.0.2"] = FrontReport("a10.9.0.2", {NAME: (1, 1.0)})
            await asyncio.sleep(5)
            assert wanted(kube) == 1, "who is known to have come wakes, whoever else is silent"
            return
        said(sidecars)
        await asyncio.sleep(20)
        (active,) = [c for c in status(kube)["conditions"] if c["type"] == "ScalingActive"]
        assert active["status"] == "True"
        assert wanted(kube) == there


async def test_a_front_that_starts_anew_wakes_nobody_by_that(kube: FakeKube, sidecars: FakeSidecars) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        for ip in ("10.9.0.1", "10.9.0.2"):
            sidecars.arrivals[ip] = FrontReport("another", {NAME: (700, 3600.0)})
        await asyncio.sleep(60)
        assert wanted(kube) == 0


async def test_who_came_while_the_operator_was_away_wakes_when_it_is_back(
    kube: FakeKube, sidecars: FakeSidecars
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(67)
    said(sidecars, 3, 0)
    async with controller(kube, sidecars):
        await asyncio.sleep(10)
        assert wanted(kube) == 1


async def test_pods_of_the_front_that_come_and_go_are_followed(
    kube: FakeKube, sidecars: FakeSidecars
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        front_pod(kube, "f1", "10.9.0.1", ready=False)
        front_pod(kube, "f3", "10.9.0.3")
        front_pod(kube, "thief", "10.6.6.6", namespace="elsewhere")
        await asyncio.sleep(2)
        assert addresses(kube) == ["10.9.0.2", "10.9.0.3"], "only the operator's own namespace has a front"
        for name in ("f2", "f3"):
            kube.remove("Pod", "preheat-system", name)
        await asyncio.sleep(2)
        assert addresses(kube) == []


async def test_without_a_front_yet_the_slice_comes_with_its_first_pod(sidecars: FakeSidecars) -> None:
    kube = FakeKube()
    kube.put(NODE)
    kube.put(example(replicas=0, scaling=SCALING))
    async with controller(kube, sidecars):
        await asyncio.sleep(30)
        assert SLICE not in kube.store
        front_pod(kube, "f1", "10.9.0.1")
        await asyncio.sleep(2)
        assert addresses(kube) == ["10.9.0.1"]


async def test_many_at_once_have_each_a_port_of_their_own_and_keep_it(sidecars: FakeSidecars) -> None:
    kube = FakeKube()
    kube.put(NODE)
    front_pod(kube, "f1", "10.9.0.1")
    for number in range(40):
        body = example(replicas=0, scaling=SCALING)
        body["metadata"]["name"] = f"m{number}"
        kube.put(body)

    def ports() -> dict[str, int]:
        return {k[2]: body["ports"][0]["port"] for k, body in kube.store.items() if k[0] == "EndpointSlice"}

    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        before = ports()
        assert len(before) == len(set(before.values())) == 40
        twin = copy.deepcopy(kube.store["EndpointSlice", "preheat-demo", "m1-front"])
        twin["metadata"] |= {"name": "twin", "namespace": "elsewhere", "uid": "zzz", "ownerReferences": []}
        kube.put(twin)
        await asyncio.sleep(2)
        assert ports()["m1-front"] == before["m1-front"], "a younger one of a stranger moves nobody"
        older = copy.deepcopy(kube.store["EndpointSlice", "preheat-demo", "m2-front"])
        older["metadata"] |= {"name": "older", "namespace": "elsewhere", "uid": "aaa", "ownerReferences": []}
        older["metadata"]["labels"].pop("preheat.dev/llmdeployment")
        kube.put(older)
        service = kube.store["LLMDeployment", "preheat-demo", "m2"]
        kube.put({**service, "metadata": {**service["metadata"], "labels": {"looked": "at"}}})
        await asyncio.sleep(2)
        assert ports()["m2-front"] not in before.values(), "an older one has it at the front: ours moves"
        kube.remove("EndpointSlice", "elsewhere", "older")
        before["m2-front"] = ports()["m2-front"]
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        assert {name: port for name, port in ports().items() if name != "twin"} == before


@pytest.mark.parametrize("how", ["no longer scaled to zero", "taken over", "front switched off"])
async def test_where_nothing_may_sleep_any_more_its_slice_goes(
    kube: FakeKube, sidecars: FakeSidecars, how: str
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        assert SLICE in kube.store
    if how == "no longer scaled to zero":
        kube.put(example(replicas=0, scaling={**SCALING, "scaleToZero": False}))
    elif how == "taken over":
        kube.put(example(replicas=0))
    async with controller(kube, sidecars, OperatorConfig(front=how != "front switched off")):
        await asyncio.sleep(10)
        assert SLICE not in kube.store
        asked = sidecars.fronts_asked
        await asyncio.sleep(60)
        assert sidecars.fronts_asked == asked, "nobody is asked for nobody"


async def test_a_slice_that_somebody_changes_is_put_back(kube: FakeKube, sidecars: FakeSidecars) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(60)
        body = copy.deepcopy(kube.store[SLICE])
        body["endpoints"] = [{"addresses": ["10.6.6.6"]}]
        kube.put(body)
        await asyncio.sleep(2)
        assert addresses(kube) == ["10.9.0.1", "10.9.0.2"]
        kube.remove(*SLICE)
        await asyncio.sleep(2)
        assert addresses(kube) == ["10.9.0.1", "10.9.0.2"]


@pytest.mark.parametrize("what", ["the spec", "a Deployment"])
async def test_a_ready_replica_ends_it_whatever_is_refused_meanwhile(
    kube: FakeKube, sidecars: FakeSidecars, what: str
) -> None:
    async with controller(kube, sidecars):
        await asyncio.sleep(67)
        said(sidecars, 0, 1)
        await asyncio.sleep(4)
        run_pods(kube, 1, ready=False)
        await asyncio.sleep(5)
        assert addresses(kube) == ["10.9.0.1", "10.9.0.2"]
        if what == "the spec":
            kube.put(example(replicas=0, scaling=SCALING, health={"canary": {"expect": "(unclosed"}}))
        else:
            kube.refuses["apply Deployment"] = InvalidSpec("422 a policy says no")
            kube.put(example(replicas=0, scaling=SCALING, health={"stallSeconds": 900}))
        await asyncio.sleep(5)
        run_pods(kube, 1)
        await asyncio.sleep(5)
        (ready,) = [c for c in status(kube)["conditions"] if c["type"] == "Ready"]
        assert ready["reason"] == ("InvalidSpec" if what == "the spec" else "ChildRefused")
        assert addresses(kube) == [], "who is ready is asked"
