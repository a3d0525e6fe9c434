"""http(s): a folder with SHA256SUMS in it, or one file. And the HTTP client that every source shares."""

import copy
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies

import httpx

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason
from preheat_warmer.manifest import SUMS, File, Manifest, checked_path, is_sha256, parse_sums
from preheat_warmer.sources.base import Transfer
from preheat_warmer.sources.direct import CONNECT_SECONDS, READ_SECONDS, Direct
from preheat_warmer.sources.fence import check_address, check_peer

REDIRECTS_AT_MOST = 5
LIST_LIMIT_BYTES = 16_000_000
CHUNK_BYTES = 256 << 10
"""Where bytes come in chunks: what a kill can lose of each connection."""
RETRY_AFTER_LIMIT_SECONDS = 300.0
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII)

Authorize = Callable[[str, str], Mapping[str, str]]
"""Method and URL -> the headers that prove who asks."""


class Web:
    """Follows redirects by hand.

    What proves who asks never leaves the origin it is for, and no redirect reaches the metadata service of a
    cloud.
    """

    def __init__(self, token: str | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._authorize = bearer(token)
        proxied = not {"http", "https", "all"}.isdisjoint(getproxies())
        self._http = httpx.AsyncClient(
            transport=transport or (None if proxied else Direct()),
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=64),
            headers={"User-Agent": "preheat-warmer", "Accept-Encoding": "identity"},
        )

    def authorized(self, by: Authorize) -> "Web":
        """Return the same client (the same sockets, one ``close``) for one who proves himself in another way."""
        other = copy.copy(self)
        other._authorize = by
        return other

    async def close(self) -> None:
        """Release the sockets."""
        await self._http.aclose()

    async def text(self, url: str) -> tuple[str, httpx.Headers]:
        """Return a small resource and its headers. Raises Hopeless or Passing."""
        async with self.stream(url, {}) as answer:
            return (await content(answer, url)).decode("utf-8", "replace"), answer.headers

    async def size(self, url: str) -> int | None:
        """Return a file's size, asked for by its first byte: signed URLs often allow GET alone."""
        async with self.stream(url, {"Range": "bytes=0-0"}, allowed=(416,)) as answer:
            if answer.status_code == 416:
                return 0  # no first byte: it is empty
            if answer.status_code == 206:
                return _content_range(answer, 0)[1]
            return _content_length(answer)

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        headers: dict[str, str],
        allowed: tuple[int, ...] = (),
        method: str = "GET",
        body: bytes | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Open a URL; yield its answer of 2xx. Raises Hopeless or Passing with the status in words.

        What is sent goes to the address that was meant, and not to where a redirect leads.
        """
        home = _origin(url)
        for _ in range(REDIRECTS_AT_MOST + 1):
            await check_address(url, shown(url))
            own = dict(headers)
            if _origin(url) == home:
                own.update(self._authorize(method, url))
            try:
                async with self._http.stream(method, url, headers=own, content=body) as answer:
                    check_peer(answer, shown(url))
                    if answer.has_redirect_location and body is None:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    if answer.status_code not in allowed:
                        _raise_for_status(answer, url)
                    yield answer
                    return
            except httpx.HTTPError as error:
                words = f"{shown(url)}: {type(error).__name__} {error}".rstrip()
                raise Passing(Reason.SOURCE_UNAVAILABLE, words) from error
            except httpx.InvalidURL as error:
                raise Hopeless(Reason.ADDRESS_REFUSED, f"{shown(url)}: {error}") from error
        raise Hopeless(Reason.NOT_FOUND, f"{shown(url)}: more than {REDIRECTS_AT_MOST} redirects")

    @asynccontextmanager
    async def file(
        self, url: str, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read a part of a file, by Range; all of it where the server knows no ranges."""
        part = offset > 0 or end is not None
        headers = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"} if part else {}
        if part and version and not version.startswith("W/"):
            headers["If-Range"] = version
        async with self.stream(url, headers) as answer:
            current = answer.headers.get("etag", "")
            pipe = answer.extensions.get("pipe")
            if answer.status_code != 206:
                yield Transfer(0, current, _content_length(answer), _chunks(answer), not part, pipe)
                return
            if version and current and current != version:
                raise Changed(url)
            start, total = _content_range(answer, offset)
            length = _content_length(answer)
            if total is None and length is not None and end is None:
                total = start + length
            if start != offset:
                raise Passing(
                    Reason.SOURCE_UNAVAILABLE,
                    f"{shown(url)}: asked for bytes from {offset} on, the answer begins at {start}",
                )
            yield Transfer(start, current, total, _chunks(answer), pipe=pipe)


