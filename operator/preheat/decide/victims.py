"""Which replicas go when there are to be fewer: those that are cheapest to lose. Pure.

A ReplicaSet deletes pods without a node first, then those that are not Ready, and only among equals the one with the
lowest deletion cost, then the youngest. So a loading pod goes before a ready one whatever its cost: how many may go
while some load is the policy's business. Here:

    of those that load   the furthest from ready
    of the ready         the one with the fewest requests; of equals, on the node that is most crowded by others

Costs are written when there are to be fewer, on those that go alone: all others have none, which counts as 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.decide.capacity import GPUUse
from preheat.decide.loads import Phases, remaining
from preheat.decide.observed import PodView, Reading
from preheat.decide.plan import PricePod

COST = -1
"""What deleting a victim costs."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What victims are chosen by. Readings by pod uid."""

    namespace: str
    readings: Mapping[str, Reading]
    phases: Phases
    uses: Sequence[GPUUse]
    now: datetime


def price(pods: Sequence[PodView], replicas: int, scene: Scene) -> list[PricePod]:
    """Return what to write so that of one Deployment's live pods the cheapest go, down to so many replicas."""
    ranked = sorted(pods, key=lambda pod: (*_price(pod, scene), pod.name))
    victims = {pod.uid for pod in ranked[: max(0, len(pods) - replicas)]}
    return [
        PricePod(scene.namespace, pod.name, pod.uid, wanted)
        for pod in ranked
        if (wanted := COST if pod.uid in victims else None) != pod.deletion_cost
    ]


def _price(pod: PodView, scene: Scene) -> tuple[bool, float, float]:
    """Return what losing a pod costs, to be compared. One whose agent is silent is taken for busy."""
    if not pod.ready:
        return False, -remaining(pod, scene.phases, scene.now, weights_there=True), 0.0
    reading = scene.readings.get(pod.uid)
    requests = float("inf") if reading is None else (reading.in_service or 0.0) + reading.waiting
    others = sum(use.count for use in scene.uses if use.node == pod.node)
    return True, requests, -float(others)
