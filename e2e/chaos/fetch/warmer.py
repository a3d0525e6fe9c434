"""The warmer as its Job runs it: one process after the other into one folder, until it ends for good."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.provider import ROOT

RUN_SECONDS = 150.0
"""No run may take longer: it would be stuck."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its exit code and its last words, empty when it was killed."""

    code: int
    words: Mapping[str, Any]

    @property
    def reason(self) -> str:
        return str(self.words.get("reason", ""))


class Warmer:
    """Starts warmers that fetch from one address into one folder. Logs and last words go to another."""

    def __init__(self, uri: str, folder: Path, words: Path, plant: str = "", parallelism: int = 4) -> None:
        self.folder = folder
        self._said = words
        self.cache = folder / "cache"
        self.cache.mkdir(parents=True, exist_ok=True)
        self._config = {
            "source": {"uri": uri},
            "destination": str(self.cache),
            "listenPort": 0,
            "parallelism": parallelism,
        }
        self._plant = plant
        self.started = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        self.started += 1
        program = ["e2e.chaos.fetch.planted", self._plant] if self._plant else ["preheat_warmer.main"]
        with (self._said / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *program],
                cwd=ROOT,
                env={
                    "PATH": os.defpath,
                    "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime/warmer"), str(ROOT)]),
                    "PREHEAT_WARMER_CONFIG": json.dumps(self._config),
                    "PREHEAT_TERMINATION_LOG": str(self._words(self.started)),
                },
                stderr=log,
            )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
            process.wait()

    def end(self, process: subprocess.Popen[bytes]) -> Ended:
        """Wait for its end."""
        number = self.started
        try:
            code = process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return Ended(-1, {"reason": "Stuck", "message": f"it did not end within {RUN_SECONDS:g} s"})
        words = self._words(number)
        return Ended(code, json.loads(words.read_text()) if words.exists() else {})

    def run(self) -> Ended:
        return self.end(self.start())

    def _words(self, number: int) -> Path:
        return self._said / f"last-words-{number}"
