"""The demo's file server keeps what it promises to a warmer: ranges, checksums, pace."""

import hashlib
import importlib.util
import io
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

WEIGHTS = bytes(range(256)) * 1000


def load_server() -> ModuleType:
    path = Path(__file__).parents[2] / "runtime/model-store/server.py"
    spec = importlib.util.spec_from_file_location("model_store_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


store = load_server()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "smollm2/deep").mkdir(parents=True)
    (tmp_path / "smollm2/a.gguf").write_bytes(WEIGHTS)
    (tmp_path / "smollm2/deep/config.json").write_bytes(b"{}")
    (tmp_path / "smollm2/.hidden").write_bytes(b"secret")
    (tmp_path / "smollm2/link").symlink_to("/etc/hostname")
    return tmp_path


@pytest.fixture
def log() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def client(root: Path, log: list[dict[str, Any]]) -> Iterator[httpx.Client]:
    with store.ModelStore(("127.0.0.1", 0), root, log=log.append) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}", trust_env=False) as client:
            yield client
        server.shutdown()
        thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_comes_whole_with_its_digest_as_etag(client: httpx.Client) -> None:
    answer = client.get("/smollm2/a.gguf")
    assert answer.status_code == 200
    assert answer.content == WEIGHTS
    assert answer.headers["ETag"] == f'"{sha256(WEIGHTS)}"'
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-", 1000, 255_999),
        ("bytes=-7", 255_993, 255_999),
        ("bytes=9-999999", 9, 255_999),
    ],
)
def test_a_range_is_answered_with_just_that_part(
    client: httpx.Client, header: str, first: int, last: int
) -> None:
    answer = client.get("/smollm2/a.gguf", headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/256000"
    assert answer.content == WEIGHTS[first : last + 1]


@pytest.mark.parametrize("header", ["bytes=256000-", "bytes=-0"])
def test_a_range_past_the_end_is_refused_with_the_size(client: httpx.Client, header: str) -> None:
    answer = client.get("/smollm2/a.gguf", headers={"Range": header})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */256000"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "lines=0-1", "bytes=5-2", "bytes=-", "bytes=x-"])
def test_a_range_that_is_not_understood_gets_the_whole_file(client: httpx.Client, header: str) -> None:
    answer = client.get("/smollm2/a.gguf", headers={"Range": header})
    assert answer.status_code == 200
    assert len(answer.content) == 256_000


def test_a_resume_of_another_version_starts_again_from_the_first_byte(client: httpx.Client) -> None:
    stale = client.get("/smollm2/a.gguf", headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, 256_000)
    same = client.get("/smollm2/a.gguf", headers={"Range": "bytes=100-", "If-Range": f'"{sha256(WEIGHTS)}"'})
    assert (same.status_code, len(same.content)) == (206, 255_900)


def test_an_unchanged_file_is_not_sent_again(client: httpx.Client) -> None:
    answer = client.get("/smollm2/a.gguf", headers={"If-None-Match": f'"{sha256(WEIGHTS)}"'})
    assert (answer.status_code, answer.content) == (304, b"")


def test_head_tells_the_size_and_sends_nothing(client: httpx.Client) -> None:
    answer = client.head("/smollm2/a.gguf")
    assert (answer.headers["Content-Length"], answer.content) == ("256000", b"")


def test_every_folder_has_the_sums_of_what_lies_below_it(client: httpx.Client) -> None:
    assert client.get("/smollm2/SHA256SUMS").text == (
        f"{sha256(WEIGHTS)}  a.gguf\n{sha256(b'{}')}  deep/config.json\n"
    )
    assert client.get("/smollm2/deep/SHA256SUMS").text == f"{sha256(b'{}')}  config.json\n"


def test_sums_that_came_with_the_weights_are_served_as_they_are(root: Path) -> None:
    (root / "smollm2/SHA256SUMS").write_text("from upstream\n")
    stored = store.read_store(root)["/smollm2/SHA256SUMS"]
    assert (stored.text, stored.size_bytes) == (None, 14)


@pytest.mark.parametrize(
    "path",
    ["/smollm2/.hidden", "/smollm2/link", "/smollm2/", "/", "/../../etc/passwd", "/smollm2/%2e%2e/%2e%2e/x"],
)
def test_only_plain_files_below_the_root_are_served(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_each_request_is_logged_with_what_was_sent(client: httpx.Client, log: list[dict[str, Any]]) -> None:
    client.get("/smollm2/a.gguf", headers={"Range": "bytes=0-9"})
    client.get("/nothing")
    client.get("/healthz")  # the connection is kept: this answer comes after the others are logged
    assert [(line["path"], line["range"], line["status"], line["bytes"]) for line in log] == [
        ("/smollm2/a.gguf", "bytes=0-9", 206, 10),
        ("/nothing", None, 404, len("no such file: /nothing\n")),
    ]


def test_health_is_answered(client: httpx.Client) -> None:
    assert client.get("/healthz").text == "ok\n"


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_the_limit_sets_how_long_a_transfer_takes() -> None:
    clock, sent = Clock(), io.BytesIO()
    source = io.BytesIO(WEIGHTS)
    done = store.copy_at_pace(source, sent.write, len(WEIGHTS), 64_000, clock=clock.read, wait=clock.wait)
    assert (done, sent.getvalue()) == (len(WEIGHTS), WEIGHTS)
    assert clock.now == pytest.approx(4.0)


def test_without_a_limit_nobody_waits() -> None:
    clock, sent = Clock(), io.BytesIO()
    store.copy_at_pace(io.BytesIO(WEIGHTS), sent.write, len(WEIGHTS), 0, clock=clock.read, wait=clock.wait)
    assert clock.now == 0.0


def test_a_file_that_became_shorter_ends_the_transfer_short() -> None:
    sent = io.BytesIO()
    assert store.copy_at_pace(io.BytesIO(b"abc"), sent.write, 10, 0) == 3


def test_a_client_that_goes_is_one_line_of_the_log(
    root: Path, log: list[dict[str, Any]], client: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the log line by line would stumble over a traceback."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as rude:
        rude.sendall(b"GET /smollm2/a.gguf HTTP/1.1\r\nHost: store\r\n")
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 10
    while not log and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "ConnectionResetError" in log[0]["message"]
    assert capfd.readouterr() == ("", "")
