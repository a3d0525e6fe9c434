"""The front's watch, in virtual time and without a socket."""

import asyncio
import contextlib
import json
from functools import partial

import httpx
import pytest
from preheat_front import watch

pytestmark = pytest.mark.looptime


async def test_lists_without_a_watch_become_rare(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """All slices of all namespaces, from each pod of the front: an API server that is in trouble has enough of that."""
    lists = []

    def answer(request: httpx.Request) -> httpx.Response:
        if "watch" in request.url.params:
            return httpx.Response(429)
        lists.append(asyncio.get_running_loop().time())
        return httpx.Response(200, content=json.dumps({"metadata": {"resourceVersion": "1"}, "items": []}))

    monkeypatch.setattr(
        watch.httpx, "AsyncClient", partial(httpx.AsyncClient, transport=httpx.MockTransport(answer))
    )
    made = watch.Watch("http://api", str(tmp_path))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(300):
            await made.run_forever()
    assert len(lists) < 20
    assert made.failures == len(lists)
