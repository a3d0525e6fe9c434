"""What this process remembers of the scaling of each LLMDeployment, between one pass and the next.

Nothing of it is lost for good when the process ends: the number that holds is in the status, the policy's memory in a
ControllerRevision, and without a look before the first one, only the first window's arrivals are unknown.
Where somebody else decides the number nothing is asked, kept or measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from preheat.api.constants import ANNOTATION_MEMORY, ANNOTATION_MEMORY_TIME
from preheat.api.llmdeployment import LLMDeployment, ScalingMode
from preheat.cluster.prometheus import Prometheus
from preheat.cluster.sidecars import Sidecars
from preheat.controller.front import Front
from preheat.controller.past import Past
from preheat.controller.telemetry import Metrics
from preheat.controller.view import Key, View
from preheat.decide.autoscale import ASK_SECONDS, Outcome, ScalingObservation, Stored
from preheat.decide.capacity import GPUUse, room, shortage
from preheat.decide.observed import NodeView, PodView, is_controlled_by, parse_time
from preheat.decide.scaling import Memory
from preheat.decide.scaling.past import misses_past
from preheat.decide.signals import Look, too_few_tell
from preheat.resources.names import scaler_name

SOON_SECONDS = 1.0
"""How soon to look again where somebody came before anything could be made of it."""


@dataclass(frozen=True, slots=True)
class _Known:
    uid: str
    looked_at: float | None
    seen: ScalingObservation


class Scaling:
    """Owned by one event loop."""

    def __init__(
        self,
        sidecars: Sidecars,
        metrics: Metrics,
        front: Front,
        prometheus: Prometheus | None = None,
        past: Past | None = None,
    ) -> None:
        self._sidecars = sidecars
        self._front = front
        self._metrics = metrics
        self._prometheus = prometheus
        self._past = past
        self._known: dict[Key, _Known] = {}

    async def observe(
        self,
        service: LLMDeployment,
        pods: Sequence[PodView],
        nodes: Sequence[NodeView],
        uses: Sequence[GPUUse],
        view: View,
        now: datetime,
    ) -> ScalingObservation | None:
        """Return what is known of the scaling of a service, None where somebody else decides the number.

        Agents of ready pods are asked when it is time, and a Prometheus where too few of them answer.
        """
        key = ("LLMDeployment", service.namespace, service.name)
        if service.spec.scaling.mode is ScalingMode.EXTERNAL:
            self.forget(key)
            return None
        known = self._known.get(key)
        if known is None or known.uid != service.uid:
            known = _Known(service.uid, None, _begin(service, view, now))
        stored = _stored(service, view)
        seen = replace(known.seen, stored=stored)
        seen = _with_room(seen, service, pods, room(service, nodes, uses, pods), view, now)
        wait = _wait_seconds(known, now)
        fronted = self._front.is_asked_for(service)
        if wait <= 0 or (fronted and _sleeps(seen) and self._front.waits(service)):
            ready = {pod.uid: pod.ip for pod in pods if pod.ready and pod.ip and not pod.deleting}
            readings = await self._sidecars.signals(ready)
            # Nothing can be made of a first look: who came waits for the next.
            came = self._front.take(service) if fronted and seen.before is not None else None
            earlier = _earlier(seen.before, pods)
            look = Look(now.timestamp(), frozenset(ready), readings, fronted, came, earlier)
            if self._prometheus is not None and too_few_tell(seen.before, look):
                named = {pod.name: pod.uid for pod in pods if pod.uid in ready}
                scrapes = await self._prometheus.recent(service.namespace, service.name, named)
                look = replace(look, scrapes=scrapes)
            seen = replace(seen, look=look)
            wait = SOON_SECONDS if fronted and self._front.waits(service) else ASK_SECONDS
        if self._past is not None and _wants_past(service, seen, now):
            seen = replace(seen, past=self._past.take(key, service.uid))
        self._known[key] = known
        return replace(seen, next_look_seconds=wait)

    def took(self, service: LLMDeployment, seen: ScalingObservation | None, outcome: Outcome | None) -> None:
        """Remember what was decided, and show it."""
        if seen is None or outcome is None:
            return
        key = ("LLMDeployment", service.namespace, service.name)
        before = self._known.get(key)
        self._known[key] = _Known(
            uid=service.uid,
            looked_at=seen.look.at if seen.look is not None else (before.looked_at if before else None),
            seen=replace(
                seen,
                look=None,
                past=None,
                before=seen.look or seen.before,
                memory=outcome.memory,
                decided=outcome.status,
                told_at=outcome.told_at,
                blind_since=outcome.blind_since,
                scraped_since=outcome.scraped_since,
                come_again_at=outcome.come_again_at,
            ),
        )
        self._metrics.show_scaling(service, outcome)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of an object that is gone, or that somebody else scales."""
        self._front.forget(key)
        if self._past is not None:
            self._past.forget(key)
        if self._known.pop(key, None) is not None:
            self._metrics.forget_scaling(key[1], key[2])


