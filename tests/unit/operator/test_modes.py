"""Weights on a shared volume and in an image: what is made, what waits for what, and what is said."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.controller.disks import entries
from preheat.controller.keys import mounted_key
from preheat.controller.view import View
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.nodes import Held, NodeObservation, decide_node
from preheat.decide.observed import DeploymentView, JobState, JobView, KeeperReport, PodView, WarmerReport
from preheat.decide.plan import Apply, Delete, LabelNode, Plan
from preheat.decide.serving import decide_service
from preheat.decide.sites import GONE_SECONDS
from preheat.decide.wish import ServiceObservation
from preheat.resources import names, serving
from preheat.resources.caching import cache_key, same_source

from tests.builders import a_cache, a_node, a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()
DIGEST = f"sha256:{'4f' * 32}"
OTHER = f"sha256:{'aa' * 32}"
TAG = "oci://registry.example:5000/models/llama:v3"
BY_DIGEST = f"oci://registry.example:5000/models/llama@{DIGEST}"
REFERENCE = f"registry.example:5000/models/llama@{DIGEST}"
SHARED = {"mode": "Shared", "claimName": "weights"}
IMAGE = {"mode": "Image"}


def a_job(site: str, state: JobState = JobState.ACTIVE, ended: datetime | None = None) -> JobView:
    return JobView(f"job-{site}", f"uid-{site}", site, state, ended, deleting=False)


def long_ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def of_cache(cache: ModelCache, **seen: Any) -> Plan:
    given: dict[str, Any] = {"nodes": [a_node()], "jobs": [], "reports": {}, "pods": {}, "paths": {}}
    return decide_cache(cache, CacheObservation(**{**given, **seen}), CONFIG, NOW)


def of_service(service: LLMDeployment, **seen: Any) -> Plan:
    given: dict[str, Any] = {"nodes": [a_node()], "deployments": [], "pods": [], "caches": [], "children": []}
    return decide_service(service, ServiceObservation(**{**given, **seen}), CONFIG, NOW)


def made(plan: Plan, kind: str) -> list[dict[str, Any]]:
    return [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == kind]


def said(plan: Plan, kind: str = "Ready") -> dict[str, Any]:
    assert plan.status is not None
    return next(c for c in plan.status["conditions"] if c["type"] == kind)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def told_to(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pod["containers"][0]["env"][0]["value"])
    return found


def shared(**spec: Any) -> ModelCache:
    return a_cache(storage=SHARED, **spec)


def an_image(uri: str = BY_DIGEST, source: dict[str, Any] | None = None, **given: Any) -> ModelCache:
    return a_cache(source={"uri": uri, **(source or {})}, storage=IMAGE, **given)


def an_image_service(uri: str = BY_DIGEST, model: dict[str, Any] | None = None, **spec: Any) -> LLMDeployment:
    return a_service(model={"uri": uri, **(model or {})}, cache=IMAGE, **spec)


def cache_of(service: LLMDeployment, **status: Any) -> ModelCache:
    """The cache that a service makes for itself, as it is read back."""
    (manifest,) = made(of_service(service), "ModelCache")
    return a_cache(
        manifest["metadata"]["name"], status, manifest["metadata"]["labels"],
        source=manifest["spec"]["source"], storage=manifest["spec"]["storage"],
    )  # fmt: skip


# --- shared: the volume


def test_a_shared_volume_gets_one_warmer_and_no_volume_of_ours() -> None:
    plan = of_cache(shared(), nodes=[a_node("n1"), a_node("n2")])
    (job,) = made(plan, "Job")
    assert made(plan, "PersistentVolume") == made(plan, "PersistentVolumeClaim") == []
    pod = pod_of(job)
    assert pod["volumes"] == [{"name": "warm", "persistentVolumeClaim": {"claimName": "weights"}}]
    assert told_to(pod)["destination"] == f"/cache/.preheat/default/{cache_key(shared())}"
    assert plan.status is not None
    assert plan.status["nodeSummary"] == "shared"
    assert [n["name"] for n in plan.status["nodes"]] == ["Shared"]


def test_its_warmer_runs_where_replicas_may() -> None:
    """A volume that is made for its first pod is made where that pod is."""
    placed = shared(placement={"gpuTypes": ["nvidia-l4"], "nodeSelector": {"zone": "a"}})
    (job,) = made(of_cache(placed), "Job")
    terms = pod_of(job)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    wanted = {"key": "zone", "operator": "In", "values": ["a"]}
    assert all(wanted in term["matchExpressions"] for term in terms["nodeSelectorTerms"])
    (anywhere,) = made(of_cache(shared()), "Job")
    assert "affinity" not in pod_of(anywhere)


def test_a_shared_volume_is_ready_when_its_warmer_has_ended_well() -> None:
    at_work = of_cache(
        shared(), jobs=[a_job("Shared")], reports={"Shared": WarmerReport("Fetching", 3, 10, 100.0, 7.0)}
    )
    assert said(at_work)["message"] == "Claim weights does not hold the weights yet."
    assert at_work.status is not None
    assert (at_work.status["percent"], at_work.status["eta"]) == (30, "7s")
    done = of_cache(shared(), jobs=[a_job("Shared", JobState.COMPLETE, NOW)])
    assert (said(done)["status"], said(done)["message"]) == ("True", "Claim weights holds the weights.")
    assert done.status is not None
    assert (done.status["readyNodes"], done.status["desiredNodes"]) == (1, 1)
    assert not [w for w in done.writes if isinstance(w, Delete | LabelNode)]


def waiting_for(words: str) -> dict[str, PodView]:
    pod = a_pod(
        "w", job_node="Shared", phase="Pending", scheduled=False, unschedulable=words, node=None, ip=None
    )
    return {"Shared": pod}


@pytest.mark.parametrize(
    ("words", "reason", "stalled"),
    [
        ('0/2 nodes are available: persistentvolumeclaim "weights" not found.', "ReferenceMissing", "True"),
        ("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "ClaimNotBound", "False"),
    ],
)  # fmt: skip
def test_a_claim_that_is_missing_or_not_bound_is_told_by_name(words: str, reason: str, stalled: str) -> None:
    plan = of_cache(shared(), jobs=[a_job("Shared")], pods=waiting_for(words))
    assert said(plan)["reason"] == reason
    assert "weights" in said(plan)["message"]
    assert said(plan, "Stalled")["status"] == stalled
    cleared = of_cache(
        shared(status=plan.status),
        jobs=[a_job("Shared")],
        reports={"Shared": WarmerReport("Fetching", 1, 10, 0.0, None)},
    )
    assert said(cleared)["reason"] == "WeightsFetching"


def test_our_own_claims_on_node_disks_are_not_told_as_the_users() -> None:
    words = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    pod = a_pod("w", job_node="n1", phase="Pending", scheduled=False, unschedulable=words, node=None, ip=None)
    assert said(of_cache(a_cache(), jobs=[a_job("n1")], pods={"n1": pod}))["reason"] == "WeightsFetching"


WEEK = 604_800


def verified(
    age: float, verifier: JobView | None = None, report: KeeperReport | None = None, **more: Any
) -> Plan:
    """A pass over a cache whose warmer ended well so many seconds ago."""
    warmer = a_job("Shared", JobState.COMPLETE, NOW - timedelta(seconds=age))
    return of_cache(more.pop("cache", shared()), jobs=[warmer], verifier=verifier, verification=report)


def a_verifier(ended: float = 10, state: JobState = JobState.COMPLETE, created: float = 20) -> JobView:
    when = None if state is JobState.ACTIVE else NOW - timedelta(seconds=ended)
    return replace(a_job("SharedVerifier", state, when), created=NOW - timedelta(seconds=created))


def test_what_lies_on_a_shared_volume_is_hashed_every_week_and_nothing_is_removed() -> None:
    assert verified(WEEK - 100).writes == ()
    assert verified(WEEK - 100).requeue_after == 100
    (job,) = made(verified(WEEK + 1), "Job")
    assert job["metadata"]["labels"]["preheat.dev/component"] == "verifier"
    pod = job["spec"]["template"]["spec"]
    told, key = told_to(pod), cache_key(shared())
    assert (told["task"], told["root"], told["removes"]) == ("keep", "/cache/.preheat", False)
    assert told["keep"] == told["verify"] == {"default": [key]}
    assert pod["volumes"] == [{"name": "warm", "persistentVolumeClaim": {"claimName": "weights"}}]
    at_it = verified(WEEK + 1, a_verifier(state=JobState.ACTIVE))
    assert at_it.writes == ()
    assert at_it.status is not None
    assert at_it.status["readyNodes"] == 1, "while it is hashed it serves"
    assert verified(WEEK + 1, cache=shared(verifyIntervalSeconds=0)).writes == ()


def test_when_a_shared_volume_was_last_right_is_told() -> None:
    done = verified(WEEK + 1, a_verifier(), KeeperReport())
    assert done.writes == ()
    assert done.status is not None
    assert done.status["lastVerifiedTime"] == "2025-12-31T23:59:50Z"
    again = verified(3 * WEEK, a_verifier(ended=WEEK + 1), KeeperReport())
    assert [w.name for w in again.writes if isinstance(w, Delete)] == ["job-SharedVerifier"]


def test_a_verifier_that_failed_is_tried_again_later() -> None:
    failed = a_verifier(ended=10, state=JobState.FAILED)
    assert (verified(WEEK + 1, failed).writes, verified(WEEK + 1, failed).requeue_after) == ((), 290)
    late = verified(WEEK + 1, a_verifier(ended=301, state=JobState.FAILED))
    assert [w.name for w in late.writes if isinstance(w, Delete)] == ["job-SharedVerifier"]


def test_wrong_bytes_on_a_shared_volume_are_told_and_fetched_anew() -> None:
    report = KeeperReport(corrupt={cache_key(shared()): "a.gguf is not what its digest says"})
    found = verified(WEEK + 1, a_verifier(), report)
    assert [w.name for w in found.writes if isinstance(w, Delete)] == ["job-Shared"]
    then = of_cache(shared(), jobs=[], verifier=a_verifier(), verification=report)
    assert said(then)["reason"] == "WeightsCorrupt"
    assert len(made(then, "Job")) == 1, "a warmer"
    assert verified(5, a_verifier(), report).writes == (), "it was fetched anew since"


# --- shared: the pods


def shared_service(**spec: Any) -> LLMDeployment:
    return a_service(cache=SHARED, **spec)


def a_deployment(service: LLMDeployment, replicas: int) -> DeploymentView:
    revision, gpu = serving.revision_id(service), GPUType.NVIDIA_L4
    return DeploymentView(names.child_name(service.name, revision, gpu), revision, gpu, replicas, None)


READY = {"readyNodes": 1, "desiredNodes": 1}


@pytest.mark.parametrize(
    ("status", "there", "asked", "want"),
    [
        ({}, None, 2, 0),
        ({}, 0, 2, 0),
        (READY, None, 2, 2),
        (READY, 0, 2, 2),
        ({}, 2, 2, 2),
        ({}, 2, 3, 2),
        ({}, 2, 1, 1),
        ({"readyNodes": 0, "desiredNodes": 1}, 1, 2, 1),
    ],
)
def test_no_replica_is_added_before_the_volume_holds_the_weights_and_none_is_taken_for_it(
    status: dict[str, int], there: int | None, asked: int, want: int
) -> None:
    service = shared_service(replicas=asked)
    cache = cache_of(service, **status)
    deployments = [] if there is None else [a_deployment(service, there)]
    (deployment,) = made(of_service(service, caches=[cache], deployments=deployments), "Deployment")
    assert deployment["spec"]["replicas"] == want


def test_node_disks_need_no_such_gate() -> None:
    (deployment,) = made(of_service(a_service()), "Deployment")
    assert deployment["spec"]["replicas"] == 1


def test_pods_mount_the_published_folder_read_only_and_the_agent_looks() -> None:
    service = shared_service()
    plan = of_service(service)
    (deployment,), (manifest,) = made(plan, "Deployment"), made(plan, "ModelCache")
    pod = pod_of(deployment)
    key = cache_key(cache_of(service))
    claim = {"claimName": "weights", "readOnly": True}
    assert {"name": "weights", "persistentVolumeClaim": claim} in pod["volumes"]
    for container in (pod["containers"][0], pod["initContainers"][0]):
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "weights"]
        assert mount["readOnly"]
        assert mount["subPath"] == f".preheat/default/{key}/model"
    agent = next(e["value"] for e in pod["initContainers"][0]["env"] if e["name"] == "PREHEAT_AGENT_CONFIG")
    assert "checkWeights" not in agent, "it looks if nobody says otherwise"
    assert manifest["spec"]["storage"] == SHARED
    assert "nodes" not in manifest["spec"]["placement"]


def test_a_service_waits_with_the_caches_reason() -> None:
    cache = cache_of(shared_service())
    plan = of_cache(
        cache,
        jobs=[a_job("Shared")],
        pods=waiting_for("pod has unbound immediate PersistentVolumeClaims"),
    )
    waiting = of_service(shared_service(), caches=[cache_of(shared_service(), **(plan.status or {}))])
    assert said(waiting)["reason"] == "ClaimNotBound"
    assert said(waiting, "WeightsReady")["message"] == "Claim weights does not hold the weights yet."


def test_where_weights_wait_is_part_of_what_a_revision_is() -> None:
    """Its pods reach them otherwise. Node disks are not written down: ids from before modes stay what they are."""
    ids = {
        serving.revision_id(s)
        for s in (a_service(), shared_service(), a_service(cache={**SHARED, "claimName": "x"}))
    }
    assert len(ids) == 3
    assert serving.revision_id(a_service(cache={"mode": "Node"})) == serving.revision_id(a_service())
    assert serving.revision_id(a_service(cache={"warmNodes": 2})) == serving.revision_id(a_service())
    keys = {cache_key(c) for c in (a_cache(), shared(), a_cache(storage={**SHARED, "claimName": "x"}))}
    assert len(keys) == 3


def test_a_cache_made_ahead_is_used_only_where_it_is_in_the_same_place() -> None:
    assert same_source(shared(), shared_service())
    assert not same_source(a_cache(), shared_service())
    assert not same_source(shared(), a_service())


# --- images


def test_each_node_pulls_by_digest_and_verifies_before_it_is_labelled() -> None:
    cache = an_image(source={"credentials": {"secretName": "pull"}})
    plan = of_cache(cache, nodes=[a_node("n1"), a_node("n2", caches=frozenset({cache_key(cache)}))])
    (job,) = made(plan, "Job")
    pod = pod_of(job)
    assert job["metadata"]["annotations"]["preheat.dev/node"] == "n1"
    assert pod["volumes"] == [
        {"name": "weights", "image": {"reference": REFERENCE, "pullPolicy": "IfNotPresent"}}
    ]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "weights", "mountPath": "/image", "readOnly": True}
    ]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert (told_to(pod)["task"], told_to(pod)["resolvedRevision"]) == ("verifyImage", DIGEST)
    assert made(plan, "PersistentVolume") == made(plan, "PersistentVolumeClaim") == []
    assert plan.status is not None
    assert plan.status["nodeSummary"] == "1/2"


def test_a_tag_is_asked_for_once_before_any_node_pulls() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    cache = an_image(TAG, placement={"nodes": 2})
    first = of_cache(cache, nodes=nodes)
    (job,) = made(first, "Job")
    assert job["metadata"]["annotations"]["preheat.dev/node"] == "Registry"
    assert told_to(pod_of(job))["task"] == "resolve"
    assert said(first)["reason"] == "WeightsFetching"
    assert TAG in said(first)["message"]
    answer = {"Registry": WarmerReport("Published", 0, 0, 0.0, None, resolved_revision=DIGEST)}
    asked = a_job("Registry", JobState.COMPLETE, NOW)
    second = of_cache(cache, nodes=nodes, jobs=[asked], reports=answer)
    assert second.status is not None
    assert second.status["resolvedRevision"] == DIGEST
    images = [pod_of(job)["volumes"][0]["image"]["reference"] for job in made(second, "Job")]
    assert images == [REFERENCE, REFERENCE]
    moved = {"Registry": WarmerReport("Published", 0, 0, 0.0, None, resolved_revision=OTHER)}
    known = an_image(TAG, placement={"nodes": 2}, status=second.status)
    third = of_cache(known, nodes=nodes, jobs=[asked], reports=moved)
    assert third.status is not None
    assert third.status["resolvedRevision"] == DIGEST, "what a cache knows does not move with the tag"


def test_a_registry_that_refuses_is_told() -> None:
    refused = WarmerReport("Failed", 0, 0, 0.0, None, "Unauthorized", "401")
    plan = of_cache(
        an_image(TAG), jobs=[a_job("Registry", JobState.FAILED, NOW)], reports={"Registry": refused}
    )
    assert said(plan)["reason"] == "WeightsFailed"
    assert "Unauthorized: 401" in said(plan)["message"]


def test_an_answer_that_is_lost_is_asked_for_again() -> None:
    plan = of_cache(an_image(TAG), jobs=[a_job("Registry", JobState.COMPLETE, NOW)])
    assert [w.name for w in plan.writes if isinstance(w, Delete)] == ["job-Registry"]


def test_a_service_makes_no_pod_before_its_tag_is_resolved() -> None:
    service = an_image_service(TAG)
    first = of_service(service)
    assert made(first, "Deployment") == made(first, "ControllerRevision") == []
    assert len(made(first, "ModelCache")) == 1
    waiting = of_service(service, caches=[cache_of(service, desiredNodes=1)])
    assert made(waiting, "Deployment") == []
    assert said(waiting)["reason"] == "WeightsFetching"
    resolved = of_service(service, caches=[cache_of(service, resolvedRevision=DIGEST, **READY)])
    (deployment,) = made(resolved, "Deployment")
    image = {"reference": REFERENCE, "pullPolicy": "Never"}
    assert {"name": "weights", "image": image} in pod_of(deployment)["volumes"]


def test_pods_go_only_to_nodes_with_the_label_and_never_pull() -> None:
    service = an_image_service(model={"credentials": {"secretName": "pull"}})
    (deployment,) = made(of_service(service), "Deployment")
    pod, template = pod_of(deployment), deployment["spec"]["template"]
    key = cache_key(cache_of(service))
    complete = {"key": f"cache.preheat.dev/{key}", "operator": "In", "values": ["ready"]}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"]
    assert all(complete in term["matchExpressions"] for term in terms["nodeSelectorTerms"])
    (weights,) = [v for v in pod["volumes"] if v["name"] == "weights"]
    assert weights["image"] == {"reference": REFERENCE, "pullPolicy": "Never"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    agent = next(e["value"] for e in pod["initContainers"][0]["env"] if e["name"] == "PREHEAT_AGENT_CONFIG")
    assert '"checkWeights": false' in agent, "no warmer publishes an image, so there is no manifest of ours"
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "weights"]
    assert mount == {"name": "weights", "mountPath": "/mnt/models", "readOnly": True}
    assert template["metadata"]["labels"]["preheat.dev/modelcache"] == cache_of(service).name
    assert mounted_key(deployment) == key, "while a Deployment names it, its nodes keep their labels"


@pytest.mark.parametrize(("cache", "waits"), [(a_cache(), True), (shared(), False), (an_image(), False)])
def test_only_node_disks_have_a_budget(cache: ModelCache, waits: bool) -> None:
    plan = of_cache(cache, nodes=[replace(a_node(), budget_bytes=1)])
    (job,) = made(plan, "Job")
    assert job["spec"].get("suspend", False) is waits


def test_images_take_no_room_and_are_left_to_no_keeper() -> None:
    key, node = "0123456789abcdef", a_node(caches=frozenset({"0123456789abcdef"}))
    image = Held(key, "default", on_disk=False, warmer=a_job("n1", JobState.COMPLETE, long_ago(9e7)))
    assert entries(View(), node, [image], NOW) == []
    assert decide_node(NodeObservation(node, [image]), CONFIG, NOW).writes == (), "nor verified again"
    gone = replace(image, wanted=False)
    plan = decide_node(NodeObservation(node, [gone]), CONFIG, NOW)
    assert plan.writes == (LabelNode("n1", {f"cache.preheat.dev/{key}": None}, ""),)


def test_who_uses_a_shared_folder_is_known() -> None:
    service = shared_service()
    (deployment,) = made(of_service(service), "Deployment")
    assert mounted_key(deployment) == cache_key(cache_of(service))


def stored(service: LLMDeployment, caches: list[ModelCache]) -> dict[str, Any]:
    (manifest,) = made(of_service(service, caches=caches), "ControllerRevision")
    return {**manifest, "revision": 1}


def test_a_tag_that_moved_changes_no_revision() -> None:
    service = an_image_service(TAG, hardware={"gpu": {"types": ["nvidia-l4", "nvidia-a10g"]}})
    revision = stored(service, [cache_of(service, resolvedRevision=DIGEST, **READY)])
    moved = cache_of(service, resolvedRevision=OTHER, **READY)
    plan = of_service(service, children=[revision], caches=[moved], nodes=[a_node("a", "NVIDIA-A10G")])
    references = {
        v["image"]["reference"]
        for d in made(plan, "Deployment")
        for v in pod_of(d)["volumes"]
        if v["name"] == "weights"
    }
    assert references == {REFERENCE}, "also on another GPU type"
    assert said(plan)["reason"] == "WeightsFailed"
    assert "the tag has moved" in said(plan)["message"]
    (manifest,) = made(plan, "ModelCache")
    assert manifest["metadata"]["annotations"]["preheat.dev/resolved"] == DIGEST
    anew = an_image(TAG).model_copy(update={"annotations": manifest["metadata"]["annotations"]})
    (job,) = made(of_cache(anew), "Job")
    assert pod_of(job)["volumes"][0]["image"]["reference"] == REFERENCE, "made again, it takes the same image"


# --- images that a kubelet has removed


@pytest.mark.parametrize(
    ("jobs", "heals"),
    [
        ([a_job("n1", JobState.COMPLETE, long_ago(GONE_SECONDS + 1))], True),
        ([a_job("n1", JobState.COMPLETE, long_ago(GONE_SECONDS - 1))], False),
        ([], True),
    ],
)
def test_a_node_without_the_image_loses_its_label_and_pulls_again(jobs: list[JobView], heals: bool) -> None:
    cache = an_image()
    key = cache_key(cache)
    nodes = [a_node("n1", caches=frozenset({key})), a_node("n2", caches=frozenset({key}))]
    plan = of_cache(
        cache, nodes=nodes, jobs=[*jobs, a_job("n2", JobState.COMPLETE, long_ago(9999))], missed={"n1"}
    )
    changes = [w for w in plan.writes if isinstance(w, Delete | LabelNode)]
    label = LabelNode("n1", {f"cache.preheat.dev/{key}": None}, "")
    job = [Delete("Job", "default", "job-n1", "uid-n1")] if jobs else []
    assert changes == ([*job, label] if heals else []), (
        "the Job first: while it is there the label comes back"
    )
    (again,) = made(of_cache(cache, nodes=[a_node("n1"), nodes[1]]), "Job")
    assert again["metadata"]["annotations"]["preheat.dev/node"] == "n1"


def test_a_pod_whose_image_is_gone_says_how_it_goes_on() -> None:
    service = an_image_service()
    words = f'Container image "{REFERENCE}" is not present with pull policy of Never'
    pod = a_pod(
        revision=serving.revision_id(service), waiting_reason="ErrImageNeverPull", waiting_message=words,
        phase="Pending",
    )  # fmt: skip
    plan = of_service(service, caches=[cache_of(service, **READY)], pods=[pod])
    assert said(plan)["reason"] == "ImageUnavailable"
    assert "pulls and verifies it again" in said(plan)["message"]
    another = PodView(**{f: getattr(pod, f) for f in pod.__dataclass_fields__ if f != "waiting_message"}, waiting_message='"engine:1"')  # fmt: skip
    plan = of_service(service, caches=[cache_of(service, **READY)], pods=[another])
    assert "pulls and verifies" not in said(plan)["message"], "the engine's own image is the user's matter"
