"""minikube: a cluster of two nodes with GPUs that are not there."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.provider import GPU_NODES, add_gpus, kubeconfig_path, kubectl, step


class MinikubeProvider:
    """A minikube profile."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kubeconfig: Path = kubeconfig_path(name)

    def up(self) -> None:
        if not self.is_up():
            self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            with step("minikube start"):
                self._minikube("start", "--nodes", "2", "--wait", "all", "--container-runtime", "containerd")
        for node, gpu in zip(self.nodes(), GPU_NODES, strict=True):
            add_gpus(self.kubeconfig, node, gpu)

    def down(self) -> None:
        self._minikube("delete")
        self.kubeconfig.unlink(missing_ok=True)

    def is_up(self) -> bool:
        return self.kubeconfig.exists() and bool(
            kubectl(self.kubeconfig, "get", "--raw", "/readyz", "--request-timeout=3s", check=False)
        )

    def load_images(self, archives: Sequence[Path]) -> None:
        for archive in archives:
            self._minikube("image", "load", str(archive))

    def nodes(self) -> list[str]:
        return [self.name, f"{self.name}-m02"]

    @property
    def audit_log(self) -> None:
        return None

    def node_exec(self, node: str, command: Sequence[str]) -> str:
        # One argument: minikube joins several with spaces, and a shell over there takes them apart.
        return self._minikube("ssh", "--node", node, "--", shlex.join(["sudo", *command]))

    def _minikube(self, *arguments: str) -> str:
        result = subprocess.run(
            ["minikube", "--profile", self.name, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return result.stdout
