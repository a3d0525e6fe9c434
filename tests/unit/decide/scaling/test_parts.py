"""Each rule of the policy by itself."""

import math
from dataclasses import asdict
from types import NoneType
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.decide.scaling import ratios
from preheat.decide.scaling.backlog import extra_replicas, projected, wait_seconds
from preheat.decide.scaling.dials import DIALS
from preheat.decide.scaling.flight import fewest
from preheat.decide.scaling.forecast import Forecast, Predictor, pinball
from preheat.decide.scaling.idle import Idle, expected
from preheat.decide.scaling.levels import NAMES, Means, levels
from preheat.decide.scaling.minutes import Minute, minute_of
from preheat.decide.scaling.offered import Offered
from preheat.decide.scaling.sample import Known
from preheat.decide.scaling.schedule import Window, floor
from preheat.decide.scaling.season import DAY_SLOTS, WEEK_SLOTS, Season, decoded, encoded
from preheat.decide.scaling.trials import Hold, Outlook, Trial, Trials

from tests.unit.decide.scaling.world import SERVICE_SECONDS, a_known, a_policy, a_sample

MONDAY = 1_767_571_200.0


def replayed(many: int, **changes: object) -> Offered:
    """The replay after so many windows of a demand of 40 slots."""
    found = Offered()
    for step in range(1, many + 1):
        found = found.after(a_known(at=MONDAY + 15 * step, slots=40.0, **changes))
    return found


# What is wanted


def test_a_steady_demand_is_what_it_is() -> None:
    assert replayed(40).mean == pytest.approx(40, rel=0.01)


def test_a_queue_and_slots_that_are_all_taken_do_not_change_what_is_wanted() -> None:
    crowded = replayed(40, in_service=8.0, queued=2000.0)
    assert crowded.mean == pytest.approx(40, rel=0.01)


def test_while_nobody_waits_it_is_mended_by_what_is_really_in_service() -> None:
    """Requests that end soon are seen first: their mean is too short."""
    assert replayed(40, service_seconds=3.0).mean > 24


def test_before_any_request_has_ended_what_waits_is_not_what_is_wanted() -> None:
    waiting = replayed(40, service_seconds=None, in_service=0.0, queued=4000.0)
    assert waiting.mean < 100


def test_what_is_seen_long_after_is_not_mixed_with_what_was() -> None:
    late = replayed(40).after(a_known(at=MONDAY + 90_000, slots=0.0, service_seconds=None))
    assert late.mean < 20


@given(st.floats(0, 500), st.floats(0, 500), st.floats(0, 1e6))
def test_more_arrivals_never_mean_that_less_is_wanted(fewer: float, more: float, queued: float) -> None:
    fewer, more = sorted((fewer, more))
    before = replayed(3)
    low, high = (
        before.after(a_known(at=MONDAY + 60, arrivals=each, queued=queued)).mean for each in (fewer, more)
    )
    assert low <= high + 1e-9


# Unknown


@pytest.mark.parametrize("name", ["arrivals", "in_service", "queued"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1.0])
def test_what_is_missing_or_impossible_is_unknown(name: str, value: float | None) -> None:
    assert not a_sample(**{name: value}).is_known


def test_what_the_rules_see_has_no_field_that_may_be_missing_but_how_long_requests_took_and_how_many_gpus() -> (
    None
):
    missing = {name for name, kind in get_type_hints(Known).items() if NoneType in get_args(kind)}
    assert missing == {"service_seconds", "available"}


def test_a_known_window_is_what_was_seen() -> None:
    seen = a_sample(loading=(30.0,), available=4, service_seconds=None)
    assert asdict(a_known(loading=(30.0,), available=4, service_seconds=None)) == asdict(seen)


@pytest.mark.parametrize("seconds", [0.0, -15.0, math.nan, 3600.0])
def test_a_window_of_no_length_or_of_an_hour_is_unknown(seconds: float) -> None:
    assert not a_sample(seconds=seconds).is_known


def test_that_no_request_ended_is_nothing_unknown() -> None:
    assert a_sample(service_seconds=None).is_known


# Minutes and days


def test_a_window_that_ends_with_a_minute_is_of_that_minute() -> None:
    assert [minute_of(at) for at in (15.0, 60.0, 60.1, 75.0)] == [0, 0, 1, 1]
    assert Minute().after(0, 3.0).after(0, 5.0).after(1, 2.0) == Minute(1, 2.0, 2.0, 1)


