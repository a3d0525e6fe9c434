"""``kubectl preheat why``: why there are as many replicas as there are. Pure: an object in, lines out."""

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import LLMDeployment, ScalingMode, ScalingStatus
from preheat.decide.text import duration


def lines(service: LLMDeployment) -> list[str]:
    """Return the last decision with its numbers and what it rejected, the changes before it, and what loads take."""
    spec, status = service.spec.scaling, service.status
    first = (
        f"{service.namespace}/{service.name}   mode {spec.mode}   replicas {status.replica_summary or '-'}"
    )
    if spec.mode is ScalingMode.EXTERNAL:
        return [first, *_external(service), *_types(service), *_loads(service)]
    if status.scaling is None:
        return [first, "  Nothing was decided yet: the operator has not looked at it in this mode."]
    return [
        first,
        *_decided(status.scaling),
        *_signals(service),
        *_changes(status.scaling),
        *_types(service),
        *_loads(service),
    ]


def _external(service: LLMDeployment) -> list[str]:
    scaling, asked = service.spec.scaling, service.spec.replicas
    wanted = max(scaling.min_replicas, min(scaling.max_replicas, asked))
    bounds = f"within {scaling.min_replicas} and {scaling.max_replicas}"
    return [
        f"  {wanted} wanted: spec.replicas is {asked}, held {bounds}. Who wrote it: "
        f"kubectl get llmd {service.name} -n {service.namespace} -o yaml --show-managed-fields"
    ]


def _decided(scaling: ScalingStatus) -> list[str]:
    result = [f"  {scaling.wanted_replicas} wanted   {scaling.reason}: {scaling.message}"]
    if scaling.rejected_replicas is not None:
        result.append(f"  not {scaling.rejected_replicas}   {scaling.rejected_message or ''}")
    if scaling.learnt:
        result.append(f"  learnt   {scaling.learnt}")
    if scaling.inputs:
        width = max(map(len, scaling.inputs))
        result.append("  decided from")
        result += [f"    {name:<{width}}  {value}" for name, value in sorted(scaling.inputs.items())]
    return result


def _signals(service: LLMDeployment) -> list[str]:
    """Return where what is asked is known from, where that is not the agents."""
    return [
        f"  {condition.reason}: {condition.message}"
        for condition in service.status.conditions
        if condition.type == ConditionType.SCALING_ACTIVE and condition.reason != Reason.DECIDING
    ]


def _changes(scaling: ScalingStatus) -> list[str]:
    if not scaling.decisions:
        return []
    rows = [
        f"    {change.time}  {change.previous_replicas:>3} -> {change.replicas:<3}  {change.reason}: {change.message}"
        for change in scaling.decisions
    ]
    return ["  last changes", *rows]


def _types(service: LLMDeployment) -> list[str]:
    return [
        f"  {told.replicas} on {told.type}" + (f"   {told.message}" if told.message else "")
        for told in service.status.gpu_types or []
    ]


def _loads(service: LLMDeployment) -> list[str]:
    known = service.status.load_times
    if known is None:
        return ["  no load was observed yet: what one takes is assumed from the model's size"]
    rows = [
        f"    {kind.revision} on {kind.gpu_type}, {kind.tier}: {duration(kind.p50_seconds)} (90 %: "
        f"{duration(kind.p90_seconds)}), {kind.count} observed"
        for kind in known.kinds
    ]
    return ["  a load takes", *rows]
