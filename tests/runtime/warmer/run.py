"""One process of the warmer, watched from outside: its log, its last words, its port."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from preheat_warmer.manifest import File
from preheat_warmer.sources.base import Source

PACKAGE = Path(__file__).parents[3] / "runtime/warmer"
DEADLINE_SECONDS = 30.0


@dataclass
class Run:
    """One process. ``words`` is its termination message."""

    process: subprocess.Popen[str]
    last_words: Path
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"message": "not JSON", "line": line}
                self.log.append(entry)
                self._lines.put(entry)
        self._lines.put(None)

    def wait_for(self, message: str) -> dict[str, Any]:
        while True:
            entry = self._lines.get(timeout=DEADLINE_SECONDS)
            assert entry is not None, f"ended without saying {message!r}: {self.log}"
            if entry["message"] == message:
                return entry

    def end(self) -> int:
        code = self.process.wait(DEADLINE_SECONDS)
        self._reader.join()
        return code

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return self.end()

    def kill_at(self, path: Path, size: int) -> int:
        """Kill it once a file is so long; return how long the file is then."""
        deadline = time.monotonic() + 20
        while not path.exists() or path.stat().st_size < size:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # the bytes are what is waited for
        self.kill()
        return path.stat().st_size

    def get(self, path: str) -> httpx.Response:
        if not hasattr(self, "_port"):
            self._port = self.wait_for("started")["port"]
        with httpx.Client(trust_env=False) as client:
            return client.get(f"http://127.0.0.1:{self._port}{path}")

    @property
    def words(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.last_words.read_text())
        return found

    def published(self) -> dict[str, Any]:
        assert self.end() == 0, self.log
        assert self.words["state"] == "Published"
        return self.words

    def failed(self, code: int, reason: str) -> str:
        assert self.end() == code, self.log
        assert self.words["state"] == "Failed"
        assert self.words["reason"] == reason, self.words
        return str(self.words["message"])


def launched(config: dict[str, Any], last_words: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Start a process with this very configuration, and with nothing of our environment but what is given."""
    process = subprocess.Popen(
        [sys.executable, "-m", "preheat_warmer.main"],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": str(PACKAGE),
            "PREHEAT_WARMER_CONFIG": json.dumps(config),
            "PREHEAT_TERMINATION_LOG": str(last_words),
            **(environment or {}),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    return Run(process, last_words)


Start = Callable[..., Run]


async def ranges(source: Source, path: str, content: bytes) -> None:
    """Check that a source reads a part of a file, and that it notices another version."""
    file = File(path, len(content))
    async with source.open(file, 0, "", 10) as first:
        assert (first.offset, first.total) == (0, len(content))
        assert b"".join([chunk async for chunk in first.chunks]) == content[:10]
    async with source.open(file, 10, first.version, 1000) as middle:
        assert middle.offset == 10
        assert b"".join([chunk async for chunk in middle.chunks]) == content[10:1000]
    async with source.open(file, 1000, first.version) as last:
        assert last.offset == 1000
        assert b"".join([chunk async for chunk in last.chunks]) == content[1000:]
