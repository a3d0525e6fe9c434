"""The table of times: measured here, or read from what the cluster wrote down itself."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from e2e.cluster.provider import kubectl


class Times:
    """Seconds by what they were spent on, in order."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float]] = []
        self._started = time.monotonic()

    def add(self, what: str, seconds: float) -> None:
        self._rows.append((what, seconds))

    @contextmanager
    def measure(self, what: str, *, quiet: bool = False) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self.add(what, seconds)
        if not quiet:
            print(f"  {what}: {seconds:.1f} s", flush=True)

    def take_from_cluster(self, kubeconfig: Path, namespace: str, name: str) -> None:
        """Add what conditions and pods say of when things happened (whole seconds)."""
        selector = f"preheat.dev/llmdeployment={name},preheat.dev/component=engine"
        pods = json.loads(kubectl(kubeconfig, "-n", namespace, "get", "pods", "-l", selector, "-o", "json"))
        service = json.loads(kubectl(kubeconfig, "-n", namespace, "get", "llmd", name, "-o", "json"))
        created = _time(service["metadata"]["creationTimestamp"])
        weights = _condition(service, "WeightsReady")
        self.add("  of it: weights fetched, verified and on the node", (weights - created).total_seconds())
        pod = pods["items"][0]
        scheduled, ready = _condition(pod, "PodScheduled"), _condition(pod, "Ready")
        self.add("  of it: pod scheduled -> Ready", (ready - scheduled).total_seconds())

    def print(self) -> None:
        width = max(len(what) for what, _ in self._rows)
        for what, seconds in self._rows:
            digits = 1 if seconds >= 1 else 2
            print(f"  {what:<{width}}  {seconds:7.{digits}f} s")
        print(f"  {'all of it':<{width}}  {time.monotonic() - self._started:7.1f} s")

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"case": what.strip(), "seconds": round(s, 3)}) for what, s in self._rows]
        path.write_text("\n".join(lines) + "\n")


def _condition(body: dict[str, object], kind: str) -> datetime:
    status = body["status"]
    assert isinstance(status, dict)
    return next(_time(c["lastTransitionTime"]) for c in status["conditions"] if c["type"] == kind)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
