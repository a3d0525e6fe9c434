"""Who asks the warmer: the operator (/progress), the kubelet (/healthz), Prometheus (/metrics)."""

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from preheat_warmer.progress import Progress


class _Numbers(Collector):
    """The progress as metrics, read at scrape time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @override
    def collect(self) -> Iterable[Metric]:
        p = self._progress
        yield GaugeMetricFamily("preheat_warmer_bytes", "Bytes of the model that are on disk.", p.bytes_done)
        yield GaugeMetricFamily("preheat_warmer_expected_bytes", "Bytes of the model.", p.bytes_total)
        yield CounterMetricFamily(
            "preheat_warmer_fetched_bytes", "Bytes that came over the wire.", p.bytes_fetched
        )


def serve(port: int, progress: Progress) -> ThreadingHTTPServer:
    """Serve in a thread of its own; return the server, whose shutdown() ends it."""
    registry = CollectorRegistry()
    registry.register(_Numbers(progress))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {
                "/progress": lambda: ("application/json", json.dumps(progress.report()).encode()),
                "/healthz": lambda: ("text/plain", b"ok\n"),
                "/metrics": lambda: ("text/plain; version=0.0.4; charset=utf-8", generate_latest(registry)),
            }
            found = answers.get(self.path)
            kind, body = found() if found else ("text/plain", b"/progress, /healthz and /metrics are here\n")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Leave polls out of the log."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
