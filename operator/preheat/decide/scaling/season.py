"""What was wanted at this time of day, up to seven days back, in 10-minute means.

A mean is one number of 12 bits on a logarithmic scale: half a percent apart, up to 180,000 slots. A week is 2 kB.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

SLOT_MINUTES = 10
DAY_SLOTS = 1440 // SLOT_MINUTES
WEEK_SLOTS = 7 * DAY_SLOTS
STEPS = 200
"""Codes for a doubling."""
FINEST = 8.0
LEAST_MINUTES = 5
"""A slot of which fewer minutes are known is not known."""


def encoded(slots: float) -> int:
    """Return the code of a mean: 1 for nothing wanted; 0 is kept for what is not known.

    >>> encoded(0.0), round(decoded(encoded(72.0)), 1)
    (1, 71.9)
    """
    return _CODES[min(4095, 1 + round(STEPS * math.log2(1 + FINEST * max(0.0, slots))))]


def decoded(code: int) -> float:
    """Return the mean that a code stands for."""
    return _DECODED[code]


_CODES = tuple(range(4096))
"""The same objects for all deployments: a ring of a week is 8 kB, not 36."""
_DECODED = tuple((2 ** ((code - 1) / STEPS) - 1) / FINEST for code in range(4096))


@dataclass(frozen=True, slots=True)
class Season:
    """A ring of the last week's slots. ``slot`` counts ten minutes since 1970; it is the one that fills now."""

    codes: tuple[int, ...] = (0,) * WEEK_SLOTS
    slot: int = -1
    total: float = 0.0
    minutes: int = 0

    def after(self, minute: int, mean: float) -> "Season":
        """Return it after one more minute (counted since 1970). What lies between is not known."""
        slot = minute // SLOT_MINUTES
        if slot == self.slot:
            return replace(self, total=self.total + mean, minutes=self.minutes + 1)
        if slot < self.slot:
            return self
        codes = self.codes
        if self.slot >= 0:
            ring = list(codes)
            known = self.minutes >= LEAST_MINUTES
            ring[self.slot % WEEK_SLOTS] = encoded(self.total / self.minutes) if known else 0
            for skipped in range(self.slot + 1, min(slot, self.slot + 1 + WEEK_SLOTS)):
                ring[skipped % WEEK_SLOTS] = 0
            codes = tuple(ring)
        return Season(codes, slot, mean, 1)

    def filled(self, means: Mapping[int, float], now: int) -> "Season":
        """Return it with the means of slots of which nothing is known. What is known stays; ``now``: the slot that fills."""
        season = self if self.slot >= now else self._moved(now)
        ring = list(season.codes)
        for slot, mean in means.items():
            if season.slot - WEEK_SLOTS <= slot < season.slot and not ring[slot % WEEK_SLOTS]:
                ring[slot % WEEK_SLOTS] = encoded(mean)
        return replace(season, codes=tuple(ring))

    def unknown(self, now: int) -> int:
        """Return how many slots of the week before this one are not known."""
        codes = (self if self.slot >= now else self._moved(now)).codes
        return sum(not code for code in codes)

    def _moved(self, slot: int) -> "Season":
        """Return it as it is when a slot begins, of which no minute is over yet."""
        return replace(self.after(slot * SLOT_MINUTES, 0.0), total=0.0, minutes=0)

    def at(self, slot: int) -> float | None:
        """Return what was wanted in a slot that is over; None when that is not known."""
        if not self.slot - WEEK_SLOTS <= slot < self.slot:
            return None
        code = self.codes[slot % WEEK_SLOTS]
        return _DECODED[code] if code else None

    def most(self, first: int, last: int) -> float | None:
        """Return the most that was wanted in any known slot of these, both ends included."""
        first, last = max(first, self.slot - WEEK_SLOTS), min(last, self.slot - 1)
        code = max((self.codes[slot % WEEK_SLOTS] for slot in range(first, last + 1)), default=0)
        return _DECODED[code] if code else None

    def mean(self, first: int, last: int) -> float | None:
        """Return the mean over the known slots of these, both ends included."""
        known = [value for slot in range(first, last + 1) if (value := self.at(slot)) is not None]
        return sum(known) / len(known) if known else None
