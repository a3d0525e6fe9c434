"""From what was seen to the number of replicas and what is told of it. The policy has tests of its own."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.api.llmdeployment import LLMDeployment, StorageTier
from preheat.config import OperatorConfig
from preheat.controller.telemetry import Metrics
from preheat.decide import autoscale
from preheat.decide.autoscale import (
    BLIND_SECONDS,
    DECISIONS,
    GROWS_SECONDS,
    KEEP_SECONDS,
    NextLoad,
    Outcome,
    ScalingObservation,
    Stored,
    decide_scaling,
    make_policy,
)
from preheat.decide.capacity import (
    SHORT_AFTER_SECONDS,
    SHORT_FOR_SECONDS,
    GPUUse,
    Shortage,
    room,
    shortage,
)
from preheat.decide.loads import expected
from preheat.decide.observed import MOST, AgentReport, AgentState, HealingReport, Reading
from preheat.decide.plan import Apply, Plan
from preheat.decide.refusals import with_refusal
from preheat.decide.scaling import Alternative, Memory, Policy, Recommendation, Sample
from preheat.decide.scaling.flight import has_just_begun
from preheat.decide.scaling.schedule import floor
from preheat.decide.serving import decide_service
from preheat.decide.signals import Look
from preheat.decide.wish import ServiceObservation
from preheat.errors import Unavailable

from tests.builders import a_node, a_pod, a_service, merged

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NEXT = NextLoad("r", "nvidia-l4", StorageTier.ON_DISK, 10**9)
AGO = NOW - timedelta(seconds=15)
LOAD = expected(None, NEXT.revision, NEXT.gpu_type, NEXT.tier, NEXT.total_bytes)
PODS = [a_pod(name, ready=True) for name in ("a", "b")]


def scaled(status: dict[str, Any] | None = None, **spec: Any) -> LLMDeployment:
    base = {"replicas": 2, "scaling": {"mode": "Predictive", "maxReplicas": 8}}
    return a_service(status=status, **merged(base, spec))


class Say:
    """A policy that says what a test wants, and remembers what it was asked."""

    def __init__(self, replicas: int, reason: str = "DemandRises", **inputs: float) -> None:
        self.replicas, self.reason, self.inputs = replicas, reason, inputs
        self.asked: list[tuple[Policy, Sample]] = []

    def __call__(
        self, policy: Policy, samples: list[Sample], memory: Memory, now: float
    ) -> tuple[Recommendation, Memory]:
        (sample,) = samples
        self.asked.append((policy, sample))
        rejected = Alternative(1, "it would be late")
        words = f"{self.replicas} are wanted."
        said = Recommendation(self.replicas, self.reason, words, self.inputs, rejected, 15.0)  # type: ignore[arg-type]
        return said, memory


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_policy(policy: Say) -> Say:
        monkeypatch.setattr(autoscale, "recommend", policy)
        return policy

    return set_policy


def a_look(at: datetime = NOW, **fields: Any) -> Look:
    reading = Reading(**{"since": "a", "age_seconds": 1, "came": 0, "ended": 0, "failed": 0, "in_service": 3,
                         "waiting": 1, "busy_seconds": 0, **fields})  # fmt: skip
    return Look(at.timestamp(), frozenset({"uid-a", "uid-b"}), {"uid-a": reading, "uid-b": reading})


def an_observation(**fields: Any) -> ScalingObservation:
    return replace(ScalingObservation(None, None, Memory(), None), **fields)


def decide(service: LLMDeployment, pods: Any = PODS, now: datetime = NOW, **seen: Any) -> Outcome:
    if seen.get("look") is not None:
        seen = {"before": a_look(now - timedelta(seconds=15)), **seen}
    return decide_scaling(service, an_observation(**seen), pods, NEXT, now)


def test_before_anything_was_measured_it_begins_with_what_the_spec_says() -> None:
    found = decide(scaled())
    assert (found.replicas, found.status.reason, found.status.decisions) == (2, "Beginning", [])
    assert found.keep is None, "nothing is known that could be kept"


def test_it_begins_with_what_runs_when_somebody_else_decided_before() -> None:
    assert decide(scaled(status={"desiredReplicas": 5})).replicas == 5


def test_what_it_wanted_before_somebody_else_decided_is_not_wanted_now() -> None:
    """As in a deployment that was Predictive, was External for two days, and is Predictive again."""
    service = scaled({"desiredReplicas": 5})
    pods = [a_pod(name, ready=True) for name in "abcde"]
    memory, at = Memory(), (NOW - timedelta(days=2)).timestamp()
    for _ in range(40):
        at += 15
        seen = Sample(at, 15.0, 10.0, 2.0, 0.0, 3.0, 2)
        _, memory = autoscale.recommend(make_policy(service, LOAD, 8.0, NOW), [seen], memory, at)
    assert memory.wanted == 1
    look, before = (
        a_look(at, came=came, ended=came, busy_seconds=came, waiting=0) for at, came in ((NOW, 30), (AGO, 0))
    )
    found = decide_scaling(service, an_observation(look=look, before=before, memory=memory), pods, NEXT, NOW)
    assert found.replicas == 5, found.status.message


def test_bounds_of_the_spec_hold_at_once_and_whatever_the_policy_says(say: Any) -> None:
    say(Say(99))
    assert decide(scaled(), look=a_look()).replicas == 8
    assert decide(scaled(replicas=0)).replicas == 1, "the last replica does not go without scaleToZero"
    assert decide(scaled(replicas=0, scaling={"scaleToZero": True})).replicas == 0
    held = decide(scaled(status={"desiredReplicas": 7})).status
    lower = decide(scaled(scaling={"maxReplicas": 3}), decided=held)
    assert (lower.replicas, lower.status.reason) == (3, "Bounds")
    (change,) = lower.status.decisions
    assert (change.previous_replicas, change.replicas, change.reason) == (7, 3, "Bounds")
    say(Say(3, "Holding"))
    both = decide(scaled(scaling={"maxReplicas": 3}), look=a_look(), decided=held)
    assert (both.status.reason, len(both.status.decisions)) == ("Holding", 1)


def test_a_change_is_told_with_its_numbers_and_what_was_rejected(say: Any) -> None:
    say(Say(4, "ForecastRises", demand_slots=1.23456, forecast_slots=41.0, hold_slots=40.0))
    first = decide(scaled()).status
    found = decide(scaled(), look=a_look(), decided=first)
    status = found.status
    assert (status.wanted_replicas, status.reason, status.message) == (4, "ForecastRises", "4 are wanted.")
    assert (status.rejected_replicas, status.rejected_message) == (1, "it would be late")
    assert status.inputs == {"demand_slots": "1.235", "forecast_slots": "41", "hold_slots": "40"}
    assert status.forecast_replicas == 6
    (change,) = status.decisions
    assert (change.time, change.previous_replicas, change.replicas) == ("2026-01-01T12:00:00Z", 2, 4)


def test_the_last_changes_are_kept_and_no_more(say: Any) -> None:
    status = decide(scaled()).status
    for number in range(20):
        say(Say(3 + number % 2))
        status = decide(scaled(), look=a_look(), decided=status).status
    assert len(status.decisions) == DECISIONS
    assert status.decisions[0].replicas == 4


def test_the_same_number_for_another_reason_is_told_rarely(say: Any) -> None:
    say(Say(2, "Holding"))
    held = decide(scaled(), look=a_look()).status
    say(Say(2, "Steady"))
    soon = decide(scaled(), look=a_look(), decided=held, told_at=NOW - timedelta(seconds=KEEP_SECONDS - 1))
    assert soon.status == held
    late = decide(scaled(), look=a_look(), decided=held, told_at=NOW - timedelta(seconds=KEEP_SECONDS))
    assert (late.status.reason, late.told_at) == ("Steady", NOW)
    assert late.status.decisions == held.decisions


def test_a_forecast_that_grows_is_told_soon_so_that_weights_go_ahead(say: Any) -> None:
    say(Say(2, "Holding", forecast_slots=24))
    held = decide(scaled(), look=a_look()).status
    minute = {"look": a_look(), "decided": held, "told_at": NOW - timedelta(seconds=GROWS_SECONDS)}
    assert held.forecast_replicas == 3
    assert decide(scaled(), **minute).status == held
    say(Say(2, "Holding", hold_slots=40))
    assert decide(scaled(), **minute).status.forecast_replicas == 5
    assert decide(scaled(), **{**minute, "told_at": NOW}).status == held
    say(Say(2, "Holding", hold_slots=4000))
    assert decide(scaled(), **minute).status.forecast_replicas == 8, "the budget is the most"


def test_the_policy_is_told_of_replicas_on_their_way_and_of_those_not_made_yet(say: Any) -> None:
    said = say(Say(2))
    held = decide(scaled(status={"desiredReplicas": 5})).status
    pods = [*PODS, a_pod("c", created=NOW, scheduled_at=NOW - timedelta(seconds=10))]
    decide(scaled(), pods, look=a_look(), decided=held, available=7)
    _, sample = said.asked[0]
    load = expected(None, "r", "nvidia-l4", StorageTier.ON_DISK, 10**9)
    assert (sample.ready, sample.available) == (2, 7)
    assert sample.loading == (load.phases.after_scheduling - 10, load.p50_seconds, load.p50_seconds)


def test_a_load_that_takes_longer_than_was_thought_has_not_just_begun(say: Any) -> None:
    """As the first from a slow disk: its agent sees two more minutes to go where a whole load was thought to take one."""
    said = say(Say(2))
    report = AgentReport(AgentState.LOADING, "", "", 1, 3, 120.0)
    held = decide(scaled(status={"desiredReplicas": 3})).status
    for seconds, has_begun in ((60, False), (1, True)):
        begun = NOW - timedelta(seconds=seconds)
        decide(
            scaled(),
            [*PODS, a_pod("c", created=begun, scheduled_at=begun, report=report)],
            look=a_look(),
            decided=held,
        )
        policy, sample = said.asked[-1]
        assert [has_just_begun(policy, left) for left in sample.loading] == [has_begun]


def test_a_rollouts_new_replicas_are_not_counted_beside_the_old(say: Any) -> None:
    said = say(Say(2))
    pods = [*PODS, a_pod("new", revision="new"), a_pod("ready", revision="new", ready=True)]
    held = decide(scaled()).status
    look = replace(a_look(), pods=frozenset({"uid-a", "uid-b", "uid-ready"}))
    decide(scaled(), pods, look=look, decided=held)
    _, sample = said.asked[0]
    assert (sample.ready, sample.loading) == (2, ())


def test_who_was_told_when_to_come_again_finds_a_replica_then() -> None:
    """He is told a load's 90 % quantile. What is ready after its median must not have gone again by then."""
    service = scaled({"desiredReplicas": 0}, scaling={"scaleToZero": True, "minReplicas": 0})
    large = replace(NEXT, total_bytes=3 * 10**11)
    load = expected(None, large.revision, large.gpu_type, large.tier, large.total_bytes)
    seen, held = an_observation(), []
    for second in range(0, 3600, 15):
        now = NOW + timedelta(seconds=second)
        pod = a_pod("a", created=NOW, scheduled_at=NOW, ready=second > load.p50_seconds + 15)
        pods = [pod] if held and held[-1] else []
        there = pods and pod.ready
        look = a_look(now, waiting=0, in_service=0) if there else Look(now.timestamp(), frozenset())
        came = 1.0 if second == 15 else 0.0
        seen = replace(seen, look=replace(look, fronted=True, turned_away=came))
        found = decide_scaling(service, seen, pods, large, now)
        held.append(found.replicas)
        seen = replace(
            seen,
            before=seen.look,
            memory=found.memory,
            decided=found.status,
            come_again_at=found.come_again_at,
        )
    assert held[0] == held[-1] == 0
    assert 15 * sum(held) > 1.1 * load.p90_seconds + 4


