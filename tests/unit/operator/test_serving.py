"""One pass over an LLMDeployment: what is written, what is said, and what is left alone."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from preheat.api.conditions import Reason
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.decide.observed import AgentReport, AgentState, DeploymentView, PodView
from preheat.decide.plan import Apply, Delete, Plan
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation
from preheat.resources import names, serving

from tests.builders import a_cache, a_node, a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()


def observed(service: LLMDeployment, **seen: Any) -> ServiceObservation:
    given: dict[str, Any] = {"nodes": [a_node()], "deployments": [], "pods": [], "caches": [], "children": []}
    return ServiceObservation(**{**given, **seen})


def decide(service: LLMDeployment, **seen: Any) -> Plan:
    return decide_service(service, observed(service, **seen), CONFIG, NOW)


def reason(plan: Plan, kind: str = "Ready") -> str:
    assert plan.status is not None
    return str(next(c["reason"] for c in plan.status["conditions"] if c["type"] == kind))


def status(plan: Plan, kind: str) -> str:
    assert plan.status is not None
    return str(next(c["status"] for c in plan.status["conditions"] if c["type"] == kind))


def applied(plan: Plan) -> dict[str, Any]:
    found = [w.manifest for w in plan.writes if isinstance(w, Apply)]
    return {f"{m['kind']}/{m['metadata']['name']}": m for m in found}


def warm_cache(service: LLMDeployment, **status: Any) -> Any:
    name = names.cache_name(service.name, serving.cache_source(service))
    full = {"readyNodes": 1, "desiredNodes": 1, "percent": 100, "nodes": [], **status}
    return a_cache(name, status=full, labels={"preheat.dev/llmdeployment": service.name})


def stored(service: LLMDeployment, number: int = 1) -> dict[str, Any]:
    """The ControllerRevision that a first pass writes, as the API server would show it."""
    manifest = next(m for key, m in applied(decide(service)).items() if key.startswith("ControllerRevision"))
    return {**manifest, "revision": number}


def a_deployment(service: LLMDeployment, replicas: int = 1) -> DeploymentView:
    revision = serving.revision_id(service)
    gpu = service.spec.hardware.gpu.types[0]
    return DeploymentView(names.child_name(service.name, revision, gpu), revision, gpu, replicas, None)


def pod_of(service: LLMDeployment, name: str = "p", **fields: Any) -> PodView:
    return a_pod(name, revision=serving.revision_id(service), **fields)


def test_the_first_pass_makes_every_child_and_weights_before_pods() -> None:
    kinds = [key.split("/")[0] for key in applied(decide(a_service()))]
    assert kinds == [
        "ServiceAccount", "NetworkPolicy", "Service", "PodDisruptionBudget", "ModelCache", "ConfigMap",
        "ControllerRevision", "Deployment",
    ]  # fmt: skip


def test_the_same_facts_lead_to_the_same_plan() -> None:
    assert decide(a_service()) == decide(a_service())


@pytest.mark.parametrize(("asked", "least", "most", "want"), [(5, 0, 3, 3), (0, 2, 9, 2), (4, 1, 9, 4)])
def test_replicas_are_held_within_the_bounds(asked: int, least: int, most: int, want: int) -> None:
    service = a_service(replicas=asked, scaling={"minReplicas": least, "maxReplicas": most})
    plan = decide(service, nodes=[a_node(gpus=8)])
    assert plan.status is not None
    assert plan.status["desiredReplicas"] == want
    (deployment,) = [m for key, m in applied(plan).items() if key.startswith("Deployment")]
    assert deployment["spec"]["replicas"] == want


def test_a_new_operator_version_changes_no_pinned_template() -> None:
    service = a_service()
    newer = replace(CONFIG, agent_image="agent:next", llamacpp_image="engine:next")
    old = stored(service)
    seen = observed(service, children=[old], caches=[warm_cache(service)])
    plan = decide_service(service, seen, newer, NOW)
    (deployment,) = [m for key, m in applied(plan).items() if key.startswith("Deployment")]
    assert deployment["spec"]["template"] == old["data"]["template"]


def test_going_back_makes_the_old_revision_the_newest() -> None:
    old, new = a_service(), a_service(runtime={"options": {"n_ctx": "512"}})
    plan = decide(old, children=[stored(old, 1), stored(new, 2)])
    (revision,) = [m for key, m in applied(plan).items() if key.startswith("ControllerRevision")]
    assert revision["revision"] == 3
    assert revision["data"] == stored(old)["data"]


def test_only_revisions_beyond_the_limit_that_run_nothing_are_deleted() -> None:
    services = [a_service(runtime={"options": {"n_ctx": str(n)}}) for n in (256, 512, 1024)]
    current = services[-1]
    history = [stored(s, n) for n, s in enumerate(services, start=1)]
    limited = a_service(runtime={"options": {"n_ctx": "1024"}}, rollout={"revisionHistoryLimit": 0})
    running = pod_of(services[1], ready=True)
    plan = decide(limited, children=history, pods=[running, pod_of(current, "q", ready=True)])
    gone = {w.name for w in plan.writes if isinstance(w, Delete)}
    assert gone == {history[0]["metadata"]["name"]}


def test_a_cache_is_kept_as_long_as_a_kept_revision_uses_it() -> None:
    old, new = a_service(model={"uri": "http://store/old/"}), a_service(model={"uri": "http://store/new/"})
    theirs = {
        "kind": "ModelCache",
        "metadata": {
            "name": names.cache_name(old.name, serving.cache_source(old)), "uid": "c",
            "ownerReferences": [{"controller": True, "uid": old.uid}],
            "labels": {"preheat.dev/llmdeployment": old.name},
        },
    }  # fmt: skip
    kept = decide(new, children=[stored(old, 1), theirs])
    assert not [w for w in kept.writes if isinstance(w, Delete)]
    forgetful = a_service(model={"uri": "http://store/new/"}, rollout={"revisionHistoryLimit": 0})
    gone = decide(forgetful, children=[stored(old, 1), theirs])
    assert {w.kind for w in gone.writes if isinstance(w, Delete)} == {"ControllerRevision", "ModelCache"}


def test_what_the_engine_cannot_do_touches_no_child() -> None:
    plan = decide(a_service(model={"format": "Safetensors"}))
    assert plan.writes == ()
    assert reason(plan) == "InvalidSpec"
    assert status(plan, "Accepted") == "False"
    assert status(plan, "Stalled") == "True"
    assert status(plan, "Reconciling") == "False"


def test_an_expectation_that_is_no_pattern_is_refused_before_any_pod_is_made() -> None:
    plan = decide(a_service(health={"canary": {"expect": "(unclosed"}}))
    assert plan.writes == ()
    assert reason(plan) == "InvalidSpec"


def test_a_cache_made_ahead_of_time_with_the_same_source_is_used() -> None:
    service = a_service()
    plan = decide(service, caches=[a_cache("ahead")])
    assert plan.status is not None
    assert plan.status["cache"]["name"] == "ahead"
    assert not [key for key in applied(plan) if key.startswith("ModelCache")]


def test_a_stranger_among_the_children_is_not_deleted() -> None:
    service = a_service()
    stranger = stored(a_service(runtime={"options": {"n_ctx": "99"}}))
    stranger["metadata"] = {**stranger["metadata"], "ownerReferences": [{"controller": True, "uid": "else"}]}
    limited = a_service(rollout={"revisionHistoryLimit": 0})
    assert not [w for w in decide(limited, children=[stranger]).writes if isinstance(w, Delete)]
    assert service.name == limited.name


def report(
    state: AgentState, done: int = 0, total: int = 100, left: float | None = None, why: str = ""
) -> Any:
    return AgentReport(state, why, "words", done, total, left)


SCENES: dict[str, tuple[dict[str, Any], Reason]] = {
    "no GPU free": ({"scheduled": False, "ip": None, "unschedulable": "0/2 nodes: Insufficient nvidia.com/gpu"},
                    Reason.NO_CAPACITY),
    "an image that is not there": ({"waiting_reason": "ImagePullBackOff", "waiting_message": "not found"},
                                   Reason.IMAGE_UNAVAILABLE),
    "an engine that crashes": ({"restarts": 5, "last_exit": "exit code 1"}, Reason.ENGINE_CRASHING),
    "an engine that starts": ({"report": report(AgentState.WAITING_FOR_ENGINE)}, Reason.ENGINE_STARTING),
    "a model that loads": ({"report": report(AgentState.LOADING, 42)}, Reason.MODEL_LOADING),
    "a model that is asked": ({"report": report(AgentState.PROBING)}, Reason.MODEL_PROBING),
    "a model that is healed": ({"report": report(AgentState.HEALING)}, Reason.MODEL_HEALING),
    "a load that fails": ({"report": report(AgentState.FAILED, why="LoadFailed")}, Reason.LOAD_FAILED),
    "answers that are no good": ({"report": report(AgentState.FAILED, why="CanaryFailed")}, Reason.CANARY_FAILED),
    "a load that stalls": ({"report": report(AgentState.STALLED)}, Reason.LOAD_STALLED),
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_the_most_telling_reason_is_given(scene: str) -> None:
    fields, want = SCENES[scene]
    service = a_service()
    plan = decide(service, pods=[pod_of(service, **fields)], caches=[warm_cache(service)],
                  deployments=[a_deployment(service)])  # fmt: skip
    assert reason(plan) == want
    assert status(plan, "Ready") == "False"


def test_loading_shows_percent_and_time_left_of_all_replicas() -> None:
    service = a_service(replicas=2)
    pods = [
        pod_of(service, "a", report=report(AgentState.LOADING, 20, left=80)),
        pod_of(service, "b", report=report(AgentState.LOADING, 60, left=40)),
    ]
    plan = decide(service, pods=pods, caches=[warm_cache(service)])
    assert plan.status is not None
    assert plan.status["loading"] == {"percent": 40, "bytesDone": 80, "bytesTotal": 200, "eta": "1m20s"}


def test_weights_that_come_are_the_reason_while_the_pod_waits_for_them() -> None:
    service = a_service()
    cache = warm_cache(service, readyNodes=0, percent=31, eta="40s", totalBytes=1000)
    pod = pod_of(service, scheduled=False, ip=None, unschedulable="volume node affinity")
    plan = decide(service, pods=[pod], caches=[cache])
    assert reason(plan) == "WeightsFetching"
    assert plan.status is not None
    assert plan.status["loading"] == {"percent": 31, "bytesDone": 310, "bytesTotal": 1000, "eta": "40s"}


def test_serving_is_ready_and_quiet() -> None:
    service = a_service()
    plan = decide(service, pods=[pod_of(service, ready=True)], caches=[warm_cache(service)],
                  deployments=[a_deployment(service)], children=[stored(service)])  # fmt: skip
    assert (reason(plan), status(plan, "Ready"), status(plan, "Available")) == ("Serving", "True", "True")
    assert plan.requeue_after >= 60
    assert plan.status is not None
    assert "loading" not in plan.status


def test_zero_replicas_are_ready_with_warm_weights() -> None:
    service = a_service(replicas=0)
    assert reason(decide(service, caches=[warm_cache(service)])) == "ScaledToZero"


def test_a_second_pass_tells_nothing_twice() -> None:
    first = decide(a_service())
    assert [draft.reason for draft in first.events] == ["WeightsFetching"]
    again = decide(a_service(status=first.status))
    assert again.events == ()
    assert again.status == first.status


def test_old_replicas_stay_until_new_ones_answer() -> None:
    old, new = a_service(), a_service(runtime={"options": {"n_ctx": "512"}})
    seen: dict[str, Any] = {
        "children": [stored(old, 1)], "deployments": [a_deployment(old)], "caches": [warm_cache(new)],
    }  # fmt: skip
    waiting = decide(new, pods=[pod_of(old, "o", ready=True), pod_of(new, "n")], **seen)
    assert _replicas(waiting, old) == 1
    answered = decide(new, pods=[pod_of(old, "o", ready=True), pod_of(new, "n", ready=True)], **seen)
    assert _replicas(answered, old) == 0


def _replicas(plan: Plan, service: LLMDeployment) -> int:
    name = a_deployment(service).name
    return int(applied(plan)[f"Deployment/{name}"]["spec"]["replicas"])
