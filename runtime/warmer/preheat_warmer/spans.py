"""Which bytes of a file are there, and which to fetch next. Pure; a span is (start, end), end excluded."""

from collections.abc import Iterable, Sequence

Span = tuple[int, int]

PIECE_BYTES_LEAST = 16 << 20
PIECE_BYTES_MOST = 256 << 20
"""A piece is one request. Small ones cost round trips, and a hub counts requests; of large ones the digest,
which is computed in order, has to wait for too many."""
PIECES_EACH = 2
"""How many pieces of this length each connection would still get: pieces shrink towards the end, so that
all connections end together and little is left to hash then."""


def joined(spans: Iterable[Span], *more: Span) -> tuple[Span, ...]:
    """Return all spans in order, those that touch or overlap as one.

    >>> joined([(0, 4), (8, 9)], (4, 6))
    ((0, 6), (8, 9))
    """
    found: list[Span] = []
    for start, end in sorted([*spans, *more]):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def covered(spans: Sequence[Span]) -> int:
    """Return how many bytes joined spans hold."""
    return sum(end - start for start, end in spans)


def frontier(spans: Sequence[Span]) -> int:
    """Return how many bytes are there from the start on without a gap."""
    return spans[0][1] if spans and spans[0][0] == 0 else 0


def gaps(spans: Sequence[Span], size: int) -> tuple[Span, ...]:
    """Return what joined spans leave of a file.

    >>> gaps([(0, 4), (8, 9)], 10)
    ((4, 8), (9, 10))
    """
    edges = [0, *(edge for span in spans for edge in span), size]
    return tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)


def next_piece(there: Sequence[Span], claimed: Sequence[Span], size: int, connections: int) -> Span | None:
    """Return what a free connection should fetch, None when nothing is left."""
    left = gaps(joined(there, *claimed), size)
    if not left:
        return None
    start, end = left[0]
    length = covered(left) // (PIECES_EACH * max(connections, 1))
    length = min(max(length, PIECE_BYTES_LEAST), PIECE_BYTES_MOST)
    # What would be left of the gap is no request of its own worth.
    return start, end if end - start < length + PIECE_BYTES_LEAST else start + length
