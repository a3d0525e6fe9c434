"""Brings one file to the disk: resumed where it stopped, hashed as it comes, right or not there at all.

``.partial/PATH.part`` holds the bytes so far, and is renamed when its digest is right; ``.partial/.preheat-parts/``
holds the version (ETag) that they are of.
After a kill the bytes that are there are hashed again, not fetched again: a whole file as much as a half,
because the list of files may be another one by now. A file whose digest is wrong is thrown away and
fetched once more from the start; wrong twice is the source's fault.
"""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason
from preheat_warmer.manifest import PART_SUFFIX, File
from preheat_warmer.progress import Progress
from preheat_warmer.publish import NOTES, SPARE_BYTES, free_bytes
from preheat_warmer.sources.base import Source

BACKOFF_SECONDS = (0.5, 0.5, 1.0, 3.0, 10.0)
FRUITLESS_AT_MOST = 5
"""Tries in a row that bring the file no further before the run ends (and the Job starts another)."""
READ_BYTES = 4 << 20
SYNC_EVERY_BYTES = 64 << 20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write says that finds no room: disk full, quota reached, file larger than allowed."""


class Digest(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: bytes, /) -> None:
        """Take in bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""
        ...


class Pace:
    """A speed limit shared by all files: a token bucket of one second. None: no limit."""

    def __init__(
        self,
        bytes_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()  # the bucket starts empty: a restart must not be a way around the limit

    async def take(self, count: int) -> None:
        """Wait until this many bytes may pass."""
        if self._limit is None:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - 1.0) + count / self._limit
        if self._free_at > now:
            await self._sleep(self._free_at - now)


class Part:
    """One file on its way. The bytes on the disk, ``size`` and ``digest`` agree after every call."""

    def __init__(self, file: File, folder: Path) -> None:
        self.file = file
        self.whole = folder / file.path
        self.path = folder / f"{file.path}{PART_SUFFIX}"
        self._note = folder / NOTES / hashlib.sha256(file.path.encode()).hexdigest()
        self.size = 0
        self.digest = _new_digest(file)
        self.overlong = False

    @property
    def right(self) -> bool:
        """Tell whether it is whole and what its digest says."""
        size_fits = self.file.size is None or self.file.size == self.size
        return (
            size_fits
            and not self.overlong
            and self.digest.hexdigest() == (self.file.sha256 or self.file.git_sha1)
        )

    @property
    def version(self) -> str:
        """What the source called the version that these bytes are of; empty when it said nothing."""
        try:
            return self._note.read_text("utf-8")
        except (OSError, ValueError):
            return ""

    def begin(self) -> BinaryIO:
        """Open what an earlier run left, to read it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._note.parent.mkdir(parents=True, exist_ok=True)
        if self.whole.exists():
            self.whole.replace(self.path)  # it was right for an earlier list of files
        self.path.touch()
        return self.path.open("rb")

    def take_in(self, stream: BinaryIO) -> int:
        """Hash the next block of what is there; return its length, 0 at the end."""
        block = stream.read(READ_BYTES)
        self.digest.update(block)
        self.size += len(block)
        return len(block)

    def append(self, out: BinaryIO, chunk: bytes) -> None:
        """Write and hash. Raises OSError, and then the disk may hold more than ``size`` tells."""
        out.write(chunk)
        out.flush()
        self.digest.update(chunk)
        self.size += len(chunk)

    def note(self, version: str) -> None:
        """Remember the version for the next run."""
        if version != self.version:
            self._note.write_text(version, "utf-8")

    def finish(self) -> None:
        """Make it durable under its own name."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.path.replace(self.whole)

    def throw_away(self) -> None:
        """Begin again with nothing."""
        self.path.write_bytes(b"")
        self._note.unlink(missing_ok=True)
        self.size, self.digest, self.overlong = 0, _new_digest(self.file), False


