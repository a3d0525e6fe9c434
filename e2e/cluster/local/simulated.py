"""A real control plane with nodes that are not there: KWOK says in their name that they and their pods run.

    with SimulatedCluster(Path("/tmp/x"), nodes=70) as cluster:
        kubectl(cluster.kubeconfig, "get", "nodes")

API server, etcd, controllers and scheduler are the real ones. What is simulated: kubelets. A bound pod is Ready
at once, a Job's pod has succeeded at once, without a container and without last words. All pods of a node have
the node's address, on the loopback device, and `Sidecars` answers there for their agents and warmers.
"""

import asyncio
import ipaddress
import json
import re
import secrets
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from e2e.cluster.local.build import binaries, stages
from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.provider import KUBECTL, kubectl, wait_for

CONTROLLERS = (
    "*,"
    "-node-lifecycle-controller,"  # no kubelet renews a lease; nodes go when they are deleted
    "-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"  # refuse loopback
)
QUICK = 2_000
"""Calls a second that controllers and scheduler may make. Their defaults (20 and 50) would be all that we measure."""
GPUS_PER_NODE = 16
ZONES = ("zone-a", "zone-b", "zone-c")
PORTS = {9080: "agent", 9081: "warmer"}

ANSWERS: dict[str, dict[str, Any]] = {
    "agent": {"state": "Loading", "load": {"bytesLoaded": 3_000_000_000, "bytesTotal": 16_000_000_000}},
    "warmer": {
        "state": "Fetching",
        "bytesDone": 5_000_000_000,
        "bytesTotal": 16_000_000_000,
        "bytesPerSecond": 120_000_000.0,
    },
}
"""What every agent and warmer says, for ever: a load and a download of which nothing moves."""


class SimulatedCluster(ControlPlane):
    """A control plane with scheduler and nodes of one GPU type, labelled as GPU feature discovery does.

    ``gpus``: of every node that are not taken. ``endless``: namespaces in which a Job's pod runs for ever.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        gpus: int = GPUS_PER_NODE,
        product: str = "NVIDIA-L4",
        endless: Collection[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(folder, controllers=CONTROLLERS, controllers_qps=QUICK, **settings)
        self.product = product
        self.gpus = gpus
        self.endless = endless
        # A /16 of the loopback device for every cluster: several can run at once.
        self._network = ipaddress.ip_network(f"127.{16 + secrets.randbelow(224)}.0.0/16")
        self.addresses = [str(self._network[256 + number]) for number in range(nodes)]

    @override
    def start(self) -> None:
        """Start, and wait until every node is Ready."""
        super().start()
        kubernetes = str(binaries() / "kubernetes")
        self._run(
            "kube-scheduler",
            kubernetes,
            "kube-scheduler",
            "--config",
            str(self._scheduler()),
            "--secure-port",
            "0",
        )
        configs = [argument for stage in self._stages() for argument in ("--config", str(stage))]
        self._run(
            "kwok", kubernetes, "kwok", "--kubeconfig", str(self.kubeconfig), "--manage-all-nodes=true",
            "--node-lease-duration-seconds", "0", "--server-address", "", *configs,
        )  # fmt: skip
        self._add_nodes()

    def _add_nodes(self) -> None:
        items = [
            _node(f"gpu-{number:04}", self.product, self.gpus, address, ZONES[number % len(ZONES)])
            for number, address in enumerate(self.addresses)
        ]
        names = [item["metadata"]["name"] for item in items]
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        command = [KUBECTL, "--kubeconfig", str(self.kubeconfig), "create", "-f", "-"]
        subprocess.run(command, input=body, text=True, check=True, capture_output=True)
        # Admission puts it there, and the controller that would take it away needs kubelets.
        kubectl(self.kubeconfig, "taint", "node", *names, "node.kubernetes.io/not-ready:NoSchedule-")
        wait_for(f"nodes Ready (see {self.folder}/logs)", lambda: self._ready(names), 120)

    def _ready(self, names: Collection[str]) -> bool:
        path = '{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
        told = kubectl(self.kubeconfig, "get", "nodes", "-o", f"jsonpath={path}")
        return {f"{name} True" for name in names} <= set(told.splitlines())

    def _scheduler(self) -> Path:
        path = self.folder / "scheduler.yaml"
        settings = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(self.kubeconfig), "qps": QUICK, "burst": 2 * QUICK},
        }
        path.write_text(yaml.safe_dump(settings))
        return path

    def _stages(self) -> Iterator[Path]:
        """Write KWOK's stages with what we need otherwise: addresses that answer, and Jobs that do not end."""
        folder = self.folder / "stages"
        folder.mkdir()
        for published in sorted(stages().iterdir()):
            stage = yaml.safe_load(published.read_text())
            name, spec = stage["metadata"]["name"], stage["spec"]
            if name == "pod-ready":
                template, changed = re.subn(
                    r"PodIPsWith [^}]*", "NodeIPsWith .spec.nodeName ", spec["next"]["statusTemplate"]
                )
                if changed != 1:
                    raise RuntimeError(f"{published} gives pods their addresses in another way than it did")
                spec["next"]["statusTemplate"] = template
            if name == "pod-complete" and self.endless:
                spec["selector"]["matchExpressions"].append(
                    {"key": ".metadata.namespace", "operator": "NotIn", "values": sorted(self.endless)}
                )
            path = folder / published.name
            path.write_text(yaml.safe_dump(stage))
            yield path


def _node(name: str, product: str, gpus: int, address: str, zone: str) -> dict[str, Any]:
    amounts = {"cpu": "96", "memory": "768Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": zone,
                "nvidia.com/gpu.product": product,
                "nvidia.com/gpu.count": str(GPUS_PER_NODE),
                "nvidia.com/gpu.present": "true",
            },
        },
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        },
    }


class Sidecars:
    """Answers for the agents and warmers of pods that are not there, in a thread of its own."""

    def __init__(self, addresses: Collection[str]) -> None:
        self._addresses = addresses
        self.asked = 0

    @contextmanager
    def running(self) -> Iterator["Sidecars"]:
        """Listen on the ports of agents and warmers at every address."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="sidecars", daemon=True)
        thread.start()
        servers = asyncio.run_coroutine_threadsafe(self._listen(), loop).result(60)
        try:
            yield self
        finally:
            for server in servers:
                loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _listen(self) -> list[asyncio.Server]:
        return [
            await asyncio.start_server(self._answerer(ANSWERS[name]), address, port, backlog=1024)
            for address in self._addresses
            for port, name in PORTS.items()
        ]

    def _answerer(self, answer: dict[str, Any]) -> Any:
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked += 1
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head.encode() + body)
                await writer.drain()
            except (OSError, asyncio.IncompleteReadError):
                return
            finally:
                writer.close()

        return respond
