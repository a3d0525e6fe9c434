"""``kubectl preheat status``: one LLMDeployment on one screen. Pure: objects in, lines out."""

from collections.abc import Sequence

from preheat.api.conditions import Condition, ConditionStatus, ConditionType
from preheat.api.llmdeployment import LLMDeployment, RolloutStatus
from preheat.api.modelcache import ModelCache, NodeCacheState
from preheat.cli.bar import bar
from preheat.decide.text import size

_MARKS = {ConditionStatus.TRUE: "✔", ConditionStatus.FALSE: "✘", ConditionStatus.UNKNOWN: "?"}
_SHOWN = (
    ConditionType.ACCEPTED,
    ConditionType.PREFLIGHT_PASSED,
    ConditionType.WEIGHTS_READY,
    ConditionType.AVAILABLE,
    ConditionType.ROUTED,
    ConditionType.READY,
)


def is_ready(service: LLMDeployment) -> bool:
    """Tell whether the status speaks of this generation and says Ready."""
    ready = condition(service.status.conditions, ConditionType.READY)
    return (
        ready is not None
        and ready.status is ConditionStatus.TRUE
        and ready.observed_generation == service.generation
    )


def condition(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """Return a condition, None when it is not there yet."""
    return next((c for c in conditions if c.type == kind), None)


def screen(service: LLMDeployment, cache: ModelCache | None) -> list[str]:
    """Return the lines that show where a service stands."""
    status = service.status
    lines = [
        f"{service.namespace}/{service.name}   {service.spec.model.uri}",
        f"  revision {status.revision or '-'}   serving {status.serving_revision or '-'}"
        f"   GPU {status.gpu_type or '-'}   replicas {status.replica_summary or '-'}",
    ]
    for kind in _SHOWN:
        found = condition(status.conditions, kind)
        if found is not None:
            lines.append(f"  {_MARKS[found.status]} {kind:<15} {found.reason}: {found.message}")
    if status.scaling is not None:
        told = status.scaling
        lines.append(f"  scaling {told.mode}: {told.wanted_replicas} wanted   {told.reason}: {told.message}")
    lines += [
        f"  GPU {told.type:<18} {told.ready_replicas} of {told.replicas} answer"
        + (f"   {told.message}" if told.message else "")
        for told in status.gpu_types or []
    ]
    lines += _rollout(status.rollout)
    if status.traffic:
        shares = ", ".join(f"{one.weight} % to {one.revision}" for one in status.traffic)
        lines.append(f"  gateway {shares}")
    lines += _weights(cache)
    loading = status.loading
    ready = condition(status.conditions, ConditionType.READY)
    if loading is not None and ready is not None:
        left = f"  {loading.eta} left" if loading.eta else ""
        lines.append(
            f"  {ready.reason:<15} {bar(loading.percent)} {loading.percent:>3}%"
            f"  {size(loading.bytes_done)} of {size(loading.bytes_total)}{left}"
        )
    if is_ready(service) and status.url:
        lines.append(f"  {status.url}/v2/models/{service.name}/generate")
    return lines


def _rollout(told: RolloutStatus | None) -> list[str]:
    if told is None:
        return []
    wanted = max(1, told.updated_replicas, told.updated_replicas + told.old_replicas)
    percent = 100 * told.ready_updated_replicas // wanted
    step = f"   step {told.step_number} of {told.step_count}" if told.step_count > 1 else ""
    ends = f"   ends about {told.eta_time}" if told.eta_time else ""
    return [
        f"  rollout {told.from_revision} -> {told.to_revision}   {told.chosen or told.strategy}: {told.reason}",
        f"  {told.step:<15} {bar(percent)} {percent:>3}%  new {told.ready_updated_replicas} of {told.updated_replicas} answer, "
        f"old {told.old_replicas}{step}{ends}",
        f"  {'':<15} {told.message}",
    ]


def _weights(cache: ModelCache | None) -> list[str]:
    if cache is None:
        return []
    speed = f"  {cache.status.speed}" if cache.status.speed else ""
    left = f"  {cache.status.eta} left" if cache.status.eta else ""
    return [
        f"  weights {node.name:<15} {bar(node.percent)} {node.percent:>3}%  {node.state}"
        + ("" if node.state is NodeCacheState.READY else speed + left)
        + (f"  {node.message}" if node.message else "")
        for node in cache.status.nodes
    ]
