"""The number of replicas of one LLMDeployment, where Preheat decides it: from what was seen to what is told.

``scaling`` is the policy and knows numbers alone. Here they come from the cluster and go back to it:

    readings of two times -> a sample; spec.scaling and observed loads -> a policy; both and the memory -> a number

The number that holds is in ``status.scaling``, the policy's memory in a ControllerRevision of its own, so a restart
loses neither. Neither is written for its own sake more often than every ``KEEP_SECONDS``: what is decided is written
when the number changes, and then all of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from preheat.api.llmdeployment import (
    Day,
    LLMDeployment,
    ScalingDecision,
    ScalingStatus,
    ScheduleSpec,
    StorageTier,
)
from preheat.decide import loads, scraped, signals
from preheat.decide.capacity import Shortage
from preheat.decide.loads import Expected
from preheat.decide.observed import PodView
from preheat.decide.plan import timestamp
from preheat.decide.scaling import (
    Known,
    LoadTime,
    Memory,
    Mode,
    Policy,
    Reason,
    Recommendation,
    Sample,
    Window,
    recommend,
)
from preheat.decide.scaling.flight import JUST_BEGUN
from preheat.decide.scaling.past import with_past
from preheat.decide.scaling.policy import HEADS_UP_SECONDS
from preheat.decide.scaling.schedule import floor
from preheat.decide.scaling.season import WEEK_SLOTS
from preheat.decide.signals import Look

ASK_SECONDS = 15.0
"""How often agents are asked how much their model is asked."""
KEEP_SECONDS = 600.0
"""How often what is known is written for its own sake, at most."""
BLIND_SECONDS = 60.0
"""Without signals for longer, it is told."""
DECISIONS = 10
INPUTS = 48
SLOTS = 8
"""Requests that one replica serves at once, where nobody says."""
LATE_SECONDS = 10.0
FORECASTS = ("forecast_slots", "hold_slots")
"""The inputs of a recommendation that say how many requests at once are expected within one load time."""
GROWS_SECONDS = 60.0
"""How often a forecast that grows is told, at most: nodes get the weights by it."""
COME_AGAIN_SHARE, COME_AGAIN_SECONDS = 1.1, 60.0
"""Who is turned away at zero is told to come again after a load's 90 % quantile, rounded up by a tenth at most
(``decide/front.py``), and a moment. Until he was seen there is another one: clients are late, and looks 15 s apart."""
_WORDS = 512


@dataclass(frozen=True, slots=True)
class Stored:
    """The policy's memory as it lies in the cluster."""

    text: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class ScalingObservation:
    """What is known of one LLMDeployment's scaling, from this pass and from those before it."""

    look: Look | None
    """What agents told in this pass, None when they were not asked: it is not time yet."""
    before: Look | None
    """What they told last."""
    memory: Memory
    decided: ScalingStatus | None
    """What holds. None: nothing was decided yet."""
    stored: Stored | None = None
    told_at: datetime | None = None
    """When ``decided`` last changed in the status, or since when this process knows of it."""
    blind_since: datetime | None = None
    """Since when nothing is known of what is asked."""
    scraped_since: datetime | None = None
    """Since when a Prometheus tells what is asked, because too few agents do."""
    come_again_at: float | None = None
    """Until when somebody may come again whom the front turned away, Unix seconds."""
    past: tuple[Known, ...] | None = None
    """What a Prometheus has of the last week, in the pass after it was asked."""
    next_look_seconds: float = ASK_SECONDS
    """In how many seconds agents are to be asked again."""
    available: int | None = None
    """The most replicas that the GPUs allow, as far as is known."""
    shortage: Shortage | None = None


