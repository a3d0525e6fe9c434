"""The operator's own real process, and what the kernel says that it costs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.local.controlplane import free_port

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Operator:
    """A running operator."""

    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its threads so far, its start included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self, which: str) -> float:
        """Return VmRSS (now) or VmHWM (the most so far) in megabytes of 10^6 bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{which}:"))
        return int(kilobytes) * 1024 / 1e6


@contextmanager
def operator(kubeconfig: Path, log: Path) -> Iterator[Operator]:
    """Run the operator until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "preheat.main"],
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "PREHEAT_PORT": str(free_port())},
            stdout=out,
            stderr=out,
        )
    try:
        yield Operator(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
