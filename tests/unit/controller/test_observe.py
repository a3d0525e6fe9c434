"""What a pass looks at is of one moment, whatever comes while it asks."""

from datetime import UTC, datetime
from typing import Any, cast

from preheat.api.constants import LABEL_DEPLOYMENT, LABEL_REVISION
from preheat.controller.observe import observe_service
from preheat.controller.view import View

from tests.builders import a_service
from tests.fakes import FakeSidecars

SERVICE = a_service()
GPU = {"nvidia.com/gpu": "1"}


class Nobody:
    """Everything else that a pass asks; it says nothing."""

    async def about(self, *_: Any) -> tuple[dict[str, Any], None]:
        return {}, None

    def observe(self, *_: Any) -> None:
        return None


class NoScaling:
    async def observe(self, *_: Any) -> None:
        return None


def controlled_by(kind: str, name: str, uid: str) -> list[dict[str, Any]]:
    return [{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": True}]


def a_deployment() -> dict[str, Any]:
    labels = {LABEL_DEPLOYMENT: SERVICE.name, LABEL_REVISION: "r"}
    owner = controlled_by("LLMDeployment", SERVICE.name, SERVICE.uid)
    metadata = {"name": "llama-r", "namespace": SERVICE.namespace, "uid": "d", "resourceVersion": "1",
                "labels": labels, "ownerReferences": owner}  # fmt: skip
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": 1}}


def a_pod(version: str, node: str | None) -> dict[str, Any]:
    labels = {LABEL_DEPLOYMENT: SERVICE.name, LABEL_REVISION: "r"}
    metadata = {"name": "llama-r-x-y", "namespace": SERVICE.namespace, "uid": "p", "resourceVersion": version,
                "labels": labels, "ownerReferences": controlled_by("ReplicaSet", "llama-r-x", "rs")}  # fmt: skip
    placed = {"type": "PodScheduled", "status": "True"}
    waits = {**placed, "status": "False", "reason": "Unschedulable", "message": "Insufficient nvidia.com/gpu"}
    spec: dict[str, Any] = {"containers": [{"name": "engine", "resources": {"limits": GPU}}]}
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**spec, "nodeName": node} if node else spec,
        "status": {"conditions": [placed if node else waits]},
    }


class Slow(FakeSidecars):
    """While agents are asked the pod gets its node."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    async def agents(self, addresses: dict[str, str]) -> dict[str, Any]:
        self._view.put(a_pod("2", "n1"))
        return await super().agents(addresses)


async def test_a_gpu_that_is_taken_has_its_pod_beside_it() -> None:
    view = View()
    view.put(a_deployment())
    view.put(a_pod("1", None))
    nobody: Any = Nobody()
    seen = await observe_service(
        SERVICE,
        view,
        cast("Any", Slow(view)),
        nobody,
        cast("Any", NoScaling()),
        nobody,
        datetime.now(UTC),
    )
    assert [body["spec"].get("nodeName") for body in view.all("Pod")] == ["n1"], "it came meanwhile"
    assert ([pod.scheduled for pod in seen.pods], list(seen.uses)) == ([False], [])
