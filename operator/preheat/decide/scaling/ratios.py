"""How far the truth was from a candidate: counts of ratios, and their quantiles.

Bins are an eighth of a doubling wide, from an eighth of the candidate to 32 times it. Counts are whole numbers, so that
what is written down and read back decides the same.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

BINS = 64
LEAST, MOST = -3.0, 5.0
"""Logarithms to the base 2."""
WIDTH = (MOST - LEAST) / BINS
ONE = 32
"""What one observation counts; it fades to nothing in steps."""
PRIOR = 20
"""How many observations the prior is worth."""

Counts = tuple[int, ...]


def prior(doublings: float, spread: float) -> Counts:
    """Return the counts to begin with: a bell around ``doublings``."""
    bell = [math.exp(-0.5 * ((_middle(k) - doublings) / spread) ** 2) for k in range(BINS)]
    return tuple(round(PRIOR * ONE * height / sum(bell)) for height in bell)


def counted(counts: Counts, ratio: float) -> Counts:
    """Return the counts with one more ratio."""
    place = 0 if ratio <= 0 else min(BINS - 1, max(0, int((math.log2(ratio) - LEAST) / WIDTH)))
    return (*counts[:place], counts[place] + ONE, *counts[place + 1 :])


def faded(counts: Counts, share: float) -> Counts:
    """Return the counts after some time: this share of each is left."""
    return tuple(int(count * share) for count in counts)


def quantiles(counts: Counts, wanted: Sequence[float]) -> tuple[float, ...]:
    """Return quantiles of the ratio, evenly spread within a bin."""
    sums = list(accumulate(counts))
    found = []
    for share in wanted:
        target = share * sums[-1]
        place = bisect_left(sums, target)
        below = sums[place - 1] if place else 0
        within = (target - below) / counts[place] if counts[place] else 0.5
        found.append(2.0 ** (LEAST + (place + within) * WIDTH))
    return tuple(found)


def _middle(place: int) -> float:
    return LEAST + (place + 0.5) * WIDTH
