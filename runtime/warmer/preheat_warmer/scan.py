"""Looks for pickles in the files of a model, and into them (``pickles.py``), before anything is published.

What is looked for depends on what a file holds, not on its name: pickles one behind the other (torch's old
format), an archive (torch's new format, npz), an array of numpy. Only the pickles are read, not the tensors between
them. Time and memory are bounded, whatever a file holds; what cannot be looked into is refused.
"""

import ast
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import Manifest, is_pickle
from preheat_warmer.pickles import Budget, NoPickle, Refused, Source, TooLong, check_streams, guess, imports

DIRECTORY_BYTES_AT_MOST = 4 << 20
"""Of an archive's list of entries, some 50,000. It is held in memory."""
LINE_BYTES_AT_MOST = 1 << 20
HEADER_BYTES_AT_MOST = 1 << 16
BUFFER_BYTES = 64 << 10
_LONG_LINE = "holds a line of over 1 MiB, which is not looked through"

_ZIP = b"PK\x03\x04"
_END = struct.Struct("<4s12xIH")
"""What an archive without a comment ends with: a signature, counts and sizes, where the list of entries begins."""
_TOLD_ELSEWHERE = 0xFFFFFFFF
_NUMPY = b"\x93NUMPY"
_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"x\x01", b"x\x9c", b"x\xda")  # fmt: skip
_PROGRAMS = (".py", ".pyc", ".pyd", ".so", ".dll", ".sh")
_ANY_FORMAT = ".bin"
"""Not of pickles alone: raw numbers are called that too."""


def check_pickles(folder: Path, manifest: Manifest, *, allow_pickle: bool) -> None:
    """Look into every pickle of a model. Raises Hopeless for one that is not harmless, OSError.

    A pickle by another name needs the same permission as one that tells what it is.
    """
    for file in manifest.files:
        path = folder / file.path
        try:
            if is_pickle(file.path) or _is_disguised(path):
                _check_permitted(allow_pickle)
                _check_file(path)
        except Refused as problem:
            raise Hopeless(
                Reason.PICKLE_REFUSED,
                f"{file.path} {problem}. Use a safetensors version of the model, or leave the file out by "
                "spec.model.include",
            ) from problem


def _is_disguised(path: Path) -> bool:
    """Tell whether a file that is no pickle by its name is a whole one of protocol 2 or later all the same."""
    with path.open("rb") as stream:
        if not stream.read(2).startswith(_PROTOCOLS):
            return False
        with suppress(NoPickle):
            for _ in imports(_Plain(stream.fileno(), 0, path.stat().st_size), Budget()):
                pass
            return True
    return False


def _check_permitted(allow_pickle: bool) -> None:
    if not allow_pickle:
        raise Refused("is a pickle, whatever its name says, and spec.model.format allows none")


def _check_file(path: Path) -> None:
    """Raise Refused for a file that may run code when it is loaded."""
    budget = Budget()
    with _Window(path) as stream:
        head = stream.read(512)
        if head.startswith(_ZIP):
            _check_archive(stream, budget)
        elif zipfile.is_zipfile(stream):
            raise Refused("is an archive and something else at once")
        elif _is_tar(head):
            raise Refused("is a tar archive, as torch wrote it until 2016: it is not looked into")
        else:
            size = path.stat().st_size
            _check_content(lambda: _Plain(stream.fileno(), 0, size), head, path.name, budget)


class _Window(io.FileIO):
    """A file that is never read in one large piece: zipfile would hold a list of entries of any length."""

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > DIRECTORY_BYTES_AT_MOST:
            raise Refused(f"has a list of entries of over {DIRECTORY_BYTES_AT_MOST >> 20} MiB")
        return super().read(wanted)


def _is_tar(head: bytes) -> bool:
    with suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return True
    return False


