"""Two real nodes want the same weights: the first asks the source, the second asks the first, and nobody else may."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.cluster.provider import ROOT
from e2e.tests.cluster import EXAMPLE, Cluster
from e2e.tests.test_security import Pod

NAME = "neighbours"
BYTES_PER_SECOND = 8_000_000
"""A dozen seconds for each node: long enough to be looked at."""
SIZE_PROBE = "bytes=0-0"
"""How a warmer asks how large a file is."""


@pytest.fixture
def cache(cluster: Cluster) -> Iterator[str]:
    """A ModelCache for both nodes, gone afterwards."""
    cluster.empty_disks()
    model = yaml.safe_load(EXAMPLE.read_text())["spec"]["model"]
    spec = {
        "source": {"uri": model["uri"], "format": model["format"], "include": ["*.gguf"]},
        "maxBytesPerSecond": BYTES_PER_SECOND,
        "placement": {"nodes": 2},
    }
    body = {"apiVersion": "preheat.dev/v1alpha1", "kind": "ModelCache",
            "metadata": {"name": NAME, "namespace": cluster.namespace}, "spec": spec}  # fmt: skip
    path = ROOT / "build" / "e2e" / f"{NAME}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    cluster.kubectl("apply", "-f", str(path))
    yield NAME
    folder = _folder(cluster)
    cluster.kubectl("delete", "-f", str(path), "--ignore-not-found", "--wait=true")
    for node in cluster.provider.nodes():
        cluster.provider.node_exec(node, ["rm", "-rf", folder])


@pytest.mark.usefixtures("cache")
def test_the_second_node_takes_the_weights_from_the_first(cluster: Cluster) -> None:
    before = len(_asked(cluster))
    cluster.until("one fetches, one waits", lambda: _reasons(cluster) == ["WaitsForNeighbour"], 60)
    assert len(_pods(cluster, "warmer")) == 1

    cluster.until("a seeder", lambda: [p for p in _pods(cluster, "seeder") if _is_ready(p)], 90)
    (seeder,) = _pods(cluster, "seeder")
    cluster.until("the second warmer at work", lambda: len(_running(cluster)) == 1, 60)
    ways = [f"{seeder['status']['podIP']}:9082"]
    (store,) = cluster.items("pods", "app=model-store")
    stranger = Pod(cluster, cluster.namespace, store["metadata"]["name"], "server")
    assert stranger.reach(*ways)[ways[0]] != "open", "only warmers of the same cache come in"

    cluster.until("both ready", lambda: _status(cluster).get("readyNodes") == 2, 120)
    words = sorted(
        (_last_words(pod) for pod in _pods(cluster, "warmer")), key=lambda w: int(w["bytesFromPeers"])
    )
    first, second = words
    assert first["bytesFromPeers"] == 0
    assert second["bytesFromPeers"] == second["bytesFetched"] == second["bytesTotal"] > 0
    assert first["manifestSHA256"] == second["manifestSHA256"] == _status(cluster)["manifestSHA256"]

    sent = [line for line in _asked(cluster)[before:] if line["range"] != SIZE_PROBE]
    assert sum(line["bytes"] for line in sent if line["path"].endswith(".gguf")) == first["bytesTotal"], (
        "the source sent each byte once"
    )
    cluster.until("no seeder left", lambda: not _pods(cluster, "seeder"), 30)


def test_without_its_neighbour_the_second_node_takes_the_rest_from_the_source(
    cluster: Cluster, cache: str
) -> None:
    cluster.until("the second warmer at work", lambda: _fed(cluster), 120)
    cluster.until("some of it", lambda: _percent_of_the_second(cluster) >= 20, 60)
    cluster.kubectl("-n", cluster.namespace, "delete", "job", "-l",
                    f"preheat.dev/modelcache={cache},preheat.dev/component=seeder", "--wait=false")  # fmt: skip
    cluster.until("both ready", lambda: _status(cluster).get("readyNodes") == 2, 120)
    second = max(
        (_last_words(pod) for pod in _pods(cluster, "warmer")), key=lambda w: int(w["bytesFromPeers"])
    )
    assert 0 < second["bytesFromPeers"] < second["bytesTotal"], (
        "some from the neighbour, the rest from the source"
    )
    assert second["bytesFetched"] <= second["bytesTotal"] * 101 // 100, "and nothing twice"


def _asked(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the requests that the source has answered with bytes."""
    lines = cluster.kubectl("-n", cluster.namespace, "logs", "deploy/model-store").splitlines()
    return [entry for line in lines if "bytes" in (entry := json.loads(line)) and "path" in entry]


def _status(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = (cluster.get("mc", NAME) or {}).get("status") or {}
    return found


def _reasons(cluster: Cluster) -> list[str]:
    return [node["reason"] for node in _status(cluster).get("nodes", ()) if node.get("reason")]


def _pods(cluster: Cluster, component: str) -> list[dict[str, Any]]:
    return cluster.items("pods", f"preheat.dev/modelcache={NAME},preheat.dev/component={component}")


def _running(cluster: Cluster) -> list[dict[str, Any]]:
    return [pod for pod in _pods(cluster, "warmer") if pod["status"]["phase"] == "Running"]


def _fed(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the warmer Jobs that were told of a neighbour."""
    jobs = cluster.items("jobs", f"preheat.dev/modelcache={NAME},preheat.dev/component=warmer")
    return [job for job in jobs if "preheat.dev/peers" in job["metadata"]["annotations"]]


def _percent_of_the_second(cluster: Cluster) -> int:
    nodes = [node for node in _status(cluster).get("nodes", ()) if node["state"] != "Ready"]
    return int(nodes[0]["percent"]) if nodes else 100


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _last_words(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["status"]["containerStatuses"]
    words: dict[str, Any] = json.loads(container["state"]["terminated"]["message"])
    return words


def _folder(cluster: Cluster) -> str:
    key = _status(cluster).get("key") or "none"
    return f"/var/lib/preheat/{cluster.namespace}/{key}"
