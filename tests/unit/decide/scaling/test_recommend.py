"""What must hold of every recommendation, whatever comes."""

import base64
import json
import math
from array import array
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preheat.decide.scaling import LoadTime, Memory, Mode, Policy, Reason, Sample, Window, recommend

from tests.unit.decide.scaling.world import SERVICE_SECONDS, START, World, a_policy, a_sample

HOUR = 3600.0
LIMIT_BYTES = 16 * 1024

numbers = st.one_of(st.none(), st.floats(0, 5000), st.sampled_from([math.nan, math.inf, -1.0]))
samples = st.builds(
    Sample,
    at=st.floats(-100, 7200).map(lambda at: START + at),
    seconds=st.sampled_from([0.0, 5.0, 15.0, 60.0, 7200.0]),
    arrivals=numbers,
    in_service=numbers,
    queued=numbers,
    service_seconds=numbers,
    ready=st.integers(0, 30),
    loading=st.lists(st.one_of(st.just(math.inf), st.floats(0, 4000)), max_size=5).map(tuple),
    available=st.one_of(st.none(), st.integers(0, 40)),
)
policies = st.builds(
    Policy,
    min_replicas=st.integers(0, 5),
    max_replicas=st.integers(5, 30),
    slots=st.sampled_from([1.0, 8.0, 256.0]),
    load=st.builds(LoadTime, st.sampled_from([0.0, 20.0, 300.0, 9000.0]), st.sampled_from([20.0, 9999.0])),
    mode=st.sampled_from(Mode),
    schedules=st.sampled_from([(), (Window(0, 720, 4),)]),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, st.lists(st.lists(samples, max_size=3), min_size=1, max_size=12))
def test_it_is_within_its_bounds_says_why_and_can_be_written_down(
    policy: Policy, calls: list[list[Sample]]
) -> None:
    memory = Memory()
    for call, seen in enumerate(calls):
        at = max([START + 15 * call, *(one.at for one in seen)])
        found, memory = recommend(policy, seen, memory, at)
        stock_out = found.reason is Reason.STOCK_OUT
        assert (0 if stock_out else policy.min_replicas) <= found.replicas <= policy.max_replicas
        assert found.message
        assert all(math.isfinite(value) for value in found.inputs.values())
        assert found.rejected is None or found.rejected.replicas != found.replicas
        assert Memory.from_json(memory.to_json()) == memory


@given(st.text() | st.none())
def test_a_memory_that_cannot_be_read_is_forgotten(text: str | None) -> None:
    assert Memory.from_json(text) == Memory()


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_memory_that_was_tampered_with_is_read_or_forgotten(data: st.DataObject) -> None:
    text = WRITTEN
    body: dict[str, Any] = json.loads(text)
    key = data.draw(st.sampled_from(sorted(body)))
    body[key] = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
        )
    )
    memory = Memory.from_json(json.dumps(body))
    recommend(a_policy(), [a_sample(at=START + 9 * HOUR)], memory, START + 9 * HOUR)
    cut = data.draw(st.integers(0, len(text) - 1))
    assert Memory.from_json(text[:cut]) == Memory()


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 1], ids=["work", "arrivals"])
def test_a_memory_whose_dials_cannot_be_compared_is_forgotten(place: int, value: float) -> None:
    body: dict[str, Any] = json.loads(WRITTEN)
    body["dials"][place] = value
    assert Memory.from_json(json.dumps(body)) == Memory()


def test_a_memory_of_a_trial_that_cost_beyond_all_numbers_is_forgotten() -> None:
    body: dict[str, Any] = json.loads(WRITTEN)
    ready, loads, text = body["trials"][0]
    numbers = array("d", base64.b64decode(text))
    numbers[1] = math.inf
    body["trials"][0] = [ready, loads, base64.b64encode(numbers.tobytes()).decode()]
    assert Memory.from_json(json.dumps(body)) == Memory()


STEADY = World(a_policy(), lambda _: 60.0, ready=9).run(HOUR)
WRITTEN = World(a_policy(), lambda t: 40.0 + t % 977 / 30).run(2 * HOUR).memory.to_json()


