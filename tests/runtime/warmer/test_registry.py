"""Weights in a real OCI registry: anonymous, with a password, and with tokens that it asks for."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from preheat_warmer.secret import Secret
from preheat_warmer.sources.registry import RegistrySource
from preheat_warmer.sources.web import Web

from tests.runtime.warmer.origin import sha256
from tests.runtime.warmer.run import Start, ranges
from tests.runtime.warmer.servers import REGISTRY, built, free_port, serving
from tests.runtime.warmer.test_sources import model, some_bytes

MIB = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
USER = {"username": "preheat", "password": "pass word"}
HTPASSWD = "preheat:$2b$04$abcdefghijklmnopqrstuuFcV8WPKEefLKdOWfX8pW1yTVya21P7a"
"""bcrypt of the password: the only kind that the registry takes."""


@contextmanager
def registry(folder: Path, auth: str = "") -> Iterator[str]:
    folder.mkdir(exist_ok=True)
    port = free_port()
    config = f"""\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder / "data"}}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}"""
    (folder / "config.yaml").write_text(config)
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    url = f"http://127.0.0.1:{port}"
    with serving([str(built(REGISTRY)), "serve", "config.yaml"], f"{url}/v2/", folder / "log", environment):
        yield url


@pytest.fixture(scope="module")
def anonymous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


def push(
    url: str,
    name: str,
    tag: str,
    files: dict[str, bytes],
    headers: dict[str, str] | None = None,
    **notes: str,
) -> str:
    """Push files as an artifact, one layer a file; return the digest of the manifest."""
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        layers = [
            {
                "mediaType": "application/octet-stream",
                "digest": _blob(client, name, content),
                "size": len(content),
                "annotations": {TITLE: path, **notes},
            }
            for path, content in files.items()
        ]
        config = {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": _blob(client, name, b"{}"),
            "size": 2,
        }
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": "application/vnd.example.model",
                "config": config,
                "layers": layers,
            }
        ).encode()
        answer = client.put(
            f"/v2/{name}/manifests/{tag}", content=manifest, headers={"Content-Type": MANIFEST}
        )
        answer.raise_for_status()
        return f"sha256:{sha256(manifest)}"


def _blob(client: httpx.Client, name: str, content: bytes) -> str:
    digest = f"sha256:{sha256(content)}"
    begun = client.post(f"/v2/{name}/blobs/uploads/")
    begun.raise_for_status()
    where = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest})
    client.put(where, content=content).raise_for_status()
    return digest


def test_an_artifact_by_tag_and_by_digest(anonymous: str, start: Start, cache: Path) -> None:
    files = {"a.gguf": some_bytes(3 * MIB), "deep/config.json": b"{}"}
    digest = push(anonymous, "models/llama", "v1", files)
    words = start("oci://registry.example/models/llama:v1", endpoint=anonymous).published()
    assert model(cache) == files
    assert words["resolvedRevision"] == digest
    again = start(f"oci://registry.example/models/llama@{digest}", endpoint=anonymous).published()
    assert again["manifestSHA256"] == words["manifestSHA256"]
    assert again["bytesFetched"] == 0


async def test_parts_of_a_layer(anonymous: str) -> None:
    content = some_bytes(3000)
    push(anonymous, "models/parts", "v1", {"a.gguf": content})
    web = Web(None)
    await ranges(
        RegistrySource("oci://r.example/models/parts:v1", anonymous, Secret(), web), "a.gguf", content
    )
    await web.close()


def test_a_killed_download_of_a_layer_goes_on(anonymous: str, start: Start, cache: Path) -> None:
    content = some_bytes(8 * MIB, 2)
    push(anonymous, "models/resumed", "v1", {"a.gguf": content})
    run = start("oci://r.example/models/resumed:v1", endpoint=anonymous, maxBytesPerSecond=4 * MIB)
    there = run.kill_at(cache / ".partial/a.gguf.part", 2 * MIB)
    words = start("oci://r.example/models/resumed:v1", endpoint=anonymous).published()
    assert model(cache) == {"a.gguf": content}
    assert words["bytesFetched"] == len(content) - there


def test_a_tag_that_moves_is_another_model(anonymous: str, start: Start, cache: Path) -> None:
    push(anonymous, "models/moved", "v1", {"a.gguf": b"old"})
    start("oci://r.example/models/moved:v1", endpoint=anonymous).published()
    digest = push(anonymous, "models/moved", "v1", {"a.gguf": b"new"})
    words = start("oci://r.example/models/moved:v1", endpoint=anonymous).published()
    assert words["resolvedRevision"] == digest
    assert model(cache) == {"a.gguf": b"new"}


def test_listed_files_are_those_layers(anonymous: str, start: Start, cache: Path) -> None:
    push(anonymous, "models/listed", "v1", {"a.gguf": b"weights", "b.gguf": b"others"})
    files = [{"path": "a.gguf", "sha256": sha256(b"weights")}]
    start("oci://r.example/models/listed:v1", endpoint=anonymous, files=files).published()
    assert model(cache) == {"a.gguf": b"weights"}
    files = [{"path": "c.gguf", "sha256": sha256(b"weights")}]
    message = start("oci://r.example/models/listed:v1", endpoint=anonymous, files=files).failed(2, "NotFound")
    assert "c.gguf" in message


def test_what_is_not_there_and_what_is_no_artifact(anonymous: str, start: Start) -> None:
    push(anonymous, "models/odd", "evil", {"../evil.gguf": b"x"})
    push(anonymous, "models/odd", "packed", {"folder": b"x"}, None, **{"io.deis.oras.content.unpack": "true"})
    push(anonymous, "models/odd", "empty", {})
    for tag, reason in {
        "gone": "NotFound",
        "evil": "PathRefused",
        "packed": "NoDigest",
        "empty": "NotFound",
    }.items():
        more = {"include": ["*"]} if tag == "evil" else {}
        start(f"oci://r.example/models/odd:{tag}", endpoint=anonymous, **more).failed(2, reason)
    start("oci://r.example/nowhere:v1", endpoint=anonymous).failed(2, "NotFound")
    start("oci://169.254.169.254/models/odd:v1").failed(2, "AddressRefused")


def test_a_registry_with_passwords(tmp_path: Path, start: Start, cache: Path, secret: Any) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry/htpasswd").write_text(f"{HTPASSWD}\n")
    with registry(tmp_path / "registry", "auth: {htpasswd: {realm: test, path: htpasswd}}") as url:
        words = base64.b64encode(":".join(USER.values()).encode()).decode()
        push(url, "models/private", "v1", {"a.gguf": b"weights"}, {"Authorization": f"Basic {words}"})
        uri = "oci://r.example/models/private:v1"
        assert "`username`" in start(uri, endpoint=url).failed(2, "Unauthorized")
        wrong = secret({**USER, "password": "wrong"})
        start(uri, endpoint=url, credentialsDirectory=wrong).failed(2, "Unauthorized")
        start(uri, endpoint=url, credentialsDirectory=secret(USER)).published()
    assert model(cache) == {"a.gguf": b"weights"}


class Issuer(ThreadingHTTPServer):
    """Gives tokens that a real registry believes: it signs them with the key that the registry was told of."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lasts_seconds = 60
        self.given: list[dict[str, Any]] = []
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=issuer", "-days", "1",
             "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
            check=True,
            capture_output=True,
        )  # fmt: skip
        super().__init__(("127.0.0.1", 0), _IssuerHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/token"

    def token(self, user: str, service: str, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        certificate = "".join((self.folder / "cert.pem").read_text().splitlines()[1:-1])
        header = {"alg": "RS256", "typ": "JWT", "x5c": [certificate]}
        claims = {
            "iss": "issuer", "sub": user, "aud": service, "iat": now, "nbf": now - 5, "exp": now + self.lasts_seconds,
            "jti": str(len(self.given)), "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }  # fmt: skip
        body = f"{_url64(json.dumps(header).encode())}.{_url64(json.dumps(claims).encode())}"
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.folder / "key.pem")],
            input=body.encode(),
            capture_output=True,
            check=True,
        )
        self.given.append(claims)
        return f"{body}.{_url64(signed.stdout)}"


