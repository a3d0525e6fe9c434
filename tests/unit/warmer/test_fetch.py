"""However a source misbehaves, the file is right in the end or the run ends with a reason. Nothing sleeps."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.errors import Changed, Hopeless, Passing, Reason, WarmerError
from preheat_warmer.fetch import Fetcher, Pace
from preheat_warmer.manifest import File, Manifest
from preheat_warmer.part import Lane, Part
from preheat_warmer.progress import Progress
from preheat_warmer.sources.base import Transfer

CONTENT = bytes(range(256)) * 16


@dataclass
class FakeSource:
    """Serves ``content``; each entry of ``script`` says how one try goes, then all go well."""

    content: bytes = CONTENT
    script: list[str] = field(default_factory=list)
    version: str = "1"
    tells_total: bool = True
    tries: int = 0

    async def list(self) -> Manifest:
        return Manifest(())

    async def size(self, file: File) -> int | None:
        return None

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        how = self.script[self.tries] if self.tries < len(self.script) else "well"
        self.tries += 1
        if how == "down":
            raise Passing(Reason.SOURCE_UNAVAILABLE, "down")
        if how == "new version":
            self.version += "'"
        if offset and version and version != self.version:
            raise Changed(file.path)
        start = 0 if how == "ignores range" else offset
        body = self.content if how != "wrong" else self.content[::-1]
        if how == "too much":
            body += b"more"
        total = len(self.content) if self.tells_total else None
        if how not in {"ignores range", "ignores end"}:
            body = body[:end]
        yield Transfer(start, self.version, total, self._chunks(body[start:], how))

    async def _chunks(self, body: bytes, how: str) -> AsyncIterator[bytes]:
        if how.startswith("cut"):
            yield body[: len(body) // 2]
            if how == "cut loudly":
                raise Passing(Reason.SOURCE_UNAVAILABLE, "connection lost")
            return
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]


def a_file(content: bytes = CONTENT, *, size: bool = True, git: bool = False) -> File:
    if git:
        blob = b"blob %d\0" % len(content) + content
        return File("d/a", len(content), None, hashlib.sha1(blob).hexdigest())
    return File("d/a", len(content) if size else None, hashlib.sha256(content).hexdigest())


def run(work: Coroutine[None, None, None]) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def fetch(
    source: FakeSource, folder: Path, file: File, progress: Progress | None = None, connections: int = 1
) -> list[float]:
    """Fetch; return how long it would have waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    fetcher = Fetcher(source, folder, progress or Progress(), Pace(None), connections, sleep)
    run(fetcher.fetch(file))
    return waited


HOWS = [
    "well",
    "down",
    "cut",
    "cut loudly",
    "wrong",
    "too much",
    "ignores range",
    "ignores end",
    "new version",
]


@contextmanager
def small_pieces() -> Iterator[None]:
    """Let a file of 4 KiB be fetched as one of gigabytes is: in pieces, over several connections."""
    with (
        patch("preheat_warmer.spans.PIECE_BYTES_LEAST", 256),
        patch("preheat_warmer.spans.PIECE_BYTES_MOST", 600),
        patch("preheat_warmer.part.NOTE_BYTES_LEAST", 64),
    ):
        yield


def test_a_piece_that_was_chosen_before_the_source_ignored_ranges_is_not_fetched(tmp_path: Path) -> None:
    """It would be written over bytes that are hashed already, and the digest would not tell."""
    plain = Part.make_sparse

    def slow(part: Part) -> None:
        deadline = time.monotonic() + 5
        while part.hashed < len(CONTENT) and time.monotonic() < deadline:
            time.sleep(0.001)  # the other connection is what is waited for
        plain(part)

    source = FakeSource(script=["cut", "ignores range", "wrong"])
    with small_pieces(), patch.object(Part, "make_sparse", slow):
        fetch(source, tmp_path, a_file(), connections=3)
    assert (tmp_path / "d/a").read_bytes() == CONTENT


@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(st.sampled_from(HOWS), max_size=12),
    left=st.none()
    | st.integers(0, len(CONTENT) + 10).map(lambda n: (CONTENT + b"0123456789")[:n])
    | st.binary(max_size=50),
    size=st.booleans(),
    git=st.booleans(),
    finished=st.booleans(),
    connections=st.sampled_from([1, 1, 3, 8]),
)
def test_a_file_is_right_or_the_run_fails_in_words(
    script: list[str], left: bytes | None, size: bool, git: bool, finished: bool, connections: int
) -> None:
    source, progress, file = FakeSource(script=script), Progress(), a_file(size=size, git=git)
    with TemporaryDirectory() as name, small_pieces() if connections > 1 else nullcontext():
        path, part = Path(name, "d/a"), Path(name, "d/a.part")
        if left is not None:
            path.parent.mkdir()
            (path if finished else part).write_bytes(left)
        problem = None
        try:
            fetch(source, Path(name), file, progress, connections)
        except WarmerError as error:
            problem = error
        if problem is None:
            assert path.read_bytes() == CONTENT
        else:
            assert problem.reason in {Reason.DIGEST_MISMATCH, Reason.SOURCE_UNAVAILABLE}
            assert len(set(script) - {"well"}) > 0, "failed although nothing went wrong"
        # what is counted is what is there; over several connections a file has its final size, with holes
        there = (part if problem else path).stat().st_size
        has_holes = problem is not None and connections > 1
        assert progress.bytes_done == there or (has_holes and progress.bytes_done < there)
        assert path.exists() is not part.exists()


