"""A ModelCache that a person made is deleted and made again with other weights, under the name that a revision has pinned."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.constants import ANNOTATION_ROLLBACK_TO
from preheat.api.llmdeployment import LLMDeployment, StorageTier
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.decide.autoscale import ScalingObservation
from preheat.decide.avoidance import decide_avoidance
from preheat.decide.capacity import GPUUse
from preheat.decide.loads import expected
from preheat.decide.observed import AgentReport, AgentState, DeploymentView, PodView
from preheat.decide.plan import Apply, Delete, Plan
from preheat.decide.scaling import Memory
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation, scale
from preheat.resources import names, serving
from preheat.resources.caching import cache_key
from preheat.resources.serving import Revision, parse_controller_revision

from tests.builders import a_cache, a_node, a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()
DIGEST = f"sha256:{'1' * 64}"
SHARED = {"mode": "Shared", "claimName": "models"}
OTHER = {"uri": "http://store/other/"}
SERVICE = a_service()


def made_ahead(**spec: Any) -> ModelCache:
    """A ModelCache of one name that is complete, whatever it holds."""
    nodes = [{"name": "n1", "state": "Ready", "percent": 100}]
    status = {"readyNodes": 1, "desiredNodes": 1, "percent": 100, "nodes": nodes}
    return a_cache("ahead", status=status, **spec)


def view(service: LLMDeployment, replicas: int = 1) -> DeploymentView:
    revision, gpu = serving.revision_id(service), service.spec.hardware.gpu.types[0]
    return DeploymentView(names.child_name(service.name, revision, gpu), revision, gpu, replicas, None)


def pinned(service: LLMDeployment, number: int = 1, cache: str = "ahead") -> dict[str, Any]:
    gpu, resolved = service.spec.hardware.gpu.types[0], DIGEST if service.spec.cache.mode == "Image" else ""
    revision = serving.render_revision(service, gpu, number, cache, CONFIG, resolved)
    return serving.make_controller_revision(service, revision)


def pod(service: LLMDeployment, name: str = "p", **fields: Any) -> PodView:
    return a_pod(name, serving.revision_id(service), **fields)


def decide(service: LLMDeployment, cache: ModelCache, *pods: PodView, **seen: Any) -> Plan:
    """Decide with one node that holds what the cache holds now."""
    given: dict[str, Any] = {
        "nodes": [a_node(caches=frozenset({cache_key(cache)}))],
        "deployments": [view(service)], "pods": pods, "caches": [cache], "children": [pinned(service)],
    }  # fmt: skip
    return decide_service(service, ServiceObservation(**{**given, **seen}), CONFIG, NOW)


def told(plan: Plan, kind: str) -> tuple[str, str, str]:
    assert plan.status is not None
    (found,) = [c for c in plan.status["conditions"] if c["type"] == kind]
    return found["status"], found["reason"], found["message"]


def replicas(plan: Plan, service: LLMDeployment) -> int:
    (found,) = [
        w.manifest for w in plan.writes
        if isinstance(w, Apply) and w.manifest["metadata"]["name"] == view(service).name
        and w.manifest["kind"] == "Deployment"
    ]  # fmt: skip
    return int(found["spec"]["replicas"])


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "another source": ({}, {}, {"source": OTHER}),
    "another revision of the same": ({"model": {"uri": "hf://o/m", "revision": "a"}},
                                     {"source": {"uri": "hf://o/m", "revision": "a"}},
                                     {"source": {"uri": "hf://o/m", "revision": "b"}}),
    "a volume instead of node disks": ({}, {}, {"storage": SHARED}),
    "another source on a volume": ({"cache": SHARED}, {"storage": SHARED}, {"storage": SHARED, "source": OTHER}),
    "another image": ({"model": {"uri": "oci://r/m:1"}, "cache": {"mode": "Image"}},
                      {"source": {"uri": "oci://r/m:1"}, "storage": {"mode": "Image"}},
                      {"source": {"uri": "oci://r/m:2"}, "storage": {"mode": "Image"}}),
}  # fmt: skip
"""What is asked for, the cache that was made for that, and what was made in its place."""


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_and_what_serves_goes_on(case: str) -> None:
    asked, had, has = CASES[case]
    service = a_service(**asked)
    before = decide(service, made_ahead(**had), pod(service, ready=True))
    assert told(before, "WeightsReady")[:2] == ("True", "WeightsReady")
    plan = decide(service, made_ahead(**has), pod(service, ready=True))
    assert told(plan, "WeightsReady")[:2] == ("False", "WeightsFailed")
    assert "ModelCache ahead holds other weights (" in told(plan, "WeightsReady")[2]
    assert told(plan, "Ready")[:2] == ("True", "Serving")
    assert plan.status is not None
    assert plan.status["cache"]["name"] == "ahead", "a change of it concerns this service"
    assert plan.status["cache"].get("readyNodes", 0) == 0
    assert not [w for w in plan.writes if isinstance(w, Delete)]
    assert [w for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"] == []
    deployments = [
        [w for w in p.writes if isinstance(w, Apply) and w.manifest["kind"] == "Deployment"]
        for p in (before, plan)
    ]
    assert deployments[0] == deployments[1], (
        "with another claim in its template all would start again at once"
    )


def test_who_waits_for_them_reads_what_to_do() -> None:
    plan = decide(SERVICE, made_ahead(source=OTHER), pod(SERVICE, scheduled=False, ip=None))
    assert told(plan, "Ready")[:2] == ("False", "WeightsFailed")
    assert told(plan, "Ready")[2].startswith(
        f"ModelCache ahead holds other weights (http://store/other/) than revision {serving.revision_id(SERVICE)} needs "
        "(http://store/model/): it was made again with another source or storage. Delete it and make it again with those that "
        "it had, or change the LLMDeployment: a new revision has its weights fetched."
    )
    assert told(plan, "Stalled")[0] == "True"


def test_a_cache_that_is_gone_is_told_the_same_way() -> None:
    plan = decide(SERVICE, made_ahead(), pod(SERVICE, ready=True), caches=[])
    assert told(plan, "WeightsReady")[:2] == ("False", "WeightsFailed")
    assert "ModelCache ahead is gone" in told(plan, "WeightsReady")[2]


N_CTX: dict[str, Any] = {"runtime": {"options": {"n_ctx": "512"}}}
NEW = a_service(**N_CTX)


def a_rollout(cache: ModelCache) -> Plan:
    """A full node: the old replica would have to make room for the new revision's, and the status tells that already."""
    old = pod(SERVICE, "old", ready=True)
    new = pod(NEW, "new", node=None, scheduled=False, ip=None, phase="Pending", created=NOW - timedelta(hours=1),
              unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")  # fmt: skip
    seen = {
        "nodes": [a_node(gpus=1, caches=frozenset({cache_key(cache)}))],
        "deployments": [view(SERVICE), view(NEW)],
        "children": [pinned(SERVICE, 1, "before"), pinned(NEW, 2)],
        "uses": [GPUUse("n1", "default/llama", 1)],
    }
    first = decide(NEW, cache, old, new, **seen)
    return decide(a_service(status=first.status, **N_CTX), cache, old, new, **seen)


def test_no_gpu_is_given_away_for_a_pod_that_cannot_load() -> None:
    assert replicas(a_rollout(made_ahead()), SERVICE) == 0, (
        "with its weights on the node the old one makes room"
    )
    assert replicas(a_rollout(made_ahead(source=OTHER)), SERVICE) == 1


def test_a_new_revision_has_its_weights_fetched_under_a_name_of_our_own() -> None:
    cache = made_ahead(source=OTHER)
    plan = decide(
        NEW, cache, pod(SERVICE, ready=True), deployments=[view(SERVICE)], children=[pinned(SERVICE)]
    )
    (made,) = [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"]
    assert made["metadata"]["name"] == names.cache_name(NEW.name, serving.cache_source(NEW))
    assert made["spec"]["source"]["uri"] == "http://store/model/"
    assert told(plan, "Ready")[:2] == ("False", "WeightsFetching")
    assert replicas(plan, SERVICE) == 1


def test_what_is_gone_back_to_needs_the_weights_that_it_was_made_with() -> None:
    """The spec asks for the other weights by now, and a person goes back to the revision before."""
    new = a_service(model=OTHER)
    back = new.model_copy(update={"annotations": {ANNOTATION_ROLLBACK_TO: "1"}})
    seen = {"deployments": [view(SERVICE), view(new)], "children": [pinned(SERVICE, 1), pinned(new, 2)]}
    serves = pod(new, ready=True)
    plan = decide(back, made_ahead(source=OTHER), serves, **seen)
    assert told(plan, "WeightsReady")[:2] == ("False", "WeightsFailed")
    assert (
        f"than revision {serving.revision_id(SERVICE)} needs (http://store/model/)" in told(plan, "Ready")[2]
    )
    assert replicas(plan, new) == 1, "nothing is lost"
    assert told(decide(back, made_ahead(), serves, **seen), "WeightsReady")[0] == "True"


def test_of_a_revision_that_an_old_operator_stored_the_claim_tells_what_it_needs() -> None:
    new, body = a_service(model=OTHER), pinned(SERVICE)
    body["data"] = {key: value for key, value in body["data"].items() if key != "spec"}
    back = new.model_copy(update={"annotations": {ANNOTATION_ROLLBACK_TO: "1"}})
    seen = {"deployments": [view(SERVICE), view(new)], "children": [body, pinned(new, 2)]}
    for cache, holds in ((made_ahead(), "True"), (made_ahead(source=OTHER), "False")):
        found = told(decide(back, cache, pod(new, ready=True), **seen), "WeightsReady")
        assert found[0] == holds
    assert f"than revision {serving.revision_id(SERVICE)} needs: it was" in found[2]


USED = {"name": "ahead", "readyNodes": 1, "desiredNodes": 1}


def test_the_next_load_is_not_thought_to_find_weights_that_are_others() -> None:
    service = a_service(status={"cache": USED}, scaling={"mode": "Reactive", "maxReplicas": 2})
    found = []
    for cache in (made_ahead(), made_ahead(source=OTHER)):
        scaling = ScalingObservation(None, None, Memory(), None)
        scaled = scale(service, ServiceObservation([], [], [], [cache], [], scaling=scaling), NOW)
        assert scaled is not None
        found.append(scaled.load)
    revision, gpu = serving.revision_id(service), service.spec.hardware.gpu.types[0].value
    tiers = (StorageTier.ON_DISK, StorageTier.COLD)
    assert found == [expected(None, revision, gpu, tier, None) for tier in tiers]
    assert found[0] != found[1]


@pytest.mark.parametrize("case", CASES)
def test_a_revision_knows_the_key_of_its_weights(case: str) -> None:
    asked, had, _ = CASES[case]
    revision = parse_controller_revision(pinned(a_service(**asked)))
    assert isinstance(revision, Revision)
    assert revision.key == cache_key(made_ahead(**had))


def test_a_node_is_avoided_for_the_weights_that_the_lost_pod_has() -> None:
    mine, other = made_ahead(), made_ahead(source=OTHER)
    report = AgentReport(AgentState.FAILED, "CanaryFailed", "no answer", 0, 0, None)
    nodes = [a_node(n, caches=frozenset({cache_key(mine), cache_key(other)})) for n in ("n1", "n2")]
    seen = ServiceObservation(
        nodes, [], [pod(SERVICE, "a", report=report), pod(SERVICE, "b", node="n2", ready=True)], [other], []
    )
    found = decide_avoidance(SERVICE, replace(seen, children=[pinned(SERVICE)]), NOW)
    assert [node.key for node in found.nodes] == [cache_key(mine)]
