"""The front as a real process, over real sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runtime.front.apiserver import SliceServer, serving

FIRST, LAST = 21_000, 21_999


def free_port(first: int = FIRST, last: int = LAST) -> int:
    """Return a port of the range that nobody listens on; another one with each call."""
    start = first + (os.getpid() * 37 + next(_NUMBERS)) % (last - first)
    for port in (*range(start, last), *range(first, start)):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


_NUMBERS = iter(range(0, 10**6, 3))


class Front:
    """What is asked of it."""

    def __init__(self, process: subprocess.Popen[bytes], control: int, log: Path) -> None:
        self.process = process
        self.control = f"http://127.0.0.1:{control}"
        self._log = log

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.control + path, trust_env=False, timeout=5)

    def arrivals(self) -> dict[str, int]:
        return {one["name"]: one["count"] for one in self.get("/arrivals").json()["arrivals"]}

    def metric(self, start: str) -> float:
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(start)]
        assert len(lines) == 1, lines
        return float(lines[0].rpartition(" ")[2])

    def until(self, what: str, holds: Callable[[], object], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, self.said()
            try:
                if holds():
                    return
            except (httpx.HTTPError, OSError):
                pass
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        return self._log.read_text()[-4000:]

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def running(url: str, folder: Path, **config: Any) -> Iterator[Front]:
    control = int(config.pop("controlPort", 0)) or free_port()
    given = {"apiServer": url, "account": str(folder / "account"), "controlPort": control, "firstPort": FIRST,
             "lastPort": LAST, "headSeconds": 1, "lingerSeconds": 1, "drainSeconds": 0.5, **config}  # fmt: skip
    log = folder / "front.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "preheat_front.main"],
            env={**os.environ, "PREHEAT_FRONT_CONFIG": json.dumps(given)},
            stdout=out,
            stderr=out,
        )
    front = Front(process, control, log)
    try:
        front.until("alive", lambda: front.get("/healthz").status_code == 200)
        yield front
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.fixture
def slices() -> SliceServer:
    return SliceServer()


@pytest.fixture
def front(slices: SliceServer, tmp_path: Path) -> Iterator[Front]:
    """A front that knows what there is in ``slices``."""
    with serving(slices) as url, running(url, tmp_path) as made:
        made.until("ready", lambda: made.get("/readyz").status_code == 200)
        yield made
