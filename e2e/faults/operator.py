"""The operator's own process: started, killed, frozen, and started again when it ends, as a kubelet would."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.local import processes
from e2e.cluster.local.controlplane import free_port
from e2e.tools import faketime

API_TIMEOUT_SECONDS = "4"
RESYNC_SECONDS = "4"
PRODUCT = "preheat.main"


@dataclass(frozen=True, slots=True)
class Setup:
    """How an operator is started."""

    environment: tuple[tuple[str, str], ...] = (
        ("PREHEAT_API_TIMEOUT_SECONDS", API_TIMEOUT_SECONDS),
        ("PREHEAT_RESYNC_SECONDS", RESYNC_SECONDS),
    )
    fake_clock: bool = False
    module: str = PRODUCT


AS_INSTALLED = Setup(environment=(("PREHEAT_API_TIMEOUT_SECONDS", API_TIMEOUT_SECONDS),))
"""With the full list every 300 s that an installation has: what heals, healed by itself and not by the list."""


@dataclass
class Operator:
    """One operator behind one proxy. ``name`` is unique: its log and its clock are files of that name."""

    folder: Path
    name: str
    kubeconfig: Path
    mark: str
    """Of the control plane: whoever ends it ends this as well, whatever happened to us."""
    setup: Setup = field(default_factory=Setup)
    exits: int = 0
    """How often it ended by itself."""
    _process: subprocess.Popen[bytes] | None = None
    _keeper: asyncio.Task[None] | None = None

    @property
    def log(self) -> Path:
        """Where it writes what it has to say."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        self._spawn()
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        await self.down()

    async def kill(self) -> None:
        """SIGKILL, and start the next one at once."""
        await self.down()
        self._spawn()

    async def down(self) -> None:
        """SIGKILL, and leave it down until ``start``."""
        process, self._process = self._process, None
        await _end(process)

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def set_clock(self, offset: str) -> None:
        """Let its clock jump: "+3600", "-1h", "+10y". Only with a fake clock."""
        self._clock.write_text(f"{offset}\n")

    def cpu_seconds(self) -> float:
        """Return how much CPU time it has used."""
        if self._process is None:
            return 0.0
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self, since: int = 0) -> list[str]:
        """Return the lines of its log from a byte on."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace").splitlines()

    def log_size(self) -> int:
        """Return how long its log is now, in bytes."""
        return self.log.stat().st_size if self.log.exists() else 0

    @property
    def _clock(self) -> Path:
        return self.folder / f"{self.name}.clock"

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            if self._process is not None and self._process.poll() is not None:
                self.exits += 1
                self._spawn()

    def _spawn(self) -> None:
        environment = {
            **os.environ,
            **dict(self.setup.environment),
            # Who takes weights from whom depends on who was first: two good runs would end differently.
            "PREHEAT_NEIGHBOURS": "false",
            "KUBECONFIG": str(self.kubeconfig),
            "PREHEAT_PORT": str(free_port()),
            processes.MARK: self.mark,
        }
        if self.setup.fake_clock:
            if not self._clock.exists():
                self.set_clock("+0")
            environment |= {
                "LD_PRELOAD": str(faketime()),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.setup.module], env=environment, stdout=out, stderr=out
            )


async def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)


def trouble(lines: list[str]) -> list[str]:
    """Return what a log says at ERROR or above, and what is no log line at all (a traceback, a warning of Python).

    >>> trouble(['{"severity": "info", "message": "fine"}', '{"severity": "error", "message": "bad"}', "Traceback"])
    ['bad', 'Traceback']
    """
    found = []
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        if str(entry.get("severity", "")).lower() in {"error", "critical", "fatal"}:
            found.append(str(entry.get("message", "")).splitlines()[0])
    return found
