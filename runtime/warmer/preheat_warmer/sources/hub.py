"""hf://ORG/NAME: Hugging Face, or anything that speaks the same API (a mirror, a registry).

Used of it: ``/api/models/NAME/revision/REV`` (which commit), ``/api/models/NAME/tree/SHA?recursive=true``
(which files, with their digests; paged by Link headers) and ``/NAME/resolve/SHA/PATH`` (the bytes).
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, Manifest, parse_hub_tree
from preheat_warmer.sources.base import Transfer
from preheat_warmer.sources.web import Web

PAGES_AT_MOST = 1000
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?')


class HubSource:
    """One revision of one model repository."""

    def __init__(self, uri: str, revision: str, endpoint: str, web: Web) -> None:
        self._name = uri.removeprefix("hf://")
        self._asked = revision or "main"
        self._endpoint = endpoint
        self._web = web
        self._commit = ""

    async def list(self) -> Manifest:
        """Return the files of the commit that the revision stands for now."""
        base = f"{self._endpoint}/api/models/{self._name}"
        described, _ = await self._json(f"{base}/revision/{quote(self._asked, safe='')}")
        commit = described.get("sha") if isinstance(described, dict) else None
        if not isinstance(commit, str) or not commit:
            raise Hopeless(Reason.NOT_FOUND, f"{self._name}: the hub names no commit for {self._asked!r}")
        self._commit = quote(commit, safe="")
        url: str | None = f"{base}/tree/{self._commit}?recursive=true"
        entries: list[Any] = []
        for _ in range(PAGES_AT_MOST):
            if url is None:
                return Manifest(tuple(parse_hub_tree(entries)), commit)
            page, link = await self._json(url)
            if not isinstance(page, list):
                raise Hopeless(Reason.NOT_FOUND, f"{self._name}: the hub's listing is no list: is it a hub?")
            entries += page
            url = next_page(link, url)
        raise Hopeless(Reason.NOT_FOUND, f"{self._name}: the hub's listing does not end")

    async def size(self, file: File) -> int | None:
        """Return the size of a file; asked only for files that the user listed without."""
        return await self._web.size(self._url(file))

    @asynccontextmanager
    async def open(
        self, file: File, offset: int, version: str, end: int | None = None
    ) -> AsyncIterator[Transfer]:
        """Read a file of the commit."""
        async with self._web.file(self._url(file), offset, version, end) as transfer:
            yield transfer

    def _url(self, file: File) -> str:
        return f"{self._endpoint}/{self._name}/resolve/{self._commit}/{quote(file.path)}"

    async def _json(self, url: str) -> tuple[Any, str]:
        """Return a document, and the Link header that came with it."""
        text, headers = await self._web.text(url)
        try:
            return json.loads(text), headers.get("link", "")
        except (ValueError, RecursionError) as error:
            raise Hopeless(Reason.NOT_FOUND, f"{url} answers no JSON: is it a hub?") from error


def next_page(link: str, url: str) -> str | None:
    """Return the next page, None after the last.

    Always on the host that was asked: a mirror may repeat the links of the hub behind it, and a page left
    out would be weights left out.
    """
    match = _NEXT.search(link)
    if match is None:
        return None
    here, there = urlsplit(url), urlsplit(urljoin(url, str(match[1])))
    return str(urlunsplit((here.scheme, here.netloc, there.path, there.query, "")))
