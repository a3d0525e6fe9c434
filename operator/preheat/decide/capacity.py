"""GPUs in numbers: what one replica needs, what the nodes offer, and who holds it as far as we know. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import Toleration
from preheat.decide.observed import NodeView
from preheat.decide.placement import matching_nodes
from preheat.resources.caching import wanted_placement

HOLDERS = 5
"""So many holders are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class GPUUse:
    """GPUs that the replicas of one LLMDeployment hold on one node."""

    node: str
    holder: str
    count: int


def fitting_nodes(service: LLMDeployment, nodes: Sequence[NodeView]) -> list[NodeView]:
    """Return the nodes that a replica may run on: by GPU type, labels and taints, whatever is in use."""
    gpus = Toleration(key=service.spec.hardware.gpu.resource_name, operator="Exists")
    asked = wanted_placement(service)
    return matching_nodes(asked.model_copy(update={"tolerations": [gpus, *asked.tolerations]}), nodes)


def too_large(service: LLMDeployment, nodes: Sequence[NodeView]) -> str | None:
    """Say that no node can ever hold a replica, None when one can or when there is no node to speak of."""
    gpu = service.spec.hardware.gpu
    offers = [node.allocatable.get(gpu.resource_name, 0) for node in fitting_nodes(service, nodes)]
    if not offers or max(offers) >= gpu.count:
        return None
    return (
        f"One replica needs {gpu.count} {gpu.resource_name} on one node; the largest of {_nodes(len(offers))} "
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
    rest = offered - sum(held.values())
    words.append(f"{rest} {'is' if rest == 1 else 'are'} free or held by pods that are not Preheat's")
    return (
        f"One replica needs {gpu.count} {gpu.resource_name} on one node; {_nodes(len(fitting))} {'offers' if len(fitting) == 1 else 'offer'} "
        f"{offered}: {', '.join(words)}."
    )


def _nodes(count: int) -> str:
    return "1 matching node" if count == 1 else f"{count} matching nodes"