def test_while_it_sleeps_nobody_is_asked_anything_and_that_is_known(say: Any) -> None:
    said = say(Say(0, "Idle"))
    asleep = decide(scaled(replicas=0, scaling={"scaleToZero": True})).status
    nobody = Look(NOW.timestamp(), frozenset())
    decide(scaled(scaling={"scaleToZero": True}), [], look=nobody, decided=asleep)
    assert (said.asked[0][1].arrivals, said.asked[0][1].queued) == (0, 0)
    waking = asleep.model_copy(update={"wanted_replicas": 1})
    decide(scaled(scaling={"scaleToZero": True}), [], look=nobody, decided=waking)
    assert said.asked[1][1].arrivals is None, "one is wanted and not there: what comes is not known"


@pytest.mark.parametrize(
    ("spec", "told", "slots"),
    [
        ({}, None, 8),
        ({}, 2, 2),
        ({"model": {"maxBatchSize": 4}}, 2, 4),
        ({"model": {"maxBatchSize": 4}, "scaling": {"targetConcurrency": 3}}, 2, 3),
    ],
)
def test_slots_are_the_specs_or_the_engines(
    say: Any, spec: dict[str, Any], told: float | None, slots: float
) -> None:
    said = say(Say(2))
    decide(scaled(**spec), look=a_look(slots=told))
    assert said.asked[0][0].slots == slots


