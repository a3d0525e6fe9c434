"""An HTTP proxy between one operator and the API server: it passes everything on, or misbehaves once as told.

It sees what a packet recorder would see: each call in order, with its outcome. A fault is armed for one call
(``Rule``) or for all watches (``watch_fault``), and the proxy tells when it was met.

It also narrows what the operator sees to one part of the cluster (``sees``), so that several operators, each
behind a proxy of its own, can work on one API server without meeting.
"""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
from aiohttp import web

from e2e.faults.calls import Call

Body = dict[str, Any]
HANG_SECONDS = 60.0
"""Longer than any client here waits for an answer."""
REORDER_SECONDS = 0.5
"""A held event goes out after this, when no other came that it could be swapped with."""


class Fault(StrEnum):
    """What can happen to one call."""

    CONFLICT = "409"
    THROTTLED = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    TIMEOUT_BEFORE = "timeout-before"
    CUT = "cut"
    LOST_ANSWER = "executed-answer-lost"
    HALF_BODY = "half-body"
    STOPPED = "stopped-after"
    """The call is executed; then ``Rule.then`` is called (it kills or freezes the operator), and nothing answered."""
    SWALLOWED = "swallowed"
    """A planted bug: answered 200 with what is there, never executed. The campaign must find it."""


class WatchFault(StrEnum):
    """What can happen to the watches."""

    CUT = "watch-cut"
    GONE = "watch-410"
    ERROR = "watch-error-event"
    HALF_LINE = "watch-half-line"
    HALF_OPEN = "watch-half-open"
    DROPPED = "events-dropped"
    DUPLICATED = "events-duplicated"
    REORDERED = "events-reordered"
    STALE = "stale"
    """Lists and watches show an old state until it is over; reads of one object and writes are up to date."""


_STATUS = {
    Fault.CONFLICT: (409, "Conflict", "the object has been modified; please apply your changes to the latest version"),
    Fault.THROTTLED: (429, "TooManyRequests", "the server has received too many requests"),
    Fault.INTERNAL: (500, "InternalError", "an error on the server"),
    Fault.UNAVAILABLE: (503, "ServiceUnavailable", "the server is shutting down"),
    Fault.GATEWAY_TIMEOUT: (504, "Timeout", "request did not complete within the allotted timeout"),
}  # fmt: skip


@dataclass
class Rule:
    """A fault for the first call that matches, after ``skip`` others did. ``None`` lets it pass: it is only counted."""

    matches: Callable[[Call], bool]
    fault: Fault
    skip: int = 0
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    then: Callable[[], Awaitable[None]] | None = None
    keeps: bool = False
    """Whether it stays after it was met (only planted bugs do)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A call that came, and what became of it. ``status`` 0: the API server was never asked."""

    call: Call
    status: int
    at: float
    changed: bool
    """Whether the API server executed a write that changed something."""
    words: str = ""
    """What the API server said against it."""


