"""The door to a Prometheus: reads its answers, and leaves it alone while it is ill.

It is one for the whole installation. A question has its time and an answer its size; after a question that failed nobody
asks for a pause that doubles, so that a Prometheus which hangs delays one pass of one object now and then, and is not
asked by a thousand at once when it comes back.
"""

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from preheat.config import OperatorConfig
from preheat.decide import scraped
from preheat.decide.scaling import Known
from preheat.errors import Unavailable

RECENT_SECONDS = 2.0
"""How long a pass waits for the last samples."""
PAST_SECONDS = 20.0
"""How long a week may take. No pass waits for it."""
WAIT_SECONDS = 0.5
"""How long to wait for a turn."""
AT_ONCE = 4
PAUSES_SECONDS = (15.0, 30.0, 60.0, 120.0, 300.0)
ANSWER_LIMIT_BYTES = 4 * 2**20
TOKEN_LIMIT_BYTES = 16_384

Read = TypeVar("Read")

log = logging.getLogger(__name__)


class Prometheus:
    """Asks, and remembers whether asking helps."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        config: OperatorConfig,
        on_answer: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._base = config.prometheus_url.rstrip("/")
        self._labels = config.prometheus_matchers
        self._token_file = config.prometheus_token_file
        self._on_answer = on_answer
        self._clock = clock
        self._lane = asyncio.Semaphore(AT_ONCE)
        self._failures = 0
        self._until = 0.0

    @classmethod
    def open(cls, config: OperatorConfig, on_answer: Callable[[str, str], None]) -> "Prometheus | None":
        """Return a client that follows no redirect and trusts no proxy setting, None where none is configured.

        ``on_answer``: told of each question, what was asked (``recent``, ``past``) and what came of it (``told``, ``empty``,
        ``failed``, ``skipped``). Raises ValueError when the file of the certificate authority cannot be used.
        """
        if not config.prometheus_url:
            return None
        trusted: ssl.SSLContext | bool = True
        if config.prometheus_ca_file:
            try:
                trusted = ssl.create_default_context(cafile=config.prometheus_ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(
                    f"PREHEAT_PROMETHEUS_CA_FILE {config.prometheus_ca_file}: {error}"
                ) from error
        http = httpx.AsyncClient(
            verify=trusted,
            timeout=PAST_SECONDS,
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=1),
            follow_redirects=False,
            trust_env=False,
            # Packed, four megabytes could be four gigabytes.
            headers={"accept-encoding": "identity"},
        )
        return cls(http, config, on_answer)

    async def close(self) -> None:
        """Release the sockets."""
        await self._http.aclose()

    @property
    def pause_seconds(self) -> float:
        """For how long nobody asks yet."""
        return max(0.0, self._until - self._clock())

    async def recent(self, namespace: str, name: str, pods: Mapping[str, str]) -> scraped.Scrapes | None:
        """Return the last scrapes of one LLMDeployment's pods (their uids by name), None where it does not answer."""
        query = {"query": scraped.recent_query(namespace, name, self._labels)}
        try:
            return await self._ask(
                "recent", "query", query, RECENT_SECONDS, lambda body: scraped.read_recent(body, pods)
            )
        except Unavailable:
            return None

    async def past(self, namespace: str, name: str, now: float) -> tuple[Known, ...]:
        """Return what it has of one LLMDeployment's last week. Raises Unavailable when it does not answer."""
        first, last = scraped.past_span(now)
        query = {
            "query": scraped.past_query(namespace, name, self._labels),
            "start": f"{first:.0f}",
            "end": f"{last:.0f}",
            "step": f"{scraped.STEP_SECONDS}",
        }
        return await self._ask(
            "past", "query_range", query, PAST_SECONDS, lambda body: scraped.read_past(body, first, last)
        )

    async def _ask(
        self, what: str, path: str, query: Mapping[str, str], seconds: float, read: Callable[[Any], Read]
    ) -> Read:
        async with self._turn(what):
            return await self._ask_now(what, path, query, seconds, read)

    @asynccontextmanager
    async def _turn(self, what: str) -> AsyncIterator[None]:
        """Wait for one of few turns, not for long. That there is none says nothing of Prometheus."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._lane.acquire()
        except TimeoutError:
            self._on_answer(what, "skipped")
            raise Unavailable("too many others ask Prometheus") from None
        try:
            if self.pause_seconds > 0:
                self._on_answer(what, "skipped")
                raise Unavailable(
                    f"Prometheus did not answer; it is asked again in {self.pause_seconds:.0f} s"
                )
            yield
        finally:
            self._lane.release()

    async def _ask_now(
        self, what: str, path: str, query: Mapping[str, str], seconds: float, read: Callable[[Any], Read]
    ) -> Read:
        try:
            async with asyncio.timeout(seconds):
                found = read(await self._read(path, {**query, "timeout": f"{seconds:g}s"}))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, Unavailable) as error:
            self._failed(what, str(error) or f"no answer within {seconds:g} s")
            raise Unavailable(f"Prometheus: {error}") from error
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            self._failed(what, f"its answer cannot be read: {error!r:.200}")
            raise Unavailable(f"Prometheus: {error!r:.200}") from error
        if self._failures:
            log.info("Prometheus answers again")
        self._failures, self._until = 0, 0.0
        self._on_answer(what, "told" if found else "empty")
        return found

    async def _read(self, path: str, query: Mapping[str, str]) -> Any:
        headers = {}
        if self._token_file:
            headers["authorization"] = f"Bearer {await asyncio.to_thread(_token, self._token_file)}"
        url = f"{self._base}/api/v1/{path}"
        async with self._http.stream("POST", url, data=dict(query), headers=headers) as response:
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > ANSWER_LIMIT_BYTES:
                    raise Unavailable(f"its answer is longer than {ANSWER_LIMIT_BYTES} bytes")
            if response.status_code != httpx.codes.OK:
                raise Unavailable(f"it says {response.status_code}: {_why(content)}")
        return json.loads(content)

    def _failed(self, what: str, why: str) -> None:
        pause = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        if not self._failures:
            log.warning(
                "Prometheus (PREHEAT_PROMETHEUS_URL) does not help: %s; agents are asked as ever, it again in %g s, and this "
                "is not said again before it answers",
                why,
                pause,
            )
        self._failures, self._until = self._failures + 1, self._clock() + pause
        self._on_answer(what, "failed")


def _token(path: str) -> str:
    with Path(path).open("rb") as file:
        token = file.read(TOKEN_LIMIT_BYTES).strip()
    if not re.fullmatch(rb"[!-~]+", token):
        # Whatever it holds: it may be a secret, and must not be in anybody's error.
        raise Unavailable(f"{path} holds no token: one line of letters, digits and signs")
    return token.decode("ascii")


def _why(content: bytes) -> str:
    """Return what it says of a question that it refused."""
    try:
        return str(json.loads(content)["error"])[:200]
    except (KeyError, TypeError, ValueError, RecursionError):
        return content[:200].decode("utf-8", "replace")
