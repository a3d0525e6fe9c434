"""Weights from a neighbour: a seeder and warmers as real processes on loopback, and everybody who may not have them."""

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from preheat_warmer.manifest import File, Manifest, manifest_digest, render

from tests.runtime.warmer.origin import Answer, Origin
from tests.runtime.warmer.run import Run, Start, launched

NAMESPACE, AUDIENCE = "team-a", "preheat.dev/team-a/0123456789abcdef"
MANIFEST = "/model/.preheat-manifest.json"
FILES = {"a.gguf": os.urandom(700_000), "sub/b.json": b'{"b": 1}', "empty.json": b""}
LARGE = {"large.gguf": os.urandom(64_000_000)}
"""Large enough for several connections."""
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def jwks() -> dict[str, Any]:
    """What the API server says of its keys, which it has just changed."""
    first = {**jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "one"}
    second = {**jwt.algorithms.ECAlgorithm.to_jwk(CURVE.public_key(), as_dict=True), "kid": "two"}
    return {"keys": [{**first, "use": "sig", "alg": "RS256"}, {**second, "use": "sig", "alg": "ES256"}]}


def token(key: Any = KEY, kid: str = "one", algorithm: str = "RS256", **change: Any) -> str:
    """What the kubelet mounts into a warmer, with claims changed; None takes one out."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "aud": [AUDIENCE],
        "exp": now + 3600,
        "iat": now,
        "nbf": now,
        "iss": "https://kubernetes.default.svc",
        "kubernetes.io": {"namespace": NAMESPACE, "serviceaccount": {"name": "default", "uid": "1"}},
        "sub": f"system:serviceaccount:{NAMESPACE}:default",
        **change,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={"kid": kid})


@dataclass
class Seeder:
    """A seeder's process."""

    run: Run
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, authorization: str | None = None, **headers: str) -> httpx.Response:
        shown = {"Authorization": f"Bearer {token()}"} if authorization is None else {}
        shown |= {"Authorization": authorization} if authorization else {}
        with httpx.Client(trust_env=False) as client:
            return client.get(f"{self.url}{path}", headers={**shown, **headers})

    def sent(self) -> int:
        found = re.search(r"^preheat_seeder_sent_bytes_total (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))


@dataclass
class Node:
    """A node that holds the weights."""

    folder: Path
    manifest: str

    def copy(self, name: str) -> "Node":
        return Node(Path(shutil.copytree(self.folder, self.folder.with_name(name))), self.manifest)

    def spoil(self, path: str) -> None:
        """Flip a bit of every megabyte of a file: whatever part of it is asked for is wrong."""
        file = self.folder / "model" / path
        content = bytearray(file.read_bytes())
        for place in range(0, len(content), 1 << 20):
            content[place] ^= 1
        file.write_bytes(content)


Seed = Callable[..., Seeder]


@pytest.fixture
def seed(tmp_path: Path) -> Iterator[Seed]:
    runs: list[Run] = []

    def starter(node: Node | Path, **more: Any) -> Seeder:
        run = _start(tmp_path, len(runs), node.folder if isinstance(node, Node) else node, more)
        runs.append(run)
        return Seeder(run, run.wait_for("serving")["port"])

    yield starter
    for run in runs:
        if run.process.poll() is None:
            run.kill()


def _start(tmp_path: Path, number: int, folder: Path, more: dict[str, Any]) -> Run:
    config = {"task": "serve", "destination": str(folder), "listenPort": 0, "namespace": NAMESPACE,
              "audience": AUDIENCE, "issuerKeys": jwks(), "nodeName": f"n{number}", **more}  # fmt: skip
    last_words = tmp_path / f"seeder-{number}-{time.monotonic_ns()}"
    return launched(config, last_words)


@dataclass
class Place:
    """Where a warmer is started, with a token of its pod."""

    start: Start
    token_file: Path

    def warm(
        self, uri: str, peers: list[str], manifest: str, *, shows: str | None = None, **more: Any
    ) -> Run:
        self.token_file.write_text(token() if shows is None else shows)
        return self.start(
            uri, peers=peers, manifestSHA256=manifest, peerTokenFile=str(self.token_file), **more
        )


@pytest.fixture
def place(start: Start, tmp_path: Path) -> Place:
    return Place(start, tmp_path / "token")


@pytest.fixture
def holds(start: Start, origin: Origin, tmp_path: Path) -> Callable[[dict[str, bytes]], tuple[str, Node]]:
    """Put files on a node, from the origin; return their URI and the node. The origin then forgets what it was asked."""

    def hold(files: dict[str, bytes]) -> tuple[str, Node]:
        uri = origin.folder("m", files)
        folder = tmp_path / "holder"
        folder.mkdir()
        words = start(uri, destination=str(folder)).published()
        origin.asked.clear()
        origin.sent.clear()
        return uri, Node(folder, words["manifestSHA256"])

    return hold


Holds = Callable[[dict[str, bytes]], tuple[str, Node]]


def check(cache: Path, files: dict[str, bytes]) -> None:
    """Check that exactly these files are published."""
    model = cache / "model"
    there = {p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    assert set(there) == {*files, ".preheat-manifest.json"}
    assert all(there[path] == content for path, content in files.items())


# --- the way it should be


def test_all_comes_from_the_neighbour_and_nobody_asks_the_source(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(FILES)
    words = place.warm(uri, [seed(node).url], node.manifest).published()
    check(cache, FILES)
    assert origin.asked == []
    assert (
        words["bytesFromPeers"]
        == words["bytesFetched"]
        == words["bytesTotal"]
        == sum(map(len, FILES.values()))
    )
    assert words["manifestSHA256"] == node.manifest


def test_a_file_comes_from_all_neighbours_at_once(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(LARGE)
    seeders = [seed(node), seed(node.copy("another"))]
    words = place.warm(uri, [s.url for s in seeders], node.manifest).published()
    check(cache, LARGE)
    assert origin.asked == []
    assert words["bytesFromPeers"] == len(LARGE["large.gguf"])
    assert all(s.sent() > 5_000_000 for s in seeders), "spread over them"


def test_one_connection_takes_turns_between_the_neighbours(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    files = {f"{number}.gguf": os.urandom(1_000_000) for number in range(4)}
    uri, node = holds(files)
    seeders = [seed(node), seed(node.copy("another"))]
    place.warm(uri, [s.url for s in seeders], node.manifest, parallelism=1).published()
    check(cache, files)
    assert origin.asked == []
    assert all(2_000_000 <= s.sent() < 2_100_000 for s in seeders), [s.sent() for s in seeders]


def test_several_warmers_at_once_from_one_seeder(
    place: Place, seed: Seed, holds: Holds, origin: Origin, tmp_path: Path
) -> None:
    uri, node = holds(LARGE)
    seeder = seed(node)
    runs = []
    for number in range(4):
        folder = tmp_path / f"warmer-{number}"
        folder.mkdir()
        runs.append(place.warm(uri, [seeder.url], node.manifest, destination=str(folder)))
    for number, run in enumerate(runs):
        assert run.published()["bytesFromPeers"] == len(LARGE["large.gguf"])
        check(tmp_path / f"warmer-{number}", LARGE)
    assert origin.asked == []


def test_progress_tells_what_came_from_neighbours(place: Place, seed: Seed, holds: Holds) -> None:
    uri, node = holds(FILES)
    run = place.warm(uri, [seed(node).url], node.manifest, maxBytesPerSecond=200_000)
    deadline = time.monotonic() + 20
    while not (told := run.get("/progress").json())["bytesFromPeers"]:
        assert time.monotonic() < deadline, told
        time.sleep(0.02)  # the bytes are what is waited for
    assert told["bytesFromPeers"] <= told["bytesDone"] <= told["bytesTotal"]
    assert "preheat_warmer_peer_bytes_total" in run.get("/metrics").text
    run.kill()


def test_a_node_that_has_the_weights_asks_no_neighbour(place: Place, holds: Holds, seed: Seed) -> None:
    uri, node = holds(FILES)
    seeder = seed(node.copy("another"))
    words = place.warm(uri, [seeder.url], node.manifest, destination=str(node.folder)).published()
    assert words["bytesFetched"] == 0
    assert seeder.sent() == 0


def test_a_killed_warmer_goes_on_with_what_it_has(
    place: Place, seed: Seed, holds: Holds, cache: Path
) -> None:
    uri, node = holds(LARGE)
    seeder = seed(node)
    run = place.warm(uri, [seeder.url], node.manifest, maxBytesPerSecond=50_000_000, parallelism=1)
    kept = run.kill_at(cache / ".partial/large.gguf.part", 20_000_000)
    words = place.warm(uri, [seeder.url], node.manifest, parallelism=1).published()
    check(cache, LARGE)
    assert words["bytesFromPeers"] == len(LARGE["large.gguf"]) - kept


# --- who may have them

OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = json.dumps(jwks()["keys"][0])
REFUSED = {
    "no token": lambda: "",
    "no word": lambda: "Bearer",
    "another scheme": lambda: f"Basic {token()}",
    "no JWT": lambda: "Bearer x.y.z",
    "for somebody else": lambda: f"Bearer {token(aud=['https://kubernetes.default.svc'])}",
    "for other weights": lambda: f"Bearer {token(aud=[AUDIENCE[:-1]])}",
    "for nobody": lambda: f"Bearer {token(aud=None)}",
    "another namespace": lambda: f"Bearer {token(**{'kubernetes.io': {'namespace': 'team-b'}})}",
    "no namespace": lambda: f"Bearer {token(**{'kubernetes.io': None})}",
    "a namespace that is none": lambda: f"Bearer {token(**{'kubernetes.io': [NAMESPACE]})}",
    "expired": lambda: f"Bearer {token(exp=int(time.time()) - 60)}",
    "for ever": lambda: f"Bearer {token(exp=None)}",
    "not yet": lambda: f"Bearer {token(nbf=int(time.time()) + 60)}",
    "forged": lambda: f"Bearer {token(OTHER)}",
    "an unknown key": lambda: f"Bearer {token(OTHER, 'three')}",
    "another's key": lambda: f"Bearer {token(CURVE, 'one', 'ES256')}",
    "unsigned": lambda: f"Bearer {token(None, algorithm='none')}",
    "signed with the public key": lambda: f"Bearer {token(b'x' * 64, algorithm='HS256')}",
    "changed": lambda: f"Bearer {token()[:-8]}AAAAAAAA",
}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Seeder]]:
    """A node with weights and its seeder, for tests that only ask."""
    folder = tmp_path_factory.mktemp("held")
    model = folder / "model"
    for path, content in {**FILES, "stranger.gguf": b"not of the manifest"}.items():
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_bytes(content)
    (folder / ".lock").write_text("")
    (folder / "secret").write_text("of another cache")
    manifest = Manifest(tuple(File(path, len(content), "a" * 64) for path, content in FILES.items()))
    (model / ".preheat-manifest.json").write_text(json.dumps(render(manifest, "http://here/", [])))
    run = _start(folder, 0, folder, {})
    yield Node(folder, ""), Seeder(run, run.wait_for("serving")["port"])
    if run.process.poll() is None:
        run.kill()


@pytest.mark.parametrize("why", REFUSED)
def test_who_may_not_have_them(held: tuple[Node, Seeder], why: str) -> None:
    _, seeder = held
    for path in ("/model/a.gguf", MANIFEST, "/model/nothing"):
        answer = seeder.get(path, REFUSED[why]())
        assert answer.status_code == 401, why
        assert answer.text == "a token for these weights is needed\n"


def test_who_may(held: tuple[Node, Seeder]) -> None:
    _, seeder = held
    assert seeder.get("/model/a.gguf").content == FILES["a.gguf"]
    assert seeder.get("/model/a.gguf", f"Bearer {token(CURVE, 'two', 'ES256')}").content == FILES["a.gguf"]
    assert seeder.get("/model/a.gguf", f"bearer {token(aud=['x', AUDIENCE])}").content == FILES["a.gguf"]
    assert [file["path"] for file in seeder.get(MANIFEST).json()["files"]] == list(FILES)
    for path in ("/healthz", "/metrics"):
        assert seeder.get(path, "").status_code == 200, "probes have no token"


@pytest.mark.parametrize(
    "path",
    [
        "/model/../secret", "/model/%2e%2e/secret", "/model/..%2fsecret", "/model/sub/../../secret", "/secret", "//secret",
        "/model/%2Fetc%2Fpasswd", "/model//etc/passwd", "/etc/passwd", "/model/stranger.gguf", "/.lock", "/model/.lock",
        "/model", "/model/", "/", "/model/sub", "/model/a.gguf/", "/model/./a.gguf", "/model/a.gguf%00", "/../../../etc/passwd",
        "/model/.preheat-manifest.json.part", "/proc/self/environ",
    ],
)  # fmt: skip
def test_nothing_but_the_files_of_the_manifest(held: tuple[Node, Seeder], path: str) -> None:
    """Straight from a socket: clients tidy such paths up."""
    _, seeder = held
    with socket.create_connection(("127.0.0.1", seeder.port), 5) as asking:
        asking.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: asking.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]
    assert b"another cache" not in answer


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_get(held: tuple[Node, Seeder], method: str) -> None:
    _, seeder = held
    with httpx.Client(trust_env=False) as client:
        answer = client.request(
            method, f"{seeder.url}/model/a.gguf", headers={"Authorization": f"Bearer {token()}"}
        )
    assert answer.status_code == 501


def test_a_link_out_of_the_folder_is_not_followed(held: tuple[Node, Seeder]) -> None:
    node, seeder = held
    file = node.folder / "model/sub/b.json"
    file.unlink()
    file.symlink_to(node.folder / "secret")
    try:
        assert seeder.get("/model/sub/b.json").status_code == 500
    finally:
        file.unlink()
        file.write_bytes(FILES["sub/b.json"])


def test_parts_of_a_file(held: tuple[Node, Seeder]) -> None:
    _, seeder = held
    content = FILES["a.gguf"]
    part = seeder.get("/model/a.gguf", Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert seeder.get("/model/a.gguf", Range="bytes=699990-").content == content[699_990:]
    assert seeder.get("/model/a.gguf", Range="bytes=700000-").status_code == 416
    assert seeder.get("/model/a.gguf", Range="bytes=5-2").content == content
    assert seeder.get("/model/empty.json").content == b""


def test_one_connection_too_many_is_told_to_come_again(held: tuple[Node, Seeder]) -> None:
    _, seeder = held
    open_ones = [socket.create_connection(("127.0.0.1", seeder.port), 5) for _ in range(64)]
    try:
        deadline = time.monotonic() + 10
        while seeder_answers(seeder.port) != b"HTTP/1.1 503 Service Unavailable":
            assert time.monotonic() < deadline
            time.sleep(0.01)  # the server takes them one by one
    finally:
        for one in open_ones:
            one.close()
    deadline = time.monotonic() + 10
    while seeder_answers(seeder.port) != b"HTTP/1.1 200 OK":
        assert time.monotonic() < deadline, "those that went make room"
        time.sleep(0.01)


def seeder_answers(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as asking:
        try:
            asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return asking.recv(4096).split(b"\r\n")[0]
        except ConnectionError:
            return b""


# --- its life


def test_what_is_served_is_not_removed_meanwhile(seed: Seed, holds: Holds) -> None:
    _, node = holds(FILES)
    seeder = seed(node)
    with (node.folder / "model/.preheat-manifest.json").open() as manifest:
        with pytest.raises(BlockingIOError):
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert seeder.run.kill(15) == 0
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_being_removed_or_is_not_there_is_not_served(holds: Holds, tmp_path: Path) -> None:
    _, node = holds(FILES)
    with (node.folder / "model/.preheat-manifest.json").open() as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert "no weights to serve" in _start(tmp_path, 0, node.folder, {}).failed(1, "DiskError")
    (node.folder / "model/.preheat-manifest.json").unlink()
    assert "no weights to serve" in _start(tmp_path, 1, node.folder, {}).failed(1, "DiskError")


def test_it_ends_at_once_when_told_to(seed: Seed, holds: Holds) -> None:
    """Also while somebody reads, and does not."""
    _, node = holds(LARGE)
    seeder = seed(node)
    with socket.create_connection(("127.0.0.1", seeder.port), 5) as asking:
        head = f"GET /model/large.gguf HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
        asking.sendall(head.encode())
        assert asking.recv(1000)
        started = time.monotonic()
        assert seeder.run.kill(15) == 0
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"issuerKeys": {"keys": []}}, "issuerKeys"),
        ({"issuerKeys": None}, "issuerKeys is missing"),
        ({"issuerKeys": {"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}}, "no RSA or EC key"),
        ({"audience": ""}, "audience is empty"),
        ({"namespace": None}, "namespace is missing"),
        ({"task": "dance"}, "is none of"),
    ],
)
def test_without_keys_an_audience_and_a_namespace_nothing_is_served(
    holds: Holds, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    _, node = holds(FILES)
    assert words in _start(tmp_path, 0, node.folder, change).failed(2, "InvalidConfig")


# --- neighbours that fail


def test_a_warmer_that_is_refused_takes_the_source(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(FILES)
    seeder = seed(node)
    run = place.warm(
        uri, [seeder.url], node.manifest, shows=token(**{"kubernetes.io": {"namespace": "team-b"}})
    )
    words = run.published()
    check(cache, FILES)
    assert words["bytesFromPeers"] == seeder.sent() == 0
    assert "the token is of namespace 'team-b'" in seeder.run.wait_for("refused")["why"]


def test_without_a_token_it_takes_the_source(place: Place, seed: Seed, holds: Holds, cache: Path) -> None:
    uri, node = holds(FILES)
    run = place.start(uri, peers=[seed(node).url], manifestSHA256=node.manifest, peerTokenFile="/nowhere")
    assert run.published()["bytesFromPeers"] == 0
    check(cache, FILES)


def test_a_seeder_that_dies_half_way_costs_what_is_missing(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(LARGE)
    seeder = seed(node)
    run = place.warm(uri, [seeder.url], node.manifest, maxBytesPerSecond=60_000_000, parallelism=1)
    part, size = cache / ".partial/large.gguf.part", len(LARGE["large.gguf"])
    deadline = time.monotonic() + 20
    while not part.exists() or part.stat().st_size < size // 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the bytes are what is waited for
    seeder.run.kill()
    words = run.published()
    check(cache, LARGE)
    assert words["bytesFromPeers"] >= size // 2
    assert origin.sent["/m/large.gguf"] <= size - words["bytesFromPeers"] + size // 100, "what is there stays"
    assert words["bytesFetched"] == size


def test_when_one_of_two_dies_the_other_gives_the_rest(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(LARGE)
    dying, other = seed(node), seed(node.copy("another"))
    run = place.warm(uri, [dying.url, other.url], node.manifest, maxBytesPerSecond=60_000_000)
    part = cache / ".partial/large.gguf.part"
    deadline = time.monotonic() + 20
    while not part.exists() or 512 * part.stat().st_blocks < 30_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the bytes are what is waited for
    dying.run.kill()
    words = run.published()
    check(cache, LARGE)
    assert words["bytesFromPeers"] == len(LARGE["large.gguf"])
    assert origin.asked == []


def test_a_neighbour_whose_disk_lies_falls_out(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(LARGE)
    node.spoil("large.gguf")
    run = place.warm(uri, [seed(node).url], node.manifest)
    words = run.published()
    check(cache, LARGE)
    assert origin.sent["/m/large.gguf"] == len(LARGE["large.gguf"]) + 1, "and the first byte, for its size"
    assert words["bytesFromPeers"] == len(LARGE["large.gguf"])
    assert any("not what its digest says" in line.get("why", "") for line in run.log)


def test_of_two_neighbours_the_one_that_lies_falls_out(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    uri, node = holds(LARGE)
    honest = node.copy("honest")
    node.spoil("large.gguf")
    liar = seed(node)
    run = place.warm(uri, [liar.url, seed(honest).url], node.manifest)
    run.published()
    check(cache, LARGE)
    assert origin.asked == [], "the honest one has all of it"
    assert [line["peer"] for line in run.log if line["message"] == "neighbour falls out"] == [liar.url]


def as_a_peer(origin: Origin, node: Node, files: dict[str, bytes]) -> str:
    """Have a server that can misbehave serve a node's weights; it asks nobody for a token."""
    for path, content in files.items():
        origin.files[f"/model/{path}"] = content
    origin.files[MANIFEST] = (node.folder / "model/.preheat-manifest.json").read_bytes()
    return origin.url


@pytest.fixture
def rogue() -> Iterator[Origin]:
    with Origin("127.0.0.3").running() as running:
        yield running


def test_another_manifest_is_not_believed(place: Place, holds: Holds, rogue: Origin, cache: Path) -> None:
    uri, node = holds(FILES)
    url = as_a_peer(rogue, node, FILES)
    theirs = json.loads(rogue.files[MANIFEST])
    theirs["files"].append({"path": "evil.safetensors", "sizeBytes": 1, "sha256": "b" * 64, "gitSHA1": None})
    evil = (File(f["path"], f["sizeBytes"], f["sha256"], f["gitSHA1"]) for f in theirs["files"])
    assert manifest_digest(Manifest(tuple(evil))) != node.manifest
    theirs["manifestSHA256"] = node.manifest
    rogue.files[MANIFEST] = json.dumps(theirs).encode()
    assert place.warm(uri, [url], node.manifest).published()["bytesFromPeers"] == 0
    check(cache, FILES)
    assert len(rogue.asked) == 1


@pytest.mark.parametrize("size", [10, 10**15, 0, -1, "x", None])
def test_sizes_that_are_a_lie_cost_nothing_but_the_neighbour(
    place: Place, holds: Holds, rogue: Origin, cache: Path, size: Any
) -> None:
    """The digest of a manifest does not cover sizes."""
    uri, node = holds(FILES)
    url = as_a_peer(rogue, node, FILES)
    theirs = json.loads(rogue.files[MANIFEST])
    for entry in theirs["files"]:
        entry["sizeBytes"] = size
    rogue.files[MANIFEST] = json.dumps(theirs).encode()
    place.warm(uri, [url], node.manifest).published()
    check(cache, FILES)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(cut=1000),
        Answer(status=500),
        Answer(status=404),
        Answer(status=403),
        Answer(status=416),
        Answer(status=200, body=b"short"),
        Answer(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"}),
    ],
    ids=["cut", "500", "404", "403", "416", "short", "redirect to a metadata service"],
)
def test_whatever_a_neighbour_answers_the_bytes_are_right(
    place: Place, holds: Holds, rogue: Origin, origin: Origin, cache: Path, answer: Answer
) -> None:
    uri, node = holds(FILES)
    rogue.next("/model/a.gguf", *[answer] * 20)
    url = as_a_peer(rogue, node, FILES)
    if answer.headers.get("Location"):
        rogue.redirects["/model/a.gguf"] = answer.headers["Location"]
    run = place.warm(uri, [url], node.manifest, parallelism=1)
    run.published()
    check(cache, FILES)
    assert [line for line in run.log if line["message"] == "neighbour falls out"]
    assert len(rogue.requests("/model/a.gguf")) == 1, "it is not asked again"


def test_the_token_goes_to_the_neighbour_alone(
    place: Place, holds: Holds, rogue: Origin, elsewhere: Origin, cache: Path
) -> None:
    uri, node = holds(FILES)
    url = as_a_peer(rogue, node, FILES)
    rogue.redirects["/model/a.gguf"] = f"{elsewhere.url}/thief"
    place.warm(uri, [url], node.manifest).published()
    assert all("authorization" in asked.headers for asked in rogue.asked)
    assert not any("authorization" in asked.headers for asked in elsewhere.asked)
    check(cache, FILES)


def test_metadata_services_are_no_neighbours(place: Place, holds: Holds, cache: Path) -> None:
    uri, node = holds(FILES)
    run = place.warm(uri, ["http://169.254.169.254:9082", "http://[fe80::1]:9082"], node.manifest)
    assert run.published()["bytesFromPeers"] == 0
    check(cache, FILES)
    fallen = [line["why"] for line in run.log if line["message"] == "neighbour falls out"]
    assert len(fallen) == 2
    assert all("metadata services" in why for why in fallen)


def test_a_proxy_of_the_environment_is_not_asked_for_neighbours(
    place: Place, seed: Seed, holds: Holds, cache: Path
) -> None:
    uri, node = holds(FILES)
    nobody = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    words = place.warm(uri, [seed(node).url], node.manifest, environment=nobody).published()
    assert words["bytesFromPeers"] == words["bytesTotal"]


def test_a_neighbour_that_is_slow_to_connect_falls_out(
    place: Place, seed: Seed, holds: Holds, origin: Origin, cache: Path
) -> None:
    """A listening socket whose queue is full answers nothing, as a node that is gone."""
    uri, node = holds(FILES)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        started = time.monotonic()
        run = place.warm(uri, [f"http://127.0.0.1:{address[1]}", seed(node).url], node.manifest)
        words = run.published()
        assert time.monotonic() - started < 10
        for filler in fillers:
            filler.close()
    assert words["bytesFromPeers"] == words["bytesTotal"]
    assert origin.asked == []


def test_a_full_disk_is_told_as_such(place: Place, seed: Seed, holds: Holds) -> None:
    uri, node = holds(LARGE)
    run = place.warm(uri, [seed(node).url], node.manifest, file_limit=10_000_000)
    run.failed(1, "DiskFull")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"manifestSHA256": "x"}, "manifestSHA256"),
        ({"peers": ["ftp://x"]}, "peers"),
        ({"peers": [1]}, "peers must be a list"),
        ({"peers": ["http://user:word@x"]}, "peers"),
    ],
)
def test_a_wrong_configuration_is_named(
    place: Place, origin: Origin, change: dict[str, Any], words: str
) -> None:
    config = {"peers": ["http://127.0.0.1:1"], "manifestSHA256": "a" * 64, **change}
    assert words in place.start(origin.folder("m", FILES), **config).failed(2, "InvalidConfig")
