"""The only file that imports kopf: it watches, and tells the controller what it saw.

kopf's handlers here write nothing, return nothing and decide nothing: no finalizer, no annotation, no diff.

kopf ends the whole operator when a watch tells of an error or breaks off in the middle of a line, and cancels
every task of its event loop. So it has a thread and a loop of its own, and begins anew when it ended: the view,
the loops and the work in hand stay as they are. Sometimes it does not even end: a watch has failed, the connections are
closed, and the other watches wait for a login that nobody makes. So a watch that fails ends it here, at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, cast

import kopf
from typing_extensions import override

from preheat.cluster.kinds import KINDS, Kind
from preheat.controller.loop import BACKOFF_SECONDS
from preheat.controller.service import Controller
from preheat.resources.metadata import Manifest

CONNECT_SECONDS, REQUEST_SECONDS = 10, 30
SILENCE_SECONDS = 30.0
"""A watch that says nothing for so long is opened anew: nobody else tells that the other side is gone."""
IDLE_SECONDS = 0.2
"""kopf has a task for each object of which there was an event, for so long after the last one: thousands when many come at once."""
STOP_SECONDS = 10.0
"""How long kopf may take to end when the operator is told to."""
CALM_SECONDS = 60.0
"""Watching that went well for so long begins anew at once when it ends."""

Saw = Callable[[str | None, Manifest], None]
"""Takes in one watch event: its type, None for what is there already, and the object."""

log = logging.getLogger(__name__)


def registry(saw: Saw, absent: Collection[str] = ()) -> kopf.OperatorRegistry:
    """Return kopf's handlers: they pass on what they see. ``absent``: kinds that this cluster is without."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, id="login")
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_via_client(**kwargs)

    for kind in KINDS.values():
        if kind.watched and kind.name not in absent:
            _watch(handlers, kind, saw)
    return handlers


def _watch(handlers: kopf.OperatorRegistry, kind: Kind, saw_event: Saw) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers, id=f"saw-{kind.plural}")
    async def saw(event: kopf.RawEvent, **_: Any) -> None:
        body = {"apiVersion": kind.api_version, "kind": kind.name, **event["object"]}
        saw_event(event["type"], body)


