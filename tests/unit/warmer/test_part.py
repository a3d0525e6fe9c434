"""What is noted of a file is on the disk, however the process ended; and the note is no proof."""

import errno
import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer import part as module
from preheat_warmer.manifest import File
from preheat_warmer.part import Lane, Noted, Part, note_bytes, parse_note, stage_bytes
from preheat_warmer.publish import NOTES
from preheat_warmer.spans import covered, joined
from preheat_warmer.straight import Straight


@pytest.fixture(autouse=True, scope="module")
def small_files_go_through_a_pipeline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIPELINE_BYTES_LEAST", 1)
        yield


CONTENT = bytes(range(256)) * 16
SIZE = len(CONTENT)
FILE = File("d/a", SIZE, hashlib.sha256(CONTENT).hexdigest())


def a_part(folder: Path) -> Part:
    part = Part(FILE, folder, 1)
    part.note_bytes = 64  # every so many bytes a line
    part.begin()
    return part


def note_of(folder: Path) -> Path:
    return folder / NOTES / hashlib.sha256(b"d/a").hexdigest()


STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 300)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, cut=st.integers(0, 400), version=st.text(max_size=5))
def test_after_a_kill_at_any_byte_only_right_bytes_are_believed(
    steps: list[tuple[int, int]], cut: int, version: str
) -> None:
    """Three connections write; then the process is gone, and the end of the note with it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        part = a_part(folder)
        part.note_version(version)
        part.make_sparse()
        head = note_of(folder).stat().st_size
        lanes = [Lane(at, at + 1300) for at in (0, 1365, 2730)]
        written = 0
        for which, count in steps:
            lane = lanes[which]
            chunk = CONTENT[lane.at : min(lane.at + count, lane.end or 0)]
            part.write(lane, chunk)
            written += len(chunk)
        part.close()
        note = note_of(folder).read_bytes()
        note_of(folder).write_bytes(note[: max(head, len(note) - cut)])
        again = a_part(folder)
        content = again.path.read_bytes()
        assert all(content[start:end] == CONTENT[start:end] for start, end in again.there)
        assert again.version == version
        if cut == 0:
            assert written - covered(again.there) <= 3 * 64
        again.close()


@given(st.integers(0, 10**4), st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 10**4)), max_size=5))
def test_a_note_that_was_cut_off_says_less_and_nothing_else(cut: int, spans: list[tuple[int, int]]) -> None:
    lines = "".join(f"{start} {end}\n" for start, end in spans)
    text = f'{{"version": "\\"1\\"", "sparse": true}}\n{lines}'
    whole, part = parse_note(text), parse_note(text[:cut])
    assert whole == Noted('"1"', sparse=True, spans=joined(spans))
    assert part.version in {"", '"1"'}
    assert joined(whole.spans, *part.spans) == whole.spans


@pytest.mark.parametrize(
    "text", ["", "\n", '"etag"', '"etag"\n', "{}\n", "[]\n", '{"version": 1, "sparse": true}\n1\n', "1 2\n"]
)
def test_of_an_unreadable_note_nothing_is_believed(text: str) -> None:
    assert parse_note(text) == Noted("", sparse=False, spans=())


def test_spans_beyond_the_file_s_end_are_not_believed(tmp_path: Path) -> None:
    part = a_part(tmp_path)
    part.make_sparse()
    part.close()
    note_of(tmp_path).write_text('{"version": "", "sparse": true}\n0 99999\n')
    part.path.write_bytes(CONTENT[:100])
    again = a_part(tmp_path)
    assert again.there == ((0, 100),)
    again.close()


def test_without_holes_the_length_says_what_is_there(tmp_path: Path) -> None:
    part = a_part(tmp_path)
    part.write(Lane(0, SIZE), CONTENT[:777])
    part.close()
    again = a_part(tmp_path)
    assert (again.there, again.sparse) == (((0, 777),), False)
    again.close()


def test_a_file_that_lost_bytes_is_a_disk_error_not_an_endless_read(tmp_path: Path) -> None:
    part = a_part(tmp_path)
    with pytest.raises(OSError, match="error"):
        part.hash_to(10)
    part.close()


@pytest.mark.parametrize(
    ("size", "connections", "expected"),
    [
        (None, 4, 16 << 10),
        (100, 1, 16 << 10),
        (1 << 30, 4, (1 << 30) // 1600),
        (1 << 30, 64, (1 << 30) // 25600),
        (96 << 20, 64, 16 << 10),
        (1 << 40, 4, 1 << 20),
    ],
)
def test_a_kill_loses_little(size: int | None, connections: int, expected: int) -> None:
    assert note_bytes(size, connections) == expected


class Told:
    """A pipe that brings as many bytes at a time as it is told, and breaks after the last of them."""

    def __init__(self, content: bytes, counts: list[int]) -> None:
        self.content, self.counts, self.at = content, iter(counts), 0

    def read_into(self, memory: memoryview) -> int:
        count = min(next(self.counts, 0), len(memory), len(self.content) - self.at)
        if count == 0 and self.at < len(self.content):
            raise ConnectionError
        memory[:count] = self.content[self.at : self.at + count]
        self.at += count
        return count

    def break_off(self) -> None: ...

    def wait_short(self, count: int) -> None: ...


LONG = random.Random(1).randbytes(300_000)
LONG_FILE = File("a", len(LONG), hashlib.sha256(LONG).hexdigest())


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 20_000),
    counts=st.lists(st.integers(1, 100_000), max_size=12),
    limit=st.sampled_from([1, 4095, 4096, 70_000, 1 << 20]),
    blind=st.booleans(),
    alone=st.booleans(),
)
def test_what_goes_past_the_page_cache_lies_where_it_belongs(
    start: int, counts: list[int], limit: int, blind: bool, alone: bool
) -> None:
    """From any place on, in pieces of any length, until the pipe breaks; ``blind``: the file system turns out not to do it."""
    with TemporaryDirectory(
        dir=Path(__file__).parent
    ) as name:  # where files are, on a disk; /tmp may be memory
        part = Part(LONG_FILE, Path(name), 1)
        part.begin()
        part.write(Lane(0, start), LONG[:start])
        lane = Lane(start, len(LONG))
        pipe = Told(LONG[start:], counts)
        if blind and part._straight is not None:
            part._straight.usable = False
        part.there = ((0, start),)
        fill = part.fill_alone if alone else part.fill
        with suppress(ConnectionError):
            while fill(lane, pipe, limit):
                pass
        assert lane.at == start + pipe.at  # what had come is written, though the pipe broke
        content = part.path.read_bytes()
        assert content[: lane.at] == LONG[: lane.at]
        assert len(content) == (len(LONG) if part.sparse else lane.at)
        assert part.hashed == lane.at
        part.there = ((0, lane.at),)
        assert part.right is (lane.at == len(LONG))
        part.close()


def test_whole_blocks_go_past_the_page_cache_where_there_is_a_block_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file system this runs on: what is asked of it is what counts."""
    opened: list[int] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, *rest: opened.append(flags) or real(path, flags & ~os.O_DIRECT, *rest)
    )
    for major, wanted in ((8, True), (0, False)):
        opened.clear()
        monkeypatch.setattr(os, "major", lambda _device, major=major: major)
        (tmp_path / "f").touch()
        file = Straight(tmp_path / "f")
        assert any(flags & os.O_DIRECT for flags in opened) is wanted is file.usable
        written = file.write(memoryview(bytes(10_000)), 4096)
        assert written == (8192 if wanted else 0)
        assert file.write(memoryview(bytes(10_000)), 4097) == 0
        file.close()