@dataclass(frozen=True, slots=True)
class NextLoad:
    """What the next replica would load, on what, and how near its weights are."""

    revision: str
    gpu_type: str
    tier: StorageTier
    total_bytes: int | None
    """None while nobody knows the model's size."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided, and what the next pass has to know."""

    status: ScalingStatus
    """What holds now, as it is told."""
    memory: Memory
    keep: str | None
    """The policy's memory, when it is to be written."""
    told_at: datetime | None
    blind_since: datetime | None
    load: Expected
    policy: Policy
    window: signals.Window | None = None
    """What was measured in this pass, for metrics."""
    said: Recommendation | None = None
    """What the policy said in this pass."""
    scraped_since: datetime | None = None
    come_again_at: float | None = None
    """Until when somebody may come again whom the front turned away, Unix seconds."""
    learnt_slots: int = 0
    """Ten minutes of the last week that this pass learnt of a Prometheus."""
    skipped: str | None = None
    """Which schedules cannot be followed and why, in words; None where all are."""

    @property
    def replicas(self) -> int:
        """How many replicas there should be."""
        return self.status.wanted_replicas

    def is_blind(self, now: datetime) -> bool:
        """Tell whether signals have been missing for so long that somebody should know."""
        return self.blind_since is not None and _is_due(self.blind_since, now, BLIND_SECONDS)

    def is_scraped(self, now: datetime) -> bool:
        """Tell whether a Prometheus has stood in for the agents for so long that somebody should know."""
        return self.scraped_since is not None and _is_due(self.scraped_since, now, BLIND_SECONDS)


def decide_scaling(
    service: LLMDeployment,
    seen: ScalingObservation,
    pods: Sequence[PodView],
    next_load: NextLoad,
    now: datetime,
) -> Outcome:
    """Return how many replicas there should be now. What is not known moves nothing, but for a schedule.

    ``pods``: the live ones of every revision.
    """
    load = loads.expected(
        service.status.load_times,
        next_load.revision,
        next_load.gpu_type,
        next_load.tier,
        next_load.total_bytes,
    )
    come_again_at = _come_again_at(seen, load, now)
    policy = make_policy(service, load, slots_of(service, seen.look), now)
    if come_again_at is not None:
        policy = replace(policy, keep_until=come_again_at)
    holds = policy_bounded(policy, seen.decided.wanted_replicas if seen.decided else _begin(service))
    status, memory = _held(service, seen.decided, holds, now), seen.memory
    memory, learnt = with_past(policy, memory, seen.past or (), now.timestamp())
    window, said, blind_since, scraped_since = None, None, seen.blind_since, seen.scraped_since
    if seen.look is not None:
        ready = sum(pod.ready for pod in pods)
        near = next_load.tier is not StorageTier.COLD
        loading = _loading(holds - ready, pods, load, now, weights_there=near)
        window = _window(seen, seen.look, loading)
        sample = _as_wanted(window.sample, holds, ready, seen, policy)
        if seen.decided is None:  # somebody else decided until now
            memory = replace(memory, wanted=None)
        said, memory = recommend(policy, [sample], memory, now.timestamp())
        counts = what_counts(policy, sample, said, holds, now.timestamp())
        if counts is not None:
            status = _told(status, counts, policy, seen, now)
        blind_since = _blind_since(seen, sample, now)
        scraped_since = _scraped_since(seen, window, now)
    status = _with_learnt(status, seen.decided, learnt, now)
    moved = seen.decided is None or status.wanted_replicas != seen.decided.wanted_replicas
    return Outcome(
        status=status,
        memory=memory,
        keep=_to_keep(memory, seen.stored, now, moved=moved or learnt > 0) if said or learnt else None,
        told_at=now if status != seen.decided else seen.told_at,
        blind_since=blind_since,
        load=load,
        policy=policy,
        window=window,
        said=said,
        scraped_since=scraped_since,
        come_again_at=come_again_at,
        learnt_slots=learnt,
        skipped=skipped_schedules(service),
    )


def _window(seen: ScalingObservation, look: Look, loading: tuple[float, ...]) -> signals.Window:
    """Return what the agents tell of a window, or what a Prometheus has of it where that was asked and knows more."""
    told = signals.window(seen.before, look, loading, seen.available)
    if not look.scrapes:
        return told
    left = len(seen.before.pods - look.pods) if seen.before is not None else 0
    known_at = seen.memory.known_at
    return scraped.window(look.pods, left, look.scrapes, look.at, known_at, loading, seen.available) or told


def what_counts(
    policy: Policy, sample: Sample, said: Recommendation, holds: int, now: float
) -> Recommendation | None:
    """Return what the number goes by: what the policy says of a known window, else a schedule that asks for more than holds.

    None: nothing moves. ``now``: Unix seconds.
    """
    if sample.is_known:
        return said
    scheduled = floor(policy.schedules, now, policy.load.p90 + HEADS_UP_SECONDS)
    return _by_schedule(said, scheduled) if policy_bounded(policy, scheduled) > holds else None


