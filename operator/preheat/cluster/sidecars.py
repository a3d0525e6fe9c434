"""The door to our programs in other pods: agents and warmers beside models and weights, and the front; over HTTP by pod IP.

They are asked only while something is under way, and agents how much their model is asked where that decides the
number of replicas. Silence is not an error: progress is then not known, and
the kubelet's probes go on without us. Agents that wait for it are told what they may do.

A pod that accepts and says nothing holds a connection until the time is up. So no object has more than
AT_ONCE open, all its answers are in after TIMEOUT_SECONDS, and a pod that let the time pass is asked again
after a pause that doubles: a thousand of them delay nobody else.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx

from preheat.api.constants import PORT_AGENT, PORT_FRONT, PORT_WARMER
from preheat.decide.observed import AgentReport, FrontReport, Reading, WarmerReport
from preheat.decide.plan import Advise

TIMEOUT_SECONDS = 2.0
CONNECTION_SECONDS = 0.5
"""How long to wait for a free connection."""
AT_ONCE, CONNECTIONS = 16, 128
"""Connections of one object, and of all."""
PAUSES_SECONDS = (2.0, 4.0, 8.0, 16.0, 30.0)
REMEMBERED = 4096
"""Silent pods to remember; beyond that the oldest are forgotten."""
ANSWER_LIMIT_BYTES = 65_536
"""A pod answers what it likes; we read no more than this."""
FRONT_LIMIT_BYTES = 2**20
"""The front tells of all deployments at once."""

Report = TypeVar("Report", AgentReport, FrontReport, Reading, WarmerReport)


class Sidecars:
    """Asks many pods at once."""

    def __init__(self, http: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._clock = clock
        self._silent: dict[str, tuple[int, float]] = {}

    @classmethod
    def open(cls) -> "Sidecars":
        """Return a client that follows no redirect, keeps no connection and trusts no proxy setting."""
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0)
        timeout = httpx.Timeout(TIMEOUT_SECONDS, pool=CONNECTION_SECONDS)
        return cls(httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False, trust_env=False))

    async def close(self) -> None:
        """Release the sockets."""
        await self._http.aclose()

    async def agents(self, addresses: Mapping[str, str]) -> dict[str, AgentReport]:
        """Return what the agents say, by the caller's key. Keys whose agent is silent are missing."""
        return await self._ask_all(addresses, PORT_AGENT, "/status", AgentReport.from_json)

    async def signals(self, addresses: Mapping[str, str]) -> dict[str, Reading]:
        """Return how much models are asked, by the caller's key. Keys whose agent is silent are missing."""
        return await self._ask_all(addresses, PORT_AGENT, "/signals", Reading.from_json)

    async def advise(self, advice: Sequence[Advise]) -> None:
        """Tell agents what they may do. One that does not hear it is told again: it says what it waits for."""
        lane = asyncio.Semaphore(AT_ONCE)

        async def tell(advise: Advise) -> None:
            async with lane:
                await self._tell(advise)

        told = [asyncio.create_task(tell(advise)) for advise in advice]
        if told:
            await asyncio.wait(told, timeout=TIMEOUT_SECONDS)
        for task in told:
            task.cancel()
        await asyncio.gather(*told, return_exceptions=True)

    async def _tell(self, advise: Advise) -> None:
        body: dict[str, Any] = {"schema": 1}
        if advise.waits:
            body["healing"] = {"grant": advise.grant, "seconds": advise.grant_seconds}
        if advise.load_seconds is not None:
            body["loadSeconds"] = round(advise.load_seconds, 1)
        url = f"http://{_host(advise.ip, PORT_AGENT)}/advice"
        try:
            async with self._http.stream("POST", url, json=body, headers={"admin-key": advise.uid}):
                return
        except httpx.HTTPError:
            return

    async def warmers(self, addresses: Mapping[str, str]) -> dict[str, WarmerReport]:
        """Return what the warmers say, by the caller's key. Keys whose warmer is silent are missing."""
        return await self._ask_all(addresses, PORT_WARMER, "/progress", WarmerReport.from_json)

    async def fronts(self, addresses: Mapping[str, str]) -> dict[str, FrontReport]:
        """Return who was asked for while nobody was there, by the caller's key. Keys whose pod is silent are missing."""
        return await self._ask_all(
            addresses, PORT_FRONT, "/arrivals", FrontReport.from_json, FRONT_LIMIT_BYTES
        )

    async def _ask_all(
        self,
        addresses: Mapping[str, str],
        port: int,
        path: str,
        read: Callable[[Mapping[str, Any]], Report],
        limit_bytes: int = ANSWER_LIMIT_BYTES,
    ) -> dict[str, Report]:
        lane = asyncio.Semaphore(AT_ONCE)

        async def ask(ip: str) -> Report | None:
            async with lane:
                return await self._ask(f"http://{_host(ip, port)}{path}", read, limit_bytes)

        asked = {key: asyncio.create_task(ask(ip)) for key, ip in addresses.items()}
        if asked:
            await asyncio.wait(asked.values(), timeout=TIMEOUT_SECONDS)
        late = [task for task in asked.values() if task.cancel()]
        await asyncio.gather(*late, return_exceptions=True)
        answers = {key: task.result() for key, task in asked.items() if not task.cancelled()}
        return {key: report for key, report in answers.items() if report is not None}

    async def _ask(
        self, url: str, read: Callable[[Mapping[str, Any]], Report], limit_bytes: int
    ) -> Report | None:
        times, until = self._silent.get(url, (0, 0.0))
        if self._clock() < until:
            return None
        started = self._clock()
        try:
            report = await self._read(url, read, limit_bytes)
        except (httpx.ReadTimeout, httpx.ConnectTimeout, asyncio.CancelledError) as error:
            if self._clock() - started >= TIMEOUT_SECONDS / 2:
                self._note_silence(url, times + 1)
            if isinstance(error, asyncio.CancelledError):
                raise
            return None
        except (httpx.HTTPError, KeyError, TypeError, ValueError, RecursionError):
            return None
        self._silent.pop(url, None)
        return report

    async def _read(
        self, url: str, read: Callable[[Mapping[str, Any]], Report], limit_bytes: int
    ) -> Report | None:
        async with self._http.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                return None
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > limit_bytes:
                    return None
        return read(httpx.Response(200, content=content).json())

    def _note_silence(self, url: str, times: int) -> None:
        pause = PAUSES_SECONDS[min(times, len(PAUSES_SECONDS)) - 1]
        self._silent.pop(url, None)
        self._silent[url] = (times, self._clock() + pause)
        if len(self._silent) > REMEMBERED:
            del self._silent[next(iter(self._silent))]


def _host(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
