"""A node on which healing came to its end, against a real API server: its label, the pod, and what is told."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.conftest import API, a_service, add_node, complete_warmers
from tests.integration.test_scaling import pods, take_away

LOST = {
    "schema": 1, "state": "Failed", "reason": "CanaryFailed", "message": "over GRPC: no answer within 30 s",
    "load": {"bytesLoaded": 1, "bytesTotal": 1}, "heals": 2, "engineStarts": 4,
    "healing": {"illSeconds": 400, "steps": 5, "stepsAtMost": 5, "waitsFor": None},
}  # fmt: skip
AGENT = "127.0.0.77"
"""Nothing else listens on port 9080 of this address."""


@contextmanager
def an_agent(report: dict[str, Any]) -> Iterator[None]:
    """An agent that says the same to whoever asks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(report).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is not ours
            return

    server = http.server.ThreadingHTTPServer((AGENT, 9080), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def other(api: API) -> Iterator[str]:
    add_node(api, "gpu-2", "NVIDIA-L4")
    yield "gpu-2"
    api.kubectl("delete", "node", "gpu-2", "--ignore-not-found")


def run(api: API, pod: str, node: str, ip: str, *, ready: bool) -> None:
    """Be the scheduler and the kubelet of a pod."""
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    metadata = {"name": pod, "namespace": "default"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
    raw = f"/api/v1/namespaces/default/pods/{pod}/binding"
    api.kubectl("create", "--raw", raw, "-f", "-", stdin=json.dumps(binding))
    conditions = [
        {"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind, status in (("PodScheduled", "True"), ("Ready", "True" if ready else "False"))
    ]
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
    patch = json.dumps({"status": status})
    api.kubectl("patch", "pod", pod, "--subresource=status", "--type=strategic", "-p", patch)


def test_a_pod_that_healing_did_not_mend_leaves_its_node_where_others_serve(
    api: API, node: str, other: str
) -> None:
    with an_agent(LOST), api.operator():
        api.apply(a_service("avoids", replicas=2))
        api.until("two pods", lambda: len(pods(api, "avoids")) == 2)
        complete_warmers(api)
        label = "preheat.dev/llmdeployment=avoids"
        api.until("a cache", lambda: json.loads(api.kubectl("get", "mc", "-l", label, "-o", "json"))["items"])
        cache = json.loads(api.kubectl("get", "mc", "-l", label, "-o", "json"))["items"][0]
        api.until(
            "a key", lambda: (api.get("mc", cache["metadata"]["name"]) or {}).get("status", {}).get("key")
        )
        key = (api.get("mc", cache["metadata"]["name"]) or {})["status"]["key"]

        def value(name: str) -> str | None:
            found: dict[str, str] = (api.get("node", name) or {})["metadata"].get("labels", {})
            return found.get(f"cache.preheat.dev/{key}")

        def are_ready() -> bool:
            complete_warmers(api)
            return (value(node), value(other)) == ("ready", "ready")

        api.until("the weights on both", are_ready, 60)
        lost, serves = sorted(pod["metadata"]["name"] for pod in pods(api, "avoids"))
        run(api, serves, other, "10.1.2.3", ready=True)
        run(api, lost, node, AGENT, ready=False)
        api.until("the node avoided", lambda: value(node) == "avoided")
        told = api.condition("llmd", "avoids", "NodeAvoided")
        assert told["status"] == "True"
        assert f"pod {lost} was healed to the end there" in told["message"]
        api.until(
            "the pod gone or going", lambda: lost not in [p["metadata"]["name"] for p in pods(api, "avoids")]
        )
        assert serves in [pod["metadata"]["name"] for pod in pods(api, "avoids")]
        assert value(other) == "ready"
        # A pod with a node waits for its kubelet to end.
        for pod in (lost, serves):
            api.run("delete", "pod", pod, "--force", "--grace-period=0")
        take_away(api, "avoids", node)


def test_a_node_that_tells_of_a_faulty_gpu_is_avoided_for_as_long_as_it_does(
    api: API, node: str, other: str
) -> None:
    def tell(status: str) -> None:
        stamp = "2026-01-01T00:00:00Z"
        fault = {"type": "GpuUnhealthy", "status": status, "reason": "XID79", "message": "GPU has fallen off the bus",
                 "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}  # fmt: skip
        patch = json.dumps({"status": {"conditions": [fault]}})
        api.kubectl("patch", "node", node, "--subresource=status", "--type=strategic", "-p", patch)

    with api.operator():
        api.apply(a_service("faulty", replicas=2))
        label = "-l", "preheat.dev/llmdeployment=faulty"

        def labels(value: str) -> list[str]:
            found = json.loads(api.kubectl("get", "mc", *label, "-o", "json"))["items"]
            key = (found[0].get("status") or {}).get("key") if found else None
            if key is None:
                return []
            nodes = api.kubectl(
                "get", "nodes", "-l", f"cache.preheat.dev/{key}={value}", "-o", "name"
            ).split()
            return sorted(name.removeprefix("node/") for name in nodes)

        def are_ready() -> bool:
            complete_warmers(api)
            return labels("ready") == sorted((node, other))

        api.until("the weights on both", are_ready, 60)
        tell("True")
        api.until("avoided", lambda: labels("avoided") == [node])
        api.until("told", lambda: api.condition("llmd", "faulty", "NodeAvoided"))
        assert "GPU has fallen off the bus" in api.condition("llmd", "faulty", "NodeAvoided")["message"]
        tell("False")
        api.until("ready again", lambda: labels("ready") == sorted((node, other)))
        take_away(api, "faulty", node)
