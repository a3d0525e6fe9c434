"""What the scaler remembers of a deployment from one decision to the next, and over a restart.

It does not grow: rings, counts and means. As JSON it is at most 16 KiB. What cannot be read is forgotten, never an
error: a scaler without a memory is a reactive one until it has learnt.
"""

import base64
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from preheat.decide.scaling.dials import DIALS
from preheat.decide.scaling.forecast import Forecast, Guess, Predictor
from preheat.decide.scaling.idle import BINS as GAP_BINS
from preheat.decide.scaling.idle import Idle
from preheat.decide.scaling.levels import MEANS_MINUTES, NAMES, Means
from preheat.decide.scaling.minutes import Minute
from preheat.decide.scaling.offered import Offered
from preheat.decide.scaling.ratios import BINS
from preheat.decide.scaling.season import WEEK_SLOTS, Season
from preheat.decide.scaling.trials import PARTS, Hold, Outlook, Trial, Trials

VERSION = 1
UNWATCHED_SECONDS = 90.0
"""With no known window for longer (the operator was away, agents were silent), what happened meanwhile is not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The minute's outlook of the dial that is listened to, and why it is what it is."""

    outlook: Outlook = field(default_factory=lambda: Outlook(0.0, 0.0, 0.0))
    mean: float = 0.0
    """The mean of the last minute, in slots."""
    speaker: int = 0
    """Which candidate level the forecast is made of."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything. ``Memory()``: nothing is known."""

    offered: Offered = field(default_factory=Offered)
    minute: Minute = field(default_factory=Minute)
    closed: int = -1
    """The last minute that is complete."""
    record: float = 0.0
    """The highest peak of a minute; one of long ago counts less."""
    means: Means = field(default_factory=Means)
    season: Season = field(default_factory=Season)
    forecast: Forecast = field(default_factory=Forecast)
    trials: Trials = field(default_factory=Trials)
    hold: Hold = field(default_factory=Hold)
    """Of what was wanted, without any forecast."""
    idle: Idle = field(default_factory=Idle)
    seen: Seen = field(default_factory=Seen)
    since: float = math.inf
    """The beginning of the first window of which everything was known."""
    known_at: float = -math.inf
    """The end of the last window of which everything was known."""
    wanted: int | None = None
    """What was recommended last."""

    def has_outlook(self, begins: float) -> bool:
        """Tell whether the outlook is of now: whether a minute was over shortly before a window began (Unix seconds)."""
        return self.closed >= 0 and begins - 60 * (self.closed + 1) <= 60 + UNWATCHED_SECONDS

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps({"version": VERSION, **_written(self)}, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | None) -> "Memory":
        """Return what such a text says; a text that says nothing that can be used is an empty memory."""
        try:
            found = json.loads(text or "")
            return _read(found) if found["version"] == VERSION else cls()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
            return cls()


def _written(memory: Memory) -> dict[str, Any]:
    offered, season, forecast, trials, idle = (
        memory.offered, memory.season, memory.forecast, memory.trials, memory.idle,
    )  # fmt: skip
    predictors = (forecast.point, forecast.most)
    return {
        "offered": _floats(
            (offered.at, offered.slots, offered.mean, offered.held, offered.ended, offered.queued_at)
        ),
        "minute": [memory.minute.minute, memory.minute.peak, memory.minute.total, memory.minute.windows],
        "closed": memory.closed,
        "record": memory.record,
        "means": _floats((*memory.means.sums, *memory.means.weights)),
        "season": [season.slot, season.total, season.minutes, _packed(season.codes, 2)],
        "counts": ["".join(_packed(counts, 3) for counts in one.counts) for one in predictors],
        "losses": [_floats([loss for row in one.losses for loss in row]) for one in predictors],
        "weights": [_floats(one.weights) for one in predictors],
        "guesses": [[one.minute, one.seen, list(one.point), list(one.most)] for one in forecast.guesses],
        "faded": forecast.faded_minutes,
        "trials": [
            [one.ready, [[due - memory.closed, many] for due, many in one.loads], _floats((one.backlog, one.cost, one.late, *one.hold.parts))]
            for one in trials.trials
        ],
        "dials": [trials.work, trials.arrivals, trials.dial, trials.minutes, trials.turned],
        "hold": _floats(memory.hold.parts),
        "idle": [
            [idle.asked_at, idle.woken_at, idle.woken_after, idle.busy_seconds, idle.arrivals],
            [list(gaps) for gaps in (idle.surprises, idle.foreseen, idle.followers)],
        ],
        "seen": [*_plain(memory.seen.outlook), memory.seen.mean, memory.seen.speaker],
        "known": _floats((memory.since, memory.known_at)),
        "wanted": memory.wanted,
    }  # fmt: skip


