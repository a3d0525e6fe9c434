"""What was seen of a model while a case ran: the LLMDeployment, its pods and its Events, as the API server told them."""

import codecs
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.api.constants import LABEL_COMPONENT, LABEL_DEPLOYMENT, LABEL_REVISION

from e2e.cluster.provider import KUBECTL

Body = dict[str, Any]
BLOCK_BYTES = 1 << 16
ENGINES = f"{LABEL_COMPONENT}=engine"


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One object at one time. ``at``: when it was told, Unix seconds."""

    at: float
    gone: bool
    body: Body

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod of the model. ``revision`` is the hash in its label."""

    name: str
    revision: str
    gpu_type: str
    ready: bool
    leaving: bool
    runs: bool
    """Whether its engine's container runs."""
    restarts: int

    @classmethod
    def of(cls, pod: Body) -> "Replica":
        metadata, status = pod["metadata"], pod.get("status") or {}
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        engines = [c for c in status.get("containerStatuses", ()) if c["name"] == "engine"]
        return cls(
            name=metadata["name"],
            revision=metadata["labels"][LABEL_REVISION],
            gpu_type=metadata["labels"].get("preheat.dev/gpu-type", ""),
            ready=conditions.get("Ready") == "True" and "deletionTimestamp" not in metadata,
            leaving="deletionTimestamp" in metadata,
            runs=any("running" in c["state"] for c in engines),
            restarts=sum(c.get("restartCount", 0) for c in engines),
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """Which replicas there were, from a time on."""

    at: float
    replicas: Mapping[str, Replica]

    def ready(self, revision: str | None = None) -> int:
        """Return how many took traffic, of one revision or of all."""
        return sum(r.ready for r in self.replicas.values() if revision in {None, r.revision})

    def others(self, revision: str) -> list[Replica]:
        """Return the replicas of any other revision."""
        return [replica for replica in self.replicas.values() if replica.revision != revision]


def moments(glimpses: Sequence[Glimpse]) -> list[Moment]:
    """Return the states that the replicas went through, in order."""
    known: dict[str, Replica] = {}
    found = []
    for glimpse in glimpses:
        if glimpse.kind != "Pod":
            continue
        if glimpse.gone:
            known.pop(glimpse.name, None)
        else:
            known[glimpse.name] = Replica.of(glimpse.body)
        found.append(Moment(glimpse.at, dict(known)))
    return found


def documents(blocks: Iterator[str]) -> Iterator[Body]:
    """Yield the JSON objects of a stream that comes in blocks, cut anywhere.

    >>> list(documents(iter(['{"a": 1}\\n{"b"', ': 2}'])))
    [{'a': 1}, {'b': 2}]
    """
    decoder, text = json.JSONDecoder(), ""
    for block in blocks:
        text += block
        while text := text.lstrip():
            try:
                body, end = decoder.raw_decode(text)
            except ValueError:
                break
            yield body
            text = text[end:]


class Eyes:
    """Watches one LLMDeployment, its pods and its Events until closed. Every change is kept."""

    def __init__(self, kubeconfig: Path, namespace: str, name: str) -> None:
        self.glimpses: list[Glimpse] = []
        self._lock = threading.Condition()
        watched = (
            ("llmd", "--field-selector", f"metadata.name={name}"),
            ("pods", "-l", f"{LABEL_DEPLOYMENT}={name},{ENGINES}"),
            ("events", "--field-selector", f"involvedObject.name={name},involvedObject.kind=LLMDeployment"),
        )
        base = [KUBECTL, "--kubeconfig", str(kubeconfig), "-n", namespace, "get"]
        flags = ["--watch", "--output-watch-events", "-o", "json"]
        self._processes = [
            subprocess.Popen([*base, *what, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for what in watched
        ]
        self._threads = [threading.Thread(target=self._watch, args=[p], daemon=True) for p in self._processes]
        for thread in self._threads:
            thread.start()

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        for event in documents(_blocks(process)):
            glimpse = Glimpse(time.time(), event["type"] == "DELETED", event["object"])
            with self._lock:
                self.glimpses.append(glimpse)
                self._lock.notify_all()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.close()

    def seen(self) -> list[Glimpse]:
        """Return everything so far, in the order in which it was told."""
        with self._lock:
            return list(self.glimpses)

    def until(self, holds: Callable[[], object], seconds: float) -> bool:
        """Wait for something to hold of what was seen; tell whether it came to."""
        with self._lock:
            return bool(self._lock.wait_for(holds, seconds))

    @property
    def service(self) -> Body:
        """The LLMDeployment as it was told last; empty before that."""
        with self._lock:
            return next((g.body for g in reversed(self.glimpses) if g.kind == "LLMDeployment"), {})

    @property
    def now(self) -> Moment:
        """The replicas as they are."""
        return next(iter(moments(self.seen())[-1:]), Moment(0.0, {}))


def _blocks(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    assert process.stdout is not None
    decode = codecs.getincrementaldecoder("utf-8")().decode
    while block := os.read(process.stdout.fileno(), BLOCK_BYTES):
        yield decode(block)
