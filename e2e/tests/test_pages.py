"""Weights into memory ahead of a load: on a real node, out of its page cache before, and counted by the kernel after."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.local.cluster import LocalProvider
from e2e.tests.cluster import Cluster
from e2e.tests.test_scaling import LOAD, LOAD_SECONDS

NAME = "paged"
SECONDS = 60


@pytest.fixture
def asleep(cluster: Cluster) -> Iterator[str]:
    """The key of weights that lie on the first node. Nothing runs."""
    if not isinstance(cluster.provider, LocalProvider):
        pytest.skip("needs a dd on the node that drops a file's pages: the local cluster's nodes have one")
    cluster.clear()
    cluster.apply(NAME, slowly=True, replicas=1, runtime=LOAD)
    cluster.wait_ready(NAME, LOAD_SECONDS + 120)
    told = (cluster.get("llmd", NAME) or {})["status"]["cache"]["name"]
    yield str((cluster.get("mc", told) or {})["status"]["key"])
    cluster.kubectl("-n", cluster.namespace, "delete", "llmd", NAME, "--ignore-not-found", "--wait=true")
    cluster.until("no engine left", lambda: not cluster.pods(NAME), SECONDS)


def pagers(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    return cluster.items(kind, f"preheat.dev/llmdeployment={NAME},preheat.dev/component=pager")


def loads(cluster: Cluster) -> dict[str, int]:
    """How many loads were seen, by where the weights were."""
    status = (cluster.get("llmd", NAME) or {}).get("status") or {}
    return {kind["tier"]: kind["count"] for kind in (status.get("loadTimes") or {}).get("kinds", ())}


def forget(cluster: Cluster, key: str) -> None:
    """Scale to zero, and have the node drop the pages of these weights, and of nothing else."""
    cluster.kubectl("-n", cluster.namespace, "scale", "llmd", NAME, "--replicas=0")
    cluster.until("asleep", lambda: cluster.ready(NAME).get("reason") == "ScaledToZero", SECONDS)
    cluster.until("no engine left", lambda: not cluster.pods(NAME), SECONDS)
    folder = f"/var/lib/preheat/{cluster.namespace}/{key}/model"
    drop = f'sync; for f in {folder}/*; do dd if="$f" iflag=nocache count=0 2>/dev/null; done'
    cluster.provider.node_exec(cluster.provider.nodes()[0], ["sh", "-c", drop])


def wake(cluster: Cluster) -> None:
    cluster.kubectl("-n", cluster.namespace, "scale", "llmd", NAME, "--replicas=1")


def last_words(cluster: Cluster) -> dict[str, Any]:
    """What the pager said at its end; empty while it has not ended."""
    for pod in pagers(cluster, "pods"):
        for status in pod["status"].get("containerStatuses", ()):
            ended = status["state"].get("terminated")
            if ended:
                found: dict[str, Any] = json.loads(ended["message"])
                return found
    return {}


def test_a_load_that_comes_finds_its_weights_in_memory(cluster: Cluster, asleep: str) -> None:
    before = loads(cluster)
    forget(cluster, asleep)
    wake(cluster)
    cluster.wait_ready(NAME, LOAD_SECONDS + 60)
    assert pagers(cluster, "jobs") == [], "nobody asked for it"
    cluster.until(
        "a load from the disk", lambda: loads(cluster).get("OnDisk", 0) > before.get("OnDisk", 0), SECONDS
    )

    cluster.apply(NAME, slowly=True, replicas=1, runtime=LOAD, cache={"pageCache": "Ahead"})
    forget(cluster, asleep)
    assert pagers(cluster, "jobs") == [], "at zero nothing is read"
    before = loads(cluster)
    wake(cluster)
    seconds = cluster.until("a pager has ended", lambda: last_words(cluster), LOAD_SECONDS, every=0.1)
    words = last_words(cluster)
    print(f"read {seconds:.1f} s after it was asked for a replica: {words}")
    assert words["state"] == "Paged"
    assert words["residentBytesBefore"] < 0.1 * words["bytesTotal"]
    assert words["residentBytes"] > 0.9 * words["bytesTotal"]
    assert cluster.ready(NAME).get("status") == "False", "ahead of the load's end, at least"
    cluster.wait_ready(NAME, LOAD_SECONDS + 60)
    cluster.until("the pager is gone", lambda: not pagers(cluster, "jobs"), SECONDS)
    cluster.until(
        "a load from memory",
        lambda: loads(cluster).get("InPageCache", 0) > before.get("InPageCache", 0),
        SECONDS,
    )
