"""What others say of a pod or a Job that does not start: the newest Event that regards it.

A Secret that is missing is in no status: the kubelet tells of it in an Event and waits. The operator may not
read Secrets, so it reads that. It asks only while something does not start, less and less often, and never at
rest: a pod that starts tells so itself. The more start at once, the longer each is given: reading Events is the
dearest thing that the operator asks of the API server, which looks through all those of the namespace.

And since when: nothing in the cluster says how long a pod has been in trouble, only how long it is there.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from preheat.cluster.kube import Kube
from preheat.decide.observed import PodView
from preheat.decide.troubles import STARTS_NOTHING, trouble_of
from preheat.errors import PreheatError

POD_SECONDS = 1.0
JOB_SECONDS = 2.0
"""How long a start may take before anybody asks. A mount fails at once, a Job's first pod takes a moment."""
LONGEST_SECONDS = 30.0
FORGET_SECONDS = 300.0
FORGET_STARTS_SECONDS = 3600.0
ASKS_PER_SECOND = 4.0
"""Over all objects that began to start within FRESH_SECONDS."""
FRESH_SECONDS = 60.0
AT_ONCE = 3
"""So many objects are asked about in one pass: what keeps one from starting mostly keeps the others."""
GAP_SECONDS = 60.0
"""Trouble that comes again within so long is the same: a kubelet that tries again shows none for a moment."""
MESSAGE_LIMIT = 400
COMBINED = "(combined from similar events): "

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    due: float
    wait: float
    words: str | None = None


@dataclass(slots=True)
class _Start:
    seen: float
    placeless: float | None = None
    """Since when the scheduler finds no node for it."""
    placed: float | None = None
    """When it was first seen to have a node."""
    began: float | None = None
    """When its trouble began."""
    over: float | None = None
    """When it was first seen without it again."""


class Complaints:
    """Remembers what was said of whom, and when to ask again. Owned by one event loop."""

    def __init__(self, kube: Kube, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._starts: dict[str, _Start] = {}
        self._fresh: deque[float] = deque()
        self._forgets_at = 0.0

    async def about(
        self, namespace: str, pods: Iterable[str], jobs: Iterable[str] = ()
    ) -> tuple[dict[str, str], float | None]:
        """Return what is said of pods and Jobs that do not start now, all by uid, where anything is.

        And in how many seconds to ask again; None: nobody waits.
        """
        patience = {**dict.fromkeys(jobs, JOB_SECONDS), **dict.fromkeys(pods, POD_SECONDS)}
        if not patience:
            return {}, None
        now = self._clock()
        self._forget(now)
        chosen = {
            uid: self._known.get(uid) or self._begin(uid, patience[uid], now)
            for uid in sorted(patience)[:AT_ONCE]
        }
        for uid, known in chosen.items():
            if known.due <= now:
                known.words = await self._ask(namespace, uid)
                known.wait = min(2 * known.wait, max(LONGEST_SECONDS, known.wait))
                known.due = now + known.wait
                self._known[uid] = known
        told = {uid: known.words for uid, known in chosen.items() if known.words is not None}
        return told, max(0.1, min(known.due for known in chosen.values()) - now)

    def timed(self, pods: Iterable[PodView]) -> list[PodView]:
        """Return the pods; those in trouble with for how long they are, and were well before. An operator that starts begins anew."""
        now = self._clock()
        self._forget(now)
        return [self._timed(pod, now) for pod in pods]

    def _timed(self, pod: PodView, now: float) -> PodView:
        trouble = trouble_of(pod)
        is_troubled = trouble is not None and trouble.reason in STARTS_NOTHING
        if trouble is None and not pod.starting:
            self._starts.pop(pod.uid, None)
            return pod
        start = self._starts.setdefault(pod.uid, _Start(now))
        start.seen = now
        if pod.scheduled and start.placed is None:
            start.placed = now
        if pod.unschedulable is not None:
            start.placeless = now if start.placeless is None else start.placeless
            pod = replace(pod, placeless_seconds=now - start.placeless)
        else:
            start.placeless = None
        if not is_troubled:
            start.over = now if start.over is None else start.over
            return pod
        if start.began is None or (start.over is not None and now - start.over > GAP_SECONDS):
            start.began = now
        start.over = None
        well = start.began - start.placed if start.placed is not None else 0.0
        return replace(pod, troubled_seconds=now - start.began, well_seconds=max(0.0, well))

    def _begin(self, uid: str, patience: float, now: float) -> _Known:
        """Note that an object begins to start, and give it as long as the number of those at it allows."""
        self._fresh.append(now)
        while self._fresh[0] < now - FRESH_SECONDS:
            self._fresh.popleft()
        wait = max(patience, len(self._fresh) / ASKS_PER_SECOND)
        return self._known.setdefault(uid, _Known(now + wait, wait))

    def _forget(self, now: float) -> None:
        if now < self._forgets_at:
            return
        self._forgets_at = now + FORGET_SECONDS / 10
        self._known = {uid: known for uid, known in self._known.items() if now - known.due < FORGET_SECONDS}
        self._starts = {
            uid: one for uid, one in self._starts.items() if now - one.seen < FORGET_STARTS_SECONDS
        }

    async def _ask(self, namespace: str, uid: str) -> str | None:
        """Return the newest Event's words if it is a warning: after a good one the trouble is over."""
        try:
            event = await self._kube.newest_event(namespace, uid)
        except PreheatError as error:
            log.debug("events regarding %s: %s", uid, error)
            return None
        if event is None or event.get("type") != "Warning":
            return None
        words = str(event.get("note") or event.get("reason") or "").removeprefix(COMBINED)
        return words[:MESSAGE_LIMIT] or None
