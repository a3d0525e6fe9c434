"""Moves replicas from old revisions to the wanted one. Pure and stateless: one step from what is seen.

Two rules:

1. An old replica may go when a new one answers: keep ``desired - new ready`` old ones.
2. Where the scheduler finds no GPU for a new pod, one old replica makes room, and the next only when the
   room was taken: ``old + new scheduled >= desired``.

Old replicas never grow: whoever wants them back asks for their revision.

Worked example, desired 2, no spare GPU (o = old asked for, s = new scheduled, r = new ready):

    o s r   blocked   step
    2 0 0   yes       2 + 0 >= 2: o becomes 1
    1 0 0   yes       1 + 0 <  2: wait, the freed GPU is being taken
    1 1 0   yes       1 + 1 >= 2, but the new replica has not answered yet: wait
    1 1 1   yes       rule 2: o becomes 0
    0 2 2   no        done
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step is decided from. All are numbers of replicas."""

    desired: int
    old: int
    """Replicas that old revisions are asked for."""
    old_leaving: bool
    """Whether an old pod is still on its way out."""
    new_scheduled: int
    new_ready: int
    blocked: bool
    """Whether the scheduler finds no room for a new pod."""
    weights_warm: bool
    """Whether the new revision's weights lie on enough nodes: nobody makes room for a pod that cannot start."""


def next_old(progress: Progress) -> int:
    """Return how many replicas the old revisions should be asked for now."""
    p = progress
    kept = min(p.old, max(0, p.desired - p.new_ready))
    room_was_taken = p.old + p.new_scheduled >= p.desired and p.new_ready == p.new_scheduled
    if p.blocked and p.weights_warm and not p.old_leaving and room_was_taken:
        return min(kept, max(0, p.old - 1))
    return kept
