"""Replicas move from the old revision to the new one: never too few, never stuck, whatever GPUs are free."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.decide.rollout import Progress, next_old


def progress(
    old: int, scheduled: int, ready: int, *, blocked: bool, desired: int = 2, warm: bool = True
) -> Progress:
    return Progress(desired, old, False, scheduled, ready, blocked, warm)


@pytest.mark.parametrize(
    ("seen", "want"),
    [
        (progress(2, 0, 0, blocked=True), 1),
        (progress(1, 0, 0, blocked=True), 1),
        (progress(1, 1, 0, blocked=True), 1),
        (progress(1, 1, 1, blocked=True), 0),
        (progress(0, 2, 2, blocked=False), 0),
        (progress(2, 2, 0, blocked=False), 2),
        (progress(2, 2, 1, blocked=False), 1),
    ],
)
def test_the_worked_example(seen: Progress, want: int) -> None:
    assert next_old(seen) == want


def test_nobody_makes_room_for_a_pod_whose_weights_are_not_there() -> None:
    assert next_old(progress(2, 0, 0, blocked=True, warm=False)) == 2


@given(
    desired=st.integers(1, 8),
    spare=st.integers(0, 8),
    slow=st.lists(st.integers(0, 3), min_size=1, max_size=10),
)
def test_a_rollout_always_ends_and_never_serves_less_than_one_below(
    desired: int, spare: int, slow: list[int]
) -> None:
    """A small cluster: GPUs = desired + spare; a new pod is scheduled when a GPU is free, ready some looks later."""
    gpus, old = desired + spare, desired
    waiting: list[int] = []
    ready = 0
    for look in range(1000):
        scheduled = len(waiting) + ready
        blocked = scheduled < desired and old + scheduled >= gpus
        old = next_old(Progress(desired, old, False, scheduled, ready, blocked, True))
        assert old + ready >= desired - 1
        while len(waiting) + ready < desired and old + len(waiting) + ready < gpus:
            waiting.append(slow[look % len(slow)])
        ready += sum(left == 0 for left in waiting)
        waiting = [left - 1 for left in waiting if left > 0]
        if old == 0 and ready == desired:
            return
    raise AssertionError("the rollout did not end")


@given(
    st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_old_replicas_never_grow(a: int, b: int, c: int, d: int, x: bool, y: bool, z: bool) -> None:
    assert 0 <= next_old(Progress(a, b, x, c, d, y, z)) <= b


@given(
    st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans(),
)  # fmt: skip
def test_without_need_enough_old_ones_stay(a: int, b: int, c: int, d: int, x: bool, warm: bool) -> None:
    """Room is made only where the scheduler finds none."""
    seen = Progress(a, b, x, c, d, False, warm)
    assert next_old(seen) >= min(b, a - d)


@given(
    st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans(), st.booleans(),
)  # fmt: skip
def test_one_at_a_time_makes_room(a: int, b: int, c: int, d: int, x: bool, warm: bool) -> None:
    free, blocked = Progress(a, b, x, c, d, False, warm), Progress(a, b, x, c, d, True, warm)
    assert next_old(blocked) in {next_old(free), next_old(free) - 1, b - 1}


def test_nobody_makes_room_while_somebody_is_still_leaving() -> None:
    leaving = Progress(2, 1, True, 1, 1, True, True)
    assert next_old(leaving) == 1


@pytest.mark.parametrize("ready", range(4))
def test_scaled_down_in_the_middle_no_more_old_ones_stay_than_are_needed(ready: int) -> None:
    assert next_old(Progress(1, 5, False, 3, ready, False, True)) == max(0, 1 - ready)


@given(old=st.integers(0, 8), desired=st.integers(0, 8), spare=st.integers(0, 4), ready_first=st.booleans())
def test_a_rollout_that_is_scaled_meanwhile_ends_as_well(
    old: int, desired: int, spare: int, ready_first: bool
) -> None:
    """Old ones asked for need not be as many as are wanted now. There is a GPU for each that is wanted."""
    gpus = max(old, desired) + spare
    scheduled = ready = 0
    for _ in range(1000):
        if ready_first:
            ready = scheduled
        blocked = scheduled < desired and old + scheduled >= gpus
        old = next_old(Progress(desired, old, False, scheduled, ready, blocked, True))
        scheduled += min(desired - scheduled, max(0, gpus - old - scheduled))
        if not ready_first:
            ready = scheduled
        if old == 0 and ready == desired:
            return
    raise AssertionError("the rollout did not end")