def test_the_policy_plans_with_the_load_that_was_observed(say: Any) -> None:
    said = say(Say(2))
    recent = {"totalSeconds": 100, "gpuWaitSeconds": 0, "weightsSeconds": 0, "imageSeconds": 30, "loadSeconds": 65,
              "firstAnswerSeconds": 5}  # fmt: skip
    kind = {"revision": "r", "gpuType": "nvidia-l4", "tier": "OnDisk", "count": 1, "p50Seconds": 100,
            "p90Seconds": 100, "recent": [recent]}  # fmt: skip
    known = {"loadTimes": {"observedUntil": "2026-01-01T00:00:00Z", "kinds": [kind]}}
    decide(scaled(status=known), look=a_look())
    assert said.asked[0][0].load.p50 == 100


def test_the_memory_is_kept_with_a_change_and_else_now_and_then(say: Any) -> None:
    say(Say(2, "Holding"))
    text = Memory().to_json()
    held = decide(scaled(), look=a_look()).status
    assert decide(scaled(), look=a_look(), decided=held).keep == text, "nothing was kept yet"
    other = Stored("{}", NOW - timedelta(seconds=KEEP_SECONDS - 1))
    assert decide(scaled(), look=a_look(), decided=held, stored=other).keep is None
    due = Stored("{}", NOW - timedelta(seconds=KEEP_SECONDS))
    assert decide(scaled(), look=a_look(), decided=held, stored=due).keep == text
    same = Stored(text, NOW - timedelta(days=1))
    assert decide(scaled(), look=a_look(), decided=held, stored=same).keep is None
    say(Say(3))
    assert decide(scaled(), look=a_look(), decided=held, stored=other).keep == text


