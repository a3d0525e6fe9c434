"""How far a load is, read from /proc: the one door to the engine's processes.

Two ways of reading weights, two places to look. An engine that reads shows it in ``io`` (rchar). An engine
that maps its files (safetensors, GGUF) does not: what is there of a mapping is its Rss in ``smaps``. Both
are readable without any privilege because the pod shares its process namespace and we share the uid.
"""

import os
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NAME_LENGTH = 15
"""The kernel keeps so many characters of a process's name."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the engine's processes have done so far. Bytes, and CPU time in clock ticks."""

    processes: int
    engine_pid: int
    """The engine's own process, 0 when there is none."""
    mapped_bytes: int
    read_bytes: int
    cpu_ticks: int
    storage_bytes: int = 0
    """Of what was read or mapped: what came from a disk and not from the page cache."""


def usage(process: str, weights: str, proc: Path = PROC) -> Usage:
    """Return what the engine (by process name) and its descendants have done."""
    pids = sorted(_family(process, proc))
    return Usage(
        processes=len(pids),
        engine_pid=next((pid for pid in pids if _stat(pid, proc)[0] == process[:NAME_LENGTH]), 0),
        mapped_bytes=max((_mapped(pid, weights, proc) for pid in pids), default=0),
        read_bytes=sum(_io(pid, "rchar", proc) for pid in pids),
        cpu_ticks=sum(_ticks(pid, proc) for pid in pids),
        storage_bytes=sum(_io(pid, "read_bytes", proc) for pid in pids),
    )


def kill(process: str, proc: Path = PROC) -> None:
    """End the engine and its descendants at once. Their container ends, and the kubelet starts it again."""
    for pid in list(_family(process, proc)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def total_bytes(weights: str) -> int:
    """Return the size of the weights: every regular file that is not hidden."""
    total = 0
    for folder, folders, files in os.walk(weights):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                total += path.stat().st_size
    return total


def _family(process: str, proc: Path) -> Iterator[int]:
    parents: dict[int, int] = {}
    roots: set[int] = set()
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        name, fields = _stat(int(folder.name), proc)
        if not fields:
            continue
        parents[int(folder.name)] = int(fields[1])
        if name == process[:NAME_LENGTH]:
            roots.add(int(folder.name))
    for pid in parents:
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in roots:
            ancestor = parents.get(ancestor)
        if ancestor is not None:
            yield pid


def _stat(pid: int, proc: Path) -> tuple[str, list[str]]:
    """Return a process's name and its fields from `state` on (proc(5)); no fields when it is gone."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return "", []
    start, end = text.find("("), text.rfind(")")
    return text[start + 1 : end], text[end + 2 :].split()


def _ticks(pid: int, proc: Path) -> int:
    _, fields = _stat(pid, proc)
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _io(pid: int, field: str, proc: Path) -> int:
    """Return a field of a process's I/O (proc_pid_io(5)). What a fault of a mapping fetched is in read_bytes as well."""
    try:
        lines = (proc / str(pid) / "io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def _mapped(pid: int, weights: str, proc: Path) -> int:
    """Return how many bytes of the weights' mappings are in memory."""
    total, ours = 0, False
    try:
        with (proc / str(pid) / "smaps").open() as lines:
            for line in lines:
                first = line.split(maxsplit=1)[0]
                if not first.endswith(":"):
                    ours = f" {weights}/" in line
                elif ours and first == "Rss:":
                    total += int(line.split()[1]) * 1024
    except OSError:
        return total
    return total


WINDOW_SECONDS = 10.0
READ_BYTES = 65_536 * WINDOW_SECONDS
"""An engine that waits reads 2 to 3 KB a second for its own metrics (Triton 2.51, measured)."""
CPU_TICKS = 2 * WINDOW_SECONDS
"""Two per cent of a core, at 100 ticks a second. An engine that waits takes 0.2 per cent."""


class Signs:
    """Counts what is evidence of progress: more of the weights or of GPU memory, or work beyond an idle engine's noise.

    Work is what was read, and CPU time, within the last ``WINDOW_SECONDS``: a burst after a long pause counts.
    """

    def __init__(self) -> None:
        self.count = 0
        self._looks: deque[tuple[float, Usage]] = deque()
        self._mapped = 0
        self._gpu = 0.0

    def saw(self, now: float, current: Usage, gpu_bytes: float) -> int:
        """Take in one look at the processes; return how many signs there were."""
        if self._looks and self._looks[-1][1].engine_pid != current.engine_pid:
            self._looks.clear()
            self._mapped, self._gpu = 0, 0.0
            self.count += 1
        while self._looks and now - self._looks[0][0] > WINDOW_SECONDS:
            self._looks.popleft()
        before = self._looks[0][1] if self._looks else current
        read, ticks = current.read_bytes - before.read_bytes, current.cpu_ticks - before.cpu_ticks
        worked = read > READ_BYTES or ticks > CPU_TICKS
        if worked or current.mapped_bytes > self._mapped or gpu_bytes > self._gpu:
            self.count += 1
            self._looks.clear()
        self._mapped, self._gpu = current.mapped_bytes, gpu_bytes
        self._looks.append((now, current))
        return self.count


class LoadProgress:
    """Bytes of one load: never back, never past the total, with a smoothed speed."""

    SMOOTHING = 0.3

    def __init__(self, total: int, started: float, base: Usage) -> None:
        self.total = total
        self.started = started
        self.bytes_done = 0
        self.bytes_per_second = 0.0
        self.storage_bytes = 0
        self._base = base
        self._last = started

    def update(self, now: float, current: Usage) -> None:
        """Take in one look at the processes."""
        read = current.read_bytes - self._base.read_bytes
        self.storage_bytes = max(self.storage_bytes, current.storage_bytes - self._base.storage_bytes)
        done = min(self.total, max(self.bytes_done, current.mapped_bytes, read))
        elapsed = now - self._last
        if elapsed > 0:
            speed = (done - self.bytes_done) / elapsed
            first = self.bytes_per_second == 0.0
            weight = 1.0 if first else self.SMOOTHING
            self.bytes_per_second += weight * (speed - self.bytes_per_second)
        self.bytes_done, self._last = done, now

    @property
    def percent(self) -> int:
        """Share of the bytes that are loaded."""
        return 100 * self.bytes_done // self.total if self.total else 0

    @property
    def remaining_seconds(self) -> float | None:
        """Time left at the average speed so far; None until there is something to go by."""
        elapsed = self._last - self.started
        if self.bytes_done <= 0 or elapsed <= 0:
            return None
        return (self.total - self.bytes_done) * elapsed / self.bytes_done
