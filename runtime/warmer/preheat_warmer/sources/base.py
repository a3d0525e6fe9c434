"""What a source can do."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from preheat_warmer.manifest import File, Manifest


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes on their way. ``offset`` is where they really begin: a source may not be able to resume."""

    offset: int
    version: str
    """What tells this version of the file from another (an ETag), empty when there is nothing."""
    total: int | None
    """Bytes of the whole file, None when the source does not tell."""
    chunks: AsyncIterator[bytes]


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
        """Read a file from an offset on, up to ``end`` (exclusive) or to its own.

        Raises Changed when it is not ``version`` any more.
        """
        ...
