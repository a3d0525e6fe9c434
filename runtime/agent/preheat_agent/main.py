"""The agent's process: looks at the engine, lets the ladder decide, does it, and answers who asks."""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from typing_extensions import override

from preheat_agent import canary, progress
from preheat_agent.config import Config, ConfigError, from_environment
from preheat_agent.engine import Counters, Engine
from preheat_agent.ladder import Action, Answer, Memory, Repository, Seen, State, decide
from preheat_agent.server import Response, Server, text

LOOK_SECONDS = 0.5
METRICS_SECONDS = 2.0
QUIET_LOOKS = 3
"""A drain ends when this many looks in a row see nothing in flight."""

log = logging.getLogger("preheat_agent")


class Metrics:
    """The agent's own metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, words: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, words, labels, registry=self.registry)

        def counter(name: str, words: str) -> Counter:
            return Counter(name, words, registry=self.registry)

        self.loaded = gauge("preheat_agent_load_bytes", "Bytes of the weights that are loaded.")
        self.expected = gauge("preheat_agent_load_expected_bytes", "Bytes of the weights.")
        self.load_seconds = gauge("preheat_agent_load_seconds", "How long the last finished load took.")
        self.state = gauge("preheat_agent_state", "1 for the state that holds.", ("state",))
        self.ready = gauge("preheat_agent_ready", "1 when the model takes traffic.")
        self.canary_seconds = Histogram(
            "preheat_agent_canary_seconds",
            "Time to answer the canary.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.canary_failures = counter(
            "preheat_agent_canary_failures_total", "Questions without a good answer."
        )
        self.heals = counter(
            "preheat_agent_heals_total", "Times that the model was unloaded and loaded again."
        )
        self.engine_starts = counter("preheat_agent_engine_starts_total", "Times that the engine came up.")


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
        self._load_started_at: datetime | None = None
        self._load_seconds: float | None = None
        self._question: asyncio.Task[None] | None = None
        self._answer: Answer | None = None
        self._asked = 0
        self._last_good: datetime | None = None
        self._last_latency: float | None = None
        self._last_text = ""
        self._counters: Counters | None = None
        self._counters_at = 0.0
        self._drain: asyncio.Task[None] | None = None
        self._total = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Look and act until told to stop."""
        server = Server(
            {
                "/healthz": self._healthz,
                "/engine/live": self._engine_live,
                "/engine/ready": self._engine_ready,
                "/drain": self._drained,
                "/status": self._status,
                "/metrics": self._exposition,
            }
        )
        await server.start(self.config.listen_port)
        try:
            while not stopping.is_set():
                await self._step()
                await _pause(stopping, LOOK_SECONDS)
        finally:
            await server.stop()
            for task in (self._load, self._question, self._drain):
                if task is not None:
                    task.cancel()
            await self._engine.close()

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
                self._question = asyncio.create_task(self._ask())
            case Action.KILL:
                await asyncio.to_thread(progress.kill, self.config.engine_process)
            case Action.NOTHING:
                pass

    async def _look(self) -> Seen:
        now = time.monotonic()
        used = await asyncio.to_thread(
            progress.usage, self.config.engine_process, self.config.weights_directory
        )
        if self._load is not None and self._load.done():
            self._finish_load(self._load, now)
        if self._progress is not None and self._load is not None:
            self._progress.update(now, used)
        live = await self._engine.is_live()
        if live and now - self._counters_at >= METRICS_SECONDS:
            self._counters, self._counters_at = await self._engine.counters(), now
        counters = self._counters
        return Seen(
            live=live,
            process=used.processes > 0,
            engine=used.engine_pid,
            repository=await self._engine.repository(self.config.models) if live else Repository.ABSENT,
            busy_loading=self._load is not None,
            load_error=self._load_error,
            marker=(
                float(used.mapped_bytes),
                float(used.read_bytes),
                float(used.cpu_ticks),
                counters.gpu_memory_bytes if counters else 0.0,
            ),
            answer=self._answer,
            busy_asking=self._question is not None and not self._question.done(),
            backend_failures=counters.backend_failures if counters else self.memory.backend_failures,
            draining=self._drain is not None,
        )

    async def _start_load(self) -> None:
        self._total = await asyncio.to_thread(progress.total_bytes, self.config.weights_directory)
        base = await asyncio.to_thread(
            progress.usage, self.config.engine_process, self.config.weights_directory
        )
        self._progress = progress.LoadProgress(self._total, time.monotonic(), base)
        self._load_started_at, self._load_seconds, self._load_error = datetime.now(UTC), None, None
        self._load = asyncio.create_task(self._engine.load(self.config.models))

    def _finish_load(self, load: asyncio.Task[str | None], now: float) -> None:
        self._load_error = load.result()
        self._load = None
        if self._load_error is None and self._progress is not None:
            self._load_seconds = now - self._progress.started
            self.metrics.load_seconds.set(self._load_seconds)

    async def _ask(self) -> None:
        started, before = time.monotonic(), self._counters
        number = self._asked = self._asked + 1
        try:
            words = await canary.ask(self.config.engine_grpc, self.config.model_name, self.config.canary)
        except canary.CanaryError as error:
            # A queue before us is no illness: others were answered while we waited.
            timed_out = time.monotonic() - started >= self.config.canary.timeout_seconds
            after = await self._engine.counters()
            if timed_out and before and after and after.successes > before.successes:
                log.info("canary undecided: the engine is busy and answers others")
                return
            self.metrics.canary_failures.inc()
            self._answer = Answer(number, good=False, message=str(error))
            return
        self._last_latency = time.monotonic() - started
        self._last_good, self._last_text = datetime.now(UTC), words[:80]
        self.metrics.canary_seconds.observe(self._last_latency)
        self._answer = Answer(number, good=True, message="")

    def _tell(self, before: Memory) -> None:
        now = self.memory
        for state in State:
            self.metrics.state.labels(state.value).set(1 if state is now.state else 0)
        self.metrics.ready.set(1 if now.ready else 0)
        self.metrics.heals.inc(now.heals - before.heals)
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
            self._drain = asyncio.create_task(self._wait_for_quiet())
        await asyncio.shield(self._drain)
        return text(200, "drained")

    async def _wait_for_quiet(self) -> None:
        await asyncio.sleep(self.config.endpoint_delay_seconds)
        deadline = time.monotonic() + self.config.drain_timeout_seconds
        quiet, last = 0, -1.0
        while quiet < QUIET_LOOKS and time.monotonic() < deadline:
            counters = await self._engine.counters()
            if counters is None:
                return  # the engine is gone: nothing can be under way
            idle = counters.in_flight == 0 and counters.successes in {last, -1.0}
            quiet = quiet + 1 if idle else 0
            last = counters.successes
            await asyncio.sleep(LOOK_SECONDS)
        log.info("drained", extra={"quiet": quiet >= QUIET_LOOKS})

    async def _status(self) -> Response:
        return 200, "application/json", json.dumps(self.status()).encode()

    def status(self) -> dict[str, Any]:
        """Return what the operator asks for (contract: ../README.md)."""
        memory, load = self.memory, self._progress
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
            },
            "canary": {
                "lastSuccessAt": _rfc3339(self._last_good),
                "latencySeconds": self._last_latency,
                "consecutiveFailures": memory.bad_answers,
                "lastAnswer": self._last_text,
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
