"""GPUs in numbers: what one replica needs, what the nodes offer, and who holds it as far as we know. Pure."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from preheat.api.constants import LABEL_DEPLOYMENT
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import PlacementSpec, Toleration
from preheat.api.quantity import parse_bytes, parse_count
from preheat.decide.observed import Body, NodeView, PodView
from preheat.decide.placement import matching_nodes
from preheat.resources.caching import wanted_placement

SHORT_AFTER_SECONDS = 60.0
"""A replica that waits longer for a GPU shows that there is none."""
SHORT_FOR_SECONDS = 600.0
"""For so long that is believed."""
HOLDERS = 5
"""So many holders are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class GPUUse:
    """GPUs that the replicas of one LLMDeployment hold on one node."""

    node: str
    holder: str
    count: int


def gpus_held(pod: Body) -> dict[str, GPUUse]:
    """Return what a model pod that has a node and has not ended holds there, by resource."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    service = (metadata.get("labels") or {}).get(LABEL_DEPLOYMENT)
    ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    if service is None or ended or not spec.get("nodeName"):
        return {}
    counts: dict[str, int] = {}
    for container in spec.get("containers") or ():
        for resource, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            count = parse_count(amount)
            if "/" in resource and count is not None:
                counts[resource] = counts.get(resource, 0) + count
    holder = f"{metadata['namespace']}/{service}"
    return {resource: GPUUse(spec["nodeName"], holder, count) for resource, count in counts.items() if count}


def memory_held(pod: Body) -> tuple[str, int]:
    """Return the node of a pod that has one and has not ended, else none, and how much memory its containers ask for there."""
    spec, ended = pod.get("spec") or {}, (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    amount = 0
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.get("memory")
        with suppress(ValueError):  # what is no whole number of bytes is next to nothing
            amount += parse_bytes(str(asked or 0))
    return ("" if ended else spec.get("nodeName") or ""), amount


def fitting_nodes(service: LLMDeployment, nodes: Sequence[NodeView]) -> list[NodeView]:
    """Return the nodes that a replica may run on: by GPU type, labels and taints, whatever is in use."""
    return matching_nodes(replica_placement(service), nodes)


def replica_placement(service: LLMDeployment) -> PlacementSpec:
    """Return where a replica may run: where its weights may lie, and on nodes that are tainted for its GPU."""
    gpus = Toleration(key=service.spec.hardware.gpu.resource_name, operator="Exists")
    asked = wanted_placement(service)
    return asked.model_copy(update={"tolerations": [gpus, *asked.tolerations]})


@dataclass(frozen=True, slots=True)
class Shortage:
    """That a GPU was not to be had: for how many replicas there was one, of how many by the numbers, and when."""

    placed: int
    total: int
    at: datetime


def room(
    service: LLMDeployment, nodes: Sequence[NodeView], uses: Sequence[GPUUse], pods: Sequence[PodView]
) -> int | None:
    """Return the most replicas that GPUs which our own replicas do not hold allow, those that are there included.

    None without a matching node: then nobody knows.
    """
    gpu, mine = service.spec.hardware.gpu, f"{service.namespace}/{service.name}"
    fitting = fitting_nodes(service, nodes)
    if not fitting:
        return None
    held: dict[str, int] = {}
    for use in uses:
        if use.holder != mine:
            held[use.node] = held.get(use.node, 0) + use.count
    free = (node.allocatable.get(gpu.resource_name, 0) - held.get(node.name, 0) for node in fitting)
    return max(_placed(pods), sum(max(0, count) // gpu.count for count in free))


def shortage(
    service: LLMDeployment,
    pods: Sequence[PodView],
    total: int,
    before: Shortage | None,
    now: datetime,
    *,
    weights_there: bool,
) -> Shortage | None:
    """Return that GPUs are short, whatever the numbers say: pods that are not ours are not watched.

    It shows by a replica for which the scheduler finds no GPU though the weights are on all nodes that should have them.
    It holds for a while after that replica is given up: what cannot be had is not asked for again and again. More nodes, or
    one more replica that has a node, end it.
    """
    gpu, placed = service.spec.hardware.gpu, _placed(pods)
    waits = (
        pod
        for pod in pods
        if gpu.resource_name in (pod.unschedulable or "")
        and not pod.deleting
        and pod.created is not None
        and (now - pod.created).total_seconds() >= _short_after_seconds(service, pod)
    )
    if weights_there and next(waits, None) is not None:
        return Shortage(placed, total, now)
    ended = before is not None and (
        (now - before.at).total_seconds() >= SHORT_FOR_SECONDS
        or total > before.total
        or placed > before.placed
    )
    return None if ended else before


def _short_after_seconds(service: LLMDeployment, pod: PodView) -> float:
    """Return how long a replica waits before GPUs are short: on a type that is not the last, until the next has taken it."""
    gpu = service.spec.hardware.gpu
    return SHORT_AFTER_SECONDS + (0 if pod.gpu_type == gpu.types[-1] else gpu.patience_seconds)


def _placed(pods: Sequence[PodView]) -> int:
    return sum(pod.scheduled and not pod.deleting for pod in pods)


def too_large(service: LLMDeployment, nodes: Sequence[NodeView]) -> str | None:
    """Say that no node can ever hold a replica, None when one can or when there is no node to speak of."""
    gpu = service.spec.hardware.gpu
    offers = [node.allocatable.get(gpu.resource_name, 0) for node in fitting_nodes(service, nodes)]
    if not offers or max(offers) >= gpu.count:
        return None
    if max(offers) == 0:
        who = "1 matching node offers" if len(offers) == 1 else f"{matching(len(offers))} offer"
        return (
            f"{who} no {gpu.resource_name} at all: a device plugin that is not up there, or another "
            "`hardware.gpu.resourceName` than theirs."
        )
    return (
        f"One replica needs {gpu.count} {gpu.resource_name} on one node; the largest of {matching(len(offers))} "
        f"offers {max(offers)}. Lower `hardware.gpu.count`, or add a larger node."
    )


def in_numbers(service: LLMDeployment, nodes: Sequence[NodeView], uses: Sequence[GPUUse]) -> str:
    """Return what is needed, what is there and who holds it."""
    gpu = service.spec.hardware.gpu
    fitting = fitting_nodes(service, nodes)
    offered = sum(node.allocatable.get(gpu.resource_name, 0) for node in fitting)
    there = {node.name for node in fitting}
    held: dict[str, int] = {}
    for use in uses:
        if use.node in there:
            held[use.holder] = held.get(use.holder, 0) + use.count
    ranked = sorted(held, key=lambda holder: (-held[holder], holder))
    words = [f"{holder} holds {held[holder]}" for holder in ranked[:HOLDERS]]
    if len(ranked) > HOLDERS:
        words.append(f"{len(ranked) - HOLDERS} others {sum(held[h] for h in ranked[HOLDERS:])}")
    rest = max(0, offered - sum(held.values()))  # a GPU that failed is held, and offered no more
    words.append(f"{rest} {'is' if rest == 1 else 'are'} free or held by pods that are not Preheat's")
    return (
        f"One replica needs {gpu.count} {gpu.resource_name} on one node; {matching(len(fitting))} {'offers' if len(fitting) == 1 else 'offer'} "
        f"{offered}: {', '.join(words)}."
    )


def matching(count: int) -> str:
    """Say how many nodes match."""
    return "1 matching node" if count == 1 else f"{count} matching nodes"
