"""What a rollout would do from here on: the very planner, asked again and again on a cluster on paper. Pure.

On paper every new replica answers one load after it has a GPU, every old one ends its requests within the time that it is
given, and nobody else takes or gives back a GPU. Weights that are not on their nodes yet come all at once, and so do images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from preheat.api.llmdeployment import LLMDeployment, StorageTier
from preheat.decide.loads import expected
from preheat.decide.rollout.gather import Question
from preheat.decide.rollout.planner import next_step
from preheat.decide.rollout.room import Held, NodeRoom, room
from preheat.decide.rollout.state import Child, ChildKey, Method, Observed, Room, Step

MOST_STEPS = 5000
"""No rollout that ends takes more: 1000 replicas and 16 steps."""


@dataclass(frozen=True, slots=True)
class Times:
    """What things take, in seconds."""

    load: float
    weights: float
    drain: float
    image: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A change of the numbers of replicas, so many seconds from now."""

    at_seconds: float
    old: int
    new: int
    serving: int
    """Replicas that answer once it is made."""
    step: Step


@dataclass(frozen=True, slots=True)
class Preview:
    """A rollout on paper."""

    chosen: Method | None
    why: str
    moments: tuple[Moment, ...]
    ends: bool
    """Whether it comes to its end; if not, the last message says what it waits for."""
    seconds: float
    message: str
    least_serving: int
    gap_seconds: float
    """For how long nothing answers."""
    short_seconds: float
    """For how long fewer answer than are wanted."""


@dataclass(slots=True)
class _Pod:
    key: ChildKey
    gpus: int
    node: str | None = None
    ready_at: float = math.inf
    gone_at: float = math.inf


@dataclass(slots=True)
class _Paper:
    """The cluster on paper. It is changed as time goes on; nothing outside sees it."""

    question: Question
    times: Times
    now: float = 0.0
    asked: dict[ChildKey, int] = field(default_factory=dict)
    pods: list[_Pod] = field(default_factory=list)
    free: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, tuple[NodeRoom, str]] = field(default_factory=dict)
    chosen: Method | None = None

    def warm(self, node: NodeRoom) -> bool:
        comes = node.coming or node.name in self.question.nodes_first
        return node.warm or (comes and self.now >= self.times.weights)

    def pulled(self, node: NodeRoom) -> bool:
        return node.pulled or self.now >= self.times.image

    def serving(self) -> int:
        return sum(pod.ready_at <= self.now and pod.gone_at == math.inf for pod in self.pods)


def times_of(service: LLMDeployment, question: Question, size: int | None) -> tuple[Times, int]:
    """Return what things are expected to take, and how many loads that was learnt from; 0: it is assumed.

    ``size``: of the weights in bytes, where that is known.
    """
    known, revision = service.status.load_times, question.goal.revision
    gpu_type = next(iter(question.goal.shares), "")
    load = expected(known, revision, gpu_type, StorageTier.ON_DISK, size)
    cold = expected(known, revision, gpu_type, StorageTier.COLD, size)
    drain = float(service.spec.runtime.drain_seconds)
    times = Times(load.phases.after_scheduling, cold.phases.weights, drain, cold.phases.image)
    return times, load.observations


def preview(question: Question, times: Times) -> Preview | None:
    """Return what happens from here on, None when nothing is under way."""
    paper = _begin(question, times)
    step = _step(paper)
    if step is None:
        return None
    first, moments, paper.chosen = step, list[Moment](), step.chosen
    least, gap, short = paper.serving(), 0.0, 0.0
    share = step.share
    for _ in range(MOST_STEPS):
        changed = _carry_out(paper, step.replicas if step is not None else _wanted(paper))
        if step is not None and (changed or (question.limits.routed and step.share != share)):
            moments.append(_moment(paper, step))
        share = step.share if step is not None else share
        serving = paper.serving()
        least = min(least, serving)
        if not changed:
            until = (
                math.inf if step is None and serving >= question.goal.replicas else _next_time(paper, step)
            )
            if math.isinf(until):
                break
            gap += (until - paper.now) * (serving == 0)
            short += (until - paper.now) * (serving < question.goal.replicas)
            paper.now = until
            _tick(paper)
        step = _step(paper)
        if step is not None and step.chosen is not None and step.chosen is not paper.chosen:
            paper.chosen, first = step.chosen, step
    ends = step is None and paper.serving() >= question.goal.replicas
    message = "" if step is None else step.message
    return Preview(first.chosen, first.why, tuple(moments), ends, paper.now, message, least, gap, short)


def _wanted(paper: _Paper) -> Mapping[ChildKey, int]:
    goal = paper.question.goal
    return {(goal.revision, gpu_type): share for gpu_type, share in goal.shares.items()}


def _begin(question: Question, times: Times) -> _Paper:
    paper = _Paper(question, times, chosen=question.limits.chosen)
    for gpu_type, nodes in question.nodes.items():
        for node in nodes:
            paper.nodes[node.name] = (node, gpu_type)
            paper.free[node.name] = node.free_gpus
            for held in node.held:
                ready_at = -math.inf if held.ready else math.inf
                paper.pods.append(_Pod((held.revision, gpu_type), held.gpus, node.name, ready_at))
    for child in question.observed.children:
        paper.asked[child.key] = child.asked
        there = sum(pod.key == child.key for pod in paper.pods)
        # Those that are on nodes where the new revision cannot run, or have none.
        for place in range(child.live - there):
            placed = place < child.scheduled - there
            ready_at = -math.inf if place < child.ready - there else times.load if placed else math.inf
            paper.pods.append(_Pod(child.key, child.gpus, "elsewhere" if placed else None, ready_at))
    _schedule(paper)
    return paper


