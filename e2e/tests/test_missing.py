"""What is missing is told within seconds, in the words of whoever misses it, and clears itself when it is there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e.cluster.provider import ROOT
from e2e.tests.cluster import Cluster

PROMISED_SECONDS = 5
DEADLINE_SECONDS = 60
"""The machine may be busy; what it took is printed."""
RETRY_SECONDS = 150
"""The kubelet tries a mount again after two minutes at most."""


def test_a_secret_that_is_missing_is_told_and_clears_itself(cluster: Cluster, service: str) -> None:
    cluster.apply(service, model={"credentials": {"secretName": "hub-token"}})
    told = _told(cluster, service, "ReferenceMissing", "a Secret that is missing")
    assert 'secret "hub-token" not found' in told["message"]
    assert f"Create it in namespace {cluster.namespace}" in told["message"]
    (cache,) = cluster.items("mc", f"preheat.dev/llmdeployment={service}")
    (node,) = cache["status"]["nodes"]
    assert node["reason"] == "ReferenceMissing"

    cluster.kubectl(
        "-n", cluster.namespace, "create", "secret", "generic", "hub-token", "--from-literal=token=t"
    )
    try:
        _cleared(cluster, service, "ReferenceMissing", "the Secret is there")
        cluster.wait_ready(service, RETRY_SECONDS)
    finally:
        cluster.kubectl("-n", cluster.namespace, "delete", "secret", "hub-token")


def test_a_secret_that_a_variable_names_is_told_and_clears_itself(cluster: Cluster, service: str) -> None:
    named = {"name": "MY_KEY", "valueFrom": {"secretKeyRef": {"name": "my-keys", "key": "key"}}}
    cluster.apply(service, template={"spec": {"containers": [{"name": "engine", "env": [named]}]}})
    cluster.until(
        "the agent has started: the engine's container is next", lambda: _agent_runs(cluster, service), 120
    )
    told = _told(
        cluster, service, "ReferenceMissing", "a Secret that a variable names, once its turn has come"
    )
    assert 'secret "my-keys" not found' in told["message"]
    cluster.kubectl("-n", cluster.namespace, "create", "secret", "generic", "my-keys", "--from-literal=key=k")
    try:
        _cleared(cluster, service, "ReferenceMissing", "the Secret is there")
        cluster.wait_ready(service, RETRY_SECONDS)
    finally:
        cluster.kubectl("-n", cluster.namespace, "delete", "secret", "my-keys")


def test_a_claim_that_is_missing_is_told_and_clears_itself(cluster: Cluster, service: str) -> None:
    cluster.apply(service, model={"uri": "pvc://models/m"})
    told = _told(cluster, service, "ReferenceMissing", "a claim that is missing")
    assert 'persistentvolumeclaim "models" not found' in told["message"]
    with _a_claim(cluster, "models"):
        _cleared(cluster, service, "ReferenceMissing", "the claim is there")


def test_gpus_that_are_not_enough_are_told_with_who_holds_them(cluster: Cluster, service: str) -> None:
    cluster.clear()
    cluster.apply(service, replicas=1)
    cluster.wait_ready(service)
    cluster.kubectl("-n", cluster.namespace, "scale", f"llmd/{service}", "--replicas=3")
    told = _told(cluster, service, "NoCapacity", "a GPU too few")
    for words in (
        "Insufficient nvidia.com/gpu",
        "One replica needs 1 nvidia.com/gpu on one node",
        "1 matching node offers 2",
        f"{cluster.namespace}/{service} holds 2",
        "0 are free",
    ):
        assert words in told["message"], told["message"]
    cluster.kubectl("-n", cluster.namespace, "scale", f"llmd/{service}", "--replicas=2")
    _cleared(cluster, service, "NoCapacity", "one replica fewer")
    cluster.wait_ready(service)


def _agent_runs(cluster: Cluster, service: str) -> bool:
    return any(
        container.get("started")
        for pod in cluster.pods(service)
        for container in pod["status"].get("initContainerStatuses") or ()
    )


def _told(cluster: Cluster, service: str, reason: str, what: str) -> dict[str, Any]:
    seconds = cluster.until(
        f"{service}: {reason}", lambda: cluster.ready(service).get("reason") == reason, DEADLINE_SECONDS, 0.1
    )
    print(f"{what}: {reason} after {seconds:.1f} s (promised: {PROMISED_SECONDS} s)")
    return cluster.ready(service)


def _cleared(cluster: Cluster, service: str, reason: str, what: str) -> None:
    seconds = cluster.until(
        f"{service}: no more {reason}",
        lambda: cluster.ready(service).get("reason") not in (None, reason),
        RETRY_SECONDS,
        0.1,
    )
    print(f"{what}: {reason} gone after {seconds:.1f} s")


@contextmanager
def _a_claim(cluster: Cluster, name: str) -> Iterator[None]:
    """A claim with a volume on the first node, as long as somebody needs it."""
    node = cluster.provider.nodes()[0]
    folder = "/var/lib/preheat-missing"
    make = f"mkdir -p {folder}/m && cd {folder}/m && printf x > a.gguf && sha256sum a.gguf > SHA256SUMS"
    cluster.provider.node_exec(node, ["sh", "-c", f"{make} && chmod -R a+rX {folder}"])
    common = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    volume = {
        **common,
        "capacity": {"storage": "1Gi"},
        "local": {"path": folder},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    claim = {**common, "volumeName": "e2e-missing", "resources": {"requests": {"storage": "1Gi"}}}
    bodies = [
        {"kind": "PersistentVolume", "metadata": {"name": "e2e-missing"}, "spec": volume},
        {
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": cluster.namespace},
            "spec": claim,
        },
    ]
    path = ROOT / "build" / "e2e" / "missing.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    items = [{"apiVersion": "v1", **body} for body in bodies]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cluster.kubectl("apply", "-f", str(path))
    try:
        yield
    finally:
        cluster.kubectl("delete", "-f", str(path), "--ignore-not-found", "--wait=false")
        cluster.provider.node_exec(node, ["rm", "-rf", folder])
