"""The keyed loop on virtual time: minutes pass in milliseconds."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from preheat.controller.loop import BACKOFF_SECONDS, Loops
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
