"""From what a pass has observed to what the planner is given: numbers by revision and GPU type, room by node. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import CacheMode, NodeCacheState
from preheat.decide.ahead import Ahead
from preheat.decide.capacity import SHORT_AFTER_SECONDS, fitting_nodes
from preheat.decide.observed import DeploymentView, NodeView, PodView, dead_nodes
from preheat.decide.placement import gpu_type_of
from preheat.decide.rollout.room import Held, NodeRoom, room
from preheat.decide.rollout.state import Child, Goal, Limits, Method, Observed, Pause, Room
from preheat.decide.wish import ServiceObservation, Wish, ready_nodes, runs, the_cache
from preheat.resources.caching import cache_key
from preheat.resources.serving import Revision


@dataclass(frozen=True, slots=True)
class Question:
    """What ``next_step`` is asked, and which nodes its answer depends on."""

    observed: Observed
    goal: Goal
    rooms: dict[str, Room]
    limits: Limits
    nodes: Mapping[str, Sequence[NodeRoom]]
    """The nodes that the target may run on, by GPU type."""
    nodes_first: tuple[str, ...]
    """The nodes that should have the weights before others: those where the next new replicas can come up."""
    look_again_seconds: float | None
    """When the scheduler will have said for long enough that a GPU is not to be had."""


def gather(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    stored: Sequence[Revision],
    now: datetime,
    ahead: Ahead,
) -> Question:
    """Return what the planner is asked. ``ahead``: what is known of the images of the wanted revision's pods."""
    resource = service.spec.hardware.gpu.resource_name
    sizes = {revision.id: revision.gpus(resource) for revision in (*stored, *wish.revisions)}
    gpus = sizes.get(wish.id) or service.spec.hardware.gpu.count
    shares = {gpu_type.value: share for gpu_type, share in wish.shares.items() if share > 0}
    goal = Goal(wish.id, shares, gpus, wish.going_back)
    children = tuple(_child(view, seen, sizes, now) for view in (*seen.deployments, *_missing(seen, wish)))
    # At rest nobody asks where there is room: a thousand services need not look at a thousand nodes.
    moves = any(
        child.revision != wish.id and (child.asked or child.live or child.leaving) for child in children
    )
    nodes = _nodes(service, seen, wish, sizes, ahead) if moves else {}
    fresh = _waits_for(seen, wish, now)
    rooms = {
        gpu_type: room(there, gpus, doubted=fresh.get(gpu_type, 0.0) >= SHORT_AFTER_SECONDS)
        for gpu_type in shares
        if (there := nodes.get(gpu_type)) is not None
    }
    waits = [
        SHORT_AFTER_SECONDS - age
        for gpu_type, age in fresh.items()
        if age < SHORT_AFTER_SECONDS and gpu_type in rooms and rooms[gpu_type].fits
    ]
    missing = _images_missing([node for gpu_type in shares for node in nodes.get(gpu_type, ())])
    observed = Observed(children, 0 if missing else ready_nodes(wish, seen), missing)
    doubted = {gpu_type for gpu_type, there in rooms.items() if there.doubted}
    first = _nodes_first(goal, nodes, [pod for pod in seen.pods if pod.revision == wish.id], doubted)
    return Question(observed, goal, rooms, _limits(service, wish), nodes, first, min(waits, default=None))


def _images_missing(nodes: Sequence[NodeRoom]) -> bool:
    """Tell whether nodes hold the weights, and none of them the images."""
    warm = [node for node in nodes if node.warm]
    return bool(warm) and not any(node.pulled for node in warm)


def _limits(service: LLMDeployment, wish: Wish) -> Limits:
    asked, told = service.spec.rollout, service.status.rollout
    same = told is not None and told.to_revision == wish.id and told.strategy is asked.strategy
    chosen = told.chosen if told is not None and same else None
    return Limits(
        strategy=asked.strategy,
        pauses=tuple(Pause(step.percent, step.pause_seconds, step.weight) for step in asked.steps),
        paused=asked.paused,
        chosen=Method(chosen) if chosen in set(Method) else None,
        routed=asked.gateway is not None,
    )


def _missing(seen: ServiceObservation, wish: Wish) -> list[DeploymentView]:
    """Return the Deployments of the wanted revision that somebody deleted without their pods: those still answer."""
    known = {(view.revision, view.gpu_type) for view in seen.deployments}
    types = {pod.gpu_type for pod in seen.pods if pod.revision == wish.id} - {
        t for r, t in known if r == wish.id
    }
    return [DeploymentView("", wish.id, gpu_type, 0, None) for gpu_type in sorted(types)]


