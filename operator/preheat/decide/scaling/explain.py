"""Why: one sentence with the numbers that decided, and one for the number that was not taken."""

import math

from preheat.decide import text
from preheat.decide.scaling.levels import NAMES
from preheat.decide.scaling.memory import Memory
from preheat.decide.scaling.policy import Mode, Policy
from preheat.decide.scaling.recommendation import Choice, Reason, Recommendation
from preheat.decide.scaling.sample import Known, Sample


def recommendation(
    policy: Policy,
    last: Sample | None,
    known: Known | None,
    memory: Memory,
    now: float,
    choice: Choice,
    look_again_seconds: float,
) -> Recommendation:
    """Return a choice with its explanation. ``known``: ``last``, where it says how much was wanted."""
    return Recommendation(
        choice.replicas,
        choice.reason,
        _sentence(policy, known, memory, now, choice),
        _inputs(policy, last, memory),
        choice.rejected,
        look_again_seconds,
    )


def _sentence(policy: Policy, last: Known | None, memory: Memory, now: float, choice: Choice) -> str:
    """Return why, with numbers and units."""
    wanted = f"{_slots(memory.offered.mean)} wanted now"
    if last is None or choice.reason is Reason.UNKNOWN:
        return f"keeps {_replicas(choice.replicas)}: {_not_known(last, memory, now, wanted)}"
    outlook, load = memory.seen.outlook, text.duration(policy.load_seconds)
    there = _there(last)
    forecast = f"at most {_slots(outlook.up)} forecast for in {load}"
    if policy.mode is Mode.PREDICTIVE:
        forecast += f" ({100 * memory.trials.quantile(policy):.3g} % sure, from {NAMES[memory.seen.speaker]})"
    held = f"up to {_slots(outlook.held)} within a load time of {load}"
    number = _replicas(choice.replicas)
    enough = "is" if choice.replicas == 1 else "are"
    wake = "somebody asks" if last.queued else "replicas are wanted"
    sentences = {
        Reason.FORECAST_RISES: f"{number} for {forecast}; {there}, {wanted}",
        Reason.DEMAND_RISES: f"{number} for {wanted}; {there}, and a load takes {load}",
        Reason.DRAINING_BACKLOG: f"{number} for {wanted} and {last.queued:.0f} waiting; {there}",
        Reason.HOLDING: f"keeps {number}: {wanted}, {held}; {there}",
        Reason.STEADY: f"keeps {number}: {wanted}, {forecast}; {there}",
        Reason.DEMAND_FALLS: f"{number} {enough} enough for {held}; {there}, {wanted}",
        Reason.IDLE: f"{number}: nobody has asked for {_idle(memory, now)}, and nobody is expected within {load}",
        Reason.WAKING: f"{number}: {wake}, and there is none; a load takes {load}",
        Reason.PREWARMING: f"{number}: at this time of day somebody asks, and a load takes {load}",
        Reason.SCHEDULED: f"{number} by the schedule; {wanted}, {there}",
        Reason.AT_MINIMUM: f"{number}, the least that minReplicas allows; {wanted}, {there}",
        Reason.AT_BUDGET: f"{number}, the most that maxReplicas allows; {wanted}, {forecast}, {there}",
        Reason.STOCK_OUT: f"{number}, as many as there are GPUs for; {wanted}, {forecast}, {there}",
    }
    return sentences[choice.reason]


def _not_known(last: Known | None, memory: Memory, now: float, wanted: str) -> str:
    """Say what is missing."""
    age = now - memory.known_at
    if last is not None and not memory.has_outlook(last.at - last.seconds) and last.at == memory.known_at:
        return f"{wanted}, and nothing is forecast before a whole minute was seen"
    since = f"for {text.duration(age)}" if 0 <= age < math.inf else "yet"
    return f"it has not been seen {since} how much is wanted"


def waits(policy: Policy, last: Known, wait_seconds: float) -> str:
    """Say why the replicas that are there do not do."""
    wait = (
        f"would wait {text.duration(wait_seconds)}"
        if math.isfinite(wait_seconds)
        else "have no replica to wait for"
    )
    return f"{last.queued:.0f} requests {wait}; more than {text.duration(policy.late_seconds)} is late"


