"""Reads published weights into the page cache, so that the load that comes next waits for no disk.

Nothing is held: the kernel drops pages when it needs the memory, and they outlive this process. They are charged to the
cgroup of whoever reads them first, so they count against this container's memory limit and not against the engine's.
"""

import ctypes
import fcntl
import mmap
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from preheat_warmer.config import PageConfig
from preheat_warmer.errors import Hopeless, Passing, Reason
from preheat_warmer.memory import available_bytes
from preheat_warmer.progress import Progress
from preheat_warmer.publish import MANIFEST, PUBLISHED, read_published
from preheat_warmer.server import serve
from preheat_warmer.spans import Span

BLOCK_BYTES = 8 << 20
WINDOW_BYTES = 1 << 30
"""How much is asked about at once: the answer has a byte for each page."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, open, and how much of it from its start on is to be read."""

    descriptor: int
    length: int


def page(config: PageConfig, progress: Progress) -> dict[str, Any]:
    """Read the weights, or as much as the room allows; return the last words. Raises Hopeless or Passing."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(config.listen_port, progress)
    with ExitStack() as held:
        files, total = _open(config, held)
        wanted = within(files, config.room_bytes)
        progress.files_total, progress.bytes_total = len(wanted), sum(file.length for file in wanted)
        progress.state = "Paging"
        before = [resident_bytes(file) for file in wanted]
        check_memory(progress.bytes_total, sum(count or 0 for count in before), available_bytes())
        _read_all(wanted, config.parallelism, progress, stop)
        after = [resident_bytes(file) for file in wanted]
    progress.state = "Paged"
    return {
        "state": "Paged",
        "residentBytes": _sum(after),
        "residentBytesBefore": _sum(before),
        "bytesRead": progress.bytes_done,
        "bytesTotal": total,
    }


def _open(config: PageConfig, held: ExitStack) -> tuple[list[Wanted], int]:
    """Open all files and hold the manifest's lock, so that nobody removes them meanwhile; return the sum of sizes too."""
    folder = config.destination / PUBLISHED
    try:
        fcntl.flock(held.enter_context((folder / MANIFEST).open("rb")), fcntl.LOCK_SH | fcntl.LOCK_NB)
        manifest = read_published(config.destination)
        if manifest is None:
            raise FileNotFoundError
        files = []
        for entry in manifest["files"]:
            descriptor = held.enter_context((folder / entry["path"]).open("rb", buffering=0)).fileno()
            files.append(Wanted(descriptor, int(entry["sizeBytes"])))
    except BlockingIOError as error:
        raise Passing(Reason.NOT_FOUND, f"the weights in {folder} are about to be removed") from error
    except OSError as error:
        raise Hopeless(
            Reason.NOT_FOUND,
            f"no whole weights are published in {folder}: nothing can be read ahead of a load",
        ) from error
    return files, sum(file.length for file in files)


def within(files: Sequence[Wanted], room_bytes: int | None) -> list[Wanted]:
    """Return as much of the files, in order, as there is room for: a load reads them in that order too."""
    left = sum(file.length for file in files) if room_bytes is None else room_bytes
    found = []
    for file in files:
        length = min(file.length, left)
        left -= length
        if length > 0:
            found.append(Wanted(file.descriptor, length))
    return found


def check_memory(wanted_bytes: int, resident_bytes: int, free_bytes: int) -> None:
    """Refuse to read what could only push out other pages, or its own. Raises Hopeless with both numbers."""
    needed = wanted_bytes - resident_bytes
    if needed > free_bytes:
        raise Hopeless(
            Reason.NO_MEMORY,
            f"{needed:,} bytes of weights are not in memory yet, and {free_bytes:,} bytes are available for them: give "
            "the pod that reads them a higher memory limit, take a node with more memory, or lower roomBytes",
        )


def resident_bytes(file: Wanted) -> int | None:
    """Return how much of it is in the page cache; None where the kernel does not tell.

    It tells the owner, and whoever may write. To anybody else it says that everything is there.
    """
    stat = os.fstat(file.descriptor)
    if stat.st_uid != os.geteuid() and os.geteuid() != 0:
        return None
    pages = sum(
        _resident_pages(file.descriptor, start, end) for start, end in _windows(file.length, WINDOW_BYTES)
    )
    return min(pages * mmap.PAGESIZE, file.length)


def _resident_pages(descriptor: int, start: int, end: int) -> int:
    answer = ctypes.create_string_buffer(-(-(end - start) // mmap.PAGESIZE))
    address = _LIBC.mmap(None, end - start, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        if _LIBC.mincore(address, end - start, answer):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        _LIBC.munmap(address, end - start)
    return len(answer.raw) - answer.raw.count(0)


def _windows(length: int, most: int) -> Iterator[Span]:
    return ((start, min(start + most, length)) for start in range(0, length, most))


def _read_all(files: Sequence[Wanted], threads: int, progress: Progress, stop: threading.Event) -> None:
    """Read block by block, several at once. The advice comes one block ahead: it alone reads less than it is asked to."""
    counting = threading.Lock()
    buffers = threading.local()

    def one(work: tuple[Wanted, Span]) -> None:
        file, (start, end) = work
        if stop.is_set():
            return
        if not hasattr(buffers, "own"):
            buffers.own = memoryview(bytearray(BLOCK_BYTES))
        os.posix_fadvise(file.descriptor, end, BLOCK_BYTES, os.POSIX_FADV_WILLNEED)
        at = start
        while at < end and (count := os.preadv(file.descriptor, [buffers.own[: end - at]], at)):
            at += count
        with counting:
            progress.add(at - start, fetched=True)

    work = [(file, span) for file in files for span in _windows(file.length, BLOCK_BYTES)]
    try:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(one, work):
                pass
    except OSError as error:
        raise Passing(Reason.DISK_ERROR, f"{error.strerror}: look at the node's disk") from error
    if stop.is_set():
        raise Passing(Reason.STOPPED, "stopped; what was read stays in the page cache for a while")


def _sum(counts: Sequence[int | None]) -> int | None:
    """Return the sum, None when a part of it is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
