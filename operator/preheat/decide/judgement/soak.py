"""When a new revision is known to be good: all its replicas have served for ``rollout.soakSeconds``."""

from dataclasses import replace
from datetime import datetime

from preheat.api.constants import ANNOTATION_SOAKED
from preheat.api.llmdeployment import LLMDeployment
from preheat.decide.judgement.failure import marked
from preheat.decide.plan import timestamp
from preheat.decide.wish import ServiceObservation, Wish


def soak_left_seconds(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, now: datetime
) -> float | None:
    """Return for how long the wanted revision still has to serve, None while not all of its replicas do, and they alone.

    One that finds no place has nothing to tell: nobody waits for it. It is counted from the first answer of its oldest replica: who scales up or loses a node begins nothing anew.
    """
    live = [pod for pod in seen.pods if not pod.deleting]
    mine = [pod for pod in live if pod.revision == wish.id]
    others = any(view.replicas > 0 for view in seen.deployments if view.revision != wish.id)
    ready = [pod.ready_at for pod in mine if pod.ready and pod.ready_at is not None]
    placeless = sum(pod.unschedulable is not None for pod in mine)
    if not ready or len(ready) + placeless < wish.replicas or others or len(mine) < len(live):
        return None
    return max(0.0, service.spec.rollout.soak_seconds - (now - min(ready)).total_seconds())


def soaked(wish: Wish, now: datetime) -> Wish:
    """Return the wish with the mark that its revision is known to be good."""
    revisions = tuple(
        r if ANNOTATION_SOAKED in r.marks else marked(r, ANNOTATION_SOAKED, timestamp(now))
        for r in wish.revisions
    )
    return replace(wish, revisions=revisions)
