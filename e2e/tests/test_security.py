"""What an attacker would try first, tried on the real pods: ports, files, tokens, and the way out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from preheat.api.constants import PORTS_OF_DEPLOYMENTS

from e2e.cluster.local.archive import read_files, read_user
from e2e.cluster.provider import ROOT
from e2e.install import NAMES, SYSTEM, image_archives
from e2e.tests.cluster import Cluster

SERVICE = "smollm2"
STRANGERS = "strangers"
OPERATOR_PORTS = {"tcp 8080"}
MODEL_PORTS = {"tcp 8000", "tcp 8001", "tcp 8002", "tcp 9080", "tcp 9084", "tcp loopback"}
"""The last: llama.cpp's own, which nobody outside the pod reaches, behind a random key (runtime/engines/triton)."""
WARMER_PORTS = {"tcp 9081"}
FRONT_PORTS = {"tcp 9083"}
OF_DEPLOYMENTS = {f"tcp {port}" for port in PORTS_OF_DEPLOYMENTS}

PORTS = """
from pathlib import Path
for kind, listens in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
    for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == listens:
            address, _, port = words[1].rpartition(":")
            is_loopback = address[-2:] == "7F" or address == "00000000000000000000000001000000"
            print(kind.rstrip("6"), "loopback" if is_loopback else int(port, 16))
"""
WRITE = """
import sys
for path in sys.argv[1:]:
    try:
        open(path, "w").close()
        print(path, "written")
    except OSError as error:
        print(path, error.strerror)
"""
REACH = """
import socket, sys
for target in sys.argv[1:]:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(target, "open")
    except OSError as error:
        print(target, "silent" if isinstance(error, TimeoutError) else error)
"""
ASK_THE_API = """
import ssl, sys, urllib.error, urllib.request
for path in ("/api/v1/namespaces/default/secrets", "/apis/preheat.dev/v1alpha1/llmdeployments"):
    try:
        print(urllib.request.urlopen(f"https://{sys.argv[1]}{path}", timeout=5, context=ssl._create_unverified_context()).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"


class Pod:
    """A container of a pod that a program can be run in."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, container: str) -> None:
        self.cluster = cluster
        self._where = ("-n", namespace, "exec", name, "-c", container, "--")
        self._name = (namespace, name)

    def run(self, program: str, *arguments: str) -> list[str]:
        return self.cluster.kubectl(*self._where, "python3", "-c", program, *arguments).splitlines()

    def reach(self, *targets: str) -> dict[str, str]:
        """Return what became of connections: open, silent, or the error."""
        return dict(line.split(" ", 1) for line in self.run(REACH, *targets))

    @property
    def address(self) -> str:
        namespace, name = self._name
        address: str = (self.cluster.get("pod", name, namespace) or {})["status"]["podIP"]
        return address


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Pod:
    cluster.apply(SERVICE)
    cluster.wait_ready(SERVICE)
    (pod,) = cluster.pods(SERVICE)
    return Pod(cluster, cluster.namespace, pod["metadata"]["name"], "engine")


@pytest.fixture(scope="module")
def agent(cluster: Cluster, engine: Pod) -> Pod:
    return Pod(cluster, *engine._name, "agent")


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> Pod:
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", "--timeout=60s")
    (pod,) = cluster.items("pods", "app.kubernetes.io/name=preheat", SYSTEM)
    return Pod(cluster, SYSTEM, pod["metadata"]["name"], "operator")


@pytest.fixture(scope="module")
def front(cluster: Cluster) -> Pod:
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat-front", "--timeout=60s")
    pod, *_ = cluster.items("pods", "preheat.dev/component=front", SYSTEM)
    return Pod(cluster, SYSTEM, pod["metadata"]["name"], "front")


@pytest.fixture(scope="module")
def warmer(cluster: Cluster) -> Iterator[Pod]:
    """One that is at work for as long as it is looked at."""
    node = cluster.provider.nodes()[1]
    # What another cache holds on a disk is not fetched again, and the engine that is looked at runs on the first node.
    cluster.until("an empty disk", lambda: not cluster.weights_on(node), 150, every=1)
    source = yaml.safe_load((ROOT / "examples" / "smollm2.yaml").read_text())["spec"]["model"]
    spec = {
        "source": {"uri": source["uri"], "format": source["format"]},
        "maxBytesPerSecond": 200_000,
        "placement": {"nodeSelector": {"kubernetes.io/hostname": node}},
    }
    name, where = "slow", {"namespace": cluster.namespace}
    _apply(cluster, {"apiVersion": "preheat.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": name, **where}, "spec": spec})  # fmt: skip
    selector = f"preheat.dev/modelcache={name}"

    def at_work() -> list[dict[str, Any]]:
        return [pod for pod in cluster.items("pods", selector) if pod["status"]["phase"] == "Running"]

    cluster.until("a warmer at work", at_work, 60)
    yield Pod(cluster, cluster.namespace, at_work()[0]["metadata"]["name"], "warmer")
    cluster.kubectl("-n", cluster.namespace, "delete", "mc", name)


