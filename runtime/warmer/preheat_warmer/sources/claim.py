"""pvc://CLAIM/PATH: weights that somebody put on a volume; it is mounted read-only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from preheat_warmer.errors import Changed, Hopeless, Reason
from preheat_warmer.manifest import File, Manifest, checked_path, parse_sums
from preheat_warmer.sources.base import Transfer
from preheat_warmer.sources.web import CHUNK_BYTES


class ClaimSource:
    """A folder of a mounted volume, with SHA256SUMS in it."""

    def __init__(self, uri: str, mount: Path) -> None:
        _, _, path = uri.removeprefix("pvc://").partition("/")
        self._folder = mount / checked_path(path.strip("/")) if path.strip("/") else mount

    async def list(self) -> Manifest:
        """Return what SHA256SUMS says."""
        sums = self._folder / "SHA256SUMS"
        try:
            return Manifest(tuple(parse_sums(sums.read_text("utf-8", "replace"))))
        except OSError as error:
            raise Hopeless(
                Reason.NO_DIGEST,
                f"SHA256SUMS is not in {self._folder.name!r} of the claim: make it with sha256sum, or list the files "
                "with their digests in spec.model.files",
            ) from error

    @asynccontextmanager
    async def open(self, file: File, offset: int, version: str) -> AsyncIterator[Transfer]:
        """Read a file. One that leads out of the volume is refused."""
        path = (self._folder / file.path).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise Hopeless(Reason.PATH_REFUSED, f"{file.path} leads out of the volume")
        try:
            stream = path.open("rb")
        except OSError as error:
            raise Hopeless(Reason.NOT_FOUND, f"{file.path}: {error.strerror}") from error
        with stream:
            stat = path.stat()
            current = f"{stat.st_mtime_ns}-{stat.st_size}"
            if offset and version and version != current:
                raise Changed(str(path))
            stream.seek(offset)
            yield Transfer(offset, current, stat.st_size, _chunks(stream))


async def _chunks(stream: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
        yield chunk
