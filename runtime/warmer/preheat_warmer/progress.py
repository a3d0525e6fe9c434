"""How far it is: the numbers behind /progress and the metrics. Bytes and seconds."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

WINDOW_SECONDS = 10.0


class Progress:
    """Counts bytes. Owned by one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.state = "Listing"
        self.message = ""
        self.reason = ""
        self.bytes_total = 0
        self.bytes_done = 0
        self.bytes_fetched = 0
        self.files_total = 0
        self.files_done = 0
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def add(self, count: int, *, fetched: bool) -> None:
        """Count bytes that are on disk now; ``fetched``: they came over the wire in this run."""
        self.bytes_done += count
        if fetched:
            self.bytes_fetched += count
            now = self._clock()
            if now - self._samples[-1][0] >= 0.1:
                self._samples.append((now, self.bytes_fetched))
            while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:
                self._samples.popleft()

    def take_back(self, count: int) -> None:
        """Uncount bytes that turned out to be no good."""
        self.bytes_done -= count

    @property
    def bytes_per_second(self) -> float:
        """Speed over the last seconds."""
        since, before = self._samples[0]
        elapsed = self._clock() - since
        return (self.bytes_fetched - before) / elapsed if elapsed > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Time left at that speed; None until there is something to go by."""
        speed = self.bytes_per_second
        if self.state != "Fetching" or speed <= 0 or self.bytes_total <= 0:
            return None
        return max(0.0, (self.bytes_total - self.bytes_done) / speed)

    def report(self) -> dict[str, Any]:
        """Return the answer to /progress."""
        return {
            "schema": 1,
            "state": self.state,
            "bytesDone": self.bytes_done,
            "bytesTotal": self.bytes_total,
            "bytesPerSecond": round(self.bytes_per_second),
            "remainingSeconds": self.remaining_seconds,
            "filesDone": self.files_done,
            "filesTotal": self.files_total,
            "reason": self.reason,
            "message": self.message,
        }
