"""Which nodes new replicas keep off: where healing came to its end while others serve elsewhere. Pure.

A replica that was healed to the end of its ladder and does not answer, while replicas of the very same revision answer on
other nodes, has a fault that is its node's: a GPU, a driver, a disk. Then, in order, each step seen in the cluster before
the next is taken:

    1. the status says that the node is avoided, for which weights and until when
    2. the node's own loop gives its label for these weights the value `avoided` (decide/nodes.py): the scheduler places no
       pod of them there, and whoever runs there goes on
    3. the pod is deleted, once: its uid is in the status. Its replacement finds another node, or waits for one

After AVOID_SECONDS the label is `ready` again. At least half of the nodes on which a replica may run are never avoided for
this, and a fault of all replicas avoids none: nobody serves elsewhere.

A node that tells of a faulty GPU itself is avoided for as long as it does, by its own loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from preheat.api.llmdeployment import AvoidedNodeStatus, LLMDeployment
from preheat.decide.capacity import fitting_nodes
from preheat.decide.observed import AgentState, NodeView, PodView, parse_time
from preheat.decide.plan import Delete, timestamp
from preheat.decide.wish import ServiceObservation, stored_revisions

AVOID_SECONDS = 3600
"""For so long no new replica is placed on a node. If it fails there again, once more."""


MOST = 64
"""So many fit into the status."""


@dataclass(frozen=True, slots=True)
class Avoidance:
    """What is to be kept off which nodes. ``words``: what there is to say of it, None when nothing is avoided."""

    nodes: list[AvoidedNodeStatus]
    deletes: list[Delete]
    words: str | None


def decide_avoidance(service: LLMDeployment, seen: ServiceObservation, now: datetime) -> Avoidance:
    """Return which nodes are avoided, which pods are deleted for it, and what is said."""
    keys = _keys(service, seen)
    there = {node.name: node for node in seen.nodes}
    nodes = [entry for entry in service.status.avoided_nodes or () if _holds(entry, there, now)]
    fitting = {node.name for node in fitting_nodes(service, seen.nodes)}
    live = [pod for pod in seen.pods if not pod.deleting]
    for pod in sorted(live, key=lambda pod: pod.name):
        node, key = there.get(pod.node or ""), keys.get(pod.revision)
        if node is None or key is None or key not in node.caches or not _is_lost(pod, live):
            continue
        named = {entry.name for entry in nodes}
        if any(entry.pod_uid == pod.uid for entry in nodes) or 2 * len(named | {node.name}) > len(fitting):
            continue
        nodes.append(_entry(pod, node.name, key, now))
    left = {entry.pod_uid for entry in nodes if entry.key in there[entry.name].avoided}
    deletes = [
        Delete("Pod", service.namespace, pod.name, pod.uid)
        for pod in live
        if pod.uid in left and _is_lost(pod, live)
    ]
    return Avoidance(nodes[-MOST:], deletes, _words(nodes, seen.nodes, set(keys.values())))


def _keys(service: LLMDeployment, seen: ServiceObservation) -> dict[str, str]:
    """Return the key of the weights of each revision, as node labels have it."""
    return {r.id: key for r in stored_revisions(service, seen) if (key := r.key) is not None}


def _holds(entry: AvoidedNodeStatus, there: dict[str, NodeView], now: datetime) -> bool:
    until = parse_time(entry.until)
    return entry.name in there and until is not None and now < until


def _is_lost(pod: PodView, live: Sequence[PodView]) -> bool:
    """Tell whether healing a pod came to its end, while others of its revision answer on other nodes."""
    report = pod.report
    if (
        pod.ready
        or report is None
        or report.state is not AgentState.FAILED
        or report.reason != "CanaryFailed"
    ):
        return False
    return any(other.ready and other.revision == pod.revision and other.node != pod.node for other in live)


def _entry(pod: PodView, node: str, key: str, now: datetime) -> AvoidedNodeStatus:
    said = pod.report.message if pod.report is not None else ""
    words = (
        f"pod {pod.name} was healed to the end there and does not answer, while others do elsewhere: {said}"
    )
    until = timestamp(now + timedelta(seconds=AVOID_SECONDS))
    return AvoidedNodeStatus(name=node, key=key, pod_uid=pod.uid, until=until, message=words[:512])


def _words(nodes: Sequence[AvoidedNodeStatus], there: Sequence[NodeView], keys: set[str]) -> str | None:
    told = [f"{entry.name} until {entry.until}: {entry.message}" for entry in nodes]
    named = {entry.name for entry in nodes}
    told += [
        f"{node.name} as long as the node says so: {node.gpu_fault}"
        for node in there
        if node.gpu_fault is not None and node.name not in named and keys & node.avoided
    ]
    return f"New replicas keep off {len(told)} of {len(there)} nodes. {'. '.join(told)}" if told else None
