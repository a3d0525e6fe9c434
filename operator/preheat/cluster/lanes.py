"""Bounds how many calls are under way, without letting slow callers hold up the others.

So many quick calls at once; the next waits until one has ended, or has taken longer than PATIENCE_SECONDS: a slow
call no longer counts. Nor do the next calls of its caller, until one of them is quick. Who calls is the
task: each object's loop is one, with one call at a time. So a thousand objects whose admission webhook
hangs for thirty seconds wait for themselves alone, and a thousand new objects do not open a thousand
connections.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, cast
from weakref import WeakSet

T = TypeVar("T")

QUICK_CALLS = 16
"""Each has a connection. More would only wait in the API server."""
PATIENCE_SECONDS = 0.5


class Lanes:
    """Runs calls. Owned by one event loop."""

    def __init__(self, quick_calls: int = QUICK_CALLS, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._quick = asyncio.Semaphore(quick_calls)
        self._patience_seconds = patience_seconds
        self._slow: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what the call returns; raise what it raises. A caller that is cancelled cancels its call."""
        caller = cast("asyncio.Task[Any]", asyncio.current_task())
        work: asyncio.Task[T] | None = None
        try:
            if caller in self._slow:
                work = asyncio.create_task(call)
                await self._watch(work, caller)
            else:
                async with self._quick:
                    work = asyncio.create_task(call)
                    await self._watch(work, caller)
            return await work
        except asyncio.CancelledError:
            if work is None:
                call.close()
            else:
                work.cancel()
            raise

    async def _watch(self, work: "asyncio.Task[Any]", caller: "asyncio.Task[Any]") -> None:
        """Wait until a call has ended, or is slow; remember which of both its caller is."""
        done, _ = await asyncio.wait({work}, timeout=self._patience_seconds)
        if done:
            self._slow.discard(caller)
        else:
            self._slow.add(caller)