class Fetcher:
    """Fetches files of one source into one folder."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        progress: Progress,
        pace: Pace,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._folder = folder
        self._progress = progress
        self._pace = pace
        self._sleep = sleep

    async def fetch(self, file: File) -> None:
        """Make the file be there, whole, right and durable. Raises Hopeless or Passing."""
        try:
            await self._fetch(Part(file, self._folder))
        except OSError as error:
            raise _disk_problem(error, file.path, self._folder) from error

    async def _fetch(self, part: Part) -> None:
        await self._take_in(part)
        wrong = 0
        while not part.right:
            from_zero = part.size == 0
            await self._complete(part)
            if part.right:
                break
            # Old bytes on our own disk are not the source's fault: they cost no try.
            wrong += from_zero
            if wrong == 2:
                self._throw_away(part)
                raise Hopeless(
                    Reason.DIGEST_MISMATCH,
                    f"{part.file.path} is not what its digest says, twice: the source holds other bytes than the "
                    "manifest names. Correct the digest, or the file at the source",
                )
            self._throw_away(part)
        await asyncio.to_thread(part.finish)

    async def _take_in(self, part: Part) -> None:
        """Hash what an earlier run left; what cannot be of this file goes."""
        with part.begin() as stream:
            while count := await asyncio.to_thread(part.take_in, stream):
                self._progress.add(count, fetched=False)
        if not part.right and part.file.size is not None and part.size >= part.file.size:
            self._throw_away(part)

    async def _complete(self, part: Part) -> None:
        """Fetch until the last byte is there, right or wrong. Raises what stopped it after too many tries."""
        fruitless, furthest = 0, part.size
        while True:
            try:
                if await self._transfer(part):
                    return
                problem = Passing(
                    Reason.SOURCE_UNAVAILABLE,
                    f"{part.file.path}: the answer ended early, at {part.size:,} bytes",
                )
            except Changed:
                self._throw_away(part)
                problem = Passing(
                    Reason.SOURCE_UNAVAILABLE, f"{part.file.path} changed at the source while it was fetched"
                )
            except Passing as error:
                if error.reason is not Reason.SOURCE_UNAVAILABLE:
                    raise
                problem = error
            # Further than ever before in this run: a file that starts over again and again does not count.
            fruitless = 0 if part.size > furthest else fruitless + 1
            furthest = max(furthest, part.size)
            if fruitless >= FRUITLESS_AT_MOST:
                raise problem
            self._progress.retries += 1
            wait = problem.retry_after_seconds
            await self._sleep(BACKOFF_SECONDS[fruitless] if wait is None else wait)

    async def _transfer(self, part: Part) -> bool:
        """Append what the source sends; tell whether that was all."""
        expected = part.file.size
        async with self._source.open(part.file, part.size, part.version) as transfer:
            if transfer.offset != part.size:
                self._throw_away(part)
            part.note(transfer.version)
            with part.path.open("ab") as out:
                unsynced = 0
                async for chunk in transfer.chunks:
                    if expected is not None and part.size + len(chunk) > expected:
                        part.overlong = True
                        return True
                    await self._pace.take(len(chunk))
                    await asyncio.to_thread(part.append, out, chunk)
                    self._progress.add(len(chunk), fetched=True)
                    unsynced += len(chunk)
                    if unsynced >= SYNC_EVERY_BYTES:
                        await asyncio.to_thread(os.fsync, out.fileno())
                        self._check_room(part)
                        unsynced = 0
            total = expected if expected is not None else transfer.total
        return total is None or part.size >= total

    def _check_room(self, part: Part) -> None:
        """Stop before the disk is full: a source need not tell how large a file is."""
        if free_bytes(self._folder) < SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part.path))

    def _throw_away(self, part: Part) -> None:
        self._progress.take_back(part.size)
        part.throw_away()


def _disk_problem(error: OSError, path: str, folder: Path) -> Passing:
    if error.errno in NO_ROOM:
        return Passing(
            Reason.DISK_FULL,
            f"{path}: {error.strerror}, {free_bytes(folder):,} bytes are free: free space or take another node",
        )
    return Passing(
        Reason.DISK_ERROR, f"{path}: {error.strerror}: look at the node's disk and the volume's rights"
    )


def _new_digest(file: File) -> Digest:
    """Return a fresh hash of the kind that the file's digest is of."""
    if file.sha256 is not None:
        return hashlib.sha256()
    # Git hashes a header with the size first.
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