def test_a_file_system_with_larger_blocks_is_written_to_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "f").touch()
    file = Straight(tmp_path / "f")
    file.usable = True
    monkeypatch.setattr(os, "pwrite", refused)
    assert file.write(memoryview(bytes(4096)), 0) == 0
    assert not file.usable
    file.close()


def test_between_turns_nothing_lies_in_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is long enough after a power cut has no holes: odd ends are written when the pipe ends, and not before."""
    buffered: list[tuple[int, int]] = []
    real = os.pwrite

    def pwrite(number: int, piece: memoryview, at: int) -> int:
        if number == part._fd:
            buffered.append((at, len(piece)))
        return real(number, piece, at)

    part = Part(LONG_FILE, tmp_path, 1)
    part.begin()
    assert part._straight is not None
    part._straight.usable = True
    part._straight._fd = os.dup(
        part._fd
    )  # whatever file system this is: what counts is where it is written to
    monkeypatch.setattr(os, "pwrite", pwrite)
    lane, pipe = Lane(0, len(LONG)), Told(LONG, [70_001] * 9)
    for fill in (part.fill, part.fill_alone):
        for _ in range(2):
            assert fill(lane, pipe, 60_001)
            part.there = ((0, lane.at),)
            assert lane.at % 4096 == 0
            assert lane.at + len(lane.odd) == pipe.at
    assert buffered == []
    while part.fill(lane, pipe, 60_001):
        pass
    assert buffered == [(len(LONG) // 4096 * 4096, len(LONG) % 4096)]
    assert part.path.read_bytes() == LONG
    part.close()


def test_a_disk_that_fails_under_a_pipeline_is_told_and_no_byte_behind_the_hole_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part(LONG_FILE, tmp_path, 1)
    part.begin()
    assert part._straight is not None
    part._straight.usable = True
    lane = Lane(0, len(LONG))
    stage = stage_bytes(len(LONG), part.note_bytes)

    def put(piece: memoryview, at: int, *, straight: bool) -> int:
        if at >= stage:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(part._fd, piece, at)

    monkeypatch.setattr(part, "_put", put)
    with pytest.raises(OSError, match="No space left"):
        part.fill_alone(lane, Told(LONG, [1 << 20] * 9), len(LONG))
    assert lane.at == stage
    part.note(lane)
    part.close()
    again = Part(LONG_FILE, tmp_path, 1)
    again.begin()
    assert again.there == ((0, stage),)
    again.close()


@pytest.mark.parametrize(
    ("note", "expected"), [(16 << 10, 64 << 10), (335_544, 331_776), (1 << 20, 512 << 10)]
)
def test_no_more_is_gathered_than_a_kill_may_lose(note: int, expected: int) -> None:
    assert stage_bytes(1 << 30, note) == expected
    assert stage_bytes(None, note) == 512 << 10
