"""Where a canary is in its steps: read off the cluster, never remembered. Pure.

A step of p percent of n wanted replicas has ``ceil(n * p / 100)`` new ones and keeps ``ceil(n * (100 - p) / 100)`` old ones.
It is over when so many new ones have been ready for as long as its pause. Which step it is follows from how many new
ones are asked for; of steps that ask for as many, from how long so many have been ready:

    wanted 10, steps 10 % 600 s, 30 % 600 s, 100 %
    asked 1, ready 1 for 200 s      step 1, 400 s left
    asked 1, ready 1 for 700 s      step 2: ask for 3
    asked 3, ready 2                step 2, its pause has not begun

Through a gateway new replicas get the step's weight once they are ready; on the way there, as much more as new ones answer:

    steps of 1 replica 5 %, 3 replicas 30 %
    ready 1, 2, 3                   5 %, 17 %, 30 %
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from preheat.decide.rollout.state import Pause, Scene


@dataclass(frozen=True, slots=True)
class Position:
    """A step, and what is left of its pause. ``left_seconds`` None: it has not begun, or there is none."""

    number: int
    of: int
    percent: int
    replicas: int
    old_stays: int
    pause_seconds: int = 0
    left_seconds: float | None = None
    share: int = 0
    """What the new ones get through a gateway now, in percent."""


def position(scene: Scene) -> Position:
    """Return the step that is to be made, or is under way."""
    wanted = scene.goal.replicas
    steps = scene.limits.pauses or (Pause(100, 0),)
    groups = [
        (replicas, list(members))
        for replicas, members in groupby(
            enumerate(steps, start=1), key=lambda s: _share(wanted, s[1].percent)
        )
    ]
    reached = max((i for i, (replicas, _) in enumerate(groups) if replicas <= scene.asked), default=0)
    ages = sorted((age for child in scene.target for age in child.ready_seconds), reverse=True)
    for replicas, members in groups[reached:]:
        spent = ages[replicas - 1] if 0 < replicas <= min(len(ages), scene.asked) else None
        for number, step in members:
            is_last = number == len(steps)
            if spent is None or is_last or spent < step.seconds:
                left = None if spent is None or is_last else step.seconds - spent
                stays = _share(wanted, 100 - step.percent)
                share = share_at(scene.ready, steps[:number], wanted)
                return Position(number, len(steps), step.percent, replicas, stays, step.seconds, left, share)
            spent -= step.seconds
    raise AssertionError("the last step has no end")


def share_at(ready: int, steps: Sequence[Pause], wanted: int) -> int:
    """Return what so many ready new replicas get on the way through steps, of which the last is under way.

    >>> steps = (Pause(10, 0, 5), Pause(30, 0))
    >>> [share_at(ready, steps, 10) for ready in (0, 1, 2, 3, 4)], share_at(1, (Pause(10, 0), Pause(50, 0)), 2)
    ([0, 5, 17, 30, 30], 50)
    """
    at, share = 0, 0
    points = {_share(wanted, s.percent): s.percent if s.weight is None else s.weight for s in steps}
    for replicas, weight in points.items():
        if ready < replicas:
            return share + (weight - share) * (ready - at) // (replicas - at)
        at, share = replicas, weight
    return share


def _share(wanted: int, percent: int) -> int:
    return -(-wanted * percent // 100)
