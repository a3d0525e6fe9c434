"""Times of the week at which somebody knows that more will be wanted than ever was."""

from collections.abc import Iterable
from dataclasses import dataclass

DAY_MINUTES = 1440
WEEK_MINUTES = 7 * DAY_MINUTES
EPOCH_WEEKDAY = 3
"""The first of January 1970 was a Thursday; Monday is 0."""


@dataclass(frozen=True, slots=True)
class Window:
    """A floor of replicas for a part of the week, in UTC. One that ends before it begins goes on past midnight."""

    from_minute: int
    """Minutes since midnight, 0 to 1439."""
    to_minute: int
    replicas: int
    weekdays: tuple[int, ...] = ()
    """The days on which it begins, Monday is 0. None: every day."""

    def overlaps(self, since: float, until: float) -> bool:
        """Return whether any of it lies within these times (Unix seconds, ``until`` included)."""
        length = (self.to_minute - self.from_minute) % DAY_MINUTES or DAY_MINUTES
        first = int(since // 60) - length
        for day in range(first // DAY_MINUTES, int(until // 60) // DAY_MINUTES + 1):
            begins = (day * DAY_MINUTES + self.from_minute) * 60.0
            if begins <= until and since < begins + length * 60 and self._begins_on(day):
                return True
        return False

    def _begins_on(self, day: int) -> bool:
        return not self.weekdays or (day + EPOCH_WEEKDAY) % 7 in self.weekdays


def floor(windows: Iterable[Window], now: float, ahead_seconds: float) -> int:
    """Return the most replicas that a window asks for between now and ``ahead_seconds`` later: loads begin before it does."""
    return max((one.replicas for one in windows if one.overlaps(now, now + ahead_seconds)), default=0)
