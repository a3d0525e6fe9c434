"""One tool, one case: seconds, processor, memory. And what the machine itself can do, measured beside it."""

import hashlib
import http.client
import mmap
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from typing_extensions import override

from e2e.bench.fetch.server import BLOCK_BYTES, Served
from e2e.bench.fetch.tools import Tool, base_environment, environment_of

Item = TypeVar("Item")

CONNECTIONS = 4
READ_BYTES = 1 << 20
WRITE_BYTES = 512 << 10
"""What was fastest, through the page cache and past it: more at once leaves the processor's caches."""
TOGETHER = "limit: all three"
WATCH_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """What a run cost. ``durable_seconds``: until the last byte is on the disk, not in the page cache alone."""

    tool: str
    case: str
    round: int
    seconds: float
    durable_seconds: float
    bytes: int
    cpu_seconds: float
    peak_memory_bytes: int
    problem: str = ""

    @property
    def speed(self) -> float:
        """Bytes per second, durable."""
        return self.bytes / self.durable_seconds


def run(tool: Tool, case: str, number: int, served: Served, work: Path) -> Run:
    """Download everything with a tool into an empty folder."""
    environment = environment_of(tool)
    folder = Path(tempfile.mkdtemp(dir=work))
    call = tool.call(served, folder, environment)
    log = work / f"{tool.name.replace(' ', '-').replace(',', '')}.log"
    os.sync()
    try:
        with log.open("ab") as out:
            started = time.monotonic()
            process = subprocess.Popen(
                call.command, env={**base_environment(), **call.environment}, stdout=out, stderr=out
            )
            peak = _Peak(process.pid)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        found = [path for path in folder.rglob("*.safetensors") if path.is_file() and not path.is_symlink()]
        for path in found:
            _sync(path)
        durable = time.monotonic() - started
        there = sum(path.stat().st_size for path in found)
        problem = (
            "" if process.returncode == 0 and there == served.total else _last_line(log, process.returncode)
        )
        return Run(
            tool.name, case, number, seconds, durable, there, used.ru_utime + used.ru_stime,
            peak.bytes, problem,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)


class _Peak(threading.Thread):
    """Watches a process's high-water mark. (Of wait4's own, what the parent had before exec is part.)"""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.bytes = 0
        self.start()

    @override
    def run(self) -> None:
        with suppress(OSError, ValueError, IndexError):  # it ended
            while True:
                kilobytes = int(self._status.read_text().partition("VmHWM:")[2].split()[0])
                self.bytes = max(self.bytes, kilobytes * 1024)
                time.sleep(WATCH_SECONDS)


def baselines(case: str, number: int, served: Served, work: Path) -> list[Run]:
    """Return what loopback, disk and sha256 take for the same bytes, each alone, and all three by one simple program."""
    return [
        _timed("loopback", case, number, served, lambda: _drain(served)),
        _timed("disk, page cache", case, number, served, lambda: _write(served, work, 0)),
        _timed("disk", case, number, served, lambda: _write(served, work, os.O_DIRECT)),
        _timed("sha256", case, number, served, lambda: _hash(served)),
        _timed("all three", case, number, served, lambda: _do_all(served, work)),
    ]


def _timed(name: str, case: str, number: int, served: Served, work: Callable[[], None]) -> Run:
    os.sync()
    started, used = time.monotonic(), time.process_time()
    work()
    seconds = time.monotonic() - started
    return Run(f"limit: {name}", case, number, seconds, seconds, served.total, time.process_time() - used, 0)


def _drain(served: Served) -> None:
    """Read everything over as many connections as the warmer has, and keep nothing."""
    _in_threads(lambda piece: _read(served.url, *piece), _pieces(served))


def _pieces(served: Served) -> list[tuple[str, int, int]]:
    """Return names, first and last bytes (excluded): what a connection each may fetch."""
    parts = max(1, CONNECTIONS // len(served.files))
    found: list[tuple[str, int, int]] = []
    for name, (size, _) in served.files.items():
        edges = [size * part // parts // WRITE_BYTES * WRITE_BYTES for part in range(parts)]
        found += [(name, start, end) for start, end in pairwise([*edges, size])]
    return found


def _read(
    url: str, name: str, start: int, end: int, take: Callable[[memoryview], None] | None = None
) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", f"/m/{name}", headers={"Range": f"bytes={start}-{end - 1}"})
    answer = connection.getresponse()
    with mmap.mmap(-1, WRITE_BYTES if take else READ_BYTES) as memory, memoryview(memory) as view:
        while count := answer.readinto(view):
            if take:
                take(view[:count])
    connection.close()


def _write(served: Served, work: Path, flags: int) -> None:
    """Write files of the same sizes, and wait until they are on the disk."""

    def one(entry: tuple[str, tuple[int, str]]) -> None:
        name, (size, _) = entry
        with mmap.mmap(-1, WRITE_BYTES) as memory, memoryview(memory) as view:
            view[:] = os.urandom(WRITE_BYTES)
            with _opened(folder / name, flags) as out:
                for start in range(0, size, WRITE_BYTES):
                    os.pwrite(out, view[: min(WRITE_BYTES, size - start)], start)
                os.fsync(out)

    with tempfile.TemporaryDirectory(dir=work) as folder_name:
        folder = Path(folder_name)
        _in_threads(one, list(served.files.items()))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        yield number
    finally:
        os.close(number)


def _do_all(served: Served, work: Path) -> None:
    """Fetch, hash and write past the page cache what each connection brings: no file's own digest, no resuming, no care."""

    def one(piece: tuple[str, int, int]) -> None:
        name, at, end = piece
        digest = hashlib.sha256()

        def take(view: memoryview) -> None:
            nonlocal at
            digest.update(view)
            at += os.pwrite(out, view, at)

        with _opened(folder / name, os.O_DIRECT) as out:
            _read(served.url, name, at, end, take)
            os.fsync(out)

    with tempfile.TemporaryDirectory(dir=work) as folder_name:
        folder = Path(folder_name)
        _in_threads(one, _pieces(served))


def _hash(served: Served) -> None:
    """Hash as many bytes from memory, a file at a time on each core."""
    noise = os.urandom(BLOCK_BYTES)

    def one(size: int) -> None:
        digest = hashlib.sha256()
        for _ in range(0, size, BLOCK_BYTES):
            digest.update(noise)

    _in_threads(one, [size for size, _ in served.files.values()])


def _in_threads(work: Callable[[Item], None], items: Sequence[Item]) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for _ in threads.map(work, items):
            pass


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _last_line(log: Path, code: int) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return f"exit code {code}: {lines[-1][:200] if lines else 'no word'}"
