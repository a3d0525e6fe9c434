"""The ration of healing: who may take a step, and that a fault of all never takes them all away."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.decide.healing import SHARE, decide_healing, ration, window_seconds
from preheat.decide.observed import AgentReport, AgentState, HealingReport, PodView

from tests.builders import a_pod, a_service

WINDOW = 100.0


def well(name: str, revision: str = "r") -> PodView:
    return a_pod(name, revision, ready=True)


def ill(
    name: str, seconds: float = 10, steps: int = 0, *, waits: bool = True, revision: str = "r"
) -> PodView:
    healing = HealingReport(seconds, steps, 5, waits=waits)
    report = AgentReport(AgentState.HEALING, "CanaryFailed", "no Paris", 0, 0, None, healing=healing)
    return a_pod(name, revision, report=report)


def failed(name: str, seconds: float, steps: int) -> PodView:
    """One whose load is refused since it was unloaded."""
    pod = ill(name, seconds, steps, waits=False)
    assert pod.report is not None
    return replace(pod, report=replace(pod.report, state=AgentState.FAILED, reason="LoadFailed"))


CASES: dict[str, tuple[list[PodView], dict[str, int], bool]] = {
    "nobody is ill": ([well("a"), well("b")], {}, False),
    "a lone replica": ([ill("a")], {"uid-a": 1}, False),
    "one of two": ([ill("a"), well("b")], {"uid-a": 1}, False),
    "its next step": ([ill("a", steps=2), well("b")], {"uid-a": 3}, False),
    "both of two: one is tried": ([ill("a"), ill("b")], {"uid-a": 1}, True),
    "the one that is furthest up is tried on": ([ill("a"), ill("b", steps=1)], {"uid-b": 2}, True),
    "the trial is under way": ([ill("a"), ill("b", steps=1, waits=False)], {}, True),
    "long after another that does not load any more": (
        [ill("a", 10), failed("b", 5000, steps=1)], {"uid-a": 1}, False,
    ),
    "the trial came to its end": ([ill("a"), ill("b", steps=5, waits=False)], {}, True),
    "long after another that came to its end": (
        [ill("a", 10), ill("b", 5000, steps=5, waits=False)], {"uid-a": 1}, False,
    ),
    "two of four: one at a time": ([ill("a"), ill("b"), well("c"), well("d")], {"uid-a": 1}, True),
    "two of eight: a quarter at a time": (
        [ill("a"), ill("b"), *(well(n) for n in "cdefgh")], {"uid-a": 1, "uid-b": 1}, False,
    ),
    "another revision's are well": ([ill("a"), ill("b"), well("c", "old"), well("d", "old")], {"uid-a": 1}, True),
}  # fmt: skip


@pytest.mark.parametrize(("pods", "granted", "told"), CASES.values(), ids=CASES)
def test_who_is_granted_what(pods: list[PodView], granted: dict[str, int], told: bool) -> None:
    found = ration("r", [pod for pod in pods if pod.revision == "r"], WINDOW)
    assert found.grants == granted
    assert (found.words is not None) is told


def test_a_fault_of_all_is_told_with_numbers_and_with_what_to_look_at() -> None:
    words = ration("r", [ill("a"), ill("b", steps=5, waits=False)], WINDOW).words or ""
    assert "2 of 2 replicas of revision r stopped answering within 100 s" in words
    assert "`health.canary`" in words
    assert "Pod b was healed for all of them, 5 of 5 steps" in words
    assert "no Paris" in words


def test_two_agents_may_notice_the_same_fault_a_period_and_two_timeouts_apart() -> None:
    service = a_service(
        health={"canary": {"periodSeconds": 100, "timeoutSeconds": 30, "failureThreshold": 2}}
    )
    assert window_seconds(service.spec.health) == 60 + 100 + 2 * 30


def test_agents_of_the_first_release_are_told_nothing() -> None:
    old = a_pod("a", report=AgentReport(AgentState.LOADING, "", "", 0, 0, None))
    assert decide_healing(a_service(), [old]) == ([], None)


def test_those_that_wait_are_told_even_when_they_are_granted_nothing() -> None:
    advice, words = decide_healing(a_service(), [ill("a"), ill("b")])
    assert {advise.uid: advise.grant for advise in advice} == {"uid-a": 1, "uid-b": None}
    assert all(advise.waits for advise in advice)
    assert words is not None


def test_a_load_is_told_how_long_loads_take_once() -> None:
    pod = ill("a", waits=False)
    assert pod.report is not None
    well_on_its_way = HealingReport(None, 0, 5, waits=False)
    loading = replace(pod.report, state=AgentState.LOADING, healing=well_on_its_way, bytes_total=10**10)
    (advise,), _ = decide_healing(a_service(), [replace(pod, report=loading)])
    assert advise.load_seconds == 2 * (15 + 10**10 / 500e6), "twice the prior"
    told = replace(loading, told_load_seconds=advise.load_seconds * 1.05)
    assert decide_healing(a_service(), [replace(pod, report=told)]) == ([], None)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 12),
    st.lists(st.floats(0, 90), min_size=12, max_size=12),
)
def test_a_fault_that_hits_every_replica_takes_one_of_them_away(count: int, began: list[float]) -> None:
    """Whatever is done about it, nobody gets well. Steps take one round; every grant is used."""
    steps = dict.fromkeys(range(count), 0)
    under_way: set[int] = set()
    touched: set[int] = set()
    for seconds in range(60):
        pods = [
            ill(f"p{n:02}", 1000 + seconds - began[n], steps[n], waits=n not in under_way and steps[n] < 5)
            for n in range(count)
        ]
        under_way.clear()
        for uid, step in ration("r", pods, WINDOW).grants.items():
            number = int(uid.removeprefix("uid-p"))
            assert step == steps[number] + 1
            steps[number] += 1
            under_way.add(number)
        touched |= under_way
        assert len(under_way) <= 1
    assert len(touched) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 5), st.booleans()), max_size=12), st.integers(0, 20)
)
def test_never_more_at_a_time_than_a_quarter(sick: list[tuple[float, int, bool]], healthy: int) -> None:
    pods = [ill(f"p{n:02}", s, steps, waits=waits and steps < 5) for n, (s, steps, waits) in enumerate(sick)]
    found = ration("r", [*pods, *(well(f"w{n}") for n in range(healthy))], WINDOW)
    under_way = sum(steps < 5 and not waits for _, steps, waits in sick)
    assert len(found.grants) <= max(0, max(1, (len(sick) + healthy) // SHARE) - under_way)
    assert all(step <= 5 for step in found.grants.values())
