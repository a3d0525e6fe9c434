"""What pods tell against their revision, and what is nobody's fault."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.conditions import Reason
from preheat.decide.judgement.pods import Patience, decisive_fault
from preheat.decide.observed import AgentReport, AgentState, HealingReport, PodView

from tests.builders import a_pod

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE = Patience(start=100.0, progress=1000.0)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def says(state: AgentState, reason: str = "", load_failures: int = 0) -> AgentReport:
    return AgentReport(
        state, reason or state.value, "in its own words", 1, 2, None, load_failures=load_failures
    )


def heals(state: AgentState, reason: str, steps: int) -> AgentReport:
    return replace(says(state, reason), healing=HealingReport(60.0, steps, 5, waits=False))


def refused(times: int) -> AgentReport:
    return says(AgentState.FAILED, "LoadFailed", times)


def reason(*pods: PodView, lost: frozenset[str] = frozenset()) -> Reason | None:
    found = decisive_fault(pods, lost, PATIENCE, NOW)
    return found.reason if found else None


WAITS = {"waiting_message": "not found", "phase": "Pending", "scheduled_at": ago(101)}
FAULTS: dict[str, tuple[dict[str, Any], Reason]] = {
    "load refused three times": ({"report": refused(3)}, Reason.LOAD_FAILED),
    "refused, and at it again": ({"report": says(AgentState.LOADING, "Loading", 3)}, Reason.LOAD_FAILED),
    "three stalls": ({"report": says(AgentState.STALLED, "LoadStalled"), "restarts": 2, "last_exit": "137"}, Reason.LOAD_STALLED),
    "engine ends": ({"restarts": 3, "last_exit": "exit code 1"}, Reason.ENGINE_CRASHING),
    "engine ends, Ready between": ({"restarts": 3, "last_exit": "exit code 1", "ready": True}, Reason.ENGINE_CRASHING),
    "a container of the user's": ({"crashing": "container x restarted 5 times"}, Reason.CONTAINER_CRASHING),
    "no answer for good": ({"report": says(AgentState.FAILED, "CanaryFailed")}, Reason.CANARY_FAILED),
    "no answer, whatever its agent killed": ({"report": heals(AgentState.FAILED, "CanaryFailed", 5), "restarts": 3, "last_exit": "exit code 137"}, Reason.CANARY_FAILED),
    "engine ends, its agent's kills besides": ({"report": heals(AgentState.HEALING, "Healing", 4), "restarts": 5, "last_exit": "exit code 1"}, Reason.ENGINE_CRASHING),
    "no such image": ({"waiting_reason": "ImagePullBackOff", **WAITS}, Reason.IMAGE_UNAVAILABLE),
    "an image that came for an hour, and does not for another": ({"waiting_reason": "ImagePullBackOff", **WAITS, "troubled_seconds": 3600.0, "well_seconds": 3600.0}, Reason.IMAGE_UNAVAILABLE),
    "a configuration that is none": ({"waiting_reason": "CreateContainerConfigError", **WAITS}, Reason.POD_NOT_STARTING),
    "a Secret that is missing": ({"waiting_reason": "CreateContainerConfigError", **WAITS, "waiting_message": 'secret "x" not found'}, Reason.REFERENCE_MISSING),
    "its port never opens": ({"unready_since": ago(1001), "report": says(AgentState.WAITING_FOR_ENGINE)}, Reason.PROGRESS_DEADLINE),
    "it never answers": ({"unready_since": ago(1001), "report": says(AgentState.PROBING)}, Reason.PROGRESS_DEADLINE),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_it_cannot_serve(name: str) -> None:
    fields, want = FAULTS[name]
    assert reason(a_pod(**fields)) is want


NO_FAULTS: dict[str, dict[str, Any]] = {
    "serves": {"ready": True},
    "served after two crashes": {"ready": True, "restarts": 2, "last_exit": "exit code 1"},
    "refused twice": {"report": refused(2)},
    "one stall": {"report": says(AgentState.STALLED, "LoadStalled")},
    "ended twice": {"restarts": 2, "last_exit": "exit code 1"},
    "loads, ten times as long as usual": {"unready_since": ago(100_000), "report": says(AgentState.LOADING)},
    "heals": {"unready_since": ago(100_000), "report": says(AgentState.HEALING)},
    "is killed three times to heal": {"report": heals(AgentState.HEALING, "Healing", 5), "restarts": 3, "last_exit": "exit code 137"},
    "its agent cannot be reached": {"unready_since": ago(100_000)},
    "weights of its node are not whole": {"report": says(AgentState.FAILED, "WeightsIncomplete")},
    "pulls a large image": {"phase": "Pending", "starting": True, "scheduled_at": ago(100_000)},
    "an image that came for an hour, and broke off": {"waiting_reason": "ErrImagePull", **WAITS, "scheduled_at": ago(3601), "troubled_seconds": 1.0, "well_seconds": 3600.0},
    "an image that came for an hour, and does not for half of one": {"waiting_reason": "ErrImagePull", **WAITS, "scheduled_at": ago(5400), "troubled_seconds": 1800.0, "well_seconds": 3600.0},
    "an image that failed once": {"waiting_reason": "ErrImagePull", **WAITS, "scheduled_at": ago(20)},
    "no GPU is free": {"scheduled": False, "node": None, "unschedulable": "0/1 nodes: 1 Insufficient nvidia.com/gpu.", "created": ago(100_000)},
    "its node sets up no sandbox": {"complaint": "Failed to create pod sandbox", "scheduled_at": ago(100_000)},
    "was evicted": {"phase": "Failed", "restarts": 9, "last_exit": "exit code 137"},
}  # fmt: skip


@pytest.mark.parametrize("name", NO_FAULTS)
def test_it_may_still_serve(name: str) -> None:
    assert reason(a_pod(**NO_FAULTS[name])) is None


def test_one_pod_on_a_bad_node_says_nothing_while_another_serves_or_loads() -> None:
    bad = a_pod("bad", node="bad", report=refused(9))
    assert reason(bad) is Reason.LOAD_FAILED
    assert reason(bad, a_pod("good", ready=True)) is None
    assert reason(bad, a_pod("slow", report=says(AgentState.LOADING))) is None
    assert reason(bad, a_pod("waits", scheduled=False, node=None)) is Reason.LOAD_FAILED


def test_several_replicas_need_fewer_attempts_each() -> None:
    assert reason(a_pod("p", report=refused(1)), a_pod("q", node="n2", report=refused(1))) is None
    assert (
        reason(a_pod("p", report=refused(2)), a_pod("q", node="n2", report=refused(1))) is Reason.LOAD_FAILED
    )


def test_what_a_lost_node_says_counts_for_nothing() -> None:
    assert reason(a_pod(report=refused(9), node="n1"), lost=frozenset({"n1"})) is None


def test_patience_grows_with_what_loads_take() -> None:
    slow = Patience(start=7200.0, progress=72_000.0)
    waits = a_pod(waiting_reason="ImagePullBackOff", **{**WAITS, "scheduled_at": ago(3600)})
    assert decisive_fault([waits], frozenset(), slow, NOW) is None
    idle = a_pod(unready_since=ago(36_000), report=says(AgentState.WAITING_FOR_ENGINE))
    assert decisive_fault([idle], frozenset(), slow, NOW) is None
