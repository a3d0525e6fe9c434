"""One pass over an LLMDeployment: what is written, what is said, and what is left alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.conditions import Reason
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.decide.capacity import GPUUse
from preheat.decide.observed import AgentReport, AgentState, DeploymentView, PodView
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, Plan
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
        "NetworkPolicy", "Service", "ModelCache",
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


UNBOUND = "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity"

SCENES: dict[str, tuple[dict[str, Any], Reason]] = {
    "no GPU free": ({"scheduled": False, "ip": None, "unschedulable": "0/2 nodes: Insufficient nvidia.com/gpu"},
                    Reason.NO_CAPACITY),
    "an image that is not there": ({"waiting_reason": "ImagePullBackOff", "waiting_message": "not found"},
                                   Reason.IMAGE_UNAVAILABLE),
    "an engine that crashes": ({"restarts": 5, "last_exit": "exit code 1"}, Reason.ENGINE_CRASHING),
    "a container of the user's own that crashes": (
        {"crashing": "container own restarted 3 times", "waiting_reason": "CrashLoopBackOff"}, Reason.CONTAINER_CRASHING
    ),
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
    assert first.events == (), "what was expected is no news"
    again = decide(a_service(status=first.status))
    assert again.events == ()
    assert again.status == first.status


def test_old_replicas_stay_until_new_ones_answer() -> None:
    old, new = a_service(), a_service(runtime={"options": {"n_ctx": "512"}})
    seen: dict[str, Any] = {
        "children": [stored(old, 1)], "deployments": [a_deployment(old), a_deployment(new)],
        "caches": [warm_cache(new)],
    }  # fmt: skip
    waiting = decide(new, pods=[pod_of(old, "o", ready=True), pod_of(new, "n")], **seen)
    assert _replicas(waiting, old) == 1
    answered = decide(new, pods=[pod_of(old, "o", ready=True), pod_of(new, "n", ready=True)], **seen)
    assert _replicas(answered, old) == 0


def _replicas(plan: Plan, service: LLMDeployment) -> int:
    name = a_deployment(service).name
    return int(applied(plan)[f"Deployment/{name}"]["spec"]["replicas"])


def test_children_that_are_there_lead_to_the_same_plan_again() -> None:
    """Whether to write is decided by comparing with what is there; the plan is always whole."""
    service = a_service()
    first = decide(service)
    again = decide(service, children=[w.manifest for w in first.writes if isinstance(w, Apply)])
    assert again.writes == first.writes


def _cache_that_says(service: LLMDeployment, reason: str, message: str) -> Any:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": message,
                 "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    return warm_cache(service, readyNodes=0, conditions=[condition])


@pytest.mark.parametrize("why", ["NoMatchingNode", "WeightsFailed"])
def test_what_keeps_the_weights_away_is_told_in_the_caches_words(why: str) -> None:
    service = a_service()
    plan = decide(service, caches=[_cache_that_says(service, why, "0 of 3 nodes match")])
    assert reason(plan) == why
    assert status(plan, "Stalled") == "True"
    assert plan.status is not None
    ready = next(c for c in plan.status["conditions"] if c["type"] == "Ready")
    assert "0 of 3 nodes match" in ready["message"]


def test_pods_that_cannot_be_created_are_told_in_the_api_servers_words() -> None:
    service = a_service()
    view = replace(a_deployment(service), refused="exceeded quota: gpus")
    plan = decide(service, deployments=[view], caches=[warm_cache(service)])
    assert reason(plan) == "PodsRefused"
    assert status(plan, "Stalled") == "True"


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"restarts": 2, "last_exit": "exit code 1"}, "EngineStarting"),
        ({"restarts": 3, "last_exit": "exit code 1"}, "EngineCrashing"),
        ({"restarts": 3, "last_exit": "exit code 1", "waiting_reason": "CrashLoopBackOff"}, "EngineCrashing"),
        ({"scheduled": False, "ip": None}, "PodsPending"),
        ({"scheduled": False, "ip": None, "unschedulable": UNBOUND}, "PodsPending"),
        (
            {"scheduled": False, "ip": None, "unschedulable": f"{UNBOUND}, 1 Insufficient nvidia.com/gpu"},
            "NoCapacity",
        ),
        (
            {"scheduled": False, "ip": None, "unschedulable": "2 node(s) had untolerated taint(s)"},
            "NoCapacity",
        ),
        ({"report": report(AgentState.SERVING)}, "ModelProbing"),
    ],
)
def test_a_restart_or_two_is_no_crash_loop(fields: dict[str, Any], want: str) -> None:
    service = a_service()
    plan = decide(service, pods=[pod_of(service, **fields)], caches=[warm_cache(service)])
    assert reason(plan) == want


@pytest.mark.parametrize("states", [
    (AgentState.LOADING, AgentState.STALLED), (AgentState.STALLED, AgentState.LOADING),
])  # fmt: skip
def test_trouble_is_told_before_progress_whichever_pod_has_it(states: tuple[AgentState, ...]) -> None:
    service = a_service(replicas=2)
    pods = [pod_of(service, f"p{n}", report=report(state)) for n, state in enumerate(states)]
    assert reason(decide(service, pods=pods, caches=[warm_cache(service)])) == "LoadStalled"


def test_a_load_is_never_said_to_be_over_before_the_model_answers() -> None:
    service = a_service()
    for done, total, want in ((100, 100, 99), (0, 0, 0), (300, 100, 99)):
        plan = decide(service, pods=[pod_of(service, report=report(AgentState.LOADING, done, total))],
                      caches=[warm_cache(service)])  # fmt: skip
        assert plan.status is not None
        assert plan.status["loading"]["percent"] == want


def test_agents_are_asked_only_while_a_pod_is_on_its_way() -> None:
    service = a_service()
    caches = [warm_cache(service)]
    assert decide(service, pods=[pod_of(service)], caches=caches).requeue_after == POLL_SECONDS
    assert decide(service, pods=[pod_of(service, ready=True)], caches=caches).requeue_after == RESYNC_SECONDS
    assert decide(service, caches=caches).requeue_after == RESYNC_SECONDS


def test_a_refused_spec_keeps_what_was_known_and_says_who_still_answers() -> None:
    good = a_service()
    before = decide(good, pods=[pod_of(good, ready=True)], caches=[warm_cache(good)]).status
    broken = a_service(status=before, model={"format": "Safetensors"})
    plan = decide(broken, pods=[pod_of(good, ready=True)], caches=[warm_cache(good)])
    assert plan.status is not None
    assert before is not None
    assert (status(plan, "Ready"), status(plan, "Available")) == ("False", "True")
    assert plan.status["revision"] == before["revision"]
    assert plan.status["selector"] == before["selector"]
    assert [draft.warning for draft in plan.events] == [True]


def test_zero_replicas_ask_for_weights_on_one_node_and_for_no_pod() -> None:
    plan = decide(a_service(replicas=0))
    by_kind = {key.split("/")[0]: manifest for key, manifest in applied(plan).items()}
    assert by_kind["ModelCache"]["spec"]["placement"]["nodes"] == 1
    assert by_kind["Deployment"]["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("replicas", "margin", "nodes", "want"), [(1, 0, 3, 1), (2, 1, 9, 3), (5, 5, 3, 3), (2, 0, 0, 1)]
)
def test_weights_lie_on_as_many_nodes_as_replicas_and_margin_as_far_as_there_are_nodes(
    replicas: int, margin: int, nodes: int, want: int
) -> None:
    service = a_service(replicas=replicas, cache={"warmNodes": margin})
    plan = decide(service, nodes=[a_node(f"n{n}") for n in range(nodes)])
    (cache,) = [m for key, m in applied(plan).items() if key.startswith("ModelCache")]
    assert cache["spec"]["placement"]["nodes"] == want


def test_each_gpu_type_in_use_gets_a_deployment_of_one_revision() -> None:
    service = a_service(replicas=3, hardware={"gpu": {"types": ["nvidia-l4", "nvidia-t4"]}})
    plan = decide(service, nodes=[a_node(gpus=2), a_node("t", "Tesla-T4", gpus=2)])
    deployments = [m for key, m in applied(plan).items() if key.startswith("Deployment")]
    assert [m["spec"]["replicas"] for m in deployments] == [2, 1]
    assert len({m["metadata"]["labels"]["preheat.dev/revision"] for m in deployments}) == 1
    assert plan.status is not None
    assert plan.status["gpuType"] == "nvidia-l4,nvidia-t4"


def test_a_gpu_type_that_is_no_longer_needed_gives_its_replicas_back() -> None:
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-t4"]}})
    nodes = [a_node(gpus=2), a_node("t", "Tesla-T4", gpus=2)]
    both = decide(service, nodes=[a_node(gpus=0), a_node("t", "Tesla-T4", gpus=2)])
    pins = [
        w.manifest for w in both.writes if isinstance(w, Apply) and w.manifest["kind"] == "ControllerRevision"
    ]
    identity = serving.revision_id(service)
    t4 = GPUType.NVIDIA_T4
    view = DeploymentView(names.child_name("llama", identity, t4), identity, t4, 1, None)
    plan = decide(service, nodes=nodes, children=pins, deployments=[view])
    assert applied(plan)[f"Deployment/{view.name}"]["spec"]["replicas"] == 1, (
        "not for a GPU of the first type"
    )
    l4 = GPUType.NVIDIA_L4
    first = DeploymentView(names.child_name("llama", identity, l4), identity, l4, 1, None)
    plan = decide(service, nodes=nodes, children=pins, deployments=[first, view])
    assert applied(plan)[f"Deployment/{view.name}"]["spec"]["replicas"] == 0, "but where one is too many"


REVISION_KEEPERS: dict[str, dict[str, Any]] = {
    "replicas": {"replicas": 4},
    "bounds": {"scaling": {"minReplicas": 1, "maxReplicas": 5}},
    "history": {"rollout": {"revisionHistoryLimit": 5}},
    "margin": {"cache": {"warmNodes": 2}},
    "GPU types": {"hardware": {"gpu": {"types": ["nvidia-t4", "nvidia-l4"]}}},
    "a default spelled out": {"runtime": {"drainSeconds": 60}},
    "the stall limit that 0.1.0 had by default": {"health": {"stallSeconds": 300}},
}


@pytest.mark.parametrize("case", REVISION_KEEPERS)
def test_how_many_and_where_make_no_new_revision(case: str) -> None:
    assert serving.revision_id(a_service(**REVISION_KEEPERS[case])) == serving.revision_id(a_service())


REVISION_MAKERS: dict[str, dict[str, Any]] = {
    "weights": {"model": {"uri": "http://store/other/"}},
    "an option": {"runtime": {"options": {"n_ctx": "512"}}},
    "an image": {"runtime": {"image": "engine:2"}},
    "GPUs per replica": {"hardware": {"gpu": {"count": 2}}},
    "the canary": {"health": {"canary": {"prompt": "2+2"}}},
    "a stall limit": {"health": {"stallSeconds": 301}},
    "a node selector": {"hardware": {"nodeSelector": {"zone": "eu"}}},
}


@pytest.mark.parametrize("case", REVISION_MAKERS)
def test_what_a_pod_runs_makes_a_new_revision(case: str) -> None:
    assert serving.revision_id(a_service(**REVISION_MAKERS[case])) != serving.revision_id(a_service())


def test_a_cache_of_another_service_or_of_other_bytes_is_not_taken() -> None:
    service = a_service()
    others = [
        a_cache("other-bytes", source={"uri": "http://store/else/"}),
        a_cache("somebodys", labels={"preheat.dev/llmdeployment": "somebody"}),
    ]
    plan = decide(service, caches=others)
    assert plan.status is not None
    assert plan.status["cache"]["name"] == names.cache_name("llama", serving.cache_source(service))


def test_a_cache_that_is_made_later_does_not_move_pods_that_run() -> None:
    """The claim is in the pinned template: the cache is that of the revision, whoever comes by."""
    service = a_service()
    plan = decide(service, children=[stored(service)], caches=[warm_cache(service), a_cache("a-later-one")])
    assert plan.status is not None
    assert plan.status["cache"]["name"] == names.cache_name("llama", serving.cache_source(service))


def test_an_old_deployment_whose_revision_was_deleted_by_hand_does_not_hold_the_rollout_up() -> None:
    old, new = a_service(), a_service(runtime={"options": {"n_ctx": "512"}})
    view = a_deployment(old)
    body = {"kind": "Deployment", "metadata": {"name": view.name, "uid": "d", "labels": {
        "preheat.dev/revision": view.revision}, "ownerReferences": [{"controller": True, "uid": old.uid}]}}  # fmt: skip
    plan = decide(new, deployments=[view, a_deployment(new)], children=[body], caches=[warm_cache(new)],
                  pods=[pod_of(old, "o", ready=True), pod_of(new, "n", ready=True)])  # fmt: skip
    shrunk = [w for w in plan.writes if isinstance(w, Delete) and w.name == view.name]
    assert shrunk, "the new revision answers: the old pods hold GPUs for nothing"


@pytest.mark.parametrize("why", ["ReferenceMissing", "PodsRefused", "PodNotStarting"])
def test_what_keeps_a_warmer_away_is_the_services_reason_too(why: str) -> None:
    service = a_service()
    cache = _cache_that_says(service, why, "n1: it is so.")
    plan = decide(service, caches=[cache], pods=[pod_of(service, scheduled=False)])
    assert reason(plan) == why


@pytest.mark.parametrize(
    ("fields", "why", "words"),
    [
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "env" not found'},
            "ReferenceMissing",
            'CreateContainerConfigError: secret "env" not found. Create it in namespace default',
        ),
        (
            {"complaint": 'configmap "c" not found'},
            "ReferenceMissing",
            'Pod p: configmap "c" not found. Create',
        ),
        ({"complaint": "the disk is gone"}, "PodNotStarting", "Pod p: the disk is gone."),
        (
            {"unschedulable": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", "scheduled": False},
            "NoCapacity",
            "One replica needs 1 nvidia.com/gpu on one node; 1 matching node offers 2: a/b holds 2, 0 are free",
        ),
    ],
)
def test_a_pod_that_does_not_start_says_why(fields: dict[str, Any], why: str, words: str) -> None:
    service = a_service()
    cache = warm_cache(service)
    plan = decide(
        service, caches=[cache], pods=[pod_of(service, **fields)], uses=[GPUUse("n1", "a/b", 2)], look_again=3.0,
    )  # fmt: skip
    assert reason(plan) == why
    told = next(c for c in (plan.status or {})["conditions"] if c["type"] == "Ready")
    assert words in told["message"]
    assert plan.requeue_after <= 3.0


def test_a_replica_that_fits_no_node_is_told_before_the_weights_come() -> None:
    service = a_service(hardware={"gpu": {"count": 4}})
    assert reason(decide(service, nodes=[a_node(gpus=2)])) == "NoCapacity"
    assert reason(decide(service, nodes=[a_node(gpus=4)])) == "WeightsFetching"
    asleep = a_service(hardware={"gpu": {"count": 4}}, replicas=0)
    assert reason(decide(asleep, nodes=[a_node(gpus=2)])) == "ScaledToZero"


def test_a_container_that_is_not_ready_is_named_when_the_model_answers() -> None:
    service = a_service()
    pod = pod_of(service, report=report(AgentState.SERVING), lagging="container own")
    plan = decide(service, pods=[pod], caches=[warm_cache(service)], deployments=[a_deployment(service)])
    assert plan.status is not None
    told = next(c["message"] for c in plan.status["conditions"] if c["type"] == "Ready")
    assert "container own of spec.template is not Ready" in told


LOADED = {
    "observedUntil": "2025-12-31T00:00:00Z",
    "kinds": [{
        "revision": "r", "gpuType": "nvidia-l4", "tier": "OnDisk", "count": 1, "p50Seconds": 90, "p90Seconds": 90,
        "recent": [{"totalSeconds": 90, "gpuWaitSeconds": 2, "weightsSeconds": 0, "imageSeconds": 23,
                    "loadSeconds": 60, "firstAnswerSeconds": 5}],
    }],
}  # fmt: skip


@pytest.mark.parametrize(
    ("state", "known", "eta"),
    [
        (AgentState.WAITING_FOR_ENGINE, LOADED, "1m10s"),
        (AgentState.WAITING_FOR_ENGINE, None, None),
        (AgentState.LOADING, LOADED, "1m10s"),
        (AgentState.LOADING, None, None),
    ],
)
def test_before_the_agent_can_tell_the_eta_comes_from_loads_of_before(
    state: AgentState, known: Any, eta: str | None
) -> None:
    service = a_service(status={"loadTimes": known} if known else None)
    report = AgentReport(state, "", "", 0, 200, None)
    pod = pod_of(service, report=report, scheduled_at=NOW - timedelta(seconds=20))
    plan = decide(service, caches=[warm_cache(service, totalBytes=200)], pods=[pod])
    assert plan.status is not None
    assert (plan.status.get("loading") or {}).get("eta") == eta


def test_a_replica_that_becomes_ready_teaches_how_long_a_load_takes() -> None:
    service = a_service(status={"readyReplicas": 0})
    began = NOW - timedelta(seconds=100)
    report = AgentReport(
        AgentState.SERVING, "", "", 200, 200, None, began + timedelta(seconds=30), 60.0, 5.0, 200, 0, 1
    )
    pod = pod_of(
        service, ready=True, report=report, created=began, scheduled_at=began + timedelta(seconds=2), ready_at=NOW
    )  # fmt: skip
    plan = decide(service, caches=[warm_cache(service)], pods=[pod])
    assert plan.status is not None
    (kind,) = plan.status["loadTimes"]["kinds"]
    assert (kind["tier"], kind["p50Seconds"], kind["count"]) == ("OnDisk", 100, 1)
    later = a_service(status=plan.status)
    assert decide(later, caches=[warm_cache(service)], pods=[pod]).status == plan.status


def test_a_replica_on_weights_that_were_put_aside_is_told_and_another_is_asked_for() -> None:
    service = a_service()
    first = decide(service, caches=[warm_cache(service)])
    revision = str(first.status["revision"])  # type: ignore[index]
    pod = a_pod("p", revision, ready=True, created=NOW)
    name = names.child_name("llama", revision, GPUType("nvidia-l4"))
    there = [DeploymentView(name, revision, "nvidia-l4", 1, None)]
    quarantined = [{"name": "n1", "time": "2026-01-01T00:00:00Z"}]
    plan = decide(
        service, caches=[warm_cache(service, quarantined=quarantined)], pods=[pod], deployments=there
    )
    assert applied(plan)[f"Deployment/{name}"]["spec"]["replicas"] == 2
    assert (reason(plan), status(plan, "WeightsQuarantined")) == ("Serving", "True")
    assert [(event.reason, event.warning) for event in plan.events if event.warning] == [
        ("WeightsCorrupt", True)
    ]
    more = a_pod("q", revision, ready=False, created=NOW + timedelta(seconds=9))
    again = decide(
        a_service(status=plan.status),
        caches=[warm_cache(service, quarantined=quarantined)],
        pods=[pod, more],
        deployments=there,
    )
    assert reason(again) == "Serving", "the one more that loads is none that is missing"
    assert not [event for event in again.events if event.warning], "told once"
    right = decide(service, caches=[warm_cache(service)], pods=[pod], deployments=there)
    assert applied(right)[f"Deployment/{name}"]["spec"]["replicas"] == 1
