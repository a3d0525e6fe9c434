"""On which nodes pods still mount weights that were found wrong and put aside. Pure.

A pod's mount is the folder that it was when the pod started: it moves to the quarantine with the weights, and what is
fetched in its place is another folder. So every pod that was there before runs on the wrong bytes until it is
replaced, whatever its node holds by then. The status of the cache remembers it; ``renewal.py`` replaces the pods.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.modelcache import QuarantinedNode
from preheat.decide.observed import PodView, parse_time
from preheat.decide.plan import timestamp

LOOK_SECONDS = 30.0
"""How often it is looked whether the last of those pods is gone."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A pod that mounts a cache's weights."""

    node: str
    created: datetime


def still_quarantined(
    before: Sequence[QuarantinedNode],
    found: Mapping[str, datetime],
    labelled: Collection[str],
    mounts: Sequence[Mount],
) -> list[QuarantinedNode]:
    """Return the nodes with pods on weights that were put aside.

    ``found``: node -> when its keeper found the weights there wrong, unless they were fetched anew since.
    ``labelled``: nodes to which pods can still be sent: what comes there now counts as well.

    Times are the cluster's: by an operator's clock that is ahead, pods that come later would count too, and be
    replaced again and again.
    """
    times = {node.name: node.time for node in before}
    for node, since in found.items():
        known = parse_time(times.get(node))
        if known is None or known < since or node in labelled:
            times[node] = timestamp(max([since, *(mount.created for mount in mounts if mount.node == node)]))
    return [
        QuarantinedNode(name=node, time=time)
        for node, time in sorted(times.items())
        if any(mount.node == node and _is_older(mount.created, time) for mount in mounts)
    ]


def runs_on_quarantined(pod: PodView, nodes: Sequence[QuarantinedNode]) -> bool:
    """Tell whether a pod of a cache was on its node when the weights there were put aside."""
    return pod.created is not None and any(
        node.name == pod.node and _is_older(pod.created, node.time) for node in nodes
    )


def _is_older(created: datetime, time: str) -> bool:
    known = parse_time(time)
    return known is not None and created <= known
