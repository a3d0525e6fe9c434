"""Hundreds of poisonous objects, and how long a healthy one waits for its first child among them."""

import json
import os
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from preheat.api.conditions import Reason

from e2e.cluster.local.controlplane import ControlPlane
from tests.integration.conftest import a_service
from tests.isolation.poison import Body, Poison

PLURALS = {"LLMDeployment": "llmdeployments", "ModelCache": "modelcaches"}
GROUP = "/apis/preheat.dev/v1alpha1"


@dataclass
class Report:
    """What a campaign found."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    told: int = 0
    untold: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    alone_seconds: list[float] = field(default_factory=list)
    arriving_seconds: list[float] = field(default_factory=list)
    among_seconds: list[float] = field(default_factory=list)
    memory_mib: float = 0.0

    @property
    def delay_seconds(self) -> float:
        """How much longer the first child took while they arrived and among them: the difference of the medians."""
        among = statistics.median([*self.arriving_seconds, *self.among_seconds])
        return among - statistics.median(self.alone_seconds)

    def table(self) -> str:
        """Return what people read."""
        lines = [
            f"cases                        {self.cases:>6}",
            f"refused by the API server    {self.refused:>6}",
            f"accepted                     {self.accepted:>6}",
            f"  told why, or fine          {self.told:>6}",
            f"  not told                   {len(self.untold):>6}  {', '.join(self.untold[:5])}",
        ]
        lines += [f"    {reason:<25}{count:>6}" for reason, count in sorted(self.reasons.items())]
        for name in ("alone", "arriving", "among"):
            times = getattr(self, f"{name}_seconds")
            if times:
                lines.append(
                    f"first child, {name:<14} {statistics.median(times):6.2f} s median, {max(times):.2f} s worst of {len(times)}"
                )
        return "\n".join([*lines, f"delay                        {self.delay_seconds:6.2f} s",
                          f"operator's memory            {self.memory_mib:6.0f} MiB"])  # fmt: skip

    def write(self, path: Path, what: str) -> None:
        """Add a line to a file of results."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(
                json.dumps({"what": what, "delay_seconds": round(self.delay_seconds, 3), **asdict(self)})
                + "\n"
            )