def settings() -> kopf.OperatorSettings:
    """Return what kopf leaves open: no writes of its own, and only objects that concern us."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiff()
    settings.scanning.disabled = True
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.queueing.idle_timeout = IDLE_SECONDS
    for kind in KINDS.values():
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return settings


class _NoDiff(kopf.DiffBaseStorage):
    """Compares nothing: kopf would copy and compare every object at every event, for handlers that we do not have."""

    @override
    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None
    ) -> kopf.BodyEssence:
        return cast("kopf.BodyEssence", {})

    @override
    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    @override
    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def run(controller: Controller) -> None:
    """Run until SIGTERM or SIGINT. Blocks."""
    level = logging.DEBUG if os.environ.get("PREHEAT_DEBUG") else logging.INFO
    as_json = os.environ.get("PREHEAT_LOG_FORMAT", "json") == "json"
    kopf.configure(
        log_format=kopf.LogFormat.JSON if as_json else kopf.LogFormat.FULL,
        debug=level == logging.DEBUG,
    )
    # kopf tells of every handler that succeeded, httpx of every request; ours only pass events on and poll.
    for name in ("kopf.objects", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Signals are for our own loop; kopf warns at every start that it has none of them in its thread.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    asyncio.run(_run_until_told(controller))


async def _run_until_told(controller: Controller) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    work = loop.create_task(_start_and_watch(controller))
    waiting = loop.create_task(told.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (work, waiting):
        task.cancel()
    outcome, _ = await asyncio.gather(work, waiting, return_exceptions=True)
    await controller.stop()
    if isinstance(outcome, Exception):
        raise outcome


async def _start_and_watch(controller: Controller) -> None:
    await controller.start()
    await watch_forever(controller)


async def watch_forever(controller: Controller) -> None:
    """Watch until cancelled. When kopf ends, begin anew after 1, 2, 5, 10, 30, 60 s.

    It looks only once which kinds there are. When one comes or goes it is ended, and begins anew at once.
    """
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        started = loop.time()
        controller.kinds_changed.clear()
        watching = _Watching(controller.saw, controller.missed_something, controller.view.absent)
        words = await _until_it_ends(watching, controller.kinds_changed)
        if words is None:
            continue
        if loop.time() - started > CALM_SECONDS:
            failures = 0
        delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
        failures += 1
        controller.metrics.watch_restarts.inc()
        log.warning("watching ended: %s; it begins anew in %g s", words, delay)
        await asyncio.sleep(delay)


async def _until_it_ends(watching: "_Watching", kinds_changed: asyncio.Event) -> str | None:
    """Return why watching ended by itself; None: it was ended, because there are other kinds to watch."""
    loop = asyncio.get_running_loop()
    ends, changes = loop.create_task(watching.until_it_ends()), loop.create_task(kinds_changed.wait())
    try:
        await asyncio.wait({ends, changes}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (ends, changes):
            task.cancel()
        outcome, _ = await asyncio.gather(ends, changes, return_exceptions=True)
    if isinstance(outcome, asyncio.CancelledError):
        return None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class _Watching:
    """kopf from its start to its end, on a thread of its own."""

    def __init__(self, saw: Saw, missed_something: Callable[[], None], absent: Collection[str] = ()) -> None:
        self._absent = absent
        self._loop = asyncio.get_running_loop()
        self._saw = saw
        self._missed_something = missed_something
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._inbox: deque[tuple[str | None, Manifest]] = deque()
        self._is_called = False

    async def until_it_ends(self) -> str:
        """Return why it ended. Cancelled, it ends kopf first."""
        self._thread.start()
        try:
            return await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            if self._inner is not None:
                loop, task = self._inner
                loop.call_soon_threadsafe(task.cancel)
                await asyncio.wait({self._ended}, timeout=STOP_SECONDS)
            raise

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
            words = "it was stopped"
        except asyncio.CancelledError:
            words = "it was cancelled"
        except Exception as error:  # noqa: BLE001 - whatever ends kopf, watching goes on
            words = f"{type(error).__name__}: {error}"
        self._tell(words)

    async def _watch(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs is in a task
        self._inner = (asyncio.get_running_loop(), task)
        failed: asyncio.Future[str] = self._inner[0].create_future()
        kopf_itself = self._inner[0].create_task(
            kopf.operator(
                registry=registry(self._pass_on, self._absent),
                settings=settings(),
                clusterwide=True,
                standalone=True,
            )
        )
        either: list[asyncio.Future[Any]] = [kopf_itself, failed]
        with _failures(failed), _restarts(lambda: self._loop.call_soon_threadsafe(self._missed_something)):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            # What is left of kopf in this thread is cancelled next; that may take for ever.
            self._tell(failed.result())
            return
        await kopf_itself

    def _tell(self, words: str) -> None:
        """Say once why it ended. Nothing is passed on after that."""

        def tell() -> None:
            if not self._ended.done():
                self._ended.set_result(words)

        with contextlib.suppress(RuntimeError):  # our own loop is gone: the process ends
            self._loop.call_soon_threadsafe(tell)

    def _pass_on(self, event: str | None, body: Manifest) -> None:
        """Hand an event to our own loop. It is woken once for all that wait: waking costs more than an event."""
        self._inbox.append((event, body))
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._take_in)

    def _take_in(self) -> None:
        self._is_called = False  # before the look, so that nothing that comes during it is left
        try:
            while self._inbox and not self._ended.done():
                self._saw(*self._inbox.popleft())
        finally:
            if (
                self._inbox and not self._ended.done()
            ):  # one that cannot be taken in does not keep the others out
                self._loop.call_soon(self._take_in)


@contextlib.contextmanager
def _failures(failed: "asyncio.Future[str]") -> Iterator[None]:
    """Note the first part of kopf in this thread that says that it failed: its log is the only place that tells at once."""
    thread = threading.get_ident()

    class Ear(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            words = record.getMessage()
            if record.thread == thread and " has failed: " in words and not failed.done():
                failed.set_result(words)

    ear, kopfs_log = Ear(logging.ERROR), logging.getLogger("kopf")
    kopfs_log.addHandler(ear)
    try:
        yield
    finally:
        kopfs_log.removeHandler(ear)


@contextlib.contextmanager
def _restarts(restarted: Callable[[], object]) -> Iterator[None]:
    """Call back when one of kopf's watches begins anew after a 410: if nothing is left of its kind, only its log tells."""
    thread, watchings_log = threading.get_ident(), logging.getLogger("kopf._cogs.clients.watching")
    level = watchings_log.level

    def hear(record: logging.LogRecord) -> bool:
        if record.thread == thread and record.getMessage().startswith("Restarting the watch-stream"):
            restarted()
        return record.levelno >= logging.INFO or logging.getLogger().level <= logging.DEBUG

    watchings_log.addFilter(hear)
    watchings_log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        watchings_log.removeFilter(hear)
        watchings_log.setLevel(level)
