"""Pullers against a real API server: let in as they are, written once, told of by the kubelet, taken away."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.cluster.audit import requests
from tests.integration.conftest import API, a_service, complete_warmers
from tests.integration.test_scaling import volumes

NAMESPACE, NAME = "pulls", "pulled"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
KEY = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}
ENGINE, PULLER = "preheat.dev/component=engine", "preheat.dev/component=puller"


@pytest.fixture
def namespace(api: API, node: str) -> Iterator[str]:
    """A namespace in which Pod Security is enforced."""
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": RESTRICTED},
    }
    api.apply(body)
    yield NAMESPACE
    api.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def apply(api: API, **spec: Any) -> None:
    body = a_service(NAME, replicas=2, **spec)
    api.apply({**body, "metadata": {**body["metadata"], "namespace": NAMESPACE}})


def listed(api: API, kind: str, selector: str) -> list[dict[str, Any]]:
    """Return what is there and does not go."""
    items = json.loads(api.kubectl("-n", NAMESPACE, "get", kind, "-l", selector, "-o", "json"))["items"]
    return [body for body in items if "deletionTimestamp" not in body["metadata"]]


def condition(api: API, kind: str) -> dict[str, Any]:
    body = api.get("llmd", NAME, NAMESPACE) or {}
    told = (body.get("status") or {}).get("conditions", ())
    return next((dict(c) for c in told if c["type"] == kind), {})


def tell(api: API, pod: dict[str, Any], node: str, **status: Any) -> None:
    """Be the scheduler and the kubelet of a pod."""
    name, where = pod["metadata"]["name"], ("-n", NAMESPACE)
    if "nodeName" not in pod["spec"]:
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        raw = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/binding"
        api.kubectl("create", "--raw", raw, "-f", "-", stdin=json.dumps(binding))
    patch = json.dumps({"status": status})
    api.kubectl(*where, "patch", "pod", name, "--subresource=status", "--type=strategic", "-p", patch)


def conditions(*kinds: str) -> list[dict[str, str]]:
    """Return what holds from now on: what is missing for long is a verdict."""
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [{"type": kind, "status": "True", "lastTransitionTime": since} for kind in kinds]


def complain(api: API, pod: dict[str, Any], words: str) -> None:
    """Say of a pod what a kubelet says that cannot mount."""
    metadata = pod["metadata"]
    regarding = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": metadata["name"],
        "namespace": NAMESPACE,
        "uid": metadata["uid"],
    }
    event = {
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "no-mount", "namespace": NAMESPACE},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "reportingController": "kubelet",
        "reportingInstance": "gpu-1", "action": "Mounting", "reason": "FailedMount", "type": "Warning",
        "note": words, "regarding": regarding,
    }  # fmt: skip
    api.apply(event)


def pullers_of(api: API, image: str) -> list[dict[str, Any]]:
    """Return the pods that have an engine's image pulled."""
    pods = listed(api, "pods", PULLER)
    return [pod for pod in pods if {"reference": image, "pullPolicy": "IfNotPresent"} in images(pod)]


def images(pod: dict[str, Any]) -> list[dict[str, str]]:
    return [volume["image"] for volume in pod["spec"]["volumes"] if "image" in volume]


def old_replicas(api: API, new: set[str]) -> tuple[int, int]:
    """Return how many replicas of the first revision are asked for, and how many pods there are of any other."""
    deployments = listed(api, "deploy", f"preheat.dev/llmdeployment={NAME}")
    pods = [pod for pod in listed(api, "pods", ENGINE) if pod["metadata"]["uid"] not in new]
    return max(body["spec"]["replicas"] for body in deployments), len(pods)


