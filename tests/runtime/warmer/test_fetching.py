"""Bytes arrive exactly, whatever the network, the source and the kernel do on the way."""

import json
import random
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.runtime.warmer.origin import Answer, Origin, sha256
from tests.runtime.warmer.run import Start

MIB = 1 << 20


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".preheat-manifest.json"
    }


def test_a_folder_is_published_with_its_manifest_and_rights(
    origin: Origin, start: Start, cache: Path
) -> None:
    files = {"a.gguf": some_bytes(3 * MIB), "sub dir/ü.json": b"{}", "empty.txt": b""}
    uri = origin.folder("m", {**files, "README.md": b"not asked for"})
    words = start(uri, nodeName="n").published()
    assert tree(cache / "model") == files
    size = sum(map(len, files.values()))
    assert (words["bytesTotal"], words["bytesFetched"], words["files"]) == (size, size, 3)
    assert words["resolvedRevision"] is None
    manifest = json.loads((cache / "model/.preheat-manifest.json").read_text())
    assert (manifest["schema"], manifest["source"], manifest["totalBytes"]) == (1, uri, size)
    assert manifest["manifestSHA256"] == words["manifestSHA256"]
    assert {f["path"]: f["sha256"] for f in manifest["files"]} == {p: sha256(c) for p, c in files.items()}
    assert sorted(path.name for path in cache.iterdir()) == [".lock", ".preheat-verified", "model"]
    for path in (cache / "model").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640)


def test_a_volume_of_somebody_elses_gets_one_folder_more_and_keeps_what_it_has(
    origin: Origin, start: Start, cache: Path
) -> None:
    """Mode Shared: the folders above the cache's own are made, and nothing beside them is touched."""
    theirs = cache / "theirs"
    theirs.write_bytes(b"theirs")
    uri = origin.folder("m", {"a.gguf": b"weights"})
    folder = cache / ".preheat/default/0123456789abcdef"
    for _ in range(2):
        start(uri, destination=str(folder)).published()
    assert tree(folder / "model") == {"a.gguf": b"weights"}
    assert {path.name for path in cache.iterdir()} == {".preheat", "theirs"}
    assert theirs.read_bytes() == b"theirs"


def test_a_volume_that_cannot_be_written_is_told(origin: Origin, start: Start, cache: Path) -> None:
    (cache / ".preheat").write_bytes(b"a file where a folder must be")
    uri = origin.folder("m", {"a.gguf": b"weights"})
    run = start(uri, destination=str(cache / ".preheat/default/0123456789abcdef"))
    assert "must belong to uid or gid 1000" in run.failed(1, "DiskError")


