"""Which folders go: every combination of who is there, played with real folders and locks."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer import keep
from preheat_warmer.config import KeepConfig
from preheat_warmer.errors import Passing
from preheat_warmer.folder import open_folder
from preheat_warmer.keep import NAMES_AT_MOST, Sweep
from preheat_warmer.publish import MANIFEST
from preheat_warmer.tally import Tally

NOW = 1_750_000_000.0
KEYS = ["0" * 16, "1" * 16, "f" * 16]


def config(root: Path, stays: dict[str, frozenset[str]]) -> KeepConfig:
    return KeepConfig(root, stays, datetime.fromtimestamp(NOW, UTC), {}, None, "n", 0)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    folder = open_folder(str(path))
    try:
        yield folder
    finally:
        os.close(folder)


def sweep(root: Path, stays: dict[str, frozenset[str]], stop: threading.Event | None = None) -> Tally:
    tally = Tally()
    with opened(root) as folder:
        Sweep(config(root, stays), tally, stop or threading.Event()).run(folder)
    return tally


def a_cache(path: Path, *, model: bool = True, lock: bool = True, age: float = 60) -> Path:
    (path / "model").mkdir(parents=True)
    (path / "model/w").write_bytes(b"x" * 5000)
    if model:
        (path / "model" / MANIFEST).touch()
    if lock:
        (path / ".lock").touch()
    os.utime(path, (NOW - age, NOW - age))
    return path


CACHE = st.fixed_dictionaries(
    {
        "kept": st.booleans(),
        "warming": st.booleans(),
        "serving": st.booleans(),
        "model": st.booleans(),
        "lock": st.booleans(),
        "age": st.sampled_from([-60.0, 60.0]),
        "removed": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(CACHE, min_size=1, max_size=3))
def test_a_folder_goes_only_when_nobody_asks_for_it_uses_it_or_touched_it(
    caches: list[dict[str, bool]],
) -> None:
    with TemporaryDirectory() as name, ExitStack() as held:
        root = Path(name)
        stays = frozenset(key for key, how in zip(KEYS, caches, strict=False) if how["kept"])
        want_there, want_in_use = set(), set()
        for key, how in zip(KEYS, caches, strict=False):
            cache = a_cache(root / "ns" / key, model=how["model"], lock=how["lock"], age=how["age"])
            locks = [(cache / ".lock", fcntl.LOCK_EX, how["warming"] and how["lock"])]
            locks += [(cache / "model" / MANIFEST, fcntl.LOCK_SH, how["serving"] and how["model"])]
            for path, kind, wanted in locks:
                if wanted:
                    fcntl.flock(held.enter_context(path.open()), kind)
            in_use = any(wanted for _, _, wanted in locks)
            if how["removed"]:
                a_cache(root / "ns" / f".removed-{key}", age=-60)
            if how["kept"] or in_use or how["age"] < 0:
                want_there.add(key)
            if in_use and not how["kept"]:
                want_in_use.add(key)
        tally = sweep(root, {"ns": stays} if stays else {})
        there = {path.name for path in (root / "ns").iterdir()} if (root / "ns").exists() else set()
        assert there == want_there
        assert (set(tally.in_use), tally.in_use_count) == (want_in_use, len(want_in_use))
        assert tally.removed == len(caches) - len(want_there) + sum(how["removed"] for how in caches)
        assert tally.stuck == {}


def test_a_warmer_that_comes_between_the_look_and_the_lock_wins(tmp_path: Path) -> None:
    """It finds no lock, publishes, and is gone again before the keeper takes the lock that it made itself."""
    cache = a_cache(tmp_path / "ns" / KEYS[0], lock=False)
    real = keep._lock

    def lock(file: int) -> None:
        if not (cache / "published").exists():
            (cache / "published").touch()
            os.utime(cache)
        real(file)

    with patch.object(keep, "_lock", lock):
        tally = sweep(tmp_path, {})
    assert tally.in_use == [KEYS[0]]
    assert (cache / "published").exists()


def test_an_exchanged_folder_is_not_removed(tmp_path: Path) -> None:
    """While the keeper takes the locks somebody puts another folder in the place of the locked one."""
    cache = a_cache(tmp_path / "ns" / KEYS[0])
    real = keep._claim

    def claim(folder: int, locks: ExitStack) -> float:
        since = real(folder, locks)
        cache.rename(tmp_path / "ns" / "moved")
        a_cache(cache)
        return since

    with patch.object(keep, "_claim", claim):
        assert sweep(tmp_path, {}).removed == 0
    assert (cache / "model/w").exists()
    assert (tmp_path / "ns/moved/model/w").exists()


def test_a_namespace_with_too_many_folders_keeps_no_other_waiting(tmp_path: Path) -> None:
    for number in range(30):
        a_cache(tmp_path / "many" / f"{number:016x}")
    a_cache(tmp_path / "other" / KEYS[2])
    with patch.object(keep, "NAMES_AT_MOST", 20):
        assert sweep(tmp_path, {}).removed == 21
        assert sweep(tmp_path, {}).removed == 10, "the next run goes on"
    assert NAMES_AT_MOST >= 1000


def test_one_that_cannot_be_removed_keeps_no_other_from_going(tmp_path: Path) -> None:
    stuck = a_cache(tmp_path / "ns" / KEYS[0])
    (stuck / ".lock").unlink()
    (stuck / ".lock").mkdir()
    os.utime(stuck, (NOW - 60, NOW - 60))
    a_cache(tmp_path / "ns" / KEYS[1])
    tally = sweep(tmp_path, {})
    assert (list(tally.stuck), tally.removed) == ([f"ns/{KEYS[0]}"], 1)


def test_a_planted_name_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    cache = a_cache(tmp_path / "ns" / KEYS[0])
    (tmp_path / "ns" / f".removed-{KEYS[0]}").symlink_to(tmp_path / "precious")
    tally = sweep(tmp_path, {})
    assert list(tally.stuck) == [f"ns/{KEYS[0]}"]
    assert cache.exists()
    assert (tmp_path / "precious").exists()


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    cache = a_cache(tmp_path / "ns" / KEYS[0])
    stop = threading.Event()
    stop.set()
    with pytest.raises(Passing):
        sweep(tmp_path, {}, stop)
    assert cache.exists()
