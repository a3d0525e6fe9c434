"""The node's keeper beside warmers, pods and people who mean no good: real processes, real locks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.warmer.origin import Origin
from tests.runtime.warmer.run import Run, Start
from tests.runtime.warmer.test_fetching import MIB, some_bytes, tree

KEY, OTHER, THIRD = "0123456789abcdef", "f" * 16, "a" * 16
KEEP_ALL = {"ns": [KEY, OTHER, THIRD]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "ns").mkdir(parents=True)
    return folder


@pytest.fixture
def keep(task: Start, root: Path) -> Callable[..., Run]:
    """Start a keeper for which every folder that is there now is old."""

    def starter(keep: dict[str, list[str]], verify: dict[str, list[str]] | None = None, **more: Any) -> Run:
        soon = datetime.now(UTC) + timedelta(minutes=1)
        config = {
            "task": "keep",
            "root": str(root),
            "keep": keep,
            "verify": verify or {},
            "olderThan": soon.isoformat(),
            "maxBytesPerSecond": None,
            "nodeName": "n",
            "listenPort": 0,
            **more,
        }
        return task(config)

    return starter


def kept(run: Run) -> dict[str, Any]:
    assert run.end() == 0, run.log
    assert run.words["state"] == "Kept"
    return run.words


@pytest.fixture
def warm(origin: Origin, start: Start, root: Path) -> Callable[..., Path]:
    """Put weights of one file into a cache's folder; return that."""

    def put(key: str = KEY, content: bytes = b"weights" * 1000, namespace: str = "ns") -> Path:
        (root / namespace).mkdir(exist_ok=True)
        cache = root / namespace / key
        start(
            origin.folder(f"{namespace}-{key}", {"a.gguf": content, "b.json": b"{}"}), destination=str(cache)
        ).published()
        return cache

    return put


