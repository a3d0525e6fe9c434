"""The proxy passes everything on, and does what it is told to do wrong: no more and no less."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from e2e.faults.calls import Call
from e2e.faults.proxy import Fault, Proxy, Rule, WatchFault

POD = {"kind": "Pod", "metadata": {"name": "p", "namespace": "mine", "resourceVersion": "7"}}
PATH = "/api/v1/namespaces/mine/pods/p"
WATCH = "/api/v1/pods?watch=true&resourceVersion=1"


class Upstream:
    """An API server of one pod. It remembers what it executed."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.watched = asyncio.Event()
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.executed.append(f"{request.method} {request.path}")
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            self.watched.set()
            while (event := await self.events.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
            return response
        if request.path.endswith("/pods"):
            stranger = {"metadata": {"name": "q", "namespace": "theirs", "resourceVersion": "5"}}
            return web.json_response({"kind": "PodList", "items": [POD, stranger]})
        return web.json_response(POD)


class Client:
    """An operator's side of the proxy."""

    def __init__(self, proxy: Proxy, upstream: Upstream, session: aiohttp.ClientSession) -> None:
        self.proxy, self.upstream, self._session = proxy, upstream, session

    async def call(self, method: str = "PATCH", path: str = PATH) -> int:
        """Return the status, 0 when no whole answer came."""
        try:
            async with self._session.request(method, self.proxy.url + path, data=b"{}") as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def json(self, path: str) -> Any:
        async with self._session.get(self.proxy.url + path) as answer:
            return await answer.json(content_type=None)

    async def watch(self, *events: dict[str, Any] | None) -> list[bytes]:
        """Send events from the other side; return the lines that came, until the stream ended or fell silent."""
        for event in events:
            self.upstream.events.put_nowait(event)
        lines = []
        try:
            async with self._session.get(self.proxy.url + WATCH) as answer:
                while True:
                    line = await asyncio.wait_for(answer.content.readline(), 1.5)
                    if not line:
                        break
                    lines.append(line)
        except (aiohttp.ClientError, TimeoutError):
            pass
        return lines


@asynccontextmanager
async def opened() -> AsyncIterator[Client]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy = Proxy(
        f"http://127.0.0.1:{runner.addresses[0][1]}",
        ssl.create_default_context(),
        lambda body: body["metadata"].get("namespace") == "mine",
    )
    await proxy.start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            yield Client(proxy, upstream, session)
    finally:
        upstream.events.put_nowait(None)
        await proxy.stop()
        await runner.cleanup()


def event(name: str = "p", version: int = 8, namespace: str = "mine") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": str(version)}
    return {"type": "MODIFIED", "object": {"metadata": metadata}}


def names(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["object"]["metadata"]["name"] for line in lines]


def armed(fault: Fault, skip: int = 0) -> Rule:
    return Rule(lambda call: call.site == "PATCH pods", fault, skip)


async def test_without_a_fault_everything_passes_and_is_noted() -> None:
    async with opened() as client:
        assert await client.call() == 200
        (record,) = client.proxy.records
        assert (record.call.site, record.status, record.changed) == ("PATCH pods", 200, True)
        assert client.proxy.kinds == {("patch", "", "pods", "")}
        assert await client.call() == 200
        assert not client.proxy.records[1].changed, "the same version again"


@pytest.mark.parametrize(
    ("fault", "status", "executes"),
    [
        (Fault.CONFLICT, 409, False),
        (Fault.THROTTLED, 429, False),
        (Fault.INTERNAL, 500, False),
        (Fault.UNAVAILABLE, 503, False),
        (Fault.GATEWAY_TIMEOUT, 504, False),
        (Fault.TIMEOUT_BEFORE, 0, False),
        (Fault.CUT, 0, False),
        (Fault.LOST_ANSWER, 0, True),
        (Fault.HALF_BODY, 0, True),
    ],
)
async def test_a_fault_comes_once_and_executes_only_what_it_says(
    fault: Fault, status: int, executes: bool
) -> None:
    async with opened() as client:
        rule = armed(fault)
        client.proxy.rules.append(rule)
        assert await client.call() == status
        assert client.upstream.executed == ([f"PATCH {PATH}"] if executes else [])
        assert rule.hit.is_set()
        assert await client.call() == 200


async def test_a_fault_waits_for_its_occurrence_and_spares_others() -> None:
    async with opened() as client:
        client.proxy.rules.append(armed(Fault.UNAVAILABLE, skip=1))
        assert [await client.call("GET"), await client.call(), await client.call(), await client.call()] == [
            200, 200, 503, 200,
        ]  # fmt: skip


async def test_a_swallowed_write_is_answered_and_never_executed() -> None:
    async with opened() as client:
        client.proxy.rules.append(Rule(lambda call: call.site == "PATCH pods", Fault.SWALLOWED, keeps=True))
        assert [await client.call(), await client.call()] == [200, 200]
        assert client.upstream.executed == [f"GET {PATH}"] * 2


async def test_lists_and_watches_are_narrowed() -> None:
    async with opened() as client:
        listed = await client.json("/api/v1/pods?limit=5")
        assert [item["metadata"]["name"] for item in listed["items"]] == ["p"]
        lines = await client.watch(event("a"), event("b", namespace="theirs"), event("c"), None)
        assert names(lines) == ["a", "c"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (WatchFault.DROPPED, []),
        (WatchFault.DUPLICATED, ["a", "a", "b", "b"]),
        (WatchFault.REORDERED, ["b", "a"]),
    ],
)
async def test_events_are_dropped_doubled_and_swapped(fault: WatchFault, expected: list[str]) -> None:
    async with opened() as client:
        client.proxy.watch_fault = fault
        assert names(await client.watch(event("a"), event("b"))) == expected
        assert client.proxy.watch_hits


