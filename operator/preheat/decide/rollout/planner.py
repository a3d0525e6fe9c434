"""The next step of a rollout: from what is there, to what each Deployment should have now. Pure and stateless.

It moves replicas from whatever runs to one revision. Whether that one is new or served before is the same to it, but
for one thing: going back, what failed and is not ready gives its GPUs up at once, and no pause or step holds it up.
Old replicas never grow, unless the rollout is paused. Nothing is remembered: after any crash the next pass sees the same
and makes the same step.
"""

from collections.abc import Mapping

from preheat.decide.rollout.state import Goal, Limits, Method, Observed, Phase, Room, Scene, Step
from preheat.decide.rollout.strategies import STRATEGIES, auto, paused


def next_step(observed: Observed, target: Goal, free_gpus: Mapping[str, Room], limits: Limits) -> Step | None:
    """Return the step to make now, None when nothing but the target is there: then nothing is under way.

    ``free_gpus``: what the GPUs of each type can take of the target.
    """
    old = tuple(child for child in observed.children if child.revision != target.revision)
    if not any(child.asked or child.live or child.leaving for child in old):
        return None
    mine = tuple(child for child in observed.children if child.revision == target.revision)
    scene = Scene(mine, old, target, free_gpus, limits, observed.warm_nodes, observed.images_missing)
    if target.replicas == 0:
        return _to_zero(scene)
    if target.going_back:
        return auto(scene)
    if limits.paused:
        return paused(scene)
    return STRATEGIES[limits.strategy](scene)


def _to_zero(scene: Scene) -> Step:
    """Let everything go, however it was to be done: nothing is wanted."""
    replicas = {child.key: 0 for child in scene.old}
    replicas |= {(scene.goal.revision, gpu_type): 0 for gpu_type in scene.goal.shares}
    why = "No replica is wanted."
    return Step(replicas, scene.limits.chosen or Method.SURGE, why, Phase.HANDING_OVER, "Every replica goes.")
