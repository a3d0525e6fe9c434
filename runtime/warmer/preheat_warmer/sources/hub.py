"""hf://ORG/NAME: Hugging Face, or anything that speaks the same API (a mirror, a registry).

Used of it: ``/api/models/NAME/revision/REV`` (which commit), ``/api/models/NAME/tree/SHA?recursive=true``
(which files, with their digests; paged by Link headers) and ``/NAME/resolve/SHA/PATH`` (the bytes).
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, Manifest, parse_hub_tree
from preheat_warmer.sources.base import Transfer
from preheat_warmer.sources.web import Web

PAGES_AT_MOST = 100
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


class HubSource:
    """One revision of one model repository."""

    def __init__(self, uri: str, revision: str, endpoint: str, web: Web) -> None:
        self._name = uri.removeprefix("hf://").strip("/")
        self._asked = revision or "main"
        self._endpoint = endpoint
        self._web = web
        self._commit = ""

    async def list(self) -> Manifest:
        """Return the files of the commit that the revision stands for now."""
        base = f"{self._endpoint}/api/models/{self._name}"
        described = await self._json(f"{base}/revision/{quote(self._asked, safe='')}")
        self._commit = str(described.get("sha") or "")
        if not self._commit:
            raise Hopeless(Reason.NOT_FOUND, f"{self._name}: the hub names no commit for {self._asked!r}")
        url: str | None = f"{base}/tree/{self._commit}?recursive=true"
        entries: list[dict[str, Any]] = []
        for _ in range(PAGES_AT_MOST):
            if url is None:
                break
            text, headers = await self._web.text(url)
            entries += _parse(text, url)
            url = _next_page(headers.get("link", ""), url)
        return Manifest(tuple(parse_hub_tree(entries)), self._commit)

    @asynccontextmanager
    async def open(self, file: File, offset: int, version: str) -> AsyncIterator[Transfer]:
        """Read a file of the commit."""
        url = f"{self._endpoint}/{self._name}/resolve/{self._commit}/{quote(file.path)}"
        async with self._web.file(url, offset, version) as transfer:
            yield transfer

    async def _json(self, url: str) -> dict[str, Any]:
        text, _ = await self._web.text(url)
        found = _parse(text, url)
        return found if isinstance(found, dict) else {}


def _parse(text: str, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Hopeless(Reason.NOT_FOUND, f"{url} answers no JSON: is it a hub?") from error


def _next_page(link: str, url: str) -> str | None:
    """Return the next page, on the same host only: a listing must not lead elsewhere."""
    match = _NEXT.search(link)
    if match is None:
        return None
    target = urljoin(url, match[1])
    return target if urlsplit(target).netloc == urlsplit(url).netloc else None
