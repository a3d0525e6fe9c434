"""Brings one file to the disk: resumed where it stopped, hashed as it comes, right or not there at all.

One file may come over several connections: each fetches a piece and puts it at its place (``part.py``), and what is
there from the start on without a gap is hashed meanwhile. How many connections a file gets depends on how many
files are left: while there are as many files as connections, each gets one.

After a kill the bytes that are there are hashed again, not fetched again: a whole file as much as a half,
because the list of files may be another one by now. A file whose digest is wrong is thrown away and
fetched once more from the start; wrong twice is the source's fault.
"""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason
from preheat_warmer.manifest import File
from preheat_warmer.part import NOTE_BYTES_LEAST, Lane, Part
from preheat_warmer.progress import Progress
from preheat_warmer.publish import SPARE_BYTES, free_bytes
from preheat_warmer.sources.base import Pipe, Source, Transfer
from preheat_warmer.spans import covered, frontier, joined, next_piece
from preheat_warmer.threads import in_thread

BACKOFF_SECONDS = (0.5, 0.5, 1.0, 3.0, 10.0)
FRUITLESS_AT_MOST = 5
"""Tries in a row that bring the file no further before the run ends (and the Job starts another)."""
TURN_BYTES = 32 << 20
"""What a thread reads and writes before it reports."""
QUICK_BYTES_PER_SECOND = 400e6
"""A connection that brings so much is left alone: the digest of one file cannot follow several of them."""
SLOW_TURNS = 2
"""After so many slower turns, one after the other, more connections are opened, for the rest of the file."""
HASH_TURN_BYTES = 32 << 20
SYNC_EVERY_BYTES = 64 << 20
"""The disk begins to write long before the kernel would have it: the last fsync has little left to do."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write says that finds no room: disk full, quota reached, file larger than allowed."""


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
        self.turn_bytes = TURN_BYTES if bytes_per_second is None else _turn_bytes(bytes_per_second)
        """How much may be taken at once."""

    async def take(self, count: int) -> None:
        """Wait until this many bytes may pass."""
        wait = self.owed_seconds(count)
        if wait > 0:
            await self._sleep(wait)

    def owed_seconds(self, count: int) -> float:
        """Let this many bytes pass; return how long to wait before the next."""
        if self._limit is None:
            return 0.0
        now = self._clock()
        self._free_at = max(self._free_at, now - 1.0) + count / self._limit
        return max(0.0, self._free_at - now)


def _turn_bytes(bytes_per_second: float) -> int:
    """Return a tenth of a second's worth: the speed is even, and not all of a second comes at once."""
    return min(max(int(bytes_per_second / 10), NOTE_BYTES_LEAST), TURN_BYTES)


