"""The warmer's real process against a real HTTP server that misbehaves: the right bytes or a clear reason."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

BLOB = random.Random(7).randbytes(6_000_000)
SMALL = b'{"architectures": ["Tiny"]}'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Site:
    """What a server has, how it misbehaves, and what was asked of it."""

    files: dict[str, bytes]
    ranges: bool = True
    truncate: list[int] = field(default_factory=list)
    """Cut the next answers after so many bytes."""
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Answer the next requests so."""
    redirect: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    bytes_per_second: int | None = None
    sent: int = 0
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[ThreadingHTTPServer] = []

    def start(site: Site) -> Site:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _answer(self, site)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    path = handler.path
    site.authorizations.append(handler.headers.get("Authorization"))
    if site.token and handler.headers.get("Authorization") != f"Bearer {site.token}":
        handler.send_error(401)
        return
    if path in site.redirect:
        handler.send_response(302)
        handler.send_header("Location", site.redirect[path])
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    content = site.files.get(path.partition("?")[0].lstrip("/"))
    if content is None:
        handler.send_error(404)
        return
    is_data = not path.endswith("SHA256SUMS")
    if is_data and site.refuse:
        status, headers = site.refuse.pop(0)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        return
    start, asked = 0, handler.headers.get("Range")
    if asked and site.ranges:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
    else:
        handler.send_response(200)
    handler.send_header("ETag", f'"{sha256(content)[:8]}"')
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    limit = site.truncate.pop(0) if is_data and site.truncate else len(content)
    _send(handler, site, content[start : start + limit])
    if limit < len(content) - start:
        handler.connection.close()


def _send(handler: BaseHTTPRequestHandler, site: Site, content: bytes) -> None:
    for begin in range(0, len(content), 65_536):
        block = content[begin : begin + 65_536]
        try:
            handler.wfile.write(block)
        except OSError:
            return
        site.sent += len(block)
        if site.bytes_per_second:
            time.sleep(len(block) / site.bytes_per_second)


def a_site(**fields: Any) -> Site:
    sums = f"{sha256(BLOB)}  model.gguf\n{sha256(SMALL)}  config.json\n"
    files = {"m/model.gguf": BLOB, "m/config.json": SMALL, "m/SHA256SUMS": sums.encode()}
    return Site(files=files, **fields)