class _IssuerHandler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        words = base64.b64encode(":".join(USER.values()).encode()).decode()
        good = self.headers.get("Authorization") == f"Basic {words}"
        body = b"{}"
        if good:
            token = self.server.token(USER["username"], query["service"], query["scope"])
            body = json.dumps({"token": token, "expires_in": self.server.lasts_seconds}).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with Issuer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_registry_that_asks_for_tokens(
    tmp_path: Path, issuer: Issuer, start: Start, cache: Path, secret: Any
) -> None:
    token = f"{{realm: '{issuer.url}', service: here, issuer: issuer, rootcertbundle: cert.pem}}"
    with registry(tmp_path / "registry", f"auth: {{token: {token}}}") as url:
        content = some_bytes(2 * MIB)
        pusher = issuer.token("ci", "here", "repository:models/private:pull,push")
        push(url, "models/private", "v1", {"a.gguf": content}, {"Authorization": f"Bearer {pusher}"})
        uri = "oci://r.example/models/private:v1"
        start(uri, endpoint=url).failed(2, "Unauthorized")
        wrong = secret({**USER, "password": "wrong"})
        start(uri, endpoint=url, credentialsDirectory=wrong).failed(2, "Unauthorized")
        issuer.lasts_seconds = 0  # each request needs another token
        start(uri, endpoint=url, credentialsDirectory=secret(USER)).published()
    assert model(cache) == {"a.gguf": content}
    assert len(issuer.given) > 2
    assert issuer.given[-1]["access"] == [
        {"type": "repository", "name": "models/private", "actions": ["pull"]}
    ]