@pytest.mark.parametrize("replicas", [1, 7])
def test_what_is_not_known_moves_nothing_whatever_the_policy_says(say: Any, replicas: int) -> None:
    held = decide(scaled(status={"desiredReplicas": 5})).status
    silent = Look(NOW.timestamp(), frozenset({"uid-a", "uid-b"}))
    say(Say(replicas, "DemandFalls"))
    assert decide(scaled(), look=silent, decided=held).status == held
    assert decide(scaled(), look=a_look(), before=None, decided=held).status == held, "the first look"
    by_the_clock = schedule(start="12:00", minReplicas=6)
    found = decide(scaled(**by_the_clock), look=silent, decided=held)
    assert (found.replicas, found.status.reason) == (6, "Scheduled"), "a clock needs no signals"


def test_blindness_is_told_after_a_while_and_ends_at_once(say: Any) -> None:
    say(Say(2, "Unknown"))
    silent = Look(NOW.timestamp(), frozenset({"uid-a", "uid-b"}))
    found = decide(scaled(), look=silent)
    assert (found.blind_since, found.is_blind(NOW)) == (NOW, False)
    later = NOW + timedelta(seconds=BLIND_SECONDS)
    blind = decide(scaled(), look=silent, blind_since=NOW, now=later)
    assert blind.is_blind(later)
    assert decide(scaled(), look=a_look(), blind_since=NOW).blind_since is None
    assert decide(scaled(), [], look=Look(NOW.timestamp(), frozenset())).blind_since is None