@pytest.mark.parametrize("load", [840.0, 1700.0, 5400.0])
def test_a_memory_is_at_most_16_kib_however_hard_the_days(load: float) -> None:
    """Most guesses under way, loads each minute in each trial, and demand that is never the same."""
    policy = a_policy(load=load, max_replicas=100_000)
    memory, most = Memory(), 0
    for step in range(1, 3000):
        climbing = 1.02 ** (step % 180)
        wanted = 123.456 * climbing * (1.1 + math.sin(step / 7) * math.sin(step / 311) / 9)
        seen = Sample(
            START + 60 * step, 60.0, wanted * 60 / SERVICE_SECONDS, wanted, 0.0, SERVICE_SECONDS, 400, (60.0,) * 9
        )  # fmt: skip
        _, memory = recommend(policy, [seen], memory, seen.at)
        if step % 90 == 0:
            most = max(most, len(memory.to_json()))
    assert 8_000 < most <= LIMIT_BYTES


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 29), st.lists(st.sampled_from(["missing", "nan", "none", "old", "future"]), min_size=1))
def test_unknown_never_lowers(ready: int, kinds: list[str]) -> None:
    memory, now = STEADY.memory, START + STEADY.now
    before = STEADY.replicas
    for kind in kinds:
        now += 15
        unknown = a_sample(at=now, arrivals=None, in_service=None, queued=None, ready=ready)
        seen = {
            "missing": [unknown],
            "nan": [a_sample(at=now, slots=0.0, arrivals=math.nan, ready=ready)],
            "none": [],
            "old": [a_sample(at=START + 15, slots=0.0, ready=before)],
            "future": [a_sample(at=now + 86_400, slots=0.0, ready=before)],
        }[kind]
        found, memory = recommend(a_policy(), seen, memory, now)
        assert found.replicas >= before


@pytest.mark.parametrize("name", ["arrivals", "in_service", "queued"])
def test_one_unknown_number_moves_nothing_though_the_window_before_was_known(name: str) -> None:
    """In it fewer would do: an unknown queue is no empty one."""
    now = START + STEADY.now + 15
    calm = a_sample(at=now, slots=0.0, ready=30)
    lowered, _ = recommend(a_policy(), [calm], STEADY.memory, now)
    assert lowered.replicas < 30
    found, memory = recommend(a_policy(), [replace(calm, **{name: None})], STEADY.memory, now)
    assert (found.replicas, found.reason) == (STEADY.replicas, Reason.UNKNOWN)
    assert memory == replace(STEADY.memory, wanted=STEADY.replicas)


def test_a_clock_that_went_back_moves_nothing_and_is_forgotten_in_the_end() -> None:
    world = World(a_policy(), lambda _: 60.0, ready=9).run(HOUR)
    early = a_sample(at=START + 600, slots=1.0, ready=world.ready)
    found, memory = recommend(a_policy(), [early], world.memory, START + 600)
    assert (found.replicas, found.reason) == (world.replicas, Reason.UNKNOWN)
    assert memory.known_at == world.memory.known_at
    long_before = START - 10 * 86_400
    _, memory = recommend(a_policy(), [a_sample(at=long_before)], memory, long_before)
    assert memory.known_at == long_before


def test_a_clock_that_went_back_keeps_nobody_asleep() -> None:
    policy = a_policy(min_replicas=0)
    world = World(policy, lambda t: 4.0 if t < HOUR else 0.0).run(HOUR + 900)
    assert world.replicas == 0
    silent, turned_away = (
        recommend(
            policy, [a_sample(at=START + 600, slots=0.0, arrivals=each, ready=0)], world.memory, START + 600
        )
        for each in (0.0, 1.0)
    )
    assert silent[0].replicas == 0
    assert (turned_away[0].replicas, turned_away[0].reason) == (1, Reason.WAKING)
    later = a_sample(at=START + 615, slots=0.0, arrivals=0.0, ready=0, loading=(285.0,))
    assert recommend(policy, [later], turned_away[1], START + 615)[0].replicas == 1


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 300), st.floats(0, 300))
def test_more_demand_never_asks_for_less(fewer: float, more: float) -> None:
    fewer, more = sorted((fewer, more))
    now = START + STEADY.now + 60
    asked = []
    for slots in (fewer, more):
        seen = a_sample(at=now, slots=slots, seconds=60.0, arrivals=slots * 10, ready=9)
        asked.append(recommend(a_policy(), [seen], STEADY.memory, now)[0].replicas)
    assert asked[0] <= asked[1]


@settings(deadline=None, max_examples=12)
@given(st.floats(0.0, 0.9), st.floats(0, 120))
def test_a_load_under_way_is_never_given_up(left: float, slots: float) -> None:
    """However far demand falls: what is loading for 10 % of its time or more is finished."""
    memory, now = STEADY.memory, START + STEADY.now
    for _ in range(60):
        now += 15
        seen = a_sample(at=now, slots=slots, ready=9, loading=(300.0 * left, 300.0 * left))
        found, memory = recommend(a_policy(), [seen], memory, now)
        assert found.replicas >= 11


