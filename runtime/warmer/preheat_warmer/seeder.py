"""A seeder: gives the weights that lie on this node to the warmers of other nodes, and to nobody else.

It serves the files of the published manifest, and the manifest; no path of a request ever reaches the disk. It holds
a shared lock on the manifest: what is served is not removed meanwhile. The kernel sends the files (sendfile).
"""

import fcntl
import os
import re
import signal
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import unquote

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from typing_extensions import override

from preheat_warmer.config import SeederConfig, seeder_from_environment
from preheat_warmer.errors import Hopeless, Passing, Reason
from preheat_warmer.manifest import File, parse_published
from preheat_warmer.publish import MANIFEST, PUBLISHED
from preheat_warmer.server import DualStackServer
from preheat_warmer.spans import Span
from preheat_warmer.telling import log
from preheat_warmer.tokens import Doorkeeper, Refused

CONNECTIONS_AT_MOST = 64
"""Four warmers of up to eight connections, and room for probes. One more is told to come again."""
IDLE_SECONDS = 10.0
"""For the next request of a connection."""
STALL_SECONDS = 30.0
"""For somebody who has asked and does not read."""
TELL_SECONDS = 1.0
"""Between two lines of the log about who was refused."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})", re.ASCII)


def seed(environment: Mapping[str, str]) -> None:
    """Serve until SIGTERM. Raises Hopeless, or Passing when nothing whole is published here."""
    config = seeder_from_environment(environment)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    with Shelf(config.destination) as shelf:
        server = serve(config, shelf)
        log("serving", port=server.server_address[1], files=len(shelf.files), node=config.node_name)
        told.wait()
        log("stopped", sent=server.sent_bytes)


def serve(config: SeederConfig, shelf: "Shelf") -> "_Server":
    """Serve in threads of their own; return the server. Raises Hopeless."""
    door = Doorkeeper(config.issuer_keys, config.audience, config.namespace)
    try:
        server = _Server(config.listen_port, shelf, door)
    except OSError as error:
        raise Hopeless(
            Reason.INVALID_CONFIG, f"listenPort {config.listen_port} cannot be used: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="seeder", daemon=True).start()
    return server


class Shelf:
    """What is published here, held while it is served. Raises Passing when there is nothing, or it is going."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._held = ExitStack()
        self._folder = -1
        self.files: Mapping[str, File] = {}
        """By the path in a URL."""
        self.manifest = b""

    def __enter__(self) -> Self:
        with ExitStack() as held:
            try:
                self._folder = os.open(self._destination / PUBLISHED, os.O_RDONLY | os.O_DIRECTORY)
                held.callback(os.close, self._folder)
                self.manifest = self._hold(held)
            except OSError as error:
                raise Passing(
                    Reason.DISK_ERROR,
                    f"no weights to serve in {self._destination / PUBLISHED}: {error.strerror}",
                ) from error
            manifest = parse_published(self.manifest.decode("utf-8", "replace"))
            self.files = {f"/{PUBLISHED}/{file.path}": file for file in manifest.files}
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _hold(self, held: ExitStack) -> bytes:
        """Return the manifest, locked. Raises OSError when somebody is about to remove it, or has."""
        stream = held.enter_context(os.fdopen(self._open(MANIFEST), "rb"))
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.fstat(stream.fileno()).st_nlink == 0:
            raise FileNotFoundError(2, "it was removed a moment ago")
        return stream.read()

    def open(self, file: File) -> BinaryIO:
        """Open a file of the manifest. Raises OSError."""
        stream = os.fdopen(self._open(file.path), "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
            raise OSError(22, "it is no file")
        return stream

    def _open(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)


class _Server(DualStackServer):
    """A thread a connection, and no more of them than there are seats."""

    request_queue_size = CONNECTIONS_AT_MOST

    def __init__(self, port: int, shelf: Shelf, door: Doorkeeper) -> None:
        self.shelf = shelf
        self.door = door
        self.registry = CollectorRegistry()
        self.sent = Counter("preheat_seeder_sent_bytes", "Bytes of weights sent.", registry=self.registry)
        self.refused = Counter(
            "preheat_seeder_refused", "Requests without the right token.", registry=self.registry
        )
        self.taken = Gauge("preheat_seeder_connections", "Connections that are open.", registry=self.registry)
        self.sent_bytes = 0
        self._seats = threading.Semaphore(CONNECTIONS_AT_MOST)
        self._counting = threading.Lock()
        self._told = 0.0
        super().__init__(port, _Handler)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        if self._seats.acquire(blocking=False):
            self.taken.inc()
            super().process_request(request, client_address)
            return
        try:
            request.sendall(
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
        except OSError:
            pass
        finally:
            self.shutdown_request(request)

    @override
    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.taken.dec()
            self._seats.release()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: who hung up is gone, and a connection that met a bug is closed without an answer."""

    def count(self, sent: int) -> None:
        """Note what was sent."""
        self.sent.inc(sent)
        with self._counting:
            self.sent_bytes += sent

    def tell_refusal(self, who: str, why: str) -> None:
        """Note that somebody was refused; not every one gets a line."""
        self.refused.inc()
        with self._counting:
            now = time.monotonic()
            if now - self._told < TELL_SECONDS:
                return
            self._told = now
        log("refused", who=who, why=why)


class _Handler(BaseHTTPRequestHandler):
    """GET, and nothing else."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "preheat-seeder", ""
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/healthz":
            self._answer(HTTPStatus.OK, b"ok\n")
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, generate_latest(self.server.registry), "text/plain; version=0.0.4")
        elif self._may_come_in():
            self._give(path)

    def _may_come_in(self) -> bool:
        try:
            self.server.door.check(self.headers.get("Authorization", ""))
        except Refused as why:
            self.server.tell_refusal(str(self.client_address[0]), str(why))
            self._answer(
                HTTPStatus.UNAUTHORIZED,
                b"a token for these weights is needed\n",
                **{"WWW-Authenticate": "Bearer"},
            )
            return False
        return True

    def _give(self, path: str) -> None:
        shelf = self.server.shelf
        if path == f"/{PUBLISHED}/{MANIFEST}":
            self._answer(HTTPStatus.OK, shelf.manifest, "application/json")
            return
        file = shelf.files.get(path)
        if file is None:
            self._answer(HTTPStatus.NOT_FOUND, b"not one of the files of the manifest\n")
            return
        try:
            stream = shelf.open(file)
        except OSError as error:
            log("unreadable", path=file.path, why=error.strerror)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"it cannot be read\n")
            return
        with stream:
            self._send(stream, os.fstat(stream.fileno()).st_size)

    def _send(self, stream: BinaryIO, size: int) -> None:
        span = asked_span(self.headers.get("Range"), size)
        if span is not None and span[0] >= size:
            self._answer(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", **{"Content-Range": f"bytes */{size}"}
            )
            return
        start, end = span or (0, size)
        self.send_response(HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if span is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if end > start:
            self._pour(stream, start, end)

    def _pour(self, stream: BinaryIO, start: int, end: int) -> None:
        self.close_connection = True  # unless all of it went out
        self.connection.settimeout(STALL_SECONDS)
        try:
            sent = self.connection.sendfile(stream, start, end - start)
            self.close_connection = sent < end - start
        finally:
            self.server.count(max(0, stream.tell() - start))
            self.connection.settimeout(IDLE_SECONDS)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Leave requests out of the log; there are metrics."""


def asked_span(header: str | None, size: int) -> Span | None:
    """Return the bytes that a Range header asks for, end excluded; None is all of them.

    Several ranges, other units and nonsense are answered with everything, as RFC 9110 allows.

    >>> asked_span("bytes=2-3", 10), asked_span("bytes=2-", 10), asked_span("bytes=8-99", 10), asked_span("x", 10)
    ((2, 4), (2, 10), (8, 10), None)
    """
    found = _RANGE.fullmatch(header or "")
    if found is None:
        return None
    start, end = int(found[1]), int(found[2]) + 1 if found[2] else size
    if found[2] and end <= start:
        return None
    return start, min(end, size)
