"""One file on its way to the disk: its bytes, a note of which are there, and their digest.

``.partial/PATH.part`` holds the bytes, each at its place. As long as one connection writes from the start on, its
length says how much is there. From the second connection on it has its final size, with holes, and
``.partial/.preheat-parts/DIGEST-OF-PATH`` says which spans are there. That note only ever grows by whole
lines, each written after the bytes that it tells of: a kill at any byte loses what was not noted yet. The note
is a hint and no proof: every byte is read back for the digest.
"""

import errno
import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from preheat_warmer.manifest import PART_SUFFIX, File
from preheat_warmer.pipeline import Pipeline
from preheat_warmer.publish import FILE_MODE, NOTES
from preheat_warmer.sources.base import Pipe
from preheat_warmer.spans import Span, covered, frontier, joined
from preheat_warmer.straight import BLOCK_BYTES, Stage, Straight

STAGE_BYTES_LEAST = 64 << 10
STAGE_BYTES_MOST = 512 << 10
"""Larger writes cost less; what is read and not written yet is what a kill loses."""
PIPELINE_STAGE_BYTES_MOST = 1 << 20
"""The same, where threads take turns for each stage."""
HASH_BYTES = 1 << 20
PIPELINE_BYTES_LEAST = 64 << 20
"""A smaller file is there before threads for it are."""
CATCH_UP_BYTES = 64 << 20
"""What a connection may wait for to be hashed."""
TURN_SECONDS = 0.1
"""How long a thread works before it reports: progress, speed limit and SIGTERM wait for that."""
NOTE_BYTES_LEAST = 16 << 10
NOTE_BYTES_MOST = 1 << 20
LOSS = 400
"""A kill loses at most one part in so many of a file, all connections together: of what is written and not noted,
again of what waits to be written, and again of what waits to be read; see note_bytes, stage_bytes and Pipe.wait_short."""


_ONE = memoryview(bytearray(1))
"""Where a byte goes that nobody wants."""


class Digest(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: memoryview, /) -> None:
        """Take in bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""
        ...


@dataclass(slots=True)
class Lane:
    """A span that one connection fetches. ``end`` is None when nobody knows how long the file is.

    A thread moves ``at``; what the event loop knows of, and nobody else may fetch, is the whole span.
    """

    start: int
    end: int | None
    at: int = 0
    noted: int = 0
    from_peer: bool = False
    stage: Stage | None = None
    """Where it gathers what it reads, while a thread is at it."""
    odd: bytes = b""
    """What it has read of a block whose end has not come yet, between two turns."""

    def __post_init__(self) -> None:
        self.at = self.noted = self.start

    def take_odd(self) -> bytes:
        """Return what waits for the end of its block, and hold it no more."""
        odd, self.odd = self.odd, b""
        return odd


def note_bytes(size: int | None, connections: int) -> int:
    """Return after how many bytes of a connection a line is noted: what a kill may lose of each, twice (LOSS)."""
    each = (size or 0) // (LOSS * connections)
    return min(max(each, NOTE_BYTES_LEAST), NOTE_BYTES_MOST)


def stage_bytes(size: int | None, note: int, most: int = STAGE_BYTES_MOST) -> int:
    """Return how much a connection gathers before it writes, where a line is noted after ``note`` bytes.

    A file of unknown size has no notes, and no share of it can be promised.
    """
    if size is None:
        return most
    return min(max(note - note % BLOCK_BYTES, STAGE_BYTES_LEAST), most)


@dataclass(frozen=True, slots=True)
class Noted:
    """What a note says. ``sparse``: the spans are what is there; else the file's length is."""

    version: str
    sparse: bool
    spans: tuple[Span, ...]


def parse_note(text: str) -> Noted:
    """Return what a note says, however it was cut off; of an unreadable one nothing is believed."""
    head, *lines = text.split("\n")[:-1] or [""]  # what follows the last line's end was not written whole
    try:
        found = json.loads(head)
        spans = [(int(start), int(end)) for start, end in (line.split() for line in lines)]
        return Noted(str(found["version"]), bool(found["sparse"]), joined(spans))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Noted("", sparse=False, spans=())


