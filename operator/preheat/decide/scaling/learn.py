"""What a window teaches: how much is wanted, what comes of guesses, which dial pays."""

import math
from collections.abc import Iterable
from dataclasses import replace

from preheat.decide.scaling.idle import SHORTEST_SECONDS, Idle, expected
from preheat.decide.scaling.levels import DAY, levels
from preheat.decide.scaling.memory import UNWATCHED_SECONDS, Memory, Seen
from preheat.decide.scaling.minutes import Minute, minute_of
from preheat.decide.scaling.policy import WATCH_SECONDS, Mode, Policy
from preheat.decide.scaling.sample import Known
from preheat.decide.scaling.trials import Outlook

MOST_GROWTH = 2.0
"""Times the most that was ever seen: no forecast goes beyond it."""
RECORD_HALVES_MINUTES = 3 * 1440.0
FLOOR_SHARE = 0.02
"""Of the day's mean, added to each candidate level; and a twentieth of a replica."""


def learnt(policy: Policy, memory: Memory, samples: Iterable[Known]) -> Memory:
    """Return the memory after these windows, oldest first. What was seen before teaches nothing."""
    for sample in sorted(samples, key=lambda sample: sample.at):
        if sample.at > memory.known_at:
            memory = _after(policy, memory, sample)
    return memory


def _after(policy: Policy, memory: Memory, sample: Known) -> Memory:
    memory = _watched_again(policy, memory, sample)
    offered, minute = memory.offered.after(sample), minute_of(sample.at)
    if 0 <= memory.minute.minute < minute and memory.closed < memory.minute.minute:
        memory = _closed(policy, memory, memory.minute)
    filling = memory.minute.after(minute, offered.mean)
    memory = replace(
        memory,
        offered=offered,
        minute=filling,
        trials=memory.trials.served(offered.mean, sample.arrivals, sample.seconds, sample.ready, policy),
        idle=_asked(policy, memory, sample),
        since=min(memory.since, sample.at - sample.seconds),
        known_at=sample.at,
    )
    return _closed(policy, memory, filling) if sample.at >= (minute + 1) * 60 else memory


def _watched_again(policy: Policy, memory: Memory, sample: Known) -> Memory:
    """Return the memory as it is when a window begins, if nobody watched before it: somebody may have asked until then.

    What was not seen was no silence. And after a load time of it nothing goes that was not watched for another.
    """
    begins = sample.at - sample.seconds
    gap = begins - memory.known_at
    if not UNWATCHED_SECONDS < gap < math.inf:
        return memory
    long = gap > max(policy.load_seconds, WATCH_SECONDS)
    return replace(
        memory,
        offered=replace(memory.offered, slots=sample.in_service),
        means=memory.means.faded(gap / 60),
        idle=replace(memory.idle, asked_at=begins),
        since=begins if long else memory.since,
    )


def _asked(policy: Policy, memory: Memory, sample: Known) -> Idle:
    """Return who asked when, after a window."""
    if not (sample.arrivals or sample.in_service or sample.queued):
        return memory.idle
    gap = memory.idle.gap_before(sample.at, sample.seconds)
    foreseen = gap >= SHORTEST_SECONDS and expected(memory.season, sample.at - policy.load_seconds, policy)
    return memory.idle.after(sample.at, sample.seconds, sample.arrivals, foreseen, policy.load_seconds)


def _closed(policy: Policy, memory: Memory, minute: Minute) -> Memory:
    """Return the memory after a minute is over."""
    now, ahead = minute.minute, policy.horizon_minutes
    gap = memory.closed >= 0 and now - memory.closed > 1
    means, season = memory.means.after(minute.mean), memory.season.after(now, minute.mean)
    forecast = memory.forecast.without_guesses() if gap else memory.forecast
    forecast = forecast.after(now, minute.peak, ahead)
    point, most = levels(means, season, now, ahead, FLOOR_SHARE * means.value(DAY) + policy.slots / 20)
    forecast = forecast.guessing(now, point, most, ahead)
    record = max(minute.peak, memory.record * 0.5 ** (1 / RECORD_HALVES_MINUTES))
    ups, speakers = forecast.point.forecasts(point, MOST_GROWTH * record)
    holds, _ = forecast.most.forecasts(most, MOST_GROWTH * record)
    trials = memory.trials.decided(minute, ups, holds, policy)
    hold = memory.hold.after(minute.peak, trials.turned != memory.trials.turned)
    if policy.mode is Mode.PREDICTIVE:
        outlook = trials.outlook(minute.peak, ups, policy)
    else:
        outlook = Outlook(minute.peak, minute.peak, hold.most)
    return replace(
        memory,
        closed=now,
        record=record,
        means=means,
        season=season,
        forecast=forecast,
        trials=trials,
        hold=hold,
        seen=Seen(outlook, minute.mean, speakers[trials.dial]),
    )
