"""What lies on a node's disk: within its budget, gone when nobody wants it, and what it was when it came."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.cluster.provider import ROOT
from e2e.tests.cluster import Cluster

ROOT_ON_NODES = "/var/lib/preheat"
SOURCE = {"uri": "http://model-store.preheat-demo.svc/smollm2/", "format": "GGUF", "include": ["*.gguf"]}
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def node(cluster: Cluster) -> Iterator[str]:
    """The first node: without a budget afterwards, and with nothing on its disk before and after."""
    cluster.empty_disks()
    name = cluster.provider.nodes()[0]
    yield name
    # The caches first: without the budget one that waited for room would begin.
    cluster.kubectl("-n", cluster.namespace, "delete", "mc", "--all")
    cluster.kubectl("annotate", "node", name, "preheat.dev/cache-budget-", check=False)


def a_cache(cluster: Cluster, name: str, node: str, **spec: Any) -> None:
    placement = {"nodeSelector": {"kubernetes.io/hostname": node}}
    body = {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "ModelCache",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": {"source": SOURCE, "placement": placement, **spec},
    }
    path = ROOT / "build" / "e2e" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(body))
    cluster.kubectl("apply", "-f", str(path))


def status(cluster: Cluster, cache: str) -> dict[str, Any]:
    found: dict[str, Any] = (cluster.get("mc", cache) or {}).get("status") or {}
    return found


def ready(cluster: Cluster, cache: str) -> dict[str, Any]:
    conditions = status(cluster, cache).get("conditions") or ()
    return next((c for c in conditions if c["type"] == "Ready"), {})


def is_ready(cluster: Cluster, cache: str) -> bool:
    return ready(cluster, cache).get("status") == "True"


def shown(cluster: Cluster) -> str:
    text = cluster.kubectl("-n", cluster.namespace, "get", "mc", "-o", "wide")
    print(f"\n$ kubectl get mc -o wide\n{text}")
    return text


def reasons(cluster: Cluster, cache: str) -> list[str]:
    events = cluster.items("events.events.k8s.io")
    return [e["reason"] for e in events if (e.get("regarding") or {}).get("name") == cache]


def test_two_caches_on_a_node_with_room_for_one(cluster: Cluster, node: str) -> None:
    cluster.kubectl("annotate", "--overwrite", "node", node, "preheat.dev/cache-budget=150M")
    a_cache(cluster, "first", node)
    cluster.until("first is ready", lambda: is_ready(cluster, "first"), 90)
    time.sleep(1.1)  # who was asked for later is known to the second
    a_cache(cluster, "second", node)
    took = cluster.until("second is ready", lambda: is_ready(cluster, "second"), 120)
    cluster.until("it is told", lambda: ready(cluster, "first").get("reason") == "OverBudget", 30)
    text = shown(cluster)
    print(f"the second was ready {took:.0f} s after it was asked for")
    assert "OverBudget" in text
    assert "98.4 MB of the 150 MB" in ready(cluster, "first")["message"]
    assert cluster.weights_on(node) == [status(cluster, "second")["key"]], "the first one's bytes are gone"
    assert "Evicted" in reasons(cluster, "first")

    cluster.kubectl("-n", cluster.namespace, "delete", "mc", "second")
    cluster.until("the first is back", lambda: is_ready(cluster, "first"), 120)
    assert cluster.weights_on(node) == [status(cluster, "first")["key"]]


def test_weights_in_use_never_leave(cluster: Cluster, node: str, service: str) -> None:
    cluster.kubectl("annotate", "--overwrite", "node", node, "preheat.dev/cache-budget=150M")
    cluster.apply(service)
    cluster.wait_ready(service)
    a_cache(cluster, "ahead", node)
    cluster.until("it has no room", lambda: ready(cluster, "ahead").get("reason") == "OverBudget", 90)
    assert "in use" in ready(cluster, "ahead")["message"]
    assert cluster.ready(service)["status"] == "True"
    # Nobody uses it any more: who is asked for after that gets the room, and who was asked for before does not.
    cluster.kubectl("-n", cluster.namespace, "scale", "llmd", service, "--replicas=0")
    cluster.until("no pod left", lambda: not cluster.pods(service), 60)
    (cache,) = cluster.items("mc", f"preheat.dev/llmdeployment={service}")
    cluster.until("when is noted", lambda: status(cluster, cache["metadata"]["name"]).get("lastUsedTime"), 30)
    time.sleep(1.1)
    a_cache(cluster, "later", node)
    cluster.until("there is room now", lambda: is_ready(cluster, "later"), 120)
    assert not is_ready(cluster, "ahead")
    shown(cluster)


def test_what_no_cache_wants_is_taken_off_the_disk(cluster: Cluster, node: str) -> None:
    # Weights that a pod still held a moment ago leave when it is looked again.
    cluster.until("an empty disk", lambda: cluster.weights_on(node) == [], 150)
    a_cache(cluster, "short-lived", node)
    cluster.until("it is ready", lambda: is_ready(cluster, "short-lived"), 90)
    assert cluster.weights_on(node) == [status(cluster, "short-lived")["key"]]
    cluster.kubectl("-n", cluster.namespace, "delete", "mc", "short-lived")
    took = cluster.until("its bytes are gone", lambda: cluster.weights_on(node) == [], 90)
    cluster.until("its label is gone", lambda: "cache.preheat.dev/" not in labels(cluster, node), 30)
    print(f"its bytes were off the disk {took:.0f} s after it was deleted")


def labels(cluster: Cluster, node: str) -> str:
    return cluster.kubectl("get", "node", node, "-o", "jsonpath={.metadata.labels}")


def test_a_flipped_byte_is_found_and_the_node_gets_no_new_pod(cluster: Cluster, node: str) -> None:
    a_cache(cluster, "verified", node)
    cluster.until("it is ready", lambda: is_ready(cluster, "verified"), 90)
    key = status(cluster, "verified")["key"]
    path = f"{ROOT_ON_NODES}/{cluster.namespace}/{key}/model/{FILE}"
    digest = f"sha256sum {path} | cut -c1-64"
    good = cluster.provider.node_exec(node, ["sh", "-c", digest])
    flip = f"printf X | dd of={path} bs=1 seek=50000000 conv=notrunc 2>/dev/null"
    cluster.provider.node_exec(node, ["sh", "-c", flip])
    assert cluster.provider.node_exec(node, ["sh", "-c", digest]) != good
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    cluster.kubectl(
        "-n", cluster.namespace, "annotate", "mc", "verified", f"preheat.dev/verify-requested-at={now}"
    )

    def no_label() -> bool:
        return f'"cache.preheat.dev/{key}":"ready"' not in labels(cluster, node)

    took = cluster.until("the node gets no new pod", no_label, 60, every=0.1)
    cluster.until("it is told", lambda: "WeightsCorrupt" in reasons(cluster, "verified"), 30)
    again = cluster.until("it is whole again", lambda: is_ready(cluster, "verified"), 90)
    print(f"found {took:.0f} s after it was asked to look, whole again {again:.0f} s later")
    assert cluster.provider.node_exec(node, ["sh", "-c", digest]) == good
    shown(cluster)


@pytest.mark.usefixtures("node")
def test_the_second_deployment_of_a_revision_starts_with_no_download(cluster: Cluster, service: str) -> None:
    cluster.apply(service)
    first = cluster.until(f"{service} Ready", lambda: cluster.ready(service).get("status") == "True", 120)
    other = f"{service[:20]}-again"
    try:
        cluster.apply(other)
        second = cluster.until(f"{other} Ready", lambda: cluster.ready(other).get("status") == "True", 120)
        (cache,) = cluster.items("mc", f"preheat.dev/llmdeployment={other}")
        words = last_words(cluster, cache["metadata"]["name"])
        print(f"\nfrom apply to Ready: {first:.0f} s with a download, {second:.0f} s without")
        assert words["bytesFetched"] == 0
        assert words["bytesTotal"] > 90_000_000
    finally:
        cluster.kubectl("-n", cluster.namespace, "delete", "llmd", other, "--ignore-not-found")


def last_words(cluster: Cluster, cache: str) -> dict[str, Any]:
    """What the warmer of a cache said when it had ended well."""
    for pod in cluster.items("pods", f"preheat.dev/modelcache={cache},preheat.dev/component=warmer"):
        for container in pod["status"].get("containerStatuses") or ():
            ended = container["state"].get("terminated")
            if ended and ended["exitCode"] == 0:
                found: dict[str, Any] = json.loads(ended["message"])
                return found
    raise AssertionError(f"no warmer of {cache} ended well")