class Client:
    """The API server without kubectl: a call takes milliseconds."""

    def __init__(self, plane: ControlPlane) -> None:
        context = ssl.create_default_context(cafile=str(plane.certificate))
        self._http = httpx.Client(
            base_url=plane.url, headers={"Authorization": f"Bearer {plane.token}"}, verify=context, timeout=60,
            limits=httpx.Limits(max_connections=16),
        )  # fmt: skip

    def send(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        return self._http.request(method, path, content=content, headers={"Content-Type": content_type})

    def create(self, body: Body) -> int:
        namespace = body["metadata"]["namespace"]
        return self.send("POST", f"{GROUP}/namespaces/{namespace}/{PLURALS[body['kind']]}", body).status_code

    def items(self, path: str) -> list[Body]:
        found: list[Body] = self.send("GET", path).json()["items"]
        return found

    def close(self) -> None:
        self._http.close()


class Campaign:
    """Runs against one control plane and one operator."""

    def __init__(self, client: Client, operator: "subprocess.Popen[bytes]", healthy: str) -> None:
        self.client = client
        self.report = Report()
        self._operator = operator
        self._healthy = healthy
        self._number = 0

    def first_child_seconds(self, most: float | None = None) -> float:
        """Apply a healthy object in its own namespace; return how long its Service took.

        Whoever waits for no more than ``most`` seconds gets those. Everybody else fails after two minutes.
        """
        self._number += 1
        name = f"healthy-{self._number}"
        body = a_service(name)
        body["metadata"]["namespace"] = self._healthy
        started = time.monotonic()
        assert self.client.create(body) == 201
        while (
            self.client.send("GET", f"/api/v1/namespaces/{self._healthy}/services/{name}").status_code != 200
        ):
            assert time.monotonic() - started < 120, "a healthy object got no child in two minutes"
            if most is not None and time.monotonic() - started > most:
                return most
            time.sleep(0.02)
        seconds = time.monotonic() - started
        self.watch_memory()
        return seconds

    def measure(self, times: list[float], count: int, pause_seconds: float = 0.2) -> None:
        """Measure several, one after the other."""
        for _ in range(count):
            times.append(self.first_child_seconds())
            time.sleep(pause_seconds)

    def poison(self, bodies: Iterable[Body], while_arriving: Callable[[], None]) -> list[Body]:
        """Create them with eight hands, and do something as long as they arrive; return those that were accepted."""
        bodies = list(bodies)
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                while_arriving()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(8) as hands:
                codes = list(hands.map(self.client.create, bodies))
        finally:
            over.set()
            watcher.join()
        accepted = [body for body, code in zip(bodies, codes, strict=True) if code == 201]
        assert {code for code in codes if code != 201} <= {400, 413, 422}, sorted(set(codes))
        self.report.cases += len(bodies)
        self.report.accepted += len(accepted)
        self.report.refused += len(bodies) - len(accepted)
        return accepted

    def scribble(self, poison: Poison, bodies: Iterable[Body]) -> int:
        """Write statuses by hand; return how many the API server took."""
        taken = 0
        for body in bodies:
            metadata = body["metadata"]
            path = f"{GROUP}/namespaces/{metadata['namespace']}/{PLURALS[body['kind']]}/{metadata['name']}/status"
            patch = {"status": poison.status(body["kind"])}
            taken += self.client.send("PATCH", path, patch, "application/merge-patch+json").status_code == 200
        return taken

    def wait_told(self, namespaces: Iterable[str], seconds: float = 240) -> None:
        """Wait until every object says why it does not serve, or that it does; note those that do not."""
        deadline = time.monotonic() + seconds
        while True:
            told, untold = self._tell(list(namespaces))
            if not untold or time.monotonic() > deadline:
                break
            time.sleep(1)
        self.report.told, self.report.untold, self.report.reasons = len(told), untold, {}
        for reason in told:
            self.report.reasons[reason] = self.report.reasons.get(reason, 0) + 1

    def _tell(self, namespaces: list[str]) -> tuple[list[str], list[str]]:
        told, untold = [], []
        for namespace in namespaces:
            events = {
                event["regarding"]["uid"]: f"{event['reason']} (in an Event)"
                for event in self.client.items(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
                if event.get("reportingController") == "preheat.dev/operator"
            }
            for kind, plural in PLURALS.items():
                for body in self.client.items(f"{GROUP}/namespaces/{namespace}/{plural}"):
                    if body["metadata"].get("ownerReferences"):
                        continue  # a ModelCache that an LLMDeployment made
                    reason = _reason(body) or events.get(body["metadata"]["uid"])
                    if reason is None:
                        untold.append(f"{kind} {namespace}/{body['metadata']['name']}")
                    else:
                        told.append(reason)
        return told, untold

    def watch_memory(self) -> None:
        """Note the operator's memory if it is larger than ever."""
        status = Path(f"/proc/{self._operator.pid}/status").read_text()
        (kib,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        self.report.memory_mib = max(self.report.memory_mib, int(kib) / 1024)


def _reason(body: Body) -> str | None:
    """Return why an object is as it is, None when nothing current and readable says so."""
    if "deletionTimestamp" in body["metadata"]:
        return "(being deleted)"
    status = body.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    for condition in conditions or ():
        if not isinstance(condition, dict) or condition.get("type") not in {"Ready", "Accepted"}:
            continue
        current = condition.get("observedGeneration") == body["metadata"]["generation"]
        if current and condition.get("message") and condition.get("reason") in set(Reason):
            return str(condition["reason"])
    return None


def operator_is_alive(operator: "subprocess.Popen[bytes]", log: str) -> None:
    """Fail when the operator ended or met a bug."""
    assert operator.poll() is None, log[-3000:]
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]


COUNT = int(os.environ.get("PREHEAT_FUZZ", "120"))
SEED = int(os.environ.get("PREHEAT_FUZZ_SEED", "1"))
