"""What the operator says of itself: /metrics, /healthz and /readyz on one port.

/healthz fails when loops exist and none of them has ended a pass for STUCK_SECONDS: then nothing is
watched over any more, and only a restart helps.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import make_wsgi_app
from typing_extensions import override

STUCK_SECONDS = 900.0


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


class _Quiet(WSGIRequestHandler):
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

    server = make_server("", port, app, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="telemetry", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
