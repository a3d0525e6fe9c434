"""Whom a failed request is laid on, when a verdict was given, when the good revision was back."""

import math

from e2e.rollout.eyes import Glimpse
from e2e.rollout.judge import (
    Outcome,
    Span,
    first_moved,
    first_pulled,
    first_ready,
    first_verdict,
    lost,
    percent_of,
    problems_of_gap,
    problems_of_pull,
    problems_of_reason,
    problems_of_share,
    problems_of_traffic,
    recovered,
    unserved,
    weighted,
)
from e2e.rollout.report import table
from tests.unit.e2e.rollout.made import BAD, GOOD, a_glimpse, a_moment, a_replica, a_request, a_service

OLD, NEW = a_replica("old"), a_replica("new", BAD)
LOADING = a_replica("new", BAD, ready=False)


def test_a_failure_that_names_the_bad_revision_is_never_laid_on_the_good_one() -> None:
    named = a_request(10, why="HTTP 500: [errors p] no", revision="errors")
    assert lost([named], "errors", []) == []


def test_a_failure_that_names_the_good_revision_is_lost_whenever_it_was() -> None:
    named = a_request(10, why="HTTP 500: [good-1 p] no", revision="good-1")
    assert lost([named], "errors", [Span(0, 100)]) == [named]


def test_a_failure_that_names_nobody_is_lost_unless_the_bad_revision_took_traffic() -> None:
    nobody = a_request(10, why="ConnectError")
    assert lost([nobody], "errors", []) == [nobody]
    assert lost([nobody], "errors", [Span(8, math.inf)]) == []
    assert lost([nobody], "errors", [Span(20, 30)]) == [nobody]


def test_a_request_that_was_under_way_when_it_began_is_of_it() -> None:
    assert Span(10, 20).meets(a_request(5, seconds=2.5), margin=3)
    assert not Span(10, 20).meets(a_request(1, seconds=2.5), margin=3)
    assert not Span(10, 20).meets(a_request(23.1), margin=3)


def test_the_bad_revision_took_traffic_from_its_first_ready_replica_on() -> None:
    history = [a_moment(1, OLD), a_moment(2, OLD, LOADING), a_moment(3, OLD, NEW), a_moment(4, OLD)]
    assert first_ready(history, GOOD, since=0) == 3
    assert first_ready(history[:2], GOOD, since=0) == math.inf


def test_a_good_replica_moved_when_it_leaves_or_is_gone() -> None:
    leaving = a_replica("old", ready=False, leaving=True)
    unready = a_replica("old", ready=False)
    history = [a_moment(1), a_moment(2, OLD), a_moment(3, OLD, LOADING), a_moment(4, unready, LOADING)]
    assert first_moved(history, GOOD, 1, since=2) == math.inf, (
        "it may fail and be mended: nobody took its GPU"
    )
    assert first_moved([*history, a_moment(5, leaving, LOADING)], GOOD, 1, since=2) == 5
    assert first_moved([*history, a_moment(6, LOADING)], GOOD, 1, since=2) == 6
    assert first_moved(history, GOOD, 2, since=2) == 2, "one of two is not there"


def test_an_image_is_pulled_when_it_is_told_of_the_newest_spec() -> None:
    told = [
        a_glimpse(9, a_service(2, ImageReady=("True", "ImagePulled", "", 2))),
        a_glimpse(10, a_service(3, ImageReady=("True", "ImagePulled", "", 2))),
        a_glimpse(11, a_service(3, ImageReady=("False", "ImagePulling", "", 3))),
        a_glimpse(12, a_service(3, ImageReady=("True", "ImagePulled", "", 3))),
    ]
    assert first_pulled(told, since=10) == 12
    assert first_pulled(told[:3], since=10) == math.inf


def test_a_good_replica_must_not_go_before_the_image_is_there() -> None:
    assert problems_of_pull(12, math.inf) == problems_of_pull(12, 11) == []
    assert "8.0 s before" in problems_of_pull(12, 4)[0]
    assert "never told" in problems_of_pull(math.inf, math.inf)[0]


def test_recovered_is_when_the_good_revision_alone_serves_for_good() -> None:
    history = [a_moment(1, OLD), a_moment(5, OLD, LOADING), a_moment(12, OLD)]
    assert recovered(history, GOOD, 1, since=10) == 12
    assert recovered(history, GOOD, 1, since=20) == 20, "it was back before"
    assert recovered(history[:2], GOOD, 1, since=10) is None, "the bad replica is still there"
    assert recovered(history, GOOD, 2, since=10) is None, "a replica is missing"


def test_times_in_which_nothing_served() -> None:
    leaving = a_replica("old", ready=False, leaving=True)
    history = [a_moment(1, OLD), a_moment(10, leaving), a_moment(12), a_moment(20, NEW), a_moment(30)]
    assert unserved(history, since=5, until=40) == [Span(10, 20), Span(30, 40)]
    assert unserved(history, since=25, until=28) == []


