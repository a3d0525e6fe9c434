"""http(s): a folder with SHA256SUMS in it, or one file. And the HTTP client that every source shares."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urljoin, urlsplit

import httpx

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason
from preheat_warmer.manifest import File, Manifest, parse_sums
from preheat_warmer.sources.base import Transfer

REDIRECTS_AT_MOST = 5
LIST_LIMIT_BYTES = 16_000_000
CHUNK_BYTES = 1 << 20


class Web:
    """Follows redirects by hand.

    A token never leaves the host it is for, and no redirect reaches a link-local address (the metadata
    service of a cloud).
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(30.0, connect=10.0),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=32),
            headers={"User-Agent": "preheat-warmer", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Release the sockets."""
        await self._http.aclose()

    async def text(self, url: str) -> tuple[str, httpx.Headers]:
        """Return a small resource and its headers. Raises Hopeless or Passing."""
        async with self.stream(url, {}) as answer:
            content = b""
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > LIST_LIMIT_BYTES:
                    raise Hopeless(Reason.INCOMPLETE_MODEL, f"{url}: the listing is too long")
            return content.decode("utf-8", "replace"), answer.headers

    @asynccontextmanager
    async def stream(self, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """Open a URL; yield its answer of 2xx. Raises Hopeless or Passing with the status in words."""
        home = urlsplit(url).netloc
        for _ in range(REDIRECTS_AT_MOST):
            await _check_address(url)
            own = dict(headers)
            if self._token and urlsplit(url).netloc == home:
                own["Authorization"] = f"Bearer {self._token}"
            try:
                async with self._http.stream("GET", url, headers=own) as answer:
                    if answer.is_redirect:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    _raise_for_status(answer, url)
                    yield answer
                    return
            except httpx.HTTPError as error:
                words = f"{url}: {type(error).__name__} {error}".rstrip()
                raise Passing(Reason.SOURCE_UNAVAILABLE, words) from error
        raise Hopeless(Reason.NOT_FOUND, f"{url}: more than {REDIRECTS_AT_MOST} redirects")

    @asynccontextmanager
    async def file(self, url: str, offset: int, version: str) -> AsyncIterator[Transfer]:
        """Read a file from an offset on, by Range; from the start where the server knows no ranges."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and version and not version.startswith("W/"):
            headers["If-Range"] = version
        async with self.stream(url, headers) as answer:
            current = answer.headers.get("etag", "")
            partial = answer.status_code == httpx.codes.PARTIAL_CONTENT
            if partial and version and current and current != version:
                raise Changed(url)
            start = offset if partial else 0
            length = answer.headers.get("content-length")
            total = start + int(length) if length and length.isdigit() else None
            yield Transfer(start, current, total, answer.aiter_raw(CHUNK_BYTES))


class WebSource:
    """A folder (the URI ends in a slash) or a file."""

    def __init__(self, uri: str, web: Web) -> None:
        self._uri = uri
        self._web = web

    async def list(self) -> Manifest:
        """Return what SHA256SUMS says, or the digest beside the one file."""
        if self._uri.endswith("/"):
            text, _ = await self._sums(f"{self._uri}SHA256SUMS")
            return Manifest(tuple(parse_sums(text)))
        name = self._uri.rsplit("/", 1)[1]
        text, _ = await self._sums(f"{self._uri}.sha256")
        return Manifest((File(name, None, text.split()[0].lower() if text.split() else None),))

    async def _sums(self, url: str) -> tuple[str, httpx.Headers]:
        try:
            return await self._web.text(url)
        except Hopeless as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            raise Hopeless(
                Reason.NO_DIGEST,
                f"{url} is not there: put it there (sha256sum makes it), or list the files with their digests "
                "in spec.model.files",
            ) from error

    @asynccontextmanager
    async def open(self, file: File, offset: int, version: str) -> AsyncIterator[Transfer]:
        """Read a file below the folder, or the one file."""
        url = self._uri + quote(file.path) if self._uri.endswith("/") else self._uri
        async with self._web.file(url, offset, version) as transfer:
            yield transfer


async def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Hopeless(Reason.ADDRESS_REFUSED, f"{url}: only http and https addresses are followed")
    loop = asyncio.get_running_loop()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Passing(Reason.SOURCE_UNAVAILABLE, f"{parts.hostname}: {error}") from error
    for *_, address in found:
        if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_link_local:
            raise Hopeless(
                Reason.ADDRESS_REFUSED,
                f"{url} leads to {address[0]}: link-local addresses are not fetched from",
            )


def _raise_for_status(answer: httpx.Response, url: str) -> None:
    code = answer.status_code
    if answer.is_success:
        return
    if code in {401, 403}:
        raise Hopeless(
            Reason.UNAUTHORIZED,
            f"{url}: {code}. Name a Secret with the key `token` in spec.model.credentials, and check its rights.",
        )
    if code in {404, 410}:
        raise Hopeless(Reason.NOT_FOUND, f"{url}: {code} not found. Check the URI and the revision.")
    if code == 416:
        raise Changed(url)
    if code in {408, 425, 429} or code >= 500:
        error = Passing(Reason.SOURCE_UNAVAILABLE, f"{url}: {code} {answer.reason_phrase}")
        error.retry_after = _retry_after(answer)  # type: ignore[attr-defined]
        raise error
    raise Hopeless(Reason.NOT_FOUND, f"{url}: {code} {answer.reason_phrase}")


def _retry_after(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return min(float(text), 300.0) if text.isdigit() else None
