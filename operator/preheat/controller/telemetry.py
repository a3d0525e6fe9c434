"""What the operator says of itself: /metrics, /healthz and /readyz on one port.

/healthz fails when loops exist and none of them has ended a pass for STUCK_SECONDS: then nothing is
watched over any more, and only a restart helps.
"""

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import make_wsgi_app
from typing_extensions import override

from preheat.api.llmdeployment import LLMDeployment
from preheat.controller.turns import Turns
from preheat.decide.autoscale import Outcome
from preheat.decide.signals import Window

STUCK_SECONDS = 900.0
IDLE_SECONDS = 5.0
"""How long a client may say nothing."""
CONNECTIONS = 32
"""How many are held open; one more, and the oldest is cut off. So those who ask slowly keep no probe out."""


class Metrics:
    """The operator's metrics. Names and units follow the Prometheus conventions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Counter(
            "preheat_reconcile_total",
            "Passes over an object, by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "preheat_reconcile_seconds",
            "Time of a pass over an object.",
            ["kind"],
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 30),
            registry=self.registry,
        )
        self.writes = Counter(
            "preheat_api_writes_total",
            "Writes to the API server, by kind and verb.",
            ["kind", "verb"],
            registry=self.registry,
        )
        self.objects = Gauge("preheat_objects", "Objects that are looked after.", registry=self.registry)
        self.watch_restarts = Counter(
            "preheat_watch_restarts_total",
            "How often watching ended and began anew, as a whole.",
            registry=self.registry,
        )
        self._scaling = {
            name: Gauge(f"preheat_scaling_{name}", words, ["namespace", "name"], registry=self.registry)
            for name, words in SCALING.items()
        }
        self._inputs = Gauge(
            "preheat_scaling_input",
            "The numbers from which the number of replicas was decided last, by name.",
            ["namespace", "name", "input"],
            registry=self.registry,
        )
        self._shown: dict[tuple[str, str], frozenset[str]] = {}
        """Which inputs have a series, by namespace and name."""
        self.decisions = Counter(
            "preheat_scaling_decisions_total",
            "Changes of the number of replicas, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.prometheus = Counter(
            "preheat_prometheus_questions_total",
            "Questions to Prometheus, by what was asked and what came of it.",
            ["what", "outcome"],
            registry=self.registry,
        )
        self.turns = Turns(self.registry)
        self.last_event = Gauge(
            "preheat_last_event_timestamp_seconds",
            "When the last watch event came, Unix time.",
            ["kind"],
            registry=self.registry,
        )

    def show_scaling(self, service: LLMDeployment, outcome: Outcome) -> None:
        """Show what was measured and decided. What is not known has no series: it is not zero."""
        where = (service.namespace, service.name)
        self._scaling["wanted_replicas"].labels(*where).set(outcome.replicas)
        self._scaling["load_p50_seconds"].labels(*where).set(outcome.load.p50_seconds)
        self._scaling["load_p90_seconds"].labels(*where).set(outcome.load.p90_seconds)
        before = service.status.scaling.decisions if service.status.scaling is not None else ()
        for decision in outcome.status.decisions:
            if outcome.said is not None and decision not in before:
                self.decisions.labels(decision.reason).inc()
        if outcome.window is None:
            return
        for name, value in _measured(outcome.window).items():
            if value is None:
                self._scaling[name].remove(*where)
            else:
                self._scaling[name].labels(*where).set(value)
        self._show_inputs(where, outcome.said.inputs if outcome.said is not None else {})

    def _show_inputs(self, where: tuple[str, str], inputs: Mapping[str, float]) -> None:
        for gone in self._shown.pop(where, frozenset()) - inputs.keys():
            self._inputs.remove(*where, gone)
        if inputs:
            self._shown[where] = frozenset(inputs)
        for name, value in inputs.items():
            self._inputs.labels(*where, name).set(value)

    def forget_scaling(self, namespace: str, name: str) -> None:
        """Show nothing any more of what is gone."""
        for gauge in self._scaling.values():
            gauge.remove(namespace, name)
        self._show_inputs((namespace, name), {})


SCALING = {
    "wanted_replicas": "Replicas that there should be, by Preheat's own decision.",
    "load_p50_seconds": "What the next load is expected to take, its median.",
    "load_p90_seconds": "What the next load is expected to take, its 90 % quantile.",
    "arrivals_per_second": "Requests that came, in the last window.",
    "in_service": "Requests that were served at once, the mean of the last window.",
    "queued": "Requests that wait, at the end of the last window.",
    "service_seconds": "How long a request is served, of those that ended in the last window.",
    "ready_replicas": "Replicas that serve, at the end of the last window.",
    "loading_replicas": "Replicas on their way, at the end of the last window.",
    "available_replicas": "The most replicas that the GPUs allow, as far as Preheat knows.",
    "scraped": "1 when the last window is from Prometheus, because too few replicas told; else 0.",
    "told_share": "How much of the replicas told how much they are asked, 0 to 1.",
    "prompt_tokens_per_second": "Prompt tokens, in the last window, where the engine says.",
    "generated_tokens_per_second": "Generated tokens, in the last window, where the engine says.",
}


def _measured(window: Window) -> dict[str, float | None]:
    sample = window.sample

    def rate(count: float | None) -> float | None:
        return None if count is None or sample.seconds <= 0 else count / sample.seconds

    return {
        "arrivals_per_second": rate(sample.arrivals),
        "in_service": sample.in_service,
        "queued": sample.queued,
        "service_seconds": sample.service_seconds,
        "ready_replicas": sample.ready,
        "loading_replicas": len(sample.loading),
        "available_replicas": sample.available,
        "scraped": float(window.scraped),
        "told_share": window.share,
        "prompt_tokens_per_second": rate(window.prompt_tokens),
        "generated_tokens_per_second": rate(window.generated_tokens),
    }


class Probe:
    """Answers whether the operator lives and whether it has begun."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ready = False
        self.last_progress = clock()
        self.loops = 0

    def beat(self) -> None:
        """Note that a loop ended a pass."""
        self.last_progress = self._clock()

    def is_alive(self) -> bool:
        """Tell whether some loop has ended a pass lately. With no object there is nothing to do."""
        return self.loops == 0 or self._clock() - self.last_progress < STUCK_SECONDS


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each client, so that none waits for another."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # five, without this: the sixth waits a second for its handshake

    @override
    def server_bind(self) -> None:
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        # Not HTTPServer's own: it asks DNS who 0.0.0.0 is, and waits for the answer.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "preheat-operator", self.server_address[1]
        self.setup_environ()

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.append(request)
            if len(self._open) > CONNECTIONS:
                _cut_off(self._open.popleft())
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        with self._lock, suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)


def _cut_off(client: socket.socket) -> None:
    """End a connection that another thread reads from: it reads the end, and closes it."""
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    @override
    def handle(self) -> None:
        with suppress(OSError):  # whoever asked is gone, or said nothing for too long
            super().handle()

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Leave probes and scrapes out of the log."""


def serve(port: int, metrics: Metrics, probe: Probe) -> Callable[[], None]:
    """Serve in a thread of its own; return how to stop it."""
    exposition: WSGIApplication = make_wsgi_app(metrics.registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        checks = {"/healthz": probe.is_alive, "/readyz": lambda: probe.ready}
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return exposition(environ, start_response)
        if path not in checks:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics, /healthz and /readyz are here\n"]
        good = checks[path]()
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if good else b"no\n"]

    server = make_server("", port, app, server_class=_Server, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="telemetry", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