@pytest.mark.parametrize("how", ["down", "cut", "new version", "ignores range"])
def test_a_source_that_gets_no_further_is_given_up(tmp_path: Path, how: str) -> None:
    script = ["cut"] + ["ignores range cut" if how == "ignores range" else how] * 100
    source = FakeSource(script=script)
    if how == "cut":
        source.content = b"x"  # half of one byte is none
    if how in {"new version", "ignores range"}:
        source = _Restless(script=script)
    with pytest.raises(Passing) as caught:
        fetch(source, tmp_path, a_file(source.content))
    assert caught.value.reason is Reason.SOURCE_UNAVAILABLE
    assert source.tries <= 12


class _Restless(FakeSource):
    """Comes half-way each time, and begins at the start each time."""

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        self.tries += 1
        if offset and "new version" in self.script:
            raise Changed(file.path)
        yield Transfer(0, str(self.tries), None, self._chunks(self.content, "cut loudly"))


def test_five_tries_without_a_byte_and_the_pauses_grow(tmp_path: Path) -> None:
    source = FakeSource(script=["down"] * 100)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    with pytest.raises(Passing):
        run(Fetcher(source, tmp_path, Progress(), Pace(None), 1, sleep).fetch(a_file()))
    assert source.tries == 5
    assert waited == sorted(waited)
    assert len(waited) == 4


def test_progress_starts_the_count_anew(tmp_path: Path) -> None:
    script = (["down"] * 4 + ["cut"]) * 3
    fetch(FakeSource(script=script), tmp_path, a_file())
    assert (tmp_path / "d/a").read_bytes() == CONTENT


def test_the_peer_s_wish_to_wait_is_heeded(tmp_path: Path) -> None:
    class Busy(FakeSource):
        @asynccontextmanager
        async def open(
            self, file: File, offset: int, version: str, end: int | None = None
        ) -> AsyncIterator[Transfer]:
            if self.tries == 0:
                self.tries += 1
                raise Passing(Reason.SOURCE_UNAVAILABLE, "429", 77.0)
            async with super().open(file, offset, version, end) as transfer:
                yield transfer

    assert fetch(Busy(), tmp_path, a_file()) == [77.0]


def test_what_is_there_is_read_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(CONTENT[:3000])
    progress = Progress()
    fetch(FakeSource(), tmp_path, a_file(), progress)
    assert progress.bytes_fetched == len(CONTENT) - 3000
    source = FakeSource()
    fetch(source, tmp_path, a_file())
    assert source.tries == 0