def _begin(service: LLMDeployment, view: View, now: datetime) -> ScalingObservation:
    """Return what the cluster remembers: of a process before this one, or of none."""
    stored = _stored(service, view)
    memory = Memory.from_json(stored.text) if stored is not None else Memory()
    return ScalingObservation(
        look=None, before=None, memory=memory, decided=service.status.scaling, told_at=now
    )


def _with_room(
    seen: ScalingObservation,
    service: LLMDeployment,
    pods: Sequence[PodView],
    total: int | None,
    view: View,
    now: datetime,
) -> ScalingObservation:
    """Return an observation with what the GPUs allow: by the numbers, or as many as had one when they were short."""
    if total is None:
        return replace(seen, available=None, shortage=None)
    used = service.status.cache
    cache = view.get("ModelCache", service.namespace, used.name) if used else None
    status = (cache or {}).get("status") or {}
    there = (status.get("readyNodes") or 0) >= max(1, status.get("desiredNodes") or 0)
    short = shortage(service, pods, total, seen.shortage, now, weights_there=there)
    return replace(seen, available=total if short is None else min(total, short.placed), shortage=short)


def _stored(service: LLMDeployment, view: View) -> Stored | None:
    body = view.get("ControllerRevision", service.namespace, scaler_name(service.name))
    if body is None or not is_controlled_by(body, service.uid):
        return None
    annotations = body["metadata"].get("annotations") or {}
    if ANNOTATION_MEMORY not in annotations:
        return None
    return Stored(annotations[ANNOTATION_MEMORY], parse_time(annotations.get(ANNOTATION_MEMORY_TIME)))


def _wants_past(service: LLMDeployment, seen: ScalingObservation, now: datetime) -> bool:
    """Tell whether the policy looks ahead and does not remember the last week."""
    predicts = service.spec.scaling.mode is ScalingMode.PREDICTIVE
    return predicts and misses_past(seen.memory, now.timestamp())


def _earlier(before: Look | None, pods: Sequence[PodView]) -> frozenset[str]:
    """Return the pods that may have served before the look before this one: at the first look, whoever is there."""
    there = frozenset(pod.uid for pod in pods)
    return there if before is None else there & (before.earlier | before.pods)


def _sleeps(seen: ScalingObservation) -> bool:
    """Tell whether no replica is wanted: then who comes is not to wait for the next look."""
    return seen.before is not None and seen.decided is not None and seen.decided.wanted_replicas == 0


def _wait_seconds(known: _Known, now: datetime) -> float:
    """Return in how many seconds agents are to be asked: at once the first time, then at their turn."""
    if known.looked_at is None:
        return 0.0
    since = now.timestamp() - known.looked_at
    return ASK_SECONDS - since if since >= 0 else 0.0
