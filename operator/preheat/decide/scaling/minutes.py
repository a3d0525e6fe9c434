"""Windows of any length, gathered into minutes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Minute:
    """What was wanted in one minute (counted since 1970), in slots."""

    minute: int = -1
    peak: float = 0.0
    total: float = 0.0
    windows: int = 0

    @property
    def mean(self) -> float:
        """The mean of its windows."""
        return self.total / self.windows if self.windows else 0.0

    def after(self, minute: int, wanted: float) -> "Minute":
        """Return it with one more window, or a new one."""
        if minute != self.minute:
            return Minute(minute, wanted, wanted, 1)
        return Minute(minute, max(self.peak, wanted), self.total + wanted, self.windows + 1)


def minute_of(at: float) -> int:
    """Return the minute that a window belongs to which ends at ``at``: one that ends with a minute is of that minute.

    >>> minute_of(60.0), minute_of(60.1)
    (0, 1)
    """
    return -int(-at // 60) - 1
