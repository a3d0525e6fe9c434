"""Whatever somebody plants in a folder, nothing outside it is touched, and nothing in it holds us up."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.folder import BLOCK_BYTES, Emptying, is_at, open_file, open_folder, used_bytes

MANY = 1_000_000


@contextmanager
def opened(path: Path) -> Iterator[int]:
    folder = open_folder(str(path))
    try:
        yield folder
    finally:
        os.close(folder)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


NAMES = st.sampled_from(["a", "b", "model", ".lock"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
KINDS = st.sampled_from(["file", "folder", "link out", "link to a folder out", "link up", "pipe"])


def plant(top: Path, path: str, kind: str, outside: Path) -> None:
    """Put something there; where something else is in the way, leave it."""
    target = top / path
    if os.path.lexists(target):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case "file":
                target.write_bytes(b"x" * 5000)
            case "folder":
                target.mkdir(parents=True)
            case "link out":
                target.symlink_to(outside / "precious")
            case "link to a folder out":
                target.symlink_to(outside)
            case "link up":
                target.symlink_to("..")
            case "pipe":
                os.mkfifo(target)
    except OSError:
        return


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PATHS, KINDS), max_size=12))
def test_everything_planted_goes_and_nothing_else(planted: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as name:
        outside, top = Path(name, "outside"), Path(name, "top")
        outside.mkdir()
        top.mkdir()
        (outside / "precious").write_bytes(b"keep me")
        safe = [(path, kind) for path, kind in planted if not leads_out(planted, path)]
        for path, kind in safe:
            plant(top, path, kind, outside)
        sizes = sum(
            p.stat().st_blocks * BLOCK_BYTES for p in top.rglob("*") if p.is_file() and not p.is_symlink()
        )
        emptying = Emptying(MANY)
        with opened(top) as folder:
            assert emptying.empty(folder)
        assert list(top.iterdir()) == []
        assert emptying.freed_bytes == sizes
        assert (outside / "precious").read_bytes() == b"keep me"
        assert [path.name for path in outside.iterdir()] == ["precious"]


def leads_out(planted: list[tuple[str, str]], path: str) -> bool:
    """Tell whether planting there would itself write through a link."""
    links = {p for p, kind in planted if kind.startswith("link")}
    parts = path.split("/")
    return any("/".join(parts[:end]) in links for end in range(1, len(parts)))


def nest(top: Path, depth: int) -> None:
    """Make a chain of folders that no path can name, with a file at its end."""
    here = open_folder(str(top))
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        there = open_folder("d", here)
        os.close(here)
        here = there
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_folders_without_an_end_are_counted_and_deleted(tmp_path: Path) -> None:
    nest(tmp_path, 3000)
    before = open_files()
    with opened(tmp_path) as folder:
        assert used_bytes(folder) > 0
        assert Emptying(MANY).empty(folder)
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before


def test_who_exchanges_a_folder_for_a_link_at_the_worst_moment_wins_nothing(tmp_path: Path) -> None:
    """Between the look that says it is a folder and its opening there is a link out of here."""
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (outside / "precious").touch()
    (top / "d/deep").mkdir(parents=True)
    (top / "d/deep/f").touch()
    real = Emptying._unlink

    def unlink(self: Emptying, name: str, folder: int) -> bool:
        gone = real(self, name, folder)
        if not gone and name in {"d", "deep"}:
            os.rename(name, f"away-{name}", src_dir_fd=folder, dst_dir_fd=folder)
            os.symlink(outside, name, dir_fd=folder)
        return gone

    with opened(top) as folder, patch.object(Emptying, "_unlink", unlink):
        while not Emptying(MANY).empty(folder):
            pass
    assert list(top.iterdir()) == []
    assert (outside / "precious").exists()


def test_a_folder_full_of_names_is_emptied(tmp_path: Path) -> None:
    for number in range(2500):
        (tmp_path / str(number)).touch()
    with opened(tmp_path) as folder:
        assert Emptying(MANY).empty(folder)
    assert list(tmp_path.iterdir()) == []


def test_nobody_keeps_it_busy_for_ever(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/f").touch()
    with opened(tmp_path) as folder:
        assert not Emptying(20).empty(folder)
        assert list(tmp_path.iterdir()) != []
        assert Emptying(MANY).empty(folder), "the next run goes on"


def test_a_file_with_a_second_name_frees_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/f").write_bytes(b"x" * 100_000)
    (tmp_path / "g").hardlink_to(tmp_path / "a/f")
    emptying = Emptying(MANY)
    with opened(tmp_path / "a") as folder:
        assert emptying.empty(folder)
    assert emptying.freed_bytes == 0
    assert (tmp_path / "g").stat().st_size == 100_000


def test_a_file_with_two_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1_000_000)
    with opened(tmp_path) as folder:
        alone = used_bytes(folder)
        (tmp_path / "g").hardlink_to(tmp_path / "f")
        assert used_bytes(folder) == alone


@pytest.mark.parametrize("path", ["link", "linked/f", "real/link", "pipe", "real", "no"])
def test_only_regular_files_are_opened_and_no_link_is_followed(tmp_path: Path, path: str) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    (top / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "f").write_bytes(b"of somebody else")
    (top / "real/f").write_bytes(b"ours")
    (top / "link").symlink_to(outside / "f")
    (top / "real/link").symlink_to("f")
    (top / "linked").symlink_to(outside)
    os.mkfifo(top / "pipe")
    with opened(top) as folder:
        file = open_file("real/f", folder)
        assert os.read(file, 10) == b"ours"
        os.close(file)
        before = open_files()
        with pytest.raises(OSError, match="\\[Errno"):
            open_file(path, folder)
        assert open_files() == before


def test_an_exchanged_folder_is_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with opened(tmp_path) as top, opened(tmp_path / "a") as folder:
        assert is_at(folder, "a", top)
        (tmp_path / "a").rename(tmp_path / "c")
        assert not is_at(folder, "a", top)
        (tmp_path / "a").symlink_to("c")
        assert not is_at(folder, "a", top)
