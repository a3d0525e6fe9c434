"""s3://BUCKET/PREFIX and gs://BUCKET/PREFIX: objects in a bucket, over the protocol that both services speak.

The HTTP client that all sources share asks: so the fence holds for redirects too, and nobody goes looking for
credentials in the metadata service of a cloud (docs/decisions/0012).
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree as ET

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import SUMS, File, Manifest, checked_path, parse_sums
from preheat_warmer.secret import Secret
from preheat_warmer.sources.base import Transfer
from preheat_warmer.sources.google import Login, parse_account
from preheat_warmer.sources.signature import signed_headers
from preheat_warmer.sources.web import Authorize, Web, bearer, shown

REGION = "us-east-1"
OBJECTS_AT_MOST = 5000
HEADS_AT_ONCE = 8
_GOOGLE = "https://storage.googleapis.com"
_REGION_IN_HOST = re.compile(r"s3[.-]([a-z0-9-]+)[.]amazonaws[.]com(?:[.]cn)?")
_ASK_FOR_CHECKSUMS = {"x-amz-checksum-mode": "ENABLED"}


class BucketSource:
    """The objects below one prefix."""

    def __init__(self, uri: str, endpoint: str, token: str | None, secret: Secret, web: Web) -> None:
        self._uri = uri
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        self._prefix = f"{checked_path(prefix)}/" if prefix else ""
        region = secret.region or region_of(endpoint)
        self._bucket = bucket_url(scheme, bucket, endpoint, region)
        asked = _ASK_FOR_CHECKSUMS if scheme == "s3" else {}
        self._knows_checksums = scheme == "s3"
        self._login: Login | None = None
        if secret.access_key_id:
            self._web = web.authorized(signer(secret, region, asked))
        elif scheme == "gs" and secret.google_key:
            self._web = web
            self._login = Login(parse_account(secret.google_key, self._bucket), web)
        elif scheme == "gs":
            self._web = web.authorized(bearer(token))
        else:
            self._web = web.authorized(lambda _method, _url: asked)

    async def list(self) -> Manifest:
        """Return what SHA256SUMS says; without one, the objects with the checksums that the service keeps."""
        try:
            text, _ = await (await self._asking()).text(self._url(SUMS))
        except Hopeless as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            return Manifest(await self._with_checksums(await self._objects()))
        return Manifest(tuple(parse_sums(text)))

    async def size(self, file: File) -> int | None:
        """Return the size of an object."""
        return await (await self._asking()).size(self._url(file.path))

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read an object."""
        web = await self._asking()
        async with web.file(self._url(file.path), offset, version, end) as transfer:
            yield transfer

    async def _asking(self) -> Web:
        """Return the client that proves who asks; a token is renewed before it ends."""
        return self._web if self._login is None else await self._login.web()

    def _url(self, path: str) -> str:
        return f"{self._bucket}/{_quoted(self._prefix + path)}"

    async def _objects(self) -> tuple[File, ...]:
        """Return the objects below the prefix with their sizes, page by page."""
        found: tuple[File, ...] = ()
        page = ""
        while True:
            query = {
                "list-type": "2",
                "prefix": self._prefix,
                **({"continuation-token": page} if page else {}),
            }
            text = await self._page(
                f"{self._bucket}/?{urlencode(sorted(query.items()), quote_via=quote, safe='')}"
            )
            objects, page = parse_listing(text, self._prefix, shown(self._bucket))
            found += objects
            if len(found) > OBJECTS_AT_MOST:
                raise Hopeless(
                    Reason.NOT_FOUND,
                    f"{self._uri} has more than {OBJECTS_AT_MOST} objects: name the folder of one model",
                )
            if not page:
                break
        if not found:
            raise Hopeless(Reason.NOT_FOUND, f"{self._uri}: no object's name begins so: check the prefix")
        return found

    async def _page(self, url: str) -> str:
        try:
            return (await (await self._asking()).text(url))[0]
        except Hopeless as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            raise Hopeless(
                Reason.NOT_FOUND,
                f"{self._uri}: there is no such bucket at {urlsplit(url).netloc}: check its name, "
                "spec.model.endpoint, and the region (AWS_REGION in the Secret, or an endpoint that names it)",
            ) from error

    async def _with_checksums(self, files: tuple[File, ...]) -> tuple[File, ...]:
        """Return the files with the SHA-256 that the service knows of them, if it does."""
        if not self._knows_checksums:
            return files
        gate = asyncio.Semaphore(HEADS_AT_ONCE)

        async def one(file: File) -> File:
            url = self._url(file.path)
            async with gate, self._web.stream(url, {}, method="HEAD") as answer:
                return File(file.path, file.size, sha256_of(answer.headers.get("x-amz-checksum-sha256", "")))

        return tuple(await asyncio.gather(*(one(file) for file in files)))


def signer(secret: Secret, region: str, headers: dict[str, str]) -> Authorize:
    """Return what signs requests with an access key; ``headers`` are sent and signed too."""
    return lambda method, url: signed_headers(method, url, headers, secret, region, datetime.now(UTC))


def region_of(endpoint: str) -> str:
    """Return the region that an endpoint of AWS names, else the first that there was."""
    match = _REGION_IN_HOST.fullmatch(urlsplit(endpoint).hostname or "")
    return match[1] if match else REGION


def bucket_url(scheme: str, bucket: str, endpoint: str, region: str) -> str:
    """Return where a bucket is. AWS wants the name in the host, unless a dot would break its certificate."""
    if endpoint:
        return f"{endpoint}/{bucket}"
    if scheme == "gs":
        return f"{_GOOGLE}/{bucket}"
    if "." in bucket:
        return f"https://s3.{region}.amazonaws.com/{bucket}"
    return f"https://{bucket}.s3.{region}.amazonaws.com"


def parse_listing(text: str, prefix: str, where: str) -> tuple[tuple[File, ...], str]:
    """Return the objects of one page, and what asks for the next page, empty after the last.

    Objects that stand for folders are left out. Raises Hopeless for what is no listing.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314 - of bounded length, and expat bounds what entities make
        objects = tuple(
            File(_text(entry, "Key")[len(prefix) :], int(_text(entry, "Size")))
            for entry in root.findall("{*}Contents")
            if not _text(entry, "Key").endswith("/")
        )
    except (ET.ParseError, ValueError) as error:
        raise Hopeless(Reason.NOT_FOUND, f"{where} answers no listing of a bucket: is it one?") from error
    more = root.findtext("{*}IsTruncated") == "true"
    return objects, (root.findtext("{*}NextContinuationToken") or "") if more else ""


def _text(entry: ET.Element, name: str) -> str:
    text = entry.findtext(f"{{*}}{name}")
    if text is None:
        raise ValueError(name)
    return text


def sha256_of(checksum: str) -> str | None:
    """Return a SHA-256 of the whole object in hexadecimal digits.

    None where there is none: also for one that is made of the checksums of parts, "...-3".
    """
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None


def _quoted(key: str) -> str:
    return quote(key, safe="/-_.~")
