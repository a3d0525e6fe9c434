"""HTTP/1.1 straight from the socket, in threads: the transport below httpx.

httpx's own transport parses every piece of a body in Python: 0.7 GB/s on a core, with the core full. Python's
http.client reads a body with one call per megabyte: 3.5 GB/s (docs/decisions/0013). Redirects, tokens
and errors stay with httpx and ``web.py``. Nothing is known here of proxies.
"""

import http.client
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
from typing_extensions import override

from preheat_warmer.threads import in_thread

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
IDLE_AT_MOST = 64
"""Connections that are kept open for the next request."""
CHUNK_BYTES = 256 << 10
WAITING_BYTES = (64 << 10, 200 << 10)
"""Between what bounds the kernel's buffer of a connection is kept short. More than net.core.rmem_max (208 KiB where
nobody raised it) cannot be asked for."""
TUNED_BYTES = 6 << 20
"""What the kernel's own tuning gives a connection at most where nobody raised it (net.ipv4.tcp_rmem)."""
BYTES_PER_SECOND = 250_000_000
"""What a connection with a short buffer must still be able to bring: a buffer's worth each round trip."""
MIN_RTT = struct.Struct("=148xI")
"""Where TCP_INFO has tcpi_min_rtt, in microseconds (linux/tcp.h; never moved, later fields are appended)."""

_Key = tuple[str, str, int]


class _Stale(Exception):  # noqa: N818 - private
    """A kept connection had been closed by the server: ask again on another."""


class Direct(httpx.AsyncBaseTransport):
    """Connections are kept and used again. Everything but reads and writes happens on the event loop."""

    def __init__(self, connect_seconds: float = CONNECT_SECONDS, read_seconds: float = READ_SECONDS) -> None:
        self._patience = connect_seconds, read_seconds
        self._idle: list[_Connection] = []
        self._context: ssl.SSLContext | None = None

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        key = _key(request.url)
        while (kept := self._kept(key)) is not None:
            with suppress(_Stale):
                return await self._ask(kept, request)
        return await self._ask(_Connection(key, self._tls(key), *self._patience), request)

    async def _ask(self, connection: "_Connection", request: httpx.Request) -> httpx.Response:
        try:
            answer = await in_thread(lambda: connection.ask(request), connection.break_off)
        except BaseException:
            connection.close()
            raise
        body = Body(answer, connection, lambda: self._done(connection, body))
        return httpx.Response(
            answer.status,
            headers=[
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()
            ],
            stream=body,
            extensions={
                "network_stream": connection,
                "pipe": body,
                "reason_phrase": answer.reason.encode("latin-1"),
            },
        )

    def _kept(self, key: _Key) -> "_Connection | None":
        for place, connection in enumerate(self._idle):
            if connection.key == key:
                return self._idle.pop(place)
        return None

    def _tls(self, key: _Key) -> ssl.SSLContext | None:
        if key[0] != "https":
            return None
        if self._context is None:
            self._context = httpx.create_ssl_context()
        return self._context

    def _done(self, connection: "_Connection", body: "Body") -> None:
        """Keep a connection whose answer was read to its end, close any other."""
        if body.end() and not connection.is_wide and len(self._idle) < IDLE_AT_MOST:
            self._idle.append(connection)
        else:
            connection.close()

    @override
    async def aclose(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()


class _Connection:
    """One connection; a thread at a time uses it."""

    def __init__(
        self, key: _Key, context: ssl.SSLContext | None, connect_seconds: float, read_seconds: float
    ) -> None:
        self.key = key
        self._read_seconds = read_seconds
        _, host, port = key
        self._http = (
            http.client.HTTPConnection(host, port, timeout=connect_seconds)
            if context is None
            else http.client.HTTPSConnection(host, port, timeout=connect_seconds, context=context)
        )
        self._socket: socket.socket | None = None
        self._broken_off = False
        self._peer: Any = None
        self._is_tuned = False
        """It was decided how long the kernel's buffer may be. Made shorter later, what is under way would be dropped."""
        self.is_wide = False
        """The kernel may make the buffer longer than what may wait of another file: the connection is used for this one alone."""

    def ask(self, request: httpx.Request) -> http.client.HTTPResponse:
        """Send a request; return the answer's head. Raises _Stale or what httpx raises."""
        kept = self._socket is not None
        self._connect()
        try:
            self._http.putrequest(
                request.method,
                request.url.raw_path.decode("ascii"),
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in request.headers.raw:
                self._http.putheader(name, value)
            self._http.endheaders(request.content or None)
            return self._http.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            if kept and isinstance(error, ConnectionError):
                raise _Stale from error
            raise _in_terms_of_httpx(error) from error

    def _connect(self) -> None:
        if self._socket is not None:
            return
        try:
            self._http.connect()
            self._socket = self._http.sock
            self._socket.settimeout(self._read_seconds)
            self._peer = self._socket.getpeername()
            if self._broken_off:  # before there was a socket to break off
                self.break_off()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error)) from error

    def get_extra_info(self, name: str) -> Any:
        """Tell whom it leads to, as httpx's own connections do."""
        return self._peer if name == "server_addr" else None

    def break_off(self) -> None:
        """End what another thread waits for."""
        self._broken_off = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def wait_short(self, count: int) -> None:
        """Keep the kernel's buffer short where the other end is near; where it is far, the kernel knows best.

        TCP_WINDOW_CLAMP would not do: the kernel's tuning raises it again. The kernel counts its own overhead, so
        it takes twice what it is told. A short buffer means short reads, of which each costs a change of threads: where
        more may wait than the kernel would have it, it is left alone.
        """
        if self._socket is None or self._is_tuned:
            return
        self._is_tuned = True
        if count >= TUNED_BYTES:
            self.is_wide = True
            return
        least, most = WAITING_BYTES
        waiting = min(max(count, least), most)
        with suppress(OSError, struct.error):
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, MIN_RTT.size)
            if MIN_RTT.unpack(info)[0] * BYTES_PER_SECOND <= waiting * 1_000_000:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, waiting // 2)

    def close(self) -> None:
        """Hang up."""
        self._http.close()


