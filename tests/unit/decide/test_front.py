"""Scale to zero, seen by clients: when they are sent to the front, what it tells them, and what its counts are worth."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.constants import PORTS_OF_DEPLOYMENTS
from preheat.api.llmdeployment import LLMDeployment, StorageTier
from preheat.decide.autoscale import NextLoad, Outcome, ScalingObservation, decide_scaling
from preheat.decide.front import FrontObservation, choose_port, decide_front, grown, may_sleep
from preheat.decide.observed import FrontReport, PodView, Reading
from preheat.decide.plan import Apply, Delete
from preheat.decide.scaling import Memory
from preheat.decide.signals import Look

from tests.builders import a_pod, a_service, merged

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADDRESSES = ("10.1.0.1", "10.1.0.2")
NEXT = NextLoad("r", "nvidia-l4", StorageTier.ON_DISK, 10**9)
READY_AT, WAKES_IN = "preheat.dev/ready-at", "preheat.dev/wakes-in-seconds"


def a_sleeper(status: dict[str, Any] | None = None, **scaling: Any) -> LLMDeployment:
    base = {"mode": "Predictive", "maxReplicas": 8, "scaleToZero": True}
    return a_service(replicas=0, scaling=merged(base, scaling), status=status)


def outcome(service: LLMDeployment, replicas: int) -> Outcome:
    found = decide_scaling(service, ScalingObservation(None, None, Memory(), None), [], NEXT, NOW)
    return replace(found, status=found.status.model_copy(update={"wanted_replicas": replicas}))


def decide(
    service: LLMDeployment | None = None,
    *pods: PodView,
    replicas: int = 0,
    live: Any = None,
    now: datetime = NOW,
    **front: Any,
) -> Any:
    """Return the manifest that is applied, the deletion, or None."""
    service = service or a_sleeper()
    seen = FrontObservation(**{"enabled": True, "addresses": ADDRESSES, "live": live, "port": 20007, **front})
    scaled = outcome(service, replicas) if service.spec.scaling.mode != "External" else None
    writes = decide_front(service, seen, pods, scaled, now, weights_there=True)
    assert len(writes) <= 1
    if not writes:
        return None
    (write,) = writes
    return write.manifest if isinstance(write, Apply) else write


def addresses(manifest: dict[str, Any]) -> list[str]:
    return [address for endpoint in manifest["endpoints"] for address in endpoint["addresses"]]


def told(manifest: dict[str, Any]) -> tuple[str, str]:
    annotations = manifest["metadata"]["annotations"]
    return annotations[READY_AT], annotations[WAKES_IN]


def test_at_zero_the_services_clients_are_sent_to_every_ready_pod_of_the_front() -> None:
    found = decide()
    assert addresses(found) == list(ADDRESSES)
    assert [(port["name"], port["port"]) for port in found["ports"]] == [("http", 20007), ("grpc", 20007)]
    assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "llama"
    assert found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "preheat.dev"
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("LLMDeployment", "llama", True)


def test_it_says_how_long_waking_takes_nearly_always() -> None:
    scaled = outcome(a_sleeper(), 0)
    ready_at, wakes_in = told(decide())
    assert ready_at == ""
    assert scaled.load.p90_seconds <= int(wakes_in) <= 1.1 * scaled.load.p90_seconds + 1


def test_as_soon_as_a_replica_is_ready_nobody_is_sent_there() -> None:
    found = decide(None, a_pod("a", ready=True), a_pod("b"), replicas=2)
    assert addresses(found) == []
    assert told(found) == ("", ""), "what is not said is not written anew with each load"


def test_a_pod_that_loads_sends_nobody_away_from_the_front() -> None:
    assert addresses(decide(None, a_pod("a"), replicas=1)) == list(ADDRESSES)


def test_on_its_way_it_says_when_by_the_replica_that_is_there_first() -> None:
    begun = [NOW - timedelta(seconds=seconds) for seconds in (5, 20)]
    pods = [a_pod(f"p{i}", scheduled_at=at, created=at) for i, at in enumerate(begun)]
    ready_at, wakes_in = told(decide(None, *pods, replicas=2))
    phases = outcome(a_sleeper(), 2).load.phases
    left = phases.after_scheduling - 20
    assert wakes_in == ""
    assert datetime.fromisoformat(ready_at) == NOW + timedelta(seconds=-(-left // 1))


def test_without_a_pod_yet_a_whole_load_is_expected() -> None:
    ready_at, _ = told(decide(replicas=1))
    expected = outcome(a_sleeper(), 1).load.p50_seconds
    assert 0 <= (datetime.fromisoformat(ready_at) - NOW).total_seconds() - expected <= 1


def test_what_nobody_knows_is_not_said() -> None:
    waiting = a_pod("a", scheduled=False, node=None, unschedulable="0/1 nodes: insufficient nvidia.com/gpu")
    assert told(decide(None, waiting, replicas=1)) == ("", "")
    stalled = {"type": "Stalled", "status": "True", "reason": "LoadFailed", "message": "", "observedGeneration": 3,
               "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    stuck = a_sleeper(status={"conditions": [stalled]})
    assert told(decide(stuck, a_pod("a"), replicas=1)) == ("", "")


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_live(ready_at: str, **fields: Any) -> dict[str, Any]:
    found = decide(replicas=1)
    return {**found, **fields, "metadata": {**found["metadata"], "annotations": {READY_AT: ready_at}}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [("a little more", "kept"), ("a little less", "kept"), ("much more", "new"), ("much less", "new")],
)
def test_an_expectation_is_written_anew_only_when_it_moved(said: str, expected: str) -> None:
    left = outcome(a_sleeper(), 1).load.p50_seconds
    seconds = {"a little more": 1.2, "a little less": 0.8, "much more": 2.0, "much less": 0.5}[said] * left
    ready_at, _ = told(decide(replicas=1, live=a_live(at(round(seconds)))))
    assert (ready_at == at(round(seconds))) == (expected == "kept")


def test_a_load_that_is_late_is_no_write_a_second() -> None:
    begun = NOW - timedelta(hours=1)
    pod = a_pod("a", scheduled_at=begun, created=begun)
    live, written = a_live(at(0)), []
    for second in range(1, 61):
        found = decide(None, pod, replicas=1, live=live, now=NOW + timedelta(seconds=second))
        if told(found)[0] != live["metadata"]["annotations"][READY_AT]:
            written.append(second)
            live = a_live(told(found)[0])
        assert datetime.fromisoformat(told(found)[0]) > NOW + timedelta(seconds=second)
    assert len(written) <= 6


@pytest.mark.parametrize("reason", ["disabled", "External", "not asked for"])
def test_where_nothing_sleeps_its_slice_goes(reason: str) -> None:
    service = {
        "disabled": a_sleeper(),
        "External": a_service(replicas=0),
        "not asked for": a_sleeper(scaleToZero=False),
    }[reason]
    live = decide()
    live = {**live, "metadata": {**live["metadata"], "uid": "u"}}
    enabled = reason != "disabled"
    assert decide(service, enabled=enabled) is None, "what is not there is not deleted"
    assert decide(service, live=live, enabled=enabled) == Delete(
        "EndpointSlice", "default", "llama-front", "u"
    )
    stranger = {**live, "metadata": {**live["metadata"], "ownerReferences": []}}
    assert decide(service, live=stranger, enabled=enabled) is None, "a stranger's stays"


def test_who_may_sleep() -> None:
    assert may_sleep(a_sleeper())
    assert may_sleep(a_sleeper(mode="Reactive"))
    assert not may_sleep(a_service(replicas=0)), "somebody else decides: nobody would wake it"
    assert not may_sleep(a_sleeper(scaleToZero=False))


def test_without_a_pod_of_the_front_a_slice_is_emptied_and_none_is_made() -> None:
    assert decide(addresses=()) is None, "of which kind would its addresses be?"
    assert addresses(decide(live=decide(), addresses=())) == []


def test_a_slice_keeps_its_kind_of_addresses() -> None:
    both = ("10.1.0.1", "fd00::1")
    assert decide(addresses=("fd00::1", "10.1.0.1"))["addressType"] == "IPv6"
    kept = decide(live={**decide(), "addressType": "IPv6"}, addresses=both)
    assert (kept["addressType"], addresses(kept)) == ("IPv6", ["fd00::1"])


def test_with_every_port_taken_there_is_no_slice() -> None:
    assert decide(port=None) is None


# --- ports


def test_a_port_stays_and_is_nobody_elses() -> None:
    first = choose_port("ns/a", None, ())
    assert first in PORTS_OF_DEPLOYMENTS
    assert choose_port("ns/a", None, ()) == first, "the same after a restart"
    assert choose_port("ns/a", 20001, ()) == 20001
    second = choose_port("ns/a", None, {first})
    assert second in PORTS_OF_DEPLOYMENTS
    assert second != first
    assert choose_port("ns/a", first, {first}) != first
    assert choose_port("ns/a", 80, ()) == first, "one that no front listens on is none"
    assert choose_port("ns/a", None, frozenset(PORTS_OF_DEPLOYMENTS)) is None


@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=60, unique=True))
def test_no_two_have_one_port(names: list[str]) -> None:
    taken: set[int] = set()
    for name in names:
        port = choose_port(name, None, taken)
        assert port is not None
        assert port not in taken
        taken.add(port)


# --- counts


def a_report(since: str = "a", ago: float = 1.0, **counts: int) -> FrontReport:
    return FrontReport(since, {("ns", name): (count, ago) for name, count in counts.items()})


def test_counts_that_grew_are_arrivals() -> None:
    assert grown(a_report(m=3, n=5), a_report(m=5, n=5, o=2)) == {("ns", "m"): 2, ("ns", "o"): 2}


def test_a_count_that_began_anew_with_its_slice_is_all_new() -> None:
    assert grown(a_report(m=7), a_report(m=2)) == {("ns", "m"): 2}


def test_of_a_front_that_is_new_to_us_only_who_came_just_now_counts_and_once() -> None:
    for before in (None, a_report("z", m=1)):
        assert grown(before, a_report(m=900, ago=3.0)) == {("ns", "m"): 1}
        assert grown(before, a_report(m=900, ago=3600.0)) == {}


# --- what the policy is told


def looked(turned_away: float | None, seconds: float = 15.0, *, fronted: bool = True) -> dict[str, Any]:
    before = Look(NOW.timestamp() - seconds, frozenset(), fronted=fronted)
    return {"before": before, "look": Look(NOW.timestamp(), frozenset(), {}, fronted, turned_away)}


def scale(replicas: int, pods: Any = (), **seen: Any) -> Outcome:
    service = a_sleeper()
    decided = outcome(service, replicas).status
    observation = ScalingObservation(
        **{"look": None, "before": None, "memory": Memory(), "decided": decided, **seen}
    )
    return decide_scaling(service, observation, pods, NEXT, NOW)


@pytest.mark.parametrize("seconds", [0.5, 2.0, 15.0])
@pytest.mark.parametrize("many", [1.0, 5.0, 10_000.0])
def test_who_comes_at_zero_wakes_one_replica_however_often_he_comes(many: float, seconds: float) -> None:
    assert scale(0, **looked(many, seconds)).replicas == 1


def test_nobody_who_comes_wakes_nobody() -> None:
    assert scale(0, **looked(0.0)).replicas == 0


def test_a_front_that_is_away_is_unknown_and_moves_nothing() -> None:
    for holds in (0, 1):
        pods = [a_pod("a")] if holds else []
        found = scale(holds, pods, **looked(None))
        assert found.replicas == holds
        assert found.blind_since == NOW, "and is told, after a while"
    assert scale(0, **looked(None, fronted=False)).blind_since is None, "without a front nobody is missing"


def test_without_a_front_zero_is_what_its_replicas_were_asked() -> None:
    found = scale(0, **looked(None, fronted=False))
    assert found.said is not None
    assert (found.replicas, found.said.reason) == (0, "Idle")


def test_while_it_loads_a_crowd_that_comes_again_and_again_is_no_more_than_one_replica() -> None:
    memory, decided = Memory(), None
    before = None
    for step in range(40):
        now = NOW + timedelta(seconds=15 * step)
        look = Look(now.timestamp(), frozenset(), {}, fronted=True, turned_away=5_000.0)
        service = a_sleeper()
        pods = (
            [a_pod("a", created=NOW, scheduled_at=NOW)]
            if decided is not None and decided.wanted_replicas
            else []
        )
        seen = ScalingObservation(look, before, memory, decided or outcome(service, 0).status)
        found = decide_scaling(service, seen, pods, NEXT, now)
        memory, decided, before = found.memory, found.status, look
    assert decided is not None
    assert decided.wanted_replicas == 1


def test_who_came_while_a_replica_got_ready_is_added_to_what_that_was_asked() -> None:
    reading = Reading("a", 1.0, 3, 0, 0, 3, 0, 10.0)
    before = Look(NOW.timestamp() - 15, frozenset(), fronted=True)
    look = Look(NOW.timestamp(), frozenset({"uid-a"}), {"uid-a": reading}, fronted=True, turned_away=2.0)
    found = scale(1, [a_pod("a", ready=True)], look=look, before=before)
    assert found.memory.idle.arrivals == 5
