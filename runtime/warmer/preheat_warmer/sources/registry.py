"""oci://REGISTRY/REPOSITORY:TAG or @DIGEST: files that somebody pushed as an artifact, one layer a file.

Used of the distribution protocol: ``/v2/NAME/manifests/REF``, ``/v2/NAME/blobs/DIGEST``, and how a registry
says where to log in (the WWW-Authenticate header of a 401). A layer's title is the path of a file, and the
layer's digest is the file's.
"""

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, Manifest, is_sha256
from preheat_warmer.secret import Secret
from preheat_warmer.sources.base import Transfer
from preheat_warmer.sources.web import Authorize, Web, bearer, content, shown

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
"""An image for several platforms: one manifest of manifests."""
HUB = "docker.io"
HUB_HOST = "registry-1.docker.io"
"""Where the registry is that images call docker.io."""
TITLE = "org.opencontainers.image.title"
PACKED = "io.deis.oras.content.unpack"
"""Marks a layer that is a folder, packed: its files have no digests of their own."""
TOKEN_SECONDS = 60.0
"""How long a token lasts when nobody says."""
_REFERENCE = re.compile(r"oci://([^/]+)/([^:@]+)(?::|@)(.+)")
_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest says: its own digest, and each file's."""

    digest: str
    files: Mapping[str, File]


class RegistrySource:
    """One artifact of one repository."""

    def __init__(self, uri: str, endpoint: str, secret: Secret, web: Web) -> None:
        match = _REFERENCE.fullmatch(uri)
        if match is None:
            raise Hopeless(Reason.INVALID_CONFIG, f"{uri} names no tag and no digest")
        registry, self._repository, self._reference = match.groups()
        self._uri = uri
        host = HUB_HOST if registry == HUB else registry
        self._base = f"{endpoint or f'https://{host}'}/v2/{self._repository}"
        self._login = _Login(secret, web, self._repository)
        self._artifact: Artifact | None = None
        self._asking = asyncio.Lock()

    async def list(self) -> Manifest:
        """Return the files of the manifest that the tag stands for now; ``revision`` is its digest."""
        artifact = await self._resolved()
        return Manifest(tuple(artifact.files.values()), artifact.digest)

    async def digest(self) -> str:
        """Return the digest of what the tag stands for now, also of an image for several platforms."""
        return _digest(await self._manifest((*MANIFEST_TYPES, *INDEX_TYPES)))

    async def size(self, file: File) -> int | None:
        """Return the size of a file's layer."""
        return (await self._layer(file)).size

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read a file's layer."""
        layer = await self._layer(file)
        web = await self._login.web()
        async with web.file(f"{self._base}/blobs/sha256:{layer.sha256}", offset, version, end) as transfer:
            yield transfer

    async def _layer(self, file: File) -> File:
        layer = (await self._resolved()).files.get(file.path)
        if layer is None:
            raise Hopeless(Reason.NOT_FOUND, f"{self._uri} has no layer with the title {file.path}")
        return layer

    async def _resolved(self) -> Artifact:
        """Return the artifact, asked for once: a tag that moves meanwhile does not mix two."""
        async with self._asking:
            if self._artifact is None:
                self._artifact = parse_manifest(await self._manifest(), self._uri)
            return self._artifact

    async def _manifest(self, types: Sequence[str] = MANIFEST_TYPES) -> bytes:
        url = f"{self._base}/manifests/{self._reference}"
        accept = {"Accept": ", ".join(types)}
        async with (await self._login.web()).stream(url, accept, allowed=(401,)) as answer:
            if answer.status_code != 401:
                return self._checked(await content(answer, url))
            challenge = answer.headers.get("www-authenticate", "")
        await self._login.answer(challenge, url)
        async with (await self._login.web()).stream(url, accept) as answer:
            return self._checked(await content(answer, url))

    def _checked(self, body: bytes) -> bytes:
        """Return a manifest that is what its digest says, where it was asked for by one."""
        if self._reference.startswith("sha256:") and self._reference != _digest(body):
            raise Hopeless(
                Reason.DIGEST_MISMATCH,
                f"{self._uri}: the registry answers another manifest than the digest's",
            )
        return body


