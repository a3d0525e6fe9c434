"""kind: Kubernetes in Docker. Two worker nodes with GPUs that are not there.

PREHEAT_KIND_IMAGE names the node image, and with it the Kubernetes version; without it kind takes its own.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.provider import GPU_NODES, add_gpus, kubeconfig_path, kubectl, step

CONFIG = {
    "kind": "Cluster",
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}],
}


class KindProvider:
    """A kind cluster."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kubeconfig: Path = kubeconfig_path(name)

    def up(self) -> None:
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if self.name in self._kind("get", "clusters").split():
            self._kind("export", "kubeconfig", "--name", self.name, "--kubeconfig", str(self.kubeconfig))
        else:
            image = os.environ.get("PREHEAT_KIND_IMAGE")
            with step("kind create cluster"):
                subprocess.run(
                    ["kind", "create", "cluster", "--name", self.name, "--wait", "180s", "--config", "-",
                     "--kubeconfig", str(self.kubeconfig), *(["--image", image] if image else [])],
                    input=json.dumps(CONFIG), text=True, check=True,
                )  # fmt: skip
        for node, gpu in zip(self.nodes(), GPU_NODES, strict=True):
            add_gpus(self.kubeconfig, node, gpu)

    def down(self) -> None:
        self._kind("delete", "cluster", "--name", self.name, "--kubeconfig", str(self.kubeconfig))
        self.kubeconfig.unlink(missing_ok=True)

    def is_up(self) -> bool:
        return self.kubeconfig.exists() and bool(
            kubectl(self.kubeconfig, "get", "--raw", "/readyz", "--request-timeout=3s", check=False)
        )

    def load_images(self, archives: Sequence[Path]) -> None:
        for archive in archives:
            self._kind("load", "image-archive", str(archive), "--name", self.name)

    def nodes(self) -> list[str]:
        return [f"{self.name}-worker", f"{self.name}-worker2"]

    @property
    def audit_log(self) -> None:
        return None

    def node_exec(self, node: str, command: Sequence[str]) -> str:
        return subprocess.run(
            ["docker", "exec", node, *command], capture_output=True, text=True, check=True
        ).stdout

    def _kind(self, *arguments: str) -> str:
        return subprocess.run(["kind", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout
