"""A warmer finds weights: are they still right, may they take that room, and what is done with those that are not?"""

import json
import os
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.runtime.warmer.origin import Origin, sha256
from tests.runtime.warmer.run import Run, Start
from tests.runtime.warmer.test_fetching import MIB, some_bytes, tree
from tests.runtime.warmer.test_keep import flip

NOTE = ".preheat-verified"


def said(run: Run, message: str) -> bool:
    return any(entry["message"] == message for entry in run.log)


def test_a_fresh_note_is_trusted(origin: Origin, start: Start, cache: Path) -> None:
    """Also a wrong one: that is what the note is for, and why the keeper looks as well."""
    uri = origin.folder("m", {"a.gguf": some_bytes(MIB)})
    words = start(uri).published()
    note = json.loads((cache / NOTE).read_text())
    assert note["manifestSHA256"] == words["manifestSHA256"]
    assert datetime.now(UTC) - datetime.fromisoformat(note["time"]) < timedelta(minutes=1)
    flip(cache / "model/a.gguf")
    again = start(uri)
    assert again.published()["bytesFetched"] == 0
    assert not said(again, "verifying")


@pytest.mark.parametrize("why", ["gone", "old", "another boot", "other weights", "nonsense"])
def test_without_a_fresh_note_every_byte_is_hashed(
    origin: Origin, start: Start, cache: Path, why: str
) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(MIB)})
    start(uri).published()
    note = json.loads((cache / NOTE).read_text())
    change = {
        "old": {"time": (datetime.now(UTC) - timedelta(hours=25)).isoformat()},
        "another boot": {"bootID": "00000000-0000-0000-0000-000000000000"},
        "other weights": {"manifestSHA256": "0" * 64},
    }
    (cache / NOTE).write_text("{" if why == "nonsense" else json.dumps({**note, **change.get(why, {})}))
    if why == "gone":
        (cache / NOTE).unlink()
    again = start(uri)
    assert again.published()["bytesFetched"] == 0
    assert said(again, "verifying")
    assert json.loads((cache / NOTE).read_text())["manifestSHA256"] == note["manifestSHA256"]
    third = start(uri)
    third.published()
    assert not said(third, "verifying"), "it is noted now"


@pytest.mark.parametrize("pinned", [True, False])
def test_a_flipped_byte_is_fetched_anew_and_the_rest_taken_over(
    origin: Origin, start: Start, cache: Path, pinned: bool
) -> None:
    files = {"a.gguf": some_bytes(MIB, 1), "deep/b.gguf": some_bytes(2 * MIB, 2), "c.json": b"{}"}
    uri = origin.folder("m", files)
    listed = [{"path": path, "sha256": sha256(content)} for path, content in files.items()] if pinned else []
    start(uri, files=listed).published()
    flip(cache / "model/a.gguf")
    (cache / NOTE).unlink()
    again = start(uri, files=listed)
    assert again.published()["bytesFetched"] == MIB, "the two others were right"
    assert said(again, "quarantined")
    assert tree(cache / "model") == files
    assert (cache / ".quarantine/a.gguf").read_bytes() != files["a.gguf"]
    assert sorted(path.name for path in cache.iterdir()) == [".lock", NOTE, ".quarantine", "model"]


def test_a_stranger_beside_the_weights_is_put_aside_with_them(
    origin: Origin, start: Start, cache: Path
) -> None:
    files = {"a.gguf": some_bytes(MIB)}
    uri = origin.folder("m", files)
    start(uri).published()
    (cache / "model/evil.py").write_text("import os")
    (cache / NOTE).unlink()
    assert start(uri).published()["bytesFetched"] == 0
    assert tree(cache / "model") == files


def test_the_quarantine_holds_the_newest_alone(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(1000)})
    for number in (1, 2):
        start(uri).published()
        (cache / "model" / f"stranger-{number}").touch()
        (cache / NOTE).unlink()
    start(uri).published()
    assert (cache / ".quarantine/stranger-2").exists()
    assert not (cache / ".quarantine/stranger-1").exists()


