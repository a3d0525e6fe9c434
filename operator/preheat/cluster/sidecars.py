"""The door to the programs that run beside models and weights: agents and warmers, over HTTP by pod IP.

They are asked only while something is under way. Silence is not an error: progress is then not known, and
the kubelet's probes go on without us.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from preheat.api.constants import PORT_AGENT, PORT_WARMER
from preheat.decide.observed import AgentReport, WarmerReport

TIMEOUT_SECONDS = 2.0
ANSWER_LIMIT_BYTES = 65_536
"""A pod answers what it likes; we read no more than this."""

Report = TypeVar("Report", AgentReport, WarmerReport)


class Sidecars:
    """Asks many pods at once."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    def open(cls) -> "Sidecars":
        """Return a client that follows no redirect, keeps no connection and trusts no proxy setting."""
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        return cls(
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, follow_redirects=False, trust_env=False)
        )

    async def close(self) -> None:
        """Release the sockets."""
        await self._http.aclose()

    async def agents(self, addresses: Mapping[str, str]) -> dict[str, AgentReport]:
        """Return what the agents say, by the caller's key. Keys whose agent is silent are missing."""
        return await self._ask_all(addresses, PORT_AGENT, "/status", AgentReport.from_json)

    async def warmers(self, addresses: Mapping[str, str]) -> dict[str, WarmerReport]:
        """Return what the warmers say, by the caller's key. Keys whose warmer is silent are missing."""
        return await self._ask_all(addresses, PORT_WARMER, "/progress", WarmerReport.from_json)

    async def _ask_all(
        self,
        addresses: Mapping[str, str],
        port: int,
        path: str,
        read: Callable[[Mapping[str, Any]], Report],
    ) -> dict[str, Report]:
        answers = await asyncio.gather(*(self._ask(ip, port, path, read) for ip in addresses.values()))
        return {key: report for key, report in zip(addresses, answers, strict=True) if report is not None}

    async def _ask(
        self, ip: str, port: int, path: str, read: Callable[[Mapping[str, Any]], Report]
    ) -> Report | None:
        host = f"[{ip}]" if ":" in ip else ip
        try:
            async with self._http.stream("GET", f"http://{host}:{port}{path}") as response:
                if response.status_code != httpx.codes.OK:
                    return None
                content = b""
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > ANSWER_LIMIT_BYTES:
                        return None
            return read(httpx.Response(200, content=content).json())
        except (httpx.HTTPError, KeyError, TypeError, ValueError):
            return None