def schedule(**fields: Any) -> dict[str, Any]:
    return {"scaling": {"schedules": [{"start": "08:00", "end": "18:30", "minReplicas": 3, **fields}]}}


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({}, (480, 1110, ())),
        ({"timeZone": "Europe/Berlin"}, (420, 1050, ())),
        ({"timeZone": "Asia/Tokyo", "days": ["Monday", "Friday"]}, (1380, 570, (3, 6))),
        ({"timeZone": "America/Los_Angeles", "start": "20:00", "days": ["Sunday"]}, (240, 150, (0,))),
    ],
)
def test_a_schedule_is_told_to_the_policy_in_utc(fields: dict[str, Any], window: Any) -> None:
    service = scaled(**schedule(**fields))
    (made,) = make_policy(service, expected(None, "r", "g", StorageTier.ON_DISK, None), 8, NOW).schedules
    assert (made.from_minute, made.to_minute, made.weekdays) == window
    assert made.replicas == 3


@pytest.mark.parametrize(
    ("start", "end", "changes"),
    [("03:00", "06:00", ["25T01:40", "25T05:00"]), ("22:00", "06:00", ["24T19:40", "25T05:00"]),
     ("00:30", "00:00", ["24T22:00", "24T22:10"])],
)  # fmt: skip
def test_a_night_in_which_clocks_go_back_moves_a_schedule_once(
    start: str, end: str, changes: list[str]
) -> None:
    window = {"start": start, "end": end, "minReplicas": 6, "timeZone": "Europe/Berlin"}
    service = scaled(scaling={"schedules": [window]})
    asked = []
    for minute in range(0, 12 * 60, 5):
        now = datetime(2026, 10, 24, 18, tzinfo=UTC) + timedelta(minutes=minute)
        policy = make_policy(service, LOAD, 8.0, now)
        asked.append((f"{now:%dT%H:%M}", floor(policy.schedules, now.timestamp(), 1200.0)))
    assert [now for (_, old), (now, new) in itertools.pairwise(asked) if new != old] == changes


ON_MARS = {"start": "00:00", "end": "23:59", "minReplicas": 6, "timeZone": "Mars/Olympus"}
ON_EARTH = {"start": "00:00", "end": "23:59", "minReplicas": 3}


@pytest.mark.parametrize(
    ("zones", "told"),
    [
        ([], None),
        (["UTC", "Europe/Berlin"], None),
        (["Mars/Olympus"], "'Mars/Olympus': name one as the IANA database has it"),
        (["UTC", "Mars/Olympus", "Mars/Olympus", "Europe"], "zone 'Mars/Olympus' or 'Europe': name one"),
    ],
)
def test_a_schedule_in_a_time_zone_that_nobody_knows_is_skipped_and_no_other(
    zones: list[str], told: str | None
) -> None:
    service = scaled(scaling={"schedules": [{**ON_MARS, "timeZone": zone} for zone in zones]})
    found = decide(service)
    assert len(found.policy.schedules) == len([z for z in zones if z in {"UTC", "Europe/Berlin"}])
    assert (found.skipped is None) if told is None else (told in (found.skipped or ""))


def test_there_is_room_for_what_others_of_ours_do_not_hold() -> None:
    nodes = [a_node("n1", gpus=8), a_node("n2", gpus=8), a_node("cpu", "NVIDIA-A10G", gpus=8)]
    uses = [GPUUse("n1", "default/other", 3), GPUUse("n1", "default/llama", 2), GPUUse("cpu", "x/y", 8)]
    service = scaled(hardware={"gpu": {"types": ["nvidia-l4"], "count": 2}})
    assert room(service, nodes, uses, PODS) == 2 + 4
    assert room(service, [], uses, PODS) is None


def test_a_gpu_that_is_not_to_be_had_is_not_asked_for_again_and_again() -> None:
    service = scaled()
    minute = NOW - timedelta(seconds=SHORT_AFTER_SECONDS)
    waits = a_pod("c", scheduled=False, unschedulable="Insufficient nvidia.com/gpu", created=minute)

    def short(pods: Any, before: Shortage | None, now: datetime = NOW, **fields: Any) -> Shortage | None:
        given = {"total": 8, "weights_there": True, **fields}
        return shortage(service, pods, before=before, now=now, **given)

    young = replace(waits, created=minute + timedelta(seconds=1))
    assert short([*PODS, young], None) is None
    assert short([*PODS, waits], None, weights_there=False) is None, "the weights may be what it waits for"
    found = short([*PODS, waits], None)
    assert found == Shortage(2, 8, NOW)
    assert short(PODS, found, NOW + timedelta(seconds=SHORT_FOR_SECONDS - 1)) == found
    assert short(PODS, found, NOW + timedelta(seconds=SHORT_FOR_SECONDS)) is None
    assert short(PODS, found, total=9) is None
    assert short([*PODS, a_pod("d")], found) is None


