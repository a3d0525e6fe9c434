"""Whether a new revision can run at all, before anything of it is touched. Pure and level-triggered: nothing is noted.

It says no only to what can never work with the nodes that there are, whatever is in use and whichever of them are cordoned or
away at the moment:

    no node has the GPU types, the labels and no other taints       it would wait for ever
    every such node offers fewer GPUs than one replica needs        as above
    the weights are larger than the GPUs that a replica gets        it would load, and run out of memory

What is not known is no reason: a node that offers no GPU yet, a GPU whose memory no label tells, weights of which nobody knows
the size. Images, Secrets and weights show when they are asked for, before a replica that serves makes room for the new ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from preheat.api.conditions import Reason
from preheat.api.gpu import LABEL_MEMORY
from preheat.api.llmdeployment import Backend, LLMDeployment, Precision, PreflightPolicy
from preheat.api.modelcache import ModelCache
from preheat.decide.capacity import fitting_nodes, matching, replica_placement
from preheat.decide.judgement.judge import serving_ids
from preheat.decide.observed import NodeView
from preheat.decide.placement import gpu_type_of, types_there, untolerated
from preheat.decide.target import Target, as_it_was, has_taken_over, way_back
from preheat.decide.text import size
from preheat.decide.wish import ServiceObservation
from preheat.resources import caching
from preheat.resources.engines.per_type import on_type
from preheat.resources.serving import Revision

ENGINE_BYTES = 1 << 30
"""What an engine takes of each GPU's memory besides weights, at the very least: its CUDA context and its buffers."""
SHRINK = 2
"""By so much weights can be smaller on the GPU than their files: FP32 that is loaded with 16 bits, or files that are there twice."""
NAMED = 5
"""So many labels and taints are named where no node fits."""
_PASSING_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Beginnings of the keys of taints that Kubernetes itself sets and takes back."""
_SHRINKING_OPTIONS = ("quant", "offload", "4bit", "8bit", "load_format")
"""Parts of the names of options with which less than the files' size may lie on the GPU."""


def with_preflight(
    service: LLMDeployment, seen: ServiceObservation, stored: Sequence[Revision], target: Target
) -> Target:
    """Return the target with what is known before it goes out: held back where it cannot run and another revision can.

    It is asked of the spec's revision alone, until a replica of it has a GPU, and of none that has taken over: nodes that are
    gone with its last replica may come back, and the revision before it is not started again for that. Raises InvalidSpec as
    the placement does.
    """
    types = {gpu_type.value for gpu_type in service.spec.hardware.gpu.types}
    placed = any(
        pod.scheduled and not pod.deleting and pod.revision == target.id and pod.gpu_type in types
        for pod in seen.pods
    )
    if (
        target.going_back
        or target.failure is not None
        or target.reason is Reason.ROLLBACK_REQUESTED
        or placed
        or has_taken_over(stored, target.id)
    ):
        return target
    problem = obstacle(service, seen.nodes, seen.caches)
    if problem is None:
        return replace(target, preflight="")
    if service.spec.rollout.preflight is PreflightPolicy.REPORT:
        words = f"{problem} It is tried all the same: `rollout.preflight` is Report."
        return replace(target, preflight=words)
    back = way_back(stored, target.id, serving_ids(seen))
    if back is None or not _can_serve(service, seen, stored, back):
        words = f"{problem} It is tried all the same: no revision before it can serve."
        return replace(target, preflight=words)
    words = (
        f"Revision {target.id}: {problem} Nothing of it is started, and revision {back.number} ({back.id}) goes on serving, "
        "until this changes or the spec does. Where nodes are added only when a pod waits: `rollout.preflight: Report`."
    )
    return Target(back.id, words, going_back=True, reason=Reason.PREFLIGHT_FAILED, held=True, preflight=words)


def _can_serve(
    service: LLMDeployment, seen: ServiceObservation, stored: Sequence[Revision], back: Revision
) -> bool:
    if back.id in serving_ids(seen):
        return True
    before = as_it_was(service, stored, Target(back.id, going_back=True))
    return obstacle(before, seen.nodes, ()) is None


