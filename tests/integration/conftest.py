"""A real etcd and kube-apiserver (and controller-manager, for garbage collection), and the operator's real process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.audit import calls, keep_calls
from e2e.cluster.local.controlplane import ControlPlane, free_port
from e2e.cluster.provider import KUBECTL, ROOT
from e2e.rights import admit_operator

OPERATOR_COMMAND = (sys.executable, "-m", "preheat.main")


class API:
    """kubectl against the plane, in a test's own words."""

    def __init__(self, plane: ControlPlane, logs: Path) -> None:
        self.plane = plane
        self.operator_kubeconfig = plane.kubeconfig
        self._logs = logs
        self._runs = 0

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KUBECTL, "--kubeconfig", str(self.plane.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def apply(self, body: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        text = self.kubectl("-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text else None

    def until(self, what: str, holds: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.log()}"
            time.sleep(0.1)

    def condition(self, kind: str, name: str, which: str = "Ready") -> dict[str, Any]:
        body = self.get(kind, name) or {}
        conditions = (body.get("status") or {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == which), {})

    def log(self) -> str:
        return self.whole_log()[-3000:]

    def whole_log(self) -> str:
        """Return all that the newest operator said."""
        path = self._logs / f"operator-{self._runs}.log"
        return path.read_text() if path.exists() else ""

    @contextmanager
    def operator(
        self, *, command: Sequence[str] = OPERATOR_COMMAND, **environment: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run the operator's own process, under its own account: a right that the chart forgot shows at once."""
        self._runs += 1
        with (self._logs / f"operator-{self._runs}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "KUBECONFIG": str(self.operator_kubeconfig),
                    "PREHEAT_PORT": str(free_port()),
                    **environment,
                },
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    folder = tmp_path_factory.mktemp("plane")
    with ControlPlane(folder / "state", controllers="*,-node-lifecycle-controller", audit=True) as plane:
        made = API(plane, folder)
        made.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        # kubectl wait fails on a definition that has no status yet.
        established = ("wait", "--for=condition=Established", "crd", "--all", "--timeout=10s")
        made.until("definitions", lambda: made.run(*established).returncode == 0, 60)
        made.operator_kubeconfig = admit_operator(plane)
        yield made
        assert plane.audit_log is not None
        keep_calls("integration", calls(plane.audit_log))


@pytest.fixture
def node(api: API) -> Iterator[str]:
    """A Ready L4 node that nobody runs."""
    add_node(api, "gpu-1", "NVIDIA-L4")
    yield "gpu-1"
    api.kubectl("delete", "node", "gpu-1", "--ignore-not-found")


def add_node(api: API, name: str, product: str, gpus: int = 2) -> None:
    """Make a Ready node that nobody runs."""
    labels = {"nvidia.com/gpu.product": product, "kubernetes.io/os": "linux"}
    api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    stamp = "2026-01-01T00:00:00Z"
    ready = {
        "type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": stamp,
        "lastTransitionTime": stamp,
    }  # fmt: skip
    amount = {"nvidia.com/gpu": str(gpus)}
    patch = {"status": {"conditions": [ready], "capacity": amount, "allocatable": amount}}
    api.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(patch))
    api.kubectl("patch", "node", name, "--type=merge", "-p", '{"spec":{"taints":null}}')


def a_service(name: str, **spec: Any) -> dict[str, Any]:
    """A small valid LLMDeployment."""
    base: dict[str, Any] = {
        "model": {"uri": "http://store.example/model/", "format": "GGUF"},
        "hardware": {"gpu": {"types": ["nvidia-l4"]}},
        "runtime": {"backend": "LlamaCpp"},
    }
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**base, **spec},
    }


def complete_warmers(api: API, namespace: str = "default") -> None:
    """Let every warmer end well, as a kubelet would tell it; the job controller does the rest."""

    def are_complete() -> bool:
        pods = json.loads(api.kubectl("-n", namespace, "get", "pods", "-l", "job-name", "-o", "json"))[
            "items"
        ]
        for body in pods:
            if body["status"]["phase"] != "Succeeded":
                done = json.dumps({"status": {"phase": "Succeeded"}})
                name = body["metadata"]["name"]
                api.kubectl(
                    "-n", namespace, "patch", "pod", name, "--subresource=status", "--type=merge", "-p", done
                )
        jobs = json.loads(api.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"]
        return all(job["status"].get("succeeded") for job in jobs)

    api.until("warmers ended well", are_complete, 60)


def complete_keepers(api: API) -> None:
    """Let every keeper that has a pod end well, as a kubelet would tell it. What should go is gone then."""
    selector = ("-l", "preheat.dev/component=keeper")
    for body in json.loads(api.kubectl("-n", "preheat-system", "get", "pods", *selector, "-o", "json"))[
        "items"
    ]:
        if body["status"]["phase"] == "Succeeded" or "deletionTimestamp" in body["metadata"]:
            continue
        ended = {"terminated": {"exitCode": 0, "message": json.dumps({"state": "Kept"})}}
        container = {
            "name": "keeper",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": ended,
        }
        status = json.dumps({"status": {"phase": "Succeeded", "containerStatuses": [container]}})
        name = body["metadata"]["name"]
        api.run(
            "-n", "preheat-system", "patch", "pod", name, "--subresource=status", "--type=merge", "-p", status
        )