# --- in the plan


def plan_of(service: LLMDeployment, **seen: Any) -> Plan:
    if seen.get("look") is not None:
        seen = {"before": a_look(NOW - timedelta(seconds=15)), **seen}
    observation = ServiceObservation(
        [a_node(f"n{i}") for i in range(9)], (), PODS, (), (), scaling=an_observation(**seen)
    )
    return decide_service(service, observation, OperatorConfig(), NOW)


def applied(plan: Plan) -> dict[str, Any]:
    return {
        w.manifest["kind"] + "/" + w.manifest["metadata"]["name"]: w.manifest
        for w in plan.writes
        if isinstance(w, Apply)
    }


def test_the_number_goes_to_the_deployment_and_to_the_weights_and_is_told(say: Any) -> None:
    say(Say(4, "ForecastRises", hold_slots=48))
    plan = plan_of(scaled(), look=a_look())
    found = applied(plan)
    (deployment,) = [m for m in found.values() if m["kind"] == "Deployment"]
    (cache,) = [m for m in found.values() if m["kind"] == "ModelCache"]
    assert (deployment["spec"]["replicas"], cache["spec"]["placement"]["nodes"]) == (4, 6)
    assert "ControllerRevision/llama-scaler" in found
    assert plan.status is not None
    assert plan.status["desiredReplicas"] == plan.status["scaling"]["wantedReplicas"] == 4
    assert [event.reason for event in plan.events] == ["ScalingUp"]
    assert plan.events[0].message == "From 2 to 4 replicas, ForecastRises: 4 are wanted."
    conditions = {c["type"]: c for c in plan.status["conditions"]}
    assert conditions["ScalingActive"]["status"] == "True"
    assert "spec.scaling.mode is Predictive" in conditions["Accepted"]["message"]


