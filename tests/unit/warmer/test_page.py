"""Weights are read into memory that is there for them, and nobody removes them meanwhile."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from preheat_warmer import page as paging
from preheat_warmer.config import PageConfig
from preheat_warmer.errors import Hopeless, Passing, Reason, WarmerError
from preheat_warmer.manifest import File, Manifest
from preheat_warmer.memory import available_bytes, container_bytes
from preheat_warmer.page import page
from preheat_warmer.progress import Progress
from preheat_warmer.publish import publish

MIB = 1 << 20
SIZES = {"a.safetensors": 20 * MIB + 5, "config.json": 3, "empty.json": 0, "z.gguf": 9 * MIB}
TOTAL = sum(SIZES.values())


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Publish weights that are on the disk and not in memory."""
    (tmp_path / ".partial").mkdir()
    for name, size in SIZES.items():
        (tmp_path / ".partial" / name).write_bytes(os.urandom(size))
    publish(tmp_path, Manifest(tuple(File(n, s, "0" * 64) for n, s in SIZES.items())), "http://x/", [])
    forget(tmp_path)
    return tmp_path


def forget(destination: Path) -> None:
    for name in SIZES:
        with (destination / "model" / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(destination: Path, **more: Any) -> dict[str, Any]:
    config = {"room_bytes": None, "parallelism": 2, "node_name": "", "listen_port": 0, **more}
    return page(PageConfig(destination, **config), Progress())


def refused(destination: Path, reason: Reason, kind: type[WarmerError] = Hopeless) -> str:
    with pytest.raises(kind) as caught:
        run(destination)
    assert caught.value.reason is reason
    return str(caught.value)


def test_all_is_in_memory_afterwards(weights: Path) -> None:
    assert run(weights) == {
        "state": "Paged", "residentBytes": TOTAL, "residentBytesBefore": 0, "bytesRead": TOTAL, "bytesTotal": TOTAL,
    }  # fmt: skip
    assert run(weights)["residentBytesBefore"] == TOTAL


def test_no_more_is_read_than_there_is_room_for(weights: Path) -> None:
    room = 20 * MIB + 5 + 3 + MIB
    words = run(weights, room_bytes=room)
    assert (words["residentBytes"], words["bytesRead"], words["bytesTotal"]) == (room, room, TOTAL)
    assert run(weights, room_bytes=0)["bytesRead"] == 0


def test_without_memory_for_it_nothing_is_read(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "available_bytes", lambda: TOTAL - 1)
    message = refused(weights, Reason.NO_MEMORY)
    assert f"{TOTAL:,}" in message
    assert f"{TOTAL - 1:,}" in message
    monkeypatch.setattr(paging, "available_bytes", lambda: TOTAL)
    assert run(weights)["residentBytesBefore"] == 0
    monkeypatch.setattr(paging, "available_bytes", lambda: 0)
    assert run(weights)["residentBytes"] == TOTAL  # what is there needs nothing


def test_to_a_stranger_the_kernel_does_not_tell(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would say that everything is there. It is read all the same, and nothing is claimed."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    words = run(weights)
    assert words["bytesRead"] == TOTAL
    assert (words["residentBytes"], words["residentBytesBefore"]) == (None, None)


def test_nobody_removes_it_meanwhile(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (weights / "model/.preheat-manifest.json").open("rb") as manifest:

        def look() -> int:
            with pytest.raises(BlockingIOError):
                fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return TOTAL

        monkeypatch.setattr(paging, "available_bytes", look)
        run(weights)
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert "removed" in refused(weights, Reason.NOT_FOUND, Passing)


def test_without_whole_weights_there_is_nothing_to_read(weights: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", Reason.NOT_FOUND)
    os.truncate(weights / "model/z.gguf", 1)
    refused(weights, Reason.NOT_FOUND)


def test_sigterm_ends_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return TOTAL

    monkeypatch.setattr(paging, "available_bytes", stopped)
    refused(weights, Reason.STOPPED, Passing)


MEMINFO = "MemTotal: 1000000 kB\nMemFree: 1 kB\nMemAvailable: 500000 kB\n"
MACHINE = 450_000 * 1024


def a_cgroup(folder: Path, limit: str, now: int, files: int, *, old: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{now}\n")
    total = "total_" if old else ""
    (folder / "memory.stat").write_text(
        f"anon 7\n{total}inactive_file {files}\n{total}active_file 1\ninactive_file {files}\nactive_file 1\n"
    )


def available(tmp_path: Path, membership: str) -> int:
    (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "proc/self/cgroup").write_text(membership)
    return available_bytes(tmp_path / "proc", tmp_path / "cgroup")


def test_the_tightest_limit_counts(tmp_path: Path) -> None:
    assert available(tmp_path, "0::/\n") == MACHINE
    a_cgroup(tmp_path / "cgroup", "max", 0, 0)
    assert available(tmp_path, "0::/\n") == MACHINE
    a_cgroup(tmp_path / "cgroup", "1000", 400, 100)
    assert available(tmp_path, "0::/\n") == 701
    a_cgroup(tmp_path / "cgroup/outer", "600", 500, 0)
    a_cgroup(tmp_path / "cgroup/outer/inner", "9000", 0, 0)
    assert available(tmp_path, "0::/outer/inner\n") == 101
    a_cgroup(tmp_path / "cgroup/outer", "600", 700, 0)
    assert available(tmp_path, "0::/outer/inner\n") == 0


def test_cgroups_of_the_first_version(tmp_path: Path) -> None:
    a_cgroup(tmp_path / "cgroup/memory/pod", "9223372036854771712", 5, 0, old=True)
    assert available(tmp_path, "4:memory:/pod\n0::/\n1:cpu:/other\n") == MACHINE
    a_cgroup(tmp_path / "cgroup/memory/pod", "1000", 400, 100, old=True)
    assert available(tmp_path, "4:memory:/pod\n0::/\n1:cpu:/other\n") == 701
    assert container_bytes(tmp_path / "cgroup/other") is None
