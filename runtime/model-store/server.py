"""A small file server for model weights: byte ranges, checksums, an optional rate limit. Standard library only.

Every folder that holds files answers `SHA256SUMS`, computed at start, which is how a warmer knows what to fetch and
what to expect. It is made for demos and tests; files that change while it runs are not noticed.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

BLOCK_BYTES = 1 << 16
SUMS_FILE = "SHA256SUMS"
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Stored:
    """One file that is served. ``text`` is set for a generated one."""

    path: Path
    size_bytes: int
    modified: float
    sha256: str
    text: bytes | None = None

    @property
    def etag(self) -> str:
        """The content's digest, quoted as HTTP wants it."""
        return f'"{self.sha256}"'


class UnsatisfiableRangeError(Exception):
    """The range lies outside the file."""


def read_store(root: Path) -> dict[str, Stored]:
    """Return URL path -> file for everything below ``root``, with a SHA256SUMS for each folder that has files.

    The sums of a folder also name what lies deeper, by its path from there. Links and dot files are left out.
    """
    files = {
        f"/{path.relative_to(root)}": _stored(path)
        for path in sorted(root.rglob("*"))
        if _is_served(root, path)
    }
    folders = {"/" + "".join(f"{part}/" for part in Path(url).parent.parts[1:]) for url in files}
    for folder in folders:
        if folder + SUMS_FILE in files:
            continue  # one that came with the weights is served as it is
        below = {url.removeprefix(folder): stored for url, stored in files.items() if url.startswith(folder)}
        lines = [
            f"{stored.sha256}  {name}\n" for name, stored in below.items() if Path(name).name != SUMS_FILE
        ]
        files[folder + SUMS_FILE] = _generated(
            "".join(lines).encode(), max(s.modified for s in below.values())
        )
    return files


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return first and last byte (both included) that a Range header asks for; None is "all of it".

    Several ranges, other units and nonsense are answered with all of it, as RFC 9110 allows. Raises
    UnsatisfiableRangeError.
    """
    match = RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first_text, last_text = match.groups()
    if not first_text:
        length = min(int(last_text), size_bytes)
        if length == 0:
            raise UnsatisfiableRangeError
        return size_bytes - length, size_bytes - 1
    first = int(first_text)
    last = min(int(last_text), size_bytes - 1) if last_text else size_bytes - 1
    if last_text and int(last_text) < first:
        return None
    if first >= size_bytes:
        raise UnsatisfiableRangeError
    return first, last


def copy_at_pace(
    source: BinaryIO,
    target: Callable[[bytes], object],
    length_bytes: int,
    bytes_per_second: int,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> int:
    """Copy ``length_bytes`` at no more than ``bytes_per_second`` (0: no limit); return what was copied."""
    started_seconds = clock()
    block_bytes = min(BLOCK_BYTES, bytes_per_second // 10 or 1) if bytes_per_second else BLOCK_BYTES
    done_bytes = 0
    while done_bytes < length_bytes and (block := source.read(min(block_bytes, length_bytes - done_bytes))):
        target(block)
        done_bytes += len(block)
        if bytes_per_second:
            ahead_seconds = done_bytes / bytes_per_second - (clock() - started_seconds)
            if ahead_seconds > 0:
                wait(ahead_seconds)
    return done_bytes


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from the store of its server."""

    protocol_version = "HTTP/1.1"
    server_version = "preheat-model-store"
    sys_version = ""
    timeout = 60  # seconds; a client that says nothing gives its thread back
    server: "ModelStore"

    def do_GET(self) -> None:
        """Send a file, or the part of it that was asked for."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send the headers only."""
        self._answer(with_body=False)

    # typing.override came with Python 3.12, and this file needs nothing but the standard library.
    def log_message(self, format: str, *args: object) -> None:  # type: ignore[explicit-override]  # noqa: A002
        """Say what the base class would say, as JSON."""
        self.server.log({"message": format % args, "client": self.client_address[0]})

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # type: ignore[explicit-override]
        """Leave it to _log, which knows the bytes and the seconds too."""

    def _answer(self, *, with_body: bool) -> None:
        started_seconds = time.monotonic()
        path = unquote(urlsplit(self.path).path)
        if path == "/healthz":
            status, sent_bytes = self._send_text(HTTPStatus.OK, "ok\n", with_body=with_body)
        elif (stored := self.server.store.get(path)) is None:
            status, sent_bytes = self._send_text(
                HTTPStatus.NOT_FOUND, f"no such file: {path}\n", with_body=with_body
            )
        else:
            status, sent_bytes = self._send_file(stored, with_body=with_body)
        if path != "/healthz":  # asked every few seconds
            self._log(path, status, sent_bytes, time.monotonic() - started_seconds)

    def _send_file(self, stored: Stored, *, with_body: bool) -> tuple[HTTPStatus, int]:
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": stored.etag,
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "Content-Type": "text/plain; charset=utf-8"
            if stored.text is not None
            else "application/octet-stream",
        }
        if self.headers.get("If-None-Match") == stored.etag:
            self._send_head(HTTPStatus.NOT_MODIFIED, headers)
            return HTTPStatus.NOT_MODIFIED, 0
        try:
            # A resumed download must not be glued together from two versions of a file.
            same = self.headers.get("If-Range", stored.etag) == stored.etag
            wanted = parse_range(self.headers.get("Range"), stored.size_bytes) if same else None
        except UnsatisfiableRangeError:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            self._send_head(status, {"Content-Range": f"bytes */{stored.size_bytes}", "Content-Length": "0"})
            return status, 0
        first, last = wanted or (0, stored.size_bytes - 1)
        headers["Content-Length"] = str(last - first + 1)
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{stored.size_bytes}"
        status = HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK
        self._send_head(status, headers)
        return status, self._send_bytes(stored, first, last - first + 1) if with_body else 0

    def _send_bytes(self, stored: Stored, first: int, length_bytes: int) -> int:
        try:
            if stored.text is not None:
                self.wfile.write(stored.text[first : first + length_bytes])
                return length_bytes
            with stored.path.open("rb") as file:
                file.seek(first)
                sent_bytes = copy_at_pace(file, self.wfile.write, length_bytes, self.server.bytes_per_second)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            sent_bytes = 0
        if sent_bytes < length_bytes:
            self.close_connection = True  # the promised length was not kept: only closing tells the client
        return sent_bytes

    def _send_text(self, status: HTTPStatus, text: str, *, with_body: bool) -> tuple[HTTPStatus, int]:
        body = text.encode()
        self._send_head(
            status, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
        )
        if with_body:
            self.wfile.write(body)
        return status, len(body) if with_body else 0

    def _send_head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _log(self, path: str, status: HTTPStatus, sent_bytes: int, seconds: float) -> None:
        self.server.log(
            {
                "client": self.client_address[0],
                "method": self.command,
                "path": path,
                "range": self.headers.get("Range"),
                "status": status.value,
                "bytes": sent_bytes,
                "seconds": round(seconds, 3),
            }
        )


