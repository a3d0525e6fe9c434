"""How far it is: the numbers behind /progress and the metrics. Bytes and seconds."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

WINDOW_SECONDS = 10.0
SAMPLE_SECONDS = 0.1
EVIDENCE_SECONDS = 1.0
"""How long bytes must have come before a guess is made of how long the rest will take."""
MOVING = frozenset({"Fetching", "Verifying"})
"""States with a speed."""


class Progress:
    """Counts bytes. Written by one event loop, or one thread at a time; other threads may read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.state = "Listing"
        self.message = ""
        self.reason = ""
        self.bytes_total = 0
        self.bytes_done = 0
        self.bytes_fetched = 0
        self.bytes_from_peers = 0
        self.files_total = 0
        self.files_done = 0
        self.retries = 0
        self._moved = 0
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, state: str, files: int, size: int) -> None:
        """Begin to count anew: another kind of work, or the same from the start."""
        self.state = state
        self.files_total, self.files_done = files, 0
        self.bytes_total, self.bytes_done = size, 0
        self._samples.clear()

    def add(self, count: int, *, fetched: bool, from_peer: bool = False) -> None:
        """Count bytes that are on disk now; ``fetched``: they came in this run, ``from_peer``: from a neighbour."""
        self.bytes_done += count
        if fetched:
            self.bytes_fetched += count
            self.bytes_from_peers += count if from_peer else 0
            self._move(count)

    def add_verified(self, count: int) -> None:
        """Count bytes that were read back and hashed. One thread at a time."""
        self.bytes_done += count
        self._move(count)

    def _move(self, count: int) -> None:
        now = self._clock()
        if not self._samples:
            self._samples.append((now, self._moved))
        self._moved += count
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._moved))
        while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW_SECONDS:
            self._samples.popleft()

    def take_back(self, count: int) -> None:
        """Uncount bytes that turned out to be no good."""
        self.bytes_done -= count

    def look_anew(self) -> None:
        """Uncount what is there: it is looked at once more. What came in this run still came."""
        self.state, self.message = "Listing", ""
        self.bytes_done = self.bytes_total = self.files_done = self.files_total = 0

    @property
    def bytes_per_second(self) -> float:
        """Speed over the last seconds; it sinks when nothing comes."""
        return self._speed()[0]

    @property
    def remaining_seconds(self) -> float | None:
        """Time left at that speed; None until there is something to go by."""
        speed, elapsed = self._speed()
        if self.state not in MOVING or elapsed < EVIDENCE_SECONDS or speed <= 0 or self.bytes_total <= 0:
            return None
        return round(max(0.0, (self.bytes_total - self.bytes_done) / speed), 1)

    def _speed(self) -> tuple[float, float]:
        """Return bytes per second, and over how many seconds that was seen."""
        try:
            since, before = self._samples[0]
        except IndexError:
            return 0.0, 0.0
        elapsed = self._clock() - since
        return ((self._moved - before) / elapsed if elapsed > 0 else 0.0), elapsed

    def report(self) -> dict[str, Any]:
        """Return the answer to /progress."""
        return {
            "schema": 1,
            "state": self.state,
            "bytesDone": self.bytes_done,
            "bytesTotal": self.bytes_total,
            "bytesFromPeers": self.bytes_from_peers,
            "bytesPerSecond": round(self.bytes_per_second) if self.state in MOVING else 0,
            "remainingSeconds": self.remaining_seconds,
            "filesDone": self.files_done,
            "filesTotal": self.files_total,
            "reason": self.reason,
            "message": self.message,
        }