def test_a_load_that_has_just_begun_goes_with_the_need_for_it() -> None:
    world = World(a_policy(), lambda t: 60.0 if t < HOUR else 4.0, ready=9).run(HOUR + 1800)
    now = START + world.now + 15
    seen = a_sample(at=now, slots=4.0, ready=2, loading=(299.0, 299.0, 299.0))
    found, _ = recommend(a_policy(), [seen], world.memory, now)
    assert found.replicas < 5


def test_loads_are_counted_once() -> None:
    """With five loading for a step, the next look asks for no more."""
    world = World(a_policy(load=1800.0), lambda t: 30.0 if t < HOUR else 80.0, ready=4).run(HOUR + 180)
    after = world.replicas
    world.run(240)
    assert world.replicas <= after + 2


def test_a_schedule_is_a_floor_one_load_time_ahead() -> None:
    policy = a_policy(schedules=(Window(9 * 60, 17 * 60, 6),))
    world = World(policy, lambda _: 4.0, ready=2).run(8.5 * HOUR)
    assert world.replicas <= 2
    world.run(0.5 * HOUR)
    assert world.ready == 6
    assert world.said[-1][1].reason is Reason.SCHEDULED


def test_the_budget_is_never_exceeded_and_said() -> None:
    world = World(a_policy(max_replicas=6), lambda _: 90.0, ready=3).run(HOUR)
    assert world.most() == 6
    rejected = world.said[-1][1].rejected
    assert world.said[-1][1].reason is Reason.AT_BUDGET
    assert rejected is not None
    assert "maxReplicas is 6" in rejected.why


def test_every_sentence_has_its_numbers() -> None:
    world = World(a_policy(load=1800.0), lambda t: 30.0 if t < HOUR else 80.0, ready=4).run(HOUR + 90)
    found = next(one for _, one in world.said if one.reason is Reason.DRAINING_BACKLOG)
    assert f"{found.inputs['ready']:.0f} ready" in found.message
    assert found.rejected is not None
    assert "late" in found.rejected.why
    assert found.inputs["load_seconds"] == 1800.0
    held = next(one for _, one in reversed(world.said) if one.reason in {Reason.STEADY, Reason.HOLDING})
    assert "30m" in held.message


@pytest.mark.parametrize("mode", Mode)
def test_an_operator_that_starts_beside_replicas_gives_none_away_at_first(mode: Mode) -> None:
    found, memory = recommend(a_policy(mode=mode), [], Memory(), START)
    assert (found.replicas, found.reason) == (1, Reason.UNKNOWN)
    for step in range(1, 20):
        now = START + 15 * step
        found, memory = recommend(a_policy(mode=mode), [a_sample(at=now, ready=9)], Memory() if step == 1 else memory, now)  # fmt: skip
        assert found.replicas == 9


@pytest.mark.parametrize("mode", Mode)
def test_a_new_deployment_that_is_asked_for_more_than_it_has_does_not_wait_for_a_whole_minute(
    mode: Mode,
) -> None:
    world = World(a_policy(mode=mode), lambda _: 60.0, ready=1).run(15)
    assert 4 <= world.replicas <= 8
    assert world.said[0][1].reason is Reason.DEMAND_RISES
    world.run(60)
    assert world.aborted == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 300), min_size=4, max_size=4), st.integers(1, 20), st.sampled_from(Mode))
def test_what_is_asked_for_in_the_first_minute_is_what_would_be_asked_for_at_its_end(
    demand: list[float], ready: int, mode: Mode
) -> None:
    """Nobody follows it here, so at the end as many are there as at the beginning."""
    memory, asked = Memory(), []
    for step, slots in enumerate(demand, 1):
        now = START + 15 * step
        found, memory = recommend(
            a_policy(mode=mode), [a_sample(at=now, slots=slots, ready=ready)], memory, now
        )
        asked.append(found.replicas)
    assert memory.closed >= 0, "the last one ended a minute"
    assert ready <= min(asked)
    assert asked[:-1] == sorted(asked[:-1])
    assert max(asked) == asked[-1]


def test_in_the_first_minute_it_says_what_it_has_seen_and_why_it_does_not_go_by_it() -> None:
    now = START + 15
    found, memory = recommend(a_policy(), [a_sample(at=now, ready=9)], Memory(), now)
    assert (found.replicas, found.reason) == (9, Reason.UNKNOWN)
    assert "nothing is forecast before a whole minute was seen" in found.message
    later, _ = recommend(a_policy(), [], memory, now + 30)
    assert "it has not been seen for 30s how much is wanted" in later.message


