"""The controller as one thing: start it, feed it what the watches see, stop it."""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime

from preheat.cluster.kinds import KINDS
from preheat.cluster.kube import Kube
from preheat.cluster.prometheus import Prometheus
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.apply import Writer
from preheat.controller.complaints import Complaints
from preheat.controller.concern import ORPHANS, asks_for_gateway, concerned, is_only_status
from preheat.controller.front import Front
from preheat.controller.lists import Lists
from preheat.controller.loop import BACKOFF_SECONDS, Loops
from preheat.controller.past import Past
from preheat.controller.reconcile import Reconciler
from preheat.controller.scaling import Scaling
from preheat.controller.telemetry import Metrics, Probe
from preheat.controller.view import Key, View, key_of
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
        prometheus: Prometheus | None = None,
    ) -> None:
        self.view = View(config.namespace)
        self.metrics = metrics
        self._kube = kube
        self._sidecars = sidecars
        self._probe = probe
        self._clock = clock
        self._resync_seconds = config.resync_seconds

        def monotonic() -> float:
            return asyncio.get_running_loop().time()

        writer = Writer(kube, self.view, metrics, monotonic)
        complaints = Complaints(kube, monotonic)
        self._lists = Lists(kube, self.view, monotonic)
        self._front = Front(sidecars, self.view, config, self._wake_one, monotonic)
        self._prometheus = prometheus
        self._past = (
            Past(prometheus, self._wake_one, lambda: clock().timestamp()) if prometheus is not None else None
        )
        scaling = Scaling(sidecars, metrics, self._front, prometheus, self._past)
        reconciler = Reconciler(
            self.view,
            self._lists,
            sidecars,
            complaints,
            scaling,
            self._front,
            writer,
            config,
            clock,
            metrics.turns,
        )
        self._writer = writer
        self.loops = Loops(reconciler.reconcile, on_pass=self._on_pass, on_bug=reconciler.confess)
        self._tasks: list[asyncio.Task[None]] = []
        self._uses_keys = config.neighbours
        self._uses_front = config.front
        self._relisted: set[str] = set()
        self._relist = asyncio.Event()
        self._list_all_by = math.inf
        self.kinds_changed = asyncio.Event()
        """Set when a kind came or went: what watches it must know of it."""

    async def start(self) -> None:
        """List everything once, so that no pass begins with half a view, then start the loops.

        An API server that does not answer is asked again, for as long as it takes.
        """
        await self._kube.open()
        await self._list_all_at_last()
        self.view.on_change = self._wake
        self.view.on_kind = self._kind_changed
        for kind in ("LLMDeployment", "ModelCache", "Node"):
            for key in sorted(self.view.keys(kind)):
                self.loops.wake(key)
        self.loops.wake(ORPHANS)
        create = asyncio.get_running_loop().create_task
        self._tasks.append(create(self._resync_forever(), name="resync"))
        if self._uses_front:
            self._tasks.append(create(self._front.ask_forever(), name="front"))
        if self._past is not None:
            self._tasks.append(create(self._past.ask_forever(), name="past"))
        self._probe.ready = True

    async def stop(self) -> None:
        """Stop cleanly."""
        self._probe.ready = False
        for task in self._tasks:
            task.cancel()
        await self.loops.stop()
        await self._sidecars.close()
        if self._prometheus is not None:
            await self._prometheus.close()
        await self._kube.close()

    def saw(self, event: str | None, body: Manifest) -> None:
        """Take in one watch event: it changes the view and wakes loops, and decides nothing."""
        self.metrics.last_event.labels(body["kind"]).set(self._clock().timestamp())
        if event is None:
            # The watch begins anew: what was deleted in the gap is never told. A list of our own tells.
            self._relisted.add(body["kind"])
            self.missed_something()
        if event == "DELETED":
            self.view.remove(body)
        else:
            self.view.take_in(body)

    def missed_something(self) -> None:
        """List everything again soon: a watch begins anew, and of a kind of which nothing is left, nothing is told."""
        soon = asyncio.get_running_loop().time() + SETTLE_SECONDS
        self._list_all_by = min(self._list_all_by, soon)
        self._relist.set()

    def _wake(self, before: Manifest | None, after: Manifest | None, author: Key | None) -> None:
        if after is None and before is not None:
            self._writer.forget(key_of(before))
        for key in concerned(before, after, self.view):
            if key != author or not is_only_status(before, after):
                self.loops.wake(key)

    def _kind_changed(self, kind: str) -> None:
        """Look at everybody who may use a kind that came or went, and have it watched, or no more."""
        words = "is not installed any more" if kind in self.view.absent else "is installed now"
        log.info("%s %s", kind, words)
        self.kinds_changed.set()
        for body in self.view.all("LLMDeployment"):
            if asks_for_gateway(body):
                self.loops.wake(key_of(body))

    def _wake_one(self, key: Key) -> None:
        self.loops.wake(key)

    async def _list_all_at_last(self) -> None:
        for failures in itertools.count():
            try:
                for kind in KINDS:
                    await self._lists.read(kind)
                await self._read_keys()
            except PreheatError as error:
                delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                log.warning("start: %s; again in %g s", error, delay)
                await asyncio.sleep(delay)
            else:
                return

    async def _read_keys(self) -> None:
        """Read the keys by which a node knows another's warmer. They change now and then; seeders follow."""
        if not self._uses_keys:
            return
        known = self.view.issuer_keys
        try:
            keys = await self._kube.issuer_keys()
        except PreheatError as error:  # no reason not to start, or not to list the rest
            log.warning("the keys that sign tokens: %s; again with the next full list", error)
            return
        if keys is None and (known is not None or not self._probe.ready):
            log.info(
                "the API server does not give the keys that sign its tokens (/openid/v1/jwks): nodes do not serve "
                "each other, every node fetches from the source"
            )
        self.view.issuer_keys = keys

    async def _resync_forever(self) -> None:
        """List again soon after a watch began anew, and everything now and then: watches miss deletions.

        The first full list comes soon: between our list at start and kopf's there was a gap.
        """
        clock = asyncio.get_running_loop().time
        self._list_all_by = clock() + SETTLE_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(self._list_all_by):
                    await self._relist.wait()
                    await asyncio.sleep(DEBOUNCE_SECONDS)
            except TimeoutError:
                self._relisted, self._list_all_by = set(KINDS), clock() + self._resync_seconds
            kinds, self._relisted = sorted(self._relisted), set()
            self._relist.clear()
            try:
                for kind in kinds:
                    await self._lists.read(kind)
                if kinds == sorted(KINDS):
                    await self._read_keys()
            except PreheatError as error:
                log.warning("resync: %s; again in %g s", error, SETTLE_SECONDS)
                self._list_all_by = clock() + SETTLE_SECONDS
            except Exception:  # as in the loop: without lists, what watches miss is never found
                log.exception("resync: unexpected error; again in %g s", self._resync_seconds)

    def _on_pass(self, key: Key, seconds: float, ok: bool) -> None:
        self.metrics.passes.labels(key[0], "ok" if ok else "error").inc()
        self.metrics.seconds.labels(key[0]).observe(seconds)
        self.metrics.objects.set(len(self.loops))
        self._probe.loops = len(self.loops)
        self._probe.beat()