HOLDER = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, how: int) -> Iterator[None]:
    """Hold a lock in another process, as a pod does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(how)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield


def flip(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(100)
        byte = stream.read(1)[0]
        stream.seek(100)
        stream.write(bytes([byte ^ 1]))


def test_what_nobody_asks_for_goes_and_the_rest_stays(
    keep: Callable[..., Run], warm: Callable[..., Path], root: Path
) -> None:
    stays, goes, elsewhere = warm(KEY), warm(OTHER), warm(KEY, namespace="gone")
    words = kept(keep({"ns": [KEY]}))
    assert tree(stays / "model")
    assert not goes.exists()
    assert not elsewhere.exists()
    assert list((root / "gone").iterdir()) == [], "the folder of a namespace stays: a pod may have mounted it"
    assert words["removedCount"] == 2
    assert words["freedBytes"] >= 2 * 7000
    assert (words["inUseCount"], words["corruptCount"], words["stuckCount"]) == (0, 0, 0)
    assert words["bytes"] >= 7000
    assert words["free"] > 0


STRANGERS = (
    "lost+found/x", "Upper/0123456789abcdef/x", "ns/0123456789ABCDEF/x", "ns/0123456789abcdef0/x", "ns/backup/x",
    "ns/.removed-by-hand/x", "ns/.hidden/x", "file",
)  # fmt: skip


def test_strangers_are_never_touched(keep: Callable[..., Run], root: Path, tmp_path: Path) -> None:
    for path in STRANGERS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("precious")
    outside = tmp_path / "outside"
    (outside / KEY / "model").mkdir(parents=True)
    (outside / KEY / "model/x").write_text("precious")
    (root / "linked").symlink_to(outside)
    (root / "ns" / KEY).symlink_to(outside / KEY)
    (root / "ns" / OTHER).write_text("a file of that name")
    words = kept(keep({}))
    assert all((root / path).read_text() == "precious" for path in STRANGERS)
    assert (outside / KEY / "model/x").read_text() == "precious"
    assert (root / "ns" / OTHER).is_file()
    assert words["removedCount"] == 0


def test_planted_links_lead_nobody_out(
    keep: Callable[..., Run], warm: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    """The weights of another namespace, reached from a folder that is removed, and from one that is verified."""
    theirs = warm(KEY, namespace="theirs")
    mine = warm(OTHER)
    (mine / "model/deep").mkdir()
    (mine / "model/deep/link").symlink_to(theirs)
    (mine / ".partial").symlink_to(theirs / "model")
    (mine / ".quarantine").symlink_to(theirs / "model")
    third = warm(THIRD)
    (third / ".quarantine").symlink_to(theirs / "model")
    (third / ".preheat-verified").unlink()
    (third / ".preheat-verified").symlink_to(theirs / "model/a.gguf")
    (third / "model/a.gguf").unlink()
    (third / "model/a.gguf").symlink_to(theirs / "model/a.gguf")
    before = tree(theirs / "model")
    stays = {"theirs": [KEY], "ns": [THIRD]}
    words = kept(keep(stays, verify=stays))
    assert tree(theirs / "model") == before
    assert not mine.exists()
    assert list(words["corrupt"]) == [THIRD]
    assert kept(keep(stays, verify={"theirs": [KEY]}))["verifiedCount"] == 1


def test_a_link_for_a_lock_leaves_the_folder_alone(
    keep: Callable[..., Run], warm: Callable[..., Path], tmp_path: Path
) -> None:
    cache, outside = warm(), tmp_path / "outside"
    outside.write_text("precious")
    (cache / ".lock").unlink()
    (cache / ".lock").symlink_to(outside)
    words = kept(keep({}))
    assert list(words["stuck"]) == [f"ns/{KEY}"]
    assert cache.exists()
    assert outside.read_text() == "precious"


@pytest.mark.parametrize("which", ["a warmer", "a pod", "a pod on quarantined weights"])
def test_what_is_in_use_stays(keep: Callable[..., Run], warm: Callable[..., Path], which: str) -> None:
    cache = warm()
    if which == "a pod on quarantined weights":
        (cache / "model").rename(cache / ".quarantine")
    path, how = {
        "a warmer": (cache / ".lock", fcntl.LOCK_EX),
        "a pod": (cache / "model/.preheat-manifest.json", fcntl.LOCK_SH),
        "a pod on quarantined weights": (cache / ".quarantine/.preheat-manifest.json", fcntl.LOCK_SH),
    }[which]
    with held(path, how):
        words = kept(keep({}))
        assert (words["inUse"], words["inUseCount"], words["removedCount"]) == ([KEY], 1, 0)
        assert cache.exists()
    assert kept(keep({}))["removedCount"] == 1
    assert not cache.exists()


def test_a_folder_that_was_touched_since_is_left_alone(
    keep: Callable[..., Run], warm: Callable[..., Path], root: Path
) -> None:
    cache = warm()
    before = datetime.now(UTC) - timedelta(minutes=1)
    words = kept(keep({}, olderThan=before.isoformat()))
    assert (words["removedCount"], words["inUseCount"]) == (0, 0)
    assert (words["young"], words["youngCount"]) == ([KEY], 1)
    assert tree(cache / "model")
    assert (root / "ns").exists()


def test_a_folder_without_a_lock_goes_by_its_age(keep: Callable[..., Run], root: Path) -> None:
    for key, age in ((KEY, 3600), (OTHER, 0)):
        cache = root / "ns" / key
        cache.mkdir()
        (cache / "f").touch()
        os.utime(cache, (time.time() - age,) * 2)
    words = kept(keep({}, olderThan=(datetime.now(UTC) - timedelta(minutes=1)).isoformat()))
    assert words["removedCount"] == 1
    assert [path.name for path in (root / "ns").iterdir()] == [OTHER]


def test_a_warmer_that_is_at_work_is_left_alone(
    keep: Callable[..., Run], origin: Origin, start: Start, root: Path
) -> None:
    content = some_bytes(8 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.bytes_per_second = MIB / 2
    warmer = start(uri, destination=str(root / "ns" / KEY))
    origin.wait_until_sent("/m/a.gguf", MIB // 4)
    assert kept(keep({}))["inUse"] == [KEY]
    origin.bytes_per_second = None
    warmer.published()
    assert tree(root / "ns" / KEY / "model") == {"a.gguf": content}


def test_weights_that_are_found_make_the_folder_young(
    keep: Callable[..., Run], origin: Origin, start: Start, root: Path
) -> None:
    cache = root / "ns" / KEY
    uri = origin.folder("m", {"a.gguf": b"weights"})
    start(uri, destination=str(cache)).published()
    os.utime(cache, (0, 0))
    thought_of = datetime.now(UTC)
    assert start(uri, destination=str(cache)).published()["bytesFetched"] == 0
    assert kept(keep({}, olderThan=thought_of.isoformat()))["removedCount"] == 0
    assert tree(cache / "model") == {"a.gguf": b"weights"}


def test_a_warmer_that_waited_for_a_removal_begins_anew(origin: Origin, start: Start, root: Path) -> None:
    """A keeper holds the lock, renames the folder and deletes it: what the warmer waited for is another's lock."""
    cache = root / "ns" / KEY
    uri = origin.folder("m", {"a.gguf": b"weights"})
    cache.mkdir()
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        warmer = start(uri, destination=str(cache))
        deadline = time.monotonic() + 20
        while "waiting" not in warmer.get("/progress").json()["message"]:
            assert time.monotonic() < deadline
        cache.rename(root / "ns" / f".removed-{KEY}")
    warmer.published()
    assert tree(cache / "model") == {"a.gguf": b"weights"}
    assert (cache / ".lock").exists()


