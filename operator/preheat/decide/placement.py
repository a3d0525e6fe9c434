"""Which nodes can take what: by GPU type, labels and taints."""

from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter

from preheat.api.gpu import GPU_MODELS, GPU_TAINTS, LABEL_ACCELERATOR, LABEL_PRODUCT, GPUType
from preheat.api.modelcache import PlacementSpec, Toleration
from preheat.decide.observed import NodeView, Taint

HARMLESS_EFFECT = "PreferNoSchedule"
NAMED = 5
"""So many labels that name no type are told."""
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


def types_there(nodes: Iterable[NodeView]) -> str:
    """Say which GPU types nodes have, and what their labels say that is none: who reads it looks for the difference."""
    labels = ((node.labels.get(LABEL_PRODUCT) or node.labels.get(LABEL_ACCELERATOR), node) for node in nodes)
    types = {label: gpu_type_of(node) for label, node in labels if label}
    known = ", ".join(sorted({gpu_type for gpu_type in types.values() if gpu_type is not None}))
    strange = sorted(label for label, gpu_type in types.items() if gpu_type is None)
    if not types:
        return f"none, as no node has the label {LABEL_PRODUCT} or {LABEL_ACCELERATOR}"
    if not strange:
        return known
    more = ", ..." if len(strange) > NAMED else ""
    return f"{known or 'none that is known'}; labels that name no type: {', '.join(strange[:NAMED])}{more}"


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
