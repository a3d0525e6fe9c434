"""pvc://CLAIM/PATH: weights that somebody put on a volume; it is mounted read-only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason
from preheat_warmer.manifest import SUMS, File, Manifest, checked_path, parse_sums
from preheat_warmer.sources.base import Transfer

CHUNK_BYTES = 1 << 20


class ClaimSource:
    """A folder of a mounted volume, with SHA256SUMS in it."""

    def __init__(self, uri: str, mount: Path) -> None:
        path = uri.removeprefix("pvc://").partition("/")[2].strip("/")
        self._mount = mount
        self._folder = mount / checked_path(path) if path else mount

    async def list(self) -> Manifest:
        """Return what SHA256SUMS says."""
        try:
            path = self._inside(self._folder / SUMS)
            text = await asyncio.to_thread(path.read_text, "utf-8", "replace")
        except OSError as error:
            raise Hopeless(
                Reason.NO_DIGEST,
                f"{SUMS} cannot be read in the folder {self._name()!r} of the claim ({error.strerror}): make it "
                "with sha256sum, or list the files with their digests in spec.model.files",
            ) from error
        return Manifest(tuple(parse_sums(text)))

    async def size(self, file: File) -> int | None:
        """Return the size of a file on the volume."""
        return (await asyncio.to_thread(self._find, file)).stat().st_size

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read a file from an offset on, whatever the end: a read costs nothing that was not asked for. One that leads out of the volume is refused."""
        path = await asyncio.to_thread(self._find, file)
        try:
            stream = path.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(file, error) from error
        with stream:
            stat = path.stat()
            current = f"{stat.st_mtime_ns}-{stat.st_size}"
            if version and version != current and (offset or end is not None):
                raise Changed(str(path))
            stream.seek(offset)
            pipe = _Pipe(stream, file)
            yield Transfer(offset, current, stat.st_size, _chunks(pipe), pipe=pipe)

    def _find(self, file: File) -> Path:
        try:
            path = self._inside(self._folder / file.path)
        except OSError as error:
            raise _unreadable(file, error) from error
        if not path.is_file():
            raise Hopeless(
                Reason.NOT_FOUND, f"{file.path} is no file in the folder {self._name()!r} of the claim"
            )
        return path

    def _inside(self, path: Path) -> Path:
        """Return where a path really leads. Links within the volume are fine."""
        real = path.resolve(strict=True)
        if not real.is_relative_to(self._mount.resolve()):
            raise Hopeless(Reason.PATH_REFUSED, f"{path.name} leads out of the volume")
        return real

    def _name(self) -> str:
        return str(self._folder.relative_to(self._mount))


class _Pipe:
    """A file of the volume, read by a thread."""

    def __init__(self, stream: FileIO, file: File) -> None:
        self._stream = stream
        self._file = file

    def read_into(self, memory: memoryview) -> int:
        """Bring the next bytes, none at the end."""
        try:
            return self._stream.readinto(memory)
        except OSError as error:
            raise Passing(Reason.SOURCE_UNAVAILABLE, f"{self._file.path}: {error.strerror}") from error

    def break_off(self) -> None:
        """Do nothing: a disk answers, or nobody can help it."""

    def wait_short(self, count: int) -> None:
        """Do nothing: what was not read is on a disk."""


async def _chunks(pipe: _Pipe) -> AsyncIterator[bytes]:
    memory = memoryview(bytearray(CHUNK_BYTES))
    while count := await asyncio.to_thread(pipe.read_into, memory):
        yield bytes(memory[:count])


def _unreadable(file: File, error: OSError) -> Hopeless:
    reason = Reason.UNAUTHORIZED if isinstance(error, PermissionError) else Reason.NOT_FOUND
    return Hopeless(reason, f"{file.path} cannot be read from the claim: {error.strerror}")
