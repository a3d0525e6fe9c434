"""Who asks us: the kubelet's probes, the operator (``/arrivals``), Prometheus. One port, GET alone."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from preheat_front.answers import plain
from preheat_front.asking import parse_head
from preheat_front.doors import Doors
from preheat_front.guests import Guests
from preheat_front.tally import Tally

HEAD_BYTES = 8192
HEAD_SECONDS = 5.0
CONNECTIONS = 64

Response = tuple[int, str, bytes]
"""Status code, content type, body."""


class Control:
    """A small HTTP server: one request per connection."""

    def __init__(self, routes: Mapping[str, Callable[[], Response]]) -> None:
        self._routes = routes
        self._guests = Guests(CONNECTIONS)
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._come_in, None, port, limit=HEAD_BYTES)

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _come_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._guests.serve(writer, self._attend(reader, writer))

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_SECONDS):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                return
            status, kind, body = self._respond(head)
            writer.write(plain(status, body, kind))
            await writer.drain()

    def _respond(self, head: bytes) -> Response:
        asked = parse_head(head)
        if asked is None:
            return text(400, "this is no HTTP request")
        if asked.method != "GET":
            return text(405, "only GET")
        route = self._routes.get(asked.path)
        return route() if route else text(404, "here are: " + " ".join(sorted(self._routes)))


def routes(
    tally: Tally, doors: Doors, is_draining: Callable[[], bool], failures: Callable[[], int]
) -> dict[str, Callable[[], Response]]:
    """Return what can be asked."""
    registry = CollectorRegistry()
    registry.register(_Numbers(tally, doors, failures))

    def ready() -> Response:
        if is_draining():
            return text(503, "it is told to end")
        return text(200, "ready") if doors.is_shown else text(503, "no list of slices was read yet")

    return {
        "/healthz": lambda: text(200, "alive"),
        "/readyz": ready,
        "/arrivals": lambda: (200, "application/json", arrivals(tally)),
        "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(registry)),
    }


def arrivals(tally: Tally) -> bytes:
    """Return who was asked for, as the operator reads it (contract: ../README.md)."""
    told = [
        {"namespace": namespace, "name": name, "count": counts.arrivals,
         "secondsAgo": round(tally.seconds_since(counts), 1)}
        for (namespace, name), counts in sorted(tally.all().items())
        if counts.arrivals
    ]  # fmt: skip
    return json.dumps({"schema": 1, "since": tally.since, "arrivals": told}).encode()


def text(status: int, words: str) -> Response:
    """Return a plain-text response."""
    return status, "text/plain; charset=utf-8", f"{words}\n".encode()


class _Numbers(Collector):
    """Reads the numbers when they are asked for."""

    def __init__(self, tally: Tally, doors: Doors, failures: Callable[[], int]) -> None:
        self._tally = tally
        self._doors = doors
        self._failures = failures

    @override
    def collect(self) -> Iterable[Metric]:
        asked = CounterMetricFamily(
            "preheat_front_requests",
            "Requests for a model of which no replica was ready. Arrivals wake it, others do not.",
            labels=["namespace", "name", "kind"],
        )
        for (namespace, name), counts in sorted(self._tally.all().items()):
            asked.add_metric([namespace, name, "arrival"], counts.arrivals)
            asked.add_metric([namespace, name, "other"], counts.others)
        yield asked
        yield _counter(
            "cut_off", "Connections that were ended because there were too many.", self._tally.cut_off
        )
        yield _counter("malformed", "What came and was no request, or none in time.", self._tally.malformed)
        yield _counter("watch_failures", "How often the API server was listed anew.", self._failures())
        yield _gauge("connections", "Connections that are open.", len(self._doors.guests))
        yield _gauge("ports", "Deployments that are listened for.", len(self._doors))


def _counter(name: str, words: str, value: int) -> Metric:
    return CounterMetricFamily(f"preheat_front_{name}", words, value=value)


def _gauge(name: str, words: str, value: int) -> Metric:
    return GaugeMetricFamily(f"preheat_front_{name}", words, value=value)