@given(st.floats(0, 100_000))
def test_a_code_is_within_half_a_percent(slots: float) -> None:
    assert decoded(encoded(slots)) == pytest.approx(slots, rel=0.005, abs=0.001)


def season_of(days: int, wanted: object = None) -> Season:
    """Days of 8 to 9 o'clock with 40 slots and 4 otherwise."""
    found = Season()
    for minute in range(0, days * 1440, 5):
        found = found.after(minute, 40.0 if 480 <= minute % 1440 < 540 else 4.0)
    return found


def test_a_season_is_a_ring_of_a_week() -> None:
    long = season_of(20)
    assert len(long.codes) == WEEK_SLOTS
    assert long.at(long.slot - WEEK_SLOTS - 1) is None
    assert long.at(long.slot) is None


def test_minutes_that_were_not_seen_are_not_known_and_not_zero() -> None:
    half = Season().after(0, 4.0).after(10, 4.0)
    assert half.at(0) is None, "one minute of ten is too little to know"
    gap = Season()
    for minute in (*range(10), *range(600, 611)):
        gap = gap.after(minute, 4.0)
    assert gap.at(0) == pytest.approx(4.0, rel=0.01)
    assert gap.at(30) is None
    assert gap.most(0, 59) == pytest.approx(4.0, rel=0.01)


def season_to(minute: int) -> Season:
    found = Season()
    for each in range(minute):
        found = found.after(each, 40.0 if 480 <= each % 1440 < 540 else 4.0)
    return found


def test_a_candidate_says_what_this_time_of_day_was() -> None:
    """It is 7:15, 45 minutes before the hour."""
    season, means = season_to(1440 + 435), Means().after(4.0)
    point, most = levels(means, season, 1440 + 435, 50, 0.0)
    usual = NAMES.index("this time of day")
    assert point[usual] == most[usual] == pytest.approx(40, rel=0.01)
    assert levels(means, season, 1440 + 435, 10, 0.0)[0][usual] == pytest.approx(4, rel=0.01)
    assert levels(means, Season(), 0, 50, 0.0)[0][usual] == 0.0


def test_early_means_are_honest_means() -> None:
    assert Means().after(10.0).value(5) == pytest.approx(10.0)


# Quantiles


@given(st.lists(st.floats(0.2, 20), min_size=60, max_size=60))
def test_quantiles_of_ratios_are_in_order_and_near(values: list[float]) -> None:
    counts = (0,) * ratios.BINS
    for value in values:
        counts = ratios.counted(counts, value)
    found = ratios.quantiles(counts, DIALS)
    assert list(found) == sorted(found)
    assert found[3] == pytest.approx(sorted(values)[30], rel=0.2) or sorted(values)[29] < found[3] * 1.1


def test_what_fades_is_gone_one_day() -> None:
    counts = ratios.counted((0,) * ratios.BINS, 30.0)
    for _ in range(60):
        counts = ratios.faded(counts, 2 ** (-1 / 8))
    assert sum(counts) < 5


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    values = [float(each) for each in range(100)]
    best = min(range(100), key=lambda guess: sum(pinball(value - guess, 0.9) for value in values))
    assert best in {89, 90}


def test_the_forecast_learns_what_a_quantile_is_for_this_deployment() -> None:
    """Each fifth minute has a peak of twice the mean."""
    forecast, said = Forecast(), (10.0,) * len(NAMES)
    for minute in range(800):
        forecast = forecast.after(minute, 20.0 if minute % 5 == 0 else 10.0, 6)
        forecast = forecast.guessing(minute, said, said, 6)
    found, _ = forecast.point.forecasts(said, 1e9)
    assert found[DIALS.index(0.65)] == pytest.approx(10.0, rel=0.1)
    assert found[DIALS.index(0.95)] == pytest.approx(20.0, rel=0.1)


def test_the_candidate_that_was_closest_speaks() -> None:
    predictor = Predictor(Forecast().point.counts)
    for step in range(200):
        came = 10.0 if step % 2 else 30.0
        told = [20.0] * len(NAMES)
        told[4] = came
        predictor = predictor.learnt(tuple(told), came, 0.999)
    assert predictor.speakers((20.0,) * len(NAMES)).count(4) >= len(DIALS) - 1


def test_one_that_has_said_little_yet_has_no_say() -> None:
    """On the second day yesterday can be asked for the first time: its few guesses are no record."""
    predictor, early = Predictor(Forecast().point.counts), [20.0] * 6 + [0.0] * (len(NAMES) - 6)
    for _ in range(100):
        predictor = predictor.learnt(tuple(early), 30.0, 0.999)
    late = (20.0,) * len(NAMES)
    assert all(speaker < 6 for speaker in predictor.speakers(late))


