"""How many replicas there should be: the rules, in the order in which they count."""

import math
from collections.abc import Sequence
from dataclasses import replace

from preheat.decide.scaling import explain, flight, schedule
from preheat.decide.scaling.backlog import extra_replicas, projected, wait_seconds
from preheat.decide.scaling.idle import expected
from preheat.decide.scaling.learn import learnt
from preheat.decide.scaling.memory import Memory
from preheat.decide.scaling.policy import HEADS_UP_SECONDS, WATCH_SECONDS, Mode, Policy
from preheat.decide.scaling.recommendation import Alternative, Choice, Reason, Recommendation
from preheat.decide.scaling.sample import Known, Sample

STALE_SECONDS = 90.0
"""What was seen longer ago says nothing of now."""
FUTURE_SECONDS = 86_400.0
LOOK_AGAIN_SECONDS = 15.0


def recommend(
    policy: Policy, samples: Sequence[Sample], memory: Memory, now: float
) -> tuple[Recommendation, Memory]:
    """Return how many replicas there should be, and what to remember.

    ``samples``: those that came since the last call, oldest first; none is as good as unknown. ``now``: Unix seconds.
    """
    believed = [one for one in samples if one.at <= now + STALE_SECONDS]
    known = [seen for one in believed if (seen := one.known()) is not None]
    memory = learnt(policy, _of_now(memory, now), known)
    last = max(samples, key=lambda sample: sample.at, default=None)
    seen = last.known() if last is not None and last.at <= now + STALE_SECONDS else None
    if seen is None or not -STALE_SECONDS <= now - memory.known_at <= STALE_SECONDS:
        choice = _unknown(policy, last, memory, now)
        if choice.replicas == 0 and seen is not None and (seen.arrivals or seen.queued):
            # Whatever the clock says: who comes is not left to wait until it has caught up.
            choice = Choice(policy.bounded(1), Reason.WAKING)
    elif not memory.has_outlook(seen.at - seen.seconds) and (seen.replicas or not seen.queued):
        choice = _begun(policy, seen, memory, now)
    else:
        choice = _bounded(policy, seen, now, _chosen(policy, seen, memory, now))
    found = explain.recommendation(policy, last, seen, memory, now, choice, LOOK_AGAIN_SECONDS)
    return found, replace(memory, wanted=choice.replicas)


def _of_now(memory: Memory, now: float) -> Memory:
    """Return a memory that is not of a future: while a clock that went back catches up, nothing can be learnt.

    For up to a day that is waited for. Beyond, the clock was wrong then, and what it said is forgotten.
    """
    return Memory(wanted=memory.wanted) if memory.known_at > now + FUTURE_SECONDS else memory


def _unknown(policy: Policy, last: Sample | Known | None, memory: Memory, now: float) -> Choice:
    """Nothing moves but for the schedule: what was asked for stays asked for, else what is there stays."""
    there = policy.min_replicas if last is None else last.replicas
    held = there if memory.wanted is None else memory.wanted
    asked = _scheduled(policy, now)
    reason = Reason.SCHEDULED if asked and asked >= held else Reason.UNKNOWN
    return Choice(policy.bounded(max(held, asked)), reason)


def _begun(policy: Policy, last: Known, memory: Memory, now: float) -> Choice:
    """Return what the first minute has shown to be wanted so far, where that is more than what holds. Nothing else moves.

    It is the first of all, or the first after a time in which nobody watched: the outlook of before that is not of now.
    When that minute is over, no forecast is below its peak: what is asked for here would only be asked for later.
    """
    holds, peak = _unknown(policy, last, memory, now), memory.minute.peak
    why = Alternative(last.replicas, explain.too_few(policy, peak))
    risen = _bounded(policy, last, now, Choice(policy.replicas_for(peak), Reason.DEMAND_RISES, why))
    return risen if risen.replicas > max(holds.replicas, last.replicas) else holds


def _chosen(policy: Policy, last: Known, memory: Memory, now: float) -> Choice:
    """Return what the demand asks for, without looking at bounds."""
    return (
        _asleep(policy, last, memory, now)
        or _woken(policy, last, memory)
        or _drained(policy, last, memory)
        or _risen(policy, last, memory)
        or _kept(policy, last, memory, now)
    )


def _woken(policy: Policy, last: Known, memory: Memory) -> Choice | None:
    """Return how many to begin with where there is none."""
    if last.replicas:
        return None
    wanted = max(memory.seen.outlook.up, memory.offered.mean)
    return Choice(max(1, policy.replicas_for(wanted)), Reason.WAKING)


def _drained(policy: Policy, last: Known, memory: Memory) -> Choice | None:
    """Return how many bring down a queue in which requests are late, if those that are there do not."""
    offered = memory.offered
    wait = wait_seconds(last.queued, offered.service_seconds, last.ready, policy.slots)
    if wait <= policy.late_seconds:
        return None
    need = max(memory.seen.outlook.up, offered.mean) / policy.slots
    lasting = min(memory.seen.mean, offered.mean)
    backlog = projected(policy, last, lasting, offered.service_seconds)
    upper = math.ceil(need + extra_replicas(policy, need, backlog) - 1e-9)
    if upper <= last.replicas:
        return None
    return Choice(
        upper, Reason.DRAINING_BACKLOG, Alternative(last.replicas, explain.waits(policy, last, wait))
    )


