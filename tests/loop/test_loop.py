"""The keyed loop on virtual time: minutes pass in milliseconds."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from preheat.controller.loop import BACKOFF_SECONDS, GAP_SECONDS, LONGEST_GAP, Loops
from preheat.controller.view import Key
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import Unavailable

KEY: Key = ("LLMDeployment", "ns", "a")
OTHER: Key = ("LLMDeployment", "ns", "b")

pytestmark = pytest.mark.looptime


class Passes:
    """Records when passes happen, and plays what they return."""

    def __init__(self, play: Callable[[int, Key], Awaitable[float | None]]) -> None:
        self.at: list[float] = []
        self._play = play

    async def __call__(self, key: Key) -> float | None:
        self.at.append(asyncio.get_running_loop().time())
        return await self._play(len(self.at), key)


@pytest.fixture
async def loops() -> AsyncIterator[list[Loops]]:
    made: list[Loops] = []
    yield made
    for loop in made:
        await loop.stop()


def run(loops: list[Loops], play: Callable[[int, Key], Awaitable[float | None]]) -> tuple[Loops, Passes]:
    passes = Passes(play)
    made = Loops(passes, jitter=lambda: 0.5)
    loops.append(made)
    return made, passes


async def test_errors_back_off_and_success_resets(loops: list[Loops]) -> None:
    async def play(number: int, _key: Key) -> float | None:
        if number <= 7:
            raise Unavailable("down")
        return 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(300)
    waits = [round(b - a) for a, b in itertools.pairwise(passes.at)]
    assert waits == [*map(round, BACKOFF_SECONDS), round(BACKOFF_SECONDS[-1])]


async def test_what_has_other_work_comes_back_for_it(loops: list[Loops]) -> None:
    async def play(_number: int, _key: Key) -> float | None:
        error = Unavailable("down")
        error.again_seconds = 15.0
        raise error

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(300)
    waits = [round(b - a) for a, b in itertools.pairwise(passes.at)]
    assert waits[:5] == [1, 2, 5, 10, 15]
    assert set(waits[5:]) == {15}


async def test_a_bug_does_not_end_the_loop(loops: list[Loops]) -> None:
    async def play(number: int, _key: Key) -> float | None:
        if number == 1:
            raise ZeroDivisionError
        return 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(5)
    assert len(passes.at) == 2


async def test_a_wake_during_a_pass_is_not_lost(loops: list[Loops]) -> None:
    async def play(_number: int, _key: Key) -> float | None:
        await asyncio.sleep(10)
        return 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(5)
    made.wake(KEY)
    await asyncio.sleep(6)
    assert len(passes.at) == 2


async def test_an_object_that_is_gone_ends_its_loop_and_can_come_back(loops: list[Loops]) -> None:
    async def play(number: int, _key: Key) -> float | None:
        return None if number == 1 else 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(1)
    assert len(made) == 0
    made.wake(KEY)
    await asyncio.sleep(1)
    assert len(made) == 1
    assert len(passes.at) == 2


async def test_a_slow_object_delays_nobody(loops: list[Loops]) -> None:
    async def play(_number: int, key: Key) -> float | None:
        await asyncio.sleep(500 if key == KEY else 0)
        return 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    made.wake(OTHER)
    await asyncio.sleep(1)
    assert len(passes.at) == 2


async def test_at_rest_it_looks_again_at_resync(loops: list[Loops]) -> None:
    async def play(_number: int, _key: Key) -> float | None:
        return RESYNC_SECONDS

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(RESYNC_SECONDS * 3.5)
    assert len(passes.at) == 4


async def test_an_object_that_is_gone_frees_everything_that_was_kept_of_it(loops: list[Loops]) -> None:
    async def play(_number: int, _key: Key) -> float | None:
        return None

    made, _ = run(loops, play)
    for number in range(100):
        made.wake(("Pod", "ns", str(number)))
    await asyncio.sleep(1)
    assert len(made) == 0
    assert not made._wakeups


async def test_a_wake_in_the_very_pass_that_finds_it_gone_is_not_lost(loops: list[Loops]) -> None:
    """Deleted and made again while a pass was on its way."""

    async def play(number: int, key: Key) -> float | None:
        if number == 1:
            made.wake(key)
            return None
        return 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(5)
    assert len(passes.at) == 2
    assert len(made) == 1


async def test_a_success_starts_the_backoff_anew(loops: list[Loops]) -> None:
    async def play(number: int, _key: Key) -> float | None:
        if number in {1, 2, 4}:
            raise Unavailable("down")
        return 1.0 if number == 3 else 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(60)
    assert [round(b - a) for a, b in itertools.pairwise(passes.at)] == [1, 2, 1, 1]


async def test_a_wake_ends_a_backoff(loops: list[Loops]) -> None:
    async def play(number: int, _key: Key) -> float | None:
        if number <= 5:
            raise Unavailable("down")
        return 1000.0

    made, passes = run(loops, play)
    made.wake(KEY)
    await asyncio.sleep(19)
    assert len(passes.at) == 5, "after 1, 2, 5 and 10 seconds; the next comes in 30"
    made.wake(KEY)
    await asyncio.sleep(GAP_SECONDS * LONGEST_GAP + 0.1)
    assert len(passes.at) == 6


async def test_being_woken_all_the_time_does_not_undo_the_backoff(loops: list[Loops]) -> None:
    async def play(_number: int, _key: Key) -> float | None:
        raise Unavailable("down")

    made, passes = run(loops, play)
    made.wake(KEY)
    for _ in range(600):
        await asyncio.sleep(0.1)
        made.wake(KEY)
    assert len(passes.at) < 20, "a pod that flaps wakes its object ten times a second"


async def test_a_bug_is_told_by_the_object_itself_and_a_bug_in_telling_ends_no_loop() -> None:
    told: list[tuple[Key, str]] = []
    passes = 0

    async def reconcile(_key: Key) -> float | None:
        nonlocal passes
        passes += 1
        raise TypeError("unforeseen")

    async def tell(key: Key, bug: Exception) -> None:
        told.append((key, str(bug)))
        raise KeyError("nor this")

    made = Loops(reconcile, on_bug=tell)
    made.wake(KEY)
    await asyncio.sleep(10)
    await made.stop()
    assert passes == len(told) >= 3
    assert told[0] == (KEY, "unforeseen")


async def test_many_wakes_are_few_passes(loops: list[Loops]) -> None:
    async def play(_number: int, _key: Key) -> float | None:
        return 1000.0

    made, passes = run(loops, play)
    for _ in range(1000):
        made.wake(KEY)
        await asyncio.sleep(0.001)
    await asyncio.sleep(5)
    assert len(passes.at) <= 1 / GAP_SECONDS + 2
    assert min(b - a for a, b in itertools.pairwise(passes.at)) >= GAP_SECONDS * 0.999


@pytest.mark.parametrize("pause", [0.0, 0.1, 5.0, 100.0])
async def test_stop_ends_every_loop_wherever_it_stands(loops: list[Loops], pause: float) -> None:
    async def play(_number: int, key: Key) -> float | None:
        await asyncio.sleep(50 if key == KEY else 0)
        return 10.0

    made, passes = run(loops, play)
    made.wake(KEY)
    made.wake(OTHER)
    await asyncio.sleep(pause)
    await made.stop()
    assert len(made) == 0
    done = len(passes.at)
    await asyncio.sleep(500)
    assert len(passes.at) == done


async def test_each_pass_is_told_with_its_time_and_outcome() -> None:
    told: list[tuple[Key, float, bool]] = []

    async def play(key: Key) -> float | None:
        await asyncio.sleep(2)
        if len(told) == 1:
            raise Unavailable("down")
        return 1000.0 if told else 1.0

    made = Loops(play, on_pass=lambda key, seconds, ok: told.append((key, round(seconds), ok)))
    made.wake(KEY)
    await asyncio.sleep(60)
    await made.stop()
    assert told == [(KEY, 2, True), (KEY, 2, False), (KEY, 2, True)]


async def test_loops_that_start_together_do_not_come_back_together(loops: list[Loops]) -> None:
    turns = itertools.cycle([0.0, 0.25, 0.5, 0.75])
    at: dict[Key, float] = {}

    async def play(key: Key) -> float | None:
        at[key] = asyncio.get_running_loop().time()
        return RESYNC_SECONDS

    made = Loops(play, jitter=lambda: next(turns))
    loops.append(made)
    for name in "abcd":
        made.wake(("LLMDeployment", "ns", name))
    await asyncio.sleep(1.2 * RESYNC_SECONDS)
    assert len({round(when) for when in at.values()}) == 4