class Part:
    """The state of one file. Blocking: for threads, one at a time but for ``fill``, ``write`` and ``sync``."""

    def __init__(self, file: File, folder: Path, connections: int) -> None:
        self.file = file
        self.whole = folder / file.path
        self.path = folder / f"{file.path}{PART_SUFFIX}"
        self._note = folder / NOTES / hashlib.sha256(file.path.encode()).hexdigest()
        self.note_bytes = note_bytes(file.size, connections)
        """After how many bytes of a connection a line is noted."""
        self.waiting_bytes = (file.size or 0) // LOSS
        """How much may wait to be read, of all connections together."""
        self._fd = self._note_fd = -1
        self._straight: Straight | None = None
        self._pipeline: Pipeline | None = None
        self._noting = threading.Lock()
        self._hashing = threading.Lock()
        self._buffer = memoryview(bytearray(HASH_BYTES))
        self._digest = new_digest(file)
        self.there: tuple[Span, ...] = ()
        """What is on the disk; kept by the event loop."""
        self.hashed = 0
        self.overlong = False
        self.sparse = False
        self.version = ""
        """What the source called the version that the bytes are of; empty when it said nothing."""

    @property
    def right(self) -> bool:
        """Tell whether it is whole and what its digest says."""
        return (
            not self.overlong
            and covered(self.there) == self.hashed
            and self.file.size in {None, self.hashed}
            and self._digest.hexdigest() == (self.file.sha256 or self.file.git_sha1)
        )

    @property
    def is_straight(self) -> bool:
        """Tell whether what is hashed at once goes past the page cache."""
        return self._straight is not None and self._straight.usable

    def begin(self) -> None:
        """Open what an earlier run left, and see how much of it there is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._note.parent.mkdir(parents=True, exist_ok=True)
        if self.whole.exists():
            self.whole.replace(self.path)  # it was right for an earlier list of files
            self._note.unlink(missing_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        self._straight = Straight(self.path)
        length = os.fstat(self._fd).st_size
        try:
            noted = parse_note(self._note.read_text("utf-8"))
        except (OSError, ValueError):
            noted = Noted("", sparse=False, spans=())
        self.version, self.sparse = noted.version, noted.sparse
        self.there = joined([(0, length)])
        if self.sparse:
            end = min(length, self.file.size or 0)
            self.there = joined((start, min(stop, end)) for start, stop in noted.spans)
            self._rewrite_note()

    def fill(self, lane: Lane, pipe: Pipe, limit: int) -> bool:
        """Write what a pipe gives, for a turn. Tell whether there may be more to come.

        Raises OSError, and what the pipe raises; ``lane.at`` then says how far it came all the same.
        """
        until, last = time.monotonic() + TURN_SECONDS, lane.at + len(lane.odd) + limit
        stage, more = self._staged(lane), True
        stage.put(lane.take_odd())
        while more and lane.at + len(stage.held) < last and time.monotonic() < until:
            try:
                more = self._gather(lane, stage, lane.at, last, until, pipe)
                self._hold_back(lane, stage, lane.at, more=more)
            finally:
                self._flush(lane, stage)
                stage.put(lane.take_odd())
        lane.odd = bytes(stage.held)
        return more

    def _hold_back(self, lane: Lane, stage: Stage, at: int, *, more: bool) -> None:
        """Keep a block that is not whole for the next turn.

        It would go through the page cache and lie there, while what follows is on the disk already: after a power cut the
        file would be long enough, with a hole in it.
        """
        if more and self.is_straight:
            lane.odd = stage.cut((at + len(stage.held)) % BLOCK_BYTES)

    def fill_alone(self, lane: Lane, pipe: Pipe, limit: int) -> bool:
        """As ``fill``, for the only connection that a file has: what it brings is read, hashed and written at the same time."""
        if (self.file.size or 0) < PIPELINE_BYTES_LEAST or not self._hashing.acquire(blocking=False):
            return self.fill(lane, pipe, limit)
        try:
            if lane.at == self.hashed and self.is_straight:
                return self._fill_pipeline(lane, pipe, limit)
        finally:
            self._hashing.release()
        if 0 < lane.at - self.hashed <= CATCH_UP_BYTES and frontier(self.there) >= lane.at:
            self.hash_to(lane.at)  # what an earlier run left: the next turn's bytes are in turn
        return self.fill(lane, pipe, limit)

    def _fill_pipeline(self, lane: Lane, pipe: Pipe, limit: int) -> bool:
        if not self.sparse:
            self.make_sparse()  # of writes beyond a file's end the kernel makes one after the other
        if self._pipeline is None:
            size = stage_bytes(self.file.size, self.note_bytes, PIPELINE_STAGE_BYTES_MOST)
            self._pipeline = Pipeline(size, self._write_all, self._hash_all)
        line = self._pipeline
        until, last = time.monotonic() + TURN_SECONDS, lane.at + len(lane.odd) + limit
        at, more = lane.at, True
        try:
            while more and at + len(lane.odd) < last and time.monotonic() < until:
                if line.is_full:
                    self._settle(lane, line)
                stage = line.stage(at)
                stage.put(lane.take_odd())
                try:
                    more = self._gather(lane, stage, at, last, until, pipe)
                    self._hold_back(lane, stage, at, more=more)
                finally:
                    at += line.send(at)
        finally:
            while not line.is_empty:
                self._settle(lane, line)
        return more

    def _settle(self, lane: Lane, line: Pipeline) -> None:
        lane.at += line.settle()
        self.hashed = lane.at
        if lane.at - lane.noted >= self.note_bytes:
            self.note(lane)

    def _write_all(self, piece: memoryview, at: int) -> None:
        while piece:
            count = self._put(piece, at, straight=True)
            piece, at = piece[count:], at + count

    def _hash_all(self, piece: memoryview) -> None:
        self._digest.update(piece)

    def _gather(self, lane: Lane, stage: Stage, at: int, last: int, until: float, pipe: Pipe) -> bool:
        """Read until a stage that begins at ``at`` is full, up to a place and a time. Tell whether there may be more to come."""
        while stage.room and (here := at + len(stage.held)) < last and time.monotonic() < until:
            room = STAGE_BYTES_MOST if lane.end is None else lane.end - here
            if room == 0:
                self.overlong |= lane.end == self.file.size and pipe.read_into(_ONE) > 0
                return False
            count = pipe.read_into(stage.room[: min(room, last - here)])
            if count == 0:
                return False
            stage.took(count)
        return True

    def write(self, lane: Lane, chunk: bytes | memoryview) -> None:
        """Put bytes at their place. Raises OSError; ``lane.at`` then says how far it came."""
        left = memoryview(chunk)
        stage = self._staged(lane)
        while left:
            count = min(len(left), len(stage.room))
            stage.put(left[:count])
            left = left[count:]
            self._flush(lane, stage)

    def _staged(self, lane: Lane) -> Stage:
        """Return the lane's stage, empty."""
        if lane.stage is None:
            lane.stage = Stage(stage_bytes(self.file.size, self.note_bytes))
        lane.stage.begin(lane.at)
        return lane.stage

    def _flush(self, lane: Lane, stage: Stage) -> None:
        """Write what waits. Raises OSError; ``lane.at`` then says how far it came."""
        left = stage.held
        try:
            while left:
                count = self._put(left, lane.at, straight=lane.at == self.hashed)
                self._hash_now(lane.at, left[:count])
                lane.at += count
                left = left[count:]
        finally:
            stage.begin(lane.at)
        if lane.at - lane.noted >= self.note_bytes:
            self.note(lane)

    def _put(self, piece: memoryview, at: int, *, straight: bool) -> int:
        """Write some of it; return how much. ``straight``: past the page cache. What is read back for the digest stays near."""
        if straight and self._straight is not None and self._straight.usable:
            count = self._straight.write(piece, at)
            if count:
                return count
            piece = piece[: BLOCK_BYTES - at % BLOCK_BYTES]  # up to where the next whole block begins
        return os.pwrite(self._fd, piece, at)

    def _hash_now(self, at: int, piece: memoryview) -> None:
        """Hash bytes at once if all before them are hashed: while they are near, and need not be read back."""
        if at != self.hashed or not self._hashing.acquire(blocking=False):
            return
        try:
            if at == self.hashed:
                self._digest.update(piece)
                self.hashed += len(piece)
        finally:
            self._hashing.release()

    def note(self, lane: Lane) -> None:
        """Remember what a connection has brought."""
        with self._noting:
            if self.sparse and lane.at > lane.noted:
                os.write(self._note_fd, f"{lane.noted} {lane.at}\n".encode())
                lane.noted = lane.at

    def note_version(self, version: str) -> None:
        """Remember which version it is."""
        with self._noting:
            if version and version != self.version:
                self.version = version
                self._rewrite_note()

    def make_sparse(self) -> None:
        """Give it its final size: from now on the note says what is there."""
        with self._noting:  # the first connection is at work
            self.sparse = True
            self._rewrite_note()
        os.ftruncate(self._fd, self.file.size or 0)

    def hash_to(self, end: int) -> None:
        """Read back and hash up to there: what an earlier run left, and what came before its turn."""
        while True:
            with self._hashing:
                room = min(HASH_BYTES, end - self.hashed)
                if room <= 0:
                    return
                count = os.preadv(self._fd, [self._buffer[:room]], self.hashed)
                if count == 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(self.path))
                self._digest.update(self._buffer[:count])
                self.hashed += count

    def sync(self) -> None:
        """Make durable what is written."""
        os.fdatasync(self._fd)

    def finish(self) -> None:
        """Make it durable under its own name: the bytes that were hashed, and no others behind them."""
        os.ftruncate(self._fd, self.hashed)
        os.fsync(self._fd)
        self.path.replace(self.whole)
        self._note.unlink(missing_ok=True)

    def throw_away(self) -> None:
        """Begin again with nothing."""
        os.ftruncate(self._fd, 0)
        self._close_note()
        self._note.unlink(missing_ok=True)
        self.there, self.hashed, self._digest = (), 0, new_digest(self.file)
        self.overlong, self.sparse, self.version = False, False, ""

    def close(self) -> None:
        """Let go of it; what is there stays."""
        self._close_note()
        if self._pipeline is not None:
            self._pipeline.close()
        if self._straight is not None:
            self._straight.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rewrite_note(self) -> None:
        """Write the note anew, in one step, as short as can be."""
        head = json.dumps({"version": self.version, "sparse": self.sparse})
        spans = [f"{start} {end}" for start, end in self.there] if self.sparse else []
        fresh = self._note.with_suffix(".new")
        fresh.write_text("\n".join([head, *spans, ""]), "utf-8")
        self._close_note()
        fresh.replace(self._note)
        self._note_fd = os.open(self._note, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _close_note(self) -> None:
        if self._note_fd >= 0:
            os.close(self._note_fd)
            self._note_fd = -1


def new_digest(file: File) -> Digest:
    """Return a fresh hash of the kind that the file's digest is of."""
    if file.sha256 is not None:
        return hashlib.sha256()
    # Git hashes a header with the size first.
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
