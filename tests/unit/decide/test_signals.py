"""What pods tell at two times, and what the policy is told of it: what is not known is None, never zero."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.decide.observed import Reading
from preheat.decide.signals import STALE_SECONDS, Look, window

WINDOW = 15.0


def a_reading(came: float = 0, ended: float = 0, busy: float | None = 0, **fields: Any) -> Reading:
    given_: dict[str, Any] = {"since": "a", "age_seconds": 1.0, "failed": 0, "in_service": 0, "waiting": 0}
    return Reading(came=came, ended=ended, busy_seconds=busy, **{**given_, **fields})


def looks(
    before: dict[str, Reading | None] | None, after: dict[str, Reading | None]
) -> tuple[Look | None, Look]:
    """Two looks a window apart. None: a pod that is Ready and silent."""

    def look(at: float, pods: dict[str, Reading | None]) -> Look:
        return Look(at, frozenset(pods), {uid: reading for uid, reading in pods.items() if reading})

    return (None if before is None else look(1000.0, before)), look(1000.0 + WINDOW, after)


def seen(before: dict[str, Reading | None] | None, after: dict[str, Reading | None]) -> Any:
    return window(*looks(before, after), loading=(), available=None).sample


def test_counters_that_grew_are_arrivals_and_service() -> None:
    sample = seen(
        {"p": a_reading(100, 90, 500.0)}, {"p": a_reading(130, 110, 560.0, in_service=4, waiting=16)}
    )
    assert (sample.at, sample.seconds) == (1015, 15)
    assert sample.arrivals == 30
    assert sample.in_service == 4, "the mean over the window: 60 seconds of service in 15"
    assert sample.queued == 16
    assert sample.service_seconds == 3
    assert sample.ready == 1


def test_two_pods_are_added_up() -> None:
    one = {"p": a_reading(0, 0, 0), "q": a_reading(5, 5, 10)}
    two = {"p": a_reading(10, 10, 30, waiting=1), "q": a_reading(25, 25, 40, waiting=2)}
    sample = seen(one, two)
    assert (sample.arrivals, sample.in_service, sample.queued, sample.service_seconds) == (30, 4, 3, 2)


def test_a_backlog_that_drains_is_no_arrival() -> None:
    sample = seen({"p": a_reading(100, 50, 0, waiting=42)}, {"p": a_reading(100, 92, 120)})
    assert sample.arrivals == 0


def test_the_first_look_knows_what_is_under_way_and_not_what_came() -> None:
    sample = seen(None, {"p": a_reading(100, 90, 500.0, in_service=4, waiting=2)})
    assert (sample.arrivals, sample.service_seconds, sample.in_service, sample.queued) == (None, None, 4, 2)


@pytest.mark.parametrize(
    "reading",
    [
        None,
        a_reading(130, 110, 560.0, age_seconds=STALE_SECONDS + 1),
        a_reading(3, 1, 1.0, since="b"),
    ],
    ids=["silent", "stale", "another agent"],
)
def test_what_one_pod_does_not_tell_is_unknown_and_not_zero(reading: Reading | None) -> None:
    sample = seen({"p": a_reading(100, 90, 500.0)}, {"p": reading})
    assert (sample.arrivals, sample.service_seconds) == (None, None)
    assert sample.in_service is None
    assert sample.ready == 1


def test_stale_at_the_beginning_is_unknown_as_well() -> None:
    stale = a_reading(100, 90, 500.0, age_seconds=STALE_SECONDS + 1)
    assert seen({"p": stale}, {"p": a_reading(130, 110, 560.0)}).arrivals is None


def test_one_silent_pod_of_three_is_taken_to_be_like_the_others() -> None:
    one = {name: a_reading() for name in "pqr"}
    two = {"p": a_reading(10, 10, 20, waiting=2), "q": a_reading(10, 10, 20, waiting=2), "r": None}
    sample = seen(one, two)
    assert (sample.arrivals, sample.queued) == (pytest.approx(30), pytest.approx(6))
    assert sample.service_seconds == 2


def test_two_silent_pods_of_three_leave_nothing_known() -> None:
    one = {name: a_reading() for name in "pqr"}
    sample = seen(one, {"p": a_reading(10, 10, 20), "q": None, "r": None})
    assert (sample.arrivals, sample.queued, sample.in_service) == (None, None, None)


def test_a_pod_that_became_ready_began_at_zero() -> None:
    sample = seen({"p": a_reading(100, 90, 500)}, {"p": a_reading(110, 100, 520), "q": a_reading(5, 5, 10)})
    assert sample.arrivals == 15


def test_a_pod_that_was_silent_before_did_not_begin_at_zero() -> None:
    one = {"p": a_reading(100, 90, 500), "q": None}
    sample = seen(one, {"p": a_reading(110, 100, 520), "q": a_reading(9_000, 9_000, 90_000)})
    assert sample.arrivals == 20, "p stands for both"


def test_a_pod_that_served_before_does_not_come_with_all_that_it_ever_served() -> None:
    before, after = looks(
        {"p": a_reading(100, 90, 500)},
        {"p": a_reading(110, 100, 520), "q": a_reading(9_000, 9_000, 90_000)},
    )
    sample = window(before, replace(after, earlier=frozenset({"q"})), (), None).sample
    assert sample.arrivals == 20, "p stands for both"


def test_a_pod_that_left_took_half_a_window_with_it() -> None:
    sample = seen({"p": a_reading(), "q": a_reading()}, {"p": a_reading(10, 10, 20)})
    assert sample.arrivals == pytest.approx(15)


def test_with_no_pod_nobody_knows_what_came() -> None:
    for before in (None, {}, {"p": a_reading()}):
        sample = seen(before, {})
        assert (sample.arrivals, sample.queued, sample.ready) == (None, None, 0)


def test_without_a_gauge_what_runs_is_known_from_what_it_took() -> None:
    one, two = a_reading(0, 0, 0, in_service=None), a_reading(5, 5, 30, in_service=None)
    sample = seen({"p": one}, {"p": two})
    assert sample.in_service == 2
    assert seen(None, {"p": one}).in_service is None


def test_when_none_ended_nobody_knows_what_one_takes() -> None:
    assert seen({"p": a_reading(0, 0, 0)}, {"p": a_reading(3, 0, 45)}).service_seconds is None


def test_requests_too_short_for_the_agents_looks_take_an_unknown_time_and_not_none() -> None:
    assert seen({"p": a_reading(0, 0, 0)}, {"p": a_reading(3, 3, 0)}).service_seconds is None


def test_a_clock_that_went_back_makes_no_window() -> None:
    before, after = looks({"p": a_reading(10, 10, 5)}, {"p": a_reading(20, 20, 9)})
    assert before is not None
    assert window(after, before, (), None).sample.arrivals is None


def test_tokens_are_counted_where_the_engine_says() -> None:
    before, after = looks(
        {"p": a_reading(prompt_tokens=5, generated_tokens=10)},
        {"p": a_reading(prompt_tokens=9, generated_tokens=60)},
    )
    found = window(before, after, (), None)
    assert (found.prompt_tokens, found.generated_tokens) == (4, 50)
    assert window(*looks({"p": a_reading()}, {"p": a_reading()}), (), None).prompt_tokens is None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", '"many"', "null", "[]"])
@pytest.mark.parametrize("field", ["came", "ended", "waiting", "ageSeconds"])
def test_an_answer_with_what_is_no_number_is_no_answer(field: str, value: str) -> None:
    good = {"ageSeconds": 1, "came": 1, "ended": 1, "failed": 0, "waiting": 0}
    text = json.dumps({"since": "a", "signals": {**good, field: "HERE"}}).replace('"HERE"', value)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Reading.from_json(json.loads(text))


def test_an_agent_that_knows_nothing_yet_gives_no_answer() -> None:
    with pytest.raises(TypeError):
        Reading.from_json({"since": "a", "signals": None})


numbers = st.floats(0, 1e9)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=5))
def test_nothing_that_agents_say_makes_less_than_nothing(
    told: list[tuple[float, float, float, float]],
) -> None:
    one = {str(n): a_reading(a, b, a) for n, (a, b, _, _) in enumerate(told)}
    two = {str(n): a_reading(c, d, c) for n, (_, _, c, d) in enumerate(told)}
    sample = seen(one, two)
    for value in (sample.arrivals, sample.in_service, sample.queued, sample.service_seconds):
        assert value is None or value >= 0