def obstacle(service: LLMDeployment, nodes: Sequence[NodeView], caches: Iterable[ModelCache]) -> str | None:
    """Return why no node could ever take a replica, None when one could or when that is not known."""
    gpu = service.spec.hardware.gpu
    best = [_at_its_best(node) for node in nodes]
    fitting = fitting_nodes(service, best)
    if not fitting:
        return f"{_no_node(service, best)}."
    offers = [node.allocatable.get(gpu.resource_name, 0) for node in fitting]
    unknown = any(offer == 0 for offer in offers)
    if max(offers) < gpu.count and not unknown:
        return (
            f"one replica needs {gpu.count} {gpu.resource_name} on one node, and the largest of "
            f"{matching(len(offers))} offers {max(offers)}."
        )
    large = [node for node, offer in zip(fitting, offers, strict=True) if offer >= gpu.count or offer == 0]
    return _too_little_memory(service, large, caches)


def _at_its_best(node: NodeView) -> NodeView:
    """Return a node as it is when it is neither away nor cordoned."""
    taints = tuple(taint for taint in node.taints if not taint.key.startswith(_PASSING_TAINTS))
    if node.ready and node.schedulable and len(taints) == len(node.taints):
        return node
    return replace(node, ready=True, schedulable=True, taints=taints)


def _no_node(service: LLMDeployment, nodes: Sequence[NodeView]) -> str:
    types = service.spec.hardware.gpu.types
    of_type = [node for node in nodes if gpu_type_of(node) in types]
    if not of_type:
        return f"none of {len(nodes)} nodes has {' or '.join(types)}; there are: {types_there(nodes)}"
    placement = replica_placement(service)
    labels = sorted(f"{key}={value}" for key, value in placement.node_selector.items())
    taints = sorted({taint.key for node in of_type for taint in untolerated(placement, node)})
    return (
        f"{len(of_type)} of {len(nodes)} nodes have {' or '.join(types)}, and none of them the labels that are asked for "
        f"({_some(labels)}) and no taint that is not tolerated ({_some(taints)})"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}" if names else "none"


def _too_little_memory(
    service: LLMDeployment, nodes: Sequence[NodeView], caches: Iterable[ModelCache]
) -> str | None:
    files = _size(service, caches)
    if files is None:
        return None
    count = service.spec.hardware.gpu.count
    needed = files // SHRINK // count + ENGINE_BYTES
    best = 0
    for node in nodes:
        memory, gpu_type = _memory(node), gpu_type_of(node)
        if memory is None or gpu_type is None or _may_shrink(on_type(service, gpu_type)) or memory >= needed:
            return None
        best = max(best, memory)
    return (
        f"the weights take {size(files)} as files, so at the very least half of that on GPUs, {size(files // SHRINK)}: on "
        f"{count} {'GPU' if count == 1 else 'GPUs'} that is {size(needed - ENGINE_BYTES)} each, and {size(ENGINE_BYTES)} for "
        f"the engine, {size(needed)} in all; the largest GPU of {matching(len(nodes))} has {size(best)} "
        f"(label {LABEL_MEMORY})."
    )


def _memory(node: NodeView) -> int | None:
    """Return the memory of one GPU of a node in bytes, None where no label tells."""
    told = node.labels.get(LABEL_MEMORY, "")
    return int(told) << 20 if told.isascii() and told.isdigit() and int(told) > 0 else None


def _size(service: LLMDeployment, caches: Iterable[ModelCache]) -> int | None:
    """Return how many bytes the weights take as files, None while nobody knows."""
    known = [c.status.total_bytes for c in caches if c.status.total_bytes and caching.same_source(c, service)]
    if known:
        return min(known)
    listed = [file.size_bytes for file in service.spec.model.files]
    return sum(n for n in listed if n is not None) if listed and None not in listed else None


def _may_shrink(service: LLMDeployment) -> bool:
    """Tell whether the GPU may hold less than half of the files: some of it elsewhere, or with fewer bits."""
    runtime = service.spec.runtime
    if runtime.backend not in {Backend.VLLM, Backend.TENSORRT_LLM}:
        return True  # what else is loaded where is up to the model, or to the processor
    fewer_bits = service.spec.model.precision in {Precision.FP8, Precision.INT8, Precision.INT4}
    return fewer_bits or any(part in name for name in runtime.options for part in _SHRINKING_OPTIONS)