def _step(paper: _Paper) -> Step | None:
    question = paper.question
    warm = [node for node, _ in paper.nodes.values() if paper.warm(node)]
    missing = bool(warm) and not any(map(paper.pulled, warm))
    children = tuple(_child(paper, child) for child in _children(paper))
    observed = Observed(children, 0 if missing else len(warm), missing)
    limits = replace(question.limits, chosen=paper.chosen, paused=False)
    return next_step(observed, question.goal, _rooms(paper), limits)


def _children(paper: _Paper) -> list[Child]:
    sizes = {child.revision: child.gpus for child in paper.question.observed.children}
    goal = paper.question.goal
    return [
        Child(
            revision, gpu_type, count, gpus=goal.gpus if revision == goal.revision else sizes.get(revision, 1)
        )
        for (revision, gpu_type), count in paper.asked.items()
    ]


def _child(paper: _Paper, child: Child) -> Child:
    mine = [pod for pod in paper.pods if pod.key == child.key]
    live = [pod for pod in mine if pod.gone_at == math.inf]
    ready = [pod for pod in live if pod.ready_at <= paper.now]
    return replace(
        child,
        live=len(live),
        scheduled=sum(pod.node is not None for pod in live),
        ready=len(ready),
        leaving=len(mine) - len(live),
        blocked=sum(pod.node is None for pod in live),
        ready_seconds=tuple(min(paper.now - pod.ready_at, 1e9) for pod in ready),
    )


def _rooms(paper: _Paper) -> dict[str, Room]:
    goal = paper.question.goal
    by_type: dict[str, list[NodeRoom]] = {}
    for node, gpu_type in paper.nodes.values():
        held = [
            Held(f"{number}", pod.key[0], pod.gpus, pod.ready_at <= paper.now)
            for number, pod in enumerate(paper.pods)
            if pod.node == node.name and pod.key[0] != goal.revision and pod.gone_at == math.inf
        ]
        warm = paper.warm(node)
        comes = not warm and (node.coming or node.name in paper.question.nodes_first)
        by_type.setdefault(gpu_type, []).append(
            NodeRoom(node.name, paper.free[node.name], warm, comes, held, pulled=paper.pulled(node))
        )
    return {
        gpu_type: room(nodes, goal.gpus, doubted=_doubted(paper.question.rooms, gpu_type))
        for gpu_type, nodes in by_type.items()
        if gpu_type in goal.shares
    }


def _doubted(rooms: Mapping[str, Room], gpu_type: str) -> bool:
    return gpu_type in rooms and rooms[gpu_type].doubted


def _carry_out(paper: _Paper, replicas: Mapping[ChildKey, int]) -> bool:
    """Give each Deployment so many replicas; tell whether that changed anything."""
    changed = any(paper.asked.get(key, 0) != count for key, count in replicas.items())
    useful = [int(name) for found in _rooms(paper).values() for name in found.useful]
    order = {id(paper.pods[number]): place for place, number in enumerate(useful)}
    for key, count in replicas.items():
        paper.asked[key] = count
        live = [pod for pod in paper.pods if pod.key == key and pod.gone_at == math.inf]
        live.sort(
            key=lambda pod: (pod.node is not None, pod.ready_at <= paper.now, order.get(id(pod), len(order)))
        )
        for pod in live[: max(0, len(live) - count)]:
            pod.gone_at = paper.now + (paper.times.drain if pod.ready_at <= paper.now else 0.0)
        goal = paper.question.goal
        if key[0] == goal.revision:
            paper.pods += [_Pod(key, goal.gpus) for _ in range(count - len(live))]
    _tick(paper)
    return changed


def _tick(paper: _Paper) -> None:
    for pod in [pod for pod in paper.pods if pod.gone_at <= paper.now]:
        paper.pods.remove(pod)
        if pod.node in paper.free:
            paper.free[pod.node] += pod.gpus
    _schedule(paper)


def _schedule(paper: _Paper) -> None:
    for pod in paper.pods:
        if pod.node is not None or pod.key[0] != paper.question.goal.revision:
            continue
        for name, (node, gpu_type) in paper.nodes.items():
            if gpu_type == pod.key[1] and paper.warm(node) and paper.free[name] >= pod.gpus:
                pod.node, pod.ready_at = name, paper.now + paper.times.load
                paper.free[name] -= pod.gpus
                break


def _next_time(paper: _Paper, step: Step | None) -> float:
    """Return when there is more to do, infinity when never."""
    times = [pod.ready_at for pod in paper.pods if pod.node is not None]
    times += [pod.gone_at for pod in paper.pods]
    if any(not paper.warm(node) for node, _ in paper.nodes.values()):
        times.append(paper.times.weights)
    if not all(paper.pulled(node) for node, _ in paper.nodes.values()):
        times.append(paper.times.image)
    if step is not None and step.look_again_seconds is not None:
        times.append(paper.now + step.look_again_seconds)
    later = [time for time in times if time > paper.now and not math.isinf(time)]
    return min(later, default=math.inf)


def _moment(paper: _Paper, step: Step) -> Moment:
    new = sum(n for (revision, _), n in step.replicas.items() if revision == paper.question.goal.revision)
    old = sum(step.replicas.values()) - new
    return Moment(paper.now, old, new, paper.serving(), step)
