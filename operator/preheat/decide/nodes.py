"""Node: which caches it holds complete, as labels. One loop per node writes them all at once.

A node is labelled when the warmer of an existing cache has ended well on it, and the label goes with the
cache. Fifty caches that become complete in one second are one write.
"""

from collections.abc import Collection
from dataclasses import dataclass

from preheat.api.constants import NODE_LABEL_READY
from preheat.decide.observed import NodeView
from preheat.decide.plan import RESYNC_SECONDS, LabelNode, Plan, Write
from preheat.resources.caching import node_label


@dataclass(frozen=True, slots=True)
class NodeObservation:
    """Everything that a pass over one node looks at."""

    node: NodeView
    complete: Collection[str]
    """Keys of the caches whose warmer has ended well here."""
    keys: Collection[str]
    """Keys of all caches that exist."""


def decide_node(seen: NodeObservation) -> Plan:
    """Return the one write that makes a node's labels true."""
    wanted = {key for key in seen.complete if key in seen.keys and key not in seen.node.caches}
    gone = {key for key in seen.node.caches if key not in seen.keys}
    labels: dict[str, str | None] = {
        **{node_label(key): NODE_LABEL_READY for key in sorted(wanted)},
        **{node_label(key): None for key in sorted(gone)},
    }
    writes: tuple[Write, ...] = (LabelNode(seen.node.name, labels),) if labels else ()
    return Plan(writes, None, (), RESYNC_SECONDS)
