"""Which nodes can take what: GPU type, labels, taints, and how replicas are split over GPU types."""

from typing import Any

import pytest
from preheat.api.gpu import GPU_MODELS, GPU_TAINTS, GPUType
from preheat.api.modelcache import PlacementSpec, Toleration
from preheat.decide.fallback import split_over_types
from preheat.decide.observed import NodeView, Taint
from preheat.decide.placement import gpu_type_of, is_tolerated, matching_nodes, types_there
from preheat.resources.caching import make_cache, tolerations
from preheat.resources.pod import tolerations as pod_tolerations

from tests.builders import a_cache, a_node, a_service

TEAM = Taint("team", "search", "NoSchedule")
TOLERATIONS: dict[str, tuple[dict[str, str], Taint, bool]] = {
    "the same key and value": ({"key": "team", "value": "search"}, TEAM, True),
    "another value": ({"key": "team", "value": "ads"}, TEAM, False),
    "another key": ({"key": "owner", "value": "search"}, TEAM, False),
    "Exists asks for no value": ({"key": "team", "operator": "Exists"}, TEAM, True),
    "Exists without a key means every key": ({"operator": "Exists"}, TEAM, True),
    "the same effect": ({"key": "team", "operator": "Exists", "effect": "NoSchedule"}, TEAM, True),
    "another effect": ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, TEAM, False),
    "an empty value is a value": ({"key": "team"}, Taint("team", "", "NoSchedule"), True),
}


@pytest.mark.parametrize("case", TOLERATIONS)
def test_a_toleration_means_what_it_means_to_kubernetes(case: str) -> None:
    toleration, taint, want = TOLERATIONS[case]
    assert is_tolerated(taint, [Toleration.model_validate(toleration)]) is want


def test_nothing_tolerated_is_nothing_tolerated_but_a_preference_keeps_nobody_away() -> None:
    assert not is_tolerated(TEAM, [])
    assert not is_tolerated(Taint("team", "", "NoExecute"), [])
    assert is_tolerated(Taint("team", "search", "PreferNoSchedule"), [])


@pytest.mark.parametrize("gpu_type", GPUType)
def test_every_gpu_type_is_known_by_every_label_it_goes_by(gpu_type: GPUType) -> None:
    model = GPU_MODELS[gpu_type]
    assert model.products
    for product in model.products:
        assert gpu_type_of(a_node(product=product)) is gpu_type
    for accelerator in model.accelerators:
        node = a_node(product="?", labels={"cloud.google.com/gke-accelerator": accelerator})
        assert gpu_type_of(node) is gpu_type


def test_a_node_without_a_label_we_know_has_no_gpu_type() -> None:
    assert gpu_type_of(a_node(product="Voodoo-2")) is None
    bare = NodeView("cpu", {}, (), True, True, {}, frozenset())
    assert gpu_type_of(bare) is None


NODES = [
    a_node("z-l4"),
    a_node("a-l4", labels={"zone": "eu"}),
    a_node("t4", "Tesla-T4"),
    a_node("cpu", "none"),
    a_node("down", ready=False),
    a_node("cordoned", schedulable=False),
    a_node("gpu-tainted", taints=(Taint("nvidia.com/gpu", "present", "NoSchedule"),)),
    a_node("team", taints=(TEAM,)),
]
PLACEMENTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing asked: every node that may be used": ({}, ["a-l4", "cpu", "gpu-tainted", "t4", "z-l4"]),
    "a GPU type": ({"gpuTypes": ["nvidia-t4"]}, ["t4"]),
    "a label": ({"nodeSelector": {"zone": "eu"}}, ["a-l4"]),
    "both": ({"gpuTypes": ["nvidia-t4"], "nodeSelector": {"zone": "eu"}}, []),
    "a toleration": (
        {"gpuTypes": ["nvidia-l4"], "tolerations": [{"key": "team", "operator": "Exists"}]},
        ["a-l4", "gpu-tainted", "team", "z-l4"],
    ),
}


@pytest.mark.parametrize("case", PLACEMENTS)
def test_nodes_match_by_everything_that_is_asked_and_are_told_by_name(case: str) -> None:
    placement, want = PLACEMENTS[case]
    found = matching_nodes(PlacementSpec.model_validate(placement), reversed(NODES))
    assert [node.name for node in found] == want


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared"])
def test_a_replica_goes_where_its_weights_go(resource: str) -> None:
    """Split and shared GPUs are other resources on nodes with the same taint."""
    service = a_service(hardware={"gpu": {"resourceName": resource}})
    found = [Toleration.model_validate(toleration) for toleration in pod_tolerations(service)]
    assert is_tolerated(Taint("nvidia.com/gpu", "present", "NoSchedule"), found)
    assert is_tolerated(Taint(resource, "present", "NoSchedule"), found)
    assert len(found) == (1 if resource == "nvidia.com/gpu" else 2)


