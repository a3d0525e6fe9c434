"""A seeder, its fence and a warmer with a token, taken by a real API server, made and taken away by the operator."""

import json
from typing import Any

import pytest

from tests.integration.conftest import API, add_node

NAME = "shared"
DIGEST = "d" * 64


@pytest.fixture
def second_node(api: API, node: str) -> Any:
    add_node(api, "gpu-2", "NVIDIA-L4")
    yield node, "gpu-2"
    api.kubectl("delete", "node", "gpu-2", "--ignore-not-found")


def test_the_second_node_is_sent_to_the_first(api: API, second_node: tuple[str, str]) -> None:
    with api.operator():
        api.apply(
            {
                "apiVersion": "preheat.dev/v1alpha1",
                "kind": "ModelCache",
                "metadata": {"name": NAME, "namespace": "default"},
                "spec": {"source": {"uri": "http://store.example/shared/"}, "placement": {"nodes": 2}},
            }
        )
        api.until("one warmer", lambda: len(_jobs(api, "warmer")) == 1)
        api.until("the other waits", lambda: _reasons(api) == ["WaitsForNeighbour"])
        (first,) = _jobs(api, "warmer")
        _end_well(api, first)
        api.until("a seeder", lambda: len(_jobs(api, "seeder")) == 1)
        (seeder,) = _jobs(api, "seeder")
        assert _node(seeder) == _node(first)
        assert len(_jobs(api, "warmer")) == 1, "it waits until the seeder is ready"
        (variable,) = seeder["spec"]["template"]["spec"]["containers"][0]["env"]
        keys = json.loads(variable["value"])["issuerKeys"]["keys"]
        assert {key["kty"] for key in keys} <= {"RSA", "EC"}
        assert all(key["kid"] for key in keys)

        running = {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}],
                   "conditions": [{"type": "Ready", "status": "True"}]}  # fmt: skip
        _patch(api, seeder, running)
        api.until("the second warmer", lambda: len(_jobs(api, "warmer")) == 2)
        (second,) = [job for job in _jobs(api, "warmer") if _node(job) != _node(first)]
        assert second["metadata"]["annotations"]["preheat.dev/peers"] == _node(first)
        (policy,) = json.loads(
            api.kubectl("get", "networkpolicies", "-l", f"preheat.dev/modelcache={NAME}", "-o", "json")
        )["items"]
        assert policy["spec"]["ingress"][0]["ports"] == [{"port": 9082, "protocol": "TCP"}]

        _end_well(api, second)
        api.until(
            "both ready", lambda: ((api.get("mc", NAME) or {}).get("status") or {}).get("readyNodes") == 2
        )
        api.until("no seeder left", lambda: not _jobs(api, "seeder"))
        label = f"cache.preheat.dev/{api.get('mc', NAME)['status']['key']}"  # type: ignore[index]
        assert [_labels(api, _node(job)).get(label) for job in (first, second)] == ["ready", "ready"]
        # Nodes first: there is no kubelet here to clear their disks.
        api.kubectl("delete", "node", *second_node)
        api.kubectl("delete", "mc", NAME)
        api.until(
            "nothing left", lambda: not api.kubectl("get", "jobs,networkpolicies", "-o", "name").split()
        )
        of_caches = ("-l", "preheat.dev/modelcache-namespace")
        api.until("no volume", lambda: not api.kubectl("get", "pv", *of_caches, "-o", "name").split())


def _jobs(api: API, component: str) -> list[dict[str, Any]]:
    selector = f"preheat.dev/modelcache={NAME},preheat.dev/component={component}"
    found: list[dict[str, Any]] = json.loads(api.kubectl("get", "jobs", "-l", selector, "-o", "json"))[
        "items"
    ]
    return found


def _node(job: dict[str, Any]) -> str:
    return str(job["metadata"]["annotations"]["preheat.dev/node"])


def _reasons(api: API) -> list[str]:
    status = (api.get("mc", NAME) or {}).get("status") or {}
    return [node["reason"] for node in status.get("nodes", ()) if node.get("reason")]


def _labels(api: API, node: str) -> dict[str, str]:
    labels: dict[str, str] = (api.get("node", node) or {})["metadata"]["labels"]
    return labels


def _end_well(api: API, job: dict[str, Any]) -> None:
    """Let a warmer say its last words, as a kubelet would tell them."""
    words = json.dumps({"state": "Published", "bytesTotal": 100, "manifestSHA256": DIGEST})
    ended = {"terminated": {"exitCode": 0, "message": words}}
    container = {
        "name": "warmer",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": ended,
    }
    _patch(api, job, {"phase": "Succeeded", "containerStatuses": [container]})


def _patch(api: API, job: dict[str, Any], status: dict[str, Any]) -> None:
    selector = f"job-name={job['metadata']['name']}"
    api.until("its pod", lambda: api.kubectl("get", "pods", "-l", selector, "-o", "name").split())
    (pod,) = api.kubectl("get", "pods", "-l", selector, "-o", "name").split()
    api.kubectl("patch", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
