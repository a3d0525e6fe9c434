"""The local provider: a control plane on the machine, nodes in namespaces, a bridge between them."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from e2e.cluster.local import processes
from e2e.cluster.local.build import binaries, install_packages
from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.local.node import Network, Node, ip, remove_cgroups, remove_tree
from e2e.cluster.provider import (
    GPU_NODES,
    add_gpus,
    kubeconfig_path,
    kubectl,
    step,
    wait_for,
)

STATE = Path("/var/lib/preheat-clusters")
FIRST_NETWORK, NETWORKS = 140, 100
"""Clusters get 10.140.0.0/16 to 10.239.0.0/16, by their name."""


class LocalProvider:
    """A real Kubernetes with two nodes on one bare machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kubeconfig = kubeconfig_path(name)
        self.folder = STATE / name
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % NETWORKS
        self.network = Network(FIRST_NETWORK + number)

    def up(self) -> None:
        if self.is_up():
            return
        if os.geteuid() != 0:
            raise RuntimeError("the local provider makes network and mount namespaces: run it as root")
        install_packages()
        tools = binaries()
        self.down()
        self.folder.mkdir(parents=True)
        with step("control plane"):
            plane = self._start_plane(tools)
        with step("nodes"):
            self._start_nodes(plane)
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(plane.kubeconfig, self.kubeconfig)

    def down(self) -> None:
        processes.end_all(self.name, cgroup=f"preheat-{self.name}-")
        remove_cgroups(f"preheat-{self.name}-")
        ip(f"link delete {self.network.bridge}", check=False)
        remove_tree(self.folder)
        remove_tree(self.kubeconfig.parent)

    def is_up(self) -> bool:
        if not self.kubeconfig.exists():
            return False
        return (
            kubectl(self.kubeconfig, "get", "--raw", "/readyz", "--request-timeout=3s", check=False) == "ok"
        )

    def load_images(self, archives: Sequence[Path]) -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:
            for _ in pool.map(lambda node: [node.load_image(a) for a in archives], self._nodes()):
                pass

    def nodes(self) -> list[str]:
        return [node.name for node in self._nodes()]

    def node_exec(self, node: str, command: Sequence[str]) -> str:
        (found,) = [n for n in self._nodes() if n.name == node]
        return found.run(*command)

    def _nodes(self) -> list[Node]:
        tools = binaries()
        return [
            Node(self.name, gpu.suffix, number, self.network, self.folder / gpu.suffix, tools)
            for number, gpu in enumerate(GPU_NODES)
        ]

    def _start_plane(self, tools: Path) -> ControlPlane:
        ip(f"link add {self.network.bridge} type bridge")
        ip(f"addr add {self.network.machine}/24 dev {self.network.bridge}")
        ip(f"link set {self.network.bridge} up")
        plane = ControlPlane(
            self.folder / "plane",
            mark=self.name,
            address=self.network.machine,
            services=self.network.services,
            controllers="*",
            audit=True,
        )
        for node in self._nodes():
            plane.add_user(node.token, f"system:node:{node.name}", "system:nodes")
        plane.start()
        kubernetes = str(tools / "kubernetes")
        logs = self.folder / "plane" / "logs"
        processes.start(
            self.name,
            [kubernetes, "kube-scheduler", "--kubeconfig", str(plane.kubeconfig), "--leader-elect=false",
             "--secure-port", "0"],
            logs / "kube-scheduler.log",
        )  # fmt: skip
        self._start_dns(plane, kubernetes, logs)
        return plane

    def _start_dns(self, plane: ControlPlane, kubernetes: str, logs: Path) -> None:
        corefile = self.folder / "plane" / "Corefile"
        corefile.write_text(
            f".:53 {{\n  bind {self.network.machine}\n  errors\n"
            f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {plane.kubeconfig}\n    pods insecure\n  }}\n"
            "  cache 5\n}\n"
        )
        processes.start(self.name, [kubernetes, "coredns", "-conf", str(corefile)], logs / "coredns.log")
        labels = {"kubernetes.io/service-name": "kube-dns"}
        ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": self.network.dns,
                "ports": [{"name": name, "protocol": protocol, "port": 53} for name, protocol in ports],
            },
        }
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.network.machine], "conditions": {"ready": True}}],
            "ports": [{"name": name, "protocol": protocol, "port": 53} for name, protocol in ports],
        }
        manifest = yaml.safe_dump_all([service, endpoints])
        path = self.folder / "plane" / "dns.yaml"
        path.write_text(manifest)
        kubectl(plane.kubeconfig, "apply", "-f", str(path))

    def _start_nodes(self, plane: ControlPlane) -> None:
        nodes = self._nodes()
        for node in nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            others = [other for other in nodes if other is not node]
            gpu = GPU_NODES[node.number]
            node.start(plane, others, gpu.taint, gpu.labels)
        # Services are reached from the machine through the first node, whose kube-proxy knows them.
        ip(f"route replace {self.network.services} via {nodes[0].address}")
        for node in nodes:
            wait_for(f"node {node.name} Ready", lambda name=node.name: _is_ready(plane, name), 90)  # type: ignore[misc]
            add_gpus(plane.kubeconfig, node.name, GPU_NODES[node.number])


def _is_ready(plane: ControlPlane, node: str) -> bool:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return kubectl(plane.kubeconfig, "get", "node", node, "-o", f"jsonpath={path}", check=False) == "True"


def running_clusters() -> list[str]:
    """Return the names of the clusters that have a state folder."""
    return sorted(folder.name for folder in STATE.iterdir()) if STATE.exists() else []
