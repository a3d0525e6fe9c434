"""The traffic of a case: the driver in its pod, and the record of every request."""

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.provider import KUBECTL

PROGRAM = Path(__file__).with_name("driver.py")
END_SECONDS = 30.0
"""The driver ends when its last requests have: a request takes 10 s at most."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``at``: when it began, Unix seconds; ``revision`` and ``pod``: who answered, empty if nobody said so."""

    at: float
    seconds: float
    protocol: str
    revision: str
    pod: str
    ok: bool
    why: str

    @property
    def ended(self) -> float:
        return self.at + self.seconds


def read(line: str) -> Request | None:
    """Return the request that a line of the driver tells of, None for any other line."""
    try:
        return Request(**json.loads(line))
    except (TypeError, ValueError):
        return None


def failed(requests: Iterable[Request]) -> list[Request]:
    return [request for request in requests if not request.ok]


def reasons(requests: Iterable[Request], most: int = 3) -> str:
    """Return why requests failed, the commonest first, with counts."""
    counted = Counter(request.why for request in failed(requests))
    return "; ".join(f"{count} x {why}" for why, count in counted.most_common(most))


class Traffic:
    """The driver at work, in a pod that is there already. Stop it to have its whole record."""

    def __init__(self, kubeconfig: Path, namespace: str, pod: str, arguments: Sequence[str]) -> None:
        self.requests: list[Request] = []
        self._said: list[str] = []
        self._process = subprocess.Popen(
            [KUBECTL, "--kubeconfig", str(kubeconfig), "-n", namespace, "exec", "-i", pod, "--",
             "python3", "-u", "-c", PROGRAM.read_text(), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            request = read(line)
            if request is not None:
                self.requests.append(request)
            else:
                self._said.append(line.rstrip())

    def stop(self) -> list[Request]:
        """Have the driver end; return every request. Raises RuntimeError when it did not end well."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("stop\n")
            self._process.stdin.close()
        try:
            code = self._process.wait(END_SECONDS)
        finally:
            self.end()
        if code:
            raise RuntimeError(f"the traffic ended with {code}: {' '.join(self._said[-5:])}")
        return self.requests

    def end(self) -> None:
        """Leave nothing running, whatever state it is in."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
