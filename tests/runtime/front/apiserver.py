"""As much of an API server as the front talks to: EndpointSlices, listed and watched."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATH = "/apis/discovery.k8s.io/v1/endpointslices"


def a_slice(name: str, port: int, ready_at: str = "", wakes_in: str = "", **metadata: Any) -> dict[str, Any]:
    """A slice as the operator writes it."""
    owner = {"kind": "LLMDeployment", "name": name, "uid": f"uid-{name}", "controller": True}
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": f"{name}-front", "namespace": "models", "uid": f"slice-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [owner],
            "labels": {"app.kubernetes.io/managed-by": "preheat", "preheat.dev/component": "front",
                       "preheat.dev/llmdeployment": name},
            "annotations": {"preheat.dev/ready-at": ready_at, "preheat.dev/wakes-in-seconds": wakes_in},
            **metadata,
        },
        "ports": [{"name": "http", "port": port}, {"name": "grpc", "port": port}],
        "endpoints": [],
    }  # fmt: skip


class SliceServer:
    """Keeps slices, and tells watchers of changes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._slices: dict[str, dict[str, Any]] = {}
        self._log: list[tuple[int, dict[str, Any]]] = []
        self._version = 100
        self._forgotten = 0
        self._breaks = 0
        self.asked: list[dict[str, list[str]]] = []
        self.is_closing = False

    def put(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        self._tell("MODIFIED" if name in self._slices else "ADDED", body)

    def remove(self, name: str) -> None:
        self._tell("DELETED", self._slices[name])

    def forget_history(self) -> None:
        """End every watch; the next one that goes on from before is told that it is too old."""
        with self._changed:
            self._forgotten = self._version
            self._breaks += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.is_closing = True
            self._changed.notify_all()

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        with self._changed:
            self._version += 1
            body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
            name = body["metadata"]["name"]
            if kind == "DELETED":
                del self._slices[name]
            else:
                self._slices[name] = body
            self._log.append((self._version, {"type": kind, "object": body}))
            self._changed.notify_all()

    def list(self) -> dict[str, Any]:
        with self._changed:
            return {"metadata": {"resourceVersion": str(self._version)}, "items": list(self._slices.values())}

    def events(self, since: int) -> Iterator[dict[str, Any]]:
        with self._changed:
            breaks = self._breaks
            if since < self._forgotten:
                yield {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
                return
        while True:
            with self._changed:
                news = [event for version, event in self._log if version > since]
                if not news and not self.is_closing and breaks == self._breaks:
                    self._changed.wait(0.2)
                    continue
                if self.is_closing or breaks != self._breaks:
                    return
                since = self._version
            yield from news


@contextmanager
def serving(slices: SliceServer) -> Iterator[str]:
    """Serve them; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if url.path != PATH:
                return self.send_error(404)
            slices.asked.append(query)
            if slices.is_closing:
                self.close_connection = True
                return None
            if query["labelSelector"] != ["app.kubernetes.io/managed-by=preheat,preheat.dev/component=front"]:
                return self.send_error(403)
            if "watch" not in query:
                body = json.dumps(slices.list()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return None
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in slices.events(int(query["resourceVersion"][0])):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return None

        def log_message(self, *_: Any) -> None:
            return None

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            return None  # who asked is gone

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        slices.close()
        server.shutdown()
        thread.join()
        server.server_close()
