"""The more is under way, the less often each object is asked and told of."""

from preheat.controller.pace import STILL_SECONDS, TELL_SECONDS, Pace
from preheat.controller.view import Key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(number: int) -> Key:
    return "LLMDeployment", "default", f"m-{number}"


def test_one_object_is_asked_every_second_and_told_of_every_two() -> None:
    pace = Pace(Clock())
    pace.moved(key(1))
    assert (pace.ask_seconds(), pace.tell_seconds()) == (1.0, 2.0)


def test_a_thousand_cost_two_writes_and_twenty_questions_a_second_in_all() -> None:
    pace = Pace(Clock())
    for number in range(1000):
        pace.moved(key(number))
        pace.moved(key(number))
    assert 1000 / pace.tell_seconds() == 2
    assert 1000 / pace.ask_seconds() == 20


def test_what_has_arrived_and_what_has_long_not_moved_slows_down_nobody() -> None:
    clock = Clock()
    pace = Pace(clock)
    for number in range(500):
        pace.moved(key(number))
    for number in range(100):
        pace.rests(key(number))
    assert pace.tell_seconds() == 200
    clock.now += STILL_SECONDS / 2
    pace.moved(key(499))
    clock.now += STILL_SECONDS / 2 + 1
    assert pace.tell_seconds() == 2.0
    clock.now += STILL_SECONDS
    assert pace.tell_seconds() == 2.0


def test_fifty_new_ones_are_told_of_at_once_and_more_one_a_second_until_a_while_has_passed() -> None:
    clock = Clock()
    pace = Pace(clock)
    waits = [pace.first_at() - clock.now for _ in range(53)]
    assert waits == [TELL_SECONDS] * 52 + [3.0]
    clock.now += 1000.0
    assert pace.first_at() - clock.now == TELL_SECONDS


def test_who_has_not_arrived_after_a_minute_is_told_of_five_times_as_fast() -> None:
    clock = Clock()
    pace = Pace(clock)
    waits = [pace.first_at() - clock.now for _ in range(500)]
    assert [round(waits[at], 3) for at in (109, 110, 499)] == [60.0, 60.2, 138.0]
    assert waits == sorted(waits)
