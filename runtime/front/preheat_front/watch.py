"""Who may come, as the API server tells: the operator's EndpointSlices are listed once and then watched.

While the API server is away we go on with what we know: what is asleep stays so, and somebody has to say it.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from preheat_front.slices import SELECTOR, Slice

PATH = "/apis/discovery.k8s.io/v1/endpointslices"
PAGE = 500
WATCH_SECONDS = 60
"""So long a watch lasts; then it goes on with a new one, from where it was."""
SILENCE_SECONDS = 75.0
"""One that says nothing for longer has lost the other side."""
CONNECT_SECONDS = 10.0
PAUSE_SECONDS = 1.0
"""From the beginning of one watch to that of the next, at least."""
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)

log = logging.getLogger(__name__)


class _LostError(Exception):
    """What is known is not enough to go on from: list again."""


class Watch:
    """Owned by one event loop."""

    def __init__(self, api_server: str, account: str) -> None:
        self._url = api_server + PATH
        self._account = Path(account)
        self._slices: dict[str, Slice] = {}
        self._changed = asyncio.Event()
        self.failures = 0

    async def news(self) -> Mapping[str, Slice]:
        """Wait until something changed; return all slices, by namespace and name."""
        await self._changed.wait()
        self._changed.clear()
        return dict(self._slices)

    async def run_forever(self) -> None:
        """List and watch until cancelled."""
        in_a_row = 0
        async with httpx.AsyncClient(
            verify=_trust(self._account), trust_env=False, timeout=_timeout()
        ) as http:
            while True:
                try:
                    version = await self._list(http)
                    while True:
                        begun = asyncio.get_running_loop().time()
                        version = await self._follow(http, version)
                        # Not after a list alone: while watches are refused it is good for nothing, and is not made every second.
                        in_a_row = 0
                        # One that ends as soon as it begins is not asked for without a pause.
                        await asyncio.sleep(
                            max(0.0, begun + PAUSE_SECONDS - asyncio.get_running_loop().time())
                        )
                except (
                    httpx.HTTPError,
                    _LostError,
                    OSError,
                    ValueError,
                    KeyError,
                    TypeError,
                    AttributeError,
                ) as error:
                    delay = BACKOFF_SECONDS[min(in_a_row, len(BACKOFF_SECONDS) - 1)]
                    in_a_row += 1
                    self.failures += 1
                    log.warning("slices: %s: %s; listing again in %g s", type(error).__name__, error, delay)
                    await asyncio.sleep(delay)

    async def _list(self, http: httpx.AsyncClient) -> str:
        """Take in everything; return the version to go on from."""
        found: dict[str, Slice] = {}
        query: dict[str, str] = {"labelSelector": SELECTOR, "limit": str(PAGE)}
        while True:
            answer = await http.get(self._url, params=query, headers=self._headers())
            answer.raise_for_status()
            page = answer.json()
            found |= {_key(item): item for item in page.get("items") or ()}
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        self._slices = found
        self._changed.set()
        return str(metadata["resourceVersion"])

    async def _follow(self, http: httpx.AsyncClient, version: str) -> str:
        """Take in changes as long as one watch lasts; return the version to go on from. Raises _LostError."""
        query = {
            "labelSelector": SELECTOR, "watch": "1", "allowWatchBookmarks": "true",
            "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS),
        }  # fmt: skip
        async with http.stream("GET", self._url, params=query, headers=self._headers()) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                event = json.loads(line)
                body: dict[str, Any] = event["object"]
                if event["type"] == "ERROR":
                    raise _LostError(str(body.get("message", "the watch broke off")))
                version = str(body["metadata"]["resourceVersion"])
                self._take(event["type"], body)
        return version

    def _take(self, kind: str, body: Slice) -> None:
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self._slices.pop(_key(body), None)
        else:
            self._slices[_key(body)] = body
        self._changed.set()

    def _headers(self) -> dict[str, str]:
        """Return what shows who we are. The kubelet changes the token every hour or so."""
        try:
            token = (self._account / "token").read_text().strip()
        except FileNotFoundError:
            return {}
        return {"Authorization": f"Bearer {token}"}


def _key(body: Slice) -> str:
    metadata = body["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _trust(account: Path) -> ssl.SSLContext:
    authority = account / "ca.crt"
    return ssl.create_default_context(cafile=str(authority) if authority.exists() else None)


def _timeout() -> httpx.Timeout:
    return httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
