"""What a Prometheus has of the agents, and what the policy is told of it: what is not known is None, never zero."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from preheat.api.constants import PROMETHEUS_LABEL_DEPLOYMENT
from preheat.decide import scraped
from preheat.decide.scraped import (
    FRESH_SECONDS,
    past_query,
    read_past,
    read_recent,
    recent_query,
    window,
)
from preheat.decide.signals import LEAST_SHARE, STALE_SECONDS

NOW = 10_000.0
PODS = {"llama-0": "uid-0", "llama-1": "uid-1"}
NAMES = {
    "since": "start_time_seconds", "age": "signals_age_seconds", "came": "requests_received_total",
    "ended": "requests_ended_total", "busy": "service_seconds_total", "waiting": "requests_waiting",
    "slots": "slots",
}  # fmt: skip


def a_scrape(at: float, came: float = 0, **said: Any) -> dict[str, Any]:
    return {
        "at": at,
        "since": 5,
        "age": 1,
        "came": came,
        "ended": came,
        "busy": 2 * came,
        "waiting": 0,
        "slots": 4,
        **said,
    }


def body(pods: dict[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """An answer as Prometheus gives it, one series for each name and pod."""
    result = [
        {
            "metric": {
                "__name__": f"preheat_agent_{name}",
                "pod": pod,
                "namespace": "default",
                PROMETHEUS_LABEL_DEPLOYMENT: "llama",
            },
            "values": [[one["at"], str(one[field])] for one in scrapes if field in one],
        }
        for pod, scrapes in pods.items()
        for field, name in NAMES.items()
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def seen(pods: dict[str, Sequence[dict[str, Any]]], known_at: float = 0.0, left: int = 0) -> Any:
    found = window(frozenset(PODS.values()), left, read_recent(body(pods), PODS), NOW, known_at, (), None)
    return found.sample if found else None


def test_a_window_is_as_long_as_the_time_between_two_scrapes() -> None:
    sample = seen({
        "llama-0": [a_scrape(NOW - 40), a_scrape(NOW - 10, 30)],
        "llama-1": [a_scrape(NOW - 35), a_scrape(NOW - 5, 60, waiting=3)],
    })  # fmt: skip
    assert (sample.at, sample.seconds, sample.ready) == (NOW - 5, 30, 2)
    assert (sample.arrivals, sample.in_service, sample.service_seconds, sample.queued) == (90, 6, 2, 3)


def test_it_goes_on_where_what_is_known_ends() -> None:
    scrapes = [a_scrape(NOW - 70), a_scrape(NOW - 40, 60), a_scrape(NOW - 10, 90)]
    pods = {"llama-0": scrapes, "llama-1": scrapes}
    assert seen(pods, known_at=NOW - 65).seconds == 60
    assert seen(pods, known_at=NOW - 65).arrivals == 180
    assert seen(pods, known_at=0.0).arrivals == 60, "what was long before is not counted again"
    assert seen(pods, known_at=NOW - 10) is None, "nothing new was scraped"


def test_pods_that_were_not_scraped_anew_tell_once_more_what_they_told() -> None:
    pods = {
        "llama-0": [a_scrape(NOW - 61), a_scrape(NOW - 1, 60)],
        "llama-1": [a_scrape(NOW - 91), a_scrape(NOW - 31, 60)],
    }
    assert seen(pods, known_at=NOW - 31).arrivals == 120


GOOD = [a_scrape(NOW - 40), a_scrape(NOW - 10, 30)]


@pytest.mark.parametrize(
    "scrapes",
    [
        [],
        [a_scrape(NOW - 10, 30)],
        [a_scrape(NOW - FRESH_SECONDS - 40), a_scrape(NOW - FRESH_SECONDS - 1, 30)],
        [a_scrape(NOW - 40), a_scrape(NOW - 10, 30, ended="NaN")],
        [a_scrape(NOW - 40), a_scrape(NOW - 10, 30, busy="+Inf")],
        [a_scrape(NOW - 40), {k: v for k, v in a_scrape(NOW - 10, 30).items() if k != "waiting"}],
        [a_scrape(NOW - 40), a_scrape(NOW - 10, 30, since=9)],
        [a_scrape(NOW - 40, 50), a_scrape(NOW - 10, 30)],
        [a_scrape(NOW - 40), a_scrape(NOW - 10, 30, age=STALE_SECONDS + 1)],
        [a_scrape(NOW + 60), a_scrape(NOW + 90, 30)],
        [a_scrape(NOW - 40), a_scrape(NOW - 10, 1e300)],
    ],
    ids=["missing", "one alone", "stale", "not a number", "endless", "a series is missing", "another agent",
         "it went back", "the engine is silent", "of the future", "more than there can be"],
)  # fmt: skip
def test_what_is_not_known_is_none_and_never_zero(scrapes: list[dict[str, Any]]) -> None:
    assert seen({"llama-0": scrapes}) is None
    assert seen({"llama-0": scrapes, "llama-1": scrapes}) is None
    assert seen({"llama-0": scrapes, "llama-1": GOOD}).arrivals == 60, "half of them stand for the others"


def test_with_fewer_than_half_nothing_is_known() -> None:
    pods = frozenset([*PODS.values(), "uid-2"])
    found = window(pods, 0, read_recent(body({"llama-0": GOOD}), PODS), NOW, 0.0, (), None)
    assert found is not None
    assert found.share < LEAST_SHARE
    assert (found.sample.arrivals, found.sample.queued) == (None, None)


def test_what_others_call_theirs_is_not_ours() -> None:
    assert read_recent(body({"stranger": GOOD}), PODS) == {}


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"status": "error", "error": "x"}, {"status": "success", "data": {"resultType": "vector", "result": []}},
     {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "preheat_agent_slots",
      "pod": "llama-0"}, "values": [["x", "y"]]}]}}],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(answer: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_recent(answer, PODS)


def test_queries_name_one_deployment_and_nothing_leads_out_of_them() -> None:
    for query in (recent_query, past_query):
        text = query("default", 'x"} or up{a="', {"cluster": "eu", "namespace": "other"})
        assert 'namespace="default"' in text
        assert 'namespace="other"' not in text
        assert f'{PROMETHEUS_LABEL_DEPLOYMENT}="x\\"}} or up{{a=\\""' in text
        assert text.count('cluster="eu"') == text.count('namespace="default"')


def past_body(windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({name for one in windows for name in one} - {"at"})
    result = [
        {"metric": {"what": name}, "values": [[one["at"], str(one[name])] for one in windows if name in one]}
        for name in names
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def ten_minutes(at: float, **said: Any) -> dict[str, Any]:
    return {"at": at, "came": 600, "ended": 600, "busy": 1200, "waiting": 0, "up": 1, "scrapes": 40, **said}


@pytest.mark.parametrize(
    "said",
    [{"up": 0.8}, {"scrapes": 20}, {"came": "NaN"}, {"busy": -1}, {"came": 1e300}],
    ids=["scrapes failed", "Prometheus was away", "not a number", "what cannot be", "too many"],
)
def test_ten_minutes_of_which_too_little_is_known_are_left_out(said: dict[str, Any]) -> None:
    good = [ten_minutes(600.0 * n) for n in range(1, 5)]
    found = read_past(past_body([*good, ten_minutes(3000.0, **said)]), 0, NOW)
    assert [one.at for one in found] == [600, 1200, 1800, 2400]
    assert {(one.arrivals, one.in_service, one.service_seconds) for one in found} == {(600, 2, 2)}


def test_what_no_replica_told_is_not_known_and_what_was_not_asked_is_zero() -> None:
    asleep = {k: v for k, v in ten_minutes(1200).items() if k in {"at", "up", "scrapes"}}
    idle = ten_minutes(1800, came=0, ended=0, busy=0)
    found = read_past(past_body([ten_minutes(600), asleep, idle]), 0, NOW)
    assert [(one.at, one.arrivals, one.service_seconds) for one in found] == [(600, 600, 2), (1800, 0, None)]
    assert read_past(past_body([]), 0, NOW) == ()


@pytest.mark.parametrize("at", [math.inf, -math.inf, math.nan, 0.0, 1e300, NOW + 600])
def test_a_time_that_was_not_asked_for_is_left_out(at: float) -> None:
    """A slot is counted from its time: of infinity there is none, and up to 1e300 nobody counts."""
    found = read_past(past_body([ten_minutes(600), ten_minutes(at)]), 600, NOW)
    assert [one.at for one in found] == [600]


def test_a_week_is_asked_for_in_as_many_points_as_the_season_has() -> None:
    first, last = scraped.past_span(1_000_000.0)
    assert last == 999_600
    assert (last - first) / scraped.STEP_SECONDS + 1 == 7 * 144