def test_guesses_are_dropped_when_nobody_knows_what_came() -> None:
    forecast, said = Forecast(), (10.0,) * len(NAMES)
    forecast = forecast.guessing(0, said, said, 6)
    assert forecast.without_guesses().after(6, 99.0, 6).point == Forecast().point


def test_nothing_is_forecast_beyond_what_it_is_bounded_to() -> None:
    found, _ = Forecast().point.forecasts((100.0,) * len(NAMES), 50.0)
    assert max(found) == 50.0


# Holding, trying, draining, finishing


def test_a_hold_remembers_the_most_of_a_window_and_forgets_it_after() -> None:
    hold = Hold().after(9.0, True)
    for _ in range(6):
        hold = hold.after(1.0, True)
        assert hold.most == 9.0
    assert hold.after(1.0, True).most == 1.0


def test_a_trial_pays_for_loads_and_gets_them_when_they_are_ready() -> None:
    policy = a_policy(load=300.0)
    trial = Trial(2).decided(100, Outlook(40.0, 40.0, 40.0), Hold(), policy)
    assert (trial.ready, trial.replicas) == (2, 5)
    assert trial.served(8.0, 0.0, 0.0, 15.0, policy).cost == 5 * 8 * 15
    assert trial.decided(100 + policy.horizon_minutes, Outlook(40.0, 40.0, 40.0), Hold(), policy).ready == 5


def test_a_trial_counts_who_would_have_been_late() -> None:
    policy = a_policy()
    trial = Trial(1).served(8.0, 16.0, 40.0, 15.0, policy)
    assert trial.late == 40.0
    assert Trial(2).served(8.0, 16.0, 40.0, 15.0, policy).late == 0.0


def test_the_cheapest_dial_is_listened_to_once_there_is_something_to_tell() -> None:
    policy = a_policy()
    dear, cheap = Trial(cost=9e9, late=0.0), Trial(cost=1e9, late=0.0)
    trials = Trials((dear,) * 4 + (cheap,) + (dear,) * 5, work=1e9, arrivals=100.0, minutes=500)
    same = [8.0] * len(DIALS)
    assert trials.decided(Minute(9, 8.0, 8.0, 1), same, same, policy).dial == 4
    young = Trials(trials.trials, work=1e9, arrivals=100.0, minutes=5)
    assert young.decided(Minute(9, 8.0, 8.0, 1), same, same, policy).dial == young.dial


def test_neighbours_of_the_dial_that_speaks_are_listened_to_the_more_the_cheaper_they_were() -> None:
    policy = a_policy()
    costs = [1.0] * 3 + [1.04, 1.0, 1.02, 1.08] + [1.0] * 3
    trials = Trials(
        tuple(Trial(cost=1e9 * cost) for cost in costs), work=1e9, arrivals=100.0, dial=4, minutes=500
    )
    weights = trials.weights(policy)
    assert sum(weights) == pytest.approx(1.0)
    assert [dial for dial, weight in enumerate(weights) if weight] == [2, 3, 4, 5, 6]
    assert weights[2] == weights[4] > weights[5] > weights[3] > weights[6]
    assert weights[3] / weights[4] == pytest.approx(math.exp(-1))
    point = [float(dial) for dial in range(len(DIALS))]
    assert trials.outlook(0.0, point, policy).up == pytest.approx(
        sum(weight * dial for dial, weight in enumerate(weights))
    )
    assert DIALS[2] < trials.quantile(policy) < DIALS[6]


@pytest.mark.parametrize(
    "trials", [Trials(), Trials((Trial(cost=1.0),) * len(DIALS), minutes=5)], ids=["none", "young"]
)
def test_before_the_dials_can_be_compared_one_alone_is_listened_to(trials: Trials) -> None:
    assert trials.weights(a_policy()) == tuple(float(dial == trials.dial) for dial in range(len(DIALS)))


def test_a_projected_backlog_counts_each_load_under_way_once_and_when_it_is_ready() -> None:
    policy = a_policy(load=300.0)
    alone = Known(MONDAY, 15.0, 1.0, 8.0, 10.0, SERVICE_SECONDS, 1)
    soon, late = (
        Known(MONDAY, 15.0, 1.0, 8.0, 10.0, SERVICE_SECONDS, 1, (eta, eta, eta)) for eta in (30.0, 270.0)
    )
    backlogs = [projected(policy, each, 24.0, SERVICE_SECONDS) for each in (soon, late, alone)]
    assert backlogs[0] == 0.0
    assert backlogs == sorted(backlogs)
    assert backlogs[2] == 60 + 16 * 300


