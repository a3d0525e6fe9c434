"""A fight over a child is bounded and told; a flood of Events is stopped."""

from preheat.controller.limits import BURST, LONGEST_SECONDS, PATIENT, REFILL_SECONDS, Budget, Contests

KEY = ("Deployment", "ns", "llama")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fight(contests: Contests, clock: Clock, seconds: float) -> int:
    """Somebody changes a child back ten times a second; return how often it was put back."""
    count, end = 0, clock.now + seconds
    while clock.now < end:
        if contests.wait_seconds(KEY) == 0:
            contests.put_back(KEY, "hpa changes spec.replicas")
            count += 1
        clock.now += 0.1
    return count


def test_a_persons_edits_are_put_back_at_once_and_are_no_contest() -> None:
    clock = Clock()
    contests = Contests(clock)
    assert fight(contests, clock, 0.25) == PATIENT
    assert contests.among([KEY]) == []


def test_a_fight_takes_ever_fewer_writes_and_is_told() -> None:
    clock = Clock()
    contests = Contests(clock)
    assert fight(contests, clock, 3600) < 25
    (told,) = contests.among([KEY])
    assert told.words == "hpa changes spec.replicas"
    assert told.pause_seconds == LONGEST_SECONDS
    assert contests.among([("Service", "ns", "llama")]) == []


def test_a_pass_comes_when_the_child_may_be_put_back_and_when_the_fight_is_over() -> None:
    clock = Clock()
    contests = Contests(clock)
    fight(contests, clock, 20)
    due = contests.look_again_seconds([KEY], 1000)
    assert due == contests.wait_seconds(KEY) > 0
    clock.now += due
    over = contests.look_again_seconds([KEY], 1000)
    assert over > 0
    assert contests.among([KEY])
    clock.now += over
    assert contests.among([KEY]) == []
    assert contests.look_again_seconds([KEY], 1000) == 1000
    assert contests.wait_seconds(KEY) == 0


def test_a_child_that_is_gone_is_forgotten() -> None:
    clock = Clock()
    contests = Contests(clock)
    fight(contests, clock, 60)
    contests.forget(KEY)
    assert contests.wait_seconds(KEY) == 0


def test_a_flapping_object_posts_a_burst_and_then_one_a_minute() -> None:
    clock = Clock()
    budget = Budget(clock)
    posted = 0
    for _ in range(600):
        posted += budget.take(KEY)
        clock.now += 1
    assert BURST + 600 / REFILL_SECONDS - 1 <= posted <= BURST + 600 / REFILL_SECONDS
    assert budget.take(("LLMDeployment", "ns", "another"))