def too_few(policy: Policy, slots: float) -> str:
    """Say why the replicas that are there do not do."""
    return f"{_slots(slots)} need {_replicas(policy.replicas_for(slots))} of {policy.slots:g} slots"


def wanted_again(policy: Policy, held: float) -> str:
    """Say why what is enough now is too few."""
    return f"up to {_slots(held)} may be wanted before a replica could be back in {text.duration(policy.load_seconds)}"


def just_begun(watched_seconds: float) -> str:
    """Say why nothing goes."""
    return f"nobody knows yet what comes: it has been watched for {text.duration(watched_seconds)} only"


def still_waiting(last: Known) -> str:
    """Say why nothing goes."""
    return f"{last.queued:.0f} requests still wait"


def loads_under_way(last: Known) -> str:
    """Say why nothing goes."""
    finite = [eta for eta in last.loading if math.isfinite(eta)]
    soonest = f", the first is ready in {text.duration(min(finite))}" if finite else ""
    return f"a smaller number would give up loads that are under way ({len(last.loading)}{soonest})"


def too_many(policy: Policy, held: float) -> str:
    """Say why not all stay."""
    return (
        f"no more than {_slots(held)} are expected within {text.duration(policy.load_seconds)}, "
        f"the time to bring one back"
    )


def usually_asks(policy: Policy) -> str:
    """Say why it does not sleep on."""
    return f"the first to ask would wait {text.duration(policy.load_seconds)}"


def nobody_asks(idle_seconds: float, keep_seconds: float) -> str:
    """Say why the last one does not stay."""
    return f"idle for {text.duration(idle_seconds)}; it is kept for {text.duration(keep_seconds)}"


def told_to_come(left_seconds: float) -> str:
    """Say why the last one stays."""
    return f"who was turned away while there was none was told when to come again, and may come within {text.duration(left_seconds)}"


def over_budget(policy: Policy) -> str:
    """Say why not as many as are wanted."""
    return f"maxReplicas is {policy.max_replicas}: raise it to allow more"


def below_floor(policy: Policy, least: int, reason: Reason) -> str:
    """Say why not as few as would do."""
    if reason is Reason.SCHEDULED:
        return f"a window of the schedule asks for {least}"
    return f"minReplicas is {policy.min_replicas}"


def no_gpus(last: Known, wanted: int) -> str:
    """Say why not as many as are wanted."""
    return f"the cluster has GPUs for {last.available}; {wanted} are asked for as soon as it has more"


def _inputs(policy: Policy, last: Sample | None, memory: Memory) -> dict[str, float]:
    """Return everything that was looked at; what is not known is not in it."""
    outlook = memory.seen.outlook
    found: dict[str, float | None] = {
        "demand_slots": memory.offered.mean,
        "last_minute_slots": memory.seen.mean,
        "forecast_slots": outlook.up,
        "forecast_band_slots": outlook.low,
        "hold_slots": outlook.held,
        "quantile": memory.trials.quantile(policy) if policy.mode is Mode.PREDICTIVE else None,
        "service_seconds": memory.offered.service_seconds,
        "load_seconds": policy.load_seconds,
        "slots_per_replica": policy.slots,
    }
    if last is not None:
        found |= {
            "ready": last.ready,
            "loading": len(last.loading),
            "queued": last.queued,
            "available": last.available,
        }
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _there(last: Known) -> str:
    loading = f", {len(last.loading)} loading" if last.loading else ""
    return f"{last.ready} ready{loading}"


def _idle(memory: Memory, now: float) -> str:
    asked_at = memory.since if memory.idle.asked_at is None else memory.idle.asked_at
    return text.duration(now - asked_at)


def _replicas(many: int) -> str:
    return f"{many} replica{'' if many == 1 else 's'}"


def _slots(slots: float) -> str:
    return f"{slots:.3g} slots"
