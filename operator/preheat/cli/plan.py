"""``kubectl preheat plan``: what would happen, before it happens. The very decision that the operator makes."""

from preheat.decide.plan import Apply, Delete, LabelNode, Plan


def lines(plan: Plan) -> list[str]:
    """Return a plan's writes and its verdict as people read them."""
    result = [_line(write) for write in plan.writes]
    told = [c for c in (plan.status or {}).get("conditions", ()) if c["type"] in {"Ready", "Accepted"}]
    return result + [f"  {c['type']}={c['status']} {c['reason']}: {c['message']}" for c in told]


def _line(write: Apply | Delete | LabelNode) -> str:
    match write:
        case Apply():
            spec = write.manifest.get("spec") or {}
            count = f" with {spec['replicas']} replicas" if "replicas" in spec else ""
            return f"  apply   {write.manifest['kind']} {write.manifest['metadata']['name']}{count}"
        case Delete():
            return f"  delete  {write.kind} {write.name}"
        case LabelNode():
            return f"  label   Node {write.node} {write.key}={write.value}"