def test_the_first_request_ever_wakes_what_sleeps() -> None:
    seen = a_sample(slots=0.0, arrivals=1.0, queued=1.0, ready=0, service_seconds=None)
    found, _ = recommend(a_policy(min_replicas=0), [seen], Memory(), START)
    assert (found.replicas, found.reason) == (1, Reason.WAKING)


def test_a_schedule_needs_no_metrics() -> None:
    policy = a_policy(schedules=(Window(9 * 60, 17 * 60, 6),))
    world = World(policy, lambda _: 4.0, ready=2, blind=lambda t: t > 8 * HOUR).run(9 * HOUR)
    assert world.ready == 6


def test_one_that_nobody_ever_asked_goes_to_zero_too() -> None:
    assert World(a_policy(min_replicas=0), lambda _: 0.0).run(HOUR).replicas == 0


def test_nothing_goes_while_somebody_waits() -> None:
    world = World(a_policy(), lambda t: 60.0 if t < HOUR else 4.0, ready=9).run(HOUR + 1800)
    now = START + world.now + 15
    waiting, calm = (
        recommend(a_policy(), [a_sample(at=now, slots=4.0, ready=9, queued=each)], world.memory, now)[0]
        for each in (1.0, 0.0)
    )
    assert (waiting.replicas, waiting.reason) == (9, Reason.HOLDING)
    assert calm.replicas < 9


def test_one_that_sleeps_is_woken_by_a_request_that_was_turned_away_and_by_nothing_else() -> None:
    """Not by a keep-alive that has become longer since, either."""
    policy = a_policy(min_replicas=0)
    world = World(policy, lambda t: 4.0 if t < HOUR else 0.0).run(HOUR + 900)
    assert world.replicas == 0
    now, slower = START + world.now + 15, a_policy(min_replicas=0, load=3600.0)
    silent, turned_away = (
        recommend(slower, [a_sample(at=now, slots=0.0, arrivals=each, ready=0)], world.memory, now)[0]
        for each in (0.0, 1.0)
    )
    assert silent.replicas == 0
    assert turned_away.replicas == 1


def test_a_window_of_the_future_is_not_learnt() -> None:
    now = START + STEADY.now + 15
    _, memory = recommend(a_policy(), [a_sample(at=now + 3600)], STEADY.memory, now)
    assert memory.known_at == STEADY.memory.known_at


def test_guesses_whose_minutes_were_not_all_seen_are_not_learnt_from() -> None:
    now = START + STEADY.now + 180
    _, memory = recommend(a_policy(), [a_sample(at=now, slots=60.0, ready=9)], STEADY.memory, now)
    assert len(STEADY.memory.forecast.guesses) > 1
    assert [guess.minute for guess in memory.forecast.guesses] == [memory.closed]


def test_a_time_that_nobody_watched_is_no_silence() -> None:
    """An operator that starts again remembers who asked ten minutes ago, and not who asked since."""
    policy = a_policy(min_replicas=0, load=100.0)
    often = World(policy, lambda t: 0.5 if t % 60 == 0 else 0.0).run(HOUR)
    memory, now = Memory.from_json(often.memory.to_json()), START + often.now + 555
    found, memory = recommend(policy, [a_sample(at=now, slots=0.0, service_seconds=None)], memory, now)
    assert found.replicas == 1
    assert sum(memory.idle.surprises) == sum(often.memory.idle.surprises)
    for _ in range(30):
        now += 15
        found, memory = recommend(policy, [a_sample(at=now, slots=0.0, service_seconds=None)], memory, now)
    assert found.replicas == 0, "from then on it is one"


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("before", "after", "ready"), [(4.0, 80.0, 12), (80.0, 4.0, 1)])
def test_an_outlook_of_long_ago_moves_nothing(mode: Mode, before: float, after: float, ready: int) -> None:
    """As after two days in mode External, or without agents that tell."""
    policy = a_policy(mode=mode)
    past = World(policy, lambda _: before, ready=1).run(2 * HOUR)
    now, memory = START + past.now + 48 * HOUR, replace(past.memory, wanted=ready)
    for _ in range(16):
        found, memory = recommend(policy, [a_sample(at=now, slots=after, ready=ready)], memory, now)
        assert found.replicas == ready, found.message
        now += 15
