"""What every strategy is made of: what old Deployments keep, what the new one is asked for, who makes room. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from preheat.decide.rollout.state import Child, ChildKey, Room, Scene

Replicas = dict[ChildKey, int]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "old replica"), counted(2, "old replica")
    ('1 old replica', '2 old replicas')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def keep(scene: Scene, left: int, *, heal: bool = False) -> Replicas:
    """Return how many replicas each old Deployment keeps when so many may stay in all.

    Those that serve stay longest, and longer where the new revision waits for no place. What holds no GPU goes at
    once, unless old replicas are to be healed (``heal``): it would take what the new revision waits for.
    Of a revision that failed only what is ready stays.
    """
    kept = {child.key: 0 for child in scene.old}
    ranked = sorted(scene.old, key=lambda child: (_is_wanted(scene, child), -child.ready))
    for child in ranked:
        kept[child.key] = min(child.ready, child.asked, left)
        left -= kept[child.key]
    for child in ranked:
        most = child.ready if scene.goal.going_back else child.asked if heal else child.scheduled
        more = max(0, min(min(most, child.asked) - kept[child.key], left))
        kept[child.key] += more
        left -= more
    return kept


def _is_wanted(scene: Scene, child: Child) -> bool:
    return scene.of(child.gpu_type).blocked > 0


def ask_for_all(scene: Scene) -> Replicas:
    """Return every replica that is wanted: those without a GPU wait, and so ask for one."""
    return {(scene.goal.revision, gpu_type): share for gpu_type, share in scene.goal.shares.items()}


def ask_as_room_allows(scene: Scene) -> Replicas:
    """Return as many as there are GPUs for, and one of each type that waits for the next one that is freed.

    It grows only: what was asked for once waits, and does not come and go with what others do.
    """
    asked: Replicas = {}
    for gpu_type, share in scene.goal.shares.items():
        child, room = scene.of(gpu_type), scene.rooms.get(gpu_type, Room())
        asked[child.key] = min(share, max(child.asked, child.scheduled + room.free + 1))
    return asked


def once_pulled(scene: Scene, asked: Replicas) -> Replicas:
    """Return what may be asked for: nothing new while no node with the weights has the images, as none may be to be had."""
    if not scene.images_missing:
        return asked
    return {key: min(count, scene.of(key[1]).asked) for key, count in asked.items()}


def ask_for(scene: Scene, total: int, first: Iterable[str] = ()) -> Replicas:
    """Return so many replicas in all, what is there before what is not, then the types of ``first``."""
    shares = scene.goal.shares
    asked = {gpu_type: min(share, scene.of(gpu_type).asked) for gpu_type, share in shares.items()}
    left = total - sum(asked.values())
    preferred = [gpu_type for gpu_type in first if gpu_type in shares]
    for gpu_type in [*preferred, *(t for t in shares if t not in preferred)]:
        more = max(0, min(shares[gpu_type] - asked[gpu_type], left))
        asked[gpu_type] += more
        left -= more
    return {(scene.goal.revision, gpu_type): count for gpu_type, count in asked.items()}


@dataclass(frozen=True, slots=True)
class Making:
    """Which old replicas make room, or why none does."""

    victims: Mapping[ChildKey, int] = field(default_factory=dict)
    gpu_type: str = ""
    serving: int = 0
    """How many of them are ready."""
    why_not: str = ""


def free_types(scene: Scene) -> list[str]:
    """Return the GPU types of which some are free for the target."""
    return [gpu_type for gpu_type in scene.goal.shares if scene.rooms.get(gpu_type, Room()).free > 0]


def vacated_types(scene: Scene) -> list[str]:
    """Return the GPU types of which old replicas have given some back that no new one is asked for yet.

    They are still on their way out, or an operator ended between the two writes.
    """
    old = Counter[str]()
    for child in scene.old:
        old[child.gpu_type] += child.asked
    return [
        gpu_type
        for gpu_type, share in scene.goal.shares.items()
        if gpu_type in old and share > old[gpu_type] + scene.of(gpu_type).asked
    ]


def make_room(scene: Scene, types: Iterable[str], *, only_idle: bool = False) -> Making:
    """Return the old replicas that go so that a new one finds a place on one of these GPU types.

    One new replica at a time: the next room is made when that one answers. Nobody that serves goes while a GPU is
    free, or while one that was freed is still being taken. ``only_idle``: nobody that serves goes at all.
    """
    reasons = []
    for gpu_type in types:
        why_not = _why_not(scene, gpu_type, only_idle=only_idle)
        if not why_not:
            room = scene.rooms[gpu_type]
            victims = {(revision, gpu_type): count for revision, count in room.victims.items()}
            return Making(victims, gpu_type, room.serving_victims)
        reasons.append(why_not)
    return Making(why_not=reasons[0] if reasons else "")


def _why_not(scene: Scene, gpu_type: str, *, only_idle: bool) -> str:
    """Return what keeps old replicas on one GPU type from making room, the first that holds; empty when nothing does."""
    room = scene.rooms.get(gpu_type, Room())
    serves = room.serving_victims > 0
    on_the_way = scene.scheduled - scene.ready
    taking = next((t for t in scene.goal.shares if _is_being_taken(scene, t)), "")
    reasons = (
        (not room.victims, f"no old replica holds a {gpu_type} on a node with the new weights and images"),
        (only_idle and serves, f"every {gpu_type} that would help is held by a replica that serves"),
        (not scene.is_settled, "an old replica is on its way out"),
        (serves and on_the_way > 0, f"{counted(on_the_way, 'new replica')} must answer first"),
        (room.cold > 0, f"a node with a free {gpu_type} is getting the weights"),
        (room.free > 0, f"a {gpu_type} is free"),
        (
            bool(taking),
            f"a {taking} was freed and is not taken yet, or was taken by a pod that is not Preheat's",
        ),
    )
    return next((words for holds, words in reasons if holds), "")


def _is_being_taken(scene: Scene, gpu_type: str) -> bool:
    """Tell whether old replicas have given back what a new one waits for, and it has not got it yet."""
    child = scene.of(gpu_type)
    if child.asked <= child.scheduled:
        return False
    old = [child for child in scene.old if child.gpu_type == gpu_type]
    size = max((child.gpus for child in old), default=0)
    gone = scene.goal.shares.get(gpu_type, 0) - sum(child.asked for child in old)
    freed = gone * size - child.scheduled * scene.goal.gpus
    return scene.rooms.get(gpu_type, Room()).fits > 0 and freed >= scene.goal.gpus


def without(kept: Replicas, victims: Mapping[ChildKey, int]) -> Replicas:
    """Return what is kept when these go."""
    return {key: max(0, count - victims.get(key, 0)) for key, count in kept.items()}
