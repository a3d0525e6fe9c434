"""What the days before this deployment was looked after teach: the shape of a week, and whose guesses were good in it.

Their windows are ten minutes long, as long as the season's slots: so the season is filled in where it knows nothing.
Then the candidates of the forecast guess at each slot from those before it, and who was close has a say from the
beginning. Else nobody would speak for the time of day before a whole morning was lived through.

What needs finer windows is not taken from them but learnt from what is seen: how high a minute's peaks are above what
is guessed, how careful to be, how long nobody asked, and whether enough was watched for something to go.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from preheat.decide.scaling.forecast import LOSS_HALVES_MINUTES, Forecast
from preheat.decide.scaling.learn import FLOOR_SHARE, RECORD_HALVES_MINUTES
from preheat.decide.scaling.levels import DAY, Levels, Means, levels
from preheat.decide.scaling.memory import Memory
from preheat.decide.scaling.minutes import minute_of
from preheat.decide.scaling.offered import Offered
from preheat.decide.scaling.policy import Policy
from preheat.decide.scaling.sample import Known
from preheat.decide.scaling.season import DAY_SLOTS, SLOT_MINUTES, Season

MISSING_SLOTS = DAY_SLOTS
"""With a day of the last week unknown, the past is worth a question."""


def misses_past(memory: Memory, now: float) -> bool:
    """Tell whether the memory lacks so much of the last week that somebody else should be asked for it."""
    return memory.season.unknown(_slot(now)) >= MISSING_SLOTS


def with_past(policy: Policy, memory: Memory, windows: Iterable[Known], now: float) -> tuple[Memory, int]:
    """Return the memory with what it does not know of the last week, and of how many slots that is.

    ``windows``: one for each slot, oldest first; what was wanted in each is replayed as it is for any other window.
    """
    means = _wanted(windows)
    if not means:  # as in nearly every pass: a look at all slots takes a tenth of a millisecond
        return memory, 0
    before = memory.season.unknown(_slot(now))
    season = memory.season.filled(means, _slot(now))
    learnt = before - season.unknown(_slot(now))
    if not learnt:
        return memory, 0
    ages = {slot: max(0.0, now / 60 - (slot + 1) * SLOT_MINUTES) for slot in means}
    peaks = (mean * 0.5 ** (ages[slot] / RECORD_HALVES_MINUTES) for slot, mean in means.items())
    forecast = memory.forecast
    if not forecast.point.has_speakers:
        forecast = _judged(policy, forecast, means)
    return replace(memory, season=season, record=max(memory.record, *peaks), forecast=forecast), learnt


def _wanted(windows: Iterable[Known]) -> Mapping[int, float]:
    """Return the mean that was wanted in each slot, in slots of a replica."""
    offered, means = Offered(), dict[int, float]()
    for window in windows:
        if offered.ended <= 0 and window.service_seconds is None and window.arrivals:
            continue  # nobody knows yet how long a request takes
        if window.at - window.seconds > offered.at:
            offered = replace(offered, slots=window.in_service)
        offered = offered.after(window)
        means[minute_of(window.at) // SLOT_MINUTES] = offered.mean
    return means


def _judged(policy: Policy, forecast: Forecast, wanted: Mapping[int, float]) -> Forecast:
    """Return the forecast with what each candidate's guesses would have been worth, one at the end of each slot."""
    means, season, ahead = Means(), Season(), policy.horizon_minutes
    point, most = forecast.point, forecast.most
    keep = 0.5 ** (SLOT_MINUTES / LOSS_HALVES_MINUTES)
    guesses: dict[int, tuple[Levels, Levels]] = {}
    for slot, mean in sorted(wanted.items()):
        for minute in range(slot * SLOT_MINUTES, (slot + 1) * SLOT_MINUTES):
            means, season = means.after(mean), season.after(minute, mean)
        last = (slot + 1) * SLOT_MINUTES - 1
        floor = FLOOR_SHARE * means.value(DAY) + policy.slots / 20
        guesses[last] = levels(means, season, last, ahead, floor)
        guessed = next((end for end in guesses if (end + ahead) // SLOT_MINUTES == slot), None)
        if guessed is None:
            continue
        for_then, until_then = guesses.pop(guessed)
        came = [wanted.get(each) for each in range(guessed // SLOT_MINUTES + 1, slot + 1)]
        known = [each for each in came if each is not None]
        if len(known) == len(came):
            point = point.judged(for_then, mean, keep)
            most = most.judged(until_then, max(known), keep)
    return replace(forecast, point=point, most=most)


def _slot(now: float) -> int:
    """Return the slot that fills now."""
    return int(now // 60) // SLOT_MINUTES
