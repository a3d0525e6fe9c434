"""The cases: what is done to a download, and what must come of it."""

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.chaos.fetch.server import WELL, Answer, Asked, Server
from e2e.chaos.fetch.warmer import Ended, Warmer

MIB = 1 << 20
AGAIN_AT_MOST = 0.01
AGAIN_LEAST_BYTES = 640 << 10
"""What a kill may cost in any case: some memory of four connections and the kernel's of each. 1 % of 64 MB."""
"""What may come a second time after a kill, of all bytes, where nothing that came was wrong."""
BYTES_PER_SECOND = 100e6
"""Of the server: well below what the warmer takes. Else bytes pile up in the kernel's buffers, some megabytes for each
connection, and a kill loses them whoever the client is."""
RUNS_AT_MOST = 12
JOB_PAUSE_SECONDS = 1.0
"""Between two runs of one Job. A kubelet waits longer, and longer each time."""
SPARE = 64 * MIB
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What to run. ``scale`` is the size of the files, 1 for 176 MiB in all."""

    seed: int = 1
    kills: int = 20
    scale: float = 1.0
    away_seconds: float = 60.0
    cases: tuple[str, ...] = ()
    plant: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case. ``problem`` is empty when it is as it must be; ``again``: share that came again."""

    case: str
    number: int
    ended: str
    problem: str
    again: float
    runs: int
    seconds: float

    @property
    def skipped(self) -> bool:
        return self.ended == "skipped"


@dataclass(slots=True)
class Stage:
    """A server and a folder for one case."""

    server: Server
    warmer: Warmer
    random: random.Random
    away_seconds: float

    def kill_at(self, count: int) -> bool:
        """Start a run and kill it when so many bytes were sent; tell whether it was still running."""
        process = self.warmer.start()
        self.server.wait_until_sent(count, WAIT_SECONDS)
        process.kill()
        return process.wait() != 0

    def job(self) -> Ended:
        """Run as a Job does: again as long as that may help."""
        for _ in range(RUNS_AT_MOST):
            ended = self.warmer.run()
            if ended.code != 1:
                break
            time.sleep(JOB_PAUSE_SECONDS)
        return ended

    def note_files(self) -> list[Path]:
        return sorted((self.warmer.cache / ".partial/.preheat-parts").glob("*"))


@dataclass(frozen=True, slots=True)
class Case:
    """``act`` does it and returns how the last run ended; ``ends``: how it may end."""

    act: Callable[[Stage], Ended]
    ends: tuple[str, ...] = ("Published",)
    kills: int | None = 1
    """At most 1 % may come again for each; None: no bound."""
    folder: str = "disk"


def killed(stage: Stage) -> Ended:
    """kill -9 after a random byte, then one more run."""
    stage.kill_at(stage.random.randrange(stage.server.total))
    return stage.warmer.run()


def killed_five_times(stage: Stage) -> Ended:
    """kill -9 after five random bytes of one download."""
    for at in sorted(stage.random.randrange(stage.server.total) for _ in range(5)):
        stage.kill_at(at)
    return stage.warmer.run()


def truncated(stage: Stage) -> Ended:
    """Half of the answers end early."""

    def manners(asked: Asked) -> Answer:
        return Answer(cut=stage.random.randrange(asked.end - asked.start)) if asked.number % 2 else WELL

    stage.server.manners = manners
    return stage.job()


def wrong_once(stage: Stage) -> Ended:
    """One byte is another one, the first time that it comes."""
    place = stage.random.randrange(len(stage.server.files["large.gguf"]))
    come: list[int] = []

    def manners(asked: Asked) -> Answer:
        if come or asked.path != "large.gguf" or not asked.start <= place < asked.end or asked.end == 1:
            return WELL
        come.append(asked.number)
        return Answer(flip=place)

    stage.server.manners = manners
    return stage.warmer.run()


