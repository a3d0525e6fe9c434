"""What no owner can delete for us: volumes and node labels are cluster-scoped, so we take them away.

Level-triggered: what is there is compared with what should be. It works however long the operator was down.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from preheat.api.constants import LABEL_CACHE_NAMESPACE
from preheat.decide.observed import Body, NodeView
from preheat.decide.plan import RESYNC_SECONDS, Delete, LabelNode, Plan, Write
from preheat.resources.caching import node_label
from preheat.resources.names import volume_name

ROLES = ("make", "warm", "serve")


@dataclass(frozen=True, slots=True)
class OrphanObservation:
    """All volumes and nodes that carry our marks, and the keys of all caches that exist."""

    keys: frozenset[str]
    volumes: Iterable[Body]
    nodes: Iterable[NodeView]


def decide_orphans(seen: OrphanObservation) -> Plan:
    """Return the deletions that bring the cluster-scoped leftovers back to what the caches ask for.

    A volume whose claim was deleted and made again stays Released for ever; deleting it lets the next
    pass over its cache make it anew. The weights on the disk are not touched by that.
    """
    expected = {volume_name(key, role) for key in seen.keys for role in ROLES}
    writes: list[Write] = []
    for volume in seen.volumes:
        metadata = volume["metadata"]
        released = (volume.get("status") or {}).get("phase") in {"Released", "Failed"}
        is_ours = LABEL_CACHE_NAMESPACE in (metadata.get("labels") or {})
        gone = "deletionTimestamp" in metadata
        if is_ours and not gone and (released or metadata["name"] not in expected):
            writes.append(Delete("PersistentVolume", "", metadata["name"], metadata.get("uid", "")))
    for node in seen.nodes:
        writes.extend(LabelNode(node.name, node_label(key), None) for key in sorted(node.caches - seen.keys))
    return Plan(tuple(writes), None, (), RESYNC_SECONDS)
