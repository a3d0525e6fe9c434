"""The keyed loop: one task per object that exists, woken by events, coming back by itself.

kopf only wakes it. Errors of peers and bugs alike end in a backoff: the loop outlives both, and one
object's trouble never delays another's.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from preheat.controller.view import Key
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import PreheatError, Unavailable

GAP_SECONDS = 0.3
"""Rest between two passes over one object, however often it is woken: a thousand pods come one by one."""
LONGEST_GAP = 16
"""While passes fail, the rest doubles up to this many times: being woken must not undo the backoff."""
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

Reconcile = Callable[[Key], Awaitable[float | None]]
"""One pass over one object: returns the delay until the next in seconds, None when the object is gone."""

log = logging.getLogger(__name__)


class Loops:
    """Runs and wakes the loops. Owned by one event loop."""

    def __init__(
        self,
        reconcile: Reconcile,
        *,
        on_pass: Callable[[Key, float, bool], None] = lambda _key, _seconds, _ok: None,
        on_bug: Callable[[Key, Exception], Awaitable[None]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._reconcile = reconcile
        self._on_pass = on_pass
        self._on_bug = on_bug
        self._jitter = jitter
        self._wakeups: dict[Key, asyncio.Event] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def wake(self, key: Key) -> None:
        """Look at an object soon. A wake during a pass is not lost: another pass follows."""
        if key in self._tasks:
            self._wakeups[key].set()
            return
        self._wakeups[key] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._run(key), name="/".join(key))
        self._tasks[key] = task

    def __len__(self) -> int:
        return len(self._tasks)

    async def stop(self) -> None:
        """End every loop. Work in hand is dropped where it stands; the next start picks it up."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key) -> None:
        failures = 0
        wakeup = self._wakeups[key]
        try:
            while True:
                wakeup.clear()
                delay, ok = await self._pass(key, failures)
                if delay is None and not wakeup.is_set():
                    return
                failures = 0 if ok else failures + 1
                gap = GAP_SECONDS * min(2**failures, LONGEST_GAP)
                await asyncio.sleep(gap)
                await _wait(wakeup, max(0.0, (delay or 0.0) - gap))
        finally:
            del self._tasks[key], self._wakeups[key]

    async def _pass(self, key: Key, failures: int) -> tuple[float | None, bool]:
        clock = asyncio.get_running_loop().time
        started, ok = clock(), False
        backoff = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
        try:
            delay = await self._reconcile(key)
            ok = True
        except PreheatError as error:
            other_work = error.again_seconds if isinstance(error, Unavailable) else None
            delay = backoff if other_work is None else min(backoff, other_work)
            log.warning("%s: %s; again in %g s", "/".join(key), error, delay)
        except Exception as bug:  # the one broad except: the loop must outlive a bug
            log.exception("%s: unexpected error; again in %g s", "/".join(key), backoff)
            delay = backoff
            await self._confess(key, bug)
        self._on_pass(key, clock() - started, ok)
        # Loops started together must not come back together for ever.
        if delay == RESYNC_SECONDS:
            delay *= 0.9 + 0.2 * self._jitter()
        return delay, ok

    async def _confess(self, key: Key, bug: Exception) -> None:
        """Have the object itself tell of a bug. What cannot be told is in the log already."""
        if self._on_bug is None:
            return
        try:
            await self._on_bug(key, bug)
        except Exception as error:  # noqa: BLE001 - a bug in telling of a bug ends no loop
            log.warning("%s: could not tell of it: %s", "/".join(key), error)


async def _wait(wakeup: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wakeup.wait()
    except TimeoutError:
        return