def test_old_bytes_on_our_disk_do_not_cost_the_source_a_try(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(b"rotten" * 10)
    fetch(FakeSource(script=["well", "wrong"]), tmp_path, a_file())
    assert (tmp_path / "d/a").read_bytes() == CONTENT


def test_wrong_twice_is_final_and_leaves_nothing(tmp_path: Path) -> None:
    source = FakeSource(script=["wrong"] * 9)
    with pytest.raises(Hopeless) as caught:
        fetch(source, tmp_path, a_file())
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert source.tries == 2
    assert (tmp_path / "d/a.part").read_bytes() == b""
    assert not (tmp_path / "d/a").exists()


def test_pieces_come_side_by_side_of_one_version_and_each_byte_once(tmp_path: Path) -> None:
    class Counting(FakeSource):
        now = most = sent = 0

        @asynccontextmanager
        async def open(
            self, file: File, offset: int, version: str, end: int | None = None
        ) -> AsyncIterator[Transfer]:
            assert (version == "1") == (self.tries > 0), "a piece was asked for before the version was known"
            self.now += 1
            self.most = max(self.most, self.now)
            self.sent += (end or len(self.content)) - offset
            async with super().open(file, offset, version, end) as transfer:
                await asyncio.sleep(0)
                yield transfer
            self.now -= 1

    source, progress = Counting(), Progress()
    with small_pieces():
        fetch(source, tmp_path, a_file(), progress, connections=4)
    assert source.most == 4
    assert source.sent == progress.bytes_fetched == progress.bytes_done == len(CONTENT)
    assert (tmp_path / "d/a").read_bytes() == CONTENT


def test_while_other_files_are_left_each_has_its_share() -> None:
    progress = Progress()
    fetcher = Fetcher(FakeSource(), Path(), progress, Pace(None), 8)
    shares = []
    progress.files_total = 10
    for progress.files_done in (0, 3, 6, 7, 8, 9):
        shares.append(fetcher.share)
    assert shares == [1, 1, 2, 2, 4, 8]


def test_pieces_that_were_there_are_not_fetched_again(tmp_path: Path) -> None:
    """Killed with holes in the file: what fills them comes, and nothing else."""
    part = Part(a_file(), tmp_path, 4)
    part.begin()
    part.make_sparse()
    for start, end in ((0, 500), (1000, 2000), (3000, 4096)):
        lane = Lane(start, end)
        part.write(lane, CONTENT[start:end])
        part.note(lane)
    part.close()
    progress = Progress()
    with small_pieces():
        fetch(FakeSource(), tmp_path, a_file(), progress, connections=4)
    assert progress.bytes_fetched == 500 + 1000
    assert (tmp_path / "d/a").read_bytes() == CONTENT


def test_what_lies_behind_the_hashed_bytes_is_not_published(tmp_path: Path) -> None:
    """Holes were left by a run that knew the size; this one does not know it."""
    longer = File("d/a", 2 * len(CONTENT), hashlib.sha256(CONTENT * 2).hexdigest())
    part = Part(longer, tmp_path, 4)
    part.begin()
    part.make_sparse()
    part.close()
    fetch(FakeSource(tells_total=False), tmp_path, a_file(size=False))
    assert (tmp_path / "d/a").read_bytes() == CONTENT


def test_a_source_without_ranges_is_left_to_one_connection(tmp_path: Path) -> None:
    source, progress = FakeSource(script=["ignores range"] * 100), Progress()
    with small_pieces():
        fetch(source, tmp_path, a_file(), progress, connections=4)
    assert (tmp_path / "d/a").read_bytes() == CONTENT


def test_a_file_of_a_size_nobody_tells(tmp_path: Path) -> None:
    source = FakeSource(tells_total=False)
    fetch(source, tmp_path, a_file(size=False))
    assert (tmp_path / "d/a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "reason"), [(28, Reason.DISK_FULL), (122, Reason.DISK_FULL), (5, Reason.DISK_ERROR)]
)
def test_the_kernel_s_refusal_is_put_into_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: Reason
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr("preheat_warmer.fetch.Part.write", refuse)
    source = FakeSource()
    with pytest.raises(Passing) as caught:
        fetch(source, tmp_path, a_file())
    assert caught.value.reason is reason
    assert source.tries == 1


@pytest.mark.parametrize("counts", [[500] * 10, [5000], [1] * 50])
def test_the_pace_is_kept_by_all_files_together(counts: list[int]) -> None:
    """Virtual time: the clock moves only by what is slept."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(1000.0, lambda: now, sleep)
    for count in counts:
        run(pace.take(count))
    assert now == pytest.approx(sum(counts) / 1000.0)


def test_a_pause_is_not_made_up_for_without_bound() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(1000.0, lambda: now, sleep)
    run(pace.take(1000))
    now += 3600.0
    before = now
    for _ in range(10):
        run(pace.take(1000))
    assert now - before == pytest.approx(9.0)  # one second's worth at most is saved up


class PipedSource(FakeSource):
    """Brings bytes from memory through a pipe, and counts how many connections are open at a time."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.now = self.most = 0
        self.may_wait: list[int] = []
        """How many bytes may wait to be read, as each pipe was told."""

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        self.now += 1
        self.most = max(self.most, self.now)
        pipe = Memory(memoryview(self.content)[offset:end], self.may_wait)
        try:
            yield Transfer(offset, "1", len(self.content), self._chunks(b"", ""), pipe=pipe)
        finally:
            self.now -= 1


class Memory:
    """A pipe."""

    def __init__(self, left: memoryview, may_wait: list[int]) -> None:
        self.left = left
        self.may_wait = may_wait

    def read_into(self, memory: memoryview) -> int:
        count = min(len(memory), len(self.left))
        memory[:count] = self.left[:count]
        self.left = self.left[count:]
        return count

    def break_off(self) -> None: ...

    def wait_short(self, count: int) -> None:
        self.may_wait.append(count)


@pytest.mark.parametrize(
    ("enough", "straight", "several"), [(0.0, True, False), (1e18, True, True), (0.0, False, True)]
)
def test_a_connection_that_is_fast_enough_is_left_alone(
    tmp_path: Path, enough: float, straight: bool, several: bool
) -> None:
    """Where bytes go past the page cache: else they are near when the digest reads them back."""
    content = random.Random(2).randbytes((12 << 20) + 77)
    source = PipedSource(content)
    with (
        patch("preheat_warmer.fetch.QUICK_BYTES_PER_SECOND", enough),
        patch("preheat_warmer.part.PIPELINE_BYTES_LEAST", 1),
        patch("preheat_warmer.spans.PIECE_BYTES_LEAST", 1 << 20),
        patch("preheat_warmer.fetch.TURN_BYTES", 1 << 20),
        patch.object(Part, "is_straight", straight),
    ):
        run(Fetcher(source, tmp_path, Progress(), Pace(None), connections=4).fetch(a_file(content)))
    assert (tmp_path / "d/a").read_bytes() == content
    assert (source.most > 1) is several
    together, each = len(content) // 400, 16 << 10
    assert set(source.may_wait) - {together} == ({each} if several else set()), "a kill loses so much of them"
