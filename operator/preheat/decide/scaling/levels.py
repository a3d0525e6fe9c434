"""What tomorrow may be a multiple of: the candidates of the forecast.

Each is a guess at how much will be wanted, in slots. None is trusted: the forecast learns how far the truth was from
each, and takes the one that was closest.
"""

from dataclasses import dataclass

from preheat.decide.scaling.season import DAY_SLOTS, SLOT_MINUTES, Season

MEANS_MINUTES = (2.0, 5.0, 15.0, 60.0, 240.0, 1440.0)
NAMES = (
    *("the last 2 minutes", "the last 5 minutes", "the last 15 minutes"),
    *("the last hour", "the last 4 hours", "the last day"),
    *("yesterday's shape at today's level", "this time of day", "yesterday's shape and the last 15 minutes"),
    *("this time of day and the last 15 minutes", "the last 15 minutes with yesterday's slope"),
    "this time last week",
)
QUARTER, HOUR, DAY = 2, 3, 5
MOST_CHANGE = 3.0
"""A ratio between two days is not believed beyond this, or beyond its inverse."""

Levels = tuple[float, ...]
"""One per candidate, in the order of NAMES; 0 for one that cannot be made."""


@dataclass(frozen=True, slots=True)
class Means:
    """Exponential means of the minutes, with the weight that each has gathered: early ones are honest means."""

    sums: tuple[float, ...] = (0.0,) * len(MEANS_MINUTES)
    weights: tuple[float, ...] = (0.0,) * len(MEANS_MINUTES)

    def after(self, mean: float) -> "Means":
        """Return them after one more minute."""
        return Means(
            tuple(s + (mean - s) / n for s, n in zip(self.sums, MEANS_MINUTES, strict=True)),
            tuple(w + (1 - w) / n for w, n in zip(self.weights, MEANS_MINUTES, strict=True)),
        )

    def faded(self, minutes: float) -> "Means":
        """Return them after minutes of which nothing is known: what was before weighs less against what comes."""
        keep = [(1 - 1 / n) ** minutes for n in MEANS_MINUTES]
        return Means(
            tuple(s * share for s, share in zip(self.sums, keep, strict=True)),
            tuple(w * share for w, share in zip(self.weights, keep, strict=True)),
        )

    def value(self, place: int) -> float:
        """Return one of them."""
        return self.sums[place] / self.weights[place] if self.weights[place] else 0.0


def levels(means: Means, season: Season, minute: int, ahead: int, floor: float) -> tuple[Levels, Levels]:
    """Return the candidates for the minute ``ahead`` from now, and for the most within them.

    ``floor`` (slots) is added to each, so that after a silence a ratio to it still means something.
    """
    now = tuple(means.value(place) + floor for place in range(len(MEANS_MINUTES)))
    quarter = means.value(QUARTER)
    point = _seasonal(season, minute, ahead, ahead, quarter, means.value(HOUR), floor)
    most = _seasonal(season, minute, 1, ahead, quarter, means.value(HOUR), floor)
    return now + point, now + most


def _seasonal(
    season: Season, minute: int, first: int, last: int, quarter: float, hour: float, floor: float
) -> Levels:
    """Return what the past days say of the minutes ``first`` to ``last`` from now."""
    begin, end, here = (
        (minute + first) // SLOT_MINUTES,
        (minute + last) // SLOT_MINUTES,
        minute // SLOT_MINUTES,
    )
    yesterday = season.most(begin - DAY_SLOTS, end - DAY_SLOTS)
    if yesterday is None:
        return (0.0,) * 6
    days = [season.most(begin - back, end - back) for back in range(DAY_SLOTS, 8 * DAY_SLOTS, DAY_SLOTS)]
    known = [day for day in days if day is not None]
    usual = sum(known) / len(known)
    before = season.mean(here - DAY_SLOTS - 6, here - DAY_SLOTS - 1)
    shape = yesterday * _within(hour + floor, (before if before is not None else hour) + floor)
    then = season.at(here - DAY_SLOTS)
    slope = _within(yesterday + floor, (then if then is not None else yesterday) + floor)
    week = days[6]
    return (
        shape + floor,
        usual + floor,
        (shape + quarter) / 2 + floor,
        (usual + quarter) / 2 + floor,
        quarter * slope + floor,
        0.0 if week is None else week + floor,
    )


def _within(above: float, below: float) -> float:
    if below <= 0:
        return 1.0
    return min(MOST_CHANGE, max(1 / MOST_CHANGE, above / below))
