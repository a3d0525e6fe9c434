"""``kubectl preheat plan``: what would happen, before it happens. The very decision that the operator makes."""

from collections.abc import Callable, Mapping
from typing import Any

from preheat.api.template import AGENT, ENGINE, OWN_VOLUMES
from preheat.decide.plan import Admit, Adopt, Apply, Delete, LabelNode, Plan, PricePod, Write

_TOLD = {"Ready", "Accepted", "PreflightPassed", "FellBack", "Routed"}


def lines(plan: Plan, unchanged: int = 0) -> list[str]:
    """Return a plan's writes and its verdict as people read them. ``unchanged``: how many more are so already."""
    result = [_line(write) for write in plan.writes]
    if unchanged:
        result.append(f"  {unchanged} objects stay as they are")
    told = [c for c in (plan.status or {}).get("conditions", ()) if c["type"] in _TOLD]
    return result + [f"  {c['type']}={c['status']} {c['reason']}: {c['message']}" for c in told]


def _line(write: Write) -> str:
    match write:
        case Admit():
            return f"  start   Job {write.namespace}/{write.name}"
        case Apply():
            spec = write.manifest.get("spec") or {}
            count = f" with {spec['replicas']} replicas" if "replicas" in spec else ""
            tell = _MORE.get(write.manifest["kind"])
            more = tell(spec) if tell is not None else ""
            return f"  apply   {write.manifest['kind']} {write.manifest['metadata']['name']}{count}{more}"
        case Adopt():
            return f"  adopt   {write.live['kind']} {write.live['metadata']['name']}"
        case Delete():
            return f"  delete  {write.kind} {write.name}"
        case PricePod():
            return f"  price   Pod {write.name} {write.cost}"
        case LabelNode():
            labels = (f"{k}-" if v is None else f"{k}={v}" for k, v in write.labels.items())
            return f"  label   Node {write.node} {' '.join(labels)}"


def _pod(spec: Mapping[str, Any]) -> str:
    """Return what is in a pod when there is more than engine and agent: the template's containers and volumes."""
    pod = spec["template"]["spec"]
    parts = {
        "containers": [c["name"] for c in pod["containers"] if c["name"] != ENGINE],
        "init containers": [c["name"] for c in pod["initContainers"] if c["name"] != AGENT],
        "volumes": [v["name"] for v in pod["volumes"] if v["name"] not in OWN_VOLUMES],
    }
    told = "; ".join(f"{kind} {', '.join(names)}" for kind, names in parts.items() if names)
    return f", of the template: {told}" if told else ""


def _weights(spec: Mapping[str, Any]) -> str:
    """Return what a route gives to whom."""
    backends = spec["rules"][0]["backendRefs"]
    return " with " + ", ".join(f"{backend['weight']} % to Service {backend['name']}" for backend in backends)


_MORE: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"Deployment": _pod, "HTTPRoute": _weights}
"""What is worth saying of a child, by kind."""
