"""An HTTP server with ranges and ETags that misbehaves as it is told, and counts what it sends."""

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

BLOCK_BYTES = 64 << 10
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for content. ``number`` counts from 1, ``sent`` is what all answers together have sent so far."""

    path: str
    start: int
    end: int
    number: int
    sent: int
    token: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How to answer it. ``cut``: hang up after so many bytes. ``flip``: the place of a byte to turn over."""

    status: int = 0
    retry_after: str = ""
    cut: int | None = None
    flip: int | None = None


WELL = Answer()


class Server:
    """Serves files from memory. Content under ``/m/``; ``manners`` says how each request for it goes."""

    def __init__(self, files: Mapping[str, bytes], bytes_per_second: float) -> None:
        self.files = dict(files)
        sums = "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items())
        self._sums = sums.encode()
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0
        self.manners: Callable[[Asked], Answer] = lambda _: WELL
        self.sent = 0
        self.asked = 0
        self.gone = False
        self.changed = threading.Condition()
        self._http: _HTTP | None = None
        self._port = 0

    @property
    def total(self) -> int:
        return sum(map(len, self.files.values()))

    def wait_until_sent(self, count: int, seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.sent >= count, seconds)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}/m/"

    @contextmanager
    def running(self) -> Iterator["Server"]:
        self.come()
        try:
            yield self
        finally:
            if not self.gone:
                self.go()

    def come(self) -> None:
        """Listen, at the port of before."""
        self.gone = False
        self._http = _HTTP(("127.0.0.1", self._port), _Handler)
        self._http.served = self
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def go(self) -> None:
        """Hang up on everybody and listen no more."""
        self.gone = True
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    def body(self, name: str) -> bytes | None:
        return self._sums if name == "SHA256SUMS" else self.files.get(name)

    def count(self, count: int) -> None:
        """Count bytes that are about to go, at the pace of the whole server."""
        with self.changed:
            self.sent += count
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.01) + count / self._bytes_per_second
            wait = self._free_at - now
            self.changed.notify_all()
        if wait > 0:
            time.sleep(wait)


class _HTTP(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    served: Server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTP

    def do_GET(self) -> None:
        served = self.server.served
        name = self.path.removeprefix("/m/")
        body = served.body(name)
        if served.gone:
            self.close_connection = True
        elif body is None:
            self._say(404, {}, b"not here")
        elif name == "SHA256SUMS":
            self._say(200, {}, body)
        else:
            self._content(name, body)

    def _content(self, name: str, body: bytes) -> None:
        served = self.server.served
        match = RANGE.fullmatch(self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        end = min(int(match[2]) + 1, len(body)) if match and match[2] else len(body)
        with served.changed:
            served.asked += 1
            token = self.headers.get("Authorization", "")
            asked = Asked(name, start, end, served.asked, served.sent, token)
        answer = served.manners(asked)
        etag = f'"{len(body)}-{hashlib.sha1(body[:4096]).hexdigest()}"'
        if answer.status:
            headers = {"Retry-After": answer.retry_after} if answer.retry_after else {}
            self._say(answer.status, headers, b"no")
            return
        headers = {"ETag": etag}
        if match:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        part = memoryview(body)[start:end]
        if answer.flip is not None and start <= answer.flip < end:
            wrong = bytearray(part)
            wrong[answer.flip - start] ^= 1
            part = memoryview(wrong)
        self._say(206 if match else 200, headers, part, answer.cut)

    def _say(
        self, status: int, headers: Mapping[str, str], body: bytes | memoryview, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        served, sent = self.server.served, body[:cut]
        content = "ETag" in headers
        for at in range(0, len(sent), BLOCK_BYTES):
            block = sent[at : at + BLOCK_BYTES]
            if served.gone:
                self.close_connection = True
                return
            if content:
                served.count(len(block))
            self.wfile.write(block)
        if cut is not None:
            self.close_connection = True

    @override
    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK_BYTES)  # what was sent has arrived
        super().setup()

    @override
    def handle(self) -> None:
        with suppress(OSError):  # the other side was killed
            super().handle()

    @override
    def log_message(self, *args: object) -> None:
        pass