def test_a_verdict_counts_for_the_newest_spec_alone() -> None:
    before = a_service(3, RolledBack=("True", "LoadFailed", "it raised", 2))
    after = a_service(3, RolledBack=("True", "LoadFailed", "it raised", 3))
    glimpses = [a_glimpse(10, before), a_glimpse(11, a_service(3)), a_glimpse(12, after)]
    verdict = first_verdict(glimpses, since=5)
    assert verdict is not None
    assert (verdict.word, verdict.reason, verdict.at) == ("RolledBack", "LoadFailed", 12)
    assert first_verdict(glimpses, since=13) is None


def test_a_preflight_that_failed_is_a_verdict() -> None:
    body = a_service(2, PreflightPassed=("False", "PreflightFailed", "no node has an H100", 2))
    verdict = first_verdict([a_glimpse(1, body)], since=0)
    assert verdict is not None
    assert problems_of_reason(verdict, {"PreflightFailed"}) == []
    assert "not LoadFailed" in problems_of_reason(verdict, {"LoadFailed"})[0]
    assert problems_of_reason(None, {"LoadFailed"}) == ["no verdict"]


def test_traffic_over_one_protocol_alone_proves_nothing() -> None:
    assert problems_of_traffic([a_request() for _ in range(30)], 20) == ["only 0 requests over gRPC"]


def test_a_gap_must_be_one_announced_and_hold_every_failure() -> None:
    told = a_glimpse(9, a_service(rollout={"chosen": "DrainFirst"}))
    within, outside = a_request(15, why="ConnectError"), a_request(50, why="ConnectError")
    one = [Span(10, 20)]
    assert problems_of_gap(one, [within], [told], since=0) == []
    assert problems_of_gap(one, [within], [], since=0) == ["the gap was not announced before it began"]
    assert problems_of_gap(one, [within, outside], [told], since=0) == ["1 requests lost: 1 x ConnectError"]
    assert problems_of_gap([*one, Span(30, 40)], [], [told], since=0) == ["2 gaps in which nothing served"]
    assert problems_of_gap([], [], [], since=0) == []


def a_share(at: float, **weights: int) -> Glimpse:
    body = a_service()
    body["status"]["traffic"] = [{"revision": name, "weight": weight} for name, weight in weights.items()]
    return a_glimpse(at, body)


def test_the_times_in_which_a_share_was_told() -> None:
    told = [
        a_share(1, aaa=100),
        a_share(5, aaa=90, bbb=10),
        a_share(9, aaa=0, bbb=100),
        a_share(20, aaa=90, bbb=10),
    ]
    assert weighted(told, GOOD, 10, until=30) == [Span(5, 9), Span(20, 30)]
    assert weighted([a_glimpse(1, a_service())], GOOD, 10, until=30) == []


def test_a_share_is_measured_over_rest_among_answers_once_gateways_have_heard_of_it() -> None:
    new = {"revision": "good-2"}
    counted = [a_request(5), a_request(6), a_request(7), a_request(8, **new)]
    early, late = a_request(1, **new), a_request(12, **new)
    others = [a_request(5, protocol="gRPC", **new), a_request(5, why="ConnectError")]
    assert percent_of([*counted, early, late, *others], "good-2", [Span(0, 13)]) == (25.0, 4)
    assert percent_of([], "good-2", [Span(0, 10)]) == (0.0, 0)


def test_a_share_may_be_off_by_what_chance_does() -> None:
    assert problems_of_share(12.5, 10, 735, least=100) == []
    assert problems_of_share(50.0, 10, 735, least=100) == [
        "it got 50.0 % of 735 requests, not 10 % (within 3.6)"
    ]
    assert problems_of_share(12.5, 10, 10_000, least=100)
    assert problems_of_share(10.0, 10, 99, least=100) == ["only 99 requests while 10 % were to go to it"]


def test_the_table_has_a_line_per_case_and_what_went_wrong() -> None:
    good = Outcome(
        "good/spare", (), 60.0, "RolledOut", "Surge", 100, seconds_to_verdict=12.34, seconds_to_recovery=0.0
    )
    bad = Outcome("bad/errors", problems=["no verdict"])
    text = table([good, bad]).splitlines()
    assert text[1].split() == ["bad/errors", "-", "-", "0", "0", "0", "-", "-", "-", "-", "FAILED"]
    assert text[2].split() == [
        "good/spare",
        "RolledOut",
        "Surge",
        "100",
        "0",
        "0",
        "12.3",
        "0.0",
        "-",
        "-",
        "passed",
    ]
    assert text[3:] == ["  bad/errors: no verdict", "cases run: 2, failed: 1; 1.0 minutes"]
