"""What is not what its digest says is found, and the page cache is left as it was."""

import ctypes
import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer import verify
from preheat_warmer.errors import Passing, Reason
from preheat_warmer.fetch import Pace
from preheat_warmer.folder import open_folder
from preheat_warmer.manifest import File
from preheat_warmer.progress import Progress
from preheat_warmer.verify import PAGE_BYTES, Verifier

MIB = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[int]:
    folder = open_folder(str(path))
    try:
        yield folder
    finally:
        os.close(folder)


def a_verifier(progress: Progress | None = None, stop: threading.Event | None = None) -> Verifier:
    return Verifier(progress or Progress(), Pace(None), stop or threading.Event())


def a_file(path: str, content: bytes) -> File:
    return File(path, len(content), hashlib.sha256(content).hexdigest())


def put(folder: Path, files: dict[str, bytes]) -> list[File]:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return [a_file(path, content) for path, content in files.items()]


@settings(max_examples=60, deadline=None)
@given(
    size=st.one_of(st.integers(0, 5), st.integers(-3, 3).map(lambda n: 3 * PAGE_BYTES + n), st.just(100_000)),
    at=st.integers(0, 3 * PAGE_BYTES + 3),
    cold=st.booleans(),
)
def test_a_flipped_byte_is_found_wherever_it_is(size: int, at: int, cold: bool) -> None:
    """Also at the edges of windows, and whether or not it is in memory."""
    content = bytes(size)
    with TemporaryDirectory() as name, patch.object(verify, "WINDOW_BYTES", PAGE_BYTES):
        (file,) = put(Path(name), {"w": content})
        with opened(Path(name)) as folder:
            assert a_verifier().problem(folder, [file]) == ""
            if at < size:
                with Path(name, "w").open("r+b") as stream:
                    stream.seek(at)
                    stream.write(b"\x01")
                    stream.flush()
                    if cold:
                        os.fsync(stream.fileno())
                        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert "w is not what its digest says" in a_verifier().problem(folder, [file])


def test_a_file_that_only_git_knows_is_verified(tmp_path: Path) -> None:
    put(tmp_path, {"c.json": b"{}"})
    right = File("c.json", 2, None, hashlib.sha1(b"blob 2\0{}").hexdigest())
    with opened(tmp_path) as folder:
        assert a_verifier().problem(folder, [right]) == ""
        wrong = File("c.json", 2, None, hashlib.sha1(b"blob 2\0[]").hexdigest())
        assert "c.json is not" in a_verifier().problem(folder, [wrong])


def lose(model: Path) -> None:
    (model / "a/w").unlink()


def link_file(model: Path) -> None:
    lose(model)
    (model / "a/w").symlink_to(model.parent / "elsewhere/w")


def link_folder(model: Path) -> None:
    lose(model)
    (model / "a").rmdir()
    (model / "a").symlink_to(model.parent / "elsewhere")


def replace_by_a_folder(model: Path) -> None:
    lose(model)
    (model / "a/w").mkdir()


