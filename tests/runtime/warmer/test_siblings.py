"""Two caches of one namespace on one disk: what the one holds, the other does not fetch."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.warmer.origin import Origin
from tests.runtime.warmer.run import Start
from tests.runtime.warmer.test_fetching import MIB, some_bytes, tree
from tests.runtime.warmer.test_found import NOTE, said
from tests.runtime.warmer.test_keep import flip

FILES = {"a.gguf": some_bytes(MIB, 1), "deep/b.gguf": some_bytes(2 * MIB, 2), "c.json": b"{}"}
ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16


@pytest.fixture
def namespace(tmp_path: Path) -> Path:
    folder = tmp_path / "namespace"
    folder.mkdir()
    return folder


def warm(task: Start, uri: str, destination: Path, **more: Any) -> Any:
    source = {"uri": uri, "revision": ""}
    return task({"source": source, "destination": str(destination), "listenPort": 0, **more})


def test_the_second_cache_of_the_same_weights_fetches_nothing(
    origin: Origin, task: Start, namespace: Path
) -> None:
    uri = origin.folder("m", FILES)
    first = warm(task, uri, namespace / ONE).published()
    second = warm(task, uri, namespace / TWO).published()
    assert second["bytesFetched"] == 0
    assert second["manifestSHA256"] == first["manifestSHA256"]
    assert tree(namespace / TWO / "model") == FILES
    assert (namespace / ONE / "model/a.gguf").samefile(namespace / TWO / "model/a.gguf"), "no second copy"
    assert (namespace / TWO / NOTE).exists()


def test_two_caches_of_the_same_weights_that_are_warmed_at_once_are_there_twice(
    origin: Origin, task: Start, namespace: Path
) -> None:
    """That is why a budget counts both (decision 0019)."""
    uri = origin.folder("m", FILES)
    runs = [warm(task, uri, namespace / key, maxBytesPerSecond=2 * MIB) for key in (ONE, TWO)]
    for run in runs:
        assert run.published()["bytesFetched"] == sum(map(len, FILES.values()))
    assert not (namespace / ONE / "model/a.gguf").samefile(namespace / TWO / "model/a.gguf")


def note_of(cache: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((cache / NOTE).read_text())
    return note


def set_back(cache: Path, **age: float) -> str:
    """Make a note older; return its time."""
    note = note_of(cache)
    note["time"] = (datetime.fromisoformat(note["time"]) - timedelta(**age)).isoformat()
    (cache / NOTE).write_text(json.dumps(note))
    return str(note["time"])


@pytest.mark.parametrize("older", [ONE, TWO])
def test_nobody_vouches_anew_for_what_only_a_siblings_note_says(
    origin: Origin, task: Start, namespace: Path, older: str
) -> None:
    """Else notes that renew each other would be trusted for ever. The oldest counts, whatever else was fetched."""
    parts = {ONE: {"a.gguf": FILES["a.gguf"]}, TWO: {"deep/b.gguf": FILES["deep/b.gguf"]}}
    times = {}
    for key, files in parts.items():
        warm(task, origin.folder(key, files), namespace / key).published()
        times[key] = set_back(namespace / key, hours=5 if key == older else 3)
    words = warm(task, origin.folder("m", FILES), namespace / THREE).published()
    assert words["bytesFetched"] == len(FILES["c.json"])
    assert note_of(namespace / THREE)["time"] == times[older]


def test_what_was_hashed_on_the_way_is_vouched_for_anew(origin: Origin, task: Start, namespace: Path) -> None:
    uri = origin.folder("m", FILES)
    warm(task, uri, namespace / ONE).published()
    set_back(namespace / ONE, hours=25)
    warm(task, uri, namespace / TWO).published()
    age = datetime.now(UTC) - datetime.fromisoformat(note_of(namespace / TWO)["time"])
    assert age < timedelta(minutes=1)


def test_a_revision_that_shares_most_fetches_the_rest(origin: Origin, task: Start, namespace: Path) -> None:
    warm(task, origin.folder("m", FILES), namespace / ONE).published()
    newer = {**FILES, "a.gguf": some_bytes(MIB, 9)}
    words = warm(task, origin.folder("n", newer), namespace / TWO).published()
    assert words["bytesFetched"] == MIB
    assert tree(namespace / TWO / "model") == newer
    assert tree(namespace / ONE / "model") == FILES


def test_what_a_sibling_has_not_verified_is_hashed_and_wrong_bytes_are_not_taken(
    origin: Origin, task: Start, namespace: Path
) -> None:
    uri = origin.folder("m", FILES)
    warm(task, uri, namespace / ONE).published()
    flip(namespace / ONE / "model/a.gguf")
    wrong = (namespace / ONE / "model/a.gguf").read_bytes()
    (namespace / ONE / NOTE).unlink()
    words = warm(task, uri, namespace / TWO).published()
    assert words["bytesFetched"] == MIB
    assert tree(namespace / TWO / "model") == FILES
    assert (namespace / ONE / "model/a.gguf").read_bytes() == wrong, "nobody wrote into the sibling's file"


def test_a_killed_run_leaves_the_siblings_files_alone(origin: Origin, task: Start, namespace: Path) -> None:
    files = {**FILES, "z.gguf": some_bytes(8 * MIB, 3)}
    warm(task, origin.folder("m", FILES), namespace / ONE).published()
    uri = origin.folder("n", files)
    slow = warm(task, uri, namespace / TWO, maxBytesPerSecond=MIB)
    slow.wait_for("fetching")
    slow.kill()
    assert warm(task, uri, namespace / TWO).published()["bytesFetched"] <= 8 * MIB
    assert tree(namespace / TWO / "model") == files
    assert tree(namespace / ONE / "model") == FILES


@pytest.mark.parametrize("what", ["no manifest", "half a manifest", "a link", "a file", "not whole"])
def test_a_sibling_that_is_none_is_passed_over(
    origin: Origin, task: Start, namespace: Path, what: str
) -> None:
    uri, model = origin.folder("m", FILES), namespace / ONE / "model"
    if what == "a file":
        (namespace / ONE).write_text("x")
    else:
        warm(task, uri, namespace / ONE).published()
    if what == "no manifest":
        (model / ".preheat-manifest.json").unlink()
    elif what == "half a manifest":
        (model / ".preheat-manifest.json").write_text('{"files": [')
    elif what == "a link":
        (namespace / ONE).rename(namespace / "elsewhere")
        (namespace / ONE).symlink_to(namespace / "elsewhere")
    elif what == "not whole":
        (namespace / ONE / NOTE).unlink()
        for path in ("a.gguf", "deep/b.gguf", "c.json"):
            (model / path).unlink()
    run = warm(task, uri, namespace / TWO)
    assert run.published()["bytesFetched"] == sum(map(len, FILES.values()))
    assert not said(run, "bug")


def test_a_cache_with_a_folder_of_its_own_has_no_siblings(
    origin: Origin, task: Start, namespace: Path
) -> None:
    uri = origin.folder("m", FILES)
    warm(task, uri, namespace / ONE).published()
    assert warm(task, uri, namespace / "model-of-mine").published()["bytesFetched"] > 0
