"""Weights through a gateway: 100 in all, nothing to nobody, nothing to what failed, one write for a switch."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.conditions import ConditionType, Reason
from preheat.api.constants import ANNOTATION_SHARE
from preheat.api.llmdeployment import RolloutStrategy
from preheat.decide.observed import DeploymentView
from preheat.decide.plan import Apply, Delete
from preheat.decide.rollout.planner import next_step
from preheat.decide.rollout.state import Child, Goal, Limits, Method, Observed, Pause, Phase, Room, Step
from preheat.decide.traffic import (
    TAKEN_SECONDS,
    Rolling,
    RouteObservation,
    RouteView,
    Share,
    Traffic,
    decide_traffic,
    events,
    share_of,
    weigh,
)

from tests.builders import a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GATEWAY = {"parentRefs": [{"name": "public", "namespace": "infra"}], "hostnames": ["llama.example.com"]}
SERVICE = a_service(rollout={"gateway": GATEWAY})
THERE = RouteObservation(installed=True)
L4 = "nvidia-l4"


def decide(
    new: int = 0, old: int = 0, route: RouteObservation = THERE, rolling: Rolling | None = None, **spec: Any
) -> Traffic:
    pods = [a_pod(f"new-{n}", "new", ready=True) for n in range(new)]
    pods += [a_pod(f"old-{n}", "old", ready=True) for n in range(old)]
    deployments = [DeploymentView("d-old", "old", L4, 1, None)] if old else []
    service = a_service(**spec) if spec else SERVICE
    return decide_traffic(service, route, pods, deployments, rolling or Rolling("new"), NOW)


def a_step(share: int | None = None, old: int = 1, phase: Phase = Phase.LOADING) -> Step:
    return Step({("new", L4): 1, ("old", L4): old}, None, "", phase, "", share=share)


def route_of(traffic: Traffic) -> dict[str, Any]:
    (found,) = (
        w.manifest for w in traffic.writes if isinstance(w, Apply) and w.manifest["kind"] == "HTTPRoute"
    )
    return found


def backends(traffic: Traffic) -> dict[str, int]:
    return {b["name"]: b["weight"] for b in route_of(traffic)["spec"]["rules"][0]["backendRefs"]}


def live(traffic: Traffic, **metadata: Any) -> RouteObservation:
    """What is there once a decision was carried out."""
    body, services = route_of(traffic), [w.manifest for w in traffic.writes if isinstance(w, Apply)][:-1]
    body = {**body, "metadata": {**body["metadata"], "generation": 1, "uid": "uid-route", **metadata}}
    return RouteObservation(True, body, services)


# --- weights


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), max_size=6),
    st.sampled_from("abcdef"),
    st.integers(0, 100),
    st.frozensets(st.sampled_from("abcdef")),
)
def test_weights_are_a_hundred_in_all_and_nobody_without_a_replica_gets_any(
    ready: dict[str, int], wanted: str, share: int, last_resort: frozenset[str]
) -> None:
    found = weigh(ready, wanted, share, last_resort)
    answer = {revision for revision, count in ready.items() if count}
    if not answer:
        assert found == {}
        return
    assert sum(found.values()) == 100
    assert all(weight >= 0 for weight in found.values())
    assert all(found[revision] == 0 for revision in ready if revision not in answer)
    if answer - last_resort:
        assert all(found.get(revision, 0) == 0 for revision in last_resort)
    if wanted in answer - last_resort and answer - last_resort - {wanted}:
        assert found[wanted] == share


def test_what_is_left_over_by_rounding_is_not_lost() -> None:
    assert weigh({"a": 1, "b": 1, "c": 1, "new": 1}, "new", 0) == {"a": 34, "b": 33, "c": 33, "new": 0}


PAUSED = a_step(phase=Phase.PAUSED)
BLUE_GREEN = replace(PAUSED, chosen=Method.BLUE_GREEN)


@pytest.mark.parametrize(
    ("why", "rolling", "ready", "share"),
    [
        ("nothing under way", Rolling("new"), {"new": 1}, Share("new", 100)),
        ("a step that says it", Rolling("new", a_step(10)), {"new": 1, "old": 1}, Share("new", 10)),
        ("a strategy that does not", Rolling("new", a_step()), {"new": 1, "old": 2}, Share("new", 33)),
        ("nobody answers", Rolling("new", a_step()), {}, Share("new", 100)),
        ("going back, whatever the step says", Rolling("new", a_step(10), {"old"}, True), {"new": 1, "old": 9}, Share("new", 100)),
        ("paused, and asked for before", Rolling("new", PAUSED), {"new": 1, "old": 1}, Share("new", 15)),
        ("paused, and another is wanted", Rolling("newer", PAUSED), {"new": 1, "old": 1}, Share("new", 15)),
        ("paused, and the spec is as it was", Rolling("old", PAUSED), {"new": 1, "old": 1}, Share("new", 15)),
    ],
)  # fmt: skip
def test_share_that_is_asked_for(why: str, rolling: Rolling, ready: dict[str, int], share: Share) -> None:
    assert share_of(rolling, ready, Share("new", 15)) == share, why


@pytest.mark.parametrize(
    ("step", "percent"), [(a_step(10), 90), (a_step(95), 95), (a_step(), 90), (a_step(0), 90)]
)
def test_who_serves_already_when_it_is_wanted_again_gets_no_less(step: Step, percent: int) -> None:
    """Also in the passes after the first, when the route tells of no other revision any more."""
    first = share_of(Rolling("old", step), {"new": 1, "old": 1}, Share("new", 10), had=90)
    assert first == Share("old", percent, least=90)
    held = Share.parse(str(first))
    assert share_of(Rolling("old", step), {"new": 1, "old": 1}, held, had=0) == first
    assert share_of(Rolling("newer", step), {"new": 1, "old": 1}, held, had=0).least == 0


@pytest.mark.parametrize(("step", "percent"), [(PAUSED, 90), (BLUE_GREEN, 0)])
def test_a_pause_that_remembers_nothing_goes_by_replicas_and_never_switches(step: Step, percent: int) -> None:
    """The route was deleted, or the field was set during the pause."""
    assert share_of(Rolling("new", step), {"new": 9, "old": 1}, None).percent == percent


def test_what_somebody_wrote_as_a_share_is_no_more_than_all_of_it_or_nothing_at_all() -> None:
    texts = ("new=500", "new=5,500", "new=5,x", "new=x", "new", "=7", "", "new=-1")
    assert [Share.parse(text) for text in texts] == [
        Share("new", 100), Share("new", 5, 100), Share("new", 5), None, None, None, None, None
    ]  # fmt: skip


# --- what the planner says of it


def the_share(
    strategy: RolloutStrategy,
    new: int,
    old: int,
    *,
    asked: int = 0,
    wanted: int = 10,
    steps: tuple[Pause, ...] = (),
) -> int | None:
    children = (
        Child("new", L4, asked or new, new, new, new, ready_seconds=(10.0,) * new),
        Child("old", L4, old, old, old, old, ready_seconds=(999.0,) * old),
    )
    step = next_step(
        Observed(children, 1), Goal("new", {L4: wanted}), {L4: Room(fits=20)}, Limits(strategy, steps)
    )
    assert step is not None
    return step.share


STEPS = (Pause(10, 600, 5), Pause(50, 600), Pause(100, 0))


@pytest.mark.parametrize(
    ("new", "asked", "share"),
    [(0, 1, 0), (1, 1, 5), (0, 5, 0), (3, 5, 27), (5, 5, 50), (8, 10, 80), (10, 10, 100)],
)
def test_a_canary_gets_its_steps_weight_when_its_replicas_answer(new: int, asked: int, share: int) -> None:
    assert the_share(RolloutStrategy.CANARY, new, 10, asked=asked, steps=STEPS) == share


def test_a_canary_of_one_replica_gets_what_its_step_says() -> None:
    steps = (Pause(1, 600, 10), Pause(100, 0))
    assert the_share(RolloutStrategy.CANARY, 1, 1, wanted=1, steps=steps) == 10


def test_blue_green_switches_at_once() -> None:
    shares = [the_share(RolloutStrategy.BLUE_GREEN, new, 10, asked=10) for new in (0, 9, 10)]
    assert shares == [0, 0, 100]


def test_other_strategies_go_by_replicas() -> None:
    assert the_share(RolloutStrategy.SURGE, 4, 6) is None


# --- the route


def test_the_route_leads_to_a_service_of_each_revision() -> None:
    traffic = decide(1, 9, rolling=Rolling("new", a_step(10)))
    assert backends(traffic) == {"llama-new": 10, "llama-old": 90}
    assert route_of(traffic)["spec"]["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert route_of(traffic)["spec"]["hostnames"] == ["llama.example.com"]
    services = [w.manifest for w in traffic.writes if isinstance(w, Apply)][:-1]
    assert {s["metadata"]["name"]: s["spec"]["selector"]["preheat.dev/revision"] for s in services} == {
        "llama-new": "new",
        "llama-old": "old",
    }
    assert [(t.revision, t.weight) for t in traffic.status or ()] == [("new", 10), ("old", 90)]


def test_while_nobody_answers_the_route_leads_to_the_whole_service() -> None:
    traffic = decide()
    assert backends(traffic) == {"llama": 100}
    assert traffic.status is None


def test_a_failed_revision_gets_nothing_at_once() -> None:
    traffic = decide(1, 9, rolling=Rolling("new", a_step(old=9), {"old"}, going_back=True))
    assert backends(traffic) == {"llama-new": 100, "llama-old": 0}


def test_a_failed_revision_is_better_than_nobody() -> None:
    traffic = decide(0, 2, rolling=Rolling("new", a_step(old=0), {"old"}, going_back=True))
    assert backends(traffic) == {"llama-new": 0, "llama-old": 100}


def test_what_is_on_its_way_out_gets_nothing_and_stays_until_the_route_says_so() -> None:
    before = decide(1, 1, rolling=Rolling("new", a_step(10)))
    switched = decide(1, 1, live(before), Rolling("new", a_step(100, old=0)))
    assert backends(switched) == {"llama-new": 100, "llama-old": 0}
    assert switched.stay == {"old"}
    after = decide(1, 1, live(switched), Rolling("new", a_step(100, old=0)))
    assert after.stay == frozenset()


@pytest.mark.parametrize(
    ("age", "generation", "stays"), [(1, 0, True), (1, 1, False), (TAKEN_SECONDS, 0, False)]
)
def test_old_replicas_stay_until_the_gateway_has_the_route_but_not_for_ever(
    age: float, generation: int, stays: bool
) -> None:
    switched = decide(1, 1, rolling=Rolling("new", a_step(100, old=0)))
    written = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    there = live(switched, managedFields=[{"manager": "preheat", "time": written}])
    assert there.live is not None
    parents = [{"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": generation}]}]
    there = RouteObservation(True, {**there.live, "status": {"parents": parents}}, there.services)
    found = decide(1, 1, there, Rolling("new", a_step(100, old=0)))
    assert bool(found.stay) is stays


def test_the_service_of_a_revision_goes_when_the_route_names_it_no_more() -> None:
    both = live(decide(1, 1, rolling=Rolling("new", a_step(10))))
    first = decide(1, 0, both)
    assert not [w for w in first.writes if isinstance(w, Delete)], "it is named by the route that is there"
    second = decide(1, 0, RouteObservation(True, live(first).live, both.services))
    assert [(w.kind, w.name) for w in second.writes if isinstance(w, Delete)] == [("Service", "llama-old")]


@pytest.mark.parametrize("installed", [True, False])
def test_without_the_field_or_without_gateway_api_nothing_of_it_is_left(installed: bool) -> None:
    there = live(decide(1, 1, rolling=Rolling("new", a_step(10))))
    spec = {} if installed else {"rollout": {"gateway": GATEWAY}}
    found = decide(1, 1, RouteObservation(installed, there.live, there.services), name="llama", **spec)
    assert [(w.kind, w.name) for w in found.writes if isinstance(w, Delete)] == [
        ("HTTPRoute", "llama"), ("Service", "llama-new"), ("Service", "llama-old")]  # fmt: skip
    assert not [w for w in found.writes if isinstance(w, Apply)]
    assert [v.reason for v in found.verdicts] == ([] if installed else [Reason.GATEWAY_API_MISSING])


def test_nothing_of_a_stranger_is_deleted() -> None:
    theirs = {
        "kind": "HTTPRoute",
        "metadata": {"name": "llama", "namespace": "default", "uid": "x"},
        "spec": {},
    }
    service = {**theirs, "kind": "Service"}
    assert decide(0, 0, RouteObservation(True, theirs, [service]), name="llama").writes == ()


def test_a_rule_never_names_more_backends_than_gateway_api_takes() -> None:
    pods = [a_pod(f"p{n}", f"r{n:02}", ready=True) for n in range(30)]
    found = decide_traffic(SERVICE, THERE, pods, [], Rolling("new", a_step(0)), NOW)
    assert len(backends(found)) == 16
    assert "llama-new" in backends(found)


# --- what is said


def a_route(*parents: Any, **metadata: Any) -> dict[str, Any]:
    return {"kind": "HTTPRoute", "metadata": {"name": "llama", "namespace": "default", "generation": 2,
            "ownerReferences": [{"controller": True, "uid": "uid-llama"}], **metadata},
            "spec": {}, "status": {"parents": list(parents)}}  # fmt: skip


def parent(**conditions: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": "R", "message": "words", "observedGeneration": 2}
                           for kind, status in conditions.items()]}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "holds", "reason"),
    [
        (a_route(), None, Reason.ROUTE_PENDING),
        (a_route(parent(Accepted="True", ResolvedRefs="True")), True, Reason.ROUTED),
        (a_route(parent(Accepted="False")), False, Reason.ROUTE_REFUSED),
        (a_route(parent(Accepted="True", ResolvedRefs="False")), False, Reason.ROUTE_REFUSED),
        ({**a_route(), "status": {"parents": "x"}}, None, Reason.ROUTE_PENDING),
        ({**a_route(), "status": [1]}, None, Reason.ROUTE_PENDING),
        (a_route({"conditions": [{"type": ["Accepted"]}, {"type": {}}, 7]}), None, Reason.ROUTE_PENDING),
        ({**a_route(parent()), "spec": {"rules": [{"backendRefs": [3, {"name": 4}]}, None]}}, None, Reason.ROUTE_PENDING),
    ],
)  # fmt: skip
def test_whether_gateways_take_it_is_told(body: dict[str, Any], holds: bool | None, reason: Reason) -> None:
    (verdict,) = decide(1, 0, RouteObservation(True, body)).verdicts
    assert (verdict.type, verdict.holds, verdict.reason) == (ConditionType.ROUTED, holds, reason)


def test_a_refusal_is_an_event_once() -> None:
    (verdict,) = decide(1, 0, RouteObservation(True, a_route(parent(Accepted="False")))).verdicts
    assert [e.reason for e in events((), [verdict])] == [Reason.ROUTE_REFUSED]
    assert events({(ConditionType.ROUTED, Reason.ROUTE_REFUSED)}, [verdict]) == []


def test_what_was_asked_for_is_remembered_on_the_route() -> None:
    traffic = decide(0, 1, rolling=Rolling("new", a_step(10)))
    assert backends(traffic) == {"llama-new": 0, "llama-old": 100}
    assert route_of(traffic)["metadata"]["annotations"][ANNOTATION_SHARE] == "new=10"
    view = RouteView.from_body(route_of(traffic))
    assert (view.share, view.weights) == (Share("new", 10), {"llama-new": 0, "llama-old": 100})
