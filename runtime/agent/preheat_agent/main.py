"""The agent's process: looks at the engine, lets the ladder decide, does it, and answers who asks."""

import asyncio
import hmac
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from typing_extensions import override

from preheat_agent import canary, progress
from preheat_agent.config import Config, ConfigError, from_environment
from preheat_agent.engine import Counters, Engine
from preheat_agent.exposition import Signals
from preheat_agent.ladder import LADDER, Action, Answer, Memory, Protocol, Repository, Seen, State, decide
from preheat_agent.ration import Advice
from preheat_agent.ration import read as read_advice
from preheat_agent.server import Response, Server, text
from preheat_agent.stall import limit_seconds
from preheat_agent.traffic import Own, Page, Tally, others_were_served, take, told
from preheat_agent.weights import Weights

LOOK_SECONDS = 0.5
METRICS_SECONDS = 2.0
WEIGHTS_SECONDS = 3.0
"""How soon weights that were not whole are looked at again."""
QUIET_LOOKS = 3
"""A drain ends when this many looks in a row see nothing in flight."""

log = logging.getLogger("preheat_agent")


class Metrics:
    """The agent's own metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, words: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, words, labels, registry=self.registry)

        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, words, labels, registry=self.registry)

        self.loaded = gauge("preheat_agent_load_bytes", "Bytes of the weights that are loaded.")
        self.expected = gauge("preheat_agent_load_expected_bytes", "Bytes of the weights.")
        self.load_seconds = gauge("preheat_agent_load_seconds", "How long the last finished load took.")
        self.state = gauge("preheat_agent_state", "1 for the state that holds.", ("state",))
        self.ready = gauge("preheat_agent_ready", "1 when the model takes traffic.")
        self.canary_seconds = Histogram(
            "preheat_agent_canary_seconds",
            "Time to answer the canary.",
            ("protocol",),
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.canary_failures = counter(
            "preheat_agent_canary_failures_total", "Questions without a good answer.", ("protocol",)
        )
        for protocol in Protocol:
            self.canary_seconds.labels(protocol.value)
            self.canary_failures.labels(protocol.value)
        self.steps = gauge("preheat_agent_healing_steps", "Steps of healing taken since the model was well.")
        self.waits = gauge("preheat_agent_healing_waits", "1 while a step of healing waits to be granted.")
        self.stall_limit = gauge(
            "preheat_agent_stall_limit_seconds", "A load without progress is given up after this."
        )
        self.heals = counter(
            "preheat_agent_heals_total", "Times that the model was unloaded and loaded again."
        )
        self.engine_starts = counter("preheat_agent_engine_starts_total", "Times that the engine came up.")


@dataclass(slots=True)
class Asked:
    """How the questions over one protocol ended."""

    last_good: datetime | None = None
    latency_seconds: float | None = None
    failures: int = 0
    """In a row."""
    error: str = ""
    """What was wrong with the last answer, nothing when it was good."""


class Agent:
    """Owns the loop and what is known. ``clock`` is monotonic, in seconds."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        self.memory = Memory(since=time.monotonic(), progress_at=time.monotonic())
        self._engine = Engine(config.engine_http, config.engine_metrics, config.admin_key)
        self._load: asyncio.Task[str | None] | None = None
        self._load_error: str | None = None
        self._progress: progress.LoadProgress | None = None
        self._signs = progress.Signs()
        self._load_started_at: datetime | None = None
        self._load_seconds: float | None = None
        self._loaded_at: float | None = None
        self._first_answer_seconds: float | None = None
        """From the end of the last load to the first good answer after it."""
        self._own = Own()
        self._tally = Tally()
        self._began_at = datetime.now(UTC)
        self.metrics.registry.register(Signals(self._told, self._began_at.timestamp()))
        self._question: asyncio.Task[None] | None = None
        self._answer: Answer | None = None
        self._asked = 0
        self._by_protocol = {protocol: Asked() for protocol in Protocol}
        self._last_text = ""
        self._advice = Advice()
        self._counters: Counters | None = None
        self._counters_at = 0.0
        self._drain: asyncio.Task[None] | None = None
        self._engine_pid = 0
        """As of the last look; 0 for none."""
        self._drained_pid = 0
        """The engine for whose end the drain was asked."""
        self._total = 0
        self._weights = Weights(config.weights_directory)
        self._weights_problem = ""
        self._weights_at = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Look and act until told to stop."""
        server = Server(
            {
                "/healthz": self._healthz,
                "/engine/live": self._engine_live,
                "/engine/ready": self._engine_ready,
                "/drain": self._drained,
                "/status": self._status,
                "/signals": self._signals,
                "/metrics": self._exposition,
            },
            {"/advice": self._advised},
        )
        scraped = Server({"/metrics": self._exposition})
        await server.start(self.config.listen_port)
        if self.config.metrics_port is not None:
            try:
                await scraped.start(self.config.metrics_port)
            except OSError as error:  # a container of the user's has the port: no reason not to serve
                log.warning(
                    "no metrics port", extra={"port": self.config.metrics_port, "problem": str(error)}
                )
        try:
            while not stopping.is_set():
                await self._step()
                await _pause(stopping, LOOK_SECONDS)
        finally:
            await server.stop()
            await scraped.stop()
            for task in (self._load, self._question, self._drain):
                if task is not None:
                    task.cancel()
            await self._engine.close()
            self._weights.close()

    # --- one look

    async def _step(self) -> None:
        seen = await self._look()
        before = self.memory
        self.memory, action = decide(self.config, seen, before, time.monotonic())
        self._tell(before)
        match action:
            case Action.LOAD:
                await self._start_load()
            case Action.UNLOAD:
                problem = await self._engine.unload(self.config.models)
                if problem is not None:
                    log.warning("unload failed", extra={"problem": problem})
            case Action.ASK:
                self._question = asyncio.create_task(self._ask(self.memory.protocol))
            case Action.KILL:
                await asyncio.to_thread(progress.kill, self.config.engine_process)
            case Action.NOTHING:
                pass

    async def _look(self) -> Seen:
        now = time.monotonic()
        used = await asyncio.to_thread(
            progress.usage, self.config.engine_process, self.config.weights_directory
        )
        self._engine_pid = used.engine_pid
        if self._drain is not None and self._drain.done() and used.engine_pid not in {0, self._drained_pid}:
            # The kubelet asks before it restarts a container as well as before a pod ends: here comes the next engine.
            self._drain = None
        if self._load is not None and self._load.done():
            self._finish_load(self._load, now)
        if self._progress is not None and self._load is not None:
            self._progress.update(now, used)
        live = await self._engine.is_live()
        if live and now - self._counters_at >= METRICS_SECONDS:
            self._counters, self._counters_at = await self._read_counters(), now
        counters = self._counters
        repository = await self._engine.repository(self.config.models) if live else Repository.ABSENT
        return Seen(
            live=live,
            process=used.processes > 0,
            engine=used.engine_pid,
            repository=repository,
            weights=await self._look_at_weights(repository, now),
            busy_loading=self._load is not None,
            load_error=self._load_error,
            marker=(float(self._signs.saw(now, used, counters.gpu_memory_bytes if counters else 0.0)),),
            answer=self._answer,
            busy_asking=self._question is not None and not self._question.done(),
            backend_failures=counters.backend_failures if counters else self.memory.backend_failures,
            draining=self._drain is not None,
            advice=self._advice,
        )

    async def _read_counters(self) -> Counters | None:
        counters = await self._engine.counters(self.config.model_name)
        if counters is not None and counters.page is not None:
            asking = self._question is not None and not self._question.done()
            own = replace(self._own, asking=asking)
            self._tally = take(self._tally, counters.page, own, time.monotonic())
        return counters

    async def _look_at_weights(self, repository: Repository, now: float) -> str:
        """Return what is missing of the weights. A model that is loaded, or is being loaded, needs none to be looked at."""
        if not self.config.check_weights:
            return ""
        idle = self._load is None and repository is Repository.ABSENT
        waits = self._weights_problem and now - self._weights_at < WEIGHTS_SECONDS
        if (idle or not self._weights.held) and not waits:
            self._weights_problem = await asyncio.to_thread(self._weights.problem)
            self._weights_at = now
        return self._weights_problem

    async def _start_load(self) -> None:
        self._total = await asyncio.to_thread(progress.total_bytes, self.config.weights_directory)
        base = await asyncio.to_thread(
            progress.usage, self.config.engine_process, self.config.weights_directory
        )
        self._progress = progress.LoadProgress(self._total, time.monotonic(), base)
        self._load_started_at, self._load_seconds, self._load_error = datetime.now(UTC), None, None
        self._loaded_at, self._first_answer_seconds = None, None
        self._load = asyncio.create_task(self._engine.load(self.config.models))

    def _finish_load(self, load: asyncio.Task[str | None], now: float) -> None:
        self._load_error = load.result()
        self._load = None
        if self._load_error is None and self._progress is not None:
            self._load_seconds, self._loaded_at = now - self._progress.started, now
            self.metrics.load_seconds.set(self._load_seconds)

    async def _ask(self, protocol: Protocol) -> None:
        # Read just before: of an older page it is not known whether what was answered since was the question before this one.
        before = await self._page() or (self._counters.page if self._counters is not None else None)
        started, asked = time.monotonic(), self._by_protocol[protocol]
        number = self._asked = self._asked + 1
        try:
            words = await canary.ask(
                protocol, self._engine, self.config.engine_grpc, self.config.model_name, self.config.canary
            )
        except canary.CanaryError as error:
            # A queue before us is no illness: others were answered while we waited.
            timed_out = time.monotonic() - started >= self.config.canary.timeout_seconds
            after = await self._page()
            if timed_out and others_were_served(before, after, self.config.canary.max_tokens):
                log.info(
                    "canary undecided: the engine is busy and answers others", extra={"protocol": protocol}
                )
                self._own = replace(self._own, ended=self._own.ended + 1)
                return
            self.metrics.canary_failures.labels(protocol.value).inc()
            self._own = replace(self._own, ended=self._own.ended + 1, failed=self._own.failed + 1)
            asked.failures, asked.error = asked.failures + 1, str(error)
            self._answer = Answer(number, good=False, message=str(error), protocol=protocol)
            return
        self._own = replace(self._own, ended=self._own.ended + 1)
        latency = time.monotonic() - started
        asked.last_good, asked.latency_seconds, asked.failures, asked.error = (
            datetime.now(UTC),
            latency,
            0,
            "",
        )
        self._last_text = words[:80]
        self.metrics.canary_seconds.labels(protocol.value).observe(latency)
        self._answer = Answer(number, good=True, message="", protocol=protocol)

    async def _page(self) -> Page | None:
        counters = await self._engine.counters(self.config.model_name)
        return counters.page if counters is not None else None

    def _tell(self, before: Memory) -> None:
        now = self.memory
        if now.proven and self._first_answer_seconds is None and self._loaded_at is not None:
            self._first_answer_seconds = time.monotonic() - self._loaded_at
        for state in State:
            self.metrics.state.labels(state.value).set(1 if state is now.state else 0)
        self.metrics.ready.set(1 if now.ready else 0)
        self.metrics.heals.inc(now.heals - before.heals)
        self.metrics.steps.set(now.steps)
        self.metrics.waits.set(1 if now.next_step is not None else 0)
        self.metrics.stall_limit.set(self._stall_limit())
        self.metrics.engine_starts.inc(now.engine_starts - before.engine_starts)
        if self._progress is not None:
            self.metrics.loaded.set(self._progress.bytes_done)
            self.metrics.expected.set(self._progress.total)
        if (before.state, before.reason, before.ready) != (now.state, now.reason, now.ready):
            log.info(
                "state",
                extra={"state": now.state, "reason": now.reason, "detail": now.message, "ready": now.ready},
            )

    # --- who asks

    async def _healthz(self) -> Response:
        return text(200, "ok")

    async def _engine_live(self) -> Response:
        memory = self.memory
        return text(200 if memory.live else 503, f"{memory.state}: {memory.message}")

    async def _engine_ready(self) -> Response:
        ready = self.memory.ready and self._drain is None
        return text(200 if ready else 503, f"{self.memory.state}: {self.memory.message}")

    async def _exposition(self) -> Response:
        return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self.metrics.registry)

    async def _drained(self) -> Response:
        """Answer when nothing is under way any more. Called by the engine's preStop hook; safe to repeat."""
        if self._drain is None:
            self._drained_pid = self._engine_pid
            self._drain = asyncio.create_task(self._wait_for_quiet())
        await asyncio.shield(self._drain)
        return text(200, "drained")

    async def _wait_for_quiet(self) -> None:
        await asyncio.sleep(self.config.endpoint_delay_seconds)
        deadline = time.monotonic() + self.config.drain_timeout_seconds
        quiet, last = 0, -1.0
        while quiet < QUIET_LOOKS and time.monotonic() < deadline:
            counters = await self._engine.counters(self.config.model_name)
            if counters is None:
                return  # the engine is gone: nothing can be under way
            idle = counters.in_flight == 0 and counters.successes in {last, -1.0}
            quiet = quiet + 1 if idle else 0
            last = counters.successes
            await asyncio.sleep(LOOK_SECONDS)
        log.info("drained", extra={"quiet": quiet >= QUIET_LOOKS})

    async def _advised(self, headers: Mapping[str, str], body: bytes) -> Response:
        """Take what the operator says. It names this very pod: its address may have been another pod's before."""
        key = self.config.admin_key
        if key and not hmac.compare_digest(headers.get("admin-key", "").encode(), key.encode()):
            return text(403, "the header admin-key is not this pod's uid")
        try:
            self._advice = read_advice(json.loads(body), self._advice, time.monotonic())
        except (KeyError, TypeError, ValueError) as error:
            return text(400, f"this is no advice: {error}")
        return text(200, "taken")

    def _stall_limit(self) -> float:
        return limit_seconds(self.config.stall_seconds, self.memory.pauses, self._advice.load_seconds)

    async def _signals(self) -> Response:
        return 200, "application/json", json.dumps(self.signals()).encode()

    def signals(self) -> dict[str, Any]:
        """Return how much the model is asked (contract: ../README.md)."""
        return {"schema": 1, "since": self._began_at.isoformat(), "signals": self._told()}

    def _told(self) -> Mapping[str, float | None] | None:
        return told(self._tally, time.monotonic())

    async def _status(self) -> Response:
        return 200, "application/json", json.dumps(self.status()).encode()

    def status(self) -> dict[str, Any]:
        """Return what the operator asks for (contract: ../README.md)."""
        memory, load, now = self.memory, self._progress, time.monotonic()
        by = self._by_protocol
        good = max((a.last_good for a in by.values() if a.last_good is not None), default=None)
        newest = next(
            (asked for asked in by.values() if good is not None and asked.last_good == good), Asked()
        )
        return {
            "schema": 1,
            "state": memory.state,
            "reason": memory.reason,
            "message": memory.message,
            "modelName": self.config.model_name,
            "load": {
                "bytesLoaded": load.bytes_done if load else 0,
                "bytesTotal": load.total if load else 0,
                "percent": load.percent if load else 0,
                "bytesPerSecond": round(load.bytes_per_second) if load else 0,
                "remainingSeconds": load.remaining_seconds if load else None,
                "startedAt": _rfc3339(self._load_started_at),
                "seconds": self._load_seconds,
                "storageBytes": load.storage_bytes if load else 0,
                "firstAnswerSeconds": self._first_answer_seconds,
                "failures": memory.load_failures,
            },
            "canary": {
                "lastSuccessAt": _rfc3339(good),
                "latencySeconds": newest.latency_seconds,
                "consecutiveFailures": memory.bad_answers,
                "lastAnswer": self._last_text,
                "protocols": {
                    protocol.value: {
                        "lastSuccessAt": _rfc3339(asked.last_good),
                        "latencySeconds": asked.latency_seconds,
                        "consecutiveFailures": asked.failures,
                        "lastError": asked.error,
                    }
                    for protocol, asked in by.items()
                },
            },
            "healing": {
                "illSeconds": None if memory.ill_since is None else round(now - memory.ill_since, 1),
                "steps": memory.steps,
                "stepsAtMost": len(LADDER),
                "waitsFor": memory.next_step,
            },
            "stall": {
                "limitSeconds": round(self._stall_limit(), 1),
                "longestPauseSeconds": round(max(memory.pauses.longest, memory.pauses.now_longest), 1),
                "stalls": memory.pauses.stalls,
                "loadSeconds": self._advice.load_seconds,
            },
            "heals": memory.heals,
            "engineStarts": memory.engine_starts,
        }


def _rfc3339(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


class _JSON(logging.Formatter):
    """One JSON object a line."""

    _OWN = frozenset(vars(logging.makeLogRecord({})))

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        extra = {k: v for k, v in vars(record).items() if k not in self._OWN and k != "message"}
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


async def _run(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await Agent(config).run(stopping)


def main() -> None:
    """Run the agent until SIGTERM. Ends with a sentence when its configuration is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSON())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = from_environment(os.environ)
    except ConfigError as error:
        sys.exit(f"preheat-agent: {error}")
    asyncio.run(_run(config))


if __name__ == "__main__":
    main()