@pytest.fixture(scope="module")
def strangers(cluster: Cluster) -> Iterator[dict[str, Pod]]:
    """A pod in a namespace that has nothing to do with us, and one beside the model."""
    _apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STRANGERS}})
    pods = {namespace: _stranger(cluster, namespace) for namespace in (STRANGERS, cluster.namespace)}
    yield pods
    cluster.kubectl("-n", cluster.namespace, "delete", "pod", "stranger")
    cluster.kubectl("delete", "namespace", STRANGERS, "--wait=true")


def test_each_pod_listens_on_its_documented_ports_alone(
    operator: Pod, agent: Pod, warmer: Pod, front: Pod
) -> None:
    assert {said for said in front.run(PORTS) if said not in OF_DEPLOYMENTS} == FRONT_PORTS
    assert set(operator.run(PORTS)) == OPERATOR_PORTS
    assert set(agent.run(PORTS)) == MODEL_PORTS
    assert set(warmer.run(PORTS)) == WARMER_PORTS


@pytest.mark.parametrize("which", ["operator", "agent", "engine", "warmer"])
def test_no_program_can_change_its_own_files(request: pytest.FixtureRequest, which: str) -> None:
    pod: Pod = request.getfixturevalue(which)
    said = pod.run(WRITE, "/x", "/etc/passwd", "/opt/preheat/x", "/usr/local/bin/x", "/var/x", "/run/x")
    assert not [line for line in said if line.endswith(" written")], said
    assert [line for line in said if line.endswith("Read-only file system")], said
    mine = "/cache/.preheat-test" if which == "warmer" else "/tmp/x"
    assert pod.run(WRITE, mine) == [f"{mine} written"], "what may be written can be: the test means something"
    pod.run(f"import os; os.remove({mine!r})")


def test_the_front_can_write_nothing_at_all(front: Pod) -> None:
    said = front.run(WRITE, "/x", "/tmp/x", "/etc/passwd", "/opt/preheat/x", "/var/x")
    assert len(said) == 5
    assert not [line for line in said if line.endswith(" written")], said


@pytest.mark.parametrize("which", ["operator", "agent", "engine", "front", "warmer"])
def test_no_program_is_or_becomes_anybody_else(request: pytest.FixtureRequest, which: str) -> None:
    pod: Pod = request.getfixturevalue(which)
    status = dict(
        line.split(":\t", 1) for line in pod.run("print(open('/proc/self/status').read())") if ":\t" in line
    )
    assert set(status["Uid"].split()) == {"1000"}
    assert set(status["Gid"].split()) == {"1000"}
    for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[key], 16) == 0, key
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize("which", ["agent", "engine", "warmer"])
def test_no_model_pod_and_no_warmer_has_a_token(request: pytest.FixtureRequest, which: str) -> None:
    pod: Pod = request.getfixturevalue(which)
    assert pod.run(f"import os; print(os.path.exists({TOKEN!r}))") == ["False"]


def test_a_model_pod_reaches_nobody(cluster: Cluster, agent: Pod, engine: Pod, operator: Pod, strangers: dict[str, Pod]) -> None:  # fmt: skip
    targets = [
        *_api_servers(cluster),
        f"{_service(cluster, 'model-store', cluster.namespace)}:80",
        f"{operator.address}:8080",
    ]
    others = strangers[cluster.namespace].reach(*targets)
    assert others == dict.fromkeys(targets, "open"), (
        "a pod beside it reaches all of them: there is something to stop"
    )
    for pod in (agent, engine):
        assert pod.reach(*targets) == dict.fromkeys(targets, "silent")


def test_only_the_operator_reaches_an_agent(cluster: Cluster, engine: Pod, operator: Pod, strangers: dict[str, Pod]) -> None:  # fmt: skip
    agent, models = (
        f"{engine.address}:9080",
        [f"{engine.address}:{port}" for port in (8000, 8001, 8002, 9084)],
    )
    assert operator.reach(agent) == {agent: "open"}
    for namespace in (STRANGERS, cluster.namespace):
        said = strangers[namespace].reach(agent, *models)
        assert said == {agent: "silent", **dict.fromkeys(models, "open")}, namespace


