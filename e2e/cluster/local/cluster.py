"""The local provider: a control plane on the machine, nodes in namespaces, a bridge between them."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import yaml

from e2e.cluster.local import processes
from e2e.cluster.local.build import binaries, install_packages, policy_agent
from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.local.node import OWN_FOLDERS, Network, Node, ip, remove_cgroups, remove_tree, routes_in
from e2e.cluster.provider import (
    GPU_NODES,
    add_gpus,
    kubeconfig_path,
    kubectl,
    step,
    wait_for,
)
from e2e.images.once import cache_directory, locked

STATE = Path("/var/lib/preheat-clusters")
FIRST_NETWORK, NETWORKS = 140, 100
"""Clusters get one of 10.140.0.0/16 to 10.239.0.0/16: by their name, else the next one that is free."""


class LocalProvider:
    """A real Kubernetes with two nodes on one bare machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kubeconfig = kubeconfig_path(name)
        self.folder = STATE / name
        self.network = self._recorded_network() or next(self._networks())

    def up(self) -> None:
        if self.is_up():
            self._write_kubeconfig()
            return
        if os.geteuid() != 0:
            raise RuntimeError("the local provider makes network and mount namespaces: run it as root")
        install_packages()
        tools, policies = binaries(), policy_agent()
        self.down()
        self.claim_network()
        with step("control plane"):
            plane = self._start_plane(tools)
        with step("nodes"):
            self._start_nodes(plane, policies)
        self._complete.touch()
        self._write_kubeconfig()

    def down(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("the local provider's cluster belongs to root: take it down as root")
        nodes = self._nodes_with(Path())
        cgroups = [node.cgroup for node in nodes]
        processes.end_all(self.name, cgroups)
        remove_cgroups(cgroups)
        if self._recorded_network() is not None:  # else its name only points at a range that may be another's
            for link in (*(node.link for node in nodes), self.network.bridge):
                ip(f"link delete {link}", check=False)  # routes go with it
        with _claims():
            remove_tree(self.folder)
            if not running_clusters():
                _remove_empty_folders()
        remove_tree(self.kubeconfig.parent)

    def is_up(self) -> bool:
        """Tell whether the API server answers, and the bring-up came to its end."""
        if not self._complete.exists():
            return False
        return (
            kubectl(self._own_kubeconfig, "get", "--raw", "/readyz", "--request-timeout=3s", check=False)
            == "ok"
        )

    def load_images(self, archives: Sequence[Path]) -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:
            for _ in pool.map(lambda node: [node.load_image(a) for a in archives], self._nodes()):
                pass

    def nodes(self) -> list[str]:
        return [node.name for node in self._nodes_with(Path())]

    def node_exec(self, node: str, command: Sequence[str]) -> str:
        (found,) = [n for n in self._nodes() if n.name == node]
        return found.run(*command)

    @property
    def audit_log(self) -> Path:
        return self.folder / "plane" / "audit.log"

    @property
    def _complete(self) -> Path:
        """Exists when the whole cluster was brought up: half of one is taken away and made anew."""
        return self.folder / "complete"

    @property
    def _own_kubeconfig(self) -> Path:
        return self.folder / "plane" / "kubeconfig"

    def _write_kubeconfig(self) -> None:
        """Give this checkout the kubeconfig: another one may have brought the cluster up."""
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._own_kubeconfig, self.kubeconfig)

    def _recorded_network(self) -> Network | None:
        record = self.folder / "network"
        return Network(int(record.read_text())) if record.exists() else None

    def _networks(self) -> Iterator[Network]:
        """Return every network a cluster can have, the one that this name points at first."""
        first = int(hashlib.sha256(self.name.encode()).hexdigest(), 16)
        return (Network(FIRST_NETWORK + (first + number) % NETWORKS) for number in range(NETWORKS))

    def claim_network(self) -> None:
        """Take a network that no other cluster has and the machine has no route into. Makes the state folder."""
        with _claims():
            taken = {LocalProvider(name).network for name in running_clusters()}
            free = (net for net in self._networks() if net not in taken and not routes_in(net))
            network = next(free, None)
            if network is None:
                raise RuntimeError("no free network: all of 10.140.0.0/16 to 10.239.0.0/16 are in use")
            self.folder.mkdir(parents=True)
            (self.folder / "network").write_text(str(network.index))
            self.network = network

    def _nodes(self) -> list[Node]:
        return self._nodes_with(binaries())

    def _nodes_with(self, tools: Path) -> list[Node]:
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
            aggregates=True,
        )
        for node in self._nodes():
            plane.add_user(node.user, "system:nodes")
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

    def _start_nodes(self, plane: ControlPlane, policies: Path) -> None:
        nodes = self._nodes()
        for node in nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            others = [other for other in nodes if other is not node]
            gpu = GPU_NODES[node.number]
            node.start(plane, others, gpu.taint, gpu.labels)
            node.enforce_policies(plane, policies)
        # Services are reached from the machine through the first node, whose kube-proxy knows them.
        ip(f"route replace {self.network.services} via {nodes[0].address}")
        for node in nodes:
            is_ready = partial(_is_ready, plane, node.name)
            wait_for(f"node {node.name} Ready (see {node.folder}/logs)", is_ready, 90)
            add_gpus(plane.kubeconfig, node.name, GPU_NODES[node.number])


def _is_ready(plane: ControlPlane, node: str) -> bool:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return kubectl(plane.kubeconfig, "get", "node", node, "-o", f"jsonpath={path}", check=False) == "True"


def running_clusters() -> list[str]:
    """Return the names of the clusters that have a state folder."""
    return sorted(folder.name for folder in STATE.iterdir()) if STATE.exists() else []


def _claims() -> AbstractContextManager[None]:
    """Hold what clusters share on this machine: networks, and the folders that nodes mount theirs over."""
    return locked(cache_directory() / "cluster" / "claims.lock")


def _remove_empty_folders() -> None:
    """Remove what the last cluster leaves: the empty folders that its nodes mounted their own over."""
    own = [Path(folder) for folder in OWN_FOLDERS if folder.startswith("/var/lib/")]
    for folder in (STATE, *own):
        with suppress(OSError):  # not empty: it is somebody's
            folder.rmdir()
