"""Work in a thread that holds something of ours: a file, a connection."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def in_thread(work: Callable[[], Result], stop: Callable[[], None] | None = None) -> Result:
    """Run it in a thread. When cancelled, ``stop`` it and wait until it has ended: only then may others go on.

    However often it is cancelled meanwhile: a thread that is left alone would write into a file that is closed, or
    into another one that has its number by then.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not future.done():
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(future)
        with suppress(asyncio.CancelledError):
            future.exception()
        raise
