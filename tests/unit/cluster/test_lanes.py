"""Slow calls do not hold up quick ones, however many there are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from preheat.cluster.lanes import Lanes

pytestmark = pytest.mark.looptime
PATIENCE = 0.5


@asynccontextmanager
async def callers(lanes: Lanes, count: int, seconds: float) -> AsyncIterator[None]:
    """Callers whose calls take that long, and that call again at once."""

    async def call_for_ever() -> None:
        while True:
            await lanes.run(asyncio.sleep(seconds))

    tasks = [asyncio.create_task(call_for_ever()) for _ in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def seconds_of_a_quick_call(lanes: Lanes) -> float:
    clock = asyncio.get_running_loop().time
    started = clock()
    await asyncio.create_task(lanes.run(asyncio.sleep(0)))
    return clock() - started


async def test_a_quick_call_waits_for_a_slow_one_no_longer_than_patience() -> None:
    lanes = Lanes(quick_calls=2)
    async with callers(lanes, 4, 30):
        await asyncio.sleep(0.1)
        assert await seconds_of_a_quick_call(lanes) < 2 * PATIENCE


async def test_callers_known_to_be_slow_are_in_nobodys_way() -> None:
    lanes = Lanes(quick_calls=2)
    async with callers(lanes, 1000, 30):
        await asyncio.sleep(1000 / 2 * PATIENCE)  # each has been slow once
        assert await seconds_of_a_quick_call(lanes) < 0.01


async def test_no_more_quick_calls_at_once_than_that() -> None:
    lanes = Lanes(quick_calls=3)
    under_way: list[int] = []
    most = 0

    async def call() -> None:
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        await asyncio.sleep(0.1)
        under_way.pop()

    await asyncio.gather(*(asyncio.create_task(lanes.run(call())) for _ in range(20)))
    assert most == 3


async def test_a_caller_that_is_quick_again_counts_again() -> None:
    lanes = Lanes(quick_calls=1)

    async def slow_then_quick() -> None:
        await lanes.run(asyncio.sleep(3))
        await lanes.run(asyncio.sleep(0))
        async with callers(lanes, 1, 0.3):
            await asyncio.sleep(0.1)
            assert await _seconds(lanes) >= 0.1, "it waits for its turn"

    await asyncio.create_task(slow_then_quick())


async def _seconds(lanes: Lanes) -> float:
    clock = asyncio.get_running_loop().time
    started = clock()
    await lanes.run(asyncio.sleep(0))
    return clock() - started


async def test_what_a_call_raises_arrives_and_its_place_is_free_again() -> None:
    lanes = Lanes(quick_calls=1)

    async def fail() -> None:
        raise OSError("no route")

    for _ in range(3):
        with pytest.raises(OSError, match="no route"):
            await lanes.run(fail())


@pytest.mark.parametrize("moment", [0.1, 2.0])
async def test_a_caller_that_is_cancelled_cancels_its_call_and_gives_its_place_back(moment: float) -> None:
    lanes = Lanes(quick_calls=1)
    ended = asyncio.Event()

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(lanes.run(call()))
    waiting = asyncio.create_task(lanes.run(asyncio.sleep(0)))
    await asyncio.sleep(moment)
    waiting.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 1)
    await asyncio.wait_for(asyncio.create_task(lanes.run(asyncio.sleep(0))), 0.1)
