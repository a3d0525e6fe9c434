"""Metrics of rollouts, ways back and healing: what is counted when, and that nothing is left of what is gone."""

from dataclasses import replace

import pytest
from preheat.controller.telemetry import Metrics
from preheat.controller.turns import MOST_STEPS
from preheat.decide.observed import AgentReport, AgentState, HealingReport, PodView
from preheat.decide.plan import Milestone, Plan

from tests.builders import a_pod, a_service

SERVICE = a_service()
WHERE = (SERVICE.namespace, SERVICE.name)
LABELS = {"namespace": SERVICE.namespace, "name": SERVICE.name}
ROLLOUT = {
    "strategy": "Auto", "reason": "r", "step": "Loading", "message": "m", "fromRevision": "a", "toRevision": "b",
    "oldReplicas": 2, "updatedReplicas": 3, "readyUpdatedReplicas": 1, "startedAt": "2026-01-01T00:00:00Z",
}  # fmt: skip
REST = Plan((), {}, (), 1.0)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def shown(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"preheat_{name}", {**LABELS, **labels})


def ill(steps: int, name: str = "p") -> PodView:
    healing = HealingReport(10, steps, 5, waits=True)
    report = AgentReport(AgentState.HEALING, "CanaryFailed", "no Paris", 0, 0, None, healing=healing)
    return a_pod(name, report=report)


def test_a_rollout_has_numbers_while_it_is_under_way(metrics: Metrics) -> None:
    names = ("old_replicas", "updated_replicas", "ready_updated_replicas", "start_timestamp_seconds")
    metrics.turns.show(SERVICE, [], replace(REST, status={"rollout": ROLLOUT}))
    assert shown(metrics, "rollout_in_progress") == 1
    assert [shown(metrics, f"rollout_{name}") for name in names] == [2, 3, 1, 1767225600]
    metrics.turns.show(SERVICE, [], REST)
    assert shown(metrics, "rollout_in_progress") == 0
    assert [shown(metrics, f"rollout_{name}") for name in names] == [None] * 4


def test_what_is_wanted_instead_of_the_spec_is_shown(metrics: Metrics) -> None:
    metrics.turns.show(SERVICE, [], REST)
    assert shown(metrics, "rolled_back") == 0
    told = {"type": "RolledBack", "observedGeneration": 1, "lastTransitionTime": "t", "reason": "LoadFailed", "message": "m"}  # fmt: skip
    metrics.turns.show(SERVICE, [], replace(REST, status={"conditions": [{**told, "status": "True"}]}))
    assert shown(metrics, "rolled_back") == 1
    metrics.turns.show(SERVICE, [], replace(REST, status={"conditions": [{**told, "status": "False"}]}))
    assert shown(metrics, "rolled_back") == 0


def test_milestones_are_counted_by_reason(metrics: Metrics) -> None:
    begun, done = (Milestone.ROLLOUT_STARTED, ""), (Milestone.ROLLOUT_COMPLETED, "")
    metrics.turns.count(WHERE, replace(REST, milestones=(begun, (Milestone.ROLLED_BACK, "LoadFailed"))))
    metrics.turns.count(WHERE, replace(REST, milestones=(begun, done)))
    metrics.turns.count(WHERE, REST)
    assert shown(metrics, "rollouts_started_total") == 2
    assert shown(metrics, "rollouts_completed_total") == 1
    assert shown(metrics, "rollbacks_total", reason="LoadFailed") == 1


def steps(metrics: Metrics) -> list[float]:
    return [shown(metrics, "healing_steps_total", step=str(step)) or 0.0 for step in range(1, MOST_STEPS + 2)]


def test_each_step_of_healing_is_counted_once(metrics: Metrics) -> None:
    for pods, want in (
        ([a_pod("p", ready=True)], [0, 0, 0]),
        ([ill(0)], [0, 0, 0]),
        ([ill(1)], [1, 0, 0]),
        ([ill(1)], [1, 0, 0]),
        ([a_pod("p")], [1, 0, 0]),  # its agent is silent for a moment
        ([ill(3)], [1, 1, 1]),
        ([a_pod("p", ready=True)], [1, 1, 1]),
        ([ill(1)], [2, 1, 1]),  # well in between
        ([ill(1, "q")], [2, 1, 1]),  # what was taken before it was seen
        ([ill(2, "q")], [2, 2, 1]),
        ([ill(1, "q")], [3, 2, 1]),  # well and ill again between two looks
    ):
        metrics.turns.show(SERVICE, pods, REST)
        assert steps(metrics)[:3] == want
        assert shown(metrics, "healing_replicas") == sum(pod.report is not None for pod in pods)


def test_steps_of_a_replica_that_was_silent_when_this_process_began_are_not_counted_again(
    metrics: Metrics,
) -> None:
    for pods, want in (
        ([a_pod("p")], [0, 0, 0]),
        ([ill(2)], [0, 0, 0]),
        ([a_pod("p")], [0, 0, 0]),
        ([ill(3)], [0, 0, 1]),
    ):
        metrics.turns.show(SERVICE, pods, REST)
        assert steps(metrics)[:3] == want


def test_an_agent_that_says_nonsense_makes_no_series_without_end(metrics: Metrics) -> None:
    metrics.turns.show(SERVICE, [ill(0)], REST)
    metrics.turns.show(SERVICE, [ill(10**12)], REST)
    metrics.turns.show(SERVICE, [ill(10**13)], REST)
    assert steps(metrics) == [1.0] * MOST_STEPS + [0.0]


def test_nothing_is_left_of_what_is_gone_and_others_stay(metrics: Metrics) -> None:
    other = a_service("other")
    for service in (SERVICE, other):
        metrics.turns.show(service, [ill(0)], replace(REST, status={"rollout": ROLLOUT}))
        metrics.turns.show(service, [ill(1)], replace(REST, status={"rollout": ROLLOUT}))
        metrics.turns.count((service.namespace, service.name), replace(
            REST, milestones=tuple((milestone, "LoadFailed") for milestone in Milestone)))  # fmt: skip
    before = series(metrics)
    assert {name for name, of in before if of == SERVICE.name} == {
        name for name, of in before if of == "other"
    }
    metrics.turns.forget(WHERE)
    assert series(metrics) == {(name, of) for name, of in before if of == "other"}
    metrics.turns.forget(WHERE)


def series(metrics: Metrics) -> set[tuple[str, str]]:
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {(sample.name, sample.labels["name"]) for sample in samples if "name" in sample.labels}
