"""Nodes that new replicas keep off: when, for how long, and never so many that none is left."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.config import OperatorConfig
from preheat.controller.concern import concerned
from preheat.controller.disks import avoided_on
from preheat.controller.view import View
from preheat.decide.avoidance import AVOID_SECONDS, Avoidance, decide_avoidance
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.nodes import Held, NodeObservation, decide_node
from preheat.decide.observed import AgentReport, AgentState, NodeView, PodView
from preheat.decide.plan import RESYNC_SECONDS, Apply, Delete, LabelNode, Plan, timestamp
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation
from preheat.resources import names, serving

from tests.builders import a_cache, a_node, a_pod, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVICE = a_service(replicas=2)
CACHE = names.cache_name(SERVICE.name, serving.cache_source(SERVICE))
KEY = names.cache_key("default", CACHE, serving.cache_source(SERVICE))
CONFIG = OperatorConfig()


def revision() -> Any:
    """The ControllerRevision of the service, as a first pass writes it."""
    seen = ServiceObservation(nodes=[a_node()], deployments=[], pods=[], caches=[], children=[])
    manifests = [
        w.manifest for w in decide_service(SERVICE, seen, CONFIG, NOW).writes if isinstance(w, Apply)
    ]
    return next(m for m in manifests if m["kind"] == "ControllerRevision") | {"revision": 1}


def pod(name: str, node: str, *, ready: bool = True) -> PodView:
    lost = AgentReport(AgentState.FAILED, "CanaryFailed", "no answer within 30 s", 0, 0, None)
    return a_pod(name, serving.revision_id(SERVICE), node=node, ready=ready, report=None if ready else lost)


def observe(nodes: dict[str, str], *pods: PodView) -> ServiceObservation:
    """Nodes with the value of their label."""
    held = [
        a_node(name, caches=frozenset({KEY}), avoided=frozenset({KEY} if value == "avoided" else ()))
        for name, value in nodes.items()
    ]
    return ServiceObservation(
        nodes=held,
        deployments=[],
        pods=pods,
        caches=[a_cache(CACHE, status={"key": KEY, "readyNodes": 2, "desiredNodes": 2})],
        children=[revision()],
    )


def decide(seen: ServiceObservation, before: Avoidance | None = None, now: datetime = NOW) -> Avoidance:
    told = [node.to_api() for node in before.nodes] if before else []
    return decide_avoidance(a_service(replicas=2, status={"avoidedNodes": told}), seen, now)


BOTH = {"n1": "ready", "n2": "ready"}


def test_the_node_is_avoided_first_and_the_pod_deleted_once_it_is() -> None:
    lost, serves = pod("a", "n1", ready=False), pod("b", "n2")
    first = decide(observe(BOTH, lost, serves))
    assert [(node.name, node.key, node.pod_uid) for node in first.nodes] == [("n1", KEY, "uid-a")]
    assert first.deletes == []
    assert "no answer within 30 s" in (first.words or "")
    again = decide(observe(BOTH, lost, serves), first)
    assert again == first, "the label is not there yet"
    avoided = observe({"n1": "avoided", "n2": "ready"}, lost, serves)
    assert decide(avoided, first).deletes == [Delete("Pod", "default", "a", "uid-a")]
    gone = decide(observe({"n1": "avoided", "n2": "ready"}, serves), first)
    assert gone.nodes == first.nodes
    assert gone.deletes == []


def test_it_ends_by_itself() -> None:
    first = decide(observe(BOTH, pod("a", "n1", ready=False), pod("b", "n2")))
    later = NOW + timedelta(seconds=AVOID_SECONDS)
    assert decide(observe({"n1": "avoided", "n2": "ready"}, pod("b", "n2")), first, later).nodes == []


LEFT_ALONE: dict[str, tuple[dict[str, str], list[PodView]]] = {
    "nobody serves elsewhere": (BOTH, [pod("a", "n1", ready=False), pod("b", "n2", ready=False)]),
    "one serves on the same node": (BOTH, [pod("a", "n1", ready=False), pod("b", "n1")]),
    "there is no other node": ({"n1": "ready"}, [pod("a", "n1", ready=False), pod("b", "n2")]),
    "the node does not hold the weights by a label": (
        {"n2": "ready", "n3": "ready"}, [pod("a", "n1", ready=False), pod("b", "n2")],
    ),
    "it answers again": (BOTH, [pod("a", "n1"), pod("b", "n2")]),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "pods"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_no_fault_of_a_node_avoids_none(nodes: dict[str, str], pods: list[PodView]) -> None:
    assert decide(observe(nodes, *pods)) == Avoidance([], [], None)


def test_half_of_the_nodes_stay() -> None:
    nodes = {f"n{number}": "ready" for number in range(5)}
    pods = [pod(f"p{number}", f"n{number}", ready=number == 4) for number in range(5)]
    assert [node.name for node in decide(observe(nodes, *pods)).nodes] == ["n0", "n1"]


def test_the_status_the_condition_and_the_event_tell() -> None:
    plan = decide_service(SERVICE, observe(BOTH, pod("a", "n1", ready=False), pod("b", "n2")), CONFIG, NOW)
    assert plan.status is not None
    assert plan.status["avoidedNodes"][0]["until"] == timestamp(NOW + timedelta(seconds=AVOID_SECONDS))
    told = next(c for c in plan.status["conditions"] if c["type"] == "NodeAvoided")
    assert told["message"].startswith(
        "New replicas keep off 1 of 2 nodes. n1 until 2026-01-01T01:00:00Z: pod a"
    )
    assert "NodeAvoided" in [event.reason for event in plan.events]


# --- the node's own loop


def labelled(avoided: bool, **avoids: datetime | None) -> Plan:
    node = a_node(caches=frozenset("k"), avoided=frozenset("k" if avoided else ""))
    there = [Held("k", "team")]
    return decide_node(NodeObservation(node, there, avoids=avoids), CONFIG, NOW)


def test_the_label_says_so_until_it_ends() -> None:
    until = NOW + timedelta(seconds=60)
    (write,) = labelled(False, k=until).writes
    assert isinstance(write, LabelNode)
    assert write.labels == {"cache.preheat.dev/k": "avoided"}
    rest = labelled(True, k=until)
    assert rest.writes == ()
    assert rest.requeue_after == 60
    (write,) = labelled(True).writes
    assert isinstance(write, LabelNode)
    assert write.labels == {"cache.preheat.dev/k": "ready"}
    assert labelled(True, k=None).requeue_after == RESYNC_SECONDS


def test_weights_that_must_go_leave_an_avoided_node_as_any_other() -> None:
    node = a_node(caches=frozenset("k"), avoided=frozenset("k"))
    seen = NodeObservation(node, [Held("k", "team", wanted=False)], avoids={"k": None})
    labels = [write.labels for write in decide_node(seen, CONFIG, NOW).writes if isinstance(write, LabelNode)]
    assert labels == [{"cache.preheat.dev/k": "leaving"}]


def test_weights_are_brought_to_another_node_instead() -> None:
    cache = a_cache(placement={"nodes": 1}, status={})
    key = names.cache_key("default", cache.name, cache.spec.source.model_dump(), {})
    seen = CacheObservation(
        nodes=[a_node("n1", gpu_fault="XidCriticalError=True"), a_node("n2")],
        jobs=[],
        reports={},
        pods={},
        paths={},
    )
    plan = decide_cache(cache, seen, CONFIG, NOW)
    assert plan.status is not None, key
    assert [node["name"] for node in plan.status["nodes"]] == ["n2"]


# --- what nodes tell


CONDITIONS: dict[str, tuple[str, str, bool]] = {
    "GKE": ("XidCriticalError", "True", True),
    "GKE, well": ("XidCriticalError", "False", False),
    "EKS": ("AcceleratedHardwareReady", "False", True),
    "EKS, well": ("AcceleratedHardwareReady", "True", False),
    "EKS, not known": ("AcceleratedHardwareReady", "Unknown", False),
    "AKS, a GPU is missing": ("GPUMissing", "True", True),
    "AKS, NVLink": ("NVLinkStatusInactive", "True", True),
    "by hand": ("GpuUnhealthy", "True", True),
    "by hand, well": ("GpuHealthy", "True", False),
    "by hand, ill": ("GpuHealthy", "False", True),
    "another part": ("KernelDeadlock", "True", False),
    "the kubelet": ("Ready", "False", False),
    "a driver that is there": ("GPUDriverInstalled", "True", False),
}


@pytest.mark.parametrize(("kind", "status", "faulty"), CONDITIONS.values(), ids=CONDITIONS)
def test_a_faulty_gpu_is_read_from_the_nodes_conditions(kind: str, status: str, faulty: bool) -> None:
    told = [{"type": kind, "status": status, "reason": "NvidiaXID79Error"}]
    node = NodeView.from_body({"metadata": {"name": "n"}, "status": {"conditions": told}})
    assert node.gpu_fault == (f"{kind}={status} NvidiaXID79Error" if faulty else None)


def test_a_faulty_gpu_is_read_from_the_nodes_taints() -> None:
    taints = [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
        {"key": "example.com/gpu-unhealthy", "effect": "NoSchedule"},
    ]
    assert NodeView.from_body({"metadata": {"name": "n"}, "spec": {"taints": taints[:1]}}).gpu_fault is None
    assert NodeView.from_body({"metadata": {"name": "n"}, "spec": {"taints": taints}}).gpu_fault == (
        "taint example.com/gpu-unhealthy"
    )


# --- from statuses and nodes to the node's loop


def a_view(faulty: str = "", avoided: str = "") -> View:
    view = View()
    for number, name in enumerate(("n1", "n2"), start=1):
        conditions = [{"type": "Ready", "status": "True"}]
        if name in faulty:
            conditions.append({"type": "GpuUnhealthy", "status": "True"})
        metadata = {"name": name, "resourceVersion": str(number), "labels": {"cache.preheat.dev/k": "ready"}}
        view.put({"kind": "Node", "metadata": metadata, "status": {"conditions": conditions}})
    view.put(a_body(avoided))
    return view


def a_body(avoided: str) -> dict[str, Any]:
    entries = [{"name": name, "key": "k", "until": "2026-01-01T01:00:00Z"} for name in avoided.split()]
    metadata = {"name": "llama", "namespace": "default", "resourceVersion": "9"}
    return {"kind": "LLMDeployment", "metadata": metadata, "status": {"avoidedNodes": entries}}


UNTIL = datetime(2026, 1, 1, 1, tzinfo=UTC)
SEEN: dict[str, tuple[View, dict[str, dict[str, datetime | None]]]] = {
    "nothing": (a_view(), {"n1": {}, "n2": {}}),
    "a service says so": (a_view(avoided="n1"), {"n1": {"k": UNTIL}, "n2": {}}),
    "a GPU is faulty": (a_view(faulty="n1"), {"n1": {"k": None}, "n2": {}}),
    "all GPUs are faulty": (a_view(faulty="n1 n2"), {"n1": {}, "n2": {}}),
    "one is faulty, the other avoided": (a_view(faulty="n1", avoided="n2"), {"n1": {}, "n2": {}}),
}


@pytest.mark.parametrize(("view", "found"), SEEN.values(), ids=SEEN)
def test_what_holds_for_every_node_holds_for_none(view: View, found: dict[str, dict[str, Any]]) -> None:
    for name, avoids in found.items():
        assert avoided_on(view, view.derived(("Node", "", name), NodeView.from_body), NOW) == avoids


def test_what_a_service_says_ends_at_its_time() -> None:
    view = a_view(avoided="n1")
    assert avoided_on(view, view.derived(("Node", "", "n1"), NodeView.from_body), UNTIL) == {}


def test_the_nodes_loop_is_woken_when_a_service_avoids_it_and_when_no_more() -> None:
    view = a_view()
    for before, after in (("", "n1"), ("n1", ""), ("n1", "n1 n2")):
        woken = concerned(a_body(before), a_body(after), view)
        moved = set(before.split()) ^ set(after.split())
        assert {key[2] for key in woken if key[0] == "Node"} == moved
    assert concerned(a_body("n1"), a_body("n1"), view) == [("LLMDeployment", "default", "llama")]


def test_who_tells_of_an_avoided_node_is_woken_with_its_label() -> None:
    view = a_view()
    cache = {"name": "weights", "namespace": "default", "resourceVersion": "8"}
    view.put({"kind": "ModelCache", "metadata": cache, "status": {"key": "k"}})
    metadata = {"name": "user", "namespace": "default", "resourceVersion": "10"}
    ready = [{"type": "Ready", "status": "True"}]
    uses = {"cache": {"name": "weights"}, "conditions": ready}
    view.put({"kind": "LLMDeployment", "metadata": metadata, "status": uses})

    def a_node_with(value: str) -> dict[str, Any]:
        return {"kind": "Node", "metadata": {"name": "n1", "labels": {"cache.preheat.dev/k": value}}}

    user = ("LLMDeployment", "default", "user")
    assert user in concerned(a_node_with("ready"), a_node_with("avoided"), view)
    assert user in concerned(a_node_with("avoided"), a_node_with("ready"), view)
    assert user not in concerned(a_node_with("warming"), a_node_with("ready"), view)