def test_bytes_that_a_pod_still_reads_are_not_written_over(origin: Origin, start: Start, cache: Path) -> None:
    """Killed after it took a file over, and then the source has another: the old one has a second name."""
    old, new = some_bytes(MIB, 1), some_bytes(MIB, 2)
    start(origin.folder("m", {"a.gguf": old, "z.gguf": some_bytes(8 * MIB, 3)})).published()
    (cache / "model").rename(cache / ".quarantine")
    flip(cache / ".quarantine/z.gguf")
    origin.bytes_per_second = 4 * MIB
    run = start(f"{origin.url}/m/")
    run.kill_at(cache / ".partial/z.gguf.part", MIB)
    assert (cache / ".partial/a.gguf").stat().st_nlink == 2
    origin.bytes_per_second = None
    with (cache / ".quarantine/a.gguf").open("rb") as pod:
        start(origin.folder("m", {"a.gguf": new, "z.gguf": some_bytes(8 * MIB, 3)})).published()
        assert pod.read() == old
    assert (cache / "model/a.gguf").read_bytes() == new


def test_verifying_is_told(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(192 * MIB)})
    start(uri).published()
    (cache / NOTE).unlink()
    run = start(uri)
    seen = []
    while run.process.poll() is None:
        with suppress(httpx.HTTPError):  # it has ended
            seen.append(run.get("/progress").json())
    run.published()
    assert any(report["bytesDone"] > 0 for report in seen if report["state"] == "Verifying")
    assert {report["bytesTotal"] for report in seen if report["state"] == "Verifying"} == {192 * MIB}


def test_the_folder_is_young_from_the_start_of_a_run_on(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(MIB)})
    origin.bytes_per_second = MIB / 2
    cache.mkdir(exist_ok=True)
    os.utime(cache, (0, 0))
    run = start(uri)
    origin.wait_until_asked("/m/SHA256SUMS")
    assert time.time() - cache.stat().st_mtime < 20
    run.kill()


def test_more_than_the_budget_is_refused_before_a_byte_comes(
    origin: Origin, start: Start, cache: Path
) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(3000), "b.gguf": some_bytes(2000)})
    run = start(uri, roomBytes=4999)
    message = run.failed(2, "OverBudget")
    assert "5,000" in message
    assert "4,999" in message
    assert run.words["bytesTotal"] == 5000
    assert origin.sent.get("/m/a.gguf", 0) <= 1
    assert start(uri, roomBytes=4999, environment={"PREHEAT_ROOM_BYTES": "5000"}).published()


@pytest.mark.parametrize("room", [3000, 4 * MIB], ids=["before it begins", "while it fetches"])
def test_the_size_of_a_part_is_not_told_as_the_size_of_weights_over_budget(
    origin: Origin, start: Start, room: int
) -> None:
    """The operator would believe that there is room enough for the whole."""
    uri = origin.folder("m", {"a.gguf": some_bytes(5 * MIB), "c.json": some_bytes(5000)})
    origin.tells_length, origin.ignores_ranges = False, True
    run = start(uri, roomBytes=room)
    message = run.failed(2, "OverBudget")
    assert run.words["bytesTotal"] == 0
    assert ("at least 5,000 bytes" if room == 3000 else f"more than {room:,}") in message


def test_files_of_unknown_size_stop_at_the_budget(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(4 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.tells_length, origin.ignores_ranges = False, True
    run = start(uri, roomBytes=MIB)
    assert f"{MIB:,}" in run.failed(2, "OverBudget")
    part = cache / ".partial/a.gguf.part"
    assert MIB <= part.stat().st_size <= MIB + 64 * 1024 * 4, "what is partial stays, and it stopped there"
    assert start(uri, roomBytes=4 * MIB).published()
    assert tree(cache / "model") == {"a.gguf": content}


def test_the_quarantine_goes_where_the_budget_leaves_no_room(
    origin: Origin, start: Start, cache: Path
) -> None:
    content = some_bytes(MIB)
    uri = origin.folder("m", {"a.gguf": content})
    start(uri).published()
    flip(cache / "model/a.gguf")
    (cache / NOTE).unlink()
    assert start(uri, roomBytes=MIB).published()["bytesFetched"] == MIB
    assert not (cache / ".quarantine").exists()


def test_the_quarantine_goes_where_the_disk_has_no_room(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(4 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    start(uri).published()
    flip(cache / "model/a.gguf")
    (cache / NOTE).unlink()
    files = [{"path": "a.gguf", "sha256": sha256(content), "sizeBytes": 10**17}]
    start(uri, files=files).failed(1, "DiskFull")
    assert not (cache / ".quarantine").exists()