def many_folders(model: Path) -> None:
    for number in range(1100):
        (model / str(number)).mkdir()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lose, "a/w is missing"),
        (lambda model: (model / "a/w").write_bytes(b"123"), "a/w has 3 bytes, not 4"),
        (lambda model: (model / "a/w").write_bytes(b"12345"), "a/w has 5 bytes, not 4"),
        (link_file, "a/w is not in the manifest"),
        (link_folder, "a is not in the manifest"),
        (replace_by_a_folder, "a/w cannot be read"),
        (lambda model: (model / "run-me.py").touch(), "run-me.py is not in the manifest"),
        (lambda model: (model / "a/.hidden").touch(), "a/.hidden is not in the manifest"),
        (lambda model: (model / "x").symlink_to("nowhere"), "x is not in the manifest"),
        (many_folders, "is not in the manifest"),
    ],
)
def test_what_is_not_as_the_manifest_says(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    model = tmp_path / "model"
    files = put(model, {"a/w": b"1234", "b": b"", ".preheat-manifest.json": b"{}"})[:2]
    put(tmp_path / "elsewhere", {"w": b"1234"})
    damage(model)
    with opened(model) as folder:
        assert told in a_verifier().problem(folder, files)


def test_a_file_that_became_a_link_after_the_look_around_is_not_read(tmp_path: Path) -> None:
    """Who wins the race against the look for strangers wins nothing."""
    model = tmp_path / "model"
    files = put(model, {"a/w": b"1234"})
    put(tmp_path / "elsewhere", {"w": b"1234"})
    for damage in (link_file, link_folder):
        damage(model)
        with opened(model) as folder:
            assert [bool(wrong) for _, wrong in a_verifier().verdicts(folder, files)] == [True]
        if damage is link_file:
            (model / "a/w").unlink()
            (model / "a/w").touch()


def test_an_empty_folder_is_no_harm(tmp_path: Path) -> None:
    files = put(tmp_path, {"w": b"1234"})
    (tmp_path / "left/over").mkdir(parents=True)
    with opened(tmp_path) as folder:
        assert a_verifier().problem(folder, files) == ""


def test_every_file_has_a_verdict_and_every_byte_is_counted(tmp_path: Path) -> None:
    contents = {f"{n}": bytes([n]) * 100_000 for n in range(9)}
    files = put(tmp_path, contents)
    (tmp_path / "4").write_bytes(bytes(100_000))
    progress = Progress()
    with opened(tmp_path) as folder:
        verdicts = dict(a_verifier(progress).verdicts(folder, files))
    assert {file.path for file, wrong in verdicts.items() if wrong} == {"4"}
    assert (progress.bytes_done, progress.files_done) == (900_000, 9)


def test_who_is_told_to_stop_stops(tmp_path: Path) -> None:
    files = put(tmp_path, {"w": bytes(8 * MIB)})
    stop = threading.Event()
    stop.set()
    with opened(tmp_path) as folder, pytest.raises(Passing) as caught:
        a_verifier(stop=stop).problem(folder, files)
    assert caught.value.reason is Reason.STOPPED


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_speed_limit_is_asked_for_every_window(tmp_path: Path) -> None:
    files = put(tmp_path, {"w": bytes(2 * MIB)})
    clock, waits = Clock(), []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            clock.now += timeout or 0.0
            return False

    pace = Pace(MIB, clock=clock)
    with opened(tmp_path) as folder:
        assert Verifier(Progress(), pace, Stop(), 1).problem(folder, files) == ""
    assert clock.now == pytest.approx(2.0)
    assert max(waits) < 0.2, "evenly, and not a second at once"


def resident(path: Path) -> list[bool]:
    """Tell of each page whether it is in memory (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), size) as mapped:
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        address = (ctypes.c_char * size).from_buffer(mapped)
        assert libc.mincore(ctypes.byref(address), ctypes.c_size_t(size), pages) == 0
        del address
        return [bool(page & 1) for page in pages]


def test_the_page_cache_is_left_as_it_was(tmp_path: Path) -> None:
    """The first half is in memory before, as a model is that somebody loads; the second is not."""
    path = tmp_path / "w"
    files = put(tmp_path, {"w": os.urandom(16 * MIB)})
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        if any(resident(path)):
            pytest.skip("this file system keeps everything in memory")
        for offset in range(0, 8 * MIB, MIB):
            os.pread(stream.fileno(), MIB, offset)
    before = resident(path)
    half = len(before) // 2
    assert sum(before[:half]) > half * 0.9
    with opened(tmp_path) as folder:
        assert a_verifier().problem(folder, files) == ""
    after = resident(path)
    windows = range(0, half, verify.WINDOW_BYTES // mmap.PAGESIZE)
    whole = [at for at in windows if all(before[at : at + verify.WINDOW_BYTES // mmap.PAGESIZE])]
    assert whole, "some of it was wholly there"
    for at in whole:
        assert all(after[at : at + verify.WINDOW_BYTES // mmap.PAGESIZE]), "what was there is there"
    # The kernel lets some pages be that another processor has just touched.
    assert sum(after[half:]) <= sum(before[half:]) + half // 20, "what was not there has gone again"
