"""Deleting an LLMDeployment, or its namespace, while the operator is down frees every GPU on real nodes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from e2e.cluster.provider import ROOT
from e2e.install import SYSTEM
from e2e.tests.cluster import EXAMPLE, Cluster

BOTH = {"gpu": {"types": ["nvidia-l4", "nvidia-a10g"]}}
RESOURCE = "nvidia.com/gpu"


@contextmanager
def no_operator(cluster: Cluster) -> Iterator[None]:
    """Take the operator away, and bring it back."""
    cluster.kubectl("-n", SYSTEM, "scale", "deploy/preheat", "--replicas=0")
    is_operator = "app.kubernetes.io/name=preheat"
    cluster.until("operator gone", lambda: not cluster.items("pods", is_operator, SYSTEM), 60)
    try:
        yield
    finally:
        cluster.kubectl("-n", SYSTEM, "scale", "deploy/preheat", "--replicas=1")
        cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", "--timeout=120s")


def gpus(cluster: Cluster) -> dict[str, int]:
    """Return how many GPUs the pods of each node hold, as the scheduler counts them; those of no node as well."""
    found = dict.fromkeys(cluster.provider.nodes(), 0)
    for pod in json.loads(cluster.kubectl("get", "pods", "-A", "-o", "json"))["items"]:
        if pod["status"].get("phase") in {"Succeeded", "Failed"}:
            continue
        for container in pod["spec"]["containers"]:
            amount = int(container.get("resources", {}).get("requests", {}).get(RESOURCE, 0))
            if amount:
                node = pod["spec"].get("nodeName", "(no node yet)")
                found[node] = found.get(node, 0) + amount
    return found


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace with Pod Security enforced, gone afterwards. Every GPU is free before and after."""
    cluster.clear()
    cluster.until("every GPU free", lambda: not any(gpus(cluster).values()), 120)
    name = "preheat-gpus"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s")


@pytest.mark.parametrize("what", ["the object", "its namespace"])
def test_deleting_while_the_operator_is_down_frees_every_gpu(
    cluster: Cluster, namespace: str, what: str
) -> None:
    body = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"] = {"name": "gpus", "namespace": namespace}
    body["spec"]["replicas"] = 3
    body["spec"]["hardware"] = BOTH
    del body["spec"]["runtime"]["options"]
    path = ROOT / "build" / "e2e" / "gpus.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(body))
    cluster.kubectl("apply", "-f", str(path))
    nodes = cluster.provider.nodes()
    cluster.until("pods on both nodes hold GPUs", lambda: all(gpus(cluster)[node] for node in nodes), 240)
    before = gpus(cluster)
    cache = cluster.items("mc", namespace=namespace)[0]
    key = cache["status"]["key"]
    with no_operator(cluster):
        if what == "the object":
            cluster.kubectl("-n", namespace, "delete", "llmd", "gpus", "--timeout=30s")
        else:
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        seconds = cluster.until("every GPU free", lambda: not any(gpus(cluster).values()), 120)
        print(f"\n{what} deleted, operator down: GPUs held {before} -> {gpus(cluster)} after {seconds:.1f} s")
        assert key in cluster.kubectl("get", "pv", "-o", "name"), "what has no owner waits for the operator"
    seconds = cluster.until("no volume", lambda: key not in cluster.kubectl("get", "pv", "-o", "name"), 60)
    cluster.until("no label", lambda: key not in cluster.kubectl("get", "nodes", "--show-labels"), 60)
    print(f"operator started: no volume after {seconds:.1f} s, no label")
    for kind in ("pods", "pvc", "deployments", "jobs", "networkpolicies", "services"):
        _none(cluster, kind, namespace)


def _none(cluster: Cluster, kind: str, namespace: str) -> None:
    cluster.until(f"no {kind}", lambda: not cluster.items(kind, namespace=namespace), 60)