def _read(found: dict[str, Any]) -> Memory:
    counts = [_unpacked(text, 3, BINS * len(NAMES)) for text in found["counts"]]
    losses = [_numbers(text, len(NAMES) * len(DIALS)) for text in found["losses"]]
    weights = [_numbers(text, len(NAMES)) for text in found["weights"]]
    point, most = (
        Predictor(tuple(_rows(ints, BINS)), tuple(_rows(misses, len(DIALS))), followed)
        for ints, misses, followed in zip(counts, losses, weights, strict=True)
    )
    guesses = tuple(
        Guess(int(minute), _levels(first), _levels(second), float(seen))
        for minute, seen, first, second in found["guesses"]
    )
    means = _numbers(found["means"], 2 * len(MEANS_MINUTES))
    slot, total, minutes, codes = found["season"]
    work, arrivals, dial, school, turned = found["dials"]
    up, low, held, mean, speaker = found["seen"]
    minute, peak, sum_, windows = found["minute"]
    wanted, known = found["wanted"], _numbers(found["known"], 2)
    memory = Memory(
        offered=Offered(*_numbers(found["offered"], 6)),
        minute=Minute(int(minute), float(peak), float(sum_), int(windows)),
        closed=int(found["closed"]),
        record=float(found["record"]),
        means=Means(means[: len(MEANS_MINUTES)], means[len(MEANS_MINUTES) :]),
        season=Season(_unpacked(codes, 2, WEEK_SLOTS), int(slot), float(total), int(minutes)),
        forecast=Forecast(point, most, guesses, int(found["faded"])),
        trials=Trials(
            tuple(_trial(int(found["closed"]), *one) for one in found["trials"]),
            _finite(float(work)), _finite(float(arrivals)), int(dial), int(school), int(turned),
        ),
        hold=Hold(_numbers(found["hold"], PARTS + 1)),
        idle=_idle(*found["idle"]),
        seen=Seen(Outlook(float(up), float(low), float(held)), float(mean), int(speaker)),
        since=known[0],
        known_at=known[1],
        wanted=None if wanted is None else int(wanted),
    )  # fmt: skip
    if len(memory.trials.trials) not in {0, len(DIALS)} or not 0 <= memory.trials.dial < len(DIALS):
        raise ValueError("not as many dials as there are")
    if not 0 <= memory.seen.speaker < len(NAMES):
        raise ValueError("not as many candidates as there are")
    return memory


def _trial(closed: int, ready: int, loads: Sequence[Sequence[int]], text: str) -> Trial:
    backlog, cost, late, *parts = (_finite(value) for value in _numbers(text, 3 + PARTS + 1))
    on_their_way = tuple((int(due) + closed, int(many)) for due, many in loads)
    return Trial(int(ready), on_their_way, backlog, cost, late, Hold(tuple(parts)))


def _idle(now: Sequence[Any], gaps: Sequence[Sequence[int]]) -> Idle:
    asked_at, woken_at, woken_after, busy, arrivals = now
    surprises, foreseen, followers = (_gaps(each) for each in gaps)
    if not 0 <= woken_after < GAP_BINS:
        raise ValueError("no such length of a gap")
    return Idle(
        None if asked_at is None else float(asked_at),
        surprises,
        foreseen,
        followers,
        None if woken_at is None else float(woken_at),
        int(woken_after),
        float(busy),
        float(arrivals),
    )


def _levels(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != len(NAMES):
        raise ValueError("not as many candidates as there are")
    return tuple(map(float, values))


def _gaps(values: Sequence[int]) -> tuple[int, ...]:
    if len(values) != GAP_BINS:
        raise ValueError("not as many lengths of gaps as there are")
    return tuple(map(int, values))


def _plain(outlook: Outlook) -> tuple[float, float, float]:
    return outlook.up, outlook.low, outlook.held


def _rows(values: tuple[Any, ...], width: int) -> list[tuple[Any, ...]]:
    return [values[start : start + width] for start in range(0, len(values), width)]


def _floats(values: Sequence[float]) -> str:
    """Return numbers as text, exactly."""
    return base64.b64encode(array("d", values).tobytes()).decode()


def _numbers(text: str, many: int | None = None) -> tuple[float, ...]:
    found = array("d", base64.b64decode(text, validate=True))
    if many is not None and len(found) != many:
        raise ValueError(f"{len(found)} numbers, not {many}")
    if any(math.isnan(value) for value in found):
        raise ValueError("not a number")
    return tuple(found)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("no number to count with")
    return value


_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS = [low + high for high in _DIGITS for low in _DIGITS]
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}


def _packed(values: Sequence[int], width: int) -> str:
    """Return whole numbers as text of two or three digits each, 64 to a digit; a larger one is cut off at the most."""
    most = 64**width - 1
    if width == 2:
        return "".join([_PAIRS[min(value, most)] for value in values])
    return "".join([_PAIRS[min(value, most) & 4095] + _DIGITS[min(value, most) >> 12] for value in values])


def _unpacked(text: str, width: int, many: int) -> tuple[int, ...]:
    if len(text) != many * width:
        raise ValueError(f"{len(text)} digits, not {many * width}")
    digits = [_VALUES[digit] for digit in text]
    return tuple(
        sum(digits[start + place] << (6 * place) for place in range(width))
        for start in range(0, len(digits), width)
    )
