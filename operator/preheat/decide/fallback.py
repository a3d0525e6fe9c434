"""How replicas are split over GPU types: who has a GPU stays, who waits too long goes on to the next type. Pure.

Nothing is remembered but what the Deployments ask for and how old a waiting pod is:

    has a GPU                                  stays, whatever becomes free elsewhere
    is asked for and waits                     stays, until the scheduler has refused it a GPU for ``patienceSeconds``
    is not asked for yet                       the first type that has room by what its nodes offer, else the first

    waits for too long, or no node has the     the next type with room; else, after its patience, the next type that
    type at all                                could hold it (an autoscaler may add a node); else an earlier type with
                                               room on which none of ours is refused, once all that wait here have
                                               waited for ``BACK_SECONDS``

A node that has a GPU and gets the weights just now refuses nobody one, whatever full nodes beside it say.

Worked example, types l4 (2 GPUs, taken by strangers) and a10g (1 GPU), patience 300 s, one replica:

      0 s   l4 1            the numbers say that there is room
    300 s   l4 0  a10g 1    "Insufficient nvidia.com/gpu" for 300 s
    400 s   l4 0  a10g 1    the strangers are gone: it stays
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import GPUTypeStatus, LLMDeployment
from preheat.decide import text
from preheat.decide.capacity import fitting_nodes
from preheat.decide.observed import DeploymentView, NodeView, PodView, dead_nodes
from preheat.decide.placement import gpu_type_of

BACK_SECONDS = 600.0
"""A replica that waits goes back to an earlier type no sooner: there it was refused a GPU before."""
_WORDS = 512
_LACKS_WEIGHTS = ("volume node affinity conflict", "PersistentVolume's node affinity")
"""How schedulers, old and new, say of a node that all is well with it but that the weights are not there."""


@dataclass(frozen=True, slots=True)
class Passing:
    """Replicas that go on from one type to another, and why."""

    source: GPUType
    to: GPUType
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Split:
    """How many replicas each type gets, and what has just changed."""

    shares: Mapping[GPUType, int]
    passings: Sequence[Passing] = ()
    look_again_seconds: float | None = None
    """When a replica will have waited for long enough, though nothing in the cluster changes."""


@dataclass(slots=True)
class _Type:
    """What is there of one type. ``asked`` counts replicas with and without a pod."""

    offers: int
    """Replicas that its nodes could hold in all, whoever uses them."""
    exists: bool
    """Whether a node has it, in whatever state."""
    largest: int | None
    """The most GPUs that one node offers, None without a node."""
    asked: int
    scheduled: int
    ready: int
    waits: list[tuple[float, str]]
    """For how long pods without a GPU have waited, the longest first, and the scheduler's words."""
    held_by_old: bool = False
    """Whether replicas of other revisions hold GPUs of it: those are freed for the wanted one."""
    doubtful: int = 0
    """Of the scheduled: those that are to be replaced."""
    youngest: float = 0.0
    """For how long the newest of those without a GPU has waited: none whose pod is not made."""
    warming: bool = False
    """Whether the weights are on their way to one of its nodes."""

    @property
    def room(self) -> int:
        return max(0, self.offers - self.asked)

    @property
    def without_gpu(self) -> int:
        return max(0, self.asked - self.scheduled)


def split_over_types(
    service: LLMDeployment,
    replicas: int,
    nodes: Sequence[NodeView],
    deployments: Sequence[DeploymentView] = (),
    pods: Sequence[PodView] = (),
    revision: str = "",
    now: datetime | None = None,
    doubtful: Collection[str] = (),
    warming: Collection[str] = (),
) -> Split:
    """Return how many replicas of a revision each GPU type gets.

    ``doubtful``: names of pods that are to be replaced; of several that are too many they go first.
    ``warming``: names of the nodes to which the weights are on their way.
    """
    types = _types(service, nodes, deployments, pods, revision, now, doubtful, warming)
    passings: list[Passing] = []
    _shrink(types, replicas)
    for gpu_type in types:
        passings += _pass_on(service, types, gpu_type)
    missing = replicas - sum(there.asked for there in types.values())
    for there in types.values():
        more = min(missing, there.room)
        there.asked += more
        missing -= more
    next(iter(types.values())).asked += missing
    return Split(
        {gpu_type: there.asked for gpu_type, there in types.items()}, passings, _look_again(service, types)
    )


