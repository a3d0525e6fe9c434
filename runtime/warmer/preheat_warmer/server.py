"""Who asks the warmer: the operator (/progress), the kubelet (/healthz), Prometheus (/metrics)."""

import json
import socket
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from preheat_warmer.errors import Hopeless, Reason
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
        yield GaugeMetricFamily("preheat_warmer_files", "Files that are whole and verified.", p.files_done)
        yield CounterMetricFamily(
            "preheat_warmer_fetched_bytes", "Bytes that came from the source in this run.", p.bytes_fetched
        )
        yield CounterMetricFamily("preheat_warmer_retries", "Requests that had to be made again.", p.retries)


class _Server(ThreadingHTTPServer):
    """Answers on IPv4 and IPv6 alike: a cluster may have either."""

    daemon_threads = True

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        dual = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if dual else socket.AF_INET
        super().__init__(("", port), handler)

    @override
    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(port: int, progress: Progress) -> ThreadingHTTPServer:
    """Serve in a thread of its own; return the server, whose shutdown() ends it. Raises Hopeless."""
    registry = CollectorRegistry()
    registry.register(_Numbers(progress))

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            answers = {
                "/progress": lambda: ("application/json", json.dumps(progress.report()).encode()),
                "/healthz": lambda: ("text/plain", b"ok\n"),
                "/metrics": lambda: ("text/plain; version=0.0.4; charset=utf-8", generate_latest(registry)),
            }
            found = answers.get(self.path.partition("?")[0])
            kind, body = found() if found else ("text/plain", b"/progress, /healthz and /metrics are here\n")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Leave polls out of the log."""

    try:
        server = _Server(port, Handler)
    except OSError as error:
        raise Hopeless(
            Reason.INVALID_CONFIG, f"listenPort {port} cannot be used: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
