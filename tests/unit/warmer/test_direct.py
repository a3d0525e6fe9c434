"""How long the kernel's receive buffer of a connection may be: decided once."""

import socket
from typing import Any, cast

import pytest
from preheat_warmer.sources.direct import MIN_RTT, TUNED_BYTES, _Connection

LARGE, SMALL = 5 << 20, 16 << 10
NEAR, FAR = 50, 500
"""Round trips in microseconds."""


class Socket:
    """Of a server that is so far away."""

    def __init__(self, rtt: int) -> None:
        self.rtt = rtt
        self.buffers: list[int] = []

    def getsockopt(self, *_: Any) -> bytes:
        return MIN_RTT.pack(self.rtt)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.buffers.append(value)


@pytest.mark.parametrize(
    ("rtt", "counts", "buffers", "is_wide"),
    [
        (NEAR, [SMALL], [32 << 10], False),
        (NEAR, [LARGE, SMALL], [100 << 10], False),
        (NEAR, [TUNED_BYTES, SMALL], [], True),
        (FAR, [SMALL, LARGE], [], False),
    ],
    ids=["near", "a smaller file next", "left to the kernel", "far, then a larger file"],
)
def test_a_buffer_is_made_short_at_the_start_or_not_at_all(
    rtt: int, counts: list[int], buffers: list[int], is_wide: bool
) -> None:
    connection, fake = _Connection(("http", "h", 80), None, 1.0, 1.0), Socket(rtt)
    connection._socket = cast("Any", fake)
    for count in counts:
        connection.wait_short(count)
    assert fake.buffers == buffers
    assert connection.is_wide is is_wide
