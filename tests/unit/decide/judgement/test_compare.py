"""Two revisions are compared: no verdict on noise, and none that is missed where it matters."""

import pytest
from preheat.api.conditions import Reason
from preheat.api.llmdeployment import AnalysisSpec
from preheat.decide.judgement.compare import Tally, regression, tally
from preheat.decide.observed import Reading

from tests.unit.decide.judgement.simulate import WORLDS, World, alarms

FAST_CASES = 60
OLD = Tally(1000, 10, 1000.0)


@pytest.mark.parametrize("world", [w for w in WORLDS if not w.bad and w.burst == 1], ids=lambda w: w.name)
def test_chance_is_no_regression(world: World) -> None:
    assert alarms(world, FAST_CASES, 1)[0] <= 1 / FAST_CASES


@pytest.mark.parametrize("world", [w for w in WORLDS if w.bad and w.per_second >= 1], ids=lambda w: w.name)
def test_what_is_much_worse_is_found(world: World) -> None:
    assert alarms(world, FAST_CASES, 1)[0] >= 0.85


def test_few_requests_say_nothing() -> None:
    assert regression(Tally(29, 29, 900.0), OLD, AnalysisSpec()) is None
    assert regression(Tally(900, 900, 900.0), Tally(29, 0, 29.0), AnalysisSpec()) is None


def test_an_engine_that_does_not_say_how_long_is_judged_by_its_errors() -> None:
    assert regression(Tally(100, 0, None), OLD, AnalysisSpec()) is None
    found = regression(Tally(100, 50, None), OLD, AnalysisSpec())
    assert found is not None
    assert found.words.startswith("50 of 100 requests failed (50.0%); of its predecessor 10 of 1000 (1.0%)")


def test_bounds_are_the_users() -> None:
    slow = Tally(500, 5, 2000.0)
    assert regression(slow, OLD, AnalysisSpec()) is not None
    assert regression(slow, OLD, AnalysisSpec(max_slowdown_percent=400)) is None
    broken = Tally(500, 100, 500.0)
    assert regression(broken, OLD, AnalysisSpec()) is not None
    assert regression(broken, OLD, AnalysisSpec(max_error_percent=40)) is None


def test_replicas_count_together_and_a_silent_one_is_left_out() -> None:
    one, two = Reading("a", 1, 5, 4, 1, None, 0, 8.0), Reading("b", 1, 7, 6, 0, None, 0, None)
    assert tally([]) is None
    assert tally([one]) == Tally(4, 1, 8.0)
    assert tally([one, two]) == Tally(10, 1, None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"for": "new", "ended": "x", "failed": 1}'])
def test_a_baseline_that_somebody_wrote_by_hand_is_none(text: str) -> None:
    assert Tally.from_json(text, "new") is None


def test_a_baseline_is_for_one_successor() -> None:
    text = OLD.to_json("new")
    assert Tally.from_json(text, "new") == OLD
    assert Tally.from_json(text, "newer") is None


def test_a_few_milliseconds_that_became_many_are_nobodys_business() -> None:
    quick = Tally(5000, 0, 10.0)
    assert regression(Tally(5000, 0, 500.0), quick, AnalysisSpec()) is None, "0.1 s instead of 0.002 s"
    found = regression(Tally(5000, 0, 600.0), quick, AnalysisSpec())
    assert found is not None
    assert found.reason is Reason.LATENCY


def test_an_engine_that_counts_more_failures_than_requests_ends_no_pass() -> None:
    assert regression(Tally(100, 0, None), Tally(100, 200, None), AnalysisSpec()) is None
    found = regression(Tally(100, 200, None), Tally(100, 0, None), AnalysisSpec())
    assert found is not None
    assert found.reason is Reason.ERROR_RATE
