"""Brings one file to the disk: resumed where it stopped, hashed as it comes, right or not there at all.

``PATH.part`` holds the bytes so far and ``PATH.part.version`` the version of the file they are of. After a
kill the bytes that are there are hashed again, not fetched again. A file whose digest is wrong is thrown
away and fetched once more from the start; wrong twice is the source's fault.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason
from preheat_warmer.manifest import File
from preheat_warmer.progress import Progress
from preheat_warmer.sources.base import Source

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
FRUITLESS_AT_MOST = 8
"""Tries in a row that bring no byte before the run ends (and the Job starts another)."""
READ_BYTES = 4 << 20
SYNC_EVERY_BYTES = 64 << 20


class Digest(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: bytes, /) -> None:
        """Take in bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""
        ...


class Pace:
    """A speed limit shared by all files: a token bucket of one second. None: no limit."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._limit = bytes_per_second
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait until this many bytes may pass."""
        if self._limit is None:
            return
        clock = asyncio.get_running_loop().time
        now = clock()
        self._free_at = max(self._free_at, now - 1.0) + count / self._limit
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


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

    async def fetch(self, file: File) -> int:
        """Make the file be there, whole and right; return its size. Raises Hopeless or Passing."""
        target = self._folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # Renamed only after its digest was right.
            self._progress.add(target.stat().st_size, fetched=False)
            return target.stat().st_size
        for attempt in (1, 2):
            part = await self._download(file, target)
            if part is not None:
                part.rename(target)
                return target.stat().st_size
            if attempt == 2:
                break
        raise Hopeless(
            Reason.DIGEST_MISMATCH,
            f"{file.path} is not what its digest says, twice: the source holds other bytes than the manifest names",
        )

    async def _download(self, file: File, target: Path) -> Path | None:
        """Return the whole file with the right digest, None when the digest is wrong."""
        part = target.with_name(f"{target.name}.part")
        fruitless = 0
        digest, size = await self._resume(file, part)
        while True:
            before = size
            try:
                digest, size, whole = await self._transfer(file, part, digest, size)
                if whole:
                    break
                problem = Passing(
                    Reason.SOURCE_UNAVAILABLE, f"{file.path}: the answer ended early, at {size} bytes"
                )
            except Changed:
                digest, size = self._restart(file, part, size)
                problem = Passing(
                    Reason.SOURCE_UNAVAILABLE, f"{file.path} changed at the source while it was fetched"
                )
                before = -1
            except Passing as error:
                problem = error
                size = part.stat().st_size if part.exists() else 0
                if size != before:
                    digest, size = await self._rehash(file, part)
            fruitless = 0 if size > before >= 0 else fruitless + 1
            if fruitless > FRUITLESS_AT_MOST:
                raise problem
            wait = getattr(problem, "retry_after", None)
            await self._sleep(wait or BACKOFF_SECONDS[min(fruitless, len(BACKOFF_SECONDS) - 1)])
        if digest.hexdigest() == _expected(file):
            return part
        self._restart(file, part, size)
        return None

    async def _resume(self, file: File, part: Path) -> tuple[Digest, int]:
        """Take in what an earlier run left."""
        digest, size = await self._rehash(file, part)
        if file.size is not None and size > file.size:
            return self._restart(file, part, 0)
        self._progress.add(size, fetched=False)
        return digest, size

    async def _rehash(self, file: File, part: Path) -> tuple[Digest, int]:
        def read() -> tuple[Digest, int]:
            digest, size = _digest(file, part), 0
            if part.exists():
                with part.open("rb") as stream:
                    while block := stream.read(READ_BYTES):
                        digest.update(block)
                        size += len(block)
            return digest, size

        return await asyncio.to_thread(read)

    def _restart(self, file: File, part: Path, counted: int) -> tuple[Digest, int]:
        self._progress.take_back(counted)
        part.unlink(missing_ok=True)
        _version_file(part).unlink(missing_ok=True)
        return _digest(file, part), 0

    async def _transfer(self, file: File, part: Path, digest: Digest, size: int) -> tuple[Digest, int, bool]:
        """Append what the source sends; return the digest, the size, and whether the file is whole."""
        if file.size is not None and size == file.size:
            return digest, size, True
        version = _read_version(part)
        async with self._source.open(file, size, version) as transfer:
            if transfer.offset != size:
                digest, size = self._restart(file, part, size)
            _version_file(part).write_text(transfer.version)
            with part.open("ab") as out:
                unsynced = 0
                async for chunk in transfer.chunks:
                    await self._pace.take(len(chunk))
                    await asyncio.to_thread(_write, out, digest, chunk, file.path)
                    size += len(chunk)
                    unsynced += len(chunk)
                    self._progress.add(len(chunk), fetched=True)
                    if unsynced >= SYNC_EVERY_BYTES:
                        await asyncio.to_thread(os.fsync, out.fileno())
                        unsynced = 0
                await asyncio.to_thread(os.fsync, out.fileno())
            total = file.size if file.size is not None else transfer.total
        return digest, size, total is None or size >= total


def _write(out: BinaryIO, digest: Digest, chunk: bytes, path: str) -> None:
    try:
        out.write(chunk)
        out.flush()
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Passing(
                Reason.DISK_FULL, f"{path}: the node's disk is full; free space or take another node"
            ) from error
        raise Passing(Reason.SOURCE_UNAVAILABLE, f"{path}: cannot write: {error.strerror}") from error
    digest.update(chunk)


def _digest(file: File, part: Path) -> Digest:
    """Return a fresh hash of the kind that the file's digest is of."""
    if file.sha256 is not None:
        return hashlib.sha256()
    size = file.size if file.size is not None else (part.stat().st_size if part.exists() else 0)
    # Git hashes a header with the size first.
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def _expected(file: File) -> str | None:
    return file.sha256 or file.git_sha1


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _read_version(part: Path) -> str:
    try:
        return _version_file(part).read_text()
    except OSError:
        return ""
