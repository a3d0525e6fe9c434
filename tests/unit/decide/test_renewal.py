"""Replicas on weights that were found wrong are replaced one at a time, the last that serves never before another serves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from preheat.api.conditions import Reason
from preheat.api.gpu import GPUType
from preheat.api.modelcache import QuarantinedNode
from preheat.decide.fallback import Split
from preheat.decide.observed import DeploymentView, PodView
from preheat.decide.quarantine import Mount, runs_on_quarantined, still_quarantined
from preheat.decide.renewal import Renewal, renew
from preheat.decide.victims import COST
from preheat.decide.wish import ServiceObservation, Wish
from preheat.resources.caching import cache_key

from tests.builders import a_cache, a_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = "2026-01-01T00:00:00Z"


def bad(name: str = "bad", **more: Any) -> PodView:
    return a_pod(name, created=NOW - timedelta(hours=1), **{"ready": True, **more})


def good(name: str = "good", **more: Any) -> PodView:
    return a_pod(name, created=NOW + timedelta(seconds=1), **{"ready": True, **more})


def step(*pods: PodView, replicas: int = 1, asked: int = 1, copies: int = 1, refused: str | None = None,
         quarantined: bool = True) -> Renewal:  # fmt: skip
    nodes = [{"name": "n1", "time": FOUND}] if quarantined else []
    cache = a_cache("c", status={"readyNodes": copies, "desiredNodes": 1, "quarantined": nodes})
    deployment = DeploymentView("d", "r", "nvidia-l4", asked, refused)
    seen = ServiceObservation([], [deployment], pods, [cache], [])
    split = Split({GPUType("nvidia-l4"): replicas})
    wish = Wish(replicas, "r", split, (), "c", cache_key(cache), makes_cache=True)
    return renew("default", seen, wish)


def played(replicas: int, gpus: int, *pods: PodView) -> list[int]:
    """Play it to its end beside a ReplicaSet and a scheduler; return how many served after each step."""
    there, asked, served, number = list(pods), replicas, [], 0
    for _ in range(60):
        done = step(*there, replicas=replicas, asked=asked)
        prices = {price.name: price.cost for price in done.prices}
        there = [replace(pod, deletion_cost=prices[pod.name]) if pod.name in prices else pod for pod in there]
        asked = done.replicas.get("d", replicas)
        ranked = sorted(there, key=lambda p: (p.scheduled, p.ready, p.deletion_cost or 0, p.name))
        there = ranked[max(0, len(ranked) - asked) :]
        for _ in range(asked - len(there)):
            number += 1
            there.append(good(f"new-{number:02}", ready=False, scheduled=False, unschedulable="no GPU"))
        free = gpus - sum(pod.scheduled for pod in there)
        after = []
        for pod in there:
            if pod.scheduled:
                after.append(replace(pod, ready=True) if pod.name.startswith("new") else pod)
            elif free > 0:
                free -= 1
                after.append(replace(pod, scheduled=True, unschedulable=None))
            else:
                after.append(pod)
        there = after
        served.append(sum(pod.ready for pod in there))
        if done.verdict is None and served[-1] == replicas:
            break
    assert not [pod for pod in there if pod.name.startswith("bad")], "it comes to an end"
    assert len(there) == replicas
    return served


def test_where_all_is_right_nothing_is_done() -> None:
    assert step(bad(), quarantined=False) == Renewal()
    assert step(good()) == Renewal()
    assert step(bad(node="n2")) == Renewal()


def test_nothing_goes_before_a_verified_copy_is_there() -> None:
    done = step(bad(), copies=0)
    assert done.replicas == {"d": 1}
    assert done.verdict is not None
    assert done.verdict.reason is Reason.WEIGHTS_FETCHING
    assert "bad on n1" in done.verdict.message


def test_the_last_that_serves_goes_when_another_serves() -> None:
    assert step(bad()).replicas == {"d": 2}
    loads = step(bad(), good(ready=False), asked=2)
    assert (loads.replicas, loads.prices) == ({"d": 2}, [])
    serves = step(bad(), good(), asked=2)
    assert serves.replicas == {"d": 2}, "it is priced first, so that no other goes"
    assert [(price.name, price.cost) for price in serves.prices] == [("bad", COST)]
    assert step(bad(deletion_cost=COST), good(), asked=2).replicas == {"d": 1}


def test_the_last_that_serves_stays_where_no_gpu_is_free() -> None:
    waits = good(ready=False, scheduled=False, unschedulable="Insufficient nvidia.com/gpu")
    done = step(bad(), waits, asked=2)
    assert (done.replicas, done.prices) == ({"d": 2}, [])
    assert done.verdict is not None
    assert done.verdict.reason is Reason.NO_CAPACITY
    assert "bad is the only one that serves" in done.verdict.message
    assert "delete that pod" in done.verdict.message
    assert "kubectl" not in done.verdict.message, (
        "a command without the pod's namespace would look in another"
    )
    assert step(bad(), asked=2, refused="exceeded quota").verdict == done.verdict


def test_one_that_answers_nobody_goes_at_once() -> None:
    assert step(bad(ready=False)).replicas == {"d": 0}
    assert step(bad(ready=False), good(), replicas=2, asked=2).replicas == {"d": 1}
    loading = step(bad(ready=False), good(ready=False), replicas=2, asked=2)
    assert loading.replicas == {"d": 2}, "Kubernetes might take the one that loads"


def test_without_a_free_gpu_one_makes_room_if_another_serves() -> None:
    waits = good(ready=False, scheduled=False, unschedulable="Insufficient nvidia.com/gpu")
    first = step(bad("bad-1"), bad("bad-2"), waits, replicas=2, asked=3)
    assert [price.name for price in first.prices] == ["bad-1"]
    second = step(bad("bad-1", deletion_cost=COST), bad("bad-2"), waits, replicas=2, asked=3)
    assert second.replicas == {"d": 1}
    alone = step(bad("bad-2"), good(ready=False), waits, replicas=2, asked=3)
    assert alone.prices == [], "not before the one in its place serves"


def test_a_rollout_is_left_alone() -> None:
    assert step(bad(), a_pod("old", revision="before", ready=True)) == Renewal()


def test_played_to_its_end_there_is_always_one_that_serves() -> None:
    assert min(played(1, 2, bad())) == 1
    assert min(played(3, 4, *map(bad, ("bad-1", "bad-2", "bad-3")))) >= 3
    assert min(played(3, 3, *map(bad, ("bad-1", "bad-2", "bad-3")))) >= 2
    assert min(played(2, 2, bad("bad-1"), bad("bad-2", ready=False))) >= 1


def remembered(before: str | None, found: dict[str, datetime], labelled: str = "", age: float = 60) -> Any:
    known = [QuarantinedNode(name="n1", time=before)] if before else []
    mounts = [Mount("n1", NOW - timedelta(seconds=age))]
    return [node.time for node in still_quarantined(known, found, {labelled}, mounts)]


def test_what_was_put_aside_is_remembered_until_its_last_pod_is_gone() -> None:
    hour_ago, then = NOW - timedelta(hours=1), "2025-12-31T23:30:00Z"
    assert remembered(None, {"n1": hour_ago}) == ["2025-12-31T23:59:00Z"], "its pods that are there"
    assert remembered(None, {"n1": NOW}) == [FOUND]
    assert remembered(then, {"n1": hour_ago}, age=3600) == [then], "nothing is written again"
    assert remembered(then, {}, age=3600) == [then], "the keeper's words are gone"
    assert remembered(then, {}, age=60) == [], "pods that came later mount what is right"
    assert remembered(then, {"n1": NOW}) == [FOUND], "wrong once more"
    assert remembered(then, {"n1": hour_ago}, labelled="n1") == ["2025-12-31T23:59:00Z"], (
        "pods may come as long as it is labelled"
    )
    assert remembered(None, {"n2": hour_ago}) == []


def test_a_pod_runs_on_what_was_there_when_it_was_made() -> None:
    nodes = [QuarantinedNode(name="n1", time=FOUND)]
    assert runs_on_quarantined(bad(), nodes)
    assert not runs_on_quarantined(good(), nodes)
    assert not runs_on_quarantined(bad(node="n2"), nodes)