def _types(
    service: LLMDeployment,
    nodes: Sequence[NodeView],
    deployments: Sequence[DeploymentView],
    pods: Sequence[PodView],
    revision: str,
    now: datetime | None,
    doubtful: Collection[str],
    warming: Collection[str],
) -> dict[GPUType, _Type]:
    gpu = service.spec.hardware.gpu
    fitting = fitting_nodes(service, nodes)
    existing = {gpu_type_of(node) for node in nodes}
    # On a node that is gone a pod leaves for ever, and its GPU is nobody's: it is not waited for.
    dead = dead_nodes(nodes)
    live = [pod for pod in pods if not pod.deleting]
    found = {}
    for gpu_type in gpu.types:
        there = [node for node in fitting if gpu_type_of(node) is gpu_type]
        amounts = [node.allocatable.get(gpu.resource_name, 0) for node in there]
        mine = [pod for pod in live if (pod.revision, pod.gpu_type) == (revision, gpu_type.value)]
        views = [v for v in deployments if (v.revision, v.gpu_type) == (revision, gpu_type.value)]
        waits = [
            ((now - pod.created).total_seconds(), pod.unschedulable)
            for pod in mine
            if now is not None and pod.created is not None and pod.unschedulable is not None
        ]
        asked = sum(view.replicas for view in views) if views else len(mine)
        found[gpu_type] = _Type(
            offers=sum(amount // gpu.count for amount in amounts),
            exists=gpu_type in existing,
            largest=max(amounts, default=None),
            asked=asked,
            scheduled=sum(pod.scheduled for pod in mine),
            ready=sum(pod.ready for pod in mine),
            waits=sorted(waits, reverse=True),
            held_by_old=any(
                pod.scheduled
                and pod.gpu_type == gpu_type.value
                and pod.revision != revision
                and not (pod.deleting and pod.node in dead)
                for pod in pods
            ),
            doubtful=sum(pod.scheduled and pod.name in doubtful for pod in mine),
            youngest=_youngest(mine, now) if asked <= len(mine) else 0.0,
            warming=any(node.name in warming for node in there),
        )
    return found


def _youngest(mine: Sequence[PodView], now: datetime | None) -> float:
    """Return for how long the newest pod without a GPU has been there; 0 when that is not known."""
    made = [pod.created for pod in mine if not pod.scheduled]
    ages = [(now - at).total_seconds() if now is not None and at is not None else 0.0 for at in made]
    return min(ages, default=0.0)


def _shrink(types: Mapping[GPUType, _Type], replicas: int) -> None:
    """Ask for no more than are wanted: who has no GPU goes first, who serves last, and later types before earlier ones."""
    surplus = sum(there.asked for there in types.values()) - replicas
    for kept in ("scheduled", "sound", "ready", "none"):
        for there in reversed(list(types.values())):
            least = {
                "scheduled": there.scheduled,
                "sound": there.scheduled - there.doubtful,
                "ready": min(there.ready, there.scheduled - there.doubtful),
                "none": 0,
            }[kept]
            less = max(0, min(surplus, there.asked - least))
            there.asked -= less
            surplus -= less


def _pass_on(service: LLMDeployment, types: Mapping[GPUType, _Type], gpu_type: GPUType) -> list[Passing]:
    """Move the replicas that have waited for a GPU of one type for long enough; return what was moved."""
    there, order = types[gpu_type], list(types)
    place = order.index(gpu_type)
    later, earlier = order[place + 1 :], order[:place]
    found: list[Passing] = []
    for waited, words in _refused(service, there):
        patient = waited >= service.spec.hardware.gpu.patience_seconds
        if there.without_gpu == 0 or not (patient or (not there.exists and waited >= 0)):
            continue
        goes_to = next((t for t in later if types[t].room > 0), None)
        if goes_to is None and patient:
            goes_to = next((t for t in later if _could_hold(service, types[t])), None)
        if goes_to is None and patient and there.youngest >= BACK_SECONDS:
            # Where one of ours is refused a GPU the numbers are wrong, and two that changed places would go on doing so.
            free = (t for t in earlier if types[t].room > 0 and not _refused(service, types[t]))
            goes_to = next(free, None)
        if goes_to is None:
            continue
        there.asked -= 1
        types[goes_to].asked += 1
        types[goes_to].youngest = 0.0
        why = (
            f"no node has a {gpu_type}"
            if not there.exists
            else f"no {gpu_type} was to be had for {text.duration(waited)}"
        )
        found.append(Passing(gpu_type, goes_to, 1, f"{why}: {words}".rstrip(": ")))
    return _summed(found)


def _refused(service: LLMDeployment, there: _Type) -> list[tuple[float, str]]:
    """Return the waits of replicas for which there is no GPU, in the scheduler's words or because no node can have one."""
    resource = service.spec.hardware.gpu.resource_name
    if there.held_by_old:
        return []
    if not there.exists:
        unknown = [(0.0, "")] * max(0, there.without_gpu - len(there.waits))
        return [*there.waits, *unknown]
    return [
        (age, words)
        for age, words in there.waits
        if there.offers == 0
        or (resource in words and not (there.warming and any(told in words for told in _LACKS_WEIGHTS)))
    ]


def _could_hold(service: LLMDeployment, there: _Type) -> bool:
    """Tell whether a node of a type could hold a replica; of a type without nodes it is not known, so it could."""
    return not there.largest or there.largest >= service.spec.hardware.gpu.count


def _summed(passings: Sequence[Passing]) -> list[Passing]:
    """Return one entry for each pair of types, with the words of who waited longest."""
    found: dict[tuple[GPUType, GPUType], Passing] = {}
    for one in passings:
        key = (one.source, one.to)
        count = found[key].replicas + 1 if key in found else 1
        found[key] = Passing(one.source, one.to, count, found[key].why if key in found else one.why)
    return list(found.values())


def _look_again(service: LLMDeployment, types: Mapping[GPUType, _Type]) -> float | None:
    patience = float(service.spec.hardware.gpu.patience_seconds)
    if len(types) == 1:
        return None
    limits = (patience, max(patience, BACK_SECONDS))
    left = [
        limit - age
        for there in types.values()
        for age, _ in _refused(service, there)
        for limit in limits
        if limit > age
    ]
    return min(left, default=None)


def warm_first(
    service: LLMDeployment, split: Mapping[GPUType, int], nodes: Sequence[NodeView], mine: Sequence[PodView],
    key: str, coming: Collection[str], used: Mapping[str, int],
) -> tuple[str, ...]:  # fmt: skip
    """Return the nodes that should get the weights before others, where a later type than the first has replicas.

    ``mine``: the live pods of the wanted revision. ``used``: GPUs that are known to be held, by node. Empty: the cache
    takes nodes in the order of the types.
    """
    gpu = service.spec.hardware.gpu
    others = list(split)[1:]
    if not any(split[gpu_type] for gpu_type in others):
        return ()
    found = {pod.node for pod in mine if pod.scheduled and pod.node}
    for gpu_type, share in split.items():
        left = share - sum(pod.scheduled and pod.gpu_type == gpu_type.value for pod in mine)
        there = [node for node in fitting_nodes(service, nodes) if gpu_type_of(node) is gpu_type]
        room = {
            node.name: max(0, node.allocatable.get(gpu.resource_name, 0) - used.get(node.name, 0))
            // gpu.count
            for node in there
        }
        ranked = sorted(
            there, key=lambda n: (room[n.name] == 0, key not in n.caches, n.name not in coming, n.name)
        )
        for node in ranked:
            if left <= 0:
                break
            found.add(node.name)
            left -= max(1, room[node.name])
    return tuple(sorted(found))


def status_of(service: LLMDeployment, split: Split, ready: Mapping[str, int]) -> list[GPUTypeStatus] | None:
    """Return what is told of each type, None where there is only one. Why replicas left a type is told while they are gone."""
    if len(split.shares) < 2:
        return None
    before = {told.type: told.message for told in service.status.gpu_types or []}
    fresh = {one.source: one for one in split.passings}
    order = list(split.shares)
    found = []
    for place, gpu_type in enumerate(order):
        behind = any(split.shares[later] for later in order[place + 1 :])
        words = before.get(gpu_type.value)
        if gpu_type in fresh:
            one = fresh[gpu_type]
            words = f"{one.replicas} went on to {one.to}: {one.why}"[:_WORDS]
        message = words if behind or gpu_type in fresh else None
        found.append(
            GPUTypeStatus(
                type=gpu_type.value,
                replicas=split.shares[gpu_type],
                ready_replicas=ready.get(gpu_type.value, 0),
                message=message,
            )
        )
    return found


def words_of(told: Sequence[GPUTypeStatus] | None) -> str | None:
    """Say that replicas are on another type than the first, and why; None where they are not."""
    if not told or not any(one.replicas for one in told[1:]):
        return None
    counts = ", ".join(f"{one.replicas} on {one.type}" for one in told if one.replicas)
    whys = [f"{one.type}: {one.message.rstrip('. ')}" for one in told if one.message]
    first = told[0].type
    why = "; ".join(whys) or f"{first} had no room for them when they were placed"
    return f"Replicas: {counts}. {why}. Those that have their GPU stay there when {first} has room again."
