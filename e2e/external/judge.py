"""What is right and what is not, in objects as they are read: who wrote a number, and what an autoscaler complains of. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from e2e import campaign

Body = Mapping[str, Any]

READS = frozenset({"get", "list", "watch"})
REFUSED = frozenset({"FailedGetScale", "FailedUpdateScale", "SelectorRequired", "InvalidSelector"})
"""Events of a HorizontalPodAutoscaler that can do nothing with what it is to scale."""


@dataclass(frozen=True, slots=True)
class Outcome(campaign.Outcome):
    """What came of a case."""

    steps: tuple[tuple[str, float], ...] = ()
    """What was waited for, with how long it took, in seconds."""
    writers: tuple[str, ...] = ()
    """Who has the field spec.replicas at the end."""


def writers(body: Body) -> set[str]:
    """Return who has the field spec.replicas: the manager, and after a slash the subresource that it was written through.

    >>> entry = {"manager": "keda", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    >>> writers({"metadata": {"managedFields": [entry]}})
    {'keda/scale'}
    """
    return {
        "/".join(filter(None, (entry["manager"], entry.get("subresource"))))
        for entry in body["metadata"].get("managedFields") or ()
        if "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    }


def condition(body: Body, kind: str) -> Body:
    """Return a condition, empty while there is none of that type."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), {})


def complaints(autoscaler: Body) -> list[str]:
    """Return what a HorizontalPodAutoscaler says that keeps it from scaling. That it sleeps at zero is none."""
    bad = [
        condition(autoscaler, kind)
        for kind in ("AbleToScale", "ScalingActive")
        if condition(autoscaler, kind).get("status") == "False"
    ]
    return [f"{c['type']}: {c['reason']}: {c['message']}" for c in bad if c["reason"] != "ScalingDisabled"]


def refusals(events: Iterable[Body]) -> list[str]:
    """Return what a HorizontalPodAutoscaler's Events say of a target that cannot be scaled."""
    return sorted({f"{e['reason']}: {e['message']}" for e in events if e["reason"] in REFUSED})


def unlike(scale: Body, pods: Sequence[Body]) -> list[str]:
    """Return where the scale subresource is not what the pods are. Of ``pods``: all of the namespace that are not going."""
    wanted = _labels(scale["status"].get("selector", ""))
    mine = [pod["metadata"]["name"] for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
    engines = [p["metadata"]["name"] for p in pods if _is_engine(p, scale["metadata"]["name"])]
    found = []
    if not wanted or sorted(mine) != sorted(engines):
        found.append(
            f"status.selector {scale['status'].get('selector')!r} finds {sorted(mine)}, replicas are {sorted(engines)}"
        )
    if scale["status"].get("replicas", 0) != len(engines):
        found.append(f"status.replicas is {scale['status'].get('replicas', 0)}, pods are {len(engines)}")
    return found


def _is_engine(pod: Body, name: str) -> bool:
    labels = pod["metadata"].get("labels") or {}
    mine = labels.get("preheat.dev/llmdeployment") == name
    return mine and labels.get("preheat.dev/component") == "engine"


def _labels(selector: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in selector.split(",") if part)


def spec_writes(entries: Iterable[Body]) -> list[str]:
    """Return what an audit log tells of writes to LLMDeployments that are not their status."""
    found = {
        f"{entry['verb']} {entry['objectRef']['resource']}/{entry['objectRef'].get('subresource', '')}".rstrip(
            "/"
        )
        for entry in entries
        if entry.get("objectRef", {}).get("resource") == "llmdeployments"
        and entry["verb"] not in READS
        and entry["objectRef"].get("subresource") != "status"
    }
    return sorted(found)