def bearer(token: str | None) -> Authorize:
    """Return what shows a token, or nothing where there is none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return lambda _method, _url: headers


async def content(answer: httpx.Response, url: str) -> bytes:
    """Return a small body. Raises Hopeless for a long one."""
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > LIST_LIMIT_BYTES:
            raise Hopeless(Reason.NOT_FOUND, f"{shown(url)} is no listing: it is too long")
    return bytes(body)


class WebSource:
    """A folder (the URI ends in a slash) or a file."""

    def __init__(self, uri: str, web: Web) -> None:
        self._uri = uri
        self._web = web

    async def list(self) -> Manifest:
        """Return what SHA256SUMS says, or the digest beside the one file."""
        parts = urlsplit(self._uri)
        if parts.path.endswith("/") or not parts.path:
            return Manifest(tuple(parse_sums(await self._sums(self._url(SUMS)))))
        beside = urlunsplit(parts._replace(path=f"{parts.path}.sha256"))
        words = (await self._sums(beside)).split()
        digest = words[0].lower() if words else ""
        name = checked_path(unquote(parts.path.rsplit("/", 1)[1]))
        return Manifest((File(name, None, digest if is_sha256(digest) else None),))

    async def size(self, file: File) -> int | None:
        """Return what the server says a file's size is."""
        return await self._web.size(self._url(file.path))

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read a file below the folder, or the one file."""
        async with self._web.file(self._url(file.path), offset, version, end) as transfer:
            yield transfer

    def _url(self, path: str) -> str:
        parts = urlsplit(self._uri)
        if parts.path and not parts.path.endswith("/"):
            return self._uri
        return urlunsplit(parts._replace(path=f"{parts.path or '/'}{quote(path)}"))

    async def _sums(self, url: str) -> str:
        try:
            return (await self._web.text(url))[0]
        except Hopeless as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            raise Hopeless(
                Reason.NO_DIGEST,
                f"{shown(url)} is not there: put it there (sha256sum makes it), or list the files with their "
                "digests in spec.model.files",
            ) from error


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body in pieces worth a write. What came before a break is yielded before the break is told."""
    buffer = bytearray()
    broken = None
    try:
        async for piece in answer.aiter_raw():
            buffer += piece
            if len(buffer) >= CHUNK_BYTES:
                yield bytes(buffer)
                buffer.clear()
    except httpx.HTTPError as error:
        broken = error
    if buffer:
        yield bytes(buffer)
    if broken is not None:
        raise broken


def shown(url: str) -> str:
    """Return a URL for messages: without what may be secret (a signature, a password)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _content_length(answer: httpx.Response) -> int | None:
    text = answer.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _content_range(answer: httpx.Response, asked: int) -> tuple[int, int | None]:
    """Return where a 206 begins, and the size of the whole. One that does not tell begins where it was asked."""
    match = _RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if match is None:
        return asked, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _raise_for_status(answer: httpx.Response, url: str) -> None:
    code = answer.status_code
    if answer.is_success:
        return
    if code in {401, 403}:
        raise Hopeless(
            Reason.UNAUTHORIZED,
            f"{shown(url)}: {code}. Check that it exists, name a Secret in spec.model.credentials that has the keys "
            "this kind of source wants (docs/api.md), and check their rights (a gated model must be accepted once).",
        )
    if code == 416:
        raise Changed(url)
    if code in {408, 425, 429} or code >= 500:
        raise Passing(
            Reason.SOURCE_UNAVAILABLE,
            f"{shown(url)}: {code} {answer.reason_phrase}",
            retry_after(answer.headers.get("retry-after", ""), time.time()),
        )
    raise Hopeless(Reason.NOT_FOUND, f"{shown(url)}: {code}. Check the URI and the revision.")


def retry_after(text: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number or a date), None when it says nothing."""
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_LIMIT_SECONDS)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return min(max(0.0, until - now), RETRY_AFTER_LIMIT_SECONDS)
