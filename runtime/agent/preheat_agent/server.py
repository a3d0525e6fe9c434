"""Who asks the agent: the kubelet's probes, the preStop hook, the operator, Prometheus. One port.

Everything is asked with GET. What is POSTed (the operator's advice) goes to a table of its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

Response = tuple[int, str, bytes]
"""Status code, content type, body."""
Route = Callable[[], Awaitable[Response]]
Post = Callable[[Mapping[str, str], bytes], Awaitable[Response]]
"""Takes the headers, their names in small letters, and the body."""

HEADER_LIMIT_BYTES = 8192
BODY_LIMIT_BYTES = 4096
HEADER_SECONDS = 5.0
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    503: "Service Unavailable",
}

log = logging.getLogger(__name__)


def text(status: int, words: str) -> Response:
    """Return a plain-text response."""
    return status, "text/plain; charset=utf-8", f"{words}\n".encode()


class Server:
    """A small HTTP server: one request per connection, closed after its answer."""

    def __init__(self, routes: Mapping[str, Route], posts: Mapping[str, Post] | None = None) -> None:
        self._routes = routes
        self._posts = posts or {}
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
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split()
        if len(words) != 3:
            return text(400, "this is no HTTP request")
        method, target, _ = words
        path = target.split("?", 1)[0]
        post = self._posts.get(path)
        if method == "POST" and post is not None:
            return await self._posted(reader, lines, post)
        if method != "GET":
            return text(405, "only GET")
        route = self._routes.get(path)
        if route is None:
            return text(404, "here are: " + " ".join(sorted(self._routes)))
        return await route()

    async def _posted(self, reader: asyncio.StreamReader, lines: list[str], post: Post) -> Response:
        pairs = (line.partition(":") for line in lines if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return text(400, "there is no Content-Length")
        if int(length) > BODY_LIMIT_BYTES:
            return text(413, f"the body is longer than {BODY_LIMIT_BYTES} bytes")
        async with asyncio.timeout(HEADER_SECONDS):
            body = await reader.readexactly(int(length))
        return await post(headers, body)
