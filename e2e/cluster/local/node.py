"""One node: a network and a mount namespace, and in them containerd, kubelet, kube-proxy and policies.

The namespaces belong to a holder process. Everything the node mounts, routes or filters lives in them and
is gone with the last process: nothing of it stays on the machine.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.cluster.local import processes
from e2e.cluster.local.archive import read_image, write_image
from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.provider import wait_for

PAUSE = "preheat.local/pause:1"
POLICY_QUEUE = "100"
"""The kernel's queue between a node's packets and what judges them. Each network namespace has its own."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_FOLDERS = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/preheat",
    "/var/lib/containerd",
    "/var/log",
    "/run",
)
"""What each node has for itself, whatever the machine has there."""


@dataclass(frozen=True, slots=True)
class Network:
    """The addresses of one cluster: everything lies in one /16 of its own."""

    index: int

    @property
    def range(self) -> str:
        return f"10.{self.index}.0.0/16"

    @property
    def bridge(self) -> str:
        return f"preheat{self.index}"

    @property
    def machine(self) -> str:
        return f"10.{self.index}.255.1"

    @property
    def services(self) -> str:
        return f"10.{self.index}.96.0/20"

    @property
    def dns(self) -> str:
        return f"10.{self.index}.96.10"

    @property
    def pods(self) -> str:
        return f"10.{self.index}.0.0/18"

    def node(self, number: int) -> str:
        return f"10.{self.index}.255.{number + 2}"

    def node_pods(self, number: int) -> str:
        return f"10.{self.index}.{number + 1}.0/24"