def wrong_always(stage: Stage) -> Ended:
    """One byte is another one whenever it comes."""
    place = stage.random.randrange(len(stage.server.files["large.gguf"]))
    stage.server.manners = lambda asked: Answer(flip=place) if asked.path == "large.gguf" else WELL
    return stage.warmer.run()


def busy(stage: Stage) -> Ended:
    """Every third request is refused with 429 or 503, with and without Retry-After."""

    def manners(asked: Asked) -> Answer:
        status = stage.random.choice((429, 503))
        return Answer(status, stage.random.choice(("", "0", "1"))) if asked.number % 3 == 0 else WELL

    stage.server.manners = manners
    return stage.job()


def expired(stage: Stage) -> Ended:
    """From half of the bytes on every request is answered with 401."""
    half = stage.server.total // 2
    stage.server.manners = lambda asked: (
        Answer(cut=max(0, half - asked.sent)) if asked.sent < half else Answer(401)
    )
    return stage.warmer.run()


def expired_and_renewed(stage: Stage) -> Ended:
    """The same, and then with a token that is good."""
    ended = expired(stage)
    if ended.reason != "Unauthorized":
        return ended
    stage.server.manners = lambda _: WELL
    return stage.job()


def disk_full(stage: Stage) -> Ended:
    """Somebody else fills the disk on the way."""
    process = stage.warmer.start()
    stage.server.wait_until_sent(stage.server.total // 3, WAIT_SECONDS)
    _fill(stage.warmer.folder / "filler")
    return stage.warmer.end(process)


def disk_full_and_freed(stage: Stage) -> Ended:
    """The same, and then there is room again."""
    ended = disk_full(stage)
    (stage.warmer.folder / "filler").unlink()
    return stage.job() if ended.reason == "DiskFull" else ended


def two_at_once(stage: Stage) -> Ended:
    """Two warmers for one folder."""
    first = stage.warmer.start()
    second = stage.warmer.run()
    code = first.wait(WAIT_SECONDS)
    return second if code == 0 else Ended(code, {"reason": "FirstFailed"})


def server_gone(stage: Stage) -> Ended:
    """The server is gone for a while in the middle of it."""
    process = stage.warmer.start()
    stage.server.wait_until_sent(stage.server.total // 2, WAIT_SECONDS)
    stage.server.go()
    back = time.monotonic() + stage.away_seconds
    while time.monotonic() < back:
        if process.poll() is not None and back - time.monotonic() > JOB_PAUSE_SECONDS:
            time.sleep(JOB_PAUSE_SECONDS)
            process = stage.warmer.start()
        time.sleep(0.05)
    stage.server.come()
    ended = stage.warmer.end(process)
    return stage.job() if ended.code == 1 else ended


def note_torn(stage: Stage) -> Ended:
    """After a kill the note of what is there is cut off at a random byte."""
    stage.kill_at(stage.random.randrange(stage.server.total))
    for note in stage.note_files():
        os.truncate(note, stage.random.randrange(note.stat().st_size + 1))
    return stage.warmer.run()


def disk_rotten(stage: Stage) -> Ended:
    """After a kill a byte on the disk is another one."""
    stage.kill_at(stage.server.total // 2)
    for path in (stage.warmer.cache / ".partial").glob("*.gguf.part"):
        with path.open("r+b") as stream:
            first = stream.read(1)
            stream.seek(0)
            stream.write(bytes([first[0] ^ 1]) if first else b"")
    return stage.warmer.run()


CASES: Mapping[str, Case] = {
    "killed": Case(killed),
    "killed five times": Case(killed_five_times, kills=5),
    "truncated": Case(truncated),
    "wrong byte once": Case(wrong_once, kills=None),
    "wrong byte always": Case(wrong_always, ("DigestMismatch",), kills=None),
    "429 and 503": Case(busy),
    "token expired": Case(expired, ("Unauthorized",)),
    "token renewed": Case(expired_and_renewed),
    "disk full": Case(disk_full, ("DiskFull",), folder="small"),
    "disk full, then freed": Case(disk_full_and_freed, folder="small"),
    "two at once": Case(two_at_once),
    "server gone": Case(server_gone),
    "note torn": Case(note_torn, kills=None),
    "disk rotten": Case(disk_rotten, kills=None),
}


def files(scale: float, seed: int) -> dict[str, bytes]:
    """Return a large file, a middling one and a small one."""
    chance = random.Random(seed)
    return {
        "large.gguf": chance.randbytes(int(128 * MIB * scale) + 17),
        "middle.gguf": chance.randbytes(int(48 * MIB * scale) + 1),
        "small.json": b"{}",
    }


def run(choice: Choice, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Run the cases that were chosen, one after the other."""
    content = files(choice.scale, choice.seed)
    outcomes = []
    for name, case in CASES.items():
        if choice.cases and name not in choice.cases:
            continue
        for number in range(choice.kills if name == "killed" else 1):
            outcome = _one(name, case, number, content, choice)
            outcomes.append(outcome)
            tell(outcome)
    return outcomes


def _one(name: str, case: Case, number: int, content: Mapping[str, bytes], choice: Choice) -> Outcome:
    total = sum(map(len, content.values()))
    if case.folder == "small" and os.geteuid() != 0:
        return Outcome(name, number, "skipped", "", 0.0, 0, 0.0)
    chance = random.Random(f"{choice.seed} {name} {number}")
    started = time.monotonic()
    with (
        _folder(case.folder, total) as folder,
        tempfile.TemporaryDirectory() as words,
        Server(content, BYTES_PER_SECOND).running() as server,
    ):
        stage = Stage(
            server, Warmer(server.uri, folder, Path(words), choice.plant), chance, choice.away_seconds
        )
        try:
            ended = case.act(stage)
        finally:
            stage.warmer.stop()
        again = max(0, server.sent - total) / total
        what = "Published" if ended.code == 0 else ended.reason or f"exit code {ended.code}"
        problem = problem_of(case, what, ended, again, stage.warmer.cache / "model", content)
    return Outcome(name, number, what, problem, again, stage.warmer.started, time.monotonic() - started)


def problem_of(
    case: Case, what: str, ended: Ended, again: float, model: Path, content: Mapping[str, bytes]
) -> str:
    """Return what is not as it must be, empty when all is."""
    if model.exists() and not _same(model, content):
        return "a wrong file was published"
    if (what == "Published") != model.exists():
        return f"it ended as {what}, and the weights are {'there' if model.exists() else 'not there'}"
    if what not in case.ends:
        return f"it ended as {what}: {ended.words.get('message', '')}"
    if ended.code != 0 and not ended.words.get("message"):
        return "it does not say why"
    allowed = max(AGAIN_AT_MOST, AGAIN_LEAST_BYTES / sum(map(len, content.values())))
    if case.kills is not None and again > allowed * case.kills:
        return f"{again:.2%} came again, at most {allowed * case.kills:.2%} may"
    return ""


def _same(model: Path, content: Mapping[str, bytes]) -> bool:
    there = {path.name for path in model.iterdir() if not path.name.startswith(".")}
    return there == set(content) and all(
        hashlib.sha256((model / name).read_bytes()).digest() == hashlib.sha256(body).digest()
        for name, body in content.items()
    )


@contextmanager
def _folder(kind: str, total: int) -> Iterator[Path]:
    """Yield an empty folder; a small one has room for the content, the spare room and nothing else."""
    with tempfile.TemporaryDirectory(prefix="preheat-chaos-") as name:
        if kind != "small":
            yield Path(name)
            return
        size = f"size={total + SPARE + 8 * MIB}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "preheat-chaos", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def _fill(filler: Path) -> None:
    """Take all the room but a little, while the warmer takes some too."""
    with filler.open("wb") as stream:
        for left in (4 * MIB, 16 * MIB, 48 * MIB):
            with suppress(OSError):
                os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(filler.parent).free - left)
                return
