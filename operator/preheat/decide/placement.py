"""Which nodes can take what: by GPU type, labels and taints."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter

from preheat.api.gpu import GPU_MODELS, GPU_TAINTS, LABEL_ACCELERATOR, LABEL_PRODUCT, GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import PlacementSpec, Toleration
from preheat.decide.observed import NodeView, Taint

HARMLESS_EFFECT = "PreferNoSchedule"
_OF_EVERY_CACHE = tuple(Toleration(key=key, operator="Exists") for key in GPU_TAINTS)


def gpu_type_of(node: NodeView) -> GPUType | None:
    """Return the GPU type that a node's labels name, None for none that we know."""
    return _type_of(node.labels.get(LABEL_PRODUCT), node.labels.get(LABEL_ACCELERATOR))


@lru_cache(maxsize=1024)
def _type_of(product: str | None, accelerator: str | None) -> GPUType | None:
    for gpu_type, model in GPU_MODELS.items():
        if product in model.products or accelerator in model.accelerators:
            return gpu_type
    return None


def is_tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """Tell whether a taint does not keep a pod away (Kubernetes' own matching rules)."""
    if taint.effect == HARMLESS_EFFECT:
        return True
    return any(
        (not toleration.key or toleration.key == taint.key)
        and (toleration.operator == "Exists" or toleration.value == taint.value)
        and (not toleration.effect or toleration.effect == taint.effect)
        for toleration in tolerations
    )


def matching_nodes(placement: PlacementSpec, nodes: Iterable[NodeView]) -> list[NodeView]:
    """Return the nodes on which a cache may lie, by name."""
    types, selector = frozenset(placement.gpu_types), placement.node_selector.items()
    found = [
        node
        for node in nodes
        if node.ready
        and node.schedulable
        and (not types or gpu_type_of(node) in types)
        and (not selector or selector <= node.labels.items())
        and not (node.taints and untolerated(placement, node))
    ]
    return sorted(found, key=attrgetter("name"))


def untolerated(placement: PlacementSpec, node: NodeView) -> list[Taint]:
    """Return the taints that keep a cache off a node."""
    tolerations = [*_OF_EVERY_CACHE, *placement.tolerations]
    return [taint for taint in node.taints if not is_tolerated(taint, tolerations)]


def split_over_types(
    service: LLMDeployment, replicas: int, nodes: Sequence[NodeView]
) -> Mapping[GPUType, int]:
    """Return how many replicas each GPU type gets: the first type as far as its nodes reach, then the next.

    What no type has room for stays with the first: its pods wait there, and say why. A type's room is
    what its nodes can offer in all, whoever uses it: who gets a GPU is the scheduler's business.
    """
    gpu = service.spec.hardware.gpu
    shares = dict.fromkeys(gpu.types, 0)
    left = replicas
    for gpu_type in gpu.types:
        room = sum(
            node.allocatable.get(gpu.resource_name, 0) // gpu.count
            for node in nodes
            if gpu_type_of(node) is gpu_type and node.ready and node.schedulable
        )
        shares[gpu_type] = min(left, room)
        left -= shares[gpu_type]
    shares[gpu.types[0]] += left
    return shares
