"""A pager on a real API server: let in under the operator's own rights and Pod Security, told of when it fails, gone again."""

import json
from typing import Any

from tests.integration.conftest import API, a_service

NAME = "paged"
SIZE = 1_000_000
POD_SECURITY = "pod-security.kubernetes.io/enforce"


def pods(api: API, component: str) -> list[dict[str, Any]]:
    selector = f"preheat.dev/component={component}"
    found: list[dict[str, Any]] = json.loads(api.kubectl("get", "pods", "-l", selector, "-o", "json"))[
        "items"
    ]
    return found


def pagers(api: API) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        api.kubectl("get", "jobs", "-l", "preheat.dev/component=pager", "-o", "json")
    )["items"]
    return found


def end(api: API, component: str, words: dict[str, Any], code: int = 0) -> None:
    """End the pods of these Jobs as a kubelet would tell it."""
    for pod in pods(api, component):
        ended = {"terminated": {"exitCode": code, "message": json.dumps(words)}}
        container = {
            "name": component, "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": ended,
        }  # fmt: skip
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}
        name, patch = pod["metadata"]["name"], json.dumps({"status": status})
        api.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


def scale(api: API, replicas: int) -> None:
    api.kubectl("scale", "llmd", NAME, f"--replicas={replicas}")


def test_a_pager_is_let_in_told_of_and_gone_with_its_load(api: API, node: str) -> None:
    memory = {"status": {"allocatable": {"memory": "64Gi"}, "capacity": {"memory": "64Gi"}}}
    api.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(memory))
    api.kubectl("label", "namespace", "default", f"{POD_SECURITY}=restricted")
    try:
        with api.operator():
            api.apply(a_service(NAME, replicas=0, cache={"pageCache": "Ahead"}))
            api.until("a warmer", lambda: pods(api, "warmer"), 30)
            end(api, "warmer", {"state": "Published", "bytesTotal": SIZE, "manifestSHA256": "f" * 64})
            api.until("warm", lambda: api.condition("llmd", NAME, "WeightsReady").get("status") == "True", 60)
            assert pagers(api) == [], "at zero nothing is read"
            # Without it nobody knows that the weights came just now.
            api.kubectl("delete", "jobs", "-l", "preheat.dev/component=warmer")

            scale(api, 1)
            api.until("a pager", lambda: pods(api, "pager"), 30)
            (job,) = pagers(api)
            (container,) = job["spec"]["template"]["spec"]["containers"]
            assert container["resources"]["requests"] == {"cpu": "0", "memory": "0"}
            short = {
                "state": "Failed",
                "reason": "NoMemory",
                "message": "9 bytes are missing, 5 are available",
            }
            end(api, "pager", short, 2)
            api.until("it is told", lambda: api.condition("llmd", NAME, "PageCacheFilled"), 60)
            told = api.condition("llmd", NAME, "PageCacheFilled")
            assert (told["status"], told["reason"]) == ("False", "PageCacheNotFilled")
            assert "gpu-1: 9 bytes are missing" in told["message"]
            assert [one["metadata"]["uid"] for one in pagers(api)] == [job["metadata"]["uid"]], (
                "it tries once"
            )

            scale(api, 0)
            api.until("it is gone", lambda: not pagers(api), 30)
            api.until("nothing is told", lambda: not api.condition("llmd", NAME, "PageCacheFilled"), 30)
            # The node first: there is no kubelet here to clear its disk.
            api.kubectl("delete", "node", node)
            api.kubectl("delete", "llmd", NAME)
            mine = ("pv", "-l", "preheat.dev/modelcache-namespace=default", "-o", "name")
            api.until("nothing left", lambda: not api.kubectl("get", *mine).split(), 60)
    finally:
        api.run("label", "namespace", "default", f"{POD_SECURITY}-")
        api.run("delete", "llmd", NAME, "--ignore-not-found", "--wait=false")