def test_who_is_nobody_learns_nothing_from_the_api(cluster: Cluster, strangers: dict[str, Pod]) -> None:
    for server in _api_servers(cluster):
        assert set(strangers[STRANGERS].run(ASK_THE_API, server)) <= {"401", "403"}


@pytest.mark.usefixtures("engine")
def test_a_link_in_the_place_of_weights_leads_nowhere(cluster: Cluster) -> None:
    """Whoever may start pods in a namespace may write where its weights lie. That must show nobody the node."""
    (model,) = cluster.pods(SERVICE)
    claims = [
        volume.get("persistentVolumeClaim", {}).get("claimName", "") for volume in model["spec"]["volumes"]
    ]
    (serve,) = [claim for claim in claims if claim.endswith("-serve")]
    (warm,) = [
        body["metadata"]["name"]
        for body in cluster.items("pvc", "app.kubernetes.io/managed-by=preheat", cluster.namespace)
        if body["metadata"]["name"].endswith("-warm")
    ]
    key = serve.split("-")[1]
    writer = _stranger(cluster, cluster.namespace, "writer", claim=warm, node=model["spec"]["nodeName"])
    try:
        writer.run(f"import os; os.rename('/x/{key}', '/x/kept'); os.symlink('/', '/x/{key}')")
        reader = _stranger(cluster, cluster.namespace, "reader", claim=serve)
        assert {key, "kept"} <= set(reader.run("import os; print(*os.listdir('/x'), sep='\\n')"))
        same = f"import os; print(sorted(os.listdir('/x/{key}')) == sorted(os.listdir('/')))"
        assert reader.run(same) == ["True"], "the link leads to the pod's own files"
        _stranger(cluster, cluster.namespace, "deeper", claim=serve, folder=f"{key}/etc", starts=False)

        def refused() -> bool:
            pod = cluster.get("pod", "deeper", cluster.namespace) or {}
            states = [status["state"] for status in pod["status"].get("containerStatuses", [])]
            return any("subPath" in state.get("waiting", {}).get("message", "") for state in states)

        cluster.until("the kubelet refuses to follow the link", refused, 90)
    finally:
        writer.run(f"import os; os.remove('/x/{key}'); os.rename('/x/kept', '/x/{key}')")
        for name in ("writer", "reader", "deeper"):
            cluster.kubectl("-n", cluster.namespace, "delete", "pod", name, "--ignore-not-found")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_an_image_gives_rights(name: str) -> None:
    archive = image_archives()[name]
    assert read_user(archive) == "1000:1000"
    files = read_files(archive)
    assert len(files) > 1000
    assert not [path for path, file in files.items() if file.isfile() and file.mode & 0o6000], (
        "setuid or setgid"
    )
    loose = [
        path
        for path, file in files.items()
        if not file.issym() and file.mode & 0o002 and not file.mode & 0o1000
    ]
    assert not loose, "everybody may write these"
    assert not [path for path, file in files.items() if file.uid == 1000 or file.gid == 1000], (
        "ours to change"
    )


def _stranger(
    cluster: Cluster,
    namespace: str,
    name: str = "stranger",
    *,
    claim: str = "",
    folder: str = "",
    node: str = "",
    starts: bool = True,
) -> Pod:
    """Start a pod that waits, at /x with a claim or a folder of it, on a node."""
    container: dict[str, Any] = {
        "name": "python",
        "image": "ghcr.io/preheat-dev/warmer:dev",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Any] = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    if claim:
        spec["securityContext"]["fsGroup"] = 1000
        spec["tolerations"] = [{"operator": "Exists"}]
        spec["volumes"] = [{"name": "x", "persistentVolumeClaim": {"claimName": claim}}]
        container["volumeMounts"] = [
            {"name": "x", "mountPath": "/x", **({"subPath": folder} if folder else {})}
        ]
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    _apply(cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec})  # fmt: skip
    if starts:
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    return Pod(cluster, namespace, name, "python")


def _api_servers(cluster: Cluster) -> list[str]:
    """Return where the API server is: by its Service, and itself."""
    (address,) = cluster.items("endpointslices", "kubernetes.io/service-name=kubernetes", "default")
    port = address["ports"][0]["port"]
    return [
        f"{_service(cluster, 'kubernetes', 'default')}:443",
        f"{address['endpoints'][0]['addresses'][0]}:{port}",
    ]


def _service(cluster: Cluster, name: str, namespace: str) -> str:
    address: str = (cluster.get("service", name, namespace) or {})["spec"]["clusterIP"]
    return address


def _apply(cluster: Cluster, body: dict[str, Any]) -> None:
    path = ROOT / "build" / "e2e" / f"{body['kind'].lower()}-{body['metadata']['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    cluster.kubectl("apply", "-f", str(path))