class _Login:
    """Who asks, as the registry wants to be told. Asks for a new token before the old one ends."""

    def __init__(self, secret: Secret, web: Web, repository: str) -> None:
        self._anonymous = web.authorized(bearer(None))
        self._secret = secret
        self._repository = repository
        self._web = self._anonymous
        self._realm = ""
        self._until = float("inf")
        self._asking = asyncio.Lock()

    async def web(self) -> Web:
        """Return the client that proves who asks."""
        async with self._asking:
            if time.monotonic() >= self._until:
                await self._renew()
            return self._web

    async def answer(self, challenge: str, url: str) -> None:
        """Log in as a challenge asks. Raises Hopeless when that cannot be done."""
        async with self._asking:
            kind = challenge.partition(" ")[0].lower()
            if kind == "bearer":
                self._realm = realm_of(challenge, url, self._repository)
                await self._renew()
            elif kind == "basic" and self._secret.username:
                self._web = self._anonymous.authorized(basic(self._secret))
            else:
                raise Hopeless(
                    Reason.UNAUTHORIZED,
                    f"{shown(url)}: 401. Name a Secret with the keys `username` and `password` in "
                    "spec.model.credentials",
                )

    async def _renew(self) -> None:
        known = self._anonymous.authorized(basic(self._secret)) if self._secret.username else self._anonymous
        try:
            answer = json.loads((await known.text(self._realm))[0])
            token = answer.get("token") or answer["access_token"]
            lasts = float(answer.get("expires_in", TOKEN_SECONDS))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Hopeless(
                Reason.UNAUTHORIZED, f"{shown(self._realm)} gives no token: is it a registry?"
            ) from error
        self._web = self._anonymous.authorized(bearer(str(token)))
        self._until = time.monotonic() + 0.8 * lasts


def basic(secret: Secret) -> Authorize:
    """Return what shows a user's name and password."""
    words = base64.b64encode(f"{secret.username}:{secret.password}".encode()).decode()
    return lambda _method, _url: {"Authorization": f"Basic {words}"}


def realm_of(challenge: str, url: str, repository: str) -> str:
    """Return where to ask for a token to read. Raises Hopeless for a challenge that names no fit place.

    >>> realm_of('Bearer realm="https://a.example/token",service="r"', "https://r.example/v2/m/manifests/1", "m")
    'https://a.example/token?service=r&scope=repository%3Am%3Apull'
    """
    said = {name.lower(): value for name, value in _CHALLENGE.findall(challenge)}
    realm = urljoin(url, said.get("realm", ""))
    if not said.get("realm") or (urlsplit(url).scheme == "https" and urlsplit(realm).scheme != "https"):
        raise Hopeless(
            Reason.UNAUTHORIZED,
            f"{shown(url)} asks for a token and names no place that a password can be sent to",
        )
    query = {"service": said.get("service", ""), "scope": f"repository:{repository}:pull"}
    asked = urlencode({name: value for name, value in query.items() if value})
    return f"{realm}{'&' if urlsplit(realm).query else '?'}{asked}"


def parse_manifest(body: bytes, uri: str) -> Artifact:
    """Return what a manifest says. Raises Hopeless for one that is no artifact with files."""
    try:
        manifest = json.loads(body)
        if "manifests" in manifest:
            raise Hopeless(
                Reason.NOT_FOUND,
                f"{uri} is an index, not one artifact: name the digest of one of its manifests",
            )
        files = [
            _file(layer, uri) for layer in manifest["layers"] if TITLE in (layer.get("annotations") or {})
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Hopeless(
            Reason.NOT_FOUND, f"{uri}: the registry answers no manifest: is it a registry?"
        ) from error
    if not files:
        raise Hopeless(
            Reason.NOT_FOUND,
            f"{uri} has no layer with a title ({TITLE}): push the files as an artifact, as ORAS does",
        )
    by_path = {file.path: file for file in files}
    if len(by_path) < len(files):
        raise Hopeless(Reason.PATH_REFUSED, f"{uri} has two layers with the same title")
    return Artifact(_digest(body), by_path)


def _file(layer: Mapping[str, Any], uri: str) -> File:
    title = str(layer["annotations"][TITLE])
    if layer["annotations"].get(PACKED) == "true":
        raise Hopeless(
            Reason.NO_DIGEST,
            f"{uri}: {title} is a packed folder, and its files have no digests of their own: push the files",
        )
    digest = str(layer["digest"]).removeprefix("sha256:")
    return File(title, int(layer["size"]), digest if is_sha256(digest) else None)


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
