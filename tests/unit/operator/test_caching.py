"""One pass over a ModelCache: which nodes, which Jobs, which labels, and what is said."""

from datetime import UTC, datetime, timedelta
from typing import Any

from preheat.config import OperatorConfig
from preheat.decide.caching import RETRY_SECONDS, CacheObservation, decide_cache
from preheat.decide.observed import JobState, JobView, Taint, WarmerReport
from preheat.decide.orphans import OrphanObservation, decide_orphans
from preheat.decide.plan import Apply, Delete, LabelNode, Plan
from preheat.resources.caching import cache_key, make_volumes, make_warmer

from tests.builders import a_cache, a_node

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()


def decide(cache: Any, **seen: Any) -> Plan:
    given: dict[str, Any] = {"nodes": [a_node()], "jobs": [], "reports": {}, "pods": {}}
    return decide_cache(cache, CacheObservation(**{**given, **seen}), CONFIG, NOW)


def a_job(node: str = "n1", state: JobState = JobState.ACTIVE, ended: datetime | None = None) -> JobView:
    return JobView(f"job-{node}", f"uid-{node}", node, state, ended, deleting=False)


def warmed(plan: Plan) -> list[str]:
    jobs = [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "Job"]
    return [job["metadata"]["annotations"]["preheat.dev/node"] for job in jobs]


def ready(plan: Plan) -> dict[str, Any]:
    assert plan.status is not None
    return next(c for c in plan.status["conditions"] if c["type"] == "Ready")


def test_the_preferred_gpu_type_comes_first_then_who_has_it_then_the_name() -> None:
    cache = a_cache(placement={"gpuTypes": ["nvidia-l4", "nvidia-a10g"], "nodes": 2})
    key = cache_key(cache)
    nodes = [
        a_node("a", "NVIDIA-A10G", caches=frozenset({key})),
        a_node("b", "NVIDIA-L4"),
        a_node("c", "NVIDIA-L4", caches=frozenset({key})),
        a_node("d", "NVIDIA-L4"),
    ]
    plan = decide(cache, nodes=nodes)
    assert plan.status is not None
    assert [n["name"] for n in plan.status["nodes"]] == ["b", "c"]
    assert warmed(plan) == ["b"]


def test_nodes_that_cannot_take_a_pod_get_no_weights() -> None:
    nodes = [
        a_node("off", ready=False),
        a_node("cordoned", schedulable=False),
        a_node("tainted", taints=(Taint("team", "x", "NoSchedule"),)),
        a_node("gpu-tainted", taints=(Taint("nvidia.com/gpu", "present", "NoSchedule"),)),
    ]
    assert warmed(decide(a_cache(), nodes=nodes)) == ["gpu-tainted"]


def test_a_node_is_labelled_when_its_warmer_is_done_and_not_before() -> None:
    cache = a_cache()
    active = decide(cache, jobs=[a_job()])
    assert not [w for w in active.writes if isinstance(w, LabelNode)]
    done = decide(cache, jobs=[a_job(state=JobState.COMPLETE)])
    assert [w for w in done.writes if isinstance(w, LabelNode)] == [
        LabelNode("n1", f"cache.preheat.dev/{cache_key(cache)}", "ready")
    ]


def test_a_node_that_has_it_needs_no_job() -> None:
    cache = a_cache()
    plan = decide(cache, nodes=[a_node(caches=frozenset({cache_key(cache)}))])
    assert warmed(plan) == []
    assert ready(plan)["status"] == "True"


def test_a_failed_warmer_is_told_and_tried_again_later() -> None:
    report = {"n1": WarmerReport("Failed", 0, 0, 0, None, "DigestMismatch", "other bytes")}
    fresh = decide(a_cache(), jobs=[a_job(state=JobState.FAILED, ended=NOW)], reports=report)
    assert ready(fresh)["reason"] == "WeightsFailed"
    assert "DigestMismatch: other bytes" in ready(fresh)["message"]
    assert not [w for w in fresh.writes if isinstance(w, Delete)]
    old = NOW - timedelta(seconds=RETRY_SECONDS + 1)
    stale = decide(a_cache(), jobs=[a_job(state=JobState.FAILED, ended=old)], reports=report)
    assert [w.name for w in stale.writes if isinstance(w, Delete)] == ["job-n1"]