class Proxy:
    """Listens on loopback. One for each operator, or for two that share what they see."""

    def __init__(self, upstream: str, context: ssl.SSLContext, sees: Callable[[Body], bool]) -> None:
        self.records: list[Record] = []
        self.rules: list[Rule] = []
        self.kinds: set[tuple[str, str, str, str]] = set()
        """Every (verb, group, resource, subresource) that came, in the terms of RBAC."""
        self.watch_fault: WatchFault | None = None
        self.watch_hits = 0
        self.url = ""
        self._sees = sees
        self._stale_version = 0
        self._fresh = asyncio.Event()
        self._versions: dict[str, str] = {}
        self._upstream = upstream
        self._context = context
        self._streams: set[asyncio.Task[Any]] = set()
        self._open: set[_Stream] = set()
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Listen. The port is chosen by the system and kept in ``url``."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close everything."""
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def cut_watches(self) -> int:
        """End every open watch as a broken connection does; return how many there were."""
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        self.watch_hits += len(streams)
        return len(streams)

    def silence(self) -> None:
        """Leave every open watch open, and say nothing on it any more. New ones work."""
        for stream in self._open:
            stream.silent = True

    async def turn_stale(self) -> None:
        """From now on lists and watches show what is there now, whatever changes, until ``turn_fresh``."""
        assert self._session is not None
        url = f"{self._upstream}/api/v1/namespaces?limit=1"
        async with self._session.get(url, headers=self._credentials) as answer:
            self._stale_version = int((await answer.json(content_type=None))["metadata"]["resourceVersion"])
        self._fresh.clear()
        self.watch_fault = WatchFault.STALE

    def turn_fresh(self) -> None:
        """Let the watches catch up, in order."""
        self.watch_fault = None
        self._stale_version = 0
        self._fresh.set()

    @property
    def _credentials(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    _authorization = ""
    """For calls of the proxy's own: an administrator's."""

    def authorize(self, token: str) -> None:
        """Give the proxy an administrator's token, for questions of its own."""
        self._authorization = f"Bearer {token}"

    # --- one call

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(request.method, request.path, request.query_string, body.decode(errors="replace"))
        rule = self._rule(call)
        if rule is not None:
            return await self._faulty(request, call, body, rule)
        if call.is_watch:
            return await self._watch(request, call)
        status, headers, content = await self._ask(request, call, body)
        return web.Response(status=status, body=content, headers=headers)

    def _rule(self, call: Call) -> Rule | None:
        for rule in self.rules:
            if call.is_watch or not rule.matches(call):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if not rule.keeps:
                self.rules.remove(rule)
            return rule
        return None

    async def _faulty(self, request: web.Request, call: Call, body: bytes, rule: Rule) -> web.StreamResponse:
        fault = rule.fault
        if fault in _STATUS:
            self._note(call, 0)
            rule.hit.set()
            code, reason, message = _STATUS[fault]
            headers = {"Retry-After": "1"} if fault is Fault.THROTTLED else {}
            return web.json_response(_status(code, reason, message), status=code, headers=headers)
        if fault is Fault.SWALLOWED:
            self._note(call, 0)
            rule.hit.set()
            status, headers, content = await self._ask(request, call, b"", method="GET")
            return web.Response(status=status, body=content, headers=headers)
        if fault in {Fault.CUT, Fault.TIMEOUT_BEFORE}:
            self._note(call, 0)
            rule.hit.set()
            if fault is Fault.TIMEOUT_BEFORE:
                await _hang(request)
            return _broken(request)
        status, headers, content = await self._ask(request, call, body)
        if rule.then is not None:
            await rule.then()
        rule.hit.set()
        if fault is Fault.HALF_BODY:
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = len(content)
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
        return _broken(request)

    async def _ask(
        self, request: web.Request, call: Call, body: bytes, method: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        assert self._session is not None
        target = request.raw_path
        if call.is_list and self._stale_version:
            self.watch_hits += 1
            target = f"{target}&resourceVersion={self._stale_version}&resourceVersionMatch=Exact"
        async with self._session.request(
            method or request.method,
            self._upstream + target,
            data=body or None,
            headers=_headers(request),
            skip_auto_headers=("Content-Type", "Accept", "Accept-Encoding", "User-Agent"),
        ) as answer:
            content = await answer.read()
            kept = ("Content-Type", "Retry-After")
            headers = {key: answer.headers[key] for key in kept if key in answer.headers}
        if call.is_list and answer.status == 200:
            content = self._narrowed(content)
        self._note(call, answer.status, content)
        return answer.status, headers, content

    def _narrowed(self, content: bytes) -> bytes:
        body = json.loads(content)
        body["items"] = [item for item in body.get("items") or () if self._sees(item)]
        return json.dumps(body).encode()

    def _note(self, call: Call, status: int, content: bytes = b"") -> None:
        if call.rbac is not None:
            self.kinds.add(call.rbac)
            if status == 201 and call.method == "PATCH":
                self.kinds.add(("create", *call.rbac[1:]))
        changed, words = False, ""
        if call.is_write and status:
            with suppress(ValueError):
                body = json.loads(content)
                version = (body.get("metadata") or {}).get("resourceVersion", "")
                changed = 200 <= status < 300 and self._versions.get(call.path) != version
                self._versions[call.path] = version
                words = body.get("message", "") if status >= 400 else ""
        self.records.append(Record(call, status, asyncio.get_running_loop().time(), changed, words))

    # --- watches

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        self._note(call, 200)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        stream = _Stream(self, request)
        self._open.add(stream)
        try:
            return await stream.run()
        except asyncio.CancelledError:
            _broken(request)
            raise
        except (ConnectionError, aiohttp.ClientError):
            return _broken(request)
        finally:
            self._streams.discard(task)
            self._open.discard(stream)


class _Stream:
    """One watch on its way to the operator."""

    def __init__(self, proxy: Proxy, request: web.Request) -> None:
        self._proxy = proxy
        self._request = request
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._held: bytes | None = None
        self.silent = False

    async def run(self) -> web.StreamResponse:
        proxy, request = self._proxy, self._request
        assert proxy._session is not None
        async with proxy._session.get(
            proxy._upstream + request.raw_path,
            headers=_headers(request),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        ) as answer:
            self._response.set_status(answer.status)
            await self._response.prepare(request)
            if proxy.watch_fault is WatchFault.GONE and "resourceVersion=" in request.query_string:
                proxy.watch_hits += 1
                await self._response.write(_error(410, "Expired", "too old resource version"))
                return self._response
            pending = b""
            async for chunk in answer.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in filter(None, lines):
                    if not await self._pass_on(line):
                        return _broken(request)
        return self._response

    async def _pass_on(self, line: bytes) -> bool:
        """Write one event, or what the fault makes of it. Returns False when the stream ends here."""
        proxy = self._proxy
        if self.silent:
            proxy.watch_hits += 1
            return True
        event = json.loads(line)
        is_bookmark = event["type"] == "BOOKMARK"
        if not is_bookmark and event["type"] != "ERROR" and not proxy._sees(event["object"]):
            return True
        if proxy._stale_version:
            version = int(event["object"]["metadata"]["resourceVersion"])
            if version > proxy._stale_version:
                proxy.watch_hits += 1
                await proxy._fresh.wait()
        fault = proxy.watch_fault
        if self._held is not None:
            held, self._held = self._held, None
            await self._response.write(line + b"\n" + held + b"\n")
            return True
        if is_bookmark or fault is None:
            await self._response.write(line + b"\n")
            return True
        return await self._disturbed(line, fault)

    async def _disturbed(self, line: bytes, fault: WatchFault) -> bool:
        proxy = self._proxy
        proxy.watch_hits += 1
        match fault:
            case WatchFault.DROPPED:
                return True
            case WatchFault.DUPLICATED:
                await self._response.write(line + b"\n" + line + b"\n")
            case WatchFault.REORDERED:
                self._held = line
                asyncio.get_running_loop().call_later(REORDER_SECONDS, self._release, line)
            case WatchFault.ERROR:
                proxy.watch_fault = None
                await self._response.write(_error(500, "InternalError", "etcdserver: leader changed"))
                return False
            case WatchFault.HALF_LINE:
                proxy.watch_fault = None
                await self._response.write(line[: len(line) // 2] + b"\n")
                return False
            case _:
                await self._response.write(line + b"\n")
        return True

    def _release(self, line: bytes) -> None:
        if self._held is line:
            self._held = None
            task = asyncio.get_running_loop().create_task(self._late(line))
            self._proxy._streams.add(task)
            task.add_done_callback(self._proxy._streams.discard)

    async def _late(self, line: bytes) -> None:
        with suppress(ConnectionError, RuntimeError, asyncio.CancelledError):
            await self._response.write(line + b"\n")


def _headers(request: web.Request) -> dict[str, str]:
    kept = ("Authorization", "Content-Type", "Accept", "User-Agent")
    return {key: request.headers[key] for key in kept if key in request.headers}


def _status(code: int, reason: str, message: str) -> Body:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": f"{message} (made by the fault campaign)",
    }


def _error(code: int, reason: str, message: str) -> bytes:
    return json.dumps({"type": "ERROR", "object": _status(code, reason, message)}).encode() + b"\n"


async def _hang(request: web.Request) -> None:
    """Wait until the other side has had enough."""
    for _ in range(int(HANG_SECONDS * 10)):
        if request.transport is None or request.transport.is_closing():
            return
        await asyncio.sleep(0.1)


def _broken(request: web.Request) -> web.StreamResponse:
    """Break the connection."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def writes(records: list[Record]) -> Counter[str]:
    """Return how often each call site wrote, for a message."""
    return Counter(record.call.site for record in records if record.call.is_write)
