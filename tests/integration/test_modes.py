"""Shared volumes and images on a real API server: what docs/weights.md shows is taken, and becomes what it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import API, add_node, complete_warmers
from tests.integration.test_template import plan
from tests.pages import manifests

PAGE = manifests("weights.md")


@pytest.fixture
def nodes(api: API) -> Iterator[list[str]]:
    names = ["modes-1", "modes-2"]
    for name in names:
        add_node(api, name, "NVIDIA-L4")
    yield names
    for name in names:
        api.kubectl("delete", "node", name, "--ignore-not-found")


def put(api: API, namespace: str, *names: str) -> None:
    api.run("create", "namespace", namespace)
    for name in names:
        body = {**PAGE[name]}
        body["metadata"] = {**body["metadata"], "namespace": namespace}
        api.kubectl("apply", "--validate=strict", "-f", "-", stdin=json.dumps(body))


def only(api: API, kind: str, namespace: str, selector: str) -> dict[str, Any] | None:
    found = json.loads(api.kubectl("-n", namespace, "get", kind, "-l", selector, "-o", "json"))["items"]
    return found[0] if found else None


def deployment(api: API, namespace: str, service: str) -> dict[str, Any] | None:
    return only(api, "deployments", namespace, f"preheat.dev/llmdeployment={service}")


def ready(api: API, namespace: str, kind: str, name: str) -> dict[str, Any]:
    body = api.get(kind, name, namespace) or {}
    conditions = (body.get("status") or {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == "Ready"), {})


def cache_of(api: API, namespace: str) -> dict[str, Any]:
    """Return the one ModelCache, once it has a status."""

    def the_cache() -> dict[str, Any]:
        (found,) = json.loads(api.kubectl("-n", namespace, "get", "mc", "-o", "json"))["items"]
        return dict(found)

    api.until("a status", lambda: the_cache().get("status"))
    return the_cache()


@pytest.mark.parametrize("name", PAGE)
def test_what_the_page_shows_is_taken_as_it_stands(api: API, name: str) -> None:
    taken = api.run("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(PAGE[name]))
    assert taken.returncode == 0, taken.stderr


@pytest.mark.parametrize("name", [name for name, body in PAGE.items() if body["kind"] == "LLMDeployment"])
def test_plan_shows_what_the_page_leads_to(api: API, nodes: list[str], tmp_path: Path, name: str) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(json.dumps({**PAGE[name], "metadata": {"name": name, "namespace": "default"}}))
    shown = plan(api, path)
    assert shown.returncode == 0, shown.stderr
    replicas = 0 if name == "on-a-volume" else 1
    assert f"with {replicas} replicas" in shown.stdout, shown.stdout


def test_a_shared_volume_gets_one_warmer_and_pods_only_after_it(api: API, nodes: list[str]) -> None:
    namespace, service = "modes-shared", "on-a-volume"
    put(api, namespace, "weights", service)
    with api.operator():
        api.until("a Deployment", lambda: deployment(api, namespace, service))
        made = deployment(api, namespace, service) or {}
        assert made["spec"]["replicas"] == 0, "no pod before the weights"
        (volume,) = [v for v in made["spec"]["template"]["spec"]["volumes"] if v["name"] == "weights"]
        assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
        jobs = json.loads(api.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"]
        assert len(jobs) == 1
    with api.operator():
        complete_warmers(api, namespace)
        api.until("a replica", lambda: (deployment(api, namespace, service) or {})["spec"]["replicas"] == 1)
    api.kubectl("-n", namespace, "delete", "jobs", "--all")
    with api.operator():
        api.until(
            "it is warmed again",
            lambda: json.loads(api.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"],
        )
        assert (deployment(api, namespace, service) or {})["spec"]["replicas"] == 1, "which ends no pod"
    api.kubectl("-n", namespace, "delete", "llmd,deployments,jobs,pods", "--all", "--wait=false")


def test_an_image_is_mounted_by_digest_and_labels_its_nodes(api: API, nodes: list[str]) -> None:
    namespace, service = "modes-image", "in-an-image"
    put(api, namespace, service)
    reference = PAGE[service]["spec"]["model"]["uri"].removeprefix("oci://")
    with api.operator():
        api.until("a Deployment", lambda: deployment(api, namespace, service))
        pod = (deployment(api, namespace, service) or {})["spec"]["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "weights"]
        assert volume["image"] == {"reference": reference, "pullPolicy": "Never"}, "the API server keeps it"
        (job,) = json.loads(api.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"]
        (pulled,) = job["spec"]["template"]["spec"]["volumes"]
        assert pulled["image"] == {"reference": reference, "pullPolicy": "IfNotPresent"}
        complete_warmers(api, namespace)
        cache = cache_of(api, namespace)
        label = f"cache.preheat.dev/{cache['status']['key']}=ready"
        api.until("a labelled node", lambda: api.kubectl("get", "nodes", "-l", label, "-o", "name"))
        api.until(
            "cache Ready",
            lambda: ready(api, namespace, "mc", cache["metadata"]["name"]).get("status") == "True",
        )
        api.kubectl("-n", namespace, "delete", "llmd", service, "--wait=false")
        api.kubectl("-n", namespace, "delete", "mc,deployments", "--all", "--wait=false")
        api.until("no label", lambda: not api.kubectl("get", "nodes", "-l", label, "-o", "name"))
    api.kubectl("-n", namespace, "delete", "jobs,pods", "--all", "--wait=false")


def test_an_image_that_a_kubelet_removed_is_pulled_again(api: API, nodes: list[str]) -> None:
    """The pod's status is what the kubelet would write; the label and the Job go, and a new Job comes."""
    namespace, service = "modes-removed", "in-an-image"
    put(api, namespace, service)
    with api.operator():
        api.until("a warmer", lambda: api.kubectl("-n", namespace, "get", "jobs", "-o", "name"))
        complete_warmers(api, namespace)
        cache = cache_of(api, namespace)
        label = f"cache.preheat.dev/{cache['status']['key']}=ready"
        api.until("a labelled node", lambda: api.kubectl("get", "nodes", "-l", label, "-o", "name"))
        node = api.kubectl("get", "nodes", "-l", label, "-o", "jsonpath={.items[0].metadata.name}")
        (job,) = json.loads(api.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"]
        # The Job is gone, as a person or a controller that tidies up deletes it: nothing speaks for the label any more.
        api.kubectl("-n", namespace, "delete", "job", job["metadata"]["name"], "--cascade=foreground")
        selector = f"preheat.dev/llmdeployment={service},preheat.dev/component=engine"
        api.until("a pod", lambda: only(api, "pods", namespace, selector))
        pod = only(api, "pods", namespace, selector) or {}
        name = pod["metadata"]["name"]
        binding = {
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }  # fmt: skip
        raw = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        api.kubectl("create", "--raw", raw, "-f", "-", stdin=json.dumps(binding))
        reference = PAGE[service]["spec"]["model"]["uri"].removeprefix("oci://")
        words = f'Container image "{reference}" is not present with pull policy of Never'
        waiting = {"waiting": {"reason": "ErrImageNeverPull", "message": words}}
        status = {
            "name": "agent", "image": "a", "imageID": "", "ready": False, "restartCount": 0, "state": waiting,
        }  # fmt: skip
        patch = json.dumps({"status": {"initContainerStatuses": [status]}})
        api.kubectl(
            "-n", namespace, "patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch
        )
        api.until("no label", lambda: not api.kubectl("get", "nodes", "-l", label, "-o", "name"))
        api.until("a new warmer", lambda: api.kubectl("-n", namespace, "get", "jobs", "-o", "name"))
        complete_warmers(api, namespace)
        api.until("labelled again", lambda: api.kubectl("get", "nodes", "-l", label, "-o", "name"))
    api.kubectl("-n", namespace, "delete", "llmd,mc,deployments,jobs,pods", "--all", "--wait=false")
