"""How a new revision takes over, one function a strategy. Each takes a scene and returns the step to make now. Pure.

Auto       Surge while a GPU is free for a new replica; where none is, old ones make room, one new one at a time
Surge      an old replica goes when a new one answers, never before
InPlace    an old replica goes, a new one takes its place, and so on: never more GPUs than before
BlueGreen  the old ones go all at once, when all new ones answer
Canary     in steps of so many percent, with a pause after each; makes room as Auto does
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from preheat.api.llmdeployment import RolloutStrategy
from preheat.decide.rollout.moves import (
    Making,
    Replicas,
    ask_as_room_allows,
    ask_for,
    ask_for_all,
    counted,
    free_types,
    keep,
    make_room,
    once_pulled,
    vacated_types,
    without,
)
from preheat.decide.rollout.state import Method, Phase, Room, Scene, Step
from preheat.decide.rollout.steps import Position, position


def auto(scene: Scene) -> Step:
    """Surge where a GPU is free; where none is, make room with as few old replicas as will do."""
    kept = keep(scene, max(0, scene.goal.replicas - scene.ready))
    making = _room_where_needed(scene, kept)
    method = _method(scene, making)
    why = (
        _why_auto(scene, method)
        if method
        else "Which way is decided when weights and images of the new one lie on a node."
    )
    return _step(scene, without(kept, making.victims), ask_as_room_allows(scene), method, why, making)


def surge(scene: Scene) -> Step:
    """Let an old replica go only when a new one answers."""
    kept = keep(scene, max(0, scene.goal.replicas - scene.ready))
    making = _room_where_needed(scene, kept, only_idle=True)
    why = "Surge was asked for: no replica that serves goes before a new one answers."
    return _step(scene, without(kept, making.victims), ask_for_all(scene), Method.SURGE, why, making)


def in_place(scene: Scene) -> Step:
    """Let one old replica go, then bring a new one, so that there are never more than are wanted."""
    wanted = scene.goal.replicas
    kept = keep(scene, max(0, wanted - scene.ready))
    making = Making()
    if _keeps_all(scene, kept):
        making = _next_in_place(scene)
    kept = without(kept, making.victims)
    vacated = [making.gpu_type, *free_types(scene), *vacated_types(scene)]
    asked = ask_for(scene, max(scene.asked, wanted - sum(kept.values())), vacated)
    why = "InPlace was asked for: an old replica goes first, and a new one takes its GPU."
    return _step(scene, kept, asked, Method.IN_PLACE, why, making)


def _next_in_place(scene: Scene) -> Making:
    """Return the next old replica to go: none while a new one is asked for that does not answer, unless it finds no place."""
    types = [gpu_type for gpu_type, share in scene.goal.shares.items() if share > scene.of(gpu_type).asked]
    if scene.asked > scene.ready:
        return make_room(scene, [t for t in scene.goal.shares if scene.of(t).blocked])
    if scene.asked + scene.old_asked < scene.goal.replicas:
        return Making(why_not="the new replica for the last old one is not asked for yet")
    if not scene.is_settled:
        return Making(why_not="an old replica is on its way out")
    for gpu_type in types:
        room = scene.rooms.get(gpu_type, Room())
        if room.victims:
            victims = {(revision, gpu_type): count for revision, count in room.victims.items()}
            return Making(victims, gpu_type, room.serving_victims)
        found = [child for child in scene.old if child.asked and child.live]
        if room.fits > room.unpulled and found:
            # Its own GPU is of no use, but another is free: it is still one for one.
            child = max(found, key=lambda child: child.live - child.ready)
            return Making({child.key: 1}, gpu_type, int(child.ready == child.live))
    return Making(why_not="no node with a GPU of an old replica, or a free one, has weights and images")


def blue_green(scene: Scene) -> Step:
    """Keep every old replica until all new ones answer, then let all go at once."""
    is_done = scene.ready >= scene.goal.replicas
    kept = keep(scene, 0 if is_done else scene.goal.replicas, heal=True)
    making = Making() if is_done else _room_where_needed(scene, kept, only_idle=True)
    why = "BlueGreen was asked for: all new replicas come up beside the old ones, which then go at once."
    step = _step(scene, without(kept, making.victims), ask_for_all(scene), Method.BLUE_GREEN, why, making)
    return replace(step, share=100 if is_done else 0)


def canary(scene: Scene) -> Step:
    """Go in steps of so many percent, and look for a while after each."""
    at = position(scene)
    least = max(at.old_stays, scene.goal.replicas - scene.ready)
    kept = keep(scene, least, heal=True)
    making = _room_where_needed(scene, kept)
    why = f"Canary was asked for, in {counted(at.of, 'step')}."
    step = _step(
        scene,
        without(kept, making.victims),
        ask_for(scene, at.replicas, [*free_types(scene), *vacated_types(scene)]),
        Method.CANARY,
        why,
        making,
    )
    phase, message = step.phase, step.message
    if at.left_seconds is not None:
        phase, message = Phase.WATCHING, f"{counted(at.replicas, 'new replica')} answered. {_numbers(scene)}."
    return Step(
        step.replicas,
        step.chosen,
        why,
        phase,
        f"Step {at.number} of {at.of}, {at.percent} %{_then(at)}: {message}",
        at.number,
        at.of,
        at.left_seconds,
        at.share,
    )


def _then(at: Position) -> str:
    return f", then a pause of {at.pause_seconds} s" if at.pause_seconds else ""


def paused(scene: Scene) -> Step:
    """Leave both sides as they are; only what serves grows, when more is wanted."""
    replicas = {child.key: child.asked for child in (*scene.old, *scene.target)}
    for gpu_type in scene.goal.shares:
        replicas.setdefault((scene.goal.revision, gpu_type), 0)
    missing = scene.goal.replicas - sum(replicas.values())
    serving = max((*scene.old, *scene.target), key=lambda child: (child.ready, child.asked))
    if missing > 0:
        replicas[serving.key] += missing
    message = f"spec.rollout.paused: {_numbers(scene)}. Nothing moves until it is false; what serves is healed and grows."
    why = "The rollout is paused."
    return Step(replicas, scene.limits.chosen or _PLAIN[scene.limits.strategy], why, Phase.PAUSED, message)


_PLAIN: Mapping[RolloutStrategy, Method | None] = {
    RolloutStrategy.AUTO: None,
    RolloutStrategy.SURGE: Method.SURGE,
    RolloutStrategy.IN_PLACE: Method.IN_PLACE,
    RolloutStrategy.BLUE_GREEN: Method.BLUE_GREEN,
    RolloutStrategy.CANARY: Method.CANARY,
}

STRATEGIES: Mapping[RolloutStrategy, Callable[[Scene], Step]] = {
    RolloutStrategy.AUTO: auto,
    RolloutStrategy.SURGE: surge,
    RolloutStrategy.IN_PLACE: in_place,
    RolloutStrategy.BLUE_GREEN: blue_green,
    RolloutStrategy.CANARY: canary,
}


def _room_where_needed(scene: Scene, kept: Replicas, *, only_idle: bool = False) -> Making:
    """Make room where new pods wait for a place, unless old replicas go in this step anyway."""
    types = [gpu_type for gpu_type in scene.goal.shares if scene.of(gpu_type).blocked]
    return make_room(scene, types, only_idle=only_idle) if _keeps_all(scene, kept) else Making()


def _keeps_all(scene: Scene, kept: Replicas) -> bool:
    return all(kept[child.key] == child.asked for child in scene.old)


def _method(scene: Scene, making: Making) -> Method | None:
    """Return the way that Auto goes. It is what was told before, until an old replica that serves has to make room."""
    if making.serving:
        return _with_room_made(scene, sum(making.victims.values()), making.serving)
    if scene.limits.chosen is not None:
        return scene.limits.chosen
    if scene.warm_nodes == 0:
        return None
    if scene.scheduled or any(scene.rooms.get(t, Room()).free for t in scene.goal.shares):
        return Method.SURGE
    found = [room for t in scene.goal.shares if (room := scene.rooms.get(t, Room())).serving_victims]
    if not found:
        return Method.SURGE
    return _with_room_made(scene, sum(found[0].victims.values()), found[0].serving_victims)


def _with_room_made(scene: Scene, victims: int, serving: int) -> Method:
    return Method.DRAIN_FIRST if victims > 1 or scene.serving <= serving else Method.ONE_BY_ONE


def _why_auto(scene: Scene, method: Method) -> str:
    wanted, old = scene.goal.replicas, sum(child.ready for child in scene.old)
    free = sum(scene.rooms.get(t, Room()).free for t in scene.goal.shares)
    if method is Method.SURGE:
        return (
            f"GPUs are free for {min(free + scene.scheduled, wanted)} of {counted(wanted, 'new replica')} beside "
            f"{counted(old, 'old one')}: no replica that serves goes before a new one answers."
        )
    if method is Method.ONE_BY_ONE:
        return (
            f"No GPU is free for a new replica and {old} serve: one at a time makes room for one, "
            f"and at least {max(0, scene.serving - 1)} of them answer meanwhile."
        )
    size = max((child.gpus for child in scene.old), default=scene.goal.gpus)
    if scene.goal.gpus > size:
        return (
            f"A new replica needs {scene.goal.gpus} GPUs on one node and an old one gives back {size}: "
            "several old ones go before a new one can come."
        )
    return (
        f"No GPU is free for a new replica and {scene.serving} serves: it goes first, and nothing answers until the new "
        "one does."
    )


def _step(
    scene: Scene, kept: Replicas, asked: Replicas, method: Method | None, why: str, making: Making
) -> Step:
    phase, message = _told(scene, kept, making)
    return Step({**kept, **once_pulled(scene, asked)}, method, why, phase, message)


def _told(scene: Scene, kept: Replicas, making: Making) -> tuple[Phase, str]:
    """Return what is done now, the first that holds."""
    victims, going = sum(making.victims.values()), scene.old_asked - sum(kept.values())
    loading = scene.scheduled - scene.ready
    waits = making.why_not or ("none is free" if scene.blocked else "")
    table = (
        (
            victims > 0,
            Phase.MAKING_ROOM,
            f"{counted(victims, 'old replica')} on {making.gpu_type} going for a new one",
        ),
        (going > 0, Phase.HANDING_OVER, f"{counted(going, 'old replica')} going, as new ones answer"),
        (loading > 0, Phase.LOADING, f"{counted(loading, 'new replica')} loading"),
        (not scene.is_settled, Phase.HANDING_OVER, "old replicas finish their requests"),
        (
            scene.images_missing,
            Phase.WAITING_FOR_IMAGE,
            "no node with the new weights has what the new pods need before they start (images, Secrets), and nothing goes before",
        ),
        (
            scene.warm_nodes == 0,
            Phase.WAITING_FOR_WEIGHTS,
            "no node has the new weights, and nothing goes before",
        ),
        (
            bool(waits),
            Phase.WAITING_FOR_GPU,
            f"{counted(scene.blocked, 'new replica')} waiting for a GPU: {waits}",
        ),
        (True, Phase.LOADING, "new replicas are being started"),
    )
    phase, words = next((phase, words) for holds, phase, words in table if holds)
    return phase, f"{_numbers(scene)}; {words}."


def _numbers(scene: Scene) -> str:
    old: int = sum(child.ready for child in scene.old)
    return f"{scene.ready} of {counted(scene.goal.replicas, 'new replica')} answer, {counted(old, 'old one')} as well"
