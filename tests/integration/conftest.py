"""A real etcd and kube-apiserver (and controller-manager, for garbage collection), and the operator's real process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.local.controlplane import ControlPlane, free_port
from e2e.cluster.provider import KUBECTL, ROOT


class API:
    """kubectl against the plane, in a test's own words."""

    def __init__(self, plane: ControlPlane, logs: Path) -> None:
        self.plane = plane
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
        logs = sorted(self._logs.glob("operator-*.log"))
        return logs[-1].read_text()[-3000:] if logs else ""

    @contextmanager
    def operator(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the operator's own process."""
        self._runs += 1
        with (self._logs / f"operator-{self._runs}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "preheat.main"],
                env={
                    **os.environ,
                    "KUBECONFIG": str(self.plane.kubeconfig),
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
        made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield made


@pytest.fixture
def node(api: API) -> Iterator[str]:
    """A Ready L4 node that nobody runs."""
    name = "gpu-1"
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "kubernetes.io/os": "linux"}
    api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    stamp = "2026-01-01T00:00:00Z"
    ready = {
        "type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": stamp,
        "lastTransitionTime": stamp,
    }  # fmt: skip
    amount = {"nvidia.com/gpu": "2"}
    patch = {"status": {"conditions": [ready], "capacity": amount, "allocatable": amount}}
    api.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(patch))
    api.kubectl("patch", "node", name, "--type=merge", "-p", '{"spec":{"taints":null}}')
    yield name
    api.kubectl("delete", "node", name)


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
