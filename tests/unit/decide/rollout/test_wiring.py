"""A rollout in a pass: from pods and nodes to writes, status, Events and words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.constants import ANNOTATION_SERVED
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.decide.capacity import GPUUse
from preheat.decide.observed import DeploymentView, NodeView, PodView
from preheat.decide.plan import Apply, Plan, PricePod
from preheat.decide.rollout.preview import Preview, Times, preview, times_of
from preheat.decide.serving import decide_service, rollout_ahead
from preheat.decide.wish import ServiceObservation
from preheat.resources import caching, names, serving
from preheat.resources.caching import cache_key

from tests.builders import a_cache, a_node, a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()
FULL = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
OTHER = {"runtime": {"options": {"n_ctx": "512"}}}


def rev(service: LLMDeployment) -> str:
    return serving.revision_id(service)


def view(service: LLMDeployment, replicas: int) -> DeploymentView:
    gpu = service.spec.hardware.gpu.types[0]
    return DeploymentView(
        names.child_name(service.name, rev(service), gpu), rev(service), gpu, replicas, None
    )


def stored(service: LLMDeployment, number: int) -> dict[str, Any]:
    gpu = service.spec.hardware.gpu.types[0]
    name = names.cache_name(service.name, serving.cache_source(service))
    revision = serving.render_revision(service, gpu, number, name, CONFIG)
    marks = {ANNOTATION_SERVED: "2025-12-31T23:00:00Z"}
    return serving.make_controller_revision(service, replace(revision, marks=marks))


def cache_of(service: LLMDeployment, *nodes: str) -> Any:
    name = names.cache_name(service.name, serving.cache_source(service))
    told = [{"name": node, "state": "Ready", "percent": 100} for node in nodes]
    status = {"readyNodes": len(nodes), "desiredNodes": len(nodes), "percent": 100, "nodes": told}
    return a_cache(name, status=status, labels={"preheat.dev/llmdeployment": service.name})


def scene(
    old: LLMDeployment, new: LLMDeployment, *pods: PodView, asked: tuple[int, int], gpus: int = 1,
    warm: tuple[str, ...] = ("n1", "n2"),
) -> ServiceObservation:  # fmt: skip
    """Two nodes with so many GPUs each; pods say where they are."""
    cache = cache_of(new, *warm)
    key = frozenset({cache_key(cache)})
    nodes: list[NodeView] = [
        a_node(name, gpus=gpus, caches=key if name in warm else frozenset()) for name in ("n1", "n2")
    ]
    uses = [GPUUse(pod.node, "default/llama", 1) for pod in pods if pod.node]
    views = [view(old, asked[0]), *([view(new, asked[1])] if asked[1] else [])]
    children = [stored(old, 1), *([stored(new, 2)] if asked[1] else [])]
    return ServiceObservation(nodes, views, list(pods), [cache], children, uses)


def pod(service: LLMDeployment, name: str, node: str | None, **fields: Any) -> PodView:
    waits = {"scheduled": False, "ip": None, "unschedulable": FULL} if node is None else {}
    return a_pod(name, revision=rev(service), node=node, **{**waits, **fields})


def decide(service: LLMDeployment, seen: ServiceObservation, now: datetime = NOW) -> Plan:
    return decide_service(service, seen, CONFIG, now)


def once_told(seen: ServiceObservation, now: datetime = NOW) -> Plan:
    """What is done once the status tells of the way."""
    return decide(with_status(NEW, decide(NEW, seen, now)), seen, now)


def replicas(plan: Plan, service: LLMDeployment) -> int:
    name = view(service, 0).name
    (found,) = [
        w.manifest for w in plan.writes
        if isinstance(w, Apply) and (w.manifest["kind"], w.manifest["metadata"]["name"]) == ("Deployment", name)
    ]  # fmt: skip
    return int(found["spec"]["replicas"])


def ready(plan: Plan) -> Any:
    assert plan.status is not None
    return next(c for c in plan.status["conditions"] if c["type"] == "Ready")


def told(plan: Plan) -> Any:
    assert plan.status is not None
    return plan.status.get("rollout")


OLD, NEW = a_service(replicas=2), a_service(replicas=2, **OTHER)
SERVING = (pod(OLD, "o1", "n1", ready=True), pod(OLD, "o2", "n2", ready=True))


def test_a_free_gpu_is_used_first() -> None:
    plan = decide(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0), gpus=2))
    assert (replicas(plan, OLD), replicas(plan, NEW)) == (2, 2)
    assert (told(plan)["chosen"], told(plan)["strategy"]) == ("Surge", "Auto")
    assert told(plan)["fromRevision"] == rev(OLD)
    assert [e.reason for e in plan.events] == ["RollingOut"]


def test_without_a_free_gpu_one_makes_room_when_the_scheduler_says_so() -> None:
    first = decide(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0)))
    assert (replicas(first, OLD), replicas(first, NEW)) == (2, 1)
    assert told(first)["chosen"] == "OneByOne"
    blocked = scene(OLD, NEW, *SERVING, pod(NEW, "w", None), asked=(2, 1))
    announced = decide(NEW, blocked)
    assert replicas(announced, OLD) == 2, "what ends a replica that serves is told first"
    assert (told(announced)["chosen"], announced.requeue_after) == ("OneByOne", 1.0)
    assert replicas(once_told(blocked), OLD) == 1
    assert ready(once_told(blocked))["reason"] == "RollingOut"
    assert "MakingRoom" in ready(once_told(blocked))["message"]


def test_nobody_makes_room_on_a_node_without_the_weights_and_the_one_that_helps_is_priced() -> None:
    waits = pod(NEW, "w", None)
    cold = scene(OLD, NEW, *SERVING, waits, asked=(2, 1), warm=())
    assert replicas(decide(NEW, cold), OLD) == 2
    half = scene(OLD, NEW, *SERVING, waits, asked=(2, 1), warm=("n2",))
    plan = once_told(half)
    assert replicas(plan, OLD) == 1
    assert [(w.name, w.cost) for w in plan.writes if isinstance(w, PricePod)] == [("o2", -1)]
    assert isinstance(plan.writes[0], PricePod), "the price is there before the Deployment shrinks"


def test_the_weights_go_where_they_will_be_needed() -> None:
    full = decide(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0), warm=()))
    (cache,) = [
        w.manifest for w in full.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"
    ]
    assert cache["metadata"]["annotations"]["preheat.dev/nodes-first"] == "n1,n2"
    rest = decide(NEW, scene(OLD, NEW, pod(NEW, "a", "n1", ready=True), asked=(0, 2)))
    (cache,) = [
        w.manifest for w in rest.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"
    ]
    assert "preheat.dev/nodes-first" not in cache["metadata"]["annotations"]
    assert caching.made_for(cache_of(NEW)) == "llama"


def test_a_gpu_that_a_stranger_holds_is_not_waited_for_longer_than_a_minute() -> None:
    """By the numbers n1 has two GPUs; the scheduler says that it has none."""
    begun = NOW - timedelta(seconds=20)
    seen = scene(OLD, NEW, *SERVING, pod(NEW, "w", None, created=begun), asked=(2, 1), gpus=2)
    early, late = decide(NEW, seen), once_told(seen, NOW + timedelta(seconds=40))
    assert (replicas(early, OLD), early.requeue_after) == (2, 40.0)
    assert replicas(late, OLD) == 1


def test_a_rollout_that_cannot_go_on_says_so_with_numbers() -> None:
    service = a_service(replicas=2, rollout={"strategy": "Surge"}, **OTHER)
    plan = decide(service, scene(OLD, service, *SERVING, pod(NEW, "w", None), asked=(2, 1)))
    assert replicas(plan, OLD) == 2
    assert ready(plan)["reason"] == "RolloutBlocked"
    assert "One replica needs 1 nvidia.com/gpu" in ready(plan)["message"]


def test_a_pod_that_leaves_a_dead_node_is_not_waited_for() -> None:
    stuck, waits = pod(OLD, "o3", "n3", deleting=True), pod(NEW, "w", None)
    seen = scene(OLD, NEW, *SERVING, stuck, waits, asked=(2, 1))
    assert replicas(decide(NEW, seen), OLD) == 2
    dead = replace(seen, nodes=[*seen.nodes, a_node("n3", ready=False)])
    assert replicas(once_told(dead), OLD) == 1


def test_paused_says_so_and_moves_nothing() -> None:
    service = a_service(replicas=2, rollout={"paused": True}, **OTHER)
    plan = decide(service, scene(OLD, service, *SERVING, asked=(2, 0), gpus=2))
    assert (replicas(plan, OLD), replicas(plan, NEW)) == (2, 0)
    assert (ready(plan)["reason"], told(plan)["step"]) == ("RolloutPaused", "Paused")


def with_status(service: LLMDeployment, plan: Plan) -> LLMDeployment:
    return a_service(replicas=2, status=plan.status, **OTHER) if service is NEW else service


@pytest.mark.parametrize("seconds", [1, 60, 3600])
def test_nothing_is_written_while_nothing_happens(seconds: int) -> None:
    seen = scene(OLD, NEW, *SERVING, pod(NEW, "w", None), asked=(2, 1), warm=())
    first = decide(NEW, seen)
    again = decide(with_status(NEW, first), seen, NOW + timedelta(seconds=seconds))
    assert (again.status, again.events, again.writes) == (first.status, (), first.writes)


def test_it_begins_with_an_event_and_each_step_and_the_end_are_told_once() -> None:
    first = decide(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0), gpus=2))
    service = with_status(NEW, first)
    halfway = scene(
        OLD, NEW, *SERVING, pod(NEW, "a", "n1", ready=True), pod(NEW, "b", "n2"), asked=(2, 2), gpus=2
    )
    second = decide(service, halfway)
    assert [e.reason for e in second.events] == ["RollingOut"]
    assert "HandingOver" in second.events[0].message
    service = with_status(NEW, second)
    assert decide(service, replace(halfway, deployments=[view(OLD, 1), view(NEW, 2)])).events == ()
    over = scene(OLD, NEW, pod(NEW, "a", "n1", ready=True), pod(NEW, "b", "n2", ready=True), asked=(0, 2))
    last = decide(service, over, NOW + timedelta(seconds=600))
    assert told(last) is None
    assert [e.message for e in last.events if e.reason == "RolledOut"] == [
        f"Revision {rev(NEW)} has taken over from {rev(OLD)}, 10m after it began."
    ]


def test_a_rollout_whose_last_old_replica_made_room_ends_when_the_new_one_answers() -> None:
    one = a_service(status={"rollout": {
        "strategy": "Auto", "chosen": "DrainFirst", "reason": "why", "step": "MakingRoom", "message": "m",
        "fromRevision": "before", "toRevision": rev(NEW), "oldReplicas": 0, "updatedReplicas": 1,
        "readyUpdatedReplicas": 0, "startedAt": "2025-12-31T23:50:00Z"}}, **OTHER)  # fmt: skip
    loading = decide(one, scene(OLD, NEW, pod(NEW, "a", "n1"), asked=(0, 1)))
    assert (told(loading)["step"], told(loading)["chosen"], told(loading)["fromRevision"]) == (
        "Loading", "DrainFirst", "before")  # fmt: skip
    assert not [e for e in loading.events if e.reason == "RolledOut"]
    stolen = decide(one, scene(OLD, NEW, pod(NEW, "a", None), asked=(0, 1)))
    assert ready(stolen)["reason"] == "RolloutBlocked"
    over = decide(one, scene(OLD, NEW, pod(NEW, "a", "n1", ready=True), asked=(0, 1)))
    assert told(over) is None
    assert [e.reason for e in over.events if e.reason == "RolledOut"]


LOADED = {
    "observedUntil": "2025-12-31T00:00:00Z",
    "kinds": [{
        "revision": "r", "gpuType": "nvidia-l4", "tier": "OnDisk", "count": 1, "p50Seconds": 90, "p90Seconds": 90,
        "recent": [{"totalSeconds": 90, "gpuWaitSeconds": 0, "weightsSeconds": 0, "imageSeconds": 25,
                    "loadSeconds": 60, "firstAnswerSeconds": 5}],
    }],
}  # fmt: skip


def test_the_end_is_told_as_a_time_that_does_not_move_with_the_clock() -> None:
    """One new replica has 30 s left, one has yet to load (90 s, and 60 s of draining before)."""
    service = a_service(replicas=2, status={"loadTimes": LOADED}, **OTHER)
    loading = pod(NEW, "a", "n1", scheduled_at=NOW - timedelta(seconds=60))
    seen = scene(OLD, NEW, SERVING[1], loading, asked=(1, 2))
    first = decide(service, seen)
    assert told(first)["etaTime"] == "2026-01-01T00:03:00Z"
    later = a_service(replicas=2, status=first.status, **OTHER)
    assert told(decide(later, seen, NOW + timedelta(seconds=10))) == told(first)


# --- on paper


def on_paper(service: LLMDeployment, seen: ServiceObservation) -> Preview:
    question = rollout_ahead(service, seen, CONFIG, NOW)
    found = preview(question, Times(load=100, weights=300, drain=10))
    assert found is not None
    return found


def test_on_paper_a_spare_gpu_means_no_gap() -> None:
    found = on_paper(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0), gpus=2))
    assert (found.ends, found.gap_seconds, found.short_seconds, found.chosen) == (True, 0, 0, "Surge")


def test_on_paper_one_by_one_is_short_for_its_loads() -> None:
    found = on_paper(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0)))
    assert (found.ends, found.gap_seconds, found.least_serving, found.chosen) == (True, 0, 1, "OneByOne")
    assert found.short_seconds == pytest.approx(220, abs=5)


def test_on_paper_the_only_replica_leaves_a_gap_of_one_load_and_its_draining() -> None:
    old, new = a_service(), a_service(**OTHER)
    seen = scene(old, new, SERVING[0], asked=(1, 0))
    seen = replace(seen, nodes=seen.nodes[:1])
    found = on_paper(new, seen)
    assert (found.ends, found.chosen) == (True, "DrainFirst")
    assert found.gap_seconds == pytest.approx(110, abs=5)


def test_on_paper_nothing_goes_before_the_weights_are_there() -> None:
    found = on_paper(NEW, scene(OLD, NEW, *SERVING, asked=(2, 0), warm=()))
    assert found.ends
    assert all(moment.at_seconds >= 300 for moment in found.moments if moment.old < 2)


def test_on_paper_a_surge_without_room_does_not_end() -> None:
    service = a_service(replicas=2, rollout={"strategy": "Surge"}, **OTHER)
    found = on_paper(service, scene(OLD, service, *SERVING, asked=(2, 0)))
    assert not found.ends
    assert "waiting for a GPU" in found.message


def test_on_paper_a_canary_takes_its_pauses() -> None:
    steps = [{"percent": 50, "pauseSeconds": 600}, {"percent": 100}]
    service = a_service(replicas=2, rollout={"strategy": "Canary", "steps": steps}, **OTHER)
    found = on_paper(service, scene(OLD, service, *SERVING, asked=(2, 0), gpus=2))
    assert found.ends
    assert found.seconds == pytest.approx(100 + 600 + 100 + 10, abs=5)


def test_what_things_take_comes_from_loads_that_were_observed() -> None:
    service = a_service(replicas=2, status={"loadTimes": LOADED}, **OTHER)
    question = rollout_ahead(service, scene(OLD, NEW, *SERVING, asked=(2, 0)), CONFIG, NOW)
    times, observations = times_of(service, question, 16_000_000_000)
    assert (times.load, times.drain, observations) == (90, 60, 1)


def test_without_another_revision_there_is_nothing_on_paper() -> None:
    seen = scene(OLD, NEW, *SERVING, asked=(2, 0))
    assert preview(rollout_ahead(OLD, seen, CONFIG, NOW), Times(1, 1, 1)) is None


def test_a_pinned_revision_that_somebody_wrote_by_hand_stops_no_pass() -> None:
    revision = serving.Revision(
        "r", 1, OLD.spec.hardware.gpu.types[0], {"template": {}, "cache": "c", "claim": "d"}
    )
    assert revision.gpus("nvidia.com/gpu") == 0
    pinned = serving.render_revision(OLD, OLD.spec.hardware.gpu.types[0], 1, "c", CONFIG)
    assert (pinned.gpus("nvidia.com/gpu"), pinned.gpus("amd.com/gpu")) == (1, 0)


def test_a_verdict_waits_for_the_revision_that_it_lies_on() -> None:
    """Somebody deleted it while its replica crashed: it is made again, and does not wait for ever to be written on."""
    crashes = pod(NEW, "n", "n1", restarts=5, last_exit="exit code 1")
    seen = scene(OLD, NEW, SERVING[1], crashes, asked=(1, 1))
    (name,) = [w.manifest["metadata"]["name"] for w in decide(NEW, seen).writes if isinstance(w, Apply)]
    deleted = replace(seen, children=[c for c in seen.children if c["metadata"]["name"] != name])
    plan = decide(NEW, deleted)
    assert ("ControllerRevision", name) in [
        (w.manifest["kind"], w.manifest["metadata"]["name"]) for w in plan.writes if isinstance(w, Apply)
    ]
    assert replicas(plan, OLD) == 1


def test_an_old_pod_that_leaves_a_dead_node_for_ever_is_not_waited_for() -> None:
    new = (pod(NEW, "a", "n1", ready=True), pod(NEW, "b", "n2", ready=True))
    seen = scene(OLD, NEW, *new, pod(OLD, "o", "n3", deleting=True), asked=(0, 2))
    plan = decide(NEW, replace(seen, nodes=[*seen.nodes, a_node("n3")]))
    assert (ready(plan)["status"], ready(plan)["reason"]) == ("False", "RollingOut")
    plan = decide(NEW, replace(seen, nodes=[*seen.nodes, a_node("n3", ready=False)]))
    assert (ready(plan)["status"], ready(plan)["reason"], told(plan)) == ("True", "Serving", None)


def soaks(plan: Plan) -> bool:
    """Whether the wanted revision is written down as known to be good."""
    return any(
        "preheat.dev/soaked" in w.manifest["metadata"].get("annotations", {})
        for w in plan.writes
        if isinstance(w, Apply) and w.manifest["kind"] == "ControllerRevision"
    )


def test_a_replica_that_finds_no_place_keeps_no_revision_from_being_known_as_good() -> None:
    """Otherwise it would be judged for ever, by restarts of a month."""
    new, since = a_service(replicas=3, **OTHER), NOW - timedelta(days=30)
    serve = [pod(new, name, name, ready=True, ready_at=since) for name in ("n1", "n2")]
    for third, good in ((pod(new, "w", None), True), (pod(new, "w", "n2", ready=False), False)):
        seen = scene(a_service(replicas=3), new, *serve, third, asked=(0, 3))
        assert soaks(decide(new, seen)) is good
