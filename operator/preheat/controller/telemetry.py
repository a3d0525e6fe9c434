"""What the operator says of itself: /metrics, /healthz and /readyz on one port.

/healthz fails when loops exist and none of them has ended a pass for STUCK_SECONDS: then nothing is
watched over any more, and only a restart helps.
"""

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import make_wsgi_app
from typing_extensions import override

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
        self.last_event = Gauge(
            "preheat_last_event_timestamp_seconds",
            "When the last watch event came, Unix time.",
            ["kind"],
            registry=self.registry,
        )


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