def test_a_projected_backlog_ends_with_the_patience_of_the_clients() -> None:
    policy = a_policy(load=2700.0)
    waiting = Known(MONDAY, 15.0, 1.0, 8.0, 9999.0, SERVICE_SECONDS, 1)
    assert projected(policy, waiting, 24.0, SERVICE_SECONDS) == 24.0 * policy.patience_seconds


@given(st.floats(0.1, 100), st.floats(0, 1e9))
def test_a_backlog_never_asks_for_more_than_three_times_the_need(need: float, backlog: float) -> None:
    assert 0 <= extra_replicas(a_policy(), need, backlog) <= 2 * need


def test_the_extra_grows_with_the_square_root_of_the_backlog() -> None:
    policy = a_policy(load=2700.0)
    assert extra_replicas(policy, 10, 400) == pytest.approx(2 * extra_replicas(policy, 10, 100))


def test_without_a_replica_a_request_waits_for_ever() -> None:
    assert wait_seconds(1, 6.0, 0, 8.0) == math.inf
    assert wait_seconds(0, 6.0, 0, 8.0) == 0.0
    assert wait_seconds(16, 6.0, 2, 8.0) == 6.0


def test_a_load_is_given_up_only_when_it_has_just_begun_or_has_no_gpu() -> None:
    policy = a_policy(load=300.0)
    assert fewest(policy, a_known(ready=4, loading=(150.0, 299.0))) == 5
    assert fewest(policy, a_known(ready=4, loading=(299.0, math.inf))) == 0
    assert fewest(policy, a_known(ready=4)) == 0


# Schedules


def test_a_window_is_kept_on_its_days_and_past_midnight() -> None:
    night = Window(22 * 60, 2 * 60, 5, weekdays=(0,))
    assert not night.overlaps(MONDAY + 21 * 3600, MONDAY + 21.9 * 3600)
    assert night.overlaps(MONDAY + 23 * 3600, MONDAY + 23 * 3600)
    assert night.overlaps(MONDAY + 25 * 3600, MONDAY + 25 * 3600)
    assert not night.overlaps(MONDAY + 26 * 3600, MONDAY + 40 * 3600)
    assert not night.overlaps(MONDAY + (24 + 23) * 3600, MONDAY + (24 + 23) * 3600)


def test_loads_begin_before_a_window_does() -> None:
    windows = [Window(9 * 60, 17 * 60, 5), Window(9 * 60, 10 * 60, 7)]
    assert floor(windows, MONDAY + 8 * 3600, 1800.0) == 0
    assert floor(windows, MONDAY + 8.6 * 3600, 1800.0) == 7
    assert floor(windows, MONDAY + 12 * 3600, 1800.0) == 5


# Idle


def test_gaps_that_are_all_short_are_sat_out() -> None:
    """Somebody comes each three load times: an empty load time is no sign that nobody does."""
    idle = Idle()
    for many in range(40):
        idle = idle.after(MONDAY + many * 1800.0, 15.0, 1.0, False, 600.0)
    assert idle.keep_alive_seconds(600.0) >= 1800.0


def test_with_few_gaps_known_it_is_kept_for_a_load_time_and_five_minutes_at_least() -> None:
    assert Idle().keep_alive_seconds(600.0) == 600.0
    assert Idle().keep_alive_seconds(20.0) == 300.0


def test_after_gaps_that_are_foreseen_nobody_is_kept_for_long() -> None:
    idle = Idle()
    for day in range(12):
        for window in range(240):
            idle = idle.after(MONDAY + day * 86_400 + window * 15.0, 15.0, 9.0, window == 0, 600.0)
    assert idle.keep_alive_seconds(600.0) <= 600.0


def test_somebody_is_expected_when_somebody_came_on_half_of_the_days() -> None:
    season, policy = Season(), a_policy(load=1800.0)
    first = int(MONDAY // 60)
    for minute in range(first, first + 2 * 1440):
        season = season.after(minute, 4.0 if 540 <= (minute - first) % 1440 < 600 else 0.0)
    third = MONDAY + 2 * 86_400
    assert not expected(season, third - 60 + 8 * 3600, policy)
    assert expected(season, third - 60 + 8.5 * 3600, policy)
    assert not expected(Season(), third, policy)
    assert DAY_SLOTS == 144
