"""How replicas are split over GPU types: who is placed stays, who waits too long goes on."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.constants import ANNOTATION_APPLIED, FIELD_MANAGER
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.decide.capacity import SHORT_AFTER_SECONDS, Shortage, shortage
from preheat.decide.fallback import BACK_SECONDS, Split, split_over_types, status_of, warm_first, words_of
from preheat.decide.observed import DeploymentView, NodeView, PodView, Taint
from preheat.decide.plan import Adopt
from preheat.decide.serving import decide_service
from preheat.decide.target import Target, as_it_was
from preheat.decide.wish import ServiceObservation, make_wish
from preheat.resources import names, serving
from preheat.resources.serving import revision_id

from tests.builders import a_cache, a_node, a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
L4, A10G, T4 = GPUType.NVIDIA_L4, GPUType.NVIDIA_A10G, GPUType.NVIDIA_T4
FULL = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node affinity/selector."
VOLUME = "0/2 nodes are available: 2 node(s) had volume node affinity conflict."
BESIDE = "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match PersistentVolume's node affinity."
PATIENCE = 300
ONE_EACH = [a_node("l", gpus=1), a_node("a", "NVIDIA-A10G", gpus=1)]


def asked(**replicas: int) -> list[DeploymentView]:
    names = {"l4": L4, "a10g": A10G, "t4": T4}
    return [DeploymentView(name, "r", names[name].value, count, None) for name, count in replicas.items()]


def placed(name: str, gpu_type: GPUType, **fields: Any) -> PodView:
    return a_pod(name, gpu_type=gpu_type.value, ready=True, **fields)


def waits(name: str, gpu_type: GPUType, seconds: float, words: str = FULL) -> PodView:
    return a_pod(
        name, gpu_type=gpu_type.value, node=None, scheduled=False, unschedulable=words,
        created=NOW - timedelta(seconds=seconds),
    )  # fmt: skip


def split(
    replicas: int, nodes: Sequence[NodeView], deployments: Sequence[DeploymentView] = (), *pods: PodView,
    types: Sequence[GPUType] = (L4, A10G), patience: int = PATIENCE, doubtful: Sequence[str] = (),
    warming: Sequence[str] = (),
) -> Split:  # fmt: skip
    gpu = {"types": [gpu_type.value for gpu_type in types], "patienceSeconds": patience}
    service = a_service(hardware={"gpu": gpu})
    return split_over_types(service, replicas, nodes, deployments, pods, "r", NOW, doubtful, warming)


STAYS: dict[str, tuple[list[NodeView], Any]] = {
    "the only node of its type is cordoned": ([a_node("l", schedulable=False), a_node("a", "NVIDIA-A10G")], asked(l4=1)),
    "it is away": ([a_node("l", ready=False), a_node("a", "NVIDIA-A10G")], asked(l4=1)),
    "it offers no GPU any more": ([a_node("l", gpus=0), a_node("a", "NVIDIA-A10G")], asked(l4=1)),
    "it is gone": ([a_node("a", "NVIDIA-A10G")], asked(l4=1)),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_a_replica_with_a_gpu_stays_on_its_type(case: str) -> None:
    nodes, deployments = STAYS[case]
    assert split(1, nodes, deployments, placed("p", L4)).shares == {L4: 1, A10G: 0}


def test_nothing_is_torn_down_when_the_first_type_is_there_again() -> None:
    assert split(1, ONE_EACH, asked(a10g=1), placed("p", A10G)).shares == {L4: 0, A10G: 1}
    assert split(2, ONE_EACH, asked(a10g=1), placed("p", A10G)).shares == {L4: 1, A10G: 1}, (
        "a new one goes there"
    )


def test_a_replica_waits_for_the_first_type_as_long_as_it_is_told_to() -> None:
    early = split(1, ONE_EACH, asked(l4=1), waits("p", L4, PATIENCE - 1))
    assert (early.shares, early.passings, early.look_again_seconds) == ({L4: 1, A10G: 0}, [], 1)
    late = split(1, ONE_EACH, asked(l4=1), waits("p", L4, PATIENCE))
    assert late.shares == {L4: 0, A10G: 1}
    (one,) = late.passings
    assert (one.source, one.to, one.replicas) == (L4, A10G, 1)
    assert "no nvidia-l4 was to be had for 5m" in one.why
    assert "Insufficient nvidia.com/gpu" in one.why


def test_with_patience_0_it_goes_on_at_once() -> None:
    assert split(1, ONE_EACH, asked(l4=1), waits("p", L4, 0), patience=0).shares == {L4: 0, A10G: 1}


def test_who_has_gone_on_stays_there_though_nobody_remembers_why() -> None:
    """Its pod has no node yet, as its weights are on their way; the first type looks free in numbers."""
    moved = split(1, ONE_EACH, asked(l4=0, a10g=1), waits("p", A10G, 5000, VOLUME))
    assert (moved.shares, moved.passings) == ({L4: 0, A10G: 1}, [])
    assert split(1, ONE_EACH, asked(l4=0, a10g=1)).shares == {L4: 0, A10G: 1}, (
        "nor has its Deployment made it"
    )


def test_weights_on_their_way_are_no_reason_to_go_on() -> None:
    assert split(1, ONE_EACH, asked(l4=1), waits("p", L4, 5000, VOLUME)).shares == {L4: 1, A10G: 0}


@pytest.mark.parametrize(
    ("words", "warming", "want"),
    [
        (BESIDE, ["l2"], L4),
        (BESIDE.replace("didn't match PersistentVolume's", "had volume"), ["l2"], A10G),
        (BESIDE.replace("didn't match PersistentVolume's node affinity", "had volume node affinity conflict"), ["l2"], L4),
        (BESIDE, [], A10G),
        (BESIDE, ["a"], A10G),
        (FULL, ["l2"], A10G),
    ],
    ids=["on their way", "other words", "an old scheduler", "nowhere", "to another type", "all are full"],
)  # fmt: skip
def test_a_full_node_beside_one_that_gets_the_weights_is_no_reason_to_go_on(
    words: str, warming: list[str], want: GPUType
) -> None:
    """One GPU is free, and the weights take longer than the patience to get there."""
    nodes = [a_node("l1", gpus=1), a_node("l2", gpus=1), a_node("a", "NVIDIA-A10G", gpus=1)]
    found = split(1, nodes, asked(l4=1), waits("p", L4, 5000, words), warming=warming)
    assert found.shares == {**dict.fromkeys((L4, A10G), 0), want: 1}


def told_cache(service: LLMDeployment, *nodes: dict[str, Any], observed: int | None = 1) -> ModelCache:
    name = names.cache_name(service.name, serving.cache_source(service))
    told = [{"percent": 1, **node} for node in nodes]
    return a_cache(name, status={"observedGeneration": observed, "nodes": told, "desiredNodes": 1})


@pytest.mark.parametrize(
    ("told", "observed", "want"),
    [
        ({"name": "l2", "state": "Fetching"}, 1, L4),
        ({"name": "l2", "state": "Pending"}, 1, L4),
        ({"name": "l2", "state": "Pending", "reason": "WaitsForNeighbour"}, 1, L4),
        ({"name": "l2", "state": "Pending", "reason": "Unauthorized"}, 1, A10G),
        ({"name": "l2", "state": "Failed", "reason": "NotFound"}, 1, A10G),
        ({"name": "l2", "state": "Evicting"}, 1, A10G),
        ({"name": "a", "state": "Fetching"}, 1, A10G),
        (None, None, L4),
    ],
)
def test_where_weights_are_on_their_way_is_read_from_the_cache(
    told: dict[str, Any] | None, observed: int | None, want: GPUType
) -> None:
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-a10g"], "patienceSeconds": 0}})
    nodes = [a_node("l1", gpus=1), a_node("l2", gpus=1), a_node("a", "NVIDIA-A10G", gpus=1)]
    waiting = replace(waits("p", L4, 10, BESIDE), revision=revision_id(service))
    cache = told_cache(service, *([told] if told else []), observed=observed)
    seen = ServiceObservation(nodes, (), [waiting], [cache], ())
    wish = make_wish(service, seen, (), OperatorConfig(), NOW)
    assert wish.shares == {**dict.fromkeys((L4, A10G), 0), want: 1}


def test_a_pod_that_leaves_a_dead_node_for_ever_gives_nothing_back() -> None:
    nodes = [a_node("l", ready=False), a_node("a", "NVIDIA-A10G", gpus=1)]
    taint = "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."
    old = replace(placed("old", L4, node="l"), revision="before")
    waiting = waits("p", L4, 5000, taint)
    assert split(1, nodes, asked(l4=1), waiting, old).shares == {L4: 1, A10G: 0}, "it may come back"
    leaving = replace(old, deleting=True)
    assert split(1, nodes, asked(l4=1), waiting, leaving).shares == {L4: 0, A10G: 1}


def test_a_gpu_that_an_old_revision_gives_back_is_waited_for() -> None:
    old = replace(placed("old", L4), revision="before")
    for leaving in (False, True):
        held = replace(old, deleting=leaving)
        assert split(1, ONE_EACH, asked(l4=1), waits("p", L4, 5000), held).shares == {L4: 1, A10G: 0}
    elsewhere = replace(old, gpu_type=A10G.value)
    assert split(1, ONE_EACH, asked(l4=1), waits("p", L4, 5000), elsewhere).shares == {L4: 0, A10G: 1}


def test_only_those_that_have_waited_go_on() -> None:
    nodes = [a_node("l", gpus=4), a_node("a", "NVIDIA-A10G", gpus=4)]
    pods = (placed("p", L4), waits("q", L4, 400), waits("s", L4, 10))
    assert split(3, nodes, asked(l4=3), *pods).shares == {L4: 2, A10G: 1}


def test_where_no_node_has_the_type_it_goes_on_at_once() -> None:
    nodes = [a_node("a", "NVIDIA-A10G")]
    gone = split(1, nodes, asked(l4=1), waits("p", L4, 1))
    assert gone.shares == {L4: 0, A10G: 1}
    assert "no node has a nvidia-l4" in gone.passings[0].why
    assert split(1, nodes, asked(l4=1)).shares == {L4: 0, A10G: 1}, "a pod that was not made yet as well"


def test_a_cordoned_node_may_come_back_within_its_patience() -> None:
    nodes = [a_node("l", schedulable=False), a_node("a", "NVIDIA-A10G")]
    taint = "0/2 nodes are available: 2 node(s) were unschedulable."
    assert split(1, nodes, asked(l4=1), waits("p", L4, 10, taint)).shares == {L4: 1, A10G: 0}
    assert split(1, nodes, asked(l4=1), waits("p", L4, PATIENCE, taint)).shares == {L4: 0, A10G: 1}


def test_without_room_anywhere_it_goes_on_to_a_type_that_an_autoscaler_may_add() -> None:
    nodes = [a_node("l", gpus=1)]
    pods = (placed("p", L4), waits("q", L4, PATIENCE))
    assert split(2, nodes, asked(l4=2), *pods).shares == {L4: 1, A10G: 1}
    small = [*nodes, a_node("a", "NVIDIA-A10G", gpus=1)]
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-a10g"], "count": 2}})
    never = split_over_types(service, 2, small, asked(l4=2), pods, "r", NOW)
    assert never.shares == {L4: 2, A10G: 0}, "but not to one whose nodes are too small"


def test_it_goes_back_only_after_a_long_while() -> None:
    """Strangers hold all: in numbers both types have room."""
    there = asked(l4=0, a10g=1)
    assert split(1, ONE_EACH, there, waits("p", A10G, BACK_SECONDS - 1), patience=0).shares == {
        L4: 0,
        A10G: 1,
    }
    assert split(1, ONE_EACH, there, waits("p", A10G, BACK_SECONDS), patience=0).shares == {L4: 1, A10G: 0}


def test_two_that_wait_on_two_types_do_not_change_places() -> None:
    """Each pass would tell of it anew, and change nothing."""
    nodes = [a_node("l", gpus=1), a_node("a", "NVIDIA-A10G", gpus=2)]
    pods = waits("p", L4, PATIENCE), waits("q", A10G, BACK_SECONDS)
    found = split(2, nodes, asked(l4=1, a10g=1), *pods)
    assert [(one.source, one.to) for one in found.passings] == [(L4, A10G)]
    assert found.shares == {L4: 0, A10G: 2}


def test_nobody_goes_back_before_the_last_that_came_has_waited_as_long() -> None:
    """What came a moment ago was refused there: the one that waits here for long would be refused as well."""
    nodes = [a_node("l", gpus=1), a_node("a", "NVIDIA-A10G", gpus=2)]
    long, there = waits("q", A10G, 5000), asked(l4=0, a10g=2)
    for others in ((), (waits("p", A10G, BACK_SECONDS - 1),), (waits("p", A10G, 0, VOLUME),)):
        assert split(2, nodes, there, long, *others, patience=0).shares == {L4: 0, A10G: 2}
    assert split(2, nodes, there, long, waits("p", A10G, BACK_SECONDS), patience=0).shares == {L4: 1, A10G: 1}


@pytest.mark.parametrize("patience", [0, PATIENCE, 2000])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("offers", [(1, 2), (2, 0), (2, 1), (3, 3)])
def test_where_strangers_hold_all_it_is_tried_now_and_then(
    offers: tuple[int, int], replicas: int, patience: int
) -> None:
    """Two hours of passes. A ReplicaSet that shrinks deletes its newest pod first."""
    gpu = {"types": ["nvidia-l4", "nvidia-a10g"], "patienceSeconds": patience}
    service = a_service(hardware={"gpu": gpu})
    nodes = [a_node("l", gpus=offers[0]), a_node("a", "NVIDIA-A10G", gpus=offers[1])]
    counts, born = {L4: 0, A10G: 0}, dict[GPUType, list[int]]({L4: [], A10G: []})
    made, told, end = 0, 0, 7200
    for second in range(0, end, 20):
        pods = [waits(f"{t}{n}", t, second - at) for t, ages in born.items() for n, at in enumerate(ages)]
        there = asked(l4=counts[L4], a10g=counts[A10G])
        found = split_over_types(service, replicas, nodes, there, pods, "r", NOW)
        assert not found.passings or found.shares != counts, "what is told is done"
        told += len(found.passings)
        counts = dict(found.shares)
        for gpu_type, count in counts.items():
            fresh = max(0, count - len(born[gpu_type]))
            born[gpu_type] = born[gpu_type][:count] + [second] * fresh
            made += fresh
    turns = 2 + 2 * end // int(BACK_SECONDS)
    assert told <= turns
    assert made <= replicas * turns


def test_of_several_the_one_without_a_gpu_goes_first_and_the_one_that_serves_last() -> None:
    nodes = [a_node("l", gpus=4), a_node("a", "NVIDIA-A10G", gpus=4)]
    loads, serves = replace(placed("p", L4), ready=False), placed("q", A10G)
    assert split(2, nodes, asked(l4=2, a10g=1), loads, waits("w", L4, 1), serves).shares == {L4: 1, A10G: 1}
    assert split(1, nodes, asked(l4=1, a10g=1), loads, serves).shares == {L4: 0, A10G: 1}
    assert split(1, nodes, asked(l4=1, a10g=1), placed("p", L4), serves).shares == {L4: 1, A10G: 0}


def test_one_on_wrong_weights_goes_before_one_that_is_well() -> None:
    """While replicas are renewed there is one more than wanted, on the type of the bad one."""
    nodes = [a_node("l", gpus=4), a_node("a", "NVIDIA-A10G", gpus=4)]
    pods = (placed("bad", L4), placed("new", L4), placed("well", A10G))
    assert split(2, nodes, asked(l4=2, a10g=1), *pods, doubtful=["bad"]).shares == {L4: 1, A10G: 1}


def test_one_on_wrong_weights_goes_before_one_that_loads() -> None:
    nodes = [a_node("l", gpus=4), a_node("a", "NVIDIA-A10G", gpus=4)]
    loads = replace(placed("loads", A10G), ready=False)
    pods = (placed("bad", L4), placed("new", L4), loads)
    assert split(2, nodes, asked(l4=2, a10g=1), *pods, doubtful=["bad"]).shares == {L4: 1, A10G: 1}


def test_a_node_with_a_taint_or_another_label_has_no_room() -> None:
    nodes = [a_node("l", taints=(Taint("team", "x", "NoSchedule"),)), a_node("a", "NVIDIA-A10G")]
    assert split(1, nodes).shares == {L4: 0, A10G: 1}


def test_gpus_are_not_short_before_the_next_type_had_its_turn() -> None:
    """Else the scaler would give the replica up, and nobody would try the next type."""
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-a10g"], "patienceSeconds": 100}})

    def short(gpu_type: GPUType, seconds: float) -> Shortage | None:
        return shortage(service, [waits("p", gpu_type, seconds)], 2, None, NOW, weights_there=True)

    assert short(L4, 100 + SHORT_AFTER_SECONDS - 1) is None
    assert short(L4, 100 + SHORT_AFTER_SECONDS) is not None
    assert short(A10G, SHORT_AFTER_SECONDS) is not None


def test_weights_go_to_a_node_of_the_type_that_has_the_replica() -> None:
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-a10g"]}})
    nodes = [a_node("l"), a_node("a1", "NVIDIA-A10G"), a_node("a2", "NVIDIA-A10G")]
    none: dict[str, int] = {}
    assert warm_first(service, {L4: 1, A10G: 0}, nodes, [], "k", (), none) == ()
    assert warm_first(service, {L4: 0, A10G: 1}, nodes, [], "k", (), none) == ("a1",)
    assert warm_first(service, {L4: 0, A10G: 1}, nodes, [], "k", ("a2",), none) == ("a2",), (
        "where they are coming"
    )
    assert warm_first(service, {L4: 0, A10G: 1}, nodes, [], "k", ("a2",), {"a2": 2}) == ("a1",), (
        "where a GPU is free"
    )
    there = placed("p", A10G, node="a2")
    assert warm_first(service, {L4: 1, A10G: 1}, nodes, [there], "k", (), none) == ("a2", "l")


def test_why_is_told_as_long_as_replicas_are_elsewhere() -> None:
    types = {"types": ["nvidia-l4", "nvidia-a10g"]}
    service = a_service(hardware={"gpu": types})
    fresh = status_of(service, split(1, ONE_EACH, asked(l4=1), waits("p", L4, PATIENCE)), {})
    assert fresh is not None
    assert "went on to nvidia-a10g" in (words_of(fresh) or "")
    assert "match Pod's node affinity/selector. Those that" in (words_of(fresh) or ""), "with one full stop"
    later = a_service(hardware={"gpu": types}, status={"gpuTypes": [one.to_api() for one in fresh]})
    served = status_of(later, split(1, ONE_EACH, asked(a10g=1), placed("p", A10G)), {"nvidia-a10g": 1})
    assert served is not None
    assert [(one.type, one.replicas, one.ready_replicas) for one in served] == [(L4, 0, 0), (A10G, 1, 1)]
    assert words_of(served) == words_of(fresh)
    back = status_of(later, split(1, ONE_EACH, asked(l4=1), placed("p", L4)), {})
    assert back is not None
    assert words_of(back) is None
    assert [one.message for one in back] == [None, None]
    assert status_of(a_service(), split(1, ONE_EACH, types=[L4]), {}) is None, "nothing with one type"


def test_types_and_patience_are_no_part_of_a_revision_and_their_arguments_are() -> None:
    def spec(**gpu: Any) -> Any:
        return {"hardware": {"gpu": {"types": ["nvidia-l4", "nvidia-a10g"], **gpu}}}

    plain = revision_id(a_service())
    assert revision_id(a_service(**spec())) == plain
    assert revision_id(a_service(**spec(patienceSeconds=7))) == plain
    own = [{"type": "nvidia-a10g", "options": {"n_ctx": "512"}}]
    assert revision_id(a_service(**spec(), runtime={"perType": own})) != plain


def test_a_revision_that_is_gone_back_to_waits_as_long_as_the_spec_says_now() -> None:
    before = a_service(hardware={"gpu": {"patienceSeconds": 7}}, runtime={"options": {"n_ctx": "512"}})
    stored = serving.render_revision(before, L4, 1, "weights", OperatorConfig())
    now = a_service(hardware={"gpu": {"patienceSeconds": 70}})
    back = as_it_was(now, [stored], Target(stored.id, going_back=True))
    assert back.spec.runtime.options == {"n_ctx": "512"}
    assert back.spec.hardware.gpu.patience_seconds == 70


def test_an_event_is_posted_by_the_pass_that_moves_a_replica_and_by_no_other() -> None:
    """Replicas of a deleted LLMDeployment of this name are taken over first."""
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-a10g"]}})
    waiting = replace(waits("p", L4, PATIENCE), revision=revision_id(service))
    seen = ServiceObservation(ONE_EACH, (), [waiting], (), ())
    plan = decide_service(service, seen, OperatorConfig(), NOW)
    assert [event.reason for event in plan.events].count("FellBack") == 1
    metadata = {
        "name": "left", "namespace": "default", "labels": {"app.kubernetes.io/managed-by": "preheat"},
        "annotations": {ANNOTATION_APPLIED: "hash"}, "managedFields": [{"manager": FIELD_MANAGER}],
    }  # fmt: skip
    left = {
        "kind": "ControllerRevision",
        "apiVersion": "apps/v1",
        "metadata": metadata,
        "data": {},
        "revision": 1,
    }
    orphaned = decide_service(service, replace(seen, children=[left]), OperatorConfig(), NOW)
    assert [type(write) for write in orphaned.writes] == [Adopt]
    assert [event.reason for event in orphaned.events].count("FellBack") == 0


PODS = st.lists(
    st.tuples(
        st.sampled_from((L4, A10G, T4)), st.sampled_from(("ready", "loads", "waits", "fetches")),
        st.floats(0, 2000),
    ), max_size=8,
)  # fmt: skip
NODES = st.lists(
    st.builds(
        a_node, st.uuids().map(str), st.sampled_from(("NVIDIA-L4", "NVIDIA-A10G", "Tesla-T4")), st.integers(0, 4),
        ready=st.booleans(), schedulable=st.booleans(),
    ), max_size=5,
)  # fmt: skip


def _pod(number: int, gpu_type: GPUType, state: str, age: float) -> PodView:
    if state in {"waits", "fetches"}:
        return waits(f"p{number}", gpu_type, age, FULL if state == "waits" else VOLUME)
    return replace(placed(f"p{number}", gpu_type), ready=state == "ready")


@given(PODS, NODES, st.integers(0, 8), st.integers(0, 1000))
def test_all_are_split_and_nobody_with_a_gpu_moves(
    made: list[tuple[GPUType, str, float]], nodes: list[NodeView], replicas: int, patience: int
) -> None:
    types = (L4, A10G, T4)
    pods = [_pod(number, *one) for number, one in enumerate(made)]
    there = [DeploymentView(t, "r", t.value, sum(p.gpu_type == t.value for p in pods), None) for t in types]
    found = split(replicas, nodes, there, *pods, types=types, patience=patience)
    assert sum(found.shares.values()) == replicas
    assert min(found.shares.values()) >= 0
    if replicas >= len(pods):
        for gpu_type in types:
            assert found.shares[gpu_type] >= sum(p.scheduled and p.gpu_type == gpu_type.value for p in pods)


@given(PODS, NODES, st.integers(0, 1000))
def test_what_was_split_stays_as_it_is_until_somebody_waits_again(
    made: list[tuple[GPUType, str, float]], nodes: list[NodeView], patience: int
) -> None:
    """Those that went on have new pods, which were not made yet, or wait for their weights."""
    types = (L4, A10G, T4)
    nodes = [*nodes, *(a_node(f"at-least-{p}", p, 1) for p in ("NVIDIA-L4", "NVIDIA-A10G", "Tesla-T4"))]
    pods = [_pod(number, *one) for number, one in enumerate(made)]
    there = [DeploymentView(t, "r", t.value, sum(p.gpu_type == t.value for p in pods), None) for t in types]
    first = split(len(pods), nodes, there, *pods, types=types, patience=patience)
    after = [DeploymentView(t, "r", t.value, first.shares[t], None) for t in types]
    left = [pod for pod in pods if pod.scheduled]
    assert split(len(pods), nodes, after, *left, types=types, patience=patience).shares == first.shares