def test_the_job_of_a_node_that_is_gone_goes() -> None:
    plan = decide(a_cache(), jobs=[a_job("gone")])
    assert [w.name for w in plan.writes if isinstance(w, Delete)] == ["job-gone"]


def test_progress_is_said_with_speed_and_time_left() -> None:
    report = {"n1": WarmerReport("Fetching", 250, 1000, 50_000_000, 15.0)}
    plan = decide(a_cache(), jobs=[a_job()], reports=report)
    assert plan.status is not None
    assert (plan.status["percent"], plan.status["speed"], plan.status["eta"]) == (25, "50 MB/s", "15s")
    assert plan.status["nodes"][0]["state"] == "Fetching"


def test_a_warmer_that_is_silent_for_a_moment_is_where_it_was() -> None:
    """Between its last answer and its last words nobody answers; a new one lists before it counts."""
    before = {"nodes": [{"name": "n1", "state": "Fetching", "percent": 93}]}
    silent = decide(a_cache(status=before), jobs=[a_job()])
    assert silent.status is not None
    assert silent.status["nodes"] == [{"name": "n1", "state": "Fetching", "percent": 93}]
    listing = decide(
        a_cache(status=before), jobs=[a_job()], reports={"n1": WarmerReport("Listing", 0, 0, 0, None)}
    )
    assert listing.status is not None
    assert listing.status["percent"] == 93
    anew = decide(a_cache(status=before))
    assert anew.status is not None
    assert anew.status["percent"] == 0, "no Job: it begins anew"


def test_no_node_is_said_with_numbers() -> None:
    plan = decide(a_cache(placement={"gpuTypes": ["nvidia-l4"]}), nodes=[a_node(product="NVIDIA-A10G")])
    assert ready(plan)["reason"] == "NoMatchingNode"
    assert "0 of 1 nodes" in ready(plan)["message"]


def test_only_complete_nodes_may_mount_what_pods_mount() -> None:
    cache = a_cache()
    serve = make_volumes(cache, CONFIG)[2]
    (term,) = serve["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": f"cache.preheat.dev/{cache_key(cache)}", "operator": "In", "values": ["ready"]}
    ]


def test_namespaces_never_share_a_folder() -> None:
    one = a_cache()
    other = one.model_copy(update={"namespace": "other"})
    assert cache_key(one) != cache_key(other)


def test_a_secret_is_mounted_where_it_is_needed_and_never_named_elsewhere() -> None:
    cache = a_cache(source={"credentials": {"secretName": "token"}})
    pod = make_warmer(cache, "n1", CONFIG)["spec"]["template"]["spec"]
    assert {"name": "credentials", "secret": {"secretName": "token", "defaultMode": 0o440}} in pod["volumes"]
    assert "token" not in pod["containers"][0]["env"][0]["value"]


def test_leftovers_that_no_owner_can_delete_are_taken_away() -> None:
    cache = a_cache()
    key = cache_key(cache)
    volumes = make_volumes(cache, CONFIG)
    released = {**volumes[0], "status": {"phase": "Released"}}
    nodes = [a_node(caches=frozenset({key, "dead"}))]
    alive = decide_orphans(OrphanObservation(frozenset({key}), volumes, nodes))
    assert alive.writes == (LabelNode("n1", "cache.preheat.dev/dead", None),)
    again = decide_orphans(OrphanObservation(frozenset({key}), [released], []))
    assert [w.name for w in again.writes if isinstance(w, Delete)] == [released["metadata"]["name"]]
    gone = decide_orphans(OrphanObservation(frozenset(), volumes, nodes))
    assert len([w for w in gone.writes if isinstance(w, Delete)]) == 3
