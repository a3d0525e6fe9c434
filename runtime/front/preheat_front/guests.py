"""Connections that are open, up to a number. One more, and the oldest is cut off: who is slow keeps nobody out."""

import asyncio
from collections.abc import Awaitable, Callable


class Guests:
    """Owned by one event loop."""

    def __init__(self, most: int, cut_off: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._cut_off = cut_off
        self._open: dict[asyncio.StreamWriter, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, writer: asyncio.StreamWriter, work: Awaitable[None]) -> None:
        """Do what is to be done on a connection, and end it. Whoever is on its other side may be gone, or slow."""
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
            self._cut_off()
        self._open[writer] = None
        try:
            await work
        except (OSError, EOFError, TimeoutError):  # an IncompleteReadError is an EOFError
            pass
        finally:
            self._open.pop(writer, None)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # it does not read: closing would wait for it
            else:
                writer.close()
