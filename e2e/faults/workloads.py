"""What a user does to a model, and how it must end. Each case has a namespace and two nodes of its own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from preheat.api.conditions import Reason
from preheat.api.constants import ANNOTATION_SOAKED, COMPONENT_FRONT, LABEL_COMPONENT
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.parse import parse
from preheat.decide.caching import lot
from preheat.resources import names
from preheat.resources.serving import cache_source

from e2e.faults.calls import Call
from e2e.faults.plane import Body, Key, Plane

SETTLE_SECONDS = 120.0
"""A deadline, not an expectation: the longest backoff is 60 s, and the machine may be busy."""
CLOSE_SECONDS = 20.0
GROUP = "/apis/preheat.dev/v1alpha1"
ONE, TWO = "http://store.example/one/", "http://store.example/two/"
CACHE_LABEL = "cache.preheat.dev/"


class NotConvergedError(Exception):
    """It did not come to the wanted end in time."""


class Case:
    """One model of its own, in a namespace of its own, on two nodes of its own."""

    def __init__(self, plane: Plane, name: str) -> None:
        self.plane = plane
        self.id = name
        """Namespace, and part of the names of its nodes."""
        self._volumes: set[str] = set()

    @cached_property
    def nodes(self) -> tuple[str, str]:
        """Its two nodes. Every cache of the case draws the first: what a lot decides must not differ between cases."""
        named = (
            tuple(f"{self.id}-node-{number}" for number in pair) for pair in combinations(range(1, 100), 2)
        )
        keys = [self._key(uri) for uri in (ONE, TWO)]
        first, second = next(
            pair for pair in named if all(lot(key, pair[0]) < lot(key, pair[1]) for key in keys)
        )
        return first, second

    def _key(self, uri: str) -> str:
        """Return the key of the cache that the operator will make for a source."""
        manifest = self.manifest(model={"uri": uri, "format": "GGUF"})
        service = parse(
            LLMDeployment, {**manifest, "metadata": {**manifest["metadata"], "uid": "not-made-yet"}}
        )
        source = cache_source(service)
        return names.cache_key(self.id, names.cache_name(service.name, source), source)

    @property
    def path(self) -> str:
        """Where its LLMDeployment is."""
        return f"{GROUP}/namespaces/{self.id}/llmdeployments/m"

    async def open(self) -> None:
        """Make the namespace and the nodes."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.id}}
        await self.plane.admin.create("/api/v1/namespaces", body)
        for node in self.nodes:
            await self.plane.add_node(node, {"case": self.id})

    async def close(self) -> None:
        """Take everything away, whatever the operator did."""
        admin = self.plane.admin
        self.plane.hands.held.discard(self.id)
        self.plane.hands.crashing.discard(self.id)
        await admin.delete(self.path)
        await self.plane.eyes.until(
            lambda: self.service is None and not self.all("ModelCache"), CLOSE_SECONDS
        )
        for node in self.nodes:
            await admin.delete(f"/api/v1/nodes/{node}")
        await admin.delete(f"/api/v1/namespaces/{self.id}")
        for volume in self.volumes():
            await admin.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")

    def concerns(self, call: Call) -> bool:
        """Tell whether a request is about this case: by its namespace, its nodes or its volumes."""
        parts = call.path.split("/")
        if self.id in parts or any(node in parts for node in self.nodes):
            return True
        if "persistentvolumes" not in parts:
            return False
        name = parts[-1]
        if f'"namespace":"{self.id}"' in call.text.replace(" ", ""):
            self._volumes.add(name)
        return name in self._volumes or names.namespace_key(self.id) in name

    # --- what is there

    def get(self, kind: str, name: str) -> Body | None:
        """Return an object of its namespace."""
        return self.plane.eyes.objects.get((kind, self.id, name))

    def all(self, kind: str) -> list[Body]:
        """Return its objects of a kind."""
        return self.plane.eyes.all(kind, self.id)

    def volumes(self) -> list[Body]:
        """Return the volumes whose claims are in its namespace."""
        found = self.plane.eyes.all("PersistentVolume")
        return [body for body in found if self.owns(("PersistentVolume", "", ""), body)]

    def owns(self, key: Key, body: Body) -> bool:
        """Tell whether an object belongs to this case."""
        if key[0] == "PersistentVolume":
            return bool((body["spec"].get("claimRef") or {}).get("namespace") == self.id)
        if (
            key[0] == "EndpointSlice"
            and (body["metadata"].get("labels") or {}).get(LABEL_COMPONENT) != COMPONENT_FRONT
        ):
            return False  # Kubernetes' own, under another name each time
        return key[1] == self.id or (key[0] == "Node" and key[2] in self.nodes)

    @property
    def service(self) -> Body | None:
        """The LLMDeployment as it is."""
        return self.get("LLMDeployment", "m")

    def pods(self, component: str = "engine") -> list[Body]:
        """Return the pods that stay."""
        return [
            pod
            for pod in self.all("Pod")
            if pod["metadata"]["labels"].get("preheat.dev/component") == component
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def is_serving(self, replicas: int = 1) -> bool:
        """Tell whether the newest spec serves, and nothing of an older one is left."""
        body = self.service
        if body is None:
            return False
        status = body.get("status") or {}
        ready: Body = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
        pods = self.pods()
        return bool(
            ready.get("status") == "True"
            and ready.get("reason") == Reason.SERVING
            and ready.get("observedGeneration") == body["metadata"]["generation"]
            and (status.get("readyReplicas"), status.get("replicas")) == (replicas, replicas)
            and len(pods) == replicas
            and len({pod["metadata"]["labels"]["preheat.dev/revision"] for pod in pods}) == 1
        )

    # --- what a user does

    @property
    def is_proven(self) -> bool:
        """Tell whether it is remembered of a revision that it is good: a change before that has it remembered in another way."""
        return any(
            ANNOTATION_SOAKED in (revision["metadata"].get("annotations") or {})
            for revision in self.all("ControllerRevision")
        )

    async def make(self, **spec: Any) -> None:
        """Create the LLMDeployment."""
        await self.plane.admin.create(f"{GROUP}/namespaces/{self.id}/llmdeployments", self.manifest(**spec))

    def manifest(self, **spec: Any) -> Body:
        """Return its LLMDeployment."""
        base: Body = {
            "model": {"uri": ONE, "format": "GGUF"},
            "hardware": {"gpu": {"types": ["nvidia-l4"]}, "nodeSelector": {"case": self.id}},
            "runtime": {"backend": "LlamaCpp"},
        }
        return {
            "apiVersion": "preheat.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "m", "namespace": self.id},
            "spec": {**base, **spec},
        }

    async def change(self, patch: Body) -> None:
        """Change the spec. Returns when the change was seen: what is there before it is no end to wait for."""
        before = (self.service or {"metadata": {}})["metadata"].get("generation")
        await self.plane.admin.patch(self.path, {"spec": patch})
        await self.until(
            "the change seen",
            lambda: (self.service or {"metadata": {}})["metadata"].get("generation") != before,
        )

    async def until(self, what: str, holds: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> None:
        """Wait. Raises NotConvergedError, with what is there."""
        if not await self.plane.eyes.until(holds, seconds):
            conditions = ((self.service or {}).get("status") or {}).get("conditions") or ()
            told = next(
                (f"{c['reason']}: {c['message']}" for c in conditions if c["type"] == "Ready"), "no status"
            )
            raise NotConvergedError(f"{what}: not within {seconds:g} s; {told}")


@dataclass(frozen=True, slots=True)
class Workload:
    """``before`` is undisturbed, ``act`` meets the fault, ``is_done`` tells when it has come to its end."""

    name: str
    before: Callable[[Case], Awaitable[None]]
    act: Callable[[Case], Awaitable[None]]
    is_done: Callable[[Case], bool]


async def _nothing(_case: Case) -> None:
    return None


async def _settled(case: Case) -> None:
    await case.make()
    await case.until("the first settling", case.is_serving)


async def _settled_alone(case: Case) -> None:
    """One replica holds every GPU of its node: the next one comes to the other node."""
    await case.make(hardware=_whole_nodes(case))
    await case.until("the first settling", lambda: case.is_serving(1))


async def _settled_in_full(case: Case) -> None:
    """Two replicas hold every GPU of both nodes: a new one has no room beside them. They are known to be good."""
    await case.make(replicas=2, hardware=_whole_nodes(case), rollout={"soakSeconds": 0})
    await case.until("the first settling", lambda: case.is_serving(2) and case.is_proven)


def _whole_nodes(case: Case) -> Body:
    """Return the hardware of which a node has enough for one replica: else chance says how many nodes are in use."""
    return {"gpu": {"types": ["nvidia-l4"], "count": 2}, "nodeSelector": {"case": case.id}}


async def _create(case: Case) -> None:
    await case.make()


OTHER_OPTIONS: Body = {"runtime": {"options": {"n_ctx": "512"}}}


async def _edit(case: Case) -> None:
    await case.change(OTHER_OPTIONS)


async def _new_image(case: Case) -> None:
    """Nodes have it pulled before a replica makes room."""
    await case.change({"runtime": {"image": "r.example/engine:2"}})


async def _scale(case: Case) -> None:
    await case.change({"replicas": 2})


async def _scale_down(case: Case) -> None:
    await case.change({"replicas": 1})


async def _other_model(case: Case) -> None:
    await case.change({"model": {"uri": TWO}})


async def _delete(case: Case) -> None:
    await case.plane.admin.delete(case.path)


def _is_gone(case: Case) -> bool:
    """Nothing of it is left: no child, no volume, no label."""
    kinds = ("LLMDeployment", "ModelCache", "Deployment", "ControllerRevision", "Pod", "Service", "Job",
             "PersistentVolumeClaim", "PodDisruptionBudget", "NetworkPolicy")  # fmt: skip
    if any(case.all(kind) for kind in kinds) or case.volumes():
        return False
    nodes = (case.plane.eyes.objects.get(("Node", "", node)) for node in case.nodes)
    return not any(
        label.startswith(CACHE_LABEL) for node in nodes if node for label in node["metadata"]["labels"]
    )


async def _waiting(case: Case) -> None:
    case.plane.hands.held.add(case.id)
    await case.make()

    def is_waiting() -> bool:
        conditions = ((case.service or {}).get("status") or {}).get("conditions", ())
        pods = case.pods("warmer")
        return (
            any(c["reason"] == Reason.WEIGHTS_FETCHING for c in conditions)
            and len(pods) == 1
            and bool(pods[0]["spec"].get("nodeName"))
        )

    await case.until("waiting for weights", is_waiting)


async def _arrive(case: Case) -> None:
    case.plane.hands.release(case.id)


async def _lose_node(case: Case) -> None:
    """The node goes, and its pods with it: what the node's and the pods' collectors do within a minute or more."""
    admin = case.plane.admin
    (pod,) = case.pods()
    node = pod["spec"]["nodeName"]
    await admin.delete(f"/api/v1/nodes/{node}")
    for body in case.all("Pod"):
        if body["spec"].get("nodeName") == node:
            path = f"/api/v1/namespaces/{case.id}/pods/{body['metadata']['name']}"
            await admin.delete(path, {"gracePeriodSeconds": 0})


def _serves_elsewhere(case: Case) -> bool:
    there = [node for node in case.nodes if ("Node", "", node) in case.plane.eyes.objects]
    return len(there) == 1 and [p["spec"].get("nodeName") for p in case.pods()] == there and case.is_serving()


async def _stuck(case: Case) -> None:
    """A bad revision is on its way and never comes up; the good one serves."""
    await _settled(case)
    good = {pod["metadata"]["labels"]["preheat.dev/revision"] for pod in case.pods()}
    case.plane.hands.good[case.id] = good
    await case.change(OTHER_OPTIONS)

    def is_stuck() -> bool:
        body = case.service or {}
        status = body.get("status") or {}
        ready: Body = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
        return (
            len(case.pods()) == 2
            and all(pod["spec"].get("nodeName") for pod in case.pods())
            and ready.get("status") == "False"
            and ready.get("observedGeneration") == body["metadata"]["generation"]
        )

    await case.until("stuck with a bad revision", is_stuck)


async def _crash(case: Case) -> None:
    """A revision whose engines end again and again goes out: it has to be taken back without a person."""
    hands = case.plane.hands
    hands.good[case.id] = {pod["metadata"]["labels"]["preheat.dev/revision"] for pod in case.pods()}
    hands.crashing.add(case.id)
    await case.change(OTHER_OPTIONS)


def _is_rolled_back(case: Case) -> bool:
    """The first revision alone serves, with both replicas, and the status says why."""
    body = case.service
    if body is None:
        return False
    conditions = (body.get("status") or {}).get("conditions", ())
    told = any(
        c["type"] == "RolledBack"
        and (c["status"], c["reason"]) == ("True", Reason.ENGINE_CRASHING)
        and c["observedGeneration"] == body["metadata"]["generation"]
        for c in conditions
    )
    pods = case.pods()
    revisions = {pod["metadata"]["labels"]["preheat.dev/revision"] for pod in pods}
    ready = (body.get("status") or {}).get("readyReplicas")
    return told and len(pods) == ready == 2 and revisions == case.plane.hands.good[case.id]


async def _roll_back(case: Case) -> None:
    await case.change({"runtime": {"options": None}})


def _serves(case: Case) -> bool:
    return case.is_serving()


def _serves_twice(case: Case) -> bool:
    return case.is_serving(2)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("create", _nothing, _create, _serves),
        Workload("weights-arrive", _waiting, _arrive, _serves),
        Workload("edit", _settled, _edit, _serves),
        Workload("scale-up", _settled_alone, _scale, _serves_twice),
        Workload("scale-down", _settled_in_full, _scale_down, _serves),
        Workload("model-change", _settled, _other_model, _serves),
        Workload("roll-back", _stuck, _roll_back, _serves),
        Workload("rollout", _settled_in_full, _new_image, _serves_twice),
        Workload("rollback", _settled_in_full, _crash, _is_rolled_back),
        Workload("node-lost", _settled, _lose_node, _serves_elsewhere),
        Workload("delete", _settled, _delete, _is_gone),
    )
}
