"""Work in a thread: who waits for it goes on only when it has ended."""

import asyncio
import threading
from contextlib import suppress

import pytest
from preheat_warmer.threads import in_thread


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancelled_however_often_it_waits_for_the_thread(times: int) -> None:
    going, ended = threading.Event(), threading.Event()

    def work() -> None:
        going.wait(5)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0.01)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done(), "the thread still works"
    going.set()
    with suppress(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert task.cancelled()


async def test_it_is_told_to_stop_and_what_it_raises_then_is_nobodys() -> None:
    stopped = threading.Event()

    def work() -> None:
        stopped.wait(5)
        raise OSError("broken off")

    task = asyncio.create_task(in_thread(work, stopped.set))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
