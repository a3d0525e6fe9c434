"""Images ahead of replicas: who pulls, who waits, what is told."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from preheat.api.constants import COMPONENT_PULLER
from preheat.api.llmdeployment import LLMDeployment
from preheat.decide.ahead import START_SECONDS, PullState, look_ahead
from preheat.decide.observed import JobState, JobView, PodView, Puller, WarmerReport
from preheat.decide.plan import RESYNC_SECONDS, Apply, Delete, Plan
from preheat.decide.refusals import with_refusal, without_pullers
from preheat.decide.rollout.preview import preview, times_of
from preheat.decide.serving import rollout_ahead
from preheat.decide.wish import ServiceObservation, make_wish, stored_revisions
from preheat.errors import InvalidSpec, Unavailable
from preheat.resources import names, serving
from preheat.resources.pulling import images_of, puller_name

from tests.builders import a_service
from tests.unit.decide.rollout.test_wiring import (
    CONFIG,
    NOW,
    OLD,
    decide,
    pod,
    ready,
    replicas,
    rev,
    scene,
    told,
)

NEW = a_service(replicas=2, runtime={"image": "r.example/engine:2"})
SERVING = (pod(OLD, "o1", "n1", ready=True), pod(OLD, "o2", "n2", ready=True))
REFUSED = {"waiting_reason": "ErrImagePull", "waiting_message": "r.example/engine:2: not found"}
LONG = timedelta(hours=1)


def images(service: LLMDeployment) -> Any:
    cache = names.cache_name(service.name, serving.cache_source(service))
    gpu_type = service.spec.hardware.gpu.types[0]
    return images_of(serving.render_revision(service, gpu_type, 1, cache, CONFIG).template)


def a_puller(
    node: str, state: JobState = JobState.ACTIVE, service: LLMDeployment = NEW, since: datetime = NOW, **fields: Any
) -> Puller:  # fmt: skip
    """One that has made its pod, which has a node and is not started, unless ``fields`` say otherwise."""
    name = puller_name(service, images(service), node)
    job = JobView(
        name, f"uid-{name}", node, state, None, deleting=False, created=since, component=COMPONENT_PULLER
    )
    given = {
        "phase": "Pending",
        "ip": None,
        "job_node": node,
        "scheduled_at": since,
        "created": since,
        **fields,
    }
    made: PodView = replace(pod(service, f"p-{node}", node), **given)
    return Puller(job, made)


def rolling(*pullers: Puller, new: LLMDeployment = NEW, pods: tuple[PodView, ...] = (), asked: int = 0,
            gpus: int = 1, warm: tuple[str, ...] = ("n1", "n2")) -> ServiceObservation:  # fmt: skip
    seen = scene(OLD, new, *SERVING, *pods, asked=(2, asked), gpus=gpus, warm=warm)
    return replace(seen, pullers=pullers)


def after(service: LLMDeployment, plan: Plan, **change: Any) -> LLMDeployment:
    """The service once that status is written."""
    status = {**(plan.status or {}), **change}
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return a_service(status=status, **spec)


def made(plan: Plan) -> list[str]:
    return [
        w.manifest["metadata"]["annotations"]["preheat.dev/node"] for w in plan.writes
        if isinstance(w, Apply) and w.manifest["kind"] == "Job"
    ]  # fmt: skip


def deleted(plan: Plan) -> list[str]:
    return [w.name for w in plan.writes if isinstance(w, Delete) and w.kind == "Job"]


def image_ready(plan: Plan) -> Any:
    assert plan.status is not None
    return next((c for c in plan.status["conditions"] if c["type"] == "ImageReady"), None)


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_rollout_to_a_new_image_begins_with_pullers_and_moves_nothing(gpus: int) -> None:
    """With a spare GPU as without: the image may not be to be had."""
    plan = decide(NEW, rolling(gpus=gpus))
    assert made(plan) == ["n1", "n2"]
    assert (replicas(plan, OLD), replicas(plan, NEW)) == (2, 0)
    assert told(plan)["step"] == "WaitingForImage"
    assert (image_ready(plan)["status"], image_ready(plan)["reason"]) == ("False", "ImagePulling")


def test_images_are_pulled_while_the_weights_are_on_their_way() -> None:
    seen = rolling(warm=())
    plan = decide(NEW, seen)
    assert made(plan) == ["n1", "n2"]
    assert told(plan)["step"] == "WaitingForWeights"


def test_the_rollout_goes_on_where_the_image_is() -> None:
    """The one on n2 goes: on n1 a new one would have to wait for its image."""
    waits = pod(NEW, "w", None)
    seen = rolling(a_puller("n1"), a_puller("n2", JobState.COMPLETE), pods=(waits,), asked=1)
    first = decide(NEW, seen)
    assert made(first) == []
    plan = decide(after(NEW, first), seen)
    assert (replicas(plan, OLD), replicas(plan, NEW)) == (1, 1)
    priced = [w.name for w in plan.writes if type(w).__name__ == "PricePod"]
    assert priced == ["o2"]


def test_why_pullers_are_refused_stays_told() -> None:
    first = without_pullers(
        NEW, decide(NEW, rolling()), InvalidSpec("admission webhook denied the request"), NOW
    )
    plan = decide(after(NEW, first), rolling(), NOW + timedelta(seconds=1))
    assert made(plan) == []
    assert image_ready(plan) == image_ready(first)
    assert "denied the request. Nobody waits for it" in image_ready(plan)["message"]
    assert "ImageNotPulled" not in [event.reason for event in plan.events]


def test_why_jobs_are_not_let_in_for_a_minute_stays_told() -> None:
    first = with_refusal(NEW, decide(NEW, rolling()), Unavailable("exceeded quota: jobs"), NOW)
    service = after(NEW, first)
    assert made(decide(service, rolling(), NOW + timedelta(seconds=59))) == ["n1", "n2"]
    plan = decide(service, rolling(), NOW + timedelta(seconds=61))
    assert made(plan) == []
    assert (image_ready(plan)["reason"], image_ready(plan)["message"]) == (
        "ImageNotPulled",
        "Images cannot be pulled ahead: exceeded quota: jobs. Nobody waits for it: a pod has its images pulled when it starts.",
    )


def test_where_one_puller_is_let_in_and_another_is_not_the_rollout_goes_on_without_it() -> None:
    """As with a quota of one Job: nothing waits for what the other node would have told."""
    new = pod(NEW, "a", "n1", ready=True), pod(NEW, "w", None)
    seen = scene(OLD, NEW, SERVING[1], *new, asked=(1, 2))
    seen = replace(seen, pullers=[a_puller("n1", JobState.COMPLETE)])
    first = decide(NEW, seen)
    assert (made(first), replicas(first, OLD)) == (["n2"], 1)
    service = after(NEW, without_pullers(NEW, first, Unavailable("exceeded quota: jobs"), NOW))
    for seconds in (1, 3600):
        plan = decide(service, seen, NOW + timedelta(seconds=seconds))
        assert made(plan) == []
        assert "exceeded quota: jobs" in image_ready(plan)["message"]
        service = after(service, plan)
    assert replicas(decide(service, seen, NOW + LONG), OLD) == 0


@pytest.mark.parametrize("fields", [{}, REFUSED], ids=["pulls", "cannot pull"])
def test_why_no_more_pullers_are_made_is_told_whatever_those_that_are_there_do(
    fields: dict[str, str],
) -> None:
    """It is read off the status: two that told in turns would each be a write, and each second one a Job that is refused."""
    seen = rolling(a_puller("n1", **fields))
    plan = without_pullers(NEW, decide(NEW, seen), InvalidSpec("denied"), NOW)
    for _ in range(2):
        plan = decide(after(NEW, plan), seen)
        assert (made(plan), image_ready(plan)["reason"]) == ([], "ImageNotPulled")


def test_what_was_not_known_of_one_node_lets_pullers_be_made_on_another() -> None:
    service, seen = settled(a_puller("n2", JobState.FAILED, phase="Failed"))
    told = decide(service, seen)
    assert image_ready(told)["reason"] == "ImageNotPulled"
    assert made(decide(after(service, told), replace(seen, pullers=[]))) == ["n2"]


def test_a_puller_without_a_place_is_looked_at_again_when_its_minute_is_over() -> None:
    no_place = {"scheduled": False, "scheduled_at": None, "unschedulable": "0/2 nodes: 2 Insufficient cpu."}
    seen = rolling(*(a_puller(node, **no_place) for node in ("n1", "n2")))
    assert decide(NEW, seen, NOW + timedelta(seconds=20)).requeue_after == 40
    late = decide(NEW, seen, NOW + timedelta(seconds=60))
    assert image_ready(late)["reason"] == "ImageNotPulled"
    assert decide(after(NEW, late), seen, NOW + timedelta(seconds=70)).requeue_after == RESYNC_SECONDS
    assert decide(NEW, rolling(a_puller("n1"), a_puller("n2"))).requeue_after == RESYNC_SECONDS


def test_where_a_stranger_holds_the_free_gpu_the_old_ones_node_gets_the_image_as_well() -> None:
    """By the numbers n2 has a free GPU, so it alone was to have the image. Without it on n1 nothing could ever go there."""
    old, new = a_service(replicas=1), a_service(replicas=1, runtime={"image": "r.example/engine:2"})
    waits = pod(new, "w", None, created=NOW - LONG)
    seen = scene(old, new, pod(old, "o1", "n1", ready=True), waits, asked=(1, 1))
    plan = decide(new, replace(seen, pullers=(a_puller("n2", JobState.COMPLETE, new),)))
    assert (made(plan), replicas(plan, old)) == (["n1"], 1)
    both = replace(seen, pullers=[a_puller(node, JobState.COMPLETE, new) for node in ("n1", "n2")])
    plan = decide(after(new, decide(new, both)), both)
    assert (made(plan), replicas(plan, old)) == ([], 0)


def test_a_clock_that_jumped_makes_no_wait_for_a_place_longer() -> None:
    """The pod was made a second ago: the scheduler has not looked again since the weights came."""
    old, new = a_service(replicas=1), a_service(replicas=1, runtime={"image": "r.example/engine:2"})
    waits = pod(new, "w", None, created=NOW - LONG, placeless_seconds=1.0)
    seen = scene(old, new, pod(old, "o1", "n1", ready=True), waits, asked=(1, 1))
    plan = decide(new, replace(seen, pullers=(a_puller("n2", JobState.COMPLETE, new),)))
    assert (made(plan), replicas(plan, old)) == ([], 1)


def test_an_image_that_other_replicas_run_costs_nothing() -> None:
    new = a_service(replicas=2, runtime={"options": {"n_ctx": "512"}})
    plan = decide(new, rolling(new=new))
    assert made(plan) == []
    assert image_ready(plan) is None
    assert replicas(plan, new) == 1


KEYS = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}
NAMES = a_service(replicas=2, template={"spec": {"containers": [{"name": "engine", "env": [KEYS]}]}})
MISSING = {"complaint": 'MountVolume.SetUp failed for volume "named" : secret "keys" not found'}
LACKS = {"complaint": 'MountVolume.SetUp failed for volume "named" : references non-existent secret key: k'}


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_secret_that_no_replica_named_yet_is_looked_for_before_anything_moves(gpus: int) -> None:
    plan = decide(NAMES, rolling(new=NAMES, gpus=gpus))
    assert made(plan) == ["n1", "n2"]
    assert (replicas(plan, OLD), replicas(plan, NAMES)) == (2, 0)


def test_a_secret_that_replicas_were_started_with_costs_nothing() -> None:
    new = a_service(replicas=2, template=NAMES.spec.template, runtime={"options": {"n_ctx": "512"}})
    serving = [pod(NAMES, "o1", "n1", ready=True), pod(NAMES, "o2", "n2", ready=True)]
    plan = decide(new, scene(NAMES, new, *serving, asked=(2, 0), gpus=1, warm=("n1", "n2")))
    assert made(plan) == []
    assert image_ready(plan) is None


@pytest.mark.parametrize(
    ("told", "words"), [(MISSING, 'secret "keys" not found'), (LACKS, 'key: k (in secret "keys")')]
)
def test_a_secret_that_is_missing_is_told_before_anything_moved_and_is_a_verdict_once_it_lasts(
    told: dict[str, Any], words: str
) -> None:
    pullers = [a_puller(node, service=NAMES, **told) for node in ("n1", "n2")]
    seen = rolling(*pullers, new=NAMES, asked=1)
    plan = decide(NAMES, seen)
    assert (replicas(plan, OLD), replicas(plan, NAMES)) == (2, 1)
    for condition in (ready(plan), image_ready(plan)):
        assert condition["reason"] == "ReferenceMissing"
        assert words in condition["message"]
    assert "Create it in namespace" in ready(plan)["message"]
    later = decide(NAMES, seen, NOW + LONG)
    (verdict,) = [
        w.manifest["metadata"]["annotations"]["preheat.dev/verdict"] for w in later.writes if isinstance(w, Apply)
    ]  # fmt: skip
    assert '"reason": "ReferenceMissing"' in verdict


def test_a_first_revision_pulls_for_itself() -> None:
    seen = scene(NEW, NEW, asked=(0, 0))
    plan = decide(NEW, replace(seen, deployments=[], children=[]))
    assert made(plan) == []
    assert replicas(plan, NEW) == 2


def test_an_image_that_is_not_to_be_had_is_told_before_anything_moved() -> None:
    seen = rolling(a_puller("n1", **REFUSED), a_puller("n2", **REFUSED), asked=1)
    plan = decide(NEW, seen)
    assert (replicas(plan, OLD), replicas(plan, NEW)) == (2, 1)
    assert ready(plan)["reason"] == "ImageUnavailable"
    assert "r.example/engine:2: not found" in ready(plan)["message"]
    assert image_ready(plan)["reason"] == "ImageUnavailable"


def test_it_is_a_verdict_once_it_lasts() -> None:
    seen = rolling(a_puller("n1", **REFUSED), a_puller("n2", **REFUSED), asked=1)
    plan = decide(NEW, seen, NOW + LONG)
    verdicts = [
        w.manifest["metadata"]["annotations"]["preheat.dev/verdict"] for w in plan.writes if isinstance(w, Apply)
    ]  # fmt: skip
    assert len(verdicts) == 1
    assert '"reason": "ImageUnavailable"' in verdicts[0]
    assert rev(OLD) in verdicts[0]


@pytest.mark.parametrize("pulls", [("PULLED", "UNAVAILABLE"), ("UNKNOWN", "UNAVAILABLE")])
def test_one_node_that_has_it_or_tells_nothing_is_enough_to_go_on(pulls: tuple[str, str]) -> None:
    state = JobState.COMPLETE if pulls[0] == "PULLED" else JobState.FAILED
    seen = rolling(a_puller("n1", state), a_puller("n2", **REFUSED), pods=(pod(NEW, "w", None),), asked=1)
    plan = decide(after(NEW, decide(NEW, seen)), seen)
    assert replicas(plan, OLD) == 1


def test_a_cluster_without_image_volumes_is_told_once_and_holds_nothing_up() -> None:
    nothing = WarmerReport("Failed", 0, 0, 0.0, None, "NoImageVolume", "nothing is mounted: Kubernetes 1.35")
    failed = [
        replace(a_puller(node, JobState.FAILED, phase="Failed"), report=nothing) for node in ("n1", "n2")
    ]
    seen = rolling(*failed, pods=(pod(NEW, "w", None),), asked=1)
    first = decide(NEW, seen)
    assert made(first) == []
    assert (image_ready(first)["status"], image_ready(first)["reason"]) == ("Unknown", "ImageNotPulled")
    assert "Kubernetes 1.35" in image_ready(first)["message"]
    assert [e.reason for e in first.events].count("ImageNotPulled") == 1
    plan = decide(after(NEW, first), seen)
    assert replicas(plan, OLD) == 1
    assert "ImageNotPulled" not in [e.reason for e in plan.events]


STARTS: dict[str, tuple[dict[str, Any], float, PullState]] = {
    "no pod yet": ({"pod": None}, 5, PullState.PULLING),
    "no pod for long: a quota, an admission": ({"pod": None}, START_SECONDS, PullState.UNKNOWN),
    "no place yet": ({"scheduled": False, "unschedulable": "Insufficient cpu"}, 5, PullState.PULLING),
    "no place for long": ({"scheduled": False, "unschedulable": "Insufficient cpu"}, 90, PullState.UNKNOWN),
    "at it for long": ({}, 3 * 3600, PullState.PULLING),
    "cannot be mounted": (
        {"waiting_reason": "ImageVolumeMountFailed", "waiting_message": "no such thing"}, 90, PullState.UNKNOWN),
    "cannot be created, as an old runtime says": (
        {"waiting_reason": "CreateContainerError", "waiting_message": "mkdir"}, 90, PullState.UNKNOWN),
    "a Secret is missing, told by the container": (
        {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "x" not found'}, 5,
        PullState.UNAVAILABLE),
    "a Secret is missing": ({"complaint": 'secret "x" not found'}, 5, PullState.UNAVAILABLE),
    "a Secret is missing for long": ({"complaint": 'secret "x" not found'}, 3600, PullState.UNAVAILABLE),
    "the kubelet complains of another mount": ({"complaint": "MountVolume failed"}, 90, PullState.UNKNOWN),
    "refused": (REFUSED, 5, PullState.UNAVAILABLE),
    "a name that is none": ({"waiting_reason": "InvalidImageName"}, 5, PullState.UNAVAILABLE),
    "done, and not yet told by the Job": ({"phase": "Succeeded"}, 5, PullState.PULLED),
    "failed, and not yet told by the Job": ({"phase": "Failed"}, 5, PullState.UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("case", STARTS)
def test_what_a_puller_shows(case: str) -> None:
    fields, age, want = STARTS[case]
    puller = a_puller("n1", **{k: v for k, v in fields.items() if k != "pod"})
    if "pod" in fields:
        puller = replace(puller, pod=None)
    seen = rolling(puller)
    stored = stored_revisions(NEW, seen)
    wish = make_wish(NEW, seen, stored, CONFIG, NOW)
    assert look_ahead(NEW, seen, wish, stored, NOW + timedelta(seconds=age)).state_on("n1") is want


def test_pullers_that_nobody_lets_in_hold_nothing_up_for_long() -> None:
    """An admission refuses them: it is told, tried for a minute, and then no more for this spec."""
    first = decide(NEW, rolling())
    assert first.status is not None
    refused = [
        {**c, "reason": "ChildRefused"} if c["type"] == "Ready" else c for c in first.status["conditions"]
    ]
    service = after(NEW, first, conditions=refused)
    still = decide(service, rolling(), NOW + timedelta(seconds=START_SECONDS - 1))
    assert (made(still), replicas(still, NEW)) == (["n1", "n2"], 0)
    plan = decide(service, rolling(), NOW + timedelta(seconds=START_SECONDS))
    assert (made(plan), replicas(plan, NEW)) == ([], 1)
    assert image_ready(plan)["reason"] == "ImageNotPulled"
    later = decide(after(NEW, plan), rolling(), NOW + timedelta(seconds=START_SECONDS + 1))
    assert (made(later), replicas(later, NEW)) == ([], 1)


def test_pullers_that_somebody_deletes_are_made_again() -> None:
    service = after(NEW, decide(NEW, rolling()))
    assert made(decide(service, rolling(), NOW + LONG)) == ["n1", "n2"]


def settled(
    *pullers: Puller, spare: str | None = "n2", **spec: Any
) -> tuple[LLMDeployment, ServiceObservation]:
    """One replica that serves on n1, and weights that are kept warm on n2."""
    service = a_service(replicas=1, cache={"warmNodes": 1}, runtime={"image": "r.example/engine:2"}, **spec)
    serves = [pod(service, "a", "n1", ready=True)] if service.spec.replicas else []
    warm = ("n1",) if spare is None else ("n1", spare)
    seen = scene(service, service, *serves, asked=(service.spec.replicas, 0), warm=warm)
    return service, replace(seen, pullers=pullers)


def test_at_rest_the_image_is_pulled_on_nodes_that_are_kept_warm() -> None:
    service, seen = settled()
    plan = decide(service, seen)
    assert made(plan) == ["n2"]
    assert ready(plan)["status"] == "True"
    done = replace(seen, pullers=(a_puller("n2", JobState.COMPLETE),))
    assert made(decide(service, done)) == deleted(decide(service, done)) == []
    assert image_ready(decide(service, done))["status"] == "True"


def test_without_a_spare_node_nothing_is_pulled_ahead() -> None:
    service, seen = settled(spare=None)
    plan = decide(service, seen)
    assert made(plan) == []
    assert image_ready(plan) is None


def test_an_image_that_a_spare_node_cannot_pull_is_told_beside_ready() -> None:
    service, seen = settled(a_puller("n2", **REFUSED))
    plan = decide(service, seen, NOW + LONG)
    assert (ready(plan)["reason"], image_ready(plan)["reason"]) == ("Serving", "ImageUnavailable")


def test_what_a_kubelet_says_in_turns_is_no_news_at_rest() -> None:
    """It tries again for days, and each of its words would be a write."""
    told = []
    for reason, words in (("ErrImagePull", "not found"), ("ImagePullBackOff", "Back-off pulling image")):
        service, seen = settled(a_puller("n2", waiting_reason=reason, waiting_message=words))
        told.append(image_ready(decide(service, seen, NOW + LONG)))
    assert told[0] == told[1]
    assert (
        told[0]["message"]
        == "0 of 1 nodes have the images of the pods; not to be had on n2: see the Events of pod p-n2."
    )


def test_a_puller_that_is_done_counts_though_a_strangers_container_keeps_its_pod() -> None:
    pulled = WarmerReport.from_json({"state": "Pulled", "images": 2})
    beside = replace(a_puller("n2", phase="Running", begun=True), report=pulled)
    seen = rolling(a_puller("n1"), beside, pods=(pod(NEW, "w", None),), asked=1)
    plan = decide(after(NEW, decide(NEW, seen)), seen)
    assert (replicas(plan, OLD), replicas(plan, NEW)) == (1, 1)


STALE = {
    "for another image": (a_puller("n2", JobState.COMPLETE, OLD), True),
    "on a node that is gone": (a_puller("n9", JobState.COMPLETE), True),
    "on a node that is not kept warm any more": (a_puller("n2", JobState.COMPLETE), True),
    "on the node of a replica": (a_puller("n1", JobState.COMPLETE), False),
    "left by a namesake": (replace(a_puller("n1", JobState.COMPLETE), orphan=True), True),
}


@pytest.mark.parametrize("case", STALE)
def test_pullers_go_when_nobody_needs_them(case: str) -> None:
    puller, goes = STALE[case]
    service, seen = settled(puller, spare=None)
    assert deleted(decide(service, seen)) == ([puller.job.name] if goes else [])


def test_going_back_waits_for_no_image_and_takes_the_pullers_of_the_failed_one_away() -> None:
    failing = (a_puller("n1", **REFUSED), a_puller("n2", **REFUSED))
    seen = rolling(*failing, asked=1)
    verdict = decide(NEW, seen, NOW + LONG)
    (written,) = [w.manifest for w in verdict.writes if isinstance(w, Apply)]
    children = [
        written if child["metadata"]["name"] == written["metadata"]["name"] else child for child in seen.children
    ]  # fmt: skip
    plan = decide(NEW, replace(seen, children=children), NOW + LONG)
    assert (replicas(plan, OLD), made(plan)) == (2, [])
    assert sorted(deleted(plan)) == sorted(puller.job.name for puller in failing)
    assert {c["type"]: c["reason"] for c in (plan.status or {})["conditions"]}[
        "RolledBack"
    ] == "ImageUnavailable"


def test_on_paper_replicas_move_when_the_image_is_there() -> None:
    question = rollout_ahead(NEW, rolling(), CONFIG, NOW)
    times, _ = times_of(NEW, question, None)
    found = preview(question, times)
    assert found is not None
    assert found.ends
    assert found.moments[0].at_seconds == times.image > 0
