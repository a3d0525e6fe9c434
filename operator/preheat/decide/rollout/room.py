"""What the GPUs of one type can take of a revision, and which old replicas would have to go for one more. Pure.

A replica needs its GPUs on one node, and the weights there. So room is counted node by node:

    needs 2   n1: 1 free, an old replica with 1     1 victim
              n2: 0 free, two old ones with 1 each  2 victims
              n3: 2 free, weights on their way      1 cold
              n4: 0 free, an old one with 2, cold   nothing: a new one could not start there
              n5: 1 free, an old one with 1, and    nothing: a new one would wait for the images
                  the images are on their way
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from preheat.decide.rollout.state import Room


@dataclass(frozen=True, slots=True)
class Held:
    """An old replica on a node."""

    pod: str
    revision: str
    gpus: int
    ready: bool


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node on which the target may run. GPUs are those that no replica of Preheat's holds."""

    name: str
    free_gpus: int
    warm: bool
    """Whether the target's weights are there, complete and verified."""
    coming: bool = False
    """Whether they are on their way."""
    held: Sequence[Held] = ()
    pulled: bool = True
    """Whether the images of its pods are there, or nobody waits for them."""


def room(nodes: Sequence[NodeRoom], gpus: int, *, doubted: bool = False) -> Room:
    """Return what these nodes, all of one type, can take of a replica with so many GPUs."""
    ways = [found for node in nodes if node.warm and node.pulled and (found := _victims(node, gpus))]
    ways.sort(key=lambda way: (sum(held.ready for held in way), len(way)))
    cheapest = ways[0] if ways else []
    return Room(
        fits=sum(max(0, node.free_gpus) // gpus for node in nodes if node.warm),
        unpulled=sum(max(0, node.free_gpus) // gpus for node in nodes if node.warm and not node.pulled),
        doubted=doubted,
        cold=sum(max(0, node.free_gpus) // gpus for node in nodes if node.coming and not node.warm),
        victims=Counter(held.revision for held in cheapest),
        serving_victims=sum(held.ready for held in cheapest),
        useful=tuple(held.pod for way in ways for held in way),
    )


def _victims(node: NodeRoom, gpus: int) -> list[Held]:
    """Return the fewest old replicas whose GPUs, with those that are free, are enough for one more new one there."""
    missing = gpus - max(0, node.free_gpus) % gpus
    found: list[Held] = []
    for held in sorted(node.held, key=lambda held: (held.ready, -held.gpus, held.pod)):
        if missing <= 0:
            break
        found.append(held)
        missing -= held.gpus
    return found if missing <= 0 else []
