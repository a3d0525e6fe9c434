"""A bucket of Google's with a service account's key, against a token endpoint that verifies the signature."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typing_extensions import override

from tests.runtime.warmer.origin import Origin, sha256
from tests.runtime.warmer.run import Run, Start
from tests.runtime.warmer.test_sources import model, some_bytes

EMAIL = "reader@project.iam.gserviceaccount.com"
MIB = 1 << 20


def pem(key: Any) -> str:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.decode()


KEY = rsa.generate_private_key(65537, 2048)


@dataclass
class Google:
    """Gives out tokens for signed requests, and objects for tokens that are still good."""

    url: str = ""
    lasts_seconds: float = 60.0
    redirect: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def key(self, **changed: Any) -> str:
        return json.dumps(
            {"type": "service_account", "client_email": EMAIL, "private_key": pem(KEY), "private_key_id": "k1",
             "token_uri": f"{self.url}/token", **changed}, indent=2
        )  # fmt: skip

    def grant(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        try:
            assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
            claims = jwt.decode(
                form["assertion"][0],
                KEY.public_key(),
                algorithms=["RS256"],
                audience=f"{self.url}/token",
                issuer=EMAIL,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.PyJWTError:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        assert jwt.get_unverified_header(form["assertion"][0])["kid"] == "k1"
        assert claims["exp"] - claims["iat"] <= 3600
        self.asked.append(claims)
        token = uuid.uuid4().hex
        self.tokens[token] = time.monotonic() + self.lasts_seconds
        return 200, {"access_token": token, "expires_in": self.lasts_seconds, "token_type": "Bearer"}


class _Handler(BaseHTTPRequestHandler):
    google: Google

    def do_POST(self) -> None:
        assert "authorization" not in self.headers
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        if self.google.redirect:
            self.answer(307, b"", {"Location": self.google.redirect})
            return
        status, said = self.google.grant(parse_qs(body))
        self.answer(status, json.dumps(said).encode())

    def do_GET(self) -> None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        content = self.google.objects.get(self.path)
        if self.google.tokens.get(token, 0.0) <= time.monotonic():
            self.google.refused.append(self.path)
            self.answer(401, b"")
        elif content is None:
            self.answer(404, b"")
        else:
            self.answer(200, content)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def google() -> Iterator[Google]:
    made = Google()

    class Handler(_Handler):
        google = made

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(google: Google, start: Start, secret: Callable[[dict[str, str]], str]) -> Callable[..., Run]:
    def starter(key: str | None = None, **more: Any) -> Run:
        mounted = secret({"key.json": google.key() if key is None else key})
        return start("gs://models/llama", endpoint=google.url, credentialsDirectory=mounted, **more)

    return starter


def put(google: Google, files: dict[str, bytes]) -> None:
    sums = "".join(f"{sha256(content)}  {path}\n" for path, content in files.items()).encode()
    google.objects = {f"/models/llama/{path}": c for path, c in {**files, "SHA256SUMS": sums}.items()}


def test_a_key_is_exchanged_and_the_token_renewed_while_a_long_fetch_runs(
    google: Google, fetch: Callable[..., Run], cache: Path
) -> None:
    files = {f"{number}.gguf": some_bytes(MIB, number) for number in range(6)}
    put(google, files)
    google.lasts_seconds = 1.5
    fetch(parallelism=1, maxBytesPerSecond=2 * MIB).published()
    assert model(cache) == files
    assert google.refused == []
    assert len(google.asked) >= 2
    assert google.asked[0]["scope"] == "https://www.googleapis.com/auth/devstorage.read_only"


def test_a_key_that_is_not_the_account_s(google: Google, fetch: Callable[..., Run]) -> None:
    put(google, {"a.gguf": b"x"})
    other = pem(rsa.generate_private_key(65537, 2048))
    run = fetch(google.key(private_key=other))
    message = run.failed(2, "Unauthorized")
    assert EMAIL in message
    assert "Invalid JWT Signature." in message
    told = json.dumps(run.log) + json.dumps(run.words)
    assert not any(line in told for line in other.splitlines()[1:-1])


def test_an_assertion_does_not_follow_a_redirect(
    google: Google, elsewhere: Origin, fetch: Callable[..., Run]
) -> None:
    google.redirect = f"{elsewhere.url}/token"
    fetch().failed(2, "NotFound")
    assert elsewhere.asked == []


def test_a_token_endpoint_is_fenced_like_any_other_address(google: Google, fetch: Callable[..., Run]) -> None:
    fetch(google.key(token_uri="http://169.254.169.254/computeMetadata/v1/token")).failed(2, "AddressRefused")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "authorized_user"}, "service_account"),
        ({"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n"}, "PEM"),
        ({"private_key": pem(ec.generate_private_key(ec.SECP256R1()))}, "RSA"),
        ({"client_email": None, "private_key": None}, "PEM"),
    ],
)
def test_a_key_that_is_none(
    google: Google, fetch: Callable[..., Run], change: dict[str, Any], says: str
) -> None:
    message = fetch(google.key(**change)).failed(2, "InvalidConfig")
    assert says in message
    assert "key.json" in message


@pytest.mark.parametrize("text", ["", "[]", "{}", "secret", '{"type": "service_account"}', "1" * 9000])
def test_what_is_no_key_file(fetch: Callable[..., Run], text: str) -> None:
    run = fetch(text)
    message = run.failed(2, "InvalidConfig")
    assert "key.json" in message
    assert text in {"", "[]", "{}"} or text not in json.dumps(run.log)


def test_a_key_is_not_shown_in_the_clear(
    start: Start, google: Google, secret: Callable[[dict[str, str]], str]
) -> None:
    """The bucket is asked by https: then the place that gives out tokens is too."""
    mounted = secret({"key.json": google.key()})
    message = start("gs://models/llama", credentialsDirectory=mounted).failed(2, "InvalidConfig")
    assert "https" in message
    assert google.asked == []