def _child(view: DeploymentView, seen: ServiceObservation, sizes: dict[str, int], now: datetime) -> Child:
    mine = [pod for pod in seen.pods if runs(view, pod)]
    live = [pod for pod in mine if not pod.deleting]
    # On a node that is gone a pod leaves for ever, and its GPU is nobody's: it is not waited for.
    dead = dead_nodes(seen.nodes)
    return Child(
        revision=view.revision,
        gpu_type=view.gpu_type,
        asked=view.replicas,
        live=len(live),
        scheduled=sum(pod.scheduled for pod in live),
        ready=sum(pod.ready for pod in live),
        leaving=sum(pod.deleting and pod.node not in dead for pod in mine),
        blocked=sum(pod.unschedulable is not None for pod in live),
        gpus=sizes.get(view.revision, 1),
        ready_seconds=tuple(
            max(0.0, (now - pod.ready_at).total_seconds()) for pod in live if pod.ready and pod.ready_at
        ),
    )


def _waits_for(seen: ServiceObservation, wish: Wish, now: datetime) -> dict[str, float]:
    """Return for how long new pods have found no place, by GPU type: since they are there and the weights are."""
    warmed = max(seen.warmed.values(), default=None)
    found: dict[str, float] = {}
    for pod in seen.pods:
        if pod.revision == wish.id and not pod.deleting and pod.unschedulable is not None and pod.created:
            since = max(pod.created, warmed) if warmed else pod.created
            age = (now - since).total_seconds()
            if pod.placeless_seconds is not None:  # the clock may have jumped
                age = min(age, pod.placeless_seconds)
            found[pod.gpu_type] = max(age, found.get(pod.gpu_type, 0.0))
    return found


def _nodes(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, sizes: dict[str, int], ahead: Ahead
) -> dict[str, list[NodeRoom]]:
    """Return the room on each node that the new revision may run on, by GPU type."""
    resource, cache = service.spec.hardware.gpu.resource_name, the_cache(wish, seen)
    key = cache_key(cache) if cache else ""
    everywhere = service.spec.cache.mode is CacheMode.SHARED and ready_nodes(wish, seen) > 0
    told = cache.status.nodes if cache else []
    coming = {node.name for node in told if node.state is not NodeCacheState.FAILED}
    used: dict[str, int] = {}
    for use in seen.uses:
        used[use.node] = used.get(use.node, 0) + use.count
    found: dict[str, list[NodeRoom]] = {}
    for node in fitting_nodes(service, seen.nodes):
        gpu_type = gpu_type_of(node)
        if gpu_type is None:
            continue
        is_warm = everywhere or (key in node.caches and key not in node.avoided)
        free = node.allocatable.get(resource, 0) - used.get(node.name, 0)
        held = [
            Held(pod.name, pod.revision, sizes.get(pod.revision, 1), pod.ready)
            for pod in seen.pods
            if _holds(pod, node, wish) and pod.gpu_type == gpu_type
        ]
        found.setdefault(gpu_type.value, []).append(
            NodeRoom(
                node.name,
                free,
                is_warm,
                not is_warm and node.name in coming,
                held,
                pulled=not ahead.waits_on(node.name),
            )
        )
    return found


def _holds(pod: PodView, node: NodeView, wish: Wish) -> bool:
    return pod.node == node.name and pod.revision != wish.id and not pod.deleting and pod.scheduled


def _nodes_first(
    goal: Goal, nodes: dict[str, list[NodeRoom]], mine: Sequence[PodView], doubted: Collection[str]
) -> tuple[str, ...]:
    """Return where the weights should lie: where new replicas are, where GPUs are free, and else where old ones are.

    ``doubted``: GPU types of which the scheduler says that what is free by the numbers is not to be had.
    """
    first = {pod.node for pod in mine if pod.node and not pod.deleting}
    for gpu_type, share in goal.shares.items():
        left = share - sum(pod.gpu_type == gpu_type and pod.scheduled and not pod.deleting for pod in mine)
        there = nodes.get(gpu_type, [])
        ranked = sorted(there, key=lambda node: (not node.warm, not node.coming, -node.free_gpus, node.name))
        for node in ranked:
            fits = max(0, node.free_gpus) // goal.gpus
            if left > 0 and fits > 0:
                first.add(node.name)
                left -= fits
        if left > 0 or gpu_type in doubted:
            first |= {node.name for node in there if node.held}
    return tuple(sorted(first))