def test_a_killed_download_goes_on_where_it_was(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(96 * MIB)
    uri = origin.folder("m", {"a.gguf": content, "small.json": b"{}"})
    origin.bytes_per_second = 48 * MIB
    run = start(uri)
    origin.wait_until_sent("/m/a.gguf", len(content) // 2)
    run.kill(signal.SIGKILL)
    assert not (cache / "model").exists()
    origin.bytes_per_second = None
    words = start(uri).published()
    assert tree(cache / "model")["a.gguf"] == content
    twice = origin.sent["/m/a.gguf"] - len(content)
    assert twice < len(content) // 100, f"{twice} bytes came twice"
    assert words["bytesFetched"] < len(content) * 0.6


def test_a_kill_loses_little_also_of_what_waits_to_be_read(origin: Origin, start: Start, cache: Path) -> None:
    """A source that is faster than the warmer fills every buffer in between."""
    content = some_bytes(96 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.bytes_per_second = 48 * MIB
    run = start(uri)
    origin.wait_until_sent("/m/a.gguf", len(content) // 2)
    run.process.send_signal(signal.SIGSTOP)
    origin.bytes_per_second = None
    origin.wait_until_blocked()
    run.kill(signal.SIGKILL)
    start(uri).published()
    assert tree(cache / "model")["a.gguf"] == content
    twice = origin.sent["/m/a.gguf"] - len(content)
    assert 0 < twice < len(content) // 100, f"{twice} bytes came twice"


def test_killed_again_and_again_it_still_ends(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(24 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.bytes_per_second = 40 * MIB
    for part in (1, 2, 3):
        run = start(uri)
        origin.wait_until_sent("/m/a.gguf", part * len(content) // 4)
        run.kill(signal.SIGKILL)
    start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}


def test_sigterm_ends_it_cleanly_and_keeps_the_bytes(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(16 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.bytes_per_second = 16 * MIB
    run = start(uri)
    origin.wait_until_sent("/m/a.gguf", 4 * MIB)
    run.process.send_signal(signal.SIGTERM)
    run.failed(1, "Stopped")
    assert (cache / ".partial/a.gguf.part").stat().st_size > 2 * MIB
    origin.bytes_per_second = None
    start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}


def test_answers_that_end_early_are_gone_on_with(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(2 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.next("/m/a.gguf", Answer(), Answer(cut=MIB), Answer(cut=MIB // 2), Answer(cut=1000))
    words = start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}
    offsets = [asked.headers.get("range") for asked in origin.requests("/m/a.gguf")]
    assert offsets == [
        "bytes=0-0",
        None,
        f"bytes={MIB}-",
        f"bytes={MIB + MIB // 2}-",
        f"bytes={MIB + MIB // 2 + 1000}-",
    ]
    assert words["bytesFetched"] == len(content)


def test_a_body_of_no_stated_length_that_breaks_off_is_not_taken_for_whole(
    origin: Origin, start: Start, cache: Path
) -> None:
    content = some_bytes(MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.tells_length, origin.ignores_ranges = False, True
    origin.next("/m/a.gguf", Answer(), Answer(cut=MIB // 2))
    start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}


def test_429_waits_as_long_as_it_is_told(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": b"weights"})
    origin.next("/m/a.gguf", Answer(), Answer(429, {"Retry-After": "2"}))
    start(uri).published()
    _, refused, served = origin.requests("/m/a.gguf")
    assert 1.9 <= served.at - refused.at < 4.0


def test_503_bursts_are_outlasted(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.next("/m/SHA256SUMS", Answer(503, {"Retry-After": "0"}), Answer(503))
    origin.next(
        "/m/a.gguf", Answer(503), Answer(502), Answer(503), Answer(cut=MIB // 2), Answer(500), Answer(504)
    )
    start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}
    assert origin.sent["/m/a.gguf"] < len(content) + 100


def test_a_source_that_stays_down_is_worth_another_job(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": b"weights"})
    origin.next("/m/a.gguf", *[Answer(503, {"Retry-After": "0"})] * 50)
    message = start(uri).failed(1, "SourceUnavailable")
    assert "503" in message
    assert len(origin.requests("/m/a.gguf")) == 1 + 5  # the size, and five tries
    assert not (cache / "model").exists()


def test_a_server_without_ranges_sends_the_file_anew(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(2 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.ignores_ranges = True
    origin.next("/m/a.gguf", Answer(), Answer(cut=MIB))
    words = start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}
    assert words["bytesFetched"] == len(content) + MIB


def test_another_version_begins_anew(origin: Origin, start: Start, cache: Path) -> None:
    """The ETag of what lies there is not the source's any more: no byte of the old one survives."""
    old, new = some_bytes(8 * MIB, seed=1), some_bytes(8 * MIB, seed=2)
    uri = origin.folder("m", {"a.gguf": old})
    origin.bytes_per_second = 16 * MIB
    run = start(uri)
    origin.wait_until_sent("/m/a.gguf", 4 * MIB)
    run.kill(signal.SIGKILL)
    origin.bytes_per_second = None
    origin.folder("m", {"a.gguf": new})
    start(uri).published()
    assert tree(cache / "model") == {"a.gguf": new}
    asked = origin.requests("/m/a.gguf")[-1].headers
    assert asked["if-range"] == origin.etag(old)


def test_a_206_of_another_version_is_not_mixed_in(origin: Origin, start: Start, cache: Path) -> None:
    """A server that heeds Range and ignores If-Range: its ETag tells, before a byte is written."""
    old, new = some_bytes(2 * MIB, seed=1), some_bytes(2 * MIB, seed=2)
    uri = origin.folder("m", {"a.gguf": new})
    origin.ignores_if_range = True
    origin.next("/m/a.gguf", Answer(), Answer(body=old, cut=MIB, headers={"ETag": '"old"'}))
    words = start(uri).published()
    assert tree(cache / "model") == {"a.gguf": new}
    assert (
        words["bytesFetched"] == MIB + 2 * MIB
    )  # half of the old, all of the new, no half of the new in between


def test_a_part_of_another_place_is_not_taken(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(2 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    shifted = Answer(headers={"Content-Range": f"bytes 5-{MIB}/{2 * MIB}"})
    origin.next("/m/a.gguf", Answer(), Answer(cut=MIB), shifted)
    words = start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}
    assert words["bytesFetched"] == len(content)


def test_wrong_bytes_once_are_fetched_again(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.next("/m/a.gguf", Answer(), Answer(body=some_bytes(MIB, seed=9)))
    start(uri).published()
    assert tree(cache / "model") == {"a.gguf": content}


def test_wrong_bytes_twice_are_the_source_s_fault(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(MIB)})
    origin.files["/m/a.gguf"] = some_bytes(MIB, seed=9)
    message = start(uri).failed(2, "DigestMismatch")
    assert "a.gguf" in message
    assert not (cache / "model").exists()
    assert origin.sent["/m/a.gguf"] == 2 * MIB + 1  # the first byte tells the size


def test_more_bytes_than_announced_do_not_reach_the_disk(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(MIB)
    origin.files["/m/a.gguf"] = content + b"x" * MIB
    files = [{"path": "a.gguf", "sizeBytes": len(content), "sha256": sha256(content)}]
    start(f"{origin.url}/m/", files=files).failed(2, "DigestMismatch")
    assert (cache / ".partial/a.gguf.part").stat().st_size <= MIB


def test_what_lies_there_of_another_revision_is_not_believed(
    origin: Origin, start: Start, cache: Path
) -> None:
    """A file was whole and right in a run that failed later; then the list of files changed."""
    old = {
        "a.gguf": some_bytes(1000, 1),
        "b.gguf": some_bytes(1000, 2),
        "gone.json": b"{}",
        "x/y.json": b"{}",
    }
    uri = origin.folder("m", old)
    origin.next("/m/b.gguf", *[Answer(503, {"Retry-After": "0"})] * 50)
    start(uri).failed(1, "SourceUnavailable")
    assert (cache / ".partial/a.gguf").read_bytes() == old["a.gguf"]
    origin.script.clear()
    new = {"a.gguf": some_bytes(1000, 3), "b.gguf": some_bytes(1000, 4), "x": b"", "z.gguf.part": b"p"}
    uri = origin.folder("m", new)
    start(uri, include=["*"]).published()
    assert tree(cache / "model") == new


def test_published_weights_are_not_fetched_again(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(MIB)})
    first = start(uri).published()
    asked = len(origin.requests("/m/a.gguf"))
    again = start(uri).published()
    assert again["bytesFetched"] == 0
    assert again["manifestSHA256"] == first["manifestSHA256"]
    assert again["bytesTotal"] == first["bytesTotal"] == MIB
    assert len(origin.requests("/m/a.gguf")) == asked


def test_exact_files_that_are_published_need_no_source(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(1000)
    origin.files["/m/a.gguf"] = content
    files = [{"path": "a.gguf", "sha256": sha256(content)}]
    start(f"{origin.url}/m/", files=files).published()
    before = len(origin.asked)
    assert start(f"{origin.url}/m/", files=files).published()["bytesFetched"] == 0
    assert len(origin.asked) == before


def test_a_published_file_that_was_cut_off_is_mended(origin: Origin, start: Start, cache: Path) -> None:
    files = {"a.gguf": some_bytes(MIB), "b.json": b"{}"}
    uri = origin.folder("m", files)
    start(uri).published()
    with (cache / "model/a.gguf").open("r+b") as stream:
        stream.truncate(1000)
    start(uri).published()
    assert tree(cache / "model") == files


def test_weights_of_another_list_take_the_place_of_the_old(origin: Origin, start: Start, cache: Path) -> None:
    start(origin.folder("m", {"a.gguf": b"old", "b.gguf": b"old"})).published()
    del origin.files["/m/b.gguf"]
    start(origin.folder("m", {"a.gguf": b"new"})).published()
    assert tree(cache / "model") == {"a.gguf": b"new"}
    assert sorted(path.name for path in cache.iterdir()) == [".lock", ".preheat-verified", "model"]


def test_two_at_once_fetch_once(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(8 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.bytes_per_second = 16 * MIB
    runs = [start(uri), start(uri)]
    fetched = sorted(run.published()["bytesFetched"] for run in runs)
    assert fetched == [0, len(content)]
    assert tree(cache / "model") == {"a.gguf": content}


def test_one_that_waits_for_another_hears_sigterm(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": some_bytes(8 * MIB)})
    origin.bytes_per_second = MIB
    first = start(uri)
    origin.wait_until_sent("/m/a.gguf", MIB // 4)
    second = start(uri)
    deadline = time.monotonic() + 20
    while "another warmer" not in second.get("/progress").json()["message"]:
        assert time.monotonic() < deadline
    second.process.send_signal(signal.SIGTERM)
    second.failed(1, "Stopped")
    assert first.process.poll() is None


def test_the_speed_limit_holds(origin: Origin, start: Start, cache: Path) -> None:
    files = {"a.gguf": some_bytes(2 * MIB), "b.gguf": some_bytes(2 * MIB)}
    words = start(origin.folder("m", files), maxBytesPerSecond=3 * MIB).published()
    assert 1.2 <= words["seconds"] < 6


def test_files_come_side_by_side(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {f"{n}.gguf": some_bytes(2 * MIB, n) for n in range(4)})
    origin.bytes_per_second = 2 * MIB  # each connection
    words = start(uri, parallelism=4).published()
    assert words["seconds"] < 3


@pytest.mark.parametrize("announced", [True, False], ids=["before it begins", "when it is told by nobody"])
def test_a_full_disk_is_told_with_numbers(origin: Origin, start: Start, cache: Path, announced: bool) -> None:
    """Before: more than this disk has. During: write(2) fails, as the kernel does it (a limit of its own)."""
    content = some_bytes(4 * MIB)
    origin.files["/m/a.gguf"] = content
    file = {"path": "a.gguf", "sha256": sha256(content)}
    if announced:
        file["sizeBytes"] = 10**17  # type: ignore[assignment]
        message = start(f"{origin.url}/m/", files=[file]).failed(1, "DiskFull")
        assert "100,000,000,067,108,864 are needed" in message
        assert origin.asked == []
    else:
        message = start(f"{origin.url}/m/", files=[file], file_limit=MIB).failed(1, "DiskFull")
        assert len(origin.requests("/m/a.gguf")) == 2  # the size, and one try: no retries against a full disk
        assert (cache / ".partial/a.gguf.part").stat().st_size == MIB
        # with room again it goes on from what fitted
        words = start(f"{origin.url}/m/", files=[file]).published()
        assert words["bytesFetched"] == 3 * MIB
    assert "bytes" in message
    assert "free" in message


def test_progress_and_metrics_tell_how_far_it_is(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(8 * MIB)
    uri = origin.folder("m", {"a.gguf": content})
    origin.bytes_per_second = 3 * MIB
    run = start(uri)
    seen = []
    deadline = time.monotonic() + 20
    while not seen or seen[-1]["bytesDone"] < 6 * MIB:
        assert time.monotonic() < deadline
        seen.append(run.get("/progress").json())
    metrics = run.get("/metrics").text
    assert run.get("/healthz").status_code == 200
    assert run.get("/else").status_code == 404
    run.published()
    done = [report["bytesDone"] for report in seen]
    assert done == sorted(done)
    last = seen[-1]
    assert (last["schema"], last["state"], last["bytesTotal"], last["filesTotal"]) == (
        1,
        "Fetching",
        len(content),
        1,
    )
    assert 1.5 * MIB < last["bytesPerSecond"] < 6 * MIB
    assert 0 < last["remainingSeconds"] < 3
    assert all(report["remainingSeconds"] is None for report in seen if report["bytesDone"] == 0)
    assert "preheat_warmer_expected_bytes 8.388608e+06" in metrics
    assert "preheat_warmer_fetched_bytes_total" in metrics
    told = [entry["percent"] for entry in run.log if entry["message"] == "progress"]
    assert told == sorted(set(told))
    assert [run.log[0]["message"], run.log[-1]["message"]] == ["started", "published"]
