"""Pods that hang, drip or lie delay nobody, and are asked less and less. Real sockets on loopback."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from preheat.api.constants import PORTS_OF_DEPLOYMENTS
from preheat.cluster import sidecars
from preheat.cluster.sidecars import Sidecars

GOOD = b'{"state": "Loading", "load": {"bytesLoaded": 1, "bytesTotal": 2}}'


@asynccontextmanager
async def pod(drip: bool, body: bytes = GOOD) -> AsyncIterator[tuple[int, list[float]]]:
    """A pod that accepts and never ends its answer (drip), or answers at once."""
    asked: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(time.monotonic())
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            for byte in body if drip else b"":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
            if not drip:
                writer.write(body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


@asynccontextmanager
async def asking(monkeypatch: pytest.MonkeyPatch, port: int) -> AsyncIterator[Sidecars]:
    monkeypatch.setattr(sidecars, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(sidecars, "PORT_AGENT", port)
    made = Sidecars.open()
    try:
        yield made
    finally:
        await made.close()


async def test_a_pod_that_answers_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pod(drip=False) as (port, _), asking(monkeypatch, port) as client:
        assert (await client.agents({"a": "127.0.0.1"}))["a"].bytes_total == 2


async def test_the_front_may_tell_of_every_deployment_at_once_and_of_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def told(many: int) -> int | None:
        one = {"namespace": "n" * 63, "name": "m" * 52, "count": 10**6, "secondsAgo": 86_400.0}
        said = [{**one, "name": f"{number:052}"} for number in range(many)]
        body = json.dumps({"schema": 1, "since": "a", "arrivals": said}).encode()
        async with pod(drip=False, body=body) as (port, _), asking(monkeypatch, port) as client:
            monkeypatch.setattr(sidecars, "PORT_FRONT", port)
            found = await client.fronts({"f": "127.0.0.1"})
            return len(found["f"].arrivals) if found else None

    assert await told(len(PORTS_OF_DEPLOYMENTS)) == len(PORTS_OF_DEPLOYMENTS)
    assert await told(3 * len(PORTS_OF_DEPLOYMENTS)) is None


async def test_pods_that_drip_hold_their_object_up_for_no_longer_than_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pod(drip=True) as (port, asked), asking(monkeypatch, port) as client:
        started = time.monotonic()
        many = dict.fromkeys(map(str, range(200)), "127.0.0.1")
        assert await client.agents(many) == {}
        assert time.monotonic() - started < 3
        assert len(asked) <= sidecars.AT_ONCE


async def test_a_silent_pod_is_asked_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pod(drip=True) as (port, asked), asking(monkeypatch, port) as client:
        for _ in range(5):
            await client.agents({"a": "127.0.0.1"})
        assert len(asked) == 1
        monkeypatch.setattr(client, "_clock", lambda: time.monotonic() + sidecars.PAUSES_SECONDS[0])
        await client.agents({"a": "127.0.0.1"})
        assert len(asked) == 2


async def test_no_more_silent_pods_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sidecars, "REMEMBERED", 3)
    client = Sidecars(httpx.AsyncClient())
    for number in range(10):
        client._note_silence(str(number), 1)
    assert set(client._silent) == {"7", "8", "9"}
    await client.close()


SIGNALS = b"""{"since": "a", "signals": {"ageSeconds": 1, "came": 5, "ended": 2, "failed": 0, "inService": 2,
 "waiting": 1, "busySeconds": 7.5, "promptTokens": null, "generatedTokens": 9, "slots": 2}}"""


async def test_an_agent_tells_how_much_its_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pod(drip=False, body=SIGNALS) as (port, _), asking(monkeypatch, port) as client:
        reading = (await client.signals({"a": "127.0.0.1"}))["a"]
    assert (reading.came, reading.waiting, reading.busy_seconds, reading.prompt_tokens) == (5, 1, 7.5, None)


async def test_an_agent_that_has_no_signals_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pod(drip=False, body=b'{"signals": null}') as (port, _), asking(monkeypatch, port) as client:
        assert await client.signals({"a": "127.0.0.1"}) == {}


async def test_a_pod_that_answers_with_brackets_is_as_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pod(drip=False, body=b"[" * 60_000) as (port, _), asking(monkeypatch, port) as client:
        assert await client.agents({"a": "127.0.0.1"}) == {}
