"""A model at zero, asked over its Service's address: who comes is told when to come again, and finds it there then."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.install import SYSTEM
from e2e.tests.cluster import Cluster
from e2e.tests.test_scaling import LOAD, LOAD_SECONDS
from e2e.tests.test_security import Pod

NAME = "sleeper"
SCALING = {
    "mode": "Predictive",
    "minReplicas": 0,
    "maxReplicas": 1,
    "scaleToZero": True,
    "targetConcurrency": 2,
}
WAKE_SECONDS = 20
"""Until it is asked for a replica: the front is asked every two seconds, and the machine is busy."""
PATIENCE_SECONDS = 180
"""The most that the first Retry-After may be: nothing of this model's loads was seen yet."""

CLIENT = """
import json, sys, urllib.error, urllib.request
method, url = sys.argv[1:3]
body = json.dumps({"text_input": "Hello", "max_tokens": 4, "stream": False}).encode() if method == "POST" else None
try:
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method), timeout=60) as answer:
        print(json.dumps([answer.status, None, answer.read().decode()[:500]]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.headers["Retry-After"], error.read().decode()[:500]]))
except OSError as error:
    print(json.dumps([0, None, str(error)]))
"""


class Sleeper:
    """The deployment, and a client within the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        (store,) = cluster.items("pods", "app=model-store")
        self._client = Pod(cluster, cluster.namespace, store["metadata"]["name"], "server")

    def ask(self, path: str, method: str = "POST") -> tuple[int, str | None, str]:
        """Return status, Retry-After and the beginning of the body; status 0 and why where nobody answers."""
        url = f"http://{NAME}.{self.cluster.namespace}.svc:8000{path}"
        (line,) = self._client.run(CLIENT, method, url)
        status, retry, body = json.loads(line)
        return status, retry, body

    def generate(self) -> tuple[int, str | None, str]:
        return self.ask(f"/v2/models/{NAME}/generate")

    @property
    def slice(self) -> dict[str, Any]:
        selector = f"kubernetes.io/service-name={NAME},preheat.dev/component=front"
        found = self.cluster.items("endpointslices", selector)
        return found[0] if found else {}

    @property
    def sent_to(self) -> set[str]:
        """The addresses of the front to which the Service's clients are sent."""
        return {address for one in self.slice.get("endpoints") or () for address in one["addresses"]}

    @property
    def wanted(self) -> int | None:
        status = (self.cluster.get("llmd", NAME) or {}).get("status") or {}
        found: int | None = (status.get("scaling") or {}).get("wantedReplicas")
        return found


@pytest.fixture
def sleeper(cluster: Cluster) -> Iterator[Sleeper]:
    """Asleep, with its weights on a node, on a cluster where every GPU is free."""
    cluster.clear()
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat-front", "--timeout=120s")
    cluster.apply(NAME, slowly=True, replicas=0, runtime=LOAD, scaling=SCALING)
    cluster.until("asleep", lambda: cluster.ready(NAME).get("reason") == "ScaledToZero", 120)
    made = Sleeper(cluster)
    cluster.until("its clients are sent to the front", lambda: made.sent_to == fronts(cluster), 60)
    cluster.until("its weights are on a node", lambda: _weights(cluster), 180)
    yield made
    cluster.kubectl("-n", cluster.namespace, "delete", "llmd", NAME, "--ignore-not-found", "--wait=true")
    cluster.until("no engine left", lambda: not cluster.pods(NAME), 60)


def fronts(cluster: Cluster) -> set[str]:
    pods = cluster.items("pods", "preheat.dev/component=front", SYSTEM)
    return {pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def _weights(cluster: Cluster) -> bool:
    status = (cluster.get("llmd", NAME) or {}).get("status") or {}
    return any(c["type"] == "WeightsReady" and c["status"] == "True" for c in status.get("conditions", ()))


def test_who_asks_a_sleeping_model_is_told_when_to_come_again_and_is_answered_then(
    cluster: Cluster, sleeper: Sleeper
) -> None:
    cluster.until("the front answers", lambda: sleeper.ask("/v2/health/ready", "GET")[0] == 503, 30)
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}/ready", "/metrics"):
        assert sleeper.ask(path, "GET")[0] == 503
    time.sleep(WAKE_SECONDS / 2)
    assert sleeper.wanted == 0, "who only looks wakes nobody"

    status, retry, body = sleeper.generate()
    asked = time.monotonic()
    assert status == 503, body
    assert "this request wakes it" in json.loads(body)["error"]
    assert retry is not None
    assert 1 <= int(retry) <= PATIENCE_SECONDS

    cluster.until("a replica is wanted", lambda: sleeper.wanted == 1, WAKE_SECONDS)
    cluster.until("its clients are told when", lambda: "is waking up" in sleeper.ask("/", "GET")[2], 30)
    time.sleep(max(0.0, asked + int(retry) - time.monotonic()))
    status, _, body = sleeper.generate()
    assert status == 200, f"after Retry-After ({retry} s) it is there: {body}"
    cluster.until("nobody is sent to the front any more", lambda: sleeper.slice and not sleeper.sent_to, 10)
    assert {sleeper.generate()[0] for _ in range(10)} == {200}


def test_a_pod_of_the_front_that_goes_is_missed_by_nobody(cluster: Cluster, sleeper: Sleeper) -> None:
    before = fronts(cluster)
    (pod, *_) = cluster.items("pods", "preheat.dev/component=front", SYSTEM)
    cluster.kubectl("-n", SYSTEM, "delete", "pod", pod["metadata"]["name"], "--wait=false")
    gone = pod["status"]["podIP"]
    cluster.until("it gets no more clients", lambda: gone not in sleeper.sent_to, 20)
    assert {sleeper.ask("/v2/health/ready", "GET")[0] for _ in range(10)} == {503}
    cluster.until("another is there", lambda: len(sleeper.sent_to) == len(before), 60)
    assert sleeper.generate()[0] == 503
    cluster.until("it wakes as before", lambda: sleeper.wanted == 1, WAKE_SECONDS)
    cluster.until("it answers", lambda: sleeper.generate()[0] == 200, LOAD_SECONDS + 100)
