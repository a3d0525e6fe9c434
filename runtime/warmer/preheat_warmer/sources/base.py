"""What a source can do."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from preheat_warmer.manifest import File, Manifest


class Pipe(Protocol):
    """Bytes for a thread that reads and writes them without the event loop in between."""

    def read_into(self, memory: memoryview) -> int:
        """Wait for bytes and put some there; return how many, 0 at the end. Errors as ``chunks``."""
        ...

    def break_off(self) -> None:
        """End a read that another thread waits in."""

    def wait_short(self, count: int) -> None:
        """Let about so many bytes at most wait to be read, where that costs no speed: a kill loses them."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes on their way. ``offset`` is where they really begin: a source may not be able to resume."""

    offset: int
    version: str
    """What tells this version of the file from another (an ETag), empty when there is nothing."""
    total: int | None
    """Bytes of the whole file, None when the source does not tell."""
    chunks: AsyncIterator[bytes]
    ranged: bool = True
    """False: the source sends everything, whatever part it is asked for."""
    pipe: Pipe | None = None
    """The same bytes as ``chunks``, where the source has a faster way; only one of the two is read."""
    from_peer: bool = False
    """Whether a neighbour sends them."""


class Source(Protocol):
    """A place that has the model. Everything raises Hopeless or Passing."""

    async def list(self) -> Manifest:
        """Return its files."""
        ...

    async def size(self, file: File) -> int | None:
        """Return the bytes of a file without fetching it, None when the source does not tell."""
        ...

    def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AbstractAsyncContextManager[Transfer]:
        """Read a file from an offset on, to its end or up to ``end`` (excluded); more may come.

        Several parts of a file may be open at once. Raises Changed when it is not ``version`` any more.
        """
        ...
