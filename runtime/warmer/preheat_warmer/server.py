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
from preheat_warmer.tally import Tally


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
            "preheat_warmer_fetched_bytes", "Bytes that came in this run.", p.bytes_fetched
        )
        yield CounterMetricFamily(
            "preheat_warmer_peer_bytes", "Bytes of them that came from neighbours.", p.bytes_from_peers
        )
        yield CounterMetricFamily("preheat_warmer_retries", "Requests that had to be made again.", p.retries)


class KeeperNumbers(Collector):
    """What a keeper has done so far, and how far it is."""

    def __init__(self, progress: Progress, tally: Tally) -> None:
        self._progress = progress
        self._tally = tally

    @override
    def collect(self) -> Iterable[Metric]:
        p, t = self._progress, self._tally
        yield CounterMetricFamily("preheat_keeper_freed_bytes", "Bytes that were deleted.", t.freed_bytes)
        yield CounterMetricFamily("preheat_keeper_removed", "Caches that were removed.", t.removed)
        yield GaugeMetricFamily(
            "preheat_keeper_in_use", "Caches that nobody asks for and somebody uses.", t.in_use_count
        )
        yield GaugeMetricFamily("preheat_keeper_stuck", "Folders that could not be removed.", t.stuck_count)
        yield GaugeMetricFamily(
            "preheat_keeper_bytes_to_verify", "Bytes to verify in this run.", p.bytes_total
        )
        yield CounterMetricFamily(
            "preheat_keeper_verified_bytes", "Bytes that were read and hashed.", p.bytes_done
        )
        yield CounterMetricFamily("preheat_keeper_verified", "Caches that are what they must be.", t.verified)
        yield GaugeMetricFamily("preheat_keeper_corrupt", "Caches that are not.", t.corrupt_count)


class DualStackServer(ThreadingHTTPServer):
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


def serve(port: int, progress: Progress, numbers: Collector | None = None) -> ThreadingHTTPServer:
    """Serve in a thread of its own; return the server, whose shutdown() ends it. Raises Hopeless."""
    registry = CollectorRegistry()
    registry.register(numbers or _Numbers(progress))

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
        server = DualStackServer(port, Handler)
    except OSError as error:
        raise Hopeless(
            Reason.INVALID_CONFIG, f"listenPort {port} cannot be used: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
