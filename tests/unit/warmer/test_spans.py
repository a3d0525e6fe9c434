"""Which bytes are there, and which to fetch next: nothing twice, nothing left out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from preheat_warmer.spans import (
    PIECE_BYTES_LEAST,
    PIECE_BYTES_MOST,
    Span,
    covered,
    frontier,
    gaps,
    joined,
    next_piece,
)

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def members(spans: "list[Span] | tuple[Span, ...]") -> set[int]:
    return {byte for start, end in spans for byte in range(start, end)}


@given(SPANS, st.integers(0, 80))
def test_spans_are_the_bytes_that_they_name(spans: list[Span], size: int) -> None:
    there = joined(spans)
    assert members(there) == members(spans)
    assert covered(there) == len(members(spans))
    assert all(left[1] < right[0] for left, right in pairwise(there)), "they touch"
    clipped = joined((start, min(end, size)) for start, end in there)
    assert members(gaps(clipped, size)) == set(range(size)) - members(spans)
    assert frontier(there) == min(set(range(100)) - members(spans))


@given(SPANS, SPANS, st.integers(1, 5000), st.integers(0, 70))
def test_a_piece_is_missing_and_nobody_s(
    there: list[Span], claimed: list[Span], size_mib: int, connections: int
) -> None:
    unit = 1 << 20
    big = [[(start * unit, end * unit) for start, end in spans] for spans in (there, claimed)]
    size = max(size_mib, 60) * unit
    piece = next_piece(joined(big[0]), joined(big[1]), size, connections)
    left = gaps(joined([*big[0], *big[1]]), size)
    if piece is None:
        assert left == ()
        return
    assert any(start == piece[0] and piece[1] <= end for start, end in left)
    assert piece[1] - piece[0] <= PIECE_BYTES_MOST + PIECE_BYTES_LEAST


def test_pieces_shrink_towards_the_end_and_a_file_needs_few() -> None:
    size, there, lengths = 4 << 30, (), []
    while (piece := next_piece(there, (), size, 4)) is not None:
        lengths.append(piece[1] - piece[0])
        there = joined(there, piece)
    assert lengths[0] == PIECE_BYTES_MOST
    assert lengths[-1] < 2 * PIECE_BYTES_LEAST
    assert sorted(lengths[:-1], reverse=True) == lengths[:-1]
    assert len(lengths) < 50


def test_a_small_file_is_one_request() -> None:
    assert next_piece((), (), 2 * PIECE_BYTES_LEAST - 1, 64) == (0, 2 * PIECE_BYTES_LEAST - 1)
