"""Preheat decides the number of replicas, under real requests. Time is compressed: a load takes LOAD_SECONDS."""

import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.api.constants import PORT_AGENT

from e2e.install import SYSTEM
from e2e.tests.cluster import Cluster
from e2e.tests.test_security import Pod

NAME = "scaled"
LOAD_SECONDS = int(os.environ.get("PREHEAT_E2E_LOAD_SECONDS", "20"))
LOAD = {"options": {"load_bytes_per_second": str(98_000_000 // LOAD_SECONDS)}, "drainSeconds": 2}
SCALING = {"mode": "Predictive", "minReplicas": 1, "maxReplicas": 2, "targetConcurrency": 1}
SEEN_SECONDS = 120
"""A minute of requests, some readings, and a busy machine."""
SILENCE_SECONDS = 60
PRIOR_SECONDS = 60
"""A load of small weights is expected to take so long where none of its kind was seen: here one that has to fetch them first."""
HEADS_UP_SECONDS = 30
"""What a window of a schedule begins earlier than a load takes, at the least."""

CLIENTS = """
import json, sys, threading, time, urllib.request
url, clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
until, codes = time.monotonic() + seconds, []
def ask():
    body = json.dumps({"text_input": "Count to a hundred: one, two,", "max_tokens": 48, "stream": False}).encode()
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60) as answer:
                answer.read()
                codes.append(answer.status)
        except OSError as error:
            codes.append(str(error))
threads = [threading.Thread(target=ask) for _ in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(codes), sorted({code for code in codes if code != 200}, key=str))
"""


class Scaled:
    """What is looked at in the deployment."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def begins(self, **scaling: Any) -> None:
        """Apply it, with one replica, and wait until that answers."""
        self.cluster.apply(NAME, slowly=True, replicas=1, runtime=LOAD, scaling={**SCALING, **scaling})
        self.cluster.wait_ready(NAME, LOAD_SECONDS + 100)

    @property
    def scaling(self) -> dict[str, Any]:
        found: dict[str, Any] = ((self.cluster.get("llmd", NAME) or {}).get("status") or {}).get(
            "scaling"
        ) or {}
        return found

    @property
    def wanted(self) -> int | None:
        return self.scaling.get("wantedReplicas")

    @property
    def slowest_load(self) -> int:
        """Seconds that the slowest load took that was observed, from asking for the replica to its first answer."""
        status = (self.cluster.get("llmd", NAME) or {}).get("status") or {}
        kinds = (status.get("loadTimes") or {}).get("kinds") or []
        return max((load["totalSeconds"] for kind in kinds for load in kind["recent"]), default=0)

    @property
    def uids(self) -> set[str]:
        pods = self.cluster.pods(NAME)
        return {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}

    def stays(self, replicas: int, seconds: float) -> None:
        """Look for a while whether anything moves."""
        before, until = self.uids, time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.wanted == replicas, self.scaling
            assert self.uids == before
            time.sleep(2)


@pytest.fixture
def scaled(cluster: Cluster) -> Iterator[Scaled]:
    """A name for a deployment that is gone afterwards, on a cluster where every GPU is free."""
    cluster.clear()
    yield Scaled(cluster)
    cluster.kubectl("-n", cluster.namespace, "delete", "llmd", NAME, "--ignore-not-found", "--wait=true")
    cluster.until("no engine left", lambda: not cluster.pods(NAME), 60)


@contextmanager
def asked(cluster: Cluster, clients: int, seconds: float) -> Iterator[list[str]]:
    """Have so many clients ask one question after the other, from within the cluster; what they say comes afterwards."""
    (store,) = cluster.items("pods", "app=model-store")
    pod = Pod(cluster, cluster.namespace, store["metadata"]["name"], "server")
    url = f"http://{NAME}.{cluster.namespace}.svc:8000/v2/models/{NAME}/generate"
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.extend(pod.run(CLIENTS, url, str(clients), str(seconds))))
    thread.start()
    try:
        yield said
    finally:
        thread.join()


@contextmanager
def no_word_from_agents(cluster: Cluster) -> Iterator[None]:
    """Have nothing that the operator asks an agent arrive. The kubelet's probes come from elsewhere."""
    (operator,) = cluster.items("pods", "app.kubernetes.io/name=preheat", SYSTEM)
    rule = [
        "POSTROUTING",
        "-s",
        operator["status"]["podIP"],
        "-p",
        "tcp",
        "--dport",
        str(PORT_AGENT),
        "-j",
        "DROP",
    ]
    node = operator["spec"]["nodeName"]
    cluster.provider.node_exec(node, ["iptables", "-t", "mangle", "-I", *rule])
    try:
        yield
    finally:
        cluster.provider.node_exec(node, ["iptables", "-t", "mangle", "-D", *rule])


def test_a_surge_a_lull_and_silence(cluster: Cluster, scaled: Scaled) -> None:
    scaled.begins()
    with asked(cluster, 3, 2 * SEEN_SECONDS) as said:
        cluster.until("a second replica is wanted", lambda: scaled.wanted == 2, SEEN_SECONDS)
        assert scaled.scaling["reason"] in {"DemandRises", "DrainingBacklog", "ForecastRises", "AtBudget"}
        cluster.until("two answer", lambda: cluster.ready_endpoints(NAME) == 2, LOAD_SECONDS + 60)
    assert said[0].endswith(" []"), f"every request was answered: {said}"
    scaled.stays(2, LOAD_SECONDS)

    with no_word_from_agents(cluster):
        scaled.stays(2, SILENCE_SECONDS / 2)
        cluster.kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/name=preheat", "--wait=false")
        scaled.stays(2, SILENCE_SECONDS / 2)
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", "--timeout=60s")
    scaled.stays(2, 10)


def test_what_a_schedule_asks_for_is_ready_when_it_starts(cluster: Cluster, scaled: Scaled) -> None:
    scaled.begins()
    cluster.until("one replica is wanted", lambda: scaled.wanted == 1, SEEN_SECONDS)
    cluster.until("a load was observed", lambda: scaled.slowest_load > 0, SEEN_SECONDS)
    ahead = 2 * max(scaled.slowest_load, PRIOR_SECONDS) + HEADS_UP_SECONDS
    soon = datetime.now(UTC) + timedelta(seconds=ahead + 30)
    start = soon.replace(second=0, microsecond=0) + timedelta(minutes=1)
    end = start + timedelta(minutes=1)
    schedule = {"start": f"{start:%H:%M}", "end": f"{end:%H:%M}", "minReplicas": 2}
    change = json.dumps({"spec": {"scaling": {"schedules": [schedule]}}})
    cluster.kubectl("-n", cluster.namespace, "patch", "llmd", NAME, "--type=merge", "-p", change)

    def left() -> float:
        return (start - datetime.now(UTC)).total_seconds()

    cluster.until("a second replica is wanted", lambda: scaled.wanted == 2, math.ceil(left()))
    assert LOAD_SECONDS < left() < ahead, "one load time ahead and a little, no sooner"
    assert scaled.scaling["reason"] == "Scheduled"
    cluster.until("two answer", lambda: cluster.ready_endpoints(NAME) == 2, math.ceil(left()))
