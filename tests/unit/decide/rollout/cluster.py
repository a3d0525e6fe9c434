"""A small cluster for planners: nodes with GPUs and weights, Deployments that make and end pods, a scheduler, loads.

It is not the planner's own arithmetic: GPUs are held by pods on nodes, and what the planner sees is read off them.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from preheat.decide.rollout import Child, ChildKey, Goal, Limits, Observed, Room, Step, next_step
from preheat.decide.rollout.room import Held, NodeRoom, room

OLD, NEW, THIRD = "old", "new", "third"


@dataclass
class Node:
    """A node. ``strangers``: GPUs that pods hold which nobody watches."""

    name: str
    gpu_type: str
    gpus: int
    warm_at: int = 0
    """From which tick on new revisions' weights are there."""
    pulled_at: int = 0
    """From which tick on the images of their pods are there. The scheduler knows nothing of that: a pod waits."""
    strangers: int = 0


@dataclass
class Pod:
    name: str
    key: ChildKey
    gpus: int
    loads: int
    """Ticks until it is ready; never for None."""
    bad: bool = False
    node: Node | None = None
    leaving: int | None = None
    blocked: bool = False
    ready_since: int | None = None

    @property
    def ready(self) -> bool:
        return self.ready_since is not None and self.leaving is None


@dataclass
class Cluster:
    """Everything there is, and the time in ticks."""

    nodes: list[Node]
    chance: random.Random
    sizes: Mapping[str, int] = field(default_factory=dict)
    """GPUs of a replica, by revision; 1 where nothing is said."""
    bad: frozenset[str] = frozenset()
    """Revisions of which no replica ever answers."""
    slowest: int = 3
    now: int = 0
    asked: dict[ChildKey, int] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    made: int = 0
    preferred: tuple[str, ...] = ()
    """Pods that are said to be cheap to delete."""

    def serve(self, revision: str, gpu_type: str, replicas: int) -> None:
        """Begin with so many replicas that are ready."""
        self.asked[revision, gpu_type] = self.asked.get((revision, gpu_type), 0) + replicas
        self._make_pods()
        self._schedule()
        for pod in self.pods:
            if pod.node is not None and pod.ready_since is None:
                pod.ready_since = self.now

    def tick(self) -> None:
        """Let everybody but the planner do one thing."""
        self.now += 1
        self._end_pods()
        self._make_pods()
        self._schedule()
        for pod in self.pods:
            if pod.leaving is not None:
                pod.leaving -= 1
            elif pod.node is not None and pod.ready_since is None and not pod.bad and self._is_there(pod):
                pod.loads -= 1
                if pod.loads <= 0:
                    pod.ready_since = self.now
        self.pods = [pod for pod in self.pods if pod.leaving is None or pod.leaving > 0]

    def lose(self) -> None:
        """End a pod that nobody asked to end."""
        live = [pod for pod in self.pods if pod.leaving is None]
        if live:
            self.pods.remove(self.chance.choice(live))

    def serving(self) -> int:
        return sum(pod.ready for pod in self.pods)

    def ready(self, revision: str) -> int:
        return sum(pod.ready and pod.key[0] == revision for pod in self.pods)

    def used(self, node: Node) -> int:
        return sum(pod.gpus for pod in self.pods if pod.node is node)

    def is_warm(self, node: Node, revision: str) -> bool:
        return revision == OLD or self.now >= node.warm_at

    def is_pulled(self, node: Node, goal: Goal) -> bool:
        """Going back, nobody waits for images."""
        return goal.going_back or goal.revision == OLD or self.now >= node.pulled_at

    def _is_there(self, pod: Pod) -> bool:
        return pod.key[0] == OLD or pod.node is None or self.now >= pod.node.pulled_at

    # --- what the planner sees

    def observed(self, goal: Goal) -> Observed:
        used = [node for node in self.nodes if node.gpu_type in goal.shares]
        warm = [node for node in used if self.is_warm(node, goal.revision)]
        missing = bool(warm) and not any(self.is_pulled(node, goal) for node in warm)
        return Observed(tuple(self._child(key) for key in self.asked), 0 if missing else len(warm), missing)

    def _child(self, key: ChildKey) -> Child:
        mine = [pod for pod in self.pods if pod.key == key]
        live = [pod for pod in mine if pod.leaving is None]
        return Child(
            *key,
            asked=self.asked[key],
            live=len(live),
            scheduled=sum(pod.node is not None for pod in live),
            ready=sum(pod.ready for pod in live),
            leaving=len(mine) - len(live),
            blocked=sum(pod.blocked for pod in live),
            gpus=self.sizes.get(key[0], 1),
            ready_seconds=tuple(
                float(self.now - pod.ready_since) for pod in live if pod.ready_since is not None
            ),
        )

    def rooms(self, goal: Goal) -> dict[str, Room]:
        """Numbers as the operator has them: GPUs that strangers hold look free, until the scheduler is believed."""
        found = {}
        for gpu_type in goal.shares:
            nodes = [
                NodeRoom(
                    node.name,
                    node.gpus - self.used(node),
                    warm=self.is_warm(node, goal.revision),
                    coming=not self.is_warm(node, goal.revision),
                    pulled=self.is_pulled(node, goal),
                    held=[
                        Held(pod.name, pod.key[0], pod.gpus, pod.ready)
                        for pod in self.pods
                        if pod.node is node and pod.leaving is None and pod.key[0] != goal.revision
                    ],
                )
                for node in self.nodes
                if node.gpu_type == gpu_type
            ]
            doubted = any(node.strangers for node in self.nodes)
            found[gpu_type] = room(nodes, goal.gpus, doubted=doubted)
        return found

    def step(self, goal: Goal, limits: Limits) -> Step | None:
        return next_step(self.observed(goal), goal, self.rooms(goal), limits)

    def carry_out(self, step: Step, rooms: Mapping[str, Room], *, writes: int | None = None) -> None:
        """Write a step, the old Deployments first; only so many writes when the planner is killed after them."""
        self.preferred = tuple(name for found in rooms.values() for name in found.useful)
        order = sorted(step.replicas, key=lambda key: step.replicas[key] - self.asked.get(key, 0))
        for key in order[:writes]:
            self.asked[key] = step.replicas[key]

    # --- what Kubernetes does

    def _end_pods(self) -> None:
        for key, count in self.asked.items():
            live = [pod for pod in self.pods if pod.key == key and pod.leaving is None]
            live.sort(key=lambda pod: (pod.node is not None, pod.ready, self._cost(pod), pod.name))
            for pod in live[: max(0, len(live) - count)]:
                pod.blocked = False
                pod.leaving = self.chance.randint(1, 2) if pod.node is not None else 0

    def _cost(self, pod: Pod) -> int:
        return self.preferred.index(pod.name) if pod.name in self.preferred else len(self.preferred)

    def _make_pods(self) -> None:
        for key, count in self.asked.items():
            live = sum(pod.key == key and pod.leaving is None for pod in self.pods)
            for _ in range(count - live):
                self.made += 1
                loads = self.chance.randint(1, self.slowest)
                bad = key[0] in self.bad
                self.pods.append(Pod(f"p{self.made:04}", key, self.sizes.get(key[0], 1), loads, bad))

    def _schedule(self) -> None:
        waiting = [pod for pod in self.pods if pod.node is None and pod.leaving is None]
        self.chance.shuffle(waiting)
        for pod in waiting:
            fitting = [
                node
                for node in self.nodes
                if node.gpu_type == pod.key[1]
                and self.is_warm(node, pod.key[0])
                and node.gpus - node.strangers - self.used(node) >= pod.gpus
            ]
            pod.node = self.chance.choice(fitting) if fitting else None
            pod.blocked = pod.node is None