class Node:
    """A node of the local cluster."""

    def __init__(
        self, cluster: str, suffix: str, number: int, network: Network, folder: Path, tools: Path
    ) -> None:
        self.name = f"{cluster}-{suffix}"
        self.cluster = cluster
        self.number = number
        self.network = network
        self.folder = folder
        self.tools = tools
        self.cgroup = f"preheat-{self.name}"

    @property
    def address(self) -> str:
        return self.network.node(self.number)

    @property
    def user(self) -> str:
        """Who the kubelet is, for the API server."""
        return f"system:node:{self.name}"

    @property
    def link(self) -> str:
        """The machine's end of the node's cable."""
        return f"ph{self.network.index}n{self.number}"

    def start(
        self, plane: ControlPlane, others: Sequence["Node"], taint: bool, labels: dict[str, str]
    ) -> None:
        """Start the node's processes. It registers itself and becomes Ready a little later."""
        self._make_namespaces()
        self._make_network(others)
        self._make_cgroups()
        self._start_containerd()
        plane.write_kubeconfig(self.folder / "kubeconfig", self.user)
        self._start_kubelet(taint, labels)
        self._start_proxy(plane)

    def enforce_policies(self, plane: ControlPlane, agent: Path) -> None:
        """Have every new connection of the node's pods judged by NetworkPolicy; without a judge none is let through.

        The agent would lay its own rules, with a part of nftables that not every kernel has. These say the same
        with a part that all have, and for all pods: one without a policy may do everything.
        """
        self._spawn(
            "networkpolicy", str(agent), "--kubeconfig", str(plane.kubeconfig),
            "--node", self.name, "--queue", POLICY_QUEUE,
        )  # fmt: skip
        wait_for(f"policies of {self.name} (see {self.folder}/logs)", self._judges, 30)
        pods, queue = self.network.node_pods(self.number), ("NFQUEUE", "--queue-num", POLICY_QUEUE)
        for rule in (
            ("-m", "owner", "--uid-owner", "0", "-j", "RETURN"),  # the kubelet's probes
            ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN"),
            ("-s", pods, "-j", *queue),
            ("-d", pods, "-j", *queue),
        ):
            self.run("iptables", "-t", "mangle", "-A", "POSTROUTING", *rule)

    def _judges(self) -> bool:
        queues = self.run("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines()
        return any(line.split()[0] == POLICY_QUEUE for line in queues)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in the node's namespaces; return what it printed. Raises with its own words."""
        result = subprocess.run(
            [*self._enter(), *command], capture_output=True, text=True, check=False, env=self._environment()
        )
        if check and result.returncode:
            raise RuntimeError(
                f"{self.name}: {' '.join(command)}: {(result.stderr or result.stdout).strip()}"
            )
        return result.stdout

    def load_image(self, archive: Path) -> None:
        """Import a docker-archive, unless the node has this very image under this very name."""
        image = read_image(archive)
        if all(self._image_id(name) == image.id for name in image.names):
            return
        self.run("ctr", "-n", "k8s.io", "images", "import", "--local", "--no-unpack=false", str(archive))

    def _image_id(self, name: str) -> str | None:
        """Return the digest of an image's config, as an archive has it; None when the image is not there."""
        line = self.run("ctr", "-n", "k8s.io", "images", "ls", f"name=={name}").splitlines()[1:]
        if not line:
            return None
        manifest = line[0].split()[2]
        content = json.loads(self.run("ctr", "-n", "k8s.io", "content", "get", manifest))
        digest: str | None = content.get("config", {}).get("digest")
        return digest

    # --- how it is made

    def _enter(self) -> list[str]:
        holder = (self.folder / "holder.pid").read_text().strip()
        return ["nsenter", "-t", holder, "-m", "-n", "--"]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.tools}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def _spawn(self, name: str, *command: str) -> None:
        processes.start(
            self.cluster,
            [*self._enter(), *command],
            self.folder / "logs" / f"{name}.log",
            self._environment(),
        )

    def _make_namespaces(self) -> None:
        script = ["set -e", "mount --make-rshared /"]
        for path in OWN_FOLDERS:
            own = self.folder / "own" / path.strip("/").replace("/", "-")
            own.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            script.append(f"mount --bind {own} {path}")
        ready = self.folder / "holder.ready"
        script += [f"touch {ready}", "exec sleep infinity"]
        holder = processes.start(
            self.cluster,
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script)],
            self.folder / "logs" / "holder.log",
        )
        (self.folder / "holder.pid").write_text(str(holder))
        wait_for(f"namespaces of {self.name}", ready.exists, 10, 0.02)

    def _make_network(self, others: Sequence["Node"]) -> None:
        holder = (self.folder / "holder.pid").read_text().strip()
        ip(f"link add {self.link} type veth peer name eth0 netns {holder}")
        ip(f"link set {self.link} master {self.network.bridge} up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", self.network.machine)
        for other in others:
            self.run("ip", "route", "add", self.network.node_pods(other.number), "via", other.address)
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        ip(f"route replace {self.network.node_pods(self.number)} via {self.address}")

    def _make_cgroups(self) -> None:
        """Make the node's own cgroup in every controller: a second kubelet must not share the first one's."""
        root = CGROUPS
        if (root / "cgroup.controllers").exists():
            (root / self.cgroup).mkdir(exist_ok=True)
            controllers = " ".join(f"+{c}" for c in (root / "cgroup.controllers").read_text().split())
            for folder in (root, root / self.cgroup):
                (folder / "cgroup.subtree_control").write_text(controllers)
            return
        for controller in root.iterdir():
            if not (controller / "tasks").exists() or controller.is_symlink():
                continue
            own = controller / self.cgroup
            own.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (own / setting).exists():
                    (own / setting).write_text((controller / setting).read_text())

    def _start_containerd(self) -> None:
        network = self.folder / "cni"
        network.mkdir(exist_ok=True)
        (network / "10-preheat.conflist").write_text(
            json.dumps(
                {
                    "cniVersion": "1.0.0",
                    "name": "preheat",
                    "plugins": [
                        {
                            "type": "ptp",
                            "ipMasq": False,
                            "ipam": {
                                "type": "host-local",
                                "ranges": [[{"subnet": self.network.node_pods(self.number)}]],
                                "routes": [{"dst": "0.0.0.0/0"}],
                                "dataDir": "/var/lib/cni/networks",
                            },
                        },
                        {"type": "portmap", "capabilities": {"portMappings": True}},
                    ],
                }
            )
        )
        config = self.folder / "containerd.toml"
        config.write_text(_CONTAINERD.format(pause=PAUSE, cni=network))
        self._spawn("containerd", str(self.tools / "containerd"), "--config", str(config))
        wait_for(
            f"containerd of {self.name} (see {self.folder}/logs)",
            lambda: "ok" in self.run("ctr", "-n", "k8s.io", "plugins", "ls", check=False),
            30,
        )
        pause = self.folder / "pause.tar"
        write_image(pause, PAUSE, self.tools / "pause", "/pause")
        self.load_image(pause)

    def _start_kubelet(self, taint: bool, labels: dict[str, str]) -> None:
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {self.network.machine}\n")
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # Only reachable inside the node's own network: the API server, and whoever is on this machine.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [self.network.dns],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolv),
            # The default lies outside the node's own folders and would stay on the machine.
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "5s",
            "maxPods": 200,
            "registerWithTaints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
            if taint
            else [],
        }
        path = self.folder / "kubelet.yaml"
        path.write_text(yaml.safe_dump(config))
        self._spawn(
            "kubelet", str(self.tools / "kubernetes"), "kubelet", "--config", str(path),
            "--kubeconfig", str(self.folder / "kubeconfig"), "--node-ip", self.address,
            "--hostname-override", self.name,
            "--node-labels", ",".join(f"{key}={value}" for key, value in labels.items()),
        )  # fmt: skip

    def _start_proxy(self, plane: ControlPlane) -> None:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": self.network.pods,
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": str(plane.kubeconfig)},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
        }
        path = self.folder / "kube-proxy.yaml"
        path.write_text(yaml.safe_dump(config))
        self._spawn("kube-proxy", str(self.tools / "kubernetes"), "kube-proxy", "--config", str(path))


def remove_cgroups(names: Collection[str]) -> None:
    """Remove the cgroups of a cluster's nodes, the deepest first. Their processes must have ended."""
    roots = [root for root in (CGROUPS, *CGROUPS.iterdir()) if root.is_dir() and not root.is_symlink()]
    own = [root / name for root in roots for name in names]

    def are_gone() -> bool:
        for folder in (Path(below) for top in own for below, _, _ in os.walk(top, topdown=False)):
            with suppress(OSError):  # the kernel is still at work on those that have just ended: once more
                folder.rmdir()
        return not any(folder.exists() for folder in own)

    wait_for(f"cgroups {' '.join(names)} gone", are_gone, 10, 0.05)


def ip(command: str, *, check: bool = True) -> None:
    """Run an ip command on the machine."""
    result = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise RuntimeError(f"ip {command}: {result.stderr.strip()}")


def routes_in(network: Network) -> str:
    """Return the machine's routes that lie in this range, whosever they are."""
    return subprocess.run(
        ["ip", "route", "show", "root", network.range], capture_output=True, text=True, check=True
    ).stdout


def remove_tree(folder: Path) -> None:
    """Remove a folder, if it is there. Raises OSError if something of it stays."""
    if folder.exists():
        shutil.rmtree(folder)


_CONTAINERD = """\
version = 3
# It would make /opt/containerd on the machine.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE (a machine inside a machine) no sandbox could lower its score.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{cni}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
