"""Scale to zero: how long the last replica is kept when nobody asks, and when it is there before somebody does.

Keeping it for one load time costs at most twice what one who knew the gap would pay (the ski rental problem). But who
comes after it is gone waits a whole load. So the lengths of past gaps are counted, and the keep-alive is the multiple
of the load time that would have been cheapest, with a price for those who would have waited.
"""

from dataclasses import dataclass, replace

from preheat.decide.scaling.policy import HEADS_UP_SECONDS, Policy
from preheat.decide.scaling.season import DAY_SLOTS, SLOT_MINUTES, Season
from preheat.decide.scaling.trials import LATE_PRICE

MULTIPLES = (0.5, 1, 2, 4, 8, 16, 32)
"""Of the load time, for the keep-alive."""
BINS = 28
"""Half doublings of a gap's length, from 30 seconds to half a week."""
SHORTEST_SECONDS = 30.0
FULL = 4000
"""Gaps; then all counts are halved."""
UNLEARNT_SECONDS = 300.0
"""The keep-alive is at least this long as long as few gaps are known."""
FEW = 8


@dataclass(frozen=True, slots=True)
class Idle:
    """When somebody asked last, and how long the gaps were."""

    asked_at: float | None = None
    surprises: tuple[int, ...] = (0,) * BINS
    """Lengths of gaps after which nobody was expected to come."""
    foreseen: tuple[int, ...] = (0,) * BINS
    """Lengths of gaps at whose end a replica would have been there again by the time of day."""
    followers: tuple[int, ...] = (0,) * BINS
    """How many came within a load time after a surprise: they would have waited, had nobody been kept."""
    woken_at: float | None = None
    """When the last surprise was, and the place of its gap."""
    woken_after: int = 0
    busy_seconds: float = 0.0
    """With somebody asking, and up to 30 seconds after."""
    arrivals: float = 0.0

    def gap_before(self, at: float, seconds: float) -> float:
        """Return for how long nobody had asked when a window began."""
        return 0.0 if self.asked_at is None else at - seconds - self.asked_at

    def after(
        self, at: float, seconds: float, arrivals: float, foreseen: bool, load_seconds: float
    ) -> "Idle":
        """Return it after a window in which somebody asked. ``foreseen``: at this time of day somebody does."""
        gap = self.gap_before(at, seconds)
        surprises, known, followers = self.surprises, self.foreseen, self.followers
        woken_at, woken_after = self.woken_at, self.woken_after
        loading = woken_at is not None and at <= woken_at + load_seconds
        if gap >= SHORTEST_SECONDS:
            place = _place(gap)
            if foreseen:
                known = _with(known, place, 1)
            else:
                surprises = _with(surprises, place, 1)
                if not loading or place > woken_after:
                    woken_at, woken_after, loading = at, place, True
        if loading:
            followers = _with(followers, woken_after, max(1, round(arrivals)))
        busy = self.busy_seconds + seconds + min(max(gap, 0.0), SHORTEST_SECONDS)
        found = Idle(at, surprises, known, followers, woken_at, woken_after, busy, self.arrivals + arrivals)
        return found if sum(surprises) + sum(known) <= FULL else found.halved()

    def halved(self) -> "Idle":
        """Return it with all that was counted worth half."""
        surprises, foreseen, followers = (
            tuple(many // 2 for many in gaps) for gaps in (self.surprises, self.foreseen, self.followers)
        )
        return replace(
            self,
            surprises=surprises,
            foreseen=foreseen,
            followers=followers,
            busy_seconds=self.busy_seconds / 2,
            arrivals=self.arrivals / 2,
        )

    def keep_alive_seconds(self, load_seconds: float) -> float:
        """Return for how long the last replica is kept."""
        if sum(self.surprises) + sum(self.foreseen) < FEW:
            return max(load_seconds, UNLEARNT_SECONDS)
        least = self._cost(load_seconds, load_seconds)

        def price(multiple: float) -> float:
            keep = multiple * load_seconds
            late = sum(many for place, many in enumerate(self.followers) if _length(place) > keep)
            late_share = min(1.0, late / max(self.arrivals, 1.0))
            return self._cost(keep, load_seconds) / least + LATE_PRICE * late_share

        return min(MULTIPLES, key=price) * load_seconds

    def _cost(self, keep: float, load_seconds: float) -> float:
        """Return the replica seconds that a keep-alive would have taken."""
        return self.busy_seconds + sum(
            many * (_length(place) if _length(place) <= keep else keep + load_seconds)
            for gaps in (self.surprises, self.foreseen)
            for place, many in enumerate(gaps)
            if many
        )


def expected(season: Season, now: float, policy: Policy) -> bool:
    """Return whether on at least half of the known days somebody asked at the time for which one would load now."""
    first = int(now // 60) // SLOT_MINUTES
    last = int((now + policy.load.p90 + HEADS_UP_SECONDS) // 60) // SLOT_MINUTES
    days = [season.most(first - back, last - back) for back in range(DAY_SLOTS, 8 * DAY_SLOTS, DAY_SLOTS)]
    known = [day for day in days if day is not None]
    return bool(known) and 2 * sum(day > 0 for day in known) >= len(known)


def _with(gaps: tuple[int, ...], place: int, many: int) -> tuple[int, ...]:
    return (*gaps[:place], gaps[place] + many, *gaps[place + 1 :])


def _place(gap: float) -> int:
    place, edge = 0, SHORTEST_SECONDS * 2**0.5
    while gap >= edge and place < BINS - 1:
        place, edge = place + 1, edge * 2**0.5
    return place


def _length(place: int) -> float:
    """Return the length of a bin's gaps: the middle of it, in seconds."""
    return float(SHORTEST_SECONDS * 2 ** ((place + 0.5) / 2))