def _by_schedule(said: Recommendation, scheduled: int) -> Recommendation:
    """Return what a schedule asks for, whatever is known."""
    words = f"a schedule asks for {scheduled}, though it is not known how much is wanted"
    return replace(said, replicas=scheduled, reason=Reason.SCHEDULED, message=words, rejected=None)


def _as_wanted(sample: Sample, holds: int, ready: int, seen: ScalingObservation, policy: Policy) -> Sample:
    """Return a sample by the number that holds, with those that the front turned away.

    More than that are there for a moment only: they leave, or a rollout's new ones take their places. While none is
    there, who comes is counted by the front, and not known where it does not tell. Where there is no front and none is
    wanted, nobody is asked anything: what comes is refused by the Service and seen by nobody.
    """
    came = _came_to_front(seen, policy)
    if ready:
        more = came or 0.0
        arrivals = None if sample.arrivals is None else sample.arrivals + more
        return replace(sample, ready=min(ready, holds), arrivals=arrivals)
    if not _is_fronted(seen):
        return replace(sample, ready=0, arrivals=0.0, in_service=0.0, queued=0.0) if holds == 0 else sample
    if came is None or (holds and seen.before is not None and seen.before.pods):
        # In a window in which the last replica was lost, nobody knows how much it was asked.
        return replace(sample, ready=0, arrivals=None, in_service=None, queued=None)
    return replace(sample, ready=0, arrivals=came, in_service=0.0, queued=0.0)


def _is_fronted(seen: ScalingObservation) -> bool:
    return seen.look is not None and seen.look.fronted


def _came_to_front(seen: ScalingObservation, policy: Policy) -> float | None:
    """Return how many arrivals the front's count stands for, None where it does not tell.

    At most as many as keep one replica busy: who is turned away comes again, and nobody knows who is who.
    """
    look, before = seen.look, seen.before
    if look is None or look.turned_away is None or before is None:
        return None
    service = max(1.0, seen.memory.offered.service_seconds)
    return min(look.turned_away, policy.slots * min(1.0, max(0.0, look.at - before.at) / service))


def _come_again_at(seen: ScalingObservation, load: Expected, now: datetime) -> float | None:
    """Return until when somebody may come again who was told to, None when nobody was turned away, or long ago."""
    latest = now.timestamp() + COME_AGAIN_SHARE * load.p90_seconds + COME_AGAIN_SECONDS
    if seen.look is not None and seen.look.turned_away:
        return latest
    told = seen.come_again_at
    return min(told, latest) if told is not None and told > now.timestamp() else None


def make_policy(service: LLMDeployment, load: Expected, slots: float, now: datetime) -> Policy:
    """Return what the policy has to know of an LLMDeployment. A schedule in a time zone that nobody knows is no part of it."""
    scaling = service.spec.scaling
    least = scaling.min_replicas if scaling.scale_to_zero else max(1, scaling.min_replicas)
    return Policy(
        min_replicas=min(least, scaling.max_replicas),
        max_replicas=scaling.max_replicas,
        slots=slots,
        load=LoadTime(load.p50_seconds, load.p90_seconds),
        late_seconds=float(scaling.late_after_seconds or LATE_SECONDS),
        mode=Mode(scaling.mode.value),
        schedules=tuple(
            _in_utc(schedule, zone, now)
            for schedule in scaling.schedules
            if (zone := _zone(schedule.time_zone)) is not None
        ),
    )


def skipped_schedules(service: LLMDeployment) -> str | None:
    """Say which schedules are skipped, as nobody knows their time zone: None where there is none such.

    The schema cannot know all zones: a name is mistyped, or newer than the database that the operator has.
    """
    named = dict.fromkeys(schedule.time_zone for schedule in service.spec.scaling.schedules)
    unknown = [repr(name) for name in named if _zone(name) is None]
    if not unknown:
        return None
    return (
        f"`scaling.schedules`: nobody knows the time zone {' or '.join(unknown)}: name one as the IANA database has "
        "it, for example Europe/Berlin or UTC"
    )


def policy_bounded(policy: Policy, replicas: int) -> int:
    """Return a number of replicas within the bounds."""
    return max(policy.min_replicas, min(policy.max_replicas, replicas))