class ModelStore(ThreadingHTTPServer):
    """The server: one thread a connection. ``bytes_per_second`` limits each connection; 0 is no limit."""

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        root: Path,
        bytes_per_second: int = 0,
        log: Callable[[Mapping[str, object]], None] | None = None,
    ) -> None:
        self.store = read_store(root)
        self.bytes_per_second = bytes_per_second
        self.log = log or _print_line
        super().__init__(address, Handler)

    def handle_error(self, request: object, client_address: object) -> None:  # type: ignore[explicit-override]  # noqa: ARG002
        """Say in one line what ended a connection: mostly a client that was killed."""
        client = client_address[0] if isinstance(client_address, tuple) else str(client_address)
        self.log({"message": f"the connection ended: {sys.exception()!r}", "client": client})


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Serve model weights over HTTP.")
    parser.add_argument("--root", type=Path, required=True, help="the folder to serve")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--bytes-per-second", type=int, default=0, help="limit of each connection; 0 is no limit"
    )
    arguments = parser.parse_args()
    if not arguments.root.is_dir():
        parser.error(f"--root {arguments.root} is not a folder")
    server = ModelStore(("", arguments.port), arguments.root, arguments.bytes_per_second)
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for the loop that this very thread runs, so another one must call it.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    _print_line({"message": "serving", "port": arguments.port, "files": sorted(server.store)})
    server.serve_forever()
    return 0


def _is_served(root: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.is_file() and not path.is_symlink() and not hidden


def _stored(path: Path) -> Stored:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    return Stored(path, status.st_size, status.st_mtime, sha256)


def _generated(text: bytes, modified: float) -> Stored:
    return Stored(Path(SUMS_FILE), len(text), modified, hashlib.sha256(text).hexdigest(), text)


def _print_line(fields: Mapping[str, object]) -> None:
    # In one piece: connections that end at once would write into each other's lines.
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