def test_a_puller_in_a_restricted_namespace(api: API, node: str, namespace: str) -> None:
    """From a new image and a new Secret on a full cluster to the end of it all."""
    with api.operator():
        apply(api)
        api.until("two pods", lambda: len(listed(api, "pods", ENGINE)) == 2, 60)
        complete_warmers(api, namespace)
        serving = listed(api, "pods", ENGINE)
        for pod in serving:
            tell(api, pod, node, phase="Running", conditions=conditions("PodScheduled", "Ready"))
        api.until("it serves", lambda: condition(api, "Ready").get("status") == "True", 60)
        assert listed(api, "jobs", PULLER) == [], "a first revision has none"

        engine = {"name": "engine", "env": [KEY]}
        image = {"backend": "LlamaCpp", "image": "r.example/engine:2"}
        apply(api, runtime=image, template={"spec": {"containers": [engine]}})
        api.until("a puller's pod", lambda: listed(api, "pods", PULLER), 60)
        (job,), (pod,) = listed(api, "jobs", PULLER), listed(api, "pods", PULLER)
        assert images(pod)[0] == {"reference": "r.example/engine:2", "pullPolicy": "IfNotPresent"}
        (projected,) = [v["projected"] for v in pod["spec"]["volumes"] if "projected" in v]
        assert projected["defaultMode"] == 0
        assert projected["sources"][0]["secret"]["name"] == "keys"
        assert "fsGroup" not in pod["spec"]["securityContext"]
        enforced = api.run("-n", namespace, "apply", "-f", "-", stdin=json.dumps(a_breach()))
        assert 'violates PodSecurity "restricted' in enforced.stderr
        api.until("told", lambda: condition(api, "ImageReady").get("reason") == "ImagePulling")

        tell(api, pod, node, phase="Pending", conditions=conditions("PodScheduled"))
        complain(api, pod, 'MountVolume.SetUp failed for volume "named" : secret "keys" not found')
        api.until(
            "the Secret is missed", lambda: condition(api, "Ready").get("reason") == "ReferenceMissing", 60
        )
        for kind in ("Ready", "ImageReady"):
            assert 'secret "keys" not found' in condition(api, kind)["message"]
        assert "Create it in namespace pulls" in condition(api, "Ready")["message"]
        known = {pod["metadata"]["uid"] for pod in serving}
        assert old_replicas(api, known) == (2, 0), "nothing moves"

    with api.operator():  # another one finds it as it is
        api.until("it works", lambda: "ReferenceMissing" in condition(api, "Ready").get("reason", ""), 30)
        (same,) = listed(api, "jobs", PULLER)
        assert (same["metadata"]["uid"], same["metadata"]["generation"]) == (job["metadata"]["uid"], 1)
        apply(api, runtime={**image, "image": "r.example/engine:3"})
        api.until(
            "the stale one gone", lambda: api.get("job", job["metadata"]["name"], namespace) is None, 60
        )
        api.until("the next one's pod", lambda: pullers_of(api, "r.example/engine:3"), 60)
        (other,) = pullers_of(api, "r.example/engine:3")
        assert all("image" in volume for volume in other["spec"]["volumes"]), "it names no Secret any more"
        assert old_replicas(api, known) == (2, 0)
        tell(api, other, node, phase="Succeeded", conditions=conditions("PodScheduled"))
        api.until("pulled", lambda: condition(api, "ImageReady").get("reason") == "ImagePulled", 60)
        api.until("now a replica moves", lambda: old_replicas(api, known)[1] > 0, 60)

        api.kubectl("-n", namespace, "delete", "llmd", NAME)
        api.until("pullers gone with their owner", lambda: not listed(api, "jobs", PULLER), 60)
        api.kubectl("delete", "node", node)
        api.until("volumes gone", lambda: not [v for v in volumes(api) if v.startswith(f"{NAME}-")], 120)

    assert api.plane.audit_log is not None
    made = [
        entry["verb"]
        for entry in requests(api.plane.audit_log)
        if (entry.get("objectRef") or {}).get("name") == job["metadata"]["name"] and entry["verb"] != "get"
    ]
    assert made == ["create", "delete"], "it was written once"


def a_breach() -> dict[str, Any]:
    """A pod that Pod Security refuses: were it let in, nothing would be enforced here."""
    volume = {"name": "host", "hostPath": {"path": "/"}}
    spec = {"containers": [{"name": "c", "image": "c:1"}], "volumes": [volume]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "breach", "namespace": NAMESPACE},
        "spec": spec,
    }
