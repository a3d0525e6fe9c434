"""The cluster itself: what every other test takes for granted."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster import GPU_NODES
from e2e.cluster.provider import ROOT
from e2e.tests.cluster import Cluster

NAMESPACE = "cluster-smoke"
LABEL = "example.com/smoke"
"""Not below cache.preheat.dev/: the operator takes away what it does not know there, within milliseconds."""
FOLDER = "/var/lib/preheat/smoke"
REACH_THE_API = "import socket; socket.create_connection(('kubernetes.default.svc.cluster.local', 443), 5); print('reached')"


@pytest.fixture
def smoke(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace that enforces `restricted`, and nothing left of it afterwards."""
    _apply(cluster, "v1", "Namespace", NAMESPACE, labels={"pod-security.kubernetes.io/enforce": "restricted"})
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true")
    cluster.kubectl("delete", "pv", "-l", "app=cluster-smoke", "--ignore-not-found")
    for node in cluster.provider.nodes():
        cluster.kubectl("label", "node", node, f"{LABEL}-")
        cluster.provider.node_exec(node, ["rm", "-rf", FOLDER])


def test_nodes_are_ready_and_have_gpus(cluster: Cluster) -> None:
    for name, gpu in zip(cluster.provider.nodes(), GPU_NODES, strict=True):
        node = json.loads(cluster.kubectl("get", "node", name, "-o", "json"))
        conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == str(gpu.count)
        assert gpu.labels.items() <= node["metadata"]["labels"].items()
        taints = [taint["key"] for taint in node["spec"].get("taints", ())]
        assert ("nvidia.com/gpu" in taints) == gpu.taint


def test_a_restricted_pod_with_a_gpu_reaches_the_api_by_name_from_each_node(smoke: Cluster) -> None:
    nodes = smoke.provider.nodes()
    for node in nodes:
        _run(smoke, f"on-{node}", REACH_THE_API, nodeSelector={"kubernetes.io/hostname": node})
    for node in nodes:
        assert _output(smoke, f"on-{node}") == "reached"


def test_a_local_volume_waits_for_the_label_and_lies_on_that_node_alone(smoke: Cluster) -> None:
    first, second = smoke.provider.nodes()
    _volume(smoke)
    write = "open('/cache/here', 'w').write('x'); print('written')"
    volumes = [{"name": "cache", "persistentVolumeClaim": {"claimName": "smoke"}}]
    _run(smoke, "writer", write, volumes=volumes)
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    smoke.until("nobody may have it", lambda: scheduled.items() <= _condition(smoke, "writer").items(), 30)

    smoke.provider.node_exec(second, ["mkdir", "-p", FOLDER])
    smoke.kubectl("label", "node", second, f"{LABEL}=ready")
    assert _output(smoke, "writer") == "written", "fsGroup gave the folder to a user that is not root"
    assert smoke.provider.node_exec(second, ["cat", f"{FOLDER}/here"]) == "x"
    assert (
        smoke.provider.node_exec(first, ["sh", "-c", f"test -e {FOLDER} || echo absent"]).strip() == "absent"
    )


def _run(cluster: Cluster, name: str, program: str, **spec: Any) -> None:
    """Start a pod that runs a Python program once."""
    locked = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = [
        {"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in spec.get("volumes", ())
    ]
    container = {
        "name": "python",
        "image": "ghcr.io/preheat-dev/warmer:dev",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", program],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "securityContext": locked,
        "volumeMounts": mounts,
    }
    user = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "runAsNonRoot": True}
    pod = {
        "restartPolicy": "Never",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        **spec,
    }
    _apply(cluster, "v1", "Pod", name, spec=pod)


def _output(cluster: Cluster, pod: str) -> str:
    """Return what a pod printed, once it has succeeded."""
    cluster.until(f"{pod} over", lambda: _phase(cluster, pod) in {"Succeeded", "Failed"}, 60)
    said = cluster.kubectl("-n", NAMESPACE, "logs", pod).strip()
    assert _phase(cluster, pod) == "Succeeded", said
    return said


def _phase(cluster: Cluster, pod: str) -> str:
    phase: str = (cluster.get("pod", pod, NAMESPACE) or {})["status"]["phase"]
    return phase


def _condition(cluster: Cluster, pod: str) -> dict[str, Any]:
    conditions = (cluster.get("pod", pod, NAMESPACE) or {})["status"].get("conditions", ())
    return next((c for c in conditions if c["type"] == "PodScheduled"), {})


def _volume(cluster: Cluster) -> None:
    """Make a volume for nodes with the label, and the claim that it is bound to beforehand."""
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    ready = {"key": LABEL, "operator": "In", "values": ["ready"]}
    volume = {
        **common,
        "capacity": {"storage": "1Gi"},
        "claimRef": {"name": "smoke", "namespace": NAMESPACE},
        "local": {"path": FOLDER},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [ready]}]}},
    }
    claim = {**common, "volumeName": "cluster-smoke", "resources": {"requests": {"storage": "1Gi"}}}
    _apply(cluster, "v1", "PersistentVolume", "cluster-smoke", spec=volume, labels={"app": "cluster-smoke"})
    _apply(cluster, "v1", "PersistentVolumeClaim", "smoke", spec=claim)


def _apply(cluster: Cluster, version: str, kind: str, name: str, **body: Any) -> None:
    labels = body.pop("labels", {})
    spaced = {} if kind in {"Namespace", "PersistentVolume"} else {"namespace": NAMESPACE}
    metadata = {"name": name, "labels": labels, **spaced}
    path = ROOT / "build" / "e2e" / f"{kind.lower()}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, **body}))
    cluster.kubectl("apply", "-f", str(path))
