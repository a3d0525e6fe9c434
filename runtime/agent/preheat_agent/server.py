"""Who asks the agent: the kubelet's probes, the preStop hook, the operator, Prometheus. GET only, one port."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

Response = tuple[int, str, bytes]
"""Status code, content type, body."""
Route = Callable[[], Awaitable[Response]]

HEADER_LIMIT_BYTES = 8192
HEADER_SECONDS = 5.0
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

log = logging.getLogger(__name__)


def text(status: int, words: str) -> Response:
    """Return a plain-text response."""
    return status, "text/plain; charset=utf-8", f"{words}\n".encode()


class Server:
    """A small HTTP server: one request per connection, closed after its answer."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None

    async def start(self, port: int, host: str = "") -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._handle, host or None, port, limit=HEADER_LIMIT_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, kind, body = await self._answer(reader)
            head = (
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return  # whoever asked is gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Response:
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return text(400, "the request's head is too long")
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
        if len(words) != 3:
            return text(400, "this is no HTTP request")
        method, target, _ = words
        if method != "GET":
            return text(405, "only GET")
        route = self._routes.get(target.split("?", 1)[0])
        if route is None:
            return text(404, "here are: " + " ".join(sorted(self._routes)))
        return await route()