_DAYS = tuple(Day)


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _in_utc(schedule: ScheduleSpec, zone: ZoneInfo, now: datetime) -> Window:
    """Return a schedule's window as minutes of the day in UTC, as they are the time that it holds now or will hold next."""
    begins, ends = _occurrence(schedule, zone, now)
    start = _minutes(schedule.start) - _ahead(begins)
    # A night in which clocks go back may make a day of more than 24 hours.
    longer = (ends.astimezone(UTC) - begins.astimezone(UTC)).total_seconds() >= 60 * _DAY_MINUTES
    end = _minutes(schedule.end) - _ahead(begins if longer else ends)
    shift = start // _DAY_MINUTES
    return Window(
        from_minute=start % _DAY_MINUTES,
        to_minute=end % _DAY_MINUTES,
        replicas=schedule.min_replicas,
        weekdays=tuple(sorted((_DAYS.index(day) + shift) % 7 for day in schedule.days)),
    )


def _occurrence(schedule: ScheduleSpec, zone: ZoneInfo, now: datetime) -> tuple[datetime, datetime]:
    """Return from when to when it holds: the first time that is not over, on whatever day of the week."""
    start, end = time.fromisoformat(schedule.start), time.fromisoformat(schedule.end)
    day = now.astimezone(zone).date() - timedelta(days=1)
    while True:
        ends = datetime.combine(day + timedelta(days=end <= start), end, zone)
        if ends.astimezone(UTC) > now:
            return datetime.combine(day, start, zone), ends
        day += timedelta(days=1)


def _ahead(at: datetime) -> int:
    """Return by how many minutes a zone is ahead of UTC."""
    return round((at.utcoffset() or timedelta()).total_seconds() / 60)


_DAY_MINUTES = 1440


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return 60 * int(hours) + int(minutes)


def _begin(service: LLMDeployment) -> int:
    """Return the number to begin with: what was wanted so far, or what a new object asks for."""
    before = service.status.desired_replicas
    return service.spec.replicas if before is None else before


def slots_of(service: LLMDeployment, look: Look | None) -> float:
    """Return how many requests one replica serves at once: as the spec says, or as its engine does."""
    asked = service.spec.scaling.target_concurrency or service.spec.model.max_batch_size
    told = [r.slots for r in look.readings.values() if r.slots] if look is not None else []
    if look is not None and look.scrapes:
        told += scraped.slots(look.scrapes)
    return float(asked or min(told, default=SLOTS))


def _loading(
    count: int, pods: Sequence[PodView], load: Expected, now: datetime, *, weights_there: bool
) -> tuple[float, ...]:
    """Return when the replicas that are still missing are expected: pods on their way, and those not made yet."""
    left = sorted(_left(pod, load, now, weights_there=weights_there) for pod in pods if not pod.ready)
    return tuple((left + [load.p50_seconds] * max(0, count))[: max(0, count)])


def _left(pod: PodView, load: Expected, now: datetime, *, weights_there: bool) -> float:
    """Return in how many seconds a pod is expected to be ready.

    One that takes longer than loads were thought to take has not just begun for that: what it did is not thrown away.
    """
    left = loads.remaining(pod, load.phases, now, weights_there=weights_there)
    begun = pod.scheduled_at
    under_way = begun is not None and (now - begun).total_seconds() > JUST_BEGUN * load.p50_seconds
    return min(left, (1 - 2 * JUST_BEGUN) * load.p50_seconds) if under_way and math.isfinite(left) else left


def _held(service: LLMDeployment, decided: ScalingStatus | None, holds: int, now: datetime) -> ScalingStatus:
    """Return what is told when nothing new was measured: what was decided, within the bounds of the spec."""
    mode = service.spec.scaling.mode
    if decided is None:
        words = f"Begins with {holds}: nothing was measured yet."
        return ScalingStatus(mode=mode, wanted_replicas=holds, reason="Beginning", message=words)
    if decided.wanted_replicas == holds:
        return decided if decided.mode is mode else decided.model_copy(update={"mode": mode})
    words = f"minReplicas and maxReplicas of spec.scaling leave {holds}."
    return ScalingStatus(
        mode=mode,
        wanted_replicas=holds,
        reason="Bounds",
        message=words,
        decisions=_with_change(decided, holds, "Bounds", words, now),
    )