class Body(httpx.AsyncByteStream):
    """A body: for the event loop by chunks, or for a thread that calls ``read_into`` (a Pipe)."""

    def __init__(
        self, answer: http.client.HTTPResponse, connection: "_Connection", done: Callable[[], None]
    ) -> None:
        self._answer = answer
        self._done = done
        self._broken = False
        self.break_off = connection.break_off
        self.wait_short = connection.wait_short

    def read_into(self, memory: memoryview) -> int:
        """Wait for bytes and put some there; return how many, 0 at the end. Raises what httpx raises."""
        try:
            count = self._next(memory)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._broken = True
            raise _in_terms_of_httpx(error) from error
        if not count and self._answer.length:
            self._broken = True
            raise httpx.RemoteProtocolError(f"the connection ended {self._answer.length:,} bytes early")
        return count

    def _next(self, memory: memoryview) -> int:
        left = self._answer.length
        if left is None:  # chunked, or up to the end of the connection
            piece = self._answer.read1(len(memory))
            memory[: len(piece)] = piece
            return len(piece)
        # http.client's own way into memory that is there waits until that is full.
        count = self._answer.fp.readinto1(memory[:left]) if left else 0
        self._answer.length = left - count
        return count

    def end(self) -> bool:
        """Let go of the answer; tell whether the connection can be used again: nothing of it is left there."""
        whole = self._answer.length == 0 or (self._answer.chunked and self._answer.isclosed())
        self._answer.close()
        return bool(whole and not self._broken and not self._answer.will_close)

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        memory = memoryview(bytearray(CHUNK_BYTES))
        while count := await in_thread(lambda: self.read_into(memory), self.break_off):
            yield bytes(memory[:count])

    @override
    async def aclose(self) -> None:
        self._done()


def _key(url: httpx.URL) -> _Key:
    port = url.port or (443 if url.scheme == "https" else 80)
    return url.scheme, url.raw_host.decode("ascii").strip("[]"), port


def _in_terms_of_httpx(error: Exception) -> httpx.TransportError:
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout("nothing came in time")
    if isinstance(error, OSError):
        return httpx.ReadError(str(error))
    return httpx.RemoteProtocolError(f"{type(error).__name__} {error}".rstrip())
