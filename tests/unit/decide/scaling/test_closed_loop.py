"""What the policy does over hours, with everything it decides coming true as late as loads are slow."""

import math

import pytest
from preheat.decide.scaling import Mode, Reason

from tests.unit.decide.scaling.world import START, World, a_policy

HOUR = 3600.0


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("load", [60.0, 300.0, 2700.0])
def test_a_step_is_followed_in_one_go_and_never_beyond_three_times_the_need(load: float, mode: Mode) -> None:
    world = World(a_policy(load=load, mode=mode), lambda t: 20.0 if t < 2 * HOUR else 80.0, ready=4)
    world.run(2 * HOUR + load + 120)
    assert world.ready >= 10, "ready one load time after the step"
    assert world.most(since=2 * HOUR) <= 30
    assert world.aborted == 0


def test_a_backlog_is_not_taken_for_demand() -> None:
    """In flight would be 2500 requests when the first replica is ready: 312 of eight slots."""
    world = World(a_policy(load=2700.0, max_replicas=1000), lambda t: 20.0 if t < HOUR else 80.0, ready=4)
    world.run(2.5 * HOUR)
    assert world.most() <= 30


def test_a_backlog_is_drained_by_more_than_is_needed() -> None:
    world = World(a_policy(), lambda t: 20.0 if t < HOUR else 80.0, ready=4).run(HOUR + 120)
    assert world.said[-1][1].reason in {Reason.DRAINING_BACKLOG, Reason.HOLDING}
    assert world.replicas > 12


def test_a_lull_shorter_than_a_load_removes_nothing() -> None:
    world = World(a_policy(load=1800.0), lambda t: 8.0 if 3 * HOUR < t < 3 * HOUR + 1700 else 60.0, ready=9)
    world.run(3 * HOUR)
    before, started = world.replicas, world.started
    world.run(1700)
    assert world.least(since=3 * HOUR) == before >= 8
    world.run(600)
    assert world.started == started


def test_a_lull_that_lasts_lets_them_go() -> None:
    world = World(a_policy(), lambda t: 60.0 if t < 3 * HOUR else 8.0, ready=9).run(4 * HOUR)
    assert world.replicas <= 3
    assert any(one.reason is Reason.DEMAND_FALLS for _, one in world.said)


def test_nothing_moves_while_metrics_are_missing() -> None:
    minutes = range(int(2 * HOUR), int(2 * HOUR) + 61)
    world = World(a_policy(), lambda _: 50.0, ready=8, blind=lambda t: int(t) in minutes).run(2 * HOUR - 1)
    before = world.replicas
    world.run(120)
    assert {one.replicas for at, one in world.said if at >= 2 * HOUR} == {before}


def test_metrics_that_stay_away_move_nothing_either() -> None:
    world = World(a_policy(), lambda t: 50.0 if t < 2 * HOUR else 0.0, ready=8, blind=lambda t: t > 2 * HOUR)
    world.run(2 * HOUR)
    before = world.replicas
    world.run(6 * HOUR)
    assert world.replicas == before
    assert world.said[-1][1].reason is Reason.UNKNOWN


def test_a_daily_rise_is_loaded_for_before_it_comes() -> None:
    """Office hours on two days; on the third most of it is there when the first hour begins."""
    days = World(
        a_policy(load=1800.0), lambda t: 60.0 if 9 * HOUR <= (START + t) % 86_400 < 17 * HOUR else 4.0
    ).run(2 * 86_400 + 9 * HOUR)
    assert days.ready >= 6, "of eight; with nothing to go by but two days"


def test_reactive_mode_does_not_look_ahead() -> None:
    days = World(
        a_policy(load=1800.0, mode=Mode.REACTIVE),
        lambda t: 60.0 if 9 * HOUR <= (START + t) % 86_400 < 17 * HOUR else 4.0,
    ).run(86_400 + 9 * HOUR - 60)
    assert days.replicas == 1


def test_what_cannot_be_had_is_not_asked_for_until_it_can() -> None:
    world = World(a_policy(), lambda t: 20.0 if t < HOUR else 90.0, ready=4, available=6).run(2 * HOUR)
    assert world.most() == 6
    assert world.said[-1][1].reason is Reason.STOCK_OUT
    rejected = world.said[-1][1].rejected
    assert rejected is not None
    assert rejected.replicas > 6
    world.available = None
    world.run(60)
    assert world.replicas >= 12


def test_the_last_replica_is_kept_for_a_load_time_and_goes_then() -> None:
    world = World(a_policy(min_replicas=0, load=600.0), lambda t: 4.0 if t < HOUR else 0.0)
    world.run(HOUR + 540)
    assert world.replicas == 1
    world.run(120)
    assert world.replicas == 0
    assert world.said[-1][1].reason is Reason.IDLE


def test_the_first_request_wakes_it_with_what_is_needed_and_no_more() -> None:
    """Nobody is served for ten minutes: what waits grows to hundreds, what is wanted does not."""
    world = World(a_policy(min_replicas=0, load=600.0), lambda t: 4.0 if t > HOUR else 0.0, ready=0)
    world.run(HOUR + 600)
    assert next(one.reason for _, one in world.said if one.replicas) is Reason.WAKING
    assert 1 <= world.most() <= 3


def test_it_is_there_again_before_the_hour_at_which_somebody_always_asks() -> None:
    world = World(
        a_policy(min_replicas=0, load=1800.0),
        lambda t: 4.0 if 9 * HOUR <= (START + t) % 86_400 < 10 * HOUR else 0.0,
    )
    world.run(2 * 86_400 + 7 * HOUR)
    assert world.replicas == 0
    world.run(2 * HOUR)
    assert world.ready == 1
    assert any(one.reason is Reason.PREWARMING for _, one in world.said)


def test_an_operator_that_is_killed_at_any_moment_goes_on_as_if_nothing_had_been() -> None:
    def demand(t: float) -> float:
        return 40.0 + 30.0 * math.sin(t / 2000) + (60.0 if 4 * HOUR < t < 4.5 * HOUR else 0.0)

    one, other = (World(a_policy(load=900.0), demand, ready=5) for _ in range(2))
    for step in range(int(6 * HOUR / 15)):
        one.step()
        if step % 17 == 0:
            other.memory = type(other.memory).from_json(other.memory.to_json())
        other.step()
    assert [said for _, said in one.said] == [said for _, said in other.said]


def test_one_that_lost_its_memory_gives_nothing_away() -> None:
    world = World(a_policy(load=1800.0), lambda _: 8.0, ready=9).run(1700)
    assert world.replicas == 9


def test_a_calm_deployment_needs_less_room_than_a_bursty_one() -> None:
    """Both want 40 slots on the average; one in bursts of three minutes. No setting says which."""
    calm = World(a_policy(load=600.0), lambda _: 40.0, ready=6).run(24 * HOUR)
    bursty = World(a_policy(load=600.0), lambda t: 120.0 if t % 900 < 180 else 20.0, ready=6).run(24 * HOUR)
    assert calm.replicas <= 6
    assert bursty.replicas >= 13
    assert bursty.memory.trials.dial > calm.memory.trials.dial