async def test_a_swapped_event_comes_even_when_no_other_follows() -> None:
    async with opened() as client:
        client.proxy.watch_fault = WatchFault.REORDERED
        assert names(await client.watch(event("a"))) == ["a"]


@pytest.mark.parametrize(("fault", "code"), [(WatchFault.GONE, 410), (WatchFault.ERROR, 500)])
async def test_a_watch_tells_of_an_error(fault: WatchFault, code: int) -> None:
    async with opened() as client:
        client.proxy.watch_fault = fault
        (line,) = await client.watch(event("a"))
        told = json.loads(line)
        assert (told["type"], told["object"]["code"]) == ("ERROR", code)


async def test_half_a_line_is_no_json() -> None:
    async with opened() as client:
        client.proxy.watch_fault = WatchFault.HALF_LINE
        (line,) = await client.watch(event("a"))
        with pytest.raises(ValueError, match=r".+"):
            json.loads(line)


async def test_a_silent_watch_stays_open_and_a_new_one_works() -> None:
    async with opened() as client:
        silent = asyncio.create_task(client.watch())
        await client.upstream.watched.wait()
        client.proxy.silence()
        client.upstream.events.put_nowait(event("a"))
        client.upstream.events.put_nowait(None)
        assert await silent == []
        assert names(await client.watch(event("b"), None)) == ["b"]


def test_a_call_in_the_words_of_rbac() -> None:
    base = "/apis/preheat.dev/v1alpha1"
    assert Call("PATCH", f"{base}/namespaces/a/modelcaches/b/status").rbac == (
        "patch", "preheat.dev", "modelcaches", "status",
    )  # fmt: skip
    assert Call("GET", "/api/v1/nodes", "watch=true").rbac == ("watch", "", "nodes", "")
    assert Call("GET", "/api/v1/nodes", "limit=5").rbac == ("list", "", "nodes", "")
    assert Call("DELETE", "/api/v1/persistentvolumes/v").rbac == ("delete", "", "persistentvolumes", "")
    assert Call("GET", "/apis").rbac is None
