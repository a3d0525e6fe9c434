"""One pass over a ModelCache: which nodes, which Jobs, which labels, and what is said."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.modelcache import MOST_NODES, ModelCache
from preheat.config import OperatorConfig
from preheat.decide.budget import Wait
from preheat.decide.caching import RETRY_SECONDS, CacheObservation, decide_cache
from preheat.decide.observed import JobState, JobView, Taint, WarmerReport
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, Plan
from preheat.resources.caching import Place, cache_key, make_claims, make_volumes, make_warmer, place_of
from preheat.resources.names import namespace_key

from tests.builders import a_cache, a_node, a_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()


def decide(cache: Any, **seen: Any) -> Plan:
    given: dict[str, Any] = {"nodes": [a_node()], "jobs": [], "reports": {}, "pods": {}, "paths": {}}
    return decide_cache(cache, CacheObservation(**{**given, **seen}), CONFIG, NOW)


def a_job(node: str = "n1", state: JobState = JobState.ACTIVE, ended: datetime | None = None) -> JobView:
    return JobView(f"job-{node}", f"uid-{node}", node, state, ended, deleting=False)


def warmed(plan: Plan) -> list[str]:
    jobs = [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "Job"]
    return [job["metadata"]["annotations"]["preheat.dev/node"] for job in jobs]


def ready(plan: Plan) -> dict[str, Any]:
    assert plan.status is not None
    return next(c for c in plan.status["conditions"] if c["type"] == "Ready")


def test_the_preferred_gpu_type_comes_first_then_who_has_it_then_the_lot() -> None:
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
    (other,) = {n["name"] for n in plan.status["nodes"]} - {"c"}
    assert other in {"b", "d"}
    assert warmed(plan) == [other]


def test_many_caches_spread_over_all_nodes_and_each_stays_where_it_is() -> None:
    nodes = [a_node(f"n{number}") for number in range(8)]
    spread: dict[str, int] = {}
    for number in range(160):
        cache = a_cache(name=f"cache-{number}", placement={"nodes": 1})
        (node,) = warmed(decide(cache, nodes=nodes))
        spread[node] = spread.get(node, 0) + 1
        assert warmed(decide(cache, nodes=[*reversed(nodes)])) == [node]
    assert len(spread) == 8
    assert max(spread.values()) < 2 * 160 / 8


def test_nodes_that_cannot_take_a_pod_get_no_weights() -> None:
    nodes = [
        a_node("off", ready=False),
        a_node("cordoned", schedulable=False),
        a_node("tainted", taints=(Taint("team", "x", "NoSchedule"),)),
        a_node("gpu-tainted", taints=(Taint("nvidia.com/gpu", "present", "NoSchedule"),)),
    ]
    assert warmed(decide(a_cache(), nodes=nodes)) == ["gpu-tainted"]


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


def test_why_a_try_failed_is_told_until_another_gets_further() -> None:
    """A Job tries for twelve minutes: who waits for it shall know at once that the name of the store is wrong."""
    failed = WarmerReport("Failed", 0, 0, 0, None, "SourceUnavailable", "no.such.host is not found")
    first = decide(a_cache(), jobs=[a_job()], reports={"n1": failed})
    assert ready(first)["reason"] == "WeightsFetching"
    assert (
        "n1: SourceUnavailable: no.such.host is not found; tried again by itself" in ready(first)["message"]
    )
    listing, fetching = WarmerReport("Listing", 0, 0, 0, None), WarmerReport("Fetching", 1, 10, 0, None)
    again = decide(a_cache(status=first.status), jobs=[a_job()], reports={"n1": listing})
    assert ready(again)["message"] == ready(first)["message"]
    further = decide(a_cache(status=again.status), jobs=[a_job()], reports={"n1": fetching})
    assert "SourceUnavailable" not in ready(further)["message"]


def said(reason: str, message: str = "in its words") -> dict[str, WarmerReport]:
    return {"n1": WarmerReport("Failed", 0, 0, 0, None, reason, message)}


def last_failure(plan: Plan) -> tuple[str, int] | None:
    assert plan.status is not None
    found = plan.status["nodes"][0].get("lastFailure")
    return (found["reason"], found["times"]) if found else None


def test_jobs_that_gave_up_are_counted_once_each_while_the_reason_is_the_same() -> None:
    def after(before: Plan | None, reports: dict[str, WarmerReport], *jobs: JobView) -> Plan:
        status = before.status if before is not None else None
        return decide(a_cache(status=status), jobs=list(jobs), reports=reports)

    def failed(minutes: int) -> JobView:
        return a_job(state=JobState.FAILED, ended=NOW + timedelta(minutes=minutes))

    first = after(None, said("NotFound"), failed(0))
    assert last_failure(first) == ("NotFound", 1)
    assert last_failure(after(first, said("NotFound"), failed(0))) == ("NotFound", 1), "the same Job"
    between = after(first, {})
    assert last_failure(between) == ("NotFound", 1), "its Job is gone"
    fetching = after(between, {"n1": WarmerReport("Fetching", 1, 10, 0, None)}, a_job())
    assert last_failure(fetching) == ("NotFound", 1), "it may come to the same end"
    passing = after(fetching, said("SourceUnavailable"), a_job())
    assert last_failure(passing) == ("NotFound", 1), "its Job has not given up"
    second = after(passing, said("NotFound"), failed(6))
    assert last_failure(second) == ("NotFound", 2)
    done = a_job(state=JobState.COMPLETE, ended=NOW + timedelta(minutes=12))
    assert last_failure(after(second, said("NotFound"), done)) == ("NotFound", 2), (
        "another pod of it did well"
    )
    silent = after(second, {}, failed(12))
    assert last_failure(silent) == ("NotFound", 2), "without last words it says nothing"
    assert last_failure(after(silent, said("NotFound"), failed(12))) == ("NotFound", 3), "they come later"
    assert last_failure(after(second, said("DigestMismatch"), failed(6))) == ("DigestMismatch", 1)
    key = cache_key(a_cache())
    ready = decide(a_cache(status=second.status), nodes=[a_node(caches=frozenset({key}))])
    assert last_failure(ready) is None


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
    serve = make_volumes(cache, place_of(cache, {}, CONFIG))[2]
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
    pod = make_warmer(cache, "n1", place_of(cache, {}, CONFIG), CONFIG)["spec"]["template"]["spec"]
    assert {"name": "credentials", "secret": {"secretName": "token", "defaultMode": 0o440}} in pod["volumes"]
    assert "token" not in pod["containers"][0]["env"][0]["value"]


def test_the_choice_does_not_hang_on_the_order_in_which_nodes_are_seen() -> None:
    nodes = [a_node(name) for name in ("c", "a", "d", "b")]
    cache = a_cache(placement={"nodes": 2})
    assert warmed(decide(cache, nodes=nodes)) == warmed(decide(cache, nodes=nodes[::-1]))


def test_a_node_that_is_at_it_is_not_given_up_for_one_that_comes_first_by_name() -> None:
    cache = a_cache(placement={"nodes": 1})
    plan = decide(cache, nodes=[a_node("a"), a_node("z")], jobs=[a_job("z")])
    assert plan.status is not None
    assert [node["name"] for node in plan.status["nodes"]] == ["z"]
    assert warmed(plan) == []


def test_a_node_that_holds_the_weights_is_kept_before_one_that_is_at_it() -> None:
    cache = a_cache(placement={"nodes": 1})
    nodes = [a_node("a"), a_node("z", caches=frozenset({cache_key(cache)}))]
    plan = decide(cache, nodes=nodes, jobs=[a_job("a")])
    assert plan.status is not None
    assert [node["name"] for node in plan.status["nodes"]] == ["z"]


@pytest.mark.parametrize(
    ("wanted", "nodes", "reason", "summary"),
    [
        (None, 2, "WeightsFetching", "0/2"),
        (1, 2, "WeightsFetching", "0/1"),
        (3, 2, "NoMatchingNode", "0/3"),
        (None, 0, "NoMatchingNode", "0/0"),
        (0, 2, "WeightsReady", "0/0"),
        (0, 0, "WeightsReady", "0/0"),
    ],
)
def test_what_is_wanted_is_compared_with_the_nodes_there_are(
    wanted: int | None, nodes: int, reason: str, summary: str
) -> None:
    placement = {} if wanted is None else {"nodes": wanted}
    plan = decide(a_cache(placement=placement), nodes=[a_node(f"n{n}") for n in range(nodes)])
    assert plan.status is not None
    assert (ready(plan)["reason"], plan.status["nodeSummary"]) == (reason, summary)


@pytest.mark.parametrize("after", [0.0, RETRY_SECONDS - 1, RETRY_SECONDS, RETRY_SECONDS + 1])
def test_a_failed_warmer_is_replaced_after_its_time_and_not_before(after: float) -> None:
    job = a_job(state=JobState.FAILED, ended=NOW - timedelta(seconds=after))
    plan = decide(a_cache(), jobs=[job])
    gone = [w.name for w in plan.writes if isinstance(w, Delete)]
    assert gone == (["job-n1"] if after > RETRY_SECONDS else [])
    assert plan.requeue_after < RETRY_SECONDS, "somebody must look again in time"
    assert warmed(plan) == [], "its name is still taken"


def test_a_job_that_is_being_deleted_is_waited_for() -> None:
    leaving = JobView("job-n1", "uid", "n1", JobState.FAILED, NOW - timedelta(days=1), deleting=True)
    plan = decide(a_cache(), jobs=[leaving])
    assert [w for w in plan.writes if isinstance(w, Delete)] == []
    assert warmed(plan) == [], "its name is taken"
    assert "JobLeaving: Job job-n1 is being deleted" in ready(plan)["message"]


def test_a_job_that_hangs_in_deletion_holds_up_no_other_node() -> None:
    """It was told to fetch from the source, over and over, and the others waited for it."""
    nodes = [a_node(name) for name in ("n1", "n2", "n3")]
    keys = {"keys": [{"kid": "one", "kty": "RSA"}]}
    (first,) = warmed(decide(a_cache(), nodes=nodes, issuer_keys=keys))
    hangs = replace(a_job(first), deleting=True)
    (other,) = warmed(decide(a_cache(), nodes=nodes, issuer_keys=keys, jobs=[hangs]))
    assert other != first


def test_a_job_of_a_node_that_is_only_away_for_a_moment_stays() -> None:
    plan = decide(a_cache(), nodes=[a_node(ready=False)], jobs=[a_job()])
    assert [w for w in plan.writes if isinstance(w, Delete)] == []


PODS: dict[str, tuple[dict[str, Any], str | None]] = {
    "no room": ({"unschedulable": "0/3 nodes: Insufficient memory"}, "Unschedulable"),
    "no image": ({"waiting_reason": "ErrImagePull", "waiting_message": "not found"}, "ErrImagePull"),
    "nothing wrong": ({}, None),
}


@pytest.mark.parametrize("case", PODS)
def test_a_warmer_that_cannot_start_says_why(case: str) -> None:
    fields, reason = PODS[case]
    plan = decide(a_cache(), jobs=[a_job()], pods={"n1": a_pod(**fields)})
    assert plan.status is not None
    (node,) = plan.status["nodes"]
    assert (node["state"], node.get("reason")) == ("Pending", reason)
    if reason:
        assert f"n1: {reason}" in ready(plan)["message"]


def test_progress_is_asked_for_only_while_a_warmer_runs() -> None:
    cache = a_cache()
    running = decide(cache, jobs=[a_job()], pods={"n1": a_pod()})
    assert running.requeue_after == POLL_SECONDS
    holding = [a_node(caches=frozenset({cache_key(cache)}))]
    assert decide(cache, nodes=holding).requeue_after == RESYNC_SECONDS
    assert decide(cache, jobs=[a_job()], pods={"n1": a_pod(ip=None)}).requeue_after == RESYNC_SECONDS


def test_the_percentage_is_that_of_all_nodes_and_never_full_before_they_are() -> None:
    cache = a_cache()
    nodes = [a_node("a", caches=frozenset({cache_key(cache)})), a_node("b")]
    report = {"b": WarmerReport("Verifying", 1000, 1000, 0, None)}
    plan = decide(cache, nodes=nodes, jobs=[a_job("b")], reports=report)
    assert plan.status is not None
    assert [node["percent"] for node in plan.status["nodes"]] == [100, 99]
    assert (plan.status["percent"], plan.status["nodeSummary"]) == (99, "1/2")


def test_a_node_is_ready_when_its_label_says_so_and_not_when_its_warmer_does() -> None:
    """The scheduler goes by the label."""
    plan = decide(a_cache(), jobs=[a_job()], reports={"n1": WarmerReport("Published", 9, 9, 0, None)})
    assert plan.status is not None
    assert (plan.status["nodes"][0]["state"], plan.status["readyNodes"]) == ("Verifying", 0)
    assert ready(plan)["status"] == "False"


def test_what_was_found_out_about_the_source_is_not_forgotten() -> None:
    before = {"resolvedRevision": "abc", "manifestSHA256": "f" * 64, "totalBytes": 77}
    plan = decide(a_cache(status=before))
    assert plan.status is not None
    assert {key: plan.status[key] for key in before} == before


def test_a_second_pass_tells_the_same_and_nothing_twice() -> None:
    first = decide(a_cache())
    again = decide(a_cache(status=first.status))
    assert again.status == first.status
    assert again.events == ()
    assert again.writes == first.writes


def test_a_volume_can_be_claimed_by_its_own_claim_alone() -> None:
    cache = a_cache()
    for volume, claim in zip(
        make_volumes(cache, place_of(cache, {}, CONFIG)),
        make_claims(cache, place_of(cache, {}, CONFIG)),
        strict=True,
    ):
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        reference = volume["spec"]["claimRef"]
        assert (reference["name"], reference["namespace"]) == (claim["metadata"]["name"], cache.namespace)


def test_a_cache_lies_where_its_volumes_say_and_new_ones_where_the_installation_says() -> None:
    cache = a_cache()
    key, shared = cache_key(cache), namespace_key("default")
    new = place_of(cache, {}, CONFIG)
    assert (new.home, new.path) == ("/var/lib/preheat/default", f"/var/lib/preheat/default/{key}")
    moved = OperatorConfig(cache_root="/mnt/elsewhere")
    assert place_of(cache, {f"preheat-{shared}-warm": new.home}, moved) == new
    assert place_of(cache, {}, moved).home == "/mnt/elsewhere/default"


def shown(cache: ModelCache, place: Place) -> str:
    (serve,) = [v for v in make_volumes(cache, place) if v["metadata"]["name"].endswith("-serve")]
    path: str = serve["spec"]["local"]["path"]
    return path


def test_pods_are_shown_the_namespaces_folder_that_nobody_in_it_can_replace_by_a_link() -> None:
    cache = a_cache()
    key, home = cache_key(cache), "/var/lib/preheat/default"
    serve = f"preheat-{key}-serve"
    assert shown(cache, place_of(cache, {}, CONFIG)) == home
    assert shown(cache, place_of(cache, {serve: home}, CONFIG)) == home
    # A volume's path can never change: that of an older release stays as it is.
    older = place_of(cache, {serve: f"{home}/{key}"}, CONFIG)
    assert (shown(cache, older), older.path) == (f"{home}/{key}", f"{home}/{key}")
    # Its namespace's volumes are gone and made anew elsewhere.
    moved = place_of(cache, {serve: home}, OperatorConfig(cache_root="/mnt/elsewhere"))
    assert (shown(cache, moved), moved.path) == (home, f"{home}/{key}")
    assert [v["metadata"]["name"] for v in make_volumes(cache, moved)] == [
        f"preheat-{key}-{role}" for role in ("make", "warm", "serve")
    ]


def test_a_cache_of_an_older_release_keeps_its_own_volumes() -> None:
    cache = a_cache()
    key = cache_key(cache)
    old = place_of(cache, {f"preheat-{key}-serve": f"/var/lib/preheat/{key}"}, CONFIG)
    names = [f"preheat-{key}-{role}" for role in ("make", "warm", "serve")]
    assert [v["metadata"]["name"] for v in make_volumes(cache, old)] == names
    assert [c["metadata"]["name"] for c in make_claims(cache, old)] == names
    assert all("preheat.dev/modelcache" in c["metadata"]["labels"] for c in make_claims(cache, old))
    pod = make_warmer(cache, "n1", old, CONFIG)["spec"]["template"]["spec"]
    assert json.loads(pod["containers"][0]["env"][0]["value"])["destination"] == "/cache"


def test_a_warmer_whose_pod_is_refused_is_told_with_the_api_servers_words() -> None:
    job = replace(a_job(), podless=True, complaint="exceeded quota: q, used: pods=3, limited: pods=3")
    plan = decide(a_cache(placement={"nodes": 1}), jobs=[job], look_again=2.0)
    assert ready(plan)["reason"] == "PodsRefused"
    assert "n1: exceeded quota: q, used: pods=3, limited: pods=3" in ready(plan)["message"]
    assert plan.requeue_after == 2.0
    assert plan.status is not None
    (told,) = plan.status["nodes"]
    assert told["reason"] == "PodsRefused"
    again = decide(a_cache(placement={"nodes": 1}), jobs=[a_job()])
    assert ready(again)["reason"] == "WeightsFetching"


@pytest.mark.parametrize(
    ("fields", "reason", "told"),
    [
        ({"complaint": 'secret "hub-token" not found'}, "ReferenceMissing", "ReferenceMissing"),
        ({"unschedulable": 'persistentvolumeclaim "m" not found'}, "ReferenceMissing", "ReferenceMissing"),
        ({"complaint": "no room for volumes"}, "PodNotStarting", "PodNotStarting"),
        ({"unschedulable": "2 Insufficient cpu"}, "WeightsFetching", "Unschedulable"),
        ({"waiting_reason": "ImagePullBackOff"}, "WeightsFetching", "ImagePullBackOff"),
    ],
)
def test_a_warmer_that_does_not_start_says_why(fields: dict[str, str], reason: str, told: str) -> None:
    pod = a_pod("w", job_node="n1", phase="Pending", **fields)
    plan = decide(a_cache(placement={"nodes": 1}), jobs=[a_job()], pods={"n1": pod})
    assert ready(plan)["reason"] == reason
    assert next(iter(fields.values())) in ready(plan)["message"]
    assert plan.status is not None
    assert plan.status["nodes"][0]["reason"] == told
    stalled = next(c for c in plan.status["conditions"] if c["type"] == "Stalled")
    assert (stalled["status"] == "True") == (reason == "ReferenceMissing")


def test_that_no_node_matches_is_told_part_by_part() -> None:
    nodes = [
        a_node("a", labels={"zone": "x"}),
        a_node("b", "NVIDIA-A10G", ready=False),
        a_node("c", "NVIDIA-A10G", taints=(Taint("team", "x", "NoSchedule"),), labels={"zone": "x"}),
    ]
    cache = a_cache(placement={"gpuTypes": ["nvidia-a10g"], "nodeSelector": {"zone": "x"}, "nodes": 2})
    assert ready(decide(cache, nodes=nodes))["message"] == (
        "0 of 3 nodes match, 2 needed: 2 Ready and schedulable; 2 with gpuTypes nvidia-a10g (there are: nvidia-a10g, "
        "nvidia-l4); 2 with zone=x; 2 without a taint that is not tolerated (team). Add such a node, or ask for less."
    )


# --- room on the disks


def test_on_a_node_with_a_budget_a_warmer_waits_to_be_let_begin() -> None:
    def job(node: Any) -> dict[str, Any]:
        plan = decide(a_cache(), nodes=[node])
        (found,) = [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "Job"]
        return found

    assert "suspend" not in job(a_node())["spec"]
    assert job(a_node(budget_bytes=10**12))["spec"]["suspend"] is True


def suspended(node: str = "n1") -> JobView:
    return replace(a_job(node), suspended=True)


def test_why_there_is_no_room_is_told_in_numbers_and_nobody_waits_for_it() -> None:
    refused = {"n1": Wait("98 MB are needed, and 98 MB of the 150 MB are taken", refused=True)}
    plan = decide(a_cache(), jobs=[suspended()], waits=refused)
    assert ready(plan)["reason"] == "OverBudget"
    assert "98 MB of the 150 MB" in ready(plan)["message"]
    assert next(c for c in plan.status["conditions"] if c["type"] == "Stalled")["status"] == "True"  # type: ignore[index]
    soon = decide(a_cache(), jobs=[suspended()], waits={"n1": Wait("waits until others are gone")})
    assert ready(soon)["reason"] == "WeightsFetching"
    assert "n1: MakingRoom: waits until others are gone" in ready(soon)["message"]


def test_a_warmer_that_found_no_room_waits_for_it_once_the_size_is_on_record() -> None:
    report = {"n1": WarmerReport("Failed", 0, 98, 0, None, "OverBudget", "98 B, 52 B are left")}
    failed = a_job(state=JobState.FAILED, ended=NOW)
    first = decide(a_cache(), jobs=[failed], reports=report)
    assert not [w for w in first.writes if isinstance(w, Delete)], "the size would be lost with it"
    assert first.status is not None
    assert first.status["totalBytes"] == 98
    assert first.requeue_after == POLL_SECONDS
    second = decide(a_cache(status=first.status), jobs=[failed], reports=report)
    assert [w.name for w in second.writes if isinstance(w, Delete)] == ["job-n1"]
    third = decide(a_cache(status=second.status), jobs=[])
    assert ready(third)["message"] == ready(first)["message"], "no word of it in between"


def test_weights_that_leave_are_told() -> None:
    cache = a_cache()
    plan = decide(cache, nodes=[a_node(leaving=frozenset({cache_key(cache)}))])
    assert ready(plan)["reason"] == "Evicted"
    assert plan.status is not None
    assert plan.status["nodes"][0]["state"] == "Evicting"


def test_wrong_bytes_are_told_until_they_are_fetched_anew() -> None:
    plan = decide(a_cache(), corrupt={"n1": "model.gguf: other bytes"})
    assert ready(plan)["reason"] == "WeightsCorrupt"
    assert "model.gguf: other bytes: put aside, and fetched anew" in ready(plan)["message"]
    assert warmed(plan) == ["n1"]


def test_when_weights_were_last_in_use_is_noted_when_the_last_replica_goes() -> None:
    used = decide(a_cache(), in_use=True)
    assert used.status is not None
    assert used.status["inUse"] is True
    assert "lastUsedTime" not in used.status
    after = decide(a_cache(status=used.status))
    assert after.status is not None
    assert (after.status["inUse"], after.status["lastUsedTime"]) == (False, "2026-01-01T00:00:00Z")
    later = decide(a_cache(status={**after.status, "lastUsedTime": "2025-01-01T00:00:00Z"}))
    assert later.status is not None
    assert later.status["lastUsedTime"] == "2025-01-01T00:00:00Z"


def test_a_warmer_that_says_that_it_has_no_room_looks_for_it_before_its_job_has_failed() -> None:
    report = {"n1": WarmerReport("Failed", 0, 98, 0, None, "OverBudget", "98 B, 52 B are left")}
    plan = decide(a_cache(), jobs=[a_job()], reports=report)
    assert ready(plan)["reason"] == "WeightsFetching"
    assert "MakingRoom: 98 B, 52 B are left" in ready(plan)["message"]


def test_a_node_without_room_is_left_for_one_that_has_some_and_it_stays_there() -> None:
    cache = a_cache(placement={"nodes": 1})
    nodes = [a_node("n1"), a_node("n2")]
    refused = {"n1": Wait("full", refused=True)}
    plan = decide(cache, nodes=nodes, jobs=[suspended("n1")], waits=refused)
    assert warmed(plan) == ["n2"]
    assert [w.name for w in plan.writes if isinstance(w, Delete)] == ["job-n1"]
    after = decide(cache, nodes=nodes, jobs=[a_job("n2")])
    assert not [w for w in after.writes if isinstance(w, Delete)]
    assert warmed(after) == []


@pytest.mark.parametrize("reason", ["DiskError", "DiskFull"])
def test_a_node_whose_disk_failed_its_warmer_is_left_for_another(reason: str) -> None:
    """It was tried again for ever, beside nodes with good disks."""
    nodes = [a_node(name) for name in ("n1", "n2", "n3")]
    cache = a_cache(placement={"nodes": 1})
    (bad,) = warmed(decide(cache, nodes=nodes))
    failed = a_job(bad, JobState.FAILED, NOW)
    seen: dict[str, Any] = {"nodes": nodes, "jobs": [failed], "reports": {bad: a_failure(reason)}}
    here = a_cache(placement={"nodes": 1}, status={"nodes": [failing(bad, reason)]})
    (other,) = warmed(decide(here, **seen))
    assert other != bad

    at_it = {**seen, "jobs": [failed, a_job(other)]}
    after = decide(here, **at_it)
    assert after.status is not None
    assert [node["name"] for node in after.status["nodes"]] == [other]
    again = a_cache(placement={"nodes": 1}, status=after.status)
    assert decide(again, **at_it).status == after.status, "it stays there"
    gone = decide(here, nodes=nodes)
    assert bad not in warmed(gone), "its Job has gone, the status remembers it"


def test_where_every_disk_fails_or_the_source_does_a_node_is_not_left() -> None:
    nodes = [a_node(name) for name in ("n1", "n2", "n3")]
    (first,) = warmed(decide(a_cache(placement={"nodes": 1}), nodes=nodes))
    away = {first: a_failure("NotFound")}
    plan = decide(
        a_cache(placement={"nodes": 1}), nodes=nodes, jobs=[a_job(first, JobState.FAILED, NOW)], reports=away
    )
    assert warmed(plan) == []
    jobs = [a_job(node.name, JobState.FAILED, NOW) for node in nodes]
    full = decide(a_cache(placement={"nodes": 1}), nodes=nodes, jobs=jobs,
                  reports=dict.fromkeys(("n1", "n2", "n3"), a_failure("DiskFull")))  # fmt: skip
    assert warmed(full) == []
    assert ready(full)["reason"] == "WeightsFailed"


def failing(node: str, reason: str) -> dict[str, Any]:
    last = {"reason": reason, "time": "2026-01-01T00:00:00Z"}
    return {"name": node, "state": "Failed", "percent": 0, "lastFailure": last}


def a_failure(reason: str) -> WarmerReport:
    return WarmerReport("Failed", 0, 100, 0.0, None, reason, "as it is")


def test_the_nodes_that_a_rollout_takes_next_come_before_all_others() -> None:
    """Also before those that hold the weights already: what is there stays there, whether it is counted or not."""
    plain = a_cache(placement={"nodes": 2})
    key = frozenset({cache_key(plain)})
    nodes = [a_node("a", caches=key), a_node("b", caches=key), a_node("c"), a_node("d")]
    assert warmed(decide(plain, nodes=nodes)) == []
    told = plain.model_copy(update={"annotations": {"preheat.dev/nodes-first": "c,gone"}})
    plan = decide(told, nodes=nodes)
    assert warmed(plan) == ["c"]
    assert plan.status is not None
    assert len(plan.status["nodes"]) == 2


def test_a_cache_on_all_nodes_is_on_no_more_than_its_status_holds_and_says_so() -> None:
    cache = a_cache()
    nodes = [a_node(f"n{i}", caches=frozenset({cache_key(cache)})) for i in range(MOST_NODES + 1)]
    plan = decide(cache, nodes=nodes)
    assert plan.status is not None
    assert len(plan.status["nodes"]) == MOST_NODES
    assert "1001 nodes match, and a ModelCache is on 1000 of them at most" in ready(plan)["message"]
    assert "at most" not in ready(decide(cache, nodes=nodes[1:]))["message"]
