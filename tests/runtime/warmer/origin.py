"""An HTTP server that can be told to misbehave, and remembers what it was asked and what it sent."""

import hashlib
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

BLOCK_BYTES = 64 << 10
BUFFER_BYTES = 16 << 10
"""What the kernel keeps for a connection before it is sent: what was never sent must not count as sent."""
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Answer:
    """What to answer to one request instead of the usual. ``cut``: hang up after so many bytes."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    body: bytes | None = None


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    at: float


class Origin:
    """Serves ``files``; answers in ``script`` come first, one a request for the path."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.script: dict[str, deque[Answer]] = {}
        self.ignores_ranges = False
        self.ignores_if_range = False
        self.tells_length = True
        self.etag: Callable[[bytes], str] = lambda content: f'"{sha256(content)[:16]}"'
        self.bytes_per_second: float | None = None
        self.asked: list[Asked] = []
        self.sent: dict[str, int] = {}
        self.changed = threading.Condition()
        self._server = _Server((address, 0), _Handler)
        self._server.origin = self
        self.url = f"http://{address}:{self._server.server_address[1]}"

    def folder(self, name: str, files: dict[str, bytes]) -> str:
        """Put files and their SHA256SUMS into a folder; return its URI."""
        for path, content in files.items():
            self.files[f"/{name}/{path}"] = content
        sums = "".join(f"{sha256(content)}  {path}\n" for path, content in files.items())
        self.files[f"/{name}/SHA256SUMS"] = sums.encode()
        return f"{self.url}/{name}/"

    def hub(self, name: str, commit: str, files: dict[str, bytes], page: int = 1000, lfs: int = 1000) -> None:
        """Speak the hub's API for one repository. Files of at least ``lfs`` bytes are large ones."""
        base = f"/api/models/{name}"
        for revision in ("main", commit):
            self.files[f"{base}/revision/{revision}"] = json.dumps({"id": name, "sha": commit}).encode()
        entries: list[dict[str, object]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "sub"}]
        for path, content in files.items():
            entry: dict[str, object] = {
                "type": "file",
                "oid": git_sha1(content),
                "size": len(content),
                "path": path,
            }
            if len(content) >= lfs:
                entry["oid"] = git_sha1(b"pointer")
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
            self.files[f"/{name}/resolve/{commit}/{path}"] = content
        tree = f"{base}/tree/{commit}?recursive=true"
        pages = [entries[start : start + page] for start in range(0, len(entries), page)]
        for number, part in enumerate(pages):
            here = tree if number == 0 else f"{tree}&cursor=c{number}"
            self.files[here] = json.dumps(part).encode()
            if number + 1 < len(pages):
                self.links[here] = f'<{self.url}{tree}&cursor=c{number + 1}>; rel="next"'

    def next(self, path: str, *answers: Answer) -> None:
        self.script.setdefault(path, deque()).extend(answers)

    def requests(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def wait_until_sent(self, path: str, count: int, seconds: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.sent.get(path, 0) >= count, seconds), self.sent

    def wait_until_asked(self, path: str, seconds: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.requests(path)), seconds), self.asked

    def wait_until_blocked(self, seconds: float = 20.0) -> None:
        """Wait until no block got through for a while: nobody reads, and all buffers are full."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while self.changed.wait(0.5):
                assert time.monotonic() < deadline, "somebody still reads"

    @contextmanager
    def running(self) -> Iterator["Origin"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    origin: Origin


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        origin = self.server.origin
        path = self.path if self.path in origin.files else unquote(self.path)
        with origin.changed:
            headers = {name.lower(): value for name, value in self.headers.items()}
            origin.asked.append(Asked(path, headers, time.monotonic()))
            scripted = origin.script.get(path)
            special = scripted.popleft() if scripted else Answer()
            origin.changed.notify_all()
        if path in origin.redirects:
            self.answer(302, {"Location": origin.redirects[path]}, b"", special, path)
        elif special.status is not None and special.status >= 300:
            self.answer(special.status, special.headers, special.body or b"no", special, path)
        elif path not in origin.files:
            self.answer(404, {}, b"not here", special, path)
        else:
            self.content(path, special)

    def content(self, path: str, special: Answer) -> None:
        origin = self.server.origin
        whole = origin.files[path] if special.body is None else special.body
        etag = origin.etag(origin.files[path])
        headers = {"ETag": etag, **special.headers} if etag else dict(special.headers)
        if path in origin.links:
            headers["Link"] = origin.links[path]
        match = RANGE.fullmatch(self.headers.get("Range", ""))
        stale = not origin.ignores_if_range and self.headers.get("If-Range") not in {None, etag}
        if match is None or origin.ignores_ranges or stale:
            self.answer(200, headers, whole, special, path)
            return
        first, last = int(match[1]), int(match[2] or len(whole) - 1)
        if first >= len(whole):
            self.answer(416, {"Content-Range": f"bytes */{len(whole)}"}, b"", special, path)
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
        headers.update(special.headers)
        self.answer(206, headers, whole[first : last + 1], special, path)

    def answer(self, status: int, headers: dict[str, str], body: bytes, special: Answer, path: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        chunked = (
            not self.server.origin.tells_length and status == 200 and urlsplit(path).path.endswith(".gguf")
        )
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.pour(body[: special.cut], path, chunked=chunked)
        if chunked and special.cut is None:
            self.wfile.write(b"0\r\n\r\n")
        if special.cut is not None:
            self.close_connection = True

    def pour(self, body: bytes, path: str, *, chunked: bool) -> None:
        origin = self.server.origin
        started = time.monotonic()
        for start in range(0, len(body), BLOCK_BYTES):
            block = body[start : start + BLOCK_BYTES]
            try:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
            except OSError:
                self.close_connection = True
                return
            with origin.changed:
                origin.sent[path] = origin.sent.get(path, 0) + len(block)
                origin.changed.notify_all()
            if origin.bytes_per_second is not None:
                due = started + (start + len(block)) / origin.bytes_per_second
                time.sleep(max(0.0, due - time.monotonic()))  # the pace is what is being served

    def log_message(self, *args: object) -> None:
        pass

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        super().setup()

    def handle(self) -> None:
        with suppress(ConnectionError):  # a killed client
            super().handle()
