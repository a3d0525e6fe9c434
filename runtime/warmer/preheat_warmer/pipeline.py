"""Three things at once for one connection: the next bytes come while those before are hashed and written.

For a file that has spare connections and a source that fills one of them: more connections would bring bytes before
the digest's turn, which then have to be read back.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from preheat_warmer.straight import Stage

DEPTH = 4
"""Stages in turn: one is filled, the others are written. A disk wants a few writes at a time."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    count: int
    written: Future[None]
    hashed: Future[None]


class Pipeline:
    """Stages of one file in the order of their bytes. One thread calls it; others write and hash."""

    def __init__(
        self, size: int, write: Callable[[memoryview, int], None], digest: Callable[[memoryview], None]
    ) -> None:
        self._stages = [Stage(size) for _ in range(DEPTH)]
        self._write, self._digest = write, digest
        self._writers = ThreadPoolExecutor(DEPTH - 1, "write")
        self._hasher = ThreadPoolExecutor(1, "hash")
        self._under_way: deque[_UnderWay] = deque()

    @property
    def is_full(self) -> bool:
        """Tell whether no stage is free: the oldest must be settled."""
        return len(self._under_way) == DEPTH

    @property
    def is_empty(self) -> bool:
        """Tell whether everything is settled."""
        return not self._under_way

    def stage(self, at: int) -> Stage:
        """Return a free stage for what comes at this place of the file."""
        stage = self._stages[0]
        stage.begin(at)
        return stage

    def send(self, at: int) -> int:
        """Have the bytes of the stage that was taken last written and hashed; return how many."""
        stage = self._stages.pop(0)
        self._stages.append(stage)
        held = stage.held
        written = self._writers.submit(self._write, held, at)
        self._under_way.append(_UnderWay(len(held), written, self._hasher.submit(self._digest, held)))
        return len(held)

    def settle(self) -> int:
        """Wait for the oldest; return how many bytes it had. Raises OSError, when nothing is under way any more."""
        oldest = self._under_way.popleft()
        try:
            oldest.written.result()
            oldest.hashed.result()
        except BaseException:
            wait([future for one in (oldest, *self._under_way) for future in (one.written, one.hashed)])
            self._under_way.clear()
            raise
        return oldest.count

    def close(self) -> None:
        """End the threads."""
        self._writers.shutdown()
        self._hasher.shutdown()
