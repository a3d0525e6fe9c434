"""A port for each deployment, and everybody who comes in there: told when to come again, and counted.

What anybody can make us hold is bounded: connections, the head of a request, the time until it is there, what is read
after the answer.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from preheat_front import answers, grpc
from preheat_front.asking import HTTP2, Asked, parse_head
from preheat_front.config import Config
from preheat_front.guests import Guests
from preheat_front.slices import Sleeper
from preheat_front.tally import Tally

HEAD_BYTES = 16_384
HTTP2_BYTES = 65_536
"""What is read of an HTTP/2 connection until its first request is answered."""
LINGER_BYTES = 8 * 2**20
"""What is read and dropped after the answer."""
CHUNK = 65_536

log = logging.getLogger(__name__)


class Doors:
    """Owned by one event loop."""

    def __init__(self, config: Config, tally: Tally, now: Callable[[], float]) -> None:
        self._config = config
        self._tally = tally
        self._now = now
        self._sleepers: Mapping[int, Sleeper] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self.is_shown = False
        """Whether it listens as the slices said at some time since the start."""
        self.guests = Guests(config.connections, self._note_cut_off)

    def __len__(self) -> int:
        return len(self._servers)

    async def show(self, sleepers: Mapping[int, Sleeper]) -> None:
        """Listen on these ports, and on no others. One that cannot be had is tried again with the next change."""
        self._sleepers = sleepers
        self._tally.keep({(s.namespace, s.name) for s in sleepers.values()})
        for port in self._servers.keys() - sleepers.keys():
            self._servers.pop(port).close()
        for port in sorted(sleepers.keys() - self._servers.keys()):
            try:
                self._servers[port] = await asyncio.start_server(
                    partial(self._come_in, port), None, port, limit=HEAD_BYTES, backlog=128
                )
            except OSError as error:
                log.warning(
                    "port %d of %s/%s: %s", port, sleepers[port].namespace, sleepers[port].name, error
                )
        self.is_shown = True

    async def close(self) -> None:
        """Stop listening."""
        await self.show({})

    def _note_cut_off(self) -> None:
        self._tally.cut_off += 1

    async def _come_in(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.guests.serve(writer, self._attend(port, reader, writer))

    async def _attend(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._config.head_seconds):
                await self._answer(port, reader, writer)
        except (TimeoutError, asyncio.IncompleteReadError, grpc.RefusedError):
            self._tally.malformed += 1
            return
        await self._linger(reader, writer)

    async def _answer(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            self._tally.malformed += 1
            return await _say(writer, _refusal(431, f"the head of a request may have {HEAD_BYTES} bytes"))
        if head == HTTP2:
            return await self._answer_http2(port, reader, writer)
        asked, sleeper = parse_head(head), self._sleepers.get(port)
        if asked is None:
            self._tally.malformed += 1
            return await _say(writer, _refusal(400, "this is no HTTP request"))
        if sleeper is None:
            return None  # its slice went while it asked
        self._count(sleeper, asked)
        said = answers.http(sleeper, self._now(), counted=asked.counts, head_only=asked.method == "HEAD")
        return await _say(writer, said)

    async def _answer_http2(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        exchange = grpc.Exchange(partial(self._say_over_http2, port))
        data, left = HTTP2, HTTP2_BYTES
        while data:
            await _say(writer, exchange.receive(data))
            left -= len(data)
            if exchange.is_over:
                return
            data = await reader.read(CHUNK) if left > 0 else b""
        self._tally.malformed += 1

    def _say_over_http2(self, port: int, asked: Asked) -> grpc.Answer:
        sleeper = self._sleepers.get(port)
        if sleeper is None:
            raise grpc.RefusedError("its slice went while it asked")
        self._count(sleeper, asked)
        now, counted = self._now(), asked.counts
        if asked.is_grpc:
            return answers.grpc(sleeper, now, counted=counted), b""
        seconds = str(answers.retry_seconds(sleeper, now))
        headers = [(":status", "503"), ("content-type", "application/json"), ("retry-after", seconds)]
        return headers, answers.error(answers.words(sleeper, now, counted=counted))

    def _count(self, sleeper: Sleeper, asked: Asked) -> None:
        self._tally.count((sleeper.namespace, sleeper.name), arrival=asked.counts)

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read what is still coming, for a moment: a socket that is closed on it resets, and the answer is lost."""
        writer.write_eof()
        left = LINGER_BYTES
        async with asyncio.timeout(self._config.linger_seconds):
            while left > 0 and (data := await reader.read(CHUNK)):
                left -= len(data)


def _refusal(status: int, message: str) -> bytes:
    return answers.plain(status, answers.error(message), "application/json")


async def _say(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
