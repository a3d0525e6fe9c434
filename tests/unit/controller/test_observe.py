"""What a pass looks at is of one moment, whatever comes while it asks."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from preheat.api.constants import (
    ANNOTATION_NODE,
    COMPONENT_PULLER,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_REVISION,
)
from preheat.api.llmdeployment import LLMDeployment
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

    def timed(self, pods: Any) -> list[Any]:
        return list(pods)

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


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
async def test_a_pod_that_has_ended_is_no_replica(phase: str) -> None:
    """Evicted, or refused by its kubelet after a restart: a Deployment leaves such pods there, and makes others."""
    view = View()
    view.put(a_deployment())
    view.put(a_pod("1", "n1"))
    ended = a_pod("2", "n1")
    ended["metadata"] |= {"name": "llama-r-x-z", "uid": "e"}
    view.put({**ended, "status": {**ended["status"], "phase": phase, "reason": "Evicted"}})
    nobody: Any = Nobody()
    seen = await observe_service(
        SERVICE,
        view,
        FakeSidecars(),
        nobody,
        cast("Any", NoScaling()),
        nobody,
        datetime.now(UTC),
    )
    assert [pod.name for pod in seen.pods] == ["llama-r-x-y"]


class Asked(Nobody):
    """It notes of whom it is asked."""

    def __init__(self) -> None:
        self.of: list[str] = []

    async def about(self, _: str, pods: Any, jobs: Any = ()) -> tuple[dict[str, Any], None]:
        self.of += [*pods, *jobs]
        return {}, None


def a_puller(service: LLMDeployment) -> list[dict[str, Any]]:
    """A Job and its pod, which has a node and does not start."""
    job = {"name": "pull", "namespace": service.namespace, "uid": "j", "resourceVersion": "1",
           "labels": {LABEL_DEPLOYMENT: service.name, LABEL_COMPONENT: COMPONENT_PULLER},
           "annotations": {ANNOTATION_NODE: "n1"},
           "ownerReferences": controlled_by("LLMDeployment", service.name, service.uid)}  # fmt: skip
    pod = {**job, "name": "pull-x", "uid": "waits", "ownerReferences": controlled_by("Job", "pull", "j")}
    placed = {"conditions": [{"type": "PodScheduled", "status": "True"}], "phase": "Pending"}
    return [
        {"kind": "Job", "metadata": job, "status": {"active": 1}},
        {"kind": "Pod", "metadata": pod, "spec": {"nodeName": "n1"}, "status": placed},
    ]


ROLLOUT = {
    "strategy": "Auto", "reason": "r", "step": "s", "message": "m", "fromRevision": "a", "toRevision": "b",
    "oldReplicas": 1, "updatedReplicas": 0, "readyUpdatedReplicas": 0, "startedAt": "2026-01-01T00:00:00Z",
}  # fmt: skip
WHO_WAITS = {
    "at rest nobody": ({"observedGeneration": SERVICE.generation}, []),
    "a rollout": ({"observedGeneration": SERVICE.generation, "rollout": ROLLOUT}, ["waits"]),
    "a spec that nobody looked at yet": ({"observedGeneration": SERVICE.generation - 1}, ["waits"]),
}


@pytest.mark.parametrize("case", WHO_WAITS)
async def test_what_is_said_of_a_puller_is_asked_while_somebody_waits(case: str) -> None:
    """One whose image is gone for good would be asked about for ever."""
    status, asked = WHO_WAITS[case]
    service = a_service(status=status)
    view, complaints, nobody = View(), Asked(), cast("Any", Nobody())
    for body in a_puller(service):
        view.put(body)
    scaling = cast("Any", NoScaling())
    seen = await observe_service(
        service, view, FakeSidecars(), cast("Any", complaints), scaling, nobody, datetime.now(UTC)
    )
    assert [puller.job.name for puller in seen.pullers] == ["pull"]
    assert complaints.of == asked
