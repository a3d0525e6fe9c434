"""The whole controller where models do not answer: who is granted a step, what is told, and nothing is written at rest."""

import asyncio

import pytest
from preheat.decide.observed import AgentReport, AgentState, HealingReport

from tests.fakes import FakeKube, FakeSidecars
from tests.loop.test_controller import NODE, example
from tests.loop.test_scaling import controller, run_pods, status

pytestmark = pytest.mark.looptime


def ill(steps: int = 0, *, waits: bool = True) -> AgentReport:
    healing = HealingReport(10, steps, 5, waits=waits)
    return AgentReport(AgentState.HEALING, "CanaryFailed", "no Paris", 0, 0, None, healing=healing)


def conditions(kube: FakeKube) -> dict[str, str]:
    return {c["type"]: c["message"] for c in status(kube)["conditions"]}


async def test_of_replicas_that_fall_ill_together_one_is_granted_a_step_and_the_others_are_told_no() -> None:
    kube, sidecars = FakeKube(), FakeSidecars()
    kube.put({**NODE, "status": {**NODE["status"], "allocatable": {"nvidia.com/gpu": "8"}}})
    kube.put(example(replicas=3))
    async with controller(kube, sidecars) as made:
        await asyncio.sleep(1)
        run_pods(kube, 3, ready=False)
        sidecars.reports = {f"10.0.0.{number}": ill() for number in range(3)}
        await asyncio.sleep(5)
        assert {advise.ip: advise.grant for advise in sidecars.advice} == {
            "10.0.0.0": 1, "10.0.0.1": None, "10.0.0.2": None,
        }  # fmt: skip
        assert "3 of 3 replicas" in conditions(kube)["HealingRationed"]
        writes = len(kube.writes)
        sidecars.reports["10.0.0.0"] = ill(steps=1, waits=False)
        await asyncio.sleep(60)
        assert len(kube.writes) <= writes + 1, kube.writes[writes:]
        where = {"namespace": "preheat-demo", "name": "smollm2"}
        shown = made.metrics.registry.get_sample_value
        assert shown("preheat_healing_replicas", where) == 3
        assert shown("preheat_healing_steps_total", {**where, "step": "1"}) == 1
        assert shown("preheat_healing_steps_total", {**where, "step": "2"}) is None
        sidecars.advice.clear()
        await asyncio.sleep(5)
        assert sidecars.advice, "silence would mean that the operator is away"
        assert {advise.grant for advise in sidecars.advice} == {None}
        run_pods(kube, 3)
        sidecars.reports.clear()
        await asyncio.sleep(5)
        assert "HealingRationed" not in conditions(kube)