def test_warmers_and_keepers_at_once_never_lose_what_was_published(
    keep: Callable[..., Run], origin: Origin, start: Start, root: Path
) -> None:
    """A keeper that was told nothing yet, again and again, while a cache is warmed: the mtime protects it."""
    cache = root / "ns" / KEY
    uri = origin.folder("m", {"a.gguf": some_bytes(MIB)})
    thought_of = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    for _ in range(3):
        runs = [start(uri, destination=str(cache)), keep({}, olderThan=thought_of)]
        runs[0].published()
        assert kept(runs[1])["removedCount"] == 0
        assert tree(cache / "model")


def test_a_killed_keeper_is_gone_on_with(
    keep: Callable[..., Run], root: Path, warm: Callable[..., Path]
) -> None:
    """Killed between its rename and its end: the next run finds what is left."""
    cache = warm()
    cache.rename(root / "ns" / f".removed-{KEY}")
    (root / "ns" / f".removed-{KEY}" / "model/a.gguf").unlink()
    stays = warm(KEY)
    words = kept(keep(KEEP_ALL))
    assert words["removedCount"] == 1
    assert [path.name for path in (root / "ns").iterdir()] == [KEY]
    assert tree(stays / "model")


def test_killed_while_it_verifies_it_verifies_again(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    cache = warm(content=some_bytes(8 * MIB))
    (cache / ".preheat-verified").unlink()
    run = keep(KEEP_ALL, {"ns": [KEY]}, maxBytesPerSecond=2 * MIB)
    progress = until(run, lambda report: report["bytesDone"] > MIB)
    assert progress["state"] == "Verifying"
    assert progress["bytesTotal"] == 8 * MIB + 2
    assert MIB < progress["bytesPerSecond"] < 4 * MIB or progress["bytesDone"] < 3 * MIB
    run.kill()
    assert not (cache / ".preheat-verified").exists()
    assert kept(keep(KEEP_ALL, {"ns": [KEY]}))["verifiedCount"] == 1
    assert (cache / ".preheat-verified").exists()


def until(run: Run, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        report: dict[str, Any] = run.get("/progress").json()
        if holds(report):
            return report
        assert time.monotonic() < deadline, report


def test_sigterm_ends_it_and_the_next_goes_on(keep: Callable[..., Run], warm: Callable[..., Path]) -> None:
    warm(content=some_bytes(8 * MIB))
    run = keep(KEEP_ALL, {"ns": [KEY]}, maxBytesPerSecond=MIB)
    until(run, lambda report: report["state"] == "Verifying")
    run.process.send_signal(signal.SIGTERM)
    run.failed(1, "Stopped")


@pytest.mark.parametrize(("number", "state"), [(signal.SIGKILL, "CutShort"), (signal.SIGTERM, "Failed")])
def test_one_that_is_cut_short_has_told_what_it_did(
    keep: Callable[..., Run], warm: Callable[..., Path], number: int, state: str
) -> None:
    warm(KEY)
    warm(OTHER, some_bytes(8 * MIB))
    warm(THIRD)
    run = keep({"ns": [KEY, OTHER]}, {"ns": [KEY, OTHER]}, maxBytesPerSecond=MIB)
    run.wait_for("verified")
    run.kill(number)
    told = run.words
    assert (told["state"], told["removedCount"], told["verifiedCount"], told["corrupt"]) == (state, 1, 1, {})


def test_what_was_verified_longest_ago_is_verified_first(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    """Whoever cuts runs short each time, none waits for ever."""
    now = datetime.now(UTC)
    for key, age in ((KEY, 1), (OTHER, 3), (THIRD, 2)):
        note = warm(key) / ".preheat-verified"
        told = json.loads(note.read_text())
        note.write_text(json.dumps({**told, "time": (now - timedelta(days=age)).isoformat()}))
    run = keep(KEEP_ALL, KEEP_ALL)
    kept(run)
    assert [line["key"] for line in run.log if line["message"] == "verified"] == [OTHER, THIRD, KEY]


def test_where_others_write_too_nothing_is_removed(
    keep: Callable[..., Run], warm: Callable[..., Path], root: Path
) -> None:
    warm(KEY)
    wrong = warm(OTHER)
    theirs = warm(THIRD, namespace="another")
    flip(wrong / "model/a.gguf")
    words = kept(keep({"ns": [OTHER]}, {"ns": [OTHER]}, removes=False))
    assert (words["removedCount"], list(words["corrupt"])) == (0, [OTHER])
    assert (root / "ns" / KEY / "model").exists()
    assert (theirs / "model").exists()


def test_a_flipped_byte_is_found_told_and_put_aside(
    keep: Callable[..., Run], warm: Callable[..., Path], start: Start, origin: Origin
) -> None:
    right, wrong = warm(KEY, some_bytes(MIB, 1)), warm(OTHER, some_bytes(MIB, 2))
    flip(wrong / "model/a.gguf")
    run = keep(KEEP_ALL, {"ns": [KEY, OTHER]})
    words = kept(run)
    assert words["corrupt"] == {OTHER: "a.gguf is not what its digest says"}
    assert (words["corruptCount"], words["verifiedCount"]) == (1, 1)
    assert tree(right / "model")
    assert not (wrong / "model").exists()
    assert (wrong / ".quarantine/a.gguf").exists()
    assert not (wrong / ".preheat-verified").exists()
    # The next warmer takes over what is right of it.
    words = start(f"{origin.url}/ns-{OTHER}/", destination=str(wrong)).published()
    assert tree(wrong / "model") == {"a.gguf": some_bytes(MIB, 2), "b.json": b"{}"}
    assert words["bytesFetched"] == MIB, "b.json was right and came not again"


def test_after_the_first_corrupt_cache_nothing_more_is_hashed(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    """Who sends pods there hears of it before the other weights are read; what is not there at all is told too."""
    wrong, others = warm(KEY, b"1" * 200), [warm(THIRD, b"2" * 200), warm(OTHER, b"3" * 200)]
    before = [(cache / ".preheat-verified").stat().st_mtime_ns for cache in others]
    for cache in (wrong, others[1]):
        flip(cache / "model/a.gguf")
    gone = "c" * 16
    everything = {"ns": [KEY, OTHER, THIRD, gone]}
    run = keep(everything, everything)
    words = kept(run)
    assert words["corrupt"].keys() == {KEY, gone}
    assert (words["corruptCount"], words["verifiedCount"], words["cutShort"]) == (2, 0, True)
    assert (wrong / ".quarantine/a.gguf").exists()
    assert [(cache / ".preheat-verified").stat().st_mtime_ns for cache in others] == before
    words = kept(keep(everything, {"ns": [OTHER, THIRD]}))
    assert words["corrupt"].keys() == {OTHER}
    assert (words["verifiedCount"], words["cutShort"]) == (1, False), "the last one cut nothing off"


def note_of(cache: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((cache / ".preheat-verified").read_text())
    return note


def test_what_was_verified_lately_is_not_hashed_again(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    """A flipped byte tells what was read. The note stays as old as it was."""
    fresh, hashed = warm(KEY, some_bytes(MIB, 1)), warm(OTHER, some_bytes(MIB, 2))
    note = note_of(fresh)
    flip(fresh / "model/a.gguf")
    run = keep(KEEP_ALL, {"ns": [KEY, OTHER]}, freshSince={KEY: note["time"]}, maxBytesPerSecond=MIB // 2)
    report = until(run, lambda report: report["state"] == "Verifying")
    assert report["bytesTotal"] == MIB + 2, "of the other one alone"
    words = kept(run)
    assert (words["verifiedCount"], words["corruptCount"], words["cutShort"]) == (2, 0, False)
    assert note_of(fresh) == note
    assert kept(keep(KEEP_ALL, {"ns": [KEY, OTHER]}))["corrupt"].keys() == {KEY}
    assert hashed.exists()


@pytest.mark.parametrize(
    "why", ["older", "another boot", "other weights", "gone", "nonsense", "to come", "another key"]
)
def test_without_a_note_that_is_fresh_it_is_hashed(
    keep: Callable[..., Run], warm: Callable[..., Path], why: str
) -> None:
    cache = warm()
    note = note_of(cache)
    flip(cache / "model/a.gguf")
    since = datetime.fromisoformat(note["time"])
    change = {
        "another boot": {"bootID": "00000000-0000-0000-0000-000000000000"},
        "other weights": {"manifestSHA256": "0" * 64},
        "to come": {"time": (since + timedelta(hours=1)).isoformat()},
    }
    (cache / ".preheat-verified").write_text(
        "{" if why == "nonsense" else json.dumps({**note, **change.get(why, {})})
    )
    if why == "gone":
        (cache / ".preheat-verified").unlink()
    asked = {OTHER if why == "another key" else KEY: (since + timedelta(seconds=why == "older")).isoformat()}
    words = kept(keep(KEEP_ALL, {"ns": [KEY]}, freshSince=asked))
    assert words["corrupt"].keys() == {KEY}


def test_a_killed_run_is_gone_on_with_where_it_was(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    first, second = warm(KEY, some_bytes(MIB, 1)), warm(OTHER, some_bytes(8 * MIB, 2))
    for cache in (first, second):
        (cache / ".preheat-verified").unlink()
    begun = datetime.now(UTC).replace(microsecond=0).isoformat()
    run = keep(KEEP_ALL, {"ns": [KEY, OTHER]}, maxBytesPerSecond=2 * MIB)
    until(run, lambda report: report["bytesDone"] > 2 * MIB)
    run.kill()
    again = keep(
        KEEP_ALL, {"ns": [KEY, OTHER]}, freshSince={KEY: begun, OTHER: begun}, maxBytesPerSecond=4 * MIB
    )
    assert until(again, lambda report: report["state"] == "Verifying")["bytesTotal"] == 8 * MIB + 2
    assert kept(again)["verifiedCount"] == 2


def test_a_pod_on_corrupt_weights_keeps_its_files(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    cache = warm()
    flip(cache / "model/a.gguf")
    with (
        held(cache / "model/.preheat-manifest.json", fcntl.LOCK_SH),
        (cache / "model/a.gguf").open("rb") as file,
    ):
        assert kept(keep(KEEP_ALL, {"ns": [KEY]}))["corruptCount"] == 1
        assert len(file.read()) == 7000
    assert (cache / ".quarantine/a.gguf").exists()


def test_weights_that_are_not_there_are_corrupt(keep: Callable[..., Run], warm: Callable[..., Path]) -> None:
    cache = warm(KEY)
    (cache / "model").rename(cache / "elsewhere")
    words = kept(keep(KEEP_ALL, {"ns": [KEY, OTHER], "none": []}))
    assert words["corruptCount"] == 2
    assert all(why.startswith("missing") for why in words["corrupt"].values())


def flip_digest(model: Path) -> None:
    manifest = model / ".preheat-manifest.json"
    found = json.loads(manifest.read_text())
    digest = found["files"][0]["sha256"]
    found["files"][0]["sha256"] = ("0" if digest[0] != "0" else "1") + digest[1:]
    manifest.write_text(json.dumps(found))


def claim(model: Path, size: int) -> None:
    """A file with holes would be read for days."""
    manifest = model / ".preheat-manifest.json"
    found = json.loads(manifest.read_text())
    found["files"][0]["sizeBytes"] = size
    manifest.write_text(json.dumps(found))


def pipe(model: Path) -> None:
    (model / ".preheat-manifest.json").unlink()
    os.mkfifo(model / ".preheat-manifest.json")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda model: (model / "a.gguf").unlink(), "a.gguf is missing"),
        (lambda model: os.truncate(model / "a.gguf", 5), "a.gguf has 5 bytes, not 7,000"),
        (lambda model: (model / "evil.py").touch(), "evil.py is not in the manifest"),
        (lambda model: (model / ".preheat-manifest.json").unlink(), "cannot be read"),
        (lambda model: (model / ".preheat-manifest.json").write_text("[" * 100_000), "no JSON"),
        (lambda model: (model / ".preheat-manifest.json").write_text('{"files": [{"path": "../../x"}]}'), "cannot be read"),
        (flip_digest, "its own digest"),
        (lambda model: claim(model, 1 << 49), "more than the disk holds"),
        (pipe, "no regular file"),
    ],
)  # fmt: skip
def test_every_kind_of_damage_is_told(
    keep: Callable[..., Run], warm: Callable[..., Path], damage: Callable[[Path], object], told: str
) -> None:
    cache = warm()
    damage(cache / "model")
    words = kept(keep(KEEP_ALL, {"ns": [KEY]}))
    assert told in words["corrupt"][KEY]
    assert not (cache / "model").exists()


def test_a_warmer_at_work_is_not_robbed_of_what_it_looks_at(
    keep: Callable[..., Run], warm: Callable[..., Path]
) -> None:
    cache = warm()
    flip(cache / "model/a.gguf")
    with held(cache / ".lock", fcntl.LOCK_EX):
        words = kept(keep(KEEP_ALL, {"ns": [KEY]}))
    assert "a warmer is at work" in words["corrupt"][KEY]
    assert (cache / "model").exists()
    assert not (cache / ".preheat-verified").exists(), "nobody trusts it any more"


def test_metrics_tell_what_was_done(keep: Callable[..., Run], warm: Callable[..., Path]) -> None:
    warm(KEY, some_bytes(8 * MIB))
    warm(OTHER)
    run = keep({"ns": [KEY]}, {"ns": [KEY]}, maxBytesPerSecond=2 * MIB)
    until(run, lambda report: report["bytesDone"] > MIB // 2)
    metrics = run.get("/metrics").text
    assert "preheat_keeper_removed_total 1.0" in metrics
    assert "preheat_keeper_bytes_to_verify 8.38861e+06" in metrics or "8388610" in metrics
    assert "preheat_keeper_corrupt 0.0" in metrics


def test_a_root_that_is_not_there_is_worth_another_try(keep: Callable[..., Run], root: Path) -> None:
    run = keep({}, root=str(root / "no"))
    assert "look at the node's disk" in run.failed(1, "DiskError")


def test_a_configuration_that_would_remove_what_it_verifies_is_refused(keep: Callable[..., Run]) -> None:
    assert "not in keep" in keep({"ns": [OTHER]}, {"ns": [KEY]}).failed(2, "InvalidConfig")
