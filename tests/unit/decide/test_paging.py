"""Weights into memory ahead of a load: on which nodes, when, and what is told where it cannot be done."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from preheat.api.constants import COMPONENT_PAGER
from preheat.api.llmdeployment import LLMDeployment, ScalingMode, ScalingStatus
from preheat.decide.autoscale import ScalingObservation
from preheat.decide.capacity import GPUUse, memory_held
from preheat.decide.observed import (
    AgentReport,
    AgentState,
    JobState,
    JobView,
    NodeView,
    PodView,
    Puller,
    WarmerReport,
)
from preheat.decide.plan import PAGES, Apply, Delete, Plan, part_of
from preheat.decide.refusals import without_pagers
from preheat.decide.scaling import Memory
from preheat.decide.wish import ServiceObservation
from preheat.errors import InvalidSpec
from preheat.resources import names
from preheat.resources.caching import cache_key
from preheat.resources.paging import memory_of

from tests.builders import a_node, a_service
from tests.unit.decide.rollout.test_wiring import NOW, cache_of, decide, pod, rev, scene, stored, view

GIB = 2**30
SIZE = 16 * GIB
AHEAD = {"pageCache": "Ahead"}


def a_user(replicas: int = 1, conditions: tuple[Any, ...] = (), **spec: Any) -> LLMDeployment:
    """A service whose status tells of its cache."""
    made = a_service(replicas=replicas, cache=AHEAD, **spec)
    cache = {"name": cache_of(made).name, "readyNodes": 2, "desiredNodes": 2}
    return a_service(
        replicas=replicas, cache=AHEAD, status={"cache": cache, "conditions": list(conditions)}, **spec
    )


def seen_of(
    service: LLMDeployment,
    *pods: PodView,
    warm: tuple[str, ...] = ("n1",),
    memory: int | None = 64 * GIB,
    gpus: int = 1,
    asked: int = 0,
    **more: Any,
) -> ServiceObservation:
    """Two nodes, of which these hold the weights."""
    cache = cache_of(service, *warm)
    cache = cache.model_copy(update={"status": cache.status.model_copy(update={"total_bytes": SIZE})})
    nodes: list[NodeView] = [
        a_node(name, gpus=gpus, memory_bytes=memory, caches=frozenset({cache_key(cache)} if name in warm else ()))
        for name in ("n1", "n2")
    ]  # fmt: skip
    return ServiceObservation(
        nodes, [view(service, asked)], list(pods), [cache], [stored(service, 1)], **more
    )


def a_pager(
    service: LLMDeployment, node: str, state: JobState = JobState.ACTIVE, words: str = "", *, orphan: bool = False
) -> Puller:  # fmt: skip
    name = names.pager_name(service.name, rev(service), node)
    job = JobView(
        name, f"uid-{name}", node, state, None, deleting=False, created=NOW, component=COMPONENT_PAGER
    )
    report = WarmerReport("Failed", 0, 0, 0.0, None, "NoMemory", words) if words else None
    return Puller(job, None, report, orphan)


def made(plan: Plan) -> list[str]:
    return [
        write.manifest["metadata"]["annotations"]["preheat.dev/node"]
        for write in plan.writes
        if isinstance(write, Apply) and write.manifest["kind"] == "Job" and part_of(write) == PAGES
    ]


def deleted(plan: Plan) -> list[str]:
    return [write.name for write in plan.writes if isinstance(write, Delete) and write.kind == "Job"]


def told(plan: Plan) -> Any:
    assert plan.status is not None
    return next((c for c in plan.status["conditions"] if c["type"] == "PageCacheFilled"), None)


def test_a_replica_that_is_asked_for_has_its_weights_read_where_it_will_come() -> None:
    assert made(decide(a_user(), seen_of(a_user()))) == ["n1"]


def test_a_replica_that_has_a_node_has_them_read_there() -> None:
    service = a_user()
    starts = pod(service, "p", "n2", phase="Pending", starting=True)
    assert made(decide(service, seen_of(service, starts, warm=("n1", "n2"), asked=1))) == ["n2"]


def _report(state: AgentState, **more: Any) -> AgentReport:
    return AgentReport(state, "", "", 0, 0, None, **more)


BEFORE_ITS_LOAD = {
    "its engine starts": ({"report": _report(AgentState.WAITING_FOR_ENGINE), "begun": True}, True),
    "it loads": ({"report": _report(AgentState.LOADING), "begun": True}, False),
    "it is ready": ({"ready": True, "begun": True}, False),
    "its agent is silent": ({"begun": True}, False),
    "its engine ended": ({"begun": True, "restarts": 1}, False),
    "it is healed": ({"report": _report(AgentState.WAITING_FOR_ENGINE, heals=1), "begun": True}, False),
    "its engine starts again": (
        {"report": _report(AgentState.WAITING_FOR_ENGINE, engine_starts=2), "begun": True}, False),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE_ITS_LOAD)
def test_only_before_the_load_it_helps(case: str) -> None:
    fields, expected = BEFORE_ITS_LOAD[case]
    service = a_user()
    seen = seen_of(service, pod(service, "p", "n1", **fields), asked=1)
    assert bool(made(decide(service, seen))) is expected


def test_at_rest_and_at_zero_nothing_is_read() -> None:
    one, none = a_user(), a_user(replicas=0)
    assert made(decide(one, seen_of(one, pod(one, "p", "n1", ready=True), warm=("n1", "n2"), asked=1))) == []
    assert made(decide(none, seen_of(none, warm=("n1", "n2")))) == []


def test_who_does_not_ask_gets_none() -> None:
    cache = {"name": cache_of(a_service()).name, "readyNodes": 1, "desiredNodes": 1}
    service = a_service(status={"cache": cache})
    assert made(decide(service, seen_of(service))) == []


WHERE_NOT = {
    "others hold its GPUs": {"uses": [GPUUse("n1", "default/other", 1)]},
    "the node does not say what memory it has": {"memory": None},
    "they do not fit beside the replica": {"memory": SIZE + GIB},
    "they do not fit beside what runs there": {"held": 47 * GIB},
    "no node has them": {"warm": ()},
}


@pytest.mark.parametrize("case", WHERE_NOT)
def test_where_it_cannot_help_or_would_push_others_out_nothing_is_read(case: str) -> None:
    given = dict(WHERE_NOT[case])
    held = {"n1": given.pop("held", 0)}
    assert made(decide(a_user(), replace(seen_of(a_user(), **given), memory=held))) == []


def test_they_may_take_what_is_left_to_the_byte() -> None:
    """What the replica asks for counts too, once: it is among what runs there as soon as it has a node."""
    service = a_user()
    (job,) = [
        w
        for w in decide(service, seen_of(service)).writes
        if isinstance(w, Apply) and w.manifest["kind"] == "Deployment"
    ]
    replica = memory_held({"spec": job.manifest["spec"]["template"]["spec"]})[1]
    assert replica > 0
    left = 64 * GIB - SIZE
    for held, comes in ((left - replica, True), (left - replica + 1, False)):
        assert bool(made(decide(service, replace(seen_of(service), memory={"n1": held})))) is comes
    starts = pod(service, "p", "n1", starting=True)
    for held, comes in ((left, True), (left + 1, False)):
        seen = replace(seen_of(service, starts, asked=1), memory={"n1": held})
        assert bool(made(decide(service, seen))) is comes


def test_as_long_as_the_status_tells_of_no_cache_nobody_knows_which_weights() -> None:
    service = a_service(cache=AHEAD)
    assert made(decide(service, seen_of(service))) == []


def test_of_many_warm_nodes_as_many_as_replicas_are_missing_and_those_with_a_pager_stay() -> None:
    service = a_user()
    seen = seen_of(service, warm=("n1", "n2"))
    assert made(decide(service, seen)) == ["n1"]
    plan = decide(service, replace(seen, pagers=[a_pager(service, "n2")]))
    assert (made(plan), deleted(plan)) == ([], [])


def test_what_is_expected_within_a_load_time_is_read_for() -> None:
    service = a_user(scaling={"mode": "Predictive", "maxReplicas": 4})

    def with_a_forecast(replicas: int, *pods: PodView) -> ServiceObservation:
        decided = ScalingStatus(
            mode=ScalingMode.PREDICTIVE,
            wanted_replicas=replicas,
            forecast_replicas=2,
            reason="Steady",
            message="",
        )
        scaling = ScalingObservation(None, None, Memory(), decided)
        return seen_of(service, *pods, warm=("n1", "n2"), asked=replicas, scaling=scaling)

    assert made(decide(service, with_a_forecast(1, pod(service, "p", "n1", ready=True)))) == ["n2"]
    assert made(decide(service, with_a_forecast(2, pod(service, "p", "n1", ready=True)))) == ["n2"]


def test_a_rollout_has_them_read_on_one_node_that_it_takes_next() -> None:
    old, new = a_service(replicas=2), a_user(replicas=2, runtime={"options": {"n_ctx": "512"}})
    serving = (pod(old, "o1", "n1", ready=True), pod(old, "o2", "n2", ready=True))
    seen = scene(old, new, *serving, asked=(2, 0))
    (cache,) = seen.caches
    cache = cache.model_copy(update={"status": cache.status.model_copy(update={"total_bytes": SIZE})})
    nodes = [replace(node, memory_bytes=64 * GIB) for node in seen.nodes]
    plan = decide(new, replace(seen, caches=[cache], nodes=nodes))
    assert made(plan) == ["n1"]
    memory = {"n1": 50 * GIB, "n2": 50 * GIB}
    assert made(decide(new, replace(seen, caches=[cache], nodes=nodes, memory=memory))) == []


def test_a_pager_goes_when_its_load_is_over_and_is_not_made_twice_before() -> None:
    service = a_user()
    starts, serves = pod(service, "p", "n1", starting=True), pod(service, "p", "n1", ready=True)
    pager = a_pager(service, "n1", JobState.COMPLETE)
    under_way = decide(service, seen_of(service, starts, asked=1, pagers=[pager]))
    assert (made(under_way), deleted(under_way)) == ([], [])
    over = decide(service, seen_of(service, serves, asked=1, pagers=[pager]))
    assert (made(over), deleted(over)) == ([], [pager.job.name])


def test_pagers_of_another_revision_of_nobody_and_of_who_asks_no_more_go() -> None:
    service, other = a_user(), a_user(runtime={"options": {"n_ctx": "512"}})
    for pager in (a_pager(other, "n1"), a_pager(service, "n1", orphan=True)):
        assert deleted(decide(service, seen_of(service, pagers=[pager]))) == [pager.job.name]
    never = a_service()
    pager = a_pager(never, "n1")
    assert deleted(decide(never, seen_of(never, pagers=[pager]))) == [pager.job.name]


def test_a_pager_whose_load_is_expected_no_more_stays_a_while() -> None:
    """A forecast that wavers around a replica would have one made and deleted with each turn."""
    service = a_user()
    pager = a_pager(service, "n2")
    for seconds, gone in ((0, []), (599, []), (600, [pager.job.name])):
        plan = decide(service, seen_of(service, pagers=[pager]), NOW + timedelta(seconds=seconds))
        assert deleted(plan) == gone


def test_memory_that_is_short_is_told_once_and_not_tried_again() -> None:
    service = a_user()
    pager = a_pager(service, "n1", JobState.FAILED, "9 bytes are missing, and 5 available")
    seen = seen_of(service, pagers=[pager])
    plan = decide(service, seen)
    assert (made(plan), deleted(plan)) == ([], [])
    assert (told(plan)["status"], told(plan)["reason"]) == ("False", "PageCacheNotFilled")
    assert "on n1: 9 bytes are missing, and 5 available. Nobody waits" in told(plan)["message"]
    assert [e.reason for e in plan.events].count("PageCacheNotFilled") == 1
    assert not any(e.warning for e in plan.events if e.reason == "PageCacheNotFilled")
    later = decide(a_user(conditions=(told(plan),)), seen)
    assert (made(later), told(later)) == ([], told(plan))
    assert "PageCacheNotFilled" not in [e.reason for e in later.events]
    over = decide(a_user(conditions=(told(plan),)), replace(seen, pods=[pod(service, "p", "n1", ready=True)]))
    assert told(over) is None


def test_a_pager_that_is_not_let_in_is_told_and_not_tried_again_for_this_load() -> None:
    service = a_user()
    seen = seen_of(service)
    plan = without_pagers(service, decide(service, seen), InvalidSpec("exceeded quota: jobs"), NOW)
    assert (told(plan)["status"], told(plan)["reason"]) == ("Unknown", "PageCacheNotFilled")
    assert "on any node: exceeded quota: jobs. Nobody waits" in told(plan)["message"]
    again = decide(a_user(conditions=(told(plan),)), seen)
    assert (made(again), told(again)) == ([], told(plan))
    serves = replace(seen, pods=[pod(service, "p", "n1", ready=True)])
    assert told(decide(a_user(conditions=(told(plan),)), serves)) is None


def test_a_pager_may_use_as_much_memory_as_the_weights_take_and_asks_for_none() -> None:
    (job,) = [
        w.manifest for w in decide(a_user(), seen_of(a_user())).writes
        if isinstance(w, Apply) and w.manifest["kind"] == "Job"
    ]  # fmt: skip
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "0", "memory": "0"},
        "limits": {"memory": str(memory_of(SIZE))},
    }
    assert SIZE + 128 * 2**20 < memory_of(SIZE) < 1.05 * SIZE


def test_what_a_pod_asks_for_is_read_off_its_requests_and_else_its_limits() -> None:
    containers = [
        {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "4Gi"}}},
        {"resources": {"limits": {"memory": "2Gi"}}},
        {"resources": {"requests": {"memory": "100m"}}},
        {},
    ]
    pod_of = {"spec": {"nodeName": "n1", "containers": containers}}
    assert memory_held(pod_of) == ("n1", 3 * GIB)
    assert memory_held({**pod_of, "status": {"phase": "Succeeded"}})[0] == ""