class Pulse:
    """Wakes everybody who waits at that moment."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        """Something has changed."""
        before, self._event = self._event, asyncio.Event()
        before.set()

    async def wait(self) -> None:
        """Wait for the next change. No change is missed between a look and a wait without an await between."""
        await self._event.wait()


class _Unranged(Exception):  # noqa: N818 - private
    """The source sends everything, whatever part it is asked for."""


class Fetcher:
    """Fetches files of one source into one folder, over so many connections in all."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        progress: Progress,
        pace: Pace,
        connections: int = 1,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        room_bytes: int | None = None,
    ) -> None:
        self.source = source
        self.folder = folder
        self.progress = progress
        self.pace = pace
        self.connections = connections
        self.sleep = sleep
        self.room_bytes = room_bytes
        self.comes_from_another: Callable[[File], bool] = lambda _file: False
        """Told of a file that came whole and wrong; answers whether another would send it the next time."""

    async def fetch(self, file: File) -> None:
        """Make the file be there, whole, right and durable. Raises Hopeless or Passing."""
        part = Part(file, self.folder, self.connections)
        try:
            await in_thread(part.begin)
            await _Download(part, self).run()
        except OSError as error:
            raise _disk_problem(error, file.path, self.folder) from error
        finally:
            part.close()

    @property
    def turn_bytes(self) -> int:
        """Return how much a connection may bring before it asks again: up to the first byte that has no room."""
        if self.room_bytes is None:
            return self.pace.turn_bytes
        return min(self.pace.turn_bytes, max(0, self.room_bytes - self.progress.bytes_done) + 1)

    def check_room(self) -> None:
        """Raise Hopeless once there is more than may be: not every source tells a size before."""
        if self.room_bytes is not None and self.progress.bytes_done > self.room_bytes:
            raise over_budget(f"more than {self.room_bytes:,}", self.room_bytes)

    @property
    def share(self) -> int:
        """Return how many connections a file may have now: those of files that are done go to the others."""
        files_left = self.progress.files_total - self.progress.files_done
        return max(1, self.connections // max(1, files_left))


class _Download:
    """One file: connections that fetch, beside them the digest and the disk that follow."""

    def __init__(self, part: Part, means: Fetcher) -> None:
        self._part = part
        self._means = means
        self._progress = means.progress
        self._changed = Pulse()
        self._hashing = asyncio.Lock()
        self._lanes: dict[asyncio.Task[None], Lane] = {}
        self._opened = False
        """The source has answered: it is known which version all pieces must be of."""
        self._ranged = True
        self._slow_turns = 0
        self._ended = False
        self._unsynced = 0

    async def run(self) -> None:
        """Fetch until it is right. Raises Hopeless, Passing or OSError."""
        await self._look()
        wrong, part = 0, self._part
        while not part.right:
            from_zero = not part.there
            await self._complete()
            if part.right:
                break
            # Old bytes on our own disk are not the source's fault: they cost no try.
            wrong += from_zero and not self._means.comes_from_another(part.file)
            await self._throw_away()
            if wrong == 2:
                raise Hopeless(
                    Reason.DIGEST_MISMATCH,
                    f"{part.file.path} is not what its digest says, twice: the source holds other bytes than the "
                    "manifest names. Correct the digest, or the file at the source",
                )
        await in_thread(part.finish)

    async def _look(self) -> None:
        """Count what an earlier run left. If that is all there is, hash it: what cannot be of this file goes."""
        part = self._part
        self._progress.add(covered(part.there), fetched=False)
        size = part.file.size
        if size is None or covered(part.there) >= size:
            await self._hash_there()
            if not part.right and size is not None:
                await self._throw_away()

    async def _complete(self) -> None:
        """Fetch until the last byte is there, right or wrong. Raises what stopped it after too many tries."""
        part = self._part
        fruitless, furthest = 0, covered(part.there)
        while True:
            self._ended = self._opened = False
            try:
                await _together(self._fetch_missing(), self._hash_along(), self._sync_along())
            except _Unranged:
                self._ranged = False
                await self._throw_away()
                continue
            except Changed:
                await self._throw_away()
            else:
                return
            problem = Passing(
                Reason.SOURCE_UNAVAILABLE, f"{part.file.path} changed at the source while it was fetched"
            )
            # Further than ever before in this run: a file that starts over again and again does not count.
            fruitless = 0 if covered(part.there) > furthest else fruitless + 1
            furthest = max(furthest, covered(part.there))
            await self._pause(problem, fruitless)

    async def _pause(self, problem: Passing, fruitless: int) -> None:
        """Wait before the next try, or raise the problem when there were enough."""
        if fruitless >= FRUITLESS_AT_MOST:
            raise problem
        self._progress.retries += 1
        wait = problem.retry_after_seconds
        await self._means.sleep(BACKOFF_SECONDS[fruitless] if wait is None else wait)

    async def _fetch_missing(self) -> None:
        """Keep as many connections at work as this file may have, until nothing is missing."""
        try:
            while True:
                for task in [task for task in self._lanes if task.done()]:
                    del self._lanes[task]
                    task.result()
                while len(self._lanes) < self._share and (lane := self._next_lane()) is not None:
                    if self._lanes and not self._part.sparse:
                        await in_thread(self._part.make_sparse)
                        continue  # meanwhile the source may have shown that it knows no ranges
                    task = asyncio.create_task(self._run(lane))
                    task.add_done_callback(lambda _: self._changed.beat())
                    self._lanes[task] = lane
                if not self._lanes:
                    break
                if not any(task.done() for task in self._lanes):
                    await self._changed.wait()
        finally:
            await _end(self._lanes)
            self._lanes.clear()
        self._ended = True
        self._changed.beat()

    @property
    def _share(self) -> int:
        """Return how many connections it may have: one until the source has said which version it sends."""
        together = self._opened and self._ranged and self._part.file.size is not None
        return self._means.share if together and not self._is_quick else 1

    @property
    def _is_quick(self) -> bool:
        """Tell whether one connection is as good as several, as far as is known."""
        return self._slow_turns < SLOW_TURNS and self._part.is_straight

    @property
    def _is_alone(self) -> bool:
        """Tell whether a connection has the file for itself though it may have several."""
        return self._is_quick and self._means.share > 1

    def _next_lane(self) -> Lane | None:
        part, size = self._part, self._part.file.size
        at = frontier(part.there)
        if size is None:
            return None if self._opened else Lane(at, None)
        if not self._ranged:
            return None if at >= size or self._lanes else Lane(at, size)
        claimed = [(lane.start, lane.end or size) for lane in self._lanes.values()]
        piece = next_piece(part.there, claimed, size, self._share)
        return piece and Lane(*piece)

    async def _run(self, lane: Lane) -> None:
        """Fetch one piece, whatever it takes. Raises what stopped it after too many tries."""
        part = self._part
        fruitless, furthest = 0, covered(part.there)
        while True:
            try:
                if await self._transfer(lane):
                    return
                problem = Passing(
                    Reason.SOURCE_UNAVAILABLE,
                    f"{part.file.path}: the answer ended early, at {lane.at:,} bytes",
                )
            except Passing as error:
                if error.reason is not Reason.SOURCE_UNAVAILABLE:
                    raise
                problem = error
            # As long as any connection of the file gets on, a refused one may ask again.
            fruitless = 0 if covered(part.there) > furthest else fruitless + 1
            furthest = max(furthest, covered(part.there))
            await self._pause(problem, fruitless)

    async def _transfer(self, lane: Lane) -> bool:
        """Write what the source sends; tell whether that was all of the piece."""
        part = self._part
        # The last piece is asked for without an end: a source that has more than was announced is noticed.
        end = None if lane.end == part.file.size else lane.end
        async with self._means.source.open(part.file, lane.at, part.version, end) as transfer:
            await self._agree(lane, transfer)
            lane.from_peer = transfer.from_peer
            try:
                if transfer.pipe is None:
                    await self._pour(lane, transfer.chunks)
                else:
                    await self._fill(lane, transfer.pipe)
            finally:
                await in_thread(partial(part.note, lane))
            wanted = lane.end if lane.end is not None else transfer.total
        return wanted is None or lane.at >= wanted

    async def _agree(self, lane: Lane, transfer: Transfer) -> None:
        """Make sure that what comes fits to what is there. Raises Changed, _Unranged or Passing."""
        part = self._part
        other = bool(part.there and part.version and transfer.version and transfer.version != part.version)
        if transfer.ranged and transfer.offset == lane.at and not other:
            pass
        elif transfer.offset != 0:
            raise Changed(part.file.path)
        elif len(self._lanes) > 1:
            raise Changed(part.file.path) if other else _Unranged
        else:
            self._ranged = False
            await self._throw_away()
            lane.start, lane.end, lane.at, lane.noted = 0, part.file.size, 0, 0
        await in_thread(partial(part.note_version, transfer.version))
        self._opened = True
        self._changed.beat()

    async def _fill(self, lane: Lane, pipe: Pipe) -> None:
        """Let a thread read and write, a turn at a time."""
        # Once, while little is under way: what comes into a buffer that was made shorter is dropped, and sent again late.
        pipe.wait_short(self._part.waiting_bytes if self._is_alone else self._part.note_bytes)
        more = True
        while more:
            before, began, alone = lane.at, time.monotonic(), self._is_alone
            work = self._part.fill_alone if alone else self._part.fill
            turn = partial(work, lane, pipe, self._means.turn_bytes)
            try:
                more = await in_thread(turn, pipe.break_off)
            finally:
                self._took(lane, before)
            if alone and more:
                quick = lane.at - before >= QUICK_BYTES_PER_SECOND * (time.monotonic() - began)
                self._slow_turns = 0 if quick else self._slow_turns + 1
            await self._means.pace.take(lane.at - before)

    async def _pour(self, lane: Lane, chunks: AsyncIterator[bytes]) -> None:
        """Write chunk by chunk."""
        self._slow_turns = SLOW_TURNS
        self._changed.beat()
        async for chunk in chunks:
            room = len(chunk) if lane.end is None else lane.end - lane.at
            if len(chunk) > room and lane.end == self._part.file.size:
                self._part.overlong = True
                return
            before = lane.at
            try:
                await in_thread(partial(self._part.write, lane, chunk[:room]))
            finally:
                self._took(lane, before)
            await self._means.pace.take(lane.at - before)
            if len(chunk) > room:
                return

    def _took(self, lane: Lane, before: int) -> None:
        if lane.at == before:
            return
        self._part.there = joined(self._part.there, (before, lane.at))
        self._progress.add(lane.at - before, fetched=True, from_peer=lane.from_peer)
        self._unsynced += lane.at - before
        self._changed.beat()
        self._means.check_room()

    async def _hash_along(self) -> None:
        """Hash what is there without a gap, until all is."""
        while True:
            await self._hash_there()
            if self._ended:
                return
            await self._changed.wait()

    async def _hash_there(self) -> None:
        part = self._part
        while part.hashed < frontier(part.there):
            async with self._hashing:
                end = min(frontier(part.there), part.hashed + HASH_TURN_BYTES)
                await in_thread(partial(part.hash_to, end))

    async def _sync_along(self) -> None:
        """Let the disk write while more is coming, and stop before it is full: not every source tells a size."""
        while not self._ended:
            if self._unsynced < SYNC_EVERY_BYTES:
                await self._changed.wait()
                continue
            self._unsynced = 0
            await in_thread(self._part.sync)
            if free_bytes(self._means.folder) < SPARE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._part.path))

    async def _throw_away(self) -> None:
        async with self._hashing:
            self._progress.take_back(covered(self._part.there))
            await in_thread(self._part.throw_away)


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until they end; when one fails, end the others and raise its problem."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from problems


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their ends."""
    there = list(tasks)
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)


def over_budget(needed: str, room_bytes: int) -> Hopeless:
    """Return the refusal of weights that would take more than the budget leaves them."""
    return Hopeless(
        Reason.OVER_BUDGET,
        f"the weights take {needed} bytes, the budget leaves {room_bytes:,} for them on this node: raise the budget "
        "of the node or the namespace, or delete caches that nobody needs",
    )


def _disk_problem(error: OSError, path: str, folder: Path) -> Passing:
    if error.errno in NO_ROOM:
        return Passing(
            Reason.DISK_FULL,
            f"{path}: {error.strerror}, {free_bytes(folder):,} bytes are free: free space or take another node",
        )
    return Passing(
        Reason.DISK_ERROR, f"{path}: {error.strerror}: look at the node's disk and the volume's rights"
    )
