"""What a cluster can do for us, and what all providers share: where things lie, and GPUs that are not there."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
_BESIDE = Path(sys.executable).with_name("kubectl")
KUBECTL = str(_BESIDE) if _BESIDE.exists() else "kubectl"
"""The kubectl of this very environment, else the one on PATH."""


@dataclass(frozen=True, slots=True)
class GPUNode:
    """A node's GPUs, as the device plugin and GPU feature discovery would show them."""

    suffix: str
    labels: dict[str, str]
    count: int
    taint: bool


GPU_NODES = (
    GPUNode("a", {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}, 2, taint=False),
    GPUNode("b", {"nvidia.com/gpu.product": "NVIDIA-A10G", "nvidia.com/gpu.memory": "23028"}, 2, taint=True),
)
"""Two nodes, two GPU types; the second is tainted, as GPU nodes are on the large clouds."""


class Provider(Protocol):
    """A way to have a real cluster."""

    name: str
    kubeconfig: Path

    def up(self) -> None:
        """Bring the cluster up; do nothing when it is up."""

    def down(self) -> None:
        """Take the cluster away and leave nothing behind, whatever state it is in."""

    def is_up(self) -> bool:
        """Tell whether the API server answers."""
        ...

    def load_images(self, archives: Sequence[Path]) -> None:
        """Put docker-archive tars on every node."""

    def nodes(self) -> list[str]:
        """Return the names of the nodes with GPUs, the L4 node first."""
        ...

    def node_exec(self, node: str, command: Sequence[str]) -> str:
        """Run a command where a node lives (its disk, its network); return what it printed."""
        ...

    @property
    def audit_log(self) -> Path | None:
        """Who asked the API server for what; None where it does not tell."""
        ...


def kubeconfig_path(cluster: str) -> Path:
    """Return where a cluster's kubeconfig is written."""
    return ROOT / "build" / "cluster" / cluster / "kubeconfig"


def kubectl(kubeconfig: Path, *arguments: str, check: bool = True) -> str:
    """Run kubectl against a cluster; return what it printed. Raises with kubectl's own words."""
    result = subprocess.run(
        [KUBECTL, "--kubeconfig", str(kubeconfig), *arguments], capture_output=True, text=True, check=False
    )
    if check and result.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def add_gpus(kubeconfig: Path, node: str, gpu: GPUNode) -> None:
    """Give a node GPUs as an extended resource: the kubelet keeps it and the scheduler counts it."""
    amount = {"nvidia.com/gpu": str(gpu.count)}
    patch = json.dumps({"status": {"capacity": amount, "allocatable": amount}})
    kubectl(kubeconfig, "patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)
    labels = [f"{key}={value}" for key, value in gpu.labels.items()]
    kubectl(kubeconfig, "label", "node", node, "--overwrite", *labels)
    if gpu.taint:
        kubectl(kubeconfig, "taint", "node", node, "--overwrite", "nvidia.com/gpu=present:NoSchedule")


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print a step and how long it took."""
    started = time.monotonic()
    print(f"  {what} ...", flush=True)
    yield
    print(f"  {what}: {time.monotonic() - started:.1f} s", flush=True)


def wait_for(what: str, is_done: Callable[[], bool], seconds: float, every: float = 0.2) -> None:
    """Wait until something holds. Raises TimeoutError, naming it, when it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