def _risen(policy: Policy, last: Known, memory: Memory) -> Choice | None:
    """Return how many are wanted now or will be when they are ready, if those that are there are too few."""
    have, outlook = last.replicas, memory.seen.outlook
    upper = policy.replicas_for(outlook.up)
    if have * policy.slots >= outlook.low or upper <= have:
        return None
    rises = max(memory.seen.mean, memory.minute.peak) >= outlook.up - 1e-9
    reason = Reason.DEMAND_RISES if rises else Reason.FORECAST_RISES
    return Choice(upper, reason, Alternative(have, explain.too_few(policy, outlook.up)))


def _kept(policy: Policy, last: Known, memory: Memory, now: float) -> Choice:
    """Return how many of those that are there are kept: not fewer than the last and the next load time want."""
    have, outlook = last.replicas, memory.seen.outlook
    least = max(1, policy.replicas_for(max(outlook.held, outlook.low)))
    if least >= have:
        enough = max(1, policy.replicas_for(memory.offered.mean))
        if enough >= have:
            return Choice(have, Reason.STEADY)
        return Choice(have, Reason.HOLDING, Alternative(enough, explain.wanted_again(policy, outlook.held)))
    watched = now - memory.since
    if watched < max(policy.load_seconds, WATCH_SECONDS):
        return Choice(have, Reason.HOLDING, Alternative(least, explain.just_begun(watched)))
    if last.queued:
        return Choice(have, Reason.HOLDING, Alternative(least, explain.still_waiting(last)))
    fewest = flight.fewest(policy, last)
    if fewest > least:
        return Choice(min(have, fewest), Reason.HOLDING, Alternative(least, explain.loads_under_way(last)))
    return Choice(least, Reason.DEMAND_FALLS, Alternative(have, explain.too_many(policy, outlook.held)))


def _asleep(policy: Policy, last: Known, memory: Memory, now: float) -> Choice | None:
    """Return what a deployment does of which nobody wants anything; None when somebody does, or may soon."""
    if policy.min_replicas or last.queued or last.arrivals or last.in_service:
        return None
    asked_at = memory.since if memory.idle.asked_at is None else memory.idle.asked_at
    idle, keep = now - asked_at, memory.idle.keep_alive_seconds(policy.load_seconds)
    if policy.mode is Mode.PREDICTIVE and expected(memory.season, now, policy):
        return _prewarmed(policy, last, memory)
    if last.replicas == 0:
        return Choice(0, Reason.IDLE)
    return None if idle <= keep else _put_to_sleep(policy, last, idle, keep, now)


def _put_to_sleep(policy: Policy, last: Known, idle: float, keep: float, now: float) -> Choice | None:
    """Return what becomes of replicas that nobody has asked for longer than one is kept."""
    if now < policy.keep_until:
        why = Alternative(0, explain.told_to_come(policy.keep_until - now))
        return Choice(1, Reason.HOLDING, why) if last.replicas == 1 else None
    fewest = flight.fewest(policy, last)
    if fewest > 0:
        return Choice(fewest, Reason.HOLDING, Alternative(0, explain.loads_under_way(last)))
    return Choice(0, Reason.IDLE, Alternative(1, explain.nobody_asks(idle, keep)))


def _prewarmed(policy: Policy, last: Known, memory: Memory) -> Choice | None:
    """Return how many are there before somebody asks; None when they are."""
    if last.replicas:
        return None
    many = max(1, policy.replicas_for(memory.seen.outlook.up))
    return Choice(many, Reason.PREWARMING, Alternative(0, explain.usually_asks(policy)))


def _bounded(policy: Policy, last: Known, now: float, choice: Choice) -> Choice:
    """Return the choice within the schedule, the bounds and what the cluster has."""
    scheduled = _scheduled(policy, now)
    least = min(policy.max_replicas, max(policy.min_replicas, scheduled))
    if choice.replicas > policy.max_replicas:
        choice = Choice(
            policy.max_replicas, Reason.AT_BUDGET, Alternative(choice.replicas, explain.over_budget(policy))
        )
    elif choice.replicas < least:
        reason = Reason.SCHEDULED if scheduled > policy.min_replicas else Reason.AT_MINIMUM
        choice = Choice(
            least, reason, Alternative(choice.replicas, explain.below_floor(policy, least, reason))
        )
    under_way = sum(math.isfinite(eta) for eta in last.loading)
    obtainable = None if last.available is None else max(last.available, last.ready + under_way)
    if obtainable is not None and choice.replicas > obtainable:
        return Choice(
            obtainable, Reason.STOCK_OUT, Alternative(choice.replicas, explain.no_gpus(last, choice.replicas))
        )
    return choice


def _scheduled(policy: Policy, now: float) -> int:
    return schedule.floor(policy.schedules, now, policy.load.p90 + HEADS_UP_SECONDS)
