"""The controller as one thing: start it, feed it what the watches see, stop it."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from preheat.cluster.kinds import KINDS
from preheat.cluster.kube import Kube
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.apply import Writer
from preheat.controller.loop import Loops
from preheat.controller.reconcile import ORPHANS, Reconciler, concerned
from preheat.controller.telemetry import Metrics, Probe
from preheat.controller.view import Key, View
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import PreheatError
from preheat.resources.metadata import Manifest

SETTLE_SECONDS = 5.0
DEBOUNCE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Controller:
    """Owns the view and the loops."""

    def __init__(
        self,
        kube: Kube,
        sidecars: Sidecars,
        config: OperatorConfig,
        metrics: Metrics,
        probe: Probe,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.view = View()
        self.metrics = metrics
        self._kube = kube
        self._sidecars = sidecars
        self._probe = probe
        self._clock = clock
        writer = Writer(kube, self.view, metrics, self._wake)
        reconciler = Reconciler(self.view, kube, sidecars, writer, config, clock)
        self.loops = Loops(reconciler.reconcile, on_pass=self._on_pass)
        self._resync: asyncio.Task[None] | None = None
        self._relisted: set[str] = set()
        self._relist = asyncio.Event()

    async def start(self) -> None:
        """List everything once, so that no pass begins with half a view, then start the loops."""
        await self._list_all()
        for kind in ("LLMDeployment", "ModelCache"):
            for key in self.view.keys(kind):
                self.loops.wake(key)
        self.loops.wake(ORPHANS)
        self._resync = asyncio.get_running_loop().create_task(self._resync_forever(), name="resync")
        self._probe.ready = True

    async def stop(self) -> None:
        """Stop cleanly."""
        self._probe.ready = False
        if self._resync is not None:
            self._resync.cancel()
        await self.loops.stop()
        await self._sidecars.close()

    def saw(self, event: str | None, body: Manifest) -> None:
        """Take in one watch event: it changes the view and wakes loops, and decides nothing."""
        self.metrics.last_event.labels(body["kind"]).set(self._clock().timestamp())
        if event is None:
            # The watch begins anew: what was deleted in the gap is never told. A list of our own tells.
            self._relisted.add(body["kind"])
            self._relist.set()
        before = self.view.get(body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"])
        changed = self.view.remove(body) if event == "DELETED" else self.view.put(body)
        if changed and not (event != "DELETED" and _is_heartbeat(before, body)):
            self._wake(body)

    def _wake(self, body: Manifest) -> None:
        for key in concerned(body, self.view):
            self.loops.wake(key)

    async def _list_all(self) -> None:
        for kind in KINDS:
            await self._list(kind)

    async def _list(self, kind: str) -> None:
        known = self.view.keys(kind)
        for body in self.view.replace(kind, await self._kube.list_all(kind), known):
            if self._probe.ready:
                self._wake(body)

    async def _resync_forever(self) -> None:
        """List again soon after a watch began anew, and everything now and then: watches miss deletions.

        The first full list comes soon: between our list at start and kopf's there was a gap.
        """
        clock = asyncio.get_running_loop().time
        due = clock() + SETTLE_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._relist.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)
            except TimeoutError:
                self._relisted, due = set(KINDS), clock() + RESYNC_SECONDS
            kinds, self._relisted = sorted(self._relisted), set()
            self._relist.clear()
            try:
                for kind in kinds:
                    await self._list(kind)
            except PreheatError as error:
                log.warning("resync: %s; again in %g s", error, SETTLE_SECONDS)
                due = clock() + SETTLE_SECONDS

    def _on_pass(self, key: Key, seconds: float, ok: bool) -> None:
        self.metrics.passes.labels(key[0], "ok" if ok else "error").inc()
        self.metrics.seconds.labels(key[0]).observe(seconds)
        self.metrics.objects.set(len(self.loops))
        self._probe.loops = len(self.loops)
        self._probe.beat()


def _is_heartbeat(before: Manifest | None, after: Manifest) -> bool:
    """Tell whether a node changed in nothing that a decision looks at: kubelets report every few minutes."""
    if before is None or after["kind"] != "Node":
        return False
    return _gist(before) == _gist(after)


def _gist(node: Manifest) -> object:
    status = node.get("status") or {}
    conditions = [(c.get("type"), c.get("status")) for c in status.get("conditions") or ()]
    return (
        node["metadata"].get("labels"),
        node.get("spec"),
        status.get("allocatable"),
        conditions,
    )
