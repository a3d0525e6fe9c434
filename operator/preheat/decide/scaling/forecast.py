"""How much will be wanted when a replica that is asked for now is ready, as quantiles.

For each candidate level the ratio of what came to what the candidate said is counted. A quantile of that ratio times
the candidate's level now is its forecast. Which candidate speaks is decided, for each quantile, by the pinball loss of
what it said before: the loss whose least mean a true quantile has (Koenker and Bassett 1978).
"""

from dataclasses import dataclass, field, replace

from preheat.decide.scaling import ratios
from preheat.decide.scaling.dials import DIALS
from preheat.decide.scaling.levels import NAMES, Levels

PENDING = 15
"""How many guesses are under way at a time: for a long load not each minute's is followed up."""
FADE_MINUTES = 270.0
"""After this long counts are faded."""
FADE = 2 ** (-1 / 8)
"""What is then left: half of them in a day and a half."""
LOSS_HALVES_MINUTES = 2880.0
LEAST_WEIGHT = 20.0
"""Who has been followed up less often than this has no say: the best of few guesses is luck."""

POINT_PRIOR = ratios.prior(0.15, 0.35)
"""A minute's peak against a mean: 11 % more, 40 % more with 90 % confidence."""
MOST_PRIOR = ratios.prior(0.3, 0.35)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Forecasts one thing. ``quantiles`` follow from ``counts``."""

    counts: tuple[ratios.Counts, ...]
    losses: tuple[tuple[float, ...], ...] = ((0.0,) * len(DIALS),) * len(NAMES)
    """By candidate, by dial: the sum over what it said of late."""
    weights: tuple[float, ...] = (0.0,) * len(NAMES)
    """By candidate: over how much."""
    quantiles: tuple[tuple[float, ...], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.quantiles:
            found = tuple(ratios.quantiles(counts, DIALS) for counts in self.counts)
            object.__setattr__(self, "quantiles", found)

    def learnt(self, said: Levels, came: float, keep: float) -> "Predictor":
        """Return it after one guess came true or not. ``keep``: the share of the old losses that still counts."""
        counts, losses, quantiles = list(self.counts), list(self.losses), list(self.quantiles)
        weights = list(self.weights)
        for place, level in enumerate(said):
            if level <= 0:
                continue
            losses[place] = tuple(
                loss * keep + pinball(came - ratio * level, dial)
                for loss, ratio, dial in zip(losses[place], quantiles[place], DIALS, strict=True)
            )
            weights[place] = weights[place] * keep + 1
            counts[place] = ratios.counted(counts[place], came / level)
            quantiles[place] = ratios.quantiles(counts[place], DIALS)
        return Predictor(tuple(counts), tuple(losses), tuple(weights), tuple(quantiles))

    def judged(self, said: Levels, came: float, keep: float) -> "Predictor":
        """Return it with what one guess was worth, and with nothing learnt of how far the truth is from what is said."""
        losses, weights = list(self.losses), list(self.weights)
        for place, level in enumerate(said):
            if level > 0:
                losses[place] = tuple(
                    loss * keep + pinball(came - ratio * level, dial)
                    for loss, ratio, dial in zip(losses[place], self.quantiles[place], DIALS, strict=True)
                )
                weights[place] = weights[place] * keep + 1
        return replace(self, losses=tuple(losses), weights=tuple(weights))

    @property
    def has_speakers(self) -> bool:
        """Tell whether anybody was followed up often enough to have a say."""
        return max(self.weights) >= LEAST_WEIGHT

    def faded(self) -> "Predictor":
        """Return it after a while: what was long ago counts less."""
        return Predictor(
            tuple(ratios.faded(counts, FADE) for counts in self.counts), self.losses, self.weights
        )

    def speakers(self, levels: Levels) -> tuple[int, ...]:
        """Return for each dial the candidate with the least loss, of those that say something and are known."""
        able = [
            place for place, level in enumerate(levels) if level > 0 and self.weights[place] >= LEAST_WEIGHT
        ]
        if not able:
            return (0,) * len(DIALS)
        return tuple(
            min(able, key=lambda place: self.losses[place][dial] / self.weights[place])
            for dial in range(len(DIALS))
        )

    def forecasts(self, levels: Levels, most: float) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Return the forecast of each dial, ``most`` slots at most, and who speaks for it."""
        speakers = self.speakers(levels)
        said = [min(most, self.quantiles[place][dial] * levels[place]) for dial, place in enumerate(speakers)]
        return tuple(said), speakers


@dataclass(frozen=True, slots=True)
class Guess:
    """What the candidates said, until it is known what came."""

    minute: int
    point: Levels
    most: Levels
    seen: float = 0.0
    """The most that came since."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What has been learnt."""

    point: Predictor = Predictor((POINT_PRIOR,) * len(NAMES))
    """The minute in which a replica that is asked for now is ready."""
    most: Predictor = Predictor((MOST_PRIOR,) * len(NAMES))
    """The most until then: what a replica that goes now would be missed for."""
    guesses: tuple[Guess, ...] = ()
    faded_minutes: int = 0
    """How long counts have not been faded."""

    def after(self, minute: int, peak: float, ahead: int) -> "Forecast":
        """Return it after one more minute."""
        waiting, point, most = [], self.point, self.most
        stride = stride_minutes(ahead)
        keep = 0.5 ** (stride / LOSS_HALVES_MINUTES)
        for guess in self.guesses:
            now = replace(guess, seen=max(guess.seen, peak))
            if minute - guess.minute < ahead:
                waiting.append(now)
            elif minute - guess.minute == ahead:
                point = point.learnt(guess.point, peak, keep)
                most = most.learnt(guess.most, now.seen, keep)
        faded = self.faded_minutes + 1
        if faded >= FADE_MINUTES:
            faded, point, most = 0, point.faded(), most.faded()
        return Forecast(point, most, tuple(waiting), faded)

    def guessing(self, minute: int, point: Levels, most: Levels, ahead: int) -> "Forecast":
        """Return it with what the candidates say now, where that is to be followed up."""
        stride = stride_minutes(ahead)
        if minute % stride:
            return self
        guess = Guess(minute, tuple(map(_short, point)), tuple(map(_short, most)))
        return replace(self, guesses=(*self.guesses, guess))

    def without_guesses(self) -> "Forecast":
        """Return it after minutes of which nothing is known: nobody can say what came."""
        return replace(self, guesses=())


def stride_minutes(ahead: int) -> int:
    """Return how far apart guesses are that are followed up: no more than PENDING are under way.

    >>> [stride_minutes(ahead) for ahead in (2, 15, 16, 46)]
    [1, 1, 2, 4]
    """
    return -(-ahead // PENDING)


def pinball(miss: float, dial: float) -> float:
    """Return what it costs to have been too low by ``miss`` (slots), or too high by less than nothing.

    >>> pinball(10.0, 0.9), round(pinball(-10.0, 0.9), 9)
    (9.0, 1.0)
    """
    return dial * miss if miss > 0 else (dial - 1) * miss


def _short(value: float) -> float:
    """Return a number with four digits: what is written down is what was calculated with."""
    return float(f"{value:.4g}")
