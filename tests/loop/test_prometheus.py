"""The whole controller with a Prometheus beside it: asked where agents are silent, once for the past, and else not at all."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from preheat.controller.service import Controller
from preheat.controller.telemetry import Metrics, Probe
from preheat.decide.observed import Reading
from preheat.decide.scaling import Known
from preheat.decide.scraped import Scrapes
from preheat.decide.signals import Scrape
from preheat.errors import Unavailable

from tests.fakes import FakeKube, FakeSidecars
from tests.loop.test_controller import CONFIG, NODE, example, running
from tests.loop.test_scaling import MEMORY, NOW, clock, deployment, run_pods, status, tell

pytestmark = pytest.mark.looptime


class FakePrometheus:
    """Has scraped every pod every 15 s, as long as it is up; each is asked ``slots`` requests at once, of 4 seconds."""

    def __init__(self) -> None:
        self.slots = 0.0
        self.up = True
        self.days = 0
        self.asked = {"recent": 0, "past": 0}
        self.pause_seconds = 0.0

    async def recent(self, namespace: str, name: str, pods: Mapping[str, str]) -> Scrapes | None:
        assert (namespace, name) == ("preheat-demo", "smollm2")
        self.asked["recent"] += 1
        if not self.up:
            await asyncio.sleep(2)
            return None
        now = asyncio.get_running_loop().time()
        times = [at for at in range(0, int(now) + 1, 15) if at > now - 60]
        return {
            uid: [
                Scrape(
                    NOW.timestamp() + at,
                    Reading("a", 1, at * self.slots / 4, at * self.slots / 4, 0, None, 0, at * self.slots),
                )
                for at in times
            ]
            for uid in pods.values()
        }

    async def past(self, namespace: str, name: str, now: float) -> tuple[Known, ...]:
        self.asked["past"] += 1
        if not self.up:
            raise Unavailable("it is down")
        last = now // 600 * 600
        ends = [last - 600 * back for back in reversed(range(self.days * 144))]
        return tuple(Known(end, 600.0, 300.0, 2.0, 0.0, 4.0, 0) for end in ends)

    async def close(self) -> None:
        return None


@pytest.fixture
def kube() -> FakeKube:
    made = FakeKube()
    made.put({**NODE, "status": {**NODE["status"], "allocatable": {"nvidia.com/gpu": "8"}}})
    made.put(example(replicas=2, scaling={"mode": "Predictive", "maxReplicas": 6, "targetConcurrency": 4}))
    return made


def controller(
    kube: FakeKube, sidecars: FakeSidecars, prometheus: FakePrometheus
) -> AbstractAsyncContextManager[Controller]:
    probe = Probe(lambda: 0.0)
    made = Controller(
        kube, sidecars, CONFIG, Metrics(), probe, clock, prometheus  # type: ignore[arg-type]
    )  # fmt: skip
    kube.watcher = made.saw
    return running(kube, made)


def active(kube: FakeKube) -> dict[str, Any]:
    (found,) = [c for c in status(kube)["conditions"] if c["type"] == "ScalingActive"]
    return dict(found)


def shown(made: Controller, name: str) -> float | None:
    return made.metrics.registry.get_sample_value(name, {"namespace": "preheat-demo", "name": "smollm2"})


async def test_where_agents_are_silent_prometheus_decides_and_it_is_told(kube: FakeKube) -> None:
    prometheus, sidecars = FakePrometheus(), FakeSidecars()
    async with controller(kube, sidecars, prometheus) as made:
        await asyncio.sleep(5)
        run_pods(kube, 2)
        prometheus.slots = 7
        await asyncio.sleep(300)
        assert deployment(kube)["spec"]["replicas"] > 2
        assert (active(kube)["status"], active(kube)["reason"]) == ("True", "SignalsScraped")
        assert shown(made, "preheat_scaling_scraped") == 1
        assert shown(made, "preheat_scaling_in_service") == pytest.approx(14, rel=0.2)
        assert prometheus.asked["recent"] <= 300 / 15 + 2, "once for a window"
        for _ in range(8):
            tell(sidecars, 2, running=7)
            await asyncio.sleep(15)
        asked = prometheus.asked["recent"]
        for _ in range(8):
            tell(sidecars, 2, running=7)
            await asyncio.sleep(15)
        assert prometheus.asked["recent"] == asked, "agents tell again, and nobody else is asked"
        assert active(kube)["reason"] == "Deciding"
        assert shown(made, "preheat_scaling_scraped") == 0


async def test_one_that_is_down_changes_nothing(kube: FakeKube) -> None:
    prometheus, sidecars = FakePrometheus(), FakeSidecars()
    prometheus.up = False
    async with controller(kube, sidecars, prometheus):
        await asyncio.sleep(5)
        run_pods(kube, 2)
        await asyncio.sleep(100)
        assert deployment(kube)["spec"]["replicas"] == 2
        assert (active(kube)["status"], active(kube)["reason"]) == ("False", "SignalsMissing")
        assert prometheus.asked["past"] == 5, "then it is given up"


async def test_what_it_knows_of_the_past_is_learnt_once_kept_and_told(kube: FakeKube) -> None:
    prometheus, sidecars = FakePrometheus(), FakeSidecars()
    prometheus.days = 3
    async with controller(kube, sidecars, prometheus):
        await asyncio.sleep(5)
        assert "432 of the last week's 1008" in status(kube)["scaling"]["learnt"]
        assert MEMORY in kube.store
        run_pods(kube, 2)
        for _ in range(60):
            tell(sidecars, 2, running=7)
            await asyncio.sleep(15)
        assert prometheus.asked == {"recent": prometheus.asked["recent"], "past": 1}
        assert "432 of" in status(kube)["scaling"]["learnt"], "it stays told when other things are"
        assert len(status(kube)["scaling"]["decisions"]) > 0


@pytest.mark.parametrize(("mode", "asks"), [("External", 0), ("Reactive", 0), ("Predictive", 1)])
async def test_only_who_looks_ahead_wants_the_past(kube: FakeKube, mode: str, asks: int) -> None:
    bounds = {} if mode == "External" else {"maxReplicas": 6}
    kube.put(example(replicas=2, scaling={"mode": mode, **bounds}))
    prometheus = FakePrometheus()
    async with controller(kube, FakeSidecars(), prometheus):
        await asyncio.sleep(5)
        if mode == "External":
            run_pods(kube, 2)
        await asyncio.sleep(100)
        assert prometheus.asked == {"recent": 0, "past": asks}