def test_of_two_schedules_the_one_that_can_be_followed_is_and_the_other_is_told_once() -> None:
    spec: dict[str, Any] = {"scaling": {"schedules": [ON_MARS, ON_EARTH]}}
    plan = plan_of(scaled(**spec), look=a_look())
    (deployment,) = [m for m in applied(plan).values() if m["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 3
    assert plan.status is not None
    accepted, ready, stalled = (
        next(c for c in plan.status["conditions"] if c["type"] == kind)
        for kind in ("Accepted", "Ready", "Stalled")
    )
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert accepted["message"] == (
        "`scaling.schedules`: nobody knows the time zone 'Mars/Olympus': name one as the IANA database has it, for example "
        "Europe/Berlin or UTC. Such a schedule is skipped, and everything else goes on."
    )
    assert (ready["reason"], stalled["status"]) == ("WeightsFetching", "False"), "what is under way is told"
    (event,) = [event for event in plan.events if event.reason == "InvalidSpec"]
    assert (event.warning, event.message) == (True, accepted["message"])
    refused = with_refusal(scaled(**spec), plan, Unavailable("503 service"), NOW)
    assert event in refused.events, "what is refused meanwhile does not keep it from being told"
    again = plan_of(scaled(plan.status, **spec), look=a_look())
    assert [event for event in again.events if event.reason == "InvalidSpec"] == []
    mended = plan_of(scaled(plan.status, scaling={"schedules": [ON_EARTH]}), look=a_look())
    assert mended.status is not None
    assert next(c for c in mended.status["conditions"] if c["type"] == "Accepted")["status"] == "True"


def test_a_schedule_that_is_skipped_keeps_no_replica_from_being_healed() -> None:
    ill = AgentReport(AgentState.HEALING, "CanaryFailed", "no Paris", 0, 0, None,
                      healing=HealingReport(10, 0, 5, waits=True))  # fmt: skip
    pods = [a_pod("ill", report=ill), a_pod("well", ready=True)]
    seen = ServiceObservation([a_node()], (), pods, (), (), scaling=an_observation())
    plan = decide_service(scaled(scaling={"schedules": [ON_MARS]}), seen, OperatorConfig(), NOW)
    assert len(plan.advice) == 1


def test_many_time_zones_that_nobody_knows_are_told_once_as_well() -> None:
    """A condition has room for 1024 characters: what is told is not what was said."""
    zones = [f"Mars/{letter * 59}" for letter in "abcdefghijklmnop"]
    spec: dict[str, Any] = {"scaling": {"schedules": [{**ON_MARS, "timeZone": zone} for zone in zones]}}
    plan = plan_of(scaled(**spec), look=a_look())
    assert "InvalidSpec" in [event.reason for event in plan.events]
    again = plan_of(scaled(plan.status, **spec), look=a_look())
    assert "InvalidSpec" not in [event.reason for event in again.events]


def test_what_is_measured_and_decided_has_metrics_and_what_is_unknown_has_none(say: Any) -> None:
    say(Say(4, hold_slots=48))
    metrics, service = Metrics(), scaled()
    where = {"namespace": "default", "name": "llama"}

    def shown(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"preheat_scaling_{name}", {**where, **labels})

    before = a_look(NOW - timedelta(seconds=15))
    metrics.show_scaling(
        service, decide(service, look=a_look(came=30, ended=30, busy_seconds=60), before=before)
    )
    assert (shown("wanted_replicas"), shown("arrivals_per_second"), shown("in_service")) == (4, 4, 8)
    assert shown("input", input="hold_slots") == 48
    assert (
        metrics.registry.get_sample_value("preheat_scaling_decisions_total", {"reason": "DemandRises"}) == 1
    )
    say(Say(4))
    metrics.show_scaling(service, decide(service, look=Look(NOW.timestamp(), frozenset({"uid-a"}))))
    assert (shown("arrivals_per_second"), shown("queued"), shown("input", input="hold_slots")) == (
        None,
        None,
        None,
    )
    metrics.forget_scaling("default", "llama")
    assert shown("wanted_replicas") is None


def test_an_event_is_told_once(say: Any) -> None:
    say(Say(4))
    plan = plan_of(scaled(), look=a_look())
    told = scaled(status=plan.status)
    assert plan_of(told, decided=told.status.scaling).events == ()


def test_missing_signals_are_a_condition() -> None:
    plan = plan_of(scaled(), blind_since=NOW - timedelta(seconds=BLIND_SECONDS))
    assert plan.status is not None
    (told,) = [c for c in plan.status["conditions"] if c["type"] == "ScalingActive"]
    assert (told["status"], told["reason"]) == ("False", "SignalsMissing")
    assert "2026-01-01T11:59:00Z" in told["message"]


def test_in_mode_external_nothing_of_it_is_there() -> None:
    seen = ServiceObservation([a_node()], (), (), (), ())
    plan = decide_service(a_service(replicas=2), seen, OperatorConfig(), NOW)
    assert plan.scaled is None
    assert plan.status is not None
    assert "scaling" not in plan.status
    assert "ScalingActive" not in {c["type"] for c in plan.status["conditions"]}


amounts = st.one_of(st.floats(0, MOST), st.sampled_from([0.0, 1e-300, 1.0, MOST]))
answers = st.tuples(amounts, amounts, amounts, amounts, st.one_of(st.none(), amounts))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), answers), min_size=2, max_size=8),
    st.sampled_from(["Predictive", "Reactive"]),
)
def test_whatever_agents_say_the_real_policy_stays_within_the_bounds(told: list[Any], mode: str) -> None:
    """What a pod answers is not ours: it must neither stop a pass nor move more than the spec allows."""
    service = scaled(scaling={"mode": mode, "scaleToZero": True})
    seen = an_observation(decided=decide(service).status)
    for number, answer in enumerate(told):
        now = NOW + timedelta(seconds=15 * number)
        readings = {}
        if answer is not None:
            came, ended, waiting, busy, running = answer
            readings["uid-a"] = Reading("a", 1, came, ended, 0, running, waiting, busy)
        look = Look(now.timestamp(), frozenset({"uid-a"}), readings)
        found = decide_scaling(service, replace(seen, look=look), PODS[:1], NEXT, now)
        assert 0 <= found.replicas <= 8
        assert Memory.from_json(found.memory.to_json()).to_json() == found.memory.to_json()
        seen = replace(seen, before=look, memory=found.memory, decided=found.status)
