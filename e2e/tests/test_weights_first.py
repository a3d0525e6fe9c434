"""A pod is only ever scheduled where the exact, verified weights of its revision already lie."""

import json
from typing import Any

import yaml

from e2e.cluster.provider import ROOT
from e2e.tests.cluster import Cluster

A10G = {"gpu": {"types": ["nvidia-a10g"]}}


def test_no_pod_before_the_weights(cluster: Cluster, service: str) -> None:
    """The second node is tainted, of another GPU type, and has no weights: its pod waits for them."""
    cluster.empty_disks()
    cluster.kubectl("-n", cluster.namespace, "scale", "deploy/model-store", "--replicas=0")
    cluster.until("store gone", lambda: not cluster.items("pods", "app=model-store"), 60)
    cluster.apply(service, hardware=A10G, runtime={"options": None})
    cluster.until("a pod exists", lambda: cluster.pods(service), 30)
    cluster.until("it says so", lambda: cluster.ready(service).get("reason") == "WeightsFetching", 30)
    for _ in range(10):
        (pod,) = cluster.pods(service)
        assert "nodeName" not in pod["spec"], "no node has the weights, so no node may get the pod"
        cluster.until("a second", lambda: True, 1, every=1)

    cluster.kubectl("-n", cluster.namespace, "scale", "deploy/model-store", "--replicas=1")
    cluster.wait_ready(service, 180)
    (pod,) = cluster.pods(service)
    assert pod["spec"]["nodeName"] == cluster.provider.nodes()[1]


def test_a_killed_warmer_resumes(cluster: Cluster, service: str) -> None:
    cluster.empty_disks()
    cluster.apply(service, hardware=A10G, cache={"maxBytesPerSecond": 8_000_000}, replicas=1,
                  model={"include": ["*.gguf"]})  # fmt: skip
    cluster.until("half of it", lambda: _percent(cluster, service) >= 40, 60)
    (pod,) = _warmers(cluster, service)
    node = cluster.provider.nodes()[1]
    folder = _folder(cluster, service)
    cluster.kubectl("-n", cluster.namespace, "delete", "pod", pod["metadata"]["name"], "--grace-period=0",
                    "--force")  # fmt: skip
    # What it takes up on the disk, in blocks of 512 bytes: a file that comes over several connections has holes.
    kept = 512 * int(cluster.provider.node_exec(node, ["sh", "-c", f"stat -c %b {folder}/.partial/*.part"]))
    assert kept > 0
    cluster.until("weights ready", lambda: _done(cluster, service), 90)
    words = json.loads(_last_words(cluster, service))
    assert words["state"] == "Published"
    assert words["bytesFetched"] <= words["bytesTotal"] - kept + words["bytesTotal"] // 100, (
        "resumed, not begun anew"
    )


def test_wrong_bytes_are_never_published(cluster: Cluster, service: str) -> None:
    wrong = [{"path": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "0" * 64}]
    cluster.apply(service, model={"files": wrong})
    cluster.until("it says so", lambda: cluster.ready(service).get("reason") == "WeightsFailed", 120)
    assert "DigestMismatch" in cluster.ready(service)["message"]
    stalled = cluster.kubectl(
        "-n", cluster.namespace, "get", "llmd", service, "-o",
        'jsonpath={.status.conditions[?(@.type=="Stalled")].status}',
    )  # fmt: skip
    assert stalled == "True"
    (pod,) = cluster.pods(service)
    assert "nodeName" not in pod["spec"]


def test_weights_come_from_a_volume_too(cluster: Cluster) -> None:
    """pvc://: somebody put a model on a volume; it is copied and verified like any other."""
    node = cluster.provider.nodes()[0]
    folder = "/var/lib/preheat-volume"
    content = "weights of a model"
    make = f"mkdir -p {folder}/m && cd {folder}/m && printf '%s' '{content}' > a.gguf && sha256sum a.gguf > SHA256SUMS"
    cluster.provider.node_exec(node, ["sh", "-c", f"{make} && chmod -R a+rX {folder}"])
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    claim = {"storageClassName": "", "accessModes": ["ReadOnlyMany"], "volumeName": "e2e-volume"}
    bodies = [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "e2e-volume"},
         "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "storageClassName": "",
                  "local": {"path": folder},
                  "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
         "metadata": {"name": "e2e-volume", "namespace": cluster.namespace},
         "spec": {**claim, "resources": {"requests": {"storage": "1Gi"}}}},
        {"apiVersion": "preheat.dev/v1alpha1", "kind": "ModelCache",
         "metadata": {"name": "from-volume", "namespace": cluster.namespace},
         "spec": {"source": {"uri": "pvc://e2e-volume/m", "format": "GGUF"},
                  "placement": {"nodeSelector": {"kubernetes.io/hostname": node}}}},
    ]  # fmt: skip
    path = ROOT / "build" / "e2e" / "volume.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(bodies))
    try:
        cluster.kubectl("apply", "-f", str(path))
        cluster.until("weights ready", lambda: _ready_nodes(cluster, "from-volume") == 1, 60)
        key = (cluster.get("mc", "from-volume") or {})["status"]["key"]
        copied = cluster.provider.node_exec(node, ["cat", f"{_folder_of(cluster, key)}/model/a.gguf"])
        assert copied == content
    finally:
        cluster.kubectl("delete", "-f", str(path), "--ignore-not-found", "--timeout=60s", check=False)
        cluster.provider.node_exec(node, ["rm", "-rf", folder])


def _ready_nodes(cluster: Cluster, cache: str) -> int:
    return int(((cluster.get("mc", cache) or {}).get("status") or {}).get("readyNodes") or 0)


def _cache(cluster: Cluster, service: str) -> dict[str, Any]:
    found = cluster.items("mc", f"preheat.dev/llmdeployment={service}")
    return found[0] if found else {}


def _percent(cluster: Cluster, service: str) -> int:
    status = _cache(cluster, service).get("status") or {}
    return int(status.get("percent") or 0)


def _done(cluster: Cluster, service: str) -> bool:
    status = _cache(cluster, service).get("status") or {}
    return bool(status.get("readyNodes"))


def _folder(cluster: Cluster, service: str) -> str:
    return _folder_of(cluster, _cache(cluster, service)["status"]["key"])


def _folder_of(cluster: Cluster, key: str) -> str:
    """The folder on a node: /var/lib/preheat/NAMESPACE/KEY."""
    return f"/var/lib/preheat/{cluster.namespace}/{key}"


def _warmers(cluster: Cluster, service: str) -> list[dict[str, Any]]:
    metadata = _cache(cluster, service)["metadata"]
    return cluster.items("pods", f"preheat.dev/modelcache={metadata['name']}")


def _last_words(cluster: Cluster, service: str) -> str:
    for pod in _warmers(cluster, service):
        for container in pod["status"].get("containerStatuses") or ():
            ended = container["state"].get("terminated")
            if ended and ended["exitCode"] == 0:
                return str(ended["message"])
    raise AssertionError("no warmer ended well")
