"""Writing past the page cache: whole blocks go from our memory to the disk, and the kernel copies and keeps nothing.

A gigabyte through the page cache costs about two seconds of a processor, past it a tenth of one (docs/decisions/0040). Only file
systems whose files name a block device (st_dev) are asked for it: over a network each such write waits for the other end.
"""

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

BLOCK_BYTES = 4096
"""What O_DIRECT asks of places in a file, of lengths and of memory. A file system that asks for more answers EINVAL, and is spared."""


class Stage:
    """Memory in which bytes wait until they are worth a write: each lies as far into a block as it will in the file."""

    def __init__(self, size: int) -> None:
        self._memory = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._start = self._end = 0

    def begin(self, at: int) -> None:
        """Hold nothing; what comes next belongs at this place of the file."""
        self._start = self._end = at % BLOCK_BYTES

    @property
    def held(self) -> memoryview:
        """Return what waits."""
        return self._memory[self._start : self._end]

    @property
    def room(self) -> memoryview:
        """Return where the next bytes go, as many as there is room for."""
        return self._memory[self._end :]

    def took(self, count: int) -> None:
        """So many bytes were put there."""
        self._end += count

    def put(self, piece: bytes | memoryview) -> None:
        """Take in bytes, for which there must be room."""
        self.room[: len(piece)] = piece
        self.took(len(piece))

    def cut(self, count: int) -> bytes:
        """Return the last so many bytes, or what there is, and hold them no more."""
        begin = max(self._start, self._end - count)
        odd = bytes(self._memory[begin : self._end])
        self._end = begin
        return odd


class Straight:
    """A file that is open once more, for whole blocks alone; closed where its file system cannot or should not."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self.usable = False
        if (
            os.major(path.stat().st_dev) == 0
        ):  # no block device: memory, a network, another file system's layer
            return
        with suppress(OSError):  # whatever is the matter, there is the other way
            self._fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            self.usable = True

    def write(self, piece: memoryview, at: int) -> int:
        """Write whole blocks from a stage; return how many bytes, 0 where it cannot be done. Raises OSError."""
        whole = len(piece) - len(piece) % BLOCK_BYTES
        if not self.usable or not whole or at % BLOCK_BYTES:
            return 0
        try:
            return os.pwrite(self._fd, piece[:whole], at)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
        self.usable = False  # it cannot, or its blocks are larger
        return 0

    def close(self) -> None:
        """Let go of the file."""
        self.usable = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