def _with_change(
    before: ScalingStatus, replicas: int, reason: str, words: str, now: datetime
) -> list[ScalingDecision]:
    """Return the last changes with one more."""
    change = ScalingDecision(
        time=timestamp(now),
        previous_replicas=before.wanted_replicas,
        replicas=replicas,
        reason=reason,
        message=words[:_WORDS],
    )
    return [change, *before.decisions][:DECISIONS]


def _told(
    held: ScalingStatus, said: Recommendation, policy: Policy, seen: ScalingObservation, now: datetime
) -> ScalingStatus:
    """Return what is told of a recommendation: all of it when the number changes, else now and then."""
    wanted = policy_bounded(policy, said.replicas)
    forecast = min(policy.max_replicas, max(wanted, _forecast(said, policy)))
    decisions = held.decisions
    if wanted != held.wanted_replicas:
        decisions = _with_change(held, wanted, said.reason, said.message, now)
    elif not _is_news(held, said, forecast, seen.told_at, now):
        return held
    return ScalingStatus(
        mode=held.mode,
        wanted_replicas=wanted,
        forecast_replicas=forecast,
        reason=said.reason,
        message=said.message[:_WORDS],
        inputs=_inputs(said.inputs),
        rejected_replicas=said.rejected.replicas if said.rejected else None,
        rejected_message=said.rejected.why[:_WORDS] if said.rejected else None,
        decisions=decisions,
    )


def _is_news(
    held: ScalingStatus, said: Recommendation, forecast: int, told_at: datetime | None, now: datetime
) -> bool:
    """Tell whether a recommendation of the same number is told: another reason, but rarely, and more weights at once."""
    if held.reason in _NOT_OF_THE_POLICY:
        return True
    if forecast > (held.forecast_replicas or 0) and _is_due(told_at, now, GROWS_SECONDS):
        return True
    return held.reason != said.reason and _is_due(told_at, now)


_NOT_OF_THE_POLICY = ("Beginning", "Bounds")


def _forecast(said: Recommendation, policy: Policy) -> int:
    """Return how many replicas are expected to be wanted within one load time."""
    slots = max(said.inputs.get(name, 0.0) for name in FORECASTS)
    return math.ceil(slots / policy.slots - 1e-9) if math.isfinite(slots) else 0


def _inputs(inputs: Mapping[str, float]) -> dict[str, str]:
    """Return numbers as they are told: four digits, no trailing zeros."""
    return {name[:64]: f"{value:.4g}" for name, value in list(inputs.items())[:INPUTS]}


def _blind_since(seen: ScalingObservation, sample: Sample, now: datetime) -> datetime | None:
    """Return since when nothing is known of what is asked. With no replica there is nobody to tell but the front."""
    if sample.queued is not None or (sample.ready == 0 and not _is_fronted(seen)):
        return None
    return seen.blind_since or now


def _scraped_since(seen: ScalingObservation, window: signals.Window, now: datetime) -> datetime | None:
    """Return since when a Prometheus tells. Between two scrapes neither tells, and nothing has changed."""
    if window.scraped:
        return seen.scraped_since or now
    told = window.share >= signals.LEAST_SHARE or not window.sample.ready
    return None if told else seen.scraped_since


def _with_learnt(
    status: ScalingStatus, before: ScalingStatus | None, learnt: int, now: datetime
) -> ScalingStatus:
    """Return what is told, with what was learnt of the time before: it stays told."""
    words = before.learnt if before is not None else None
    if learnt:
        words = f"At {timestamp(now)} {learnt} of the last week's {WEEK_SLOTS} means of ten minutes came from Prometheus."
    return status if status.learnt == words else status.model_copy(update={"learnt": words})


def _is_due(since: datetime | None, now: datetime, seconds: float = KEEP_SECONDS) -> bool:
    return since is None or (now - since).total_seconds() >= seconds


def _to_keep(memory: Memory, stored: Stored | None, now: datetime, *, moved: bool) -> str | None:
    """Return the memory as text when it is to be written: with a change of the number, else every KEEP_SECONDS."""
    if not moved and stored is not None and not _is_due(stored.at, now):
        return None
    text = memory.to_json()
    return text if stored is None or text != stored.text else None