@pytest.mark.parametrize("key", GPU_TAINTS)
def test_the_taint_of_a_gpu_node_keeps_no_weights_off(key: str) -> None:
    """Whatever its value and effect, on a node that joins later, and before its device plugin offers anything."""
    for value, effect in (("present", "NoSchedule"), ("true", "NoExecute"), ("", "NoSchedule")):
        node = NodeView("late", {}, (Taint(key, value, effect),), True, True, {}, frozenset())
        assert matching_nodes(PlacementSpec(), [node]) == [node]
    warmer = {"key": key, "operator": "Exists"}
    assert warmer in tolerations(a_cache()), "what matches is what the warmer's pod tolerates"


def test_other_taints_keep_weights_off_until_somebody_says_otherwise() -> None:
    for key in (
        "node.kubernetes.io/unschedulable",
        "ToBeDeletedByClusterAutoscaler",
        "nvidia.com/mig",
        "team",
    ):
        assert matching_nodes(PlacementSpec(), [a_node(taints=(Taint(key, "", "NoSchedule"),))]) == []


def test_a_node_that_comes_back_matches_again() -> None:
    """Kubernetes taints it while it is away and takes that back: nothing of it is remembered."""
    away = a_node(taints=(Taint("node.kubernetes.io/unreachable", "", "NoExecute"),), ready=False)
    assert matching_nodes(PlacementSpec(), [away]) == []
    assert matching_nodes(PlacementSpec(), [a_node()]) == [a_node()]


def test_a_services_cache_tolerates_the_taint_of_its_own_resource() -> None:
    service = a_service(hardware={"gpu": {"resourceName": "example.com/npu"}})
    placement = make_cache(service, "cache", 1)["spec"]["placement"]
    tainted = a_node(taints=(Taint("example.com/npu", "present", "NoSchedule"),))
    assert matching_nodes(PlacementSpec.model_validate(placement), [tainted]) == [tainted]


L4, T4 = GPUType.NVIDIA_L4, GPUType.NVIDIA_T4
SPLITS: dict[str, tuple[int, int, list[NodeView], dict[GPUType, int]]] = {
    "all on the first type": (2, 1, [a_node(gpus=4), a_node("t", "Tesla-T4", gpus=4)], {L4: 2, T4: 0}),
    "the rest on the next": (5, 1, [a_node(gpus=4), a_node("t", "Tesla-T4", gpus=4)], {L4: 4, T4: 1}),
    "no room anywhere: they wait with the first": (
        9, 1, [a_node(gpus=4), a_node("t", "Tesla-T4", gpus=4)], {L4: 5, T4: 4},
    ),
    "no node at all": (2, 1, [], {L4: 2, T4: 0}),
    "a replica's GPUs lie on one node": (
        2, 2, [a_node("a", gpus=3), a_node("b", gpus=1), a_node("t", "Tesla-T4")], {L4: 1, T4: 1},
    ),
    "a node that is down offers nothing": (1, 1, [a_node(ready=False), a_node("t", "Tesla-T4")], {L4: 0, T4: 1}),
    "none asked": (0, 1, [a_node()], {L4: 0, T4: 0}),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLITS)
def test_replicas_go_to_the_preferred_type_as_far_as_its_nodes_reach(case: str) -> None:
    replicas, count, nodes, want = SPLITS[case]
    service = a_service(hardware={"gpu": {"types": ["nvidia-l4", "nvidia-t4"], "count": count}})
    shares = split_over_types(service, replicas, nodes).shares
    assert shares == want
    assert sum(shares.values()) == replicas


GKE = "cloud.google.com/gke-accelerator"
THERE: dict[str, tuple[list[NodeView], str]] = {
    "types that are known, once": ([a_node("a"), a_node("b"), a_node("c", "NVIDIA-A10G")], "nvidia-a10g, nvidia-l4"),
    "by the other label": ([a_node(product="", labels={GKE: "nvidia-l4"})], "nvidia-l4"),
    "labels that name none": (
        [a_node(), a_node(product="NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"), a_node(product="NVIDIA-L4-SHARED")],
        "nvidia-l4; labels that name no type: NVIDIA-A100-SXM4-40GB-MIG-1g.5gb, NVIDIA-L4-SHARED",
    ),
    "nothing but such": ([a_node(product="NVIDIA-GeForce-RTX-4090")], "none that is known; labels that name no type: NVIDIA-GeForce-RTX-4090"),
    "many of them": (
        [a_node(product=f"GPU-{n}") for n in range(7)],
        "none that is known; labels that name no type: GPU-0, GPU-1, GPU-2, GPU-3, GPU-4, ...",
    ),
    "no label at all": (
        [a_node(product="")],
        "none, as no node has the label nvidia.com/gpu.product or cloud.google.com/gke-accelerator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", THERE)
def test_what_nodes_say_of_their_gpus_is_told_also_where_it_names_no_type(case: str) -> None:
    nodes, want = THERE[case]
    assert types_there(nodes) == want