def _check_archive(stream: _Window, budget: Budget) -> None:
    """Look at every entry: whatever one is called, a pickle may be in it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            _check_plain_ends(archive, stream)
            for entry in archive.infolist():
                if not entry.is_dir():
                    _check_entry(archive, stream, entry, budget)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
        raise Refused(f"is an archive that cannot be read ({error}): fetch or make it anew") from error


def _check_plain_ends(archive: zipfile.ZipFile, stream: _Window) -> None:
    """Make sure that every reader finds the same list of entries.

    Python's takes the one right before the end of the file, torch's the one at the offset that is told there.
    """
    size = os.fstat(stream.fileno()).st_size
    end = os.pread(stream.fileno(), _END.size, size - _END.size)
    signature, told, _ = _END.unpack(end)
    starts = {entry.header_offset for entry in archive.infolist()}
    if signature != b"PK\x05\x06" or told not in {archive.start_dir, _TOLD_ELSEWHERE} or 0 not in starts:
        raise Refused("is an archive that readers may read in different ways")


def _check_entry(archive: zipfile.ZipFile, stream: _Window, entry: zipfile.ZipInfo, budget: Budget) -> None:
    name = entry.filename
    if entry.flag_bits & 1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise Refused(f"holds {name!r}, which is encrypted or compressed in a way that is not looked into")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise Refused(f"holds {name!r}, whose two sizes differ")
    if name.lower().endswith(_PROGRAMS) and "/code/" not in f"/{name}":
        raise Refused(f"holds a program, {name!r}")

    def opened() -> Source:
        entered = archive.open(entry)  # its own header must say the same as the list of entries
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            return _Inflated(entered, budget)
        entered.close()
        lengths = os.pread(stream.fileno(), 4, entry.header_offset + 26)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths))
        return _Plain(stream.fileno(), start, start + entry.file_size)

    head = _head(opened())
    if head.startswith(_ZIP):
        raise Refused(f"holds an archive in an archive, {name!r}")
    if head.startswith(_NUMPY) or is_pickle(name):
        _check_content(opened, head, name, budget)
        return
    # A tensor, most likely. Who loads it as a pickle all the same fails where this does.
    guess(opened())


def _head(source: Source) -> bytes:
    found = b""
    with suppress(NoPickle):
        while len(found) < len(_NUMPY):
            found += source.read(1)
    return found


def _check_content(opened: Callable[[], Source], head: bytes, name: str, budget: Budget) -> None:
    if head.startswith(_COMPRESSED):
        raise Refused("is compressed, which is not looked into")
    try:
        if head.startswith(_NUMPY):
            _check_array(opened(), budget)
        else:
            check_streams(opened(), budget)
    except NoPickle as problem:
        # Loading it fails at the same byte, before anything was imported.
        if name.lower().endswith(_ANY_FORMAT) and not head.startswith((*_PROTOCOLS, _NUMPY)):
            return
        raise Refused(f"is no whole pickle ({problem}): fetch or make it anew") from problem


def _check_array(source: Source, budget: Budget) -> None:
    """Look at what numpy puts before the numbers: only an array of objects is a pickle."""
    version = source.read(len(_NUMPY) + 2)[len(_NUMPY)]
    form = "<H" if version == 1 else "<I"
    length = struct.unpack(form, source.read(struct.calcsize(form)))[0]
    if length > HEADER_BYTES_AT_MOST:
        raise Refused(f"is an array with a header of over {HEADER_BYTES_AT_MOST >> 10} KiB")
    try:
        described = ast.literal_eval(source.read(length).decode("latin-1").strip())["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise Refused("is an array whose header cannot be read") from error
    if _has_objects(described):
        check_streams(source, budget)


def _has_objects(described: Any) -> bool:
    """Tell whether numpy's description of a type has an object in it: '|O', or a field of that type."""
    if isinstance(described, str):
        return "O" in described or "object" in described
    fields: Sequence[Any] = described if isinstance(described, list | tuple) else ()
    return not fields or any(
        not isinstance(field, list | tuple) or len(field) < 2 or _has_objects(field[1]) for field in fields
    )


class _Plain:
    """A span of a file. Skipping costs nothing."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._at = start
        self._end = end
        self._buffer = b""
        self._used = 0

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes."""
        if len(self._buffer) - self._used < count:
            self._fill(count)
        self._used += count
        return self._buffer[self._used - count : self._used]

    def skip(self, count: int) -> None:
        """Leave bytes out."""
        there = len(self._buffer) - self._used
        if count <= there:
            self._used += count
            return
        if self._at + count - there > self._end:
            raise NoPickle("it is cut off")
        self._at += count - there
        self._buffer, self._used = b"", 0

    def line(self) -> bytes:
        """Return a line without its end."""
        while (end := self._buffer.find(b"\n", self._used)) < 0:
            if len(self._buffer) - self._used > LINE_BYTES_AT_MOST:
                raise TooLong(_LONG_LINE)
            self._fill(len(self._buffer) - self._used + 1)
        found = self._buffer[self._used : end]
        self._used = end + 1
        return found

    def ended(self) -> bool:
        """Tell whether nothing is left."""
        return self._used == len(self._buffer) and self._at >= self._end

    def _fill(self, count: int) -> None:
        """Hold at least so many bytes that were not used yet."""
        left = self._buffer[self._used :]
        wanted = min(max(count - len(left), BUFFER_BYTES), self._end - self._at)
        more = os.pread(self._descriptor, wanted, self._at)
        self._at += len(more)
        self._buffer, self._used = left + more, 0
        if len(self._buffer) < count:
            raise NoPickle("it is cut off")


class _Inflated:
    """A compressed entry of an archive; all that is inflated counts."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream = io.BufferedReader(_Counted(stream, budget), BUFFER_BYTES)

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes."""
        found = self._stream.read(count)
        if len(found) < count:
            raise NoPickle("it is cut off")
        return found

    def skip(self, count: int) -> None:
        """Leave bytes out."""
        while count > 0:
            count -= len(self.read(min(count, BUFFER_BYTES)))

    def line(self) -> bytes:
        """Return a line without its end."""
        found = self._stream.readline(LINE_BYTES_AT_MOST)
        if not found.endswith(b"\n"):
            raise NoPickle("it is cut off") if len(found) < LINE_BYTES_AT_MOST else TooLong(_LONG_LINE)
        return found[:-1]

    def ended(self) -> bool:
        """Tell whether nothing is left."""
        return not self._stream.peek(1)


class _Counted(io.RawIOBase):
    """What comes out of the decompressor."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        found = self._stream.read(len(buffer))
        self._budget.inflate(len(found))
        buffer[: len(found)] = found
        return len(found)