class Warmer:
    """Runs the warmer's process on one folder."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.words = folder / "words"

    def start(self, uri: str, token: str | None = None, **config: Any) -> subprocess.Popen[bytes]:
        self.words.unlink(missing_ok=True)
        settings = {
            "source": {"uri": uri, "revision": config.pop("revision", "")},
            "destination": str(self.cache), "listenPort": 0, "parallelism": 2, **config,
        }  # fmt: skip
        environment = {
            **os.environ, "PREHEAT_WARMER_CONFIG": json.dumps(settings),
            "PREHEAT_TERMINATION_LOG": str(self.words), **({"HF_TOKEN": token} if token else {}),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "preheat_warmer.main"], env=environment, stderr=subprocess.DEVNULL
        )

    def run(self, uri: str, **config: Any) -> int:
        return self.start(uri, **config).wait(60)

    def last_words(self) -> dict[str, Any]:
        words: dict[str, Any] = json.loads(self.words.read_text())
        return words

    def model(self, name: str = "model.gguf") -> bytes:
        return (self.cache / "model" / name).read_bytes()

    @property
    def is_published(self) -> bool:
        return (self.cache / "model").exists()


@pytest.fixture
def warmer(tmp_path: Path) -> Warmer:
    return Warmer(tmp_path)


def test_a_folder_is_fetched_verified_and_published(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site())
    assert warmer.run(f"{site.url}/m/") == 0
    assert warmer.model() == BLOB
    assert warmer.model("config.json") == SMALL
    words = warmer.last_words()
    assert words["state"] == "Published"
    assert words["bytesTotal"] == words["bytesFetched"] == len(BLOB) + len(SMALL)
    assert not (warmer.cache / ".partial").exists()


def test_a_second_run_fetches_nothing(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site())
    assert warmer.run(f"{site.url}/m/") == 0
    assert warmer.run(f"{site.url}/m/") == 0
    assert warmer.last_words()["bytesFetched"] == 0


def test_killed_half_way_it_resumes(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site(bytes_per_second=3_000_000))
    process = warmer.start(f"{site.url}/m/")
    part = warmer.cache / ".partial" / "model.gguf.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > len(BLOB) // 3):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert not warmer.is_published
    kept = part.stat().st_size
    site.bytes_per_second = None
    assert warmer.run(f"{site.url}/m/") == 0
    assert warmer.model() == BLOB
    fetched = warmer.last_words()["bytesFetched"]
    assert fetched <= len(BLOB) - kept + len(SMALL) + len(BLOB) // 100, "under 1 % is fetched again"


def test_truncated_answers_are_gone_on_with(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site(truncate=[100_000, 1_000_000, 7]))
    assert warmer.run(f"{site.url}/m/", include=["*.gguf"]) == 0
    assert warmer.model() == BLOB


def test_busy_servers_are_waited_for(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site(refuse=[(503, {}), (429, {"Retry-After": "1"}), (500, {})]))
    assert warmer.run(f"{site.url}/m/") == 0
    assert warmer.model() == BLOB


def test_a_server_without_ranges_is_begun_anew(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site(ranges=False, truncate=[2_000_000]))
    assert warmer.run(f"{site.url}/m/", include=["*.gguf"]) == 0
    assert warmer.model() == BLOB


def test_wrong_bytes_are_never_published(serve: Any, warmer: Warmer) -> None:
    site = a_site()
    site.files["m/model.gguf"] = BLOB[:-1] + b"!"
    serve(site)
    assert warmer.run(f"{site.url}/m/") == 2
    assert warmer.last_words()["reason"] == "DigestMismatch"
    assert not warmer.is_published


@pytest.mark.parametrize(
    ("change", "config", "reason"),
    [
        ({"m/SHA256SUMS": None}, {}, "NoDigest"),
        ({"m/SHA256SUMS": b"0" * 64 + b"  ../../evil\n"}, {}, "PathRefused"),
        ({"m/SHA256SUMS": b"0" * 64 + b"  weights.bin\n"}, {"include": ["*"]}, "PickleRefused"),
        ({"m/SHA256SUMS": b"0" * 64 + b"  gone.gguf\n"}, {}, "NotFound"),
        ({}, {"include": ["*.onnx"]}, "NotFound"),
    ],
)
def test_what_cannot_get_better_says_why_and_stops(
    serve: Any, warmer: Warmer, change: dict[str, bytes | None], config: dict[str, Any], reason: str
) -> None:
    site = a_site()
    for path, content in change.items():
        if content is None:
            del site.files[path]
        else:
            site.files[path] = content
    serve(site)
    assert warmer.run(f"{site.url}/m/", **config) == 2
    assert warmer.last_words()["reason"] == reason
    assert not warmer.is_published


def test_a_silent_source_is_worth_another_try(warmer: Warmer) -> None:
    files = [{"path": "a.gguf", "sha256": "0" * 64}]
    process = warmer.start("http://127.0.0.1:9/m/", files=files)
    time.sleep(1)
    process.terminate()
    assert process.wait(20) == 1, "it can be stopped at any time, and the Job tries again"


def test_link_local_addresses_are_not_fetched_from(serve: Any, warmer: Warmer) -> None:
    site = a_site()
    site.redirect["/m/model.gguf"] = "http://169.254.169.254/latest/meta-data/"
    serve(site)
    assert warmer.run(f"{site.url}/m/") == 2
    assert warmer.last_words()["reason"] == "AddressRefused"


def test_two_at_once_publish_once(serve: Any, warmer: Warmer) -> None:
    site = serve(a_site(bytes_per_second=6_000_000))
    both = [warmer.start(f"{site.url}/m/"), warmer.start(f"{site.url}/m/")]
    assert [process.wait(60) for process in both] == [0, 0]
    assert warmer.model() == BLOB
    assert site.sent < 1.5 * len(BLOB), "the second found the work done"


def test_a_volume_is_copied_and_verified_too(warmer: Warmer, tmp_path: Path) -> None:
    source = tmp_path / "source" / "models"
    source.mkdir(parents=True)
    (source / "a.gguf").write_bytes(BLOB)
    (source / "SHA256SUMS").write_text(f"{sha256(BLOB)}  a.gguf\n")
    assert warmer.run("pvc://claim/models", sourceDirectory=str(tmp_path / "source")) == 0
    assert warmer.model("a.gguf") == BLOB


def test_the_hub_is_pinned_paged_and_its_token_stays_home(serve: Any, warmer: Warmer) -> None:
    """A hub that speaks the real one's API: a commit for a branch, pages, large files on another host."""
    cdn = serve(Site(files={"blob": BLOB}))
    commit = "c" * 40
    git = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest()
    first = [{"type": "file", "path": "model.gguf", "size": 1, "oid": "p",
              "lfs": {"oid": sha256(BLOB), "size": len(BLOB)}}]  # fmt: skip
    second = [{"type": "file", "path": "config.json", "size": len(SMALL), "oid": git}]
    hub = Site(files={}, token="secret")
    serve(hub)
    hub.files = {
        "api/models/org/name/revision/main": json.dumps({"sha": commit}).encode(),
        f"api/models/org/name/tree/{commit}": json.dumps(first + second).encode(),
        f"org/name/resolve/{commit}/config.json": SMALL,
    }
    hub.redirect = {f"/org/name/resolve/{commit}/model.gguf": f"{cdn.url}/blob"}
    assert warmer.run("hf://org/name", revision="main", hfEndpoint=hub.url, token="secret") == 0
    assert warmer.model() == BLOB
    assert warmer.last_words()["resolvedRevision"] == commit
    assert set(hub.authorizations) == {"Bearer secret"}
    assert set(cdn.authorizations) == {None}, "the token is for the hub alone"


def test_a_wrong_token_says_what_to_do(serve: Any, warmer: Warmer) -> None:
    hub = serve(Site(files={}, token="secret"))
    assert warmer.run("hf://org/name", revision="main", hfEndpoint=hub.url) == 2
    words = warmer.last_words()
    assert words["reason"] == "Unauthorized"
    assert "spec.model.credentials" in words["message"]


def test_a_truncated_safetensors_file_is_found_before_anybody_loads_it(serve: Any, warmer: Warmer) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}).encode()
    broken = len(header).to_bytes(8, "little") + header + b"x" * 100
    sums = f"{sha256(broken)}  model.safetensors\n".encode()
    site = serve(Site(files={"m/model.safetensors": broken, "m/SHA256SUMS": sums}))
    assert warmer.run(f"{site.url}/m/") == 2
    assert warmer.last_words()["reason"] == "IncompleteModel"
