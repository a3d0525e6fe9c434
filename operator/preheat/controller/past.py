"""Asks a Prometheus for the last week of deployments whose policy does not remember it: one after the other, beside all passes.

Each is asked for once in the life of this process, and tried a few times. What came waits here until the pass over that
deployment takes it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from preheat.cluster.prometheus import Prometheus
from preheat.controller.view import Key
from preheat.decide.scaling import Known
from preheat.errors import Unavailable

TRIES = 5
"""With the pauses between them, ten minutes."""
LEAST_PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Past:
    """Owned by one event loop. ``clock``: Unix seconds."""

    def __init__(
        self, prometheus: Prometheus, wake: Callable[[Key], None], clock: Callable[[], float]
    ) -> None:
        self._prometheus = prometheus
        self._wake = wake
        self._clock = clock
        self._asked: dict[Key, str] = {}
        """For whom somebody asked, by uid: another object of that name has a past of its own, which is the same."""
        self._queue: deque[tuple[Key, str]] = deque()
        self._waiting = asyncio.Event()
        self._found: dict[Key, tuple[str, tuple[Known, ...]]] = {}

    def take(self, key: Key, uid: str) -> tuple[Known, ...] | None:
        """Return what is known of the last week, once; None where nothing is. Asks for it, the first time."""
        if self._asked.get(key) != uid:
            self._asked[key] = uid
            self._queue.append((key, uid))
            self._waiting.set()
        whose, windows = self._found.pop(key, ("", ()))
        return windows if whose == uid else None

    def forget(self, key: Key) -> None:
        """Drop what is remembered of an LLMDeployment that is gone."""
        self._asked.pop(key, None)
        self._found.pop(key, None)

    async def ask_forever(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._waiting.wait()
            while self._queue:
                key, uid = self._queue.popleft()
                if self._asked.get(key) == uid:
                    try:
                        await self._ask(key, uid)
                    except (
                        Exception
                    ):  # as in the loop: without it, nobody else's past would ever be asked for
                        log.exception("%s/%s: the past: unexpected error", key[1], key[2])
            self._waiting.clear()

    async def _ask(self, key: Key, uid: str) -> None:
        for _ in range(TRIES):
            await asyncio.sleep(self._prometheus.pause_seconds)
            try:
                windows = await self._prometheus.past(key[1], key[2], self._clock())
            except Unavailable as error:
                why = str(error)
                await asyncio.sleep(LEAST_PAUSE_SECONDS)
                continue
            log.info("%s/%s: Prometheus knows %d times ten minutes of the last week", *key[1:], len(windows))
            if windows and self._asked.get(key) == uid:
                self._found[key] = (uid, windows)
                self._wake(key)
            return
        log.warning(
            "%s/%s: its last week is not to be had: %s. It is learnt as it goes; a restart of the operator asks again",
            *key[1:],
            why,
        )
