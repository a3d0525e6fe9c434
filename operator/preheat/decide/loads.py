"""How long a load takes: what was observed, what is expected before anything was, and what is left of one under way.

A load is what lies between asking for a replica (its pod's creation) and its first good answer (the pod is Ready). Its
phases, in order, and who tells of them:

    GPU wait      until the pod has a node, less the weights       the pod
    weights       until the weights were on that node, if later    the warmer's Job
    image         until the load begins: images, containers, the   the rest
                  engine's start
    load          the engine's load call                           the agent
    first answer  until the first good answer                      the agent

Observed loads are kept apart by revision, GPU type and where the weights were (``Tier``): the newest ``RECENT`` of each,
and ``KINDS`` such kinds. Until there is one, a prior stands for them, from the model's size and the speeds below.
What is observed is kept in the status, and is no reason to write it: it goes with the number of ready replicas.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from preheat.api.llmdeployment import MOST_SECONDS, LoadKindStatus, LoadTimesStatus, ObservedLoad, StorageTier
from preheat.decide.observed import AgentReport, AgentState, PodView, parse_time
from preheat.decide.plan import timestamp

RECENT = 8
KINDS = 6

PRIOR_BYTES = 16_000_000_000
"""A model of 8 billion parameters at 16 bit, where the size is not known."""
PRIOR_GPU_SECONDS, PRIOR_IMAGE_SECONDS, PRIOR_LOAD_SECONDS, PRIOR_ANSWER_SECONDS = 5.0, 30.0, 15.0, 5.0
"""What is there whatever the size: scheduling, an image that is there and an engine that starts, its set-up, an answer."""
FETCH_BYTES_PER_SECOND = 100e6
"""What a node gets from a hub or a bucket, hashing included."""
READ_BYTES_PER_SECOND = {StorageTier.COLD: 500e6, StorageTier.ON_DISK: 500e6, StorageTier.IN_PAGE_CACHE: 2e9}
"""Into GPU memory: from the page cache, or from a disk. What was just fetched is on the disk alone, for the most part."""
PRIOR_SPREAD = 2.0
"""The prior's 90 % quantile over its median: nobody knows the disk and the network."""
SPREAD = 0.5
"""Of n observations the 90 % quantile is at least (1 + SPREAD / sqrt(n)) medians: a few say little of the tail."""
CACHED_SHARE = 0.1
"""Weights of which at most this share came from a disk were in the page cache."""
LATE_SECONDS = 120.0
"""A pod that is Ready so long after its agent's first good answer was Ready before."""
LEAST_SECONDS = 1.0
"""What an overdue load still takes: nobody knows, but it is not there."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of each phase."""

    gpu_wait: float
    weights: float
    image: float
    load: float
    first_answer: float

    @property
    def after_scheduling(self) -> float:
        """What remains once the pod has a node."""
        return self.image + self.load + self.first_answer

    @property
    def total(self) -> float:
        """All of it."""
        return self.gpu_wait + self.weights + self.after_scheduling


@dataclass(frozen=True, slots=True)
class Expected:
    """What a load is expected to take, in seconds. ``observations`` 0: it is the prior."""

    p50_seconds: float
    p90_seconds: float
    phases: Phases
    observations: int


def learn(
    before: LoadTimesStatus | None,
    pods: Sequence[PodView],
    ready_before: int | None,
    warmed: Mapping[str, datetime],
) -> LoadTimesStatus | None:
    """Return what is known with the pods that became Ready since.

    ``pods``: all live ones; ``warmed``: when the weights were complete on each node, where that is known. While as many
    are ready as the status says, nothing is taken in: a load alone is no reason to write a status.
    """
    ready = [pod for pod in pods if pod.ready]
    if len(ready) == (ready_before or 0):
        return before
    since = parse_time(before.observed_until) if before else None
    fresh = [pod for pod in ready if pod.ready_at and (since is None or pod.ready_at > since)]
    if not fresh:
        return before
    kinds = list(before.kinds) if before else []
    for pod in sorted(fresh, key=lambda pod: (str(pod.ready_at), pod.name)):
        seen = observed(pod, warmed)
        if seen is not None:
            kinds = _with(kinds, pod, *seen)
    until = max(pod.ready_at for pod in fresh if pod.ready_at)
    return LoadTimesStatus(observed_until=timestamp(until), kinds=kinds[:KINDS])


def is_unlearned(pod: PodView, known: LoadTimesStatus | None) -> bool:
    """Tell whether a pod is Ready whose load is not in the status yet: its agent is asked for it, once."""
    since = parse_time(known.observed_until) if known else None
    return pod.ready and pod.ready_at is not None and (since is None or pod.ready_at > since)


def observed(pod: PodView, warmed: Mapping[str, datetime]) -> tuple[StorageTier, ObservedLoad] | None:
    """Return what a pod's load took, None for what was no load from its beginning on, or where its agent is silent.

    A pod that was not Ready for a while and is again has loaded nothing, or again without waiting for anything.
    """
    report = pod.report
    if report is None or report.load_seconds is None or report.load_started is None:
        return None
    if pod.created is None or pod.ready_at is None:
        return None
    load, answer = report.load_seconds, report.first_answer_seconds or 0.0
    since_answer = (pod.ready_at - report.load_started).total_seconds() - load - answer
    again = pod.restarts > 0 or report.heals > 0 or report.engine_starts > 1
    if again or since_answer > LATE_SECONDS:
        return None
    total = _span(pod.created, pod.ready_at)
    until_node = min(total, _span(pod.created, pod.scheduled_at or pod.created))
    complete = warmed.get(pod.node or "")
    weights = min(until_node, _span(pod.created, complete)) if complete else 0.0
    tier = StorageTier.ON_DISK
    if weights >= 1:
        tier = StorageTier.COLD
    elif report.storage_bytes is not None and report.storage_bytes <= CACHED_SHARE * report.bytes_total:
        tier = StorageTier.IN_PAGE_CACHE
    return tier, ObservedLoad(
        total_seconds=_whole(total),
        gpu_wait_seconds=_whole(until_node - weights),
        weights_seconds=_whole(weights),
        image_seconds=_whole(total - until_node - load - answer),
        load_seconds=_whole(load),
        first_answer_seconds=_whole(answer),
    )


def expected(
    known: LoadTimesStatus | None, revision: str, gpu_type: str, tier: StorageTier, total_bytes: int | None
) -> Expected:
    """Return what the next load takes: from this very kind, or the likest one that was observed, or the prior.

    A wait for a GPU counts with its median alone: how long a cluster was out of GPUs says nothing of the next time.
    """
    kind = _likest(known.kinds if known else (), revision, gpu_type, tier)
    if kind is None:
        assumed = prior(tier, total_bytes)
        return Expected(assumed.total, assumed.total * PRIOR_SPREAD, assumed, 0)
    seen = kind.recent
    wait = median(one.gpu_wait_seconds for one in seen)
    rest = sorted(float(one.total_seconds - one.gpu_wait_seconds) for one in seen)
    p50 = median(rest)
    p90 = max(quantile(rest, 0.9), p50 * (1 + SPREAD / math.sqrt(len(rest))))
    phases = Phases(
        gpu_wait=wait,
        weights=median(one.weights_seconds for one in seen),
        image=median(one.image_seconds for one in seen),
        load=median(one.load_seconds for one in seen),
        first_answer=median(one.first_answer_seconds for one in seen),
    )
    return Expected(wait + p50, wait + p90, phases, len(seen))


def usual_load_seconds(
    known: LoadTimesStatus | None, revision: str, gpu_type: str, total_bytes: int | None
) -> float:
    """Return how long the engine's load call takes nearly always: its 90 % quantile, from a disk.

    As long as nothing of the kind was observed: the prior's, with its spread.
    """
    kind = _likest(known.kinds if known else (), revision, gpu_type, StorageTier.ON_DISK)
    if kind is None:
        return prior(StorageTier.ON_DISK, total_bytes).load * PRIOR_SPREAD
    seen = sorted(float(one.load_seconds) for one in kind.recent)
    return max(quantile(seen, 0.9), median(seen) * (1 + SPREAD / math.sqrt(len(seen))))


def left_of(
    pod: PodView,
    known: LoadTimesStatus | None,
    total_bytes: int | None,
    now: datetime,
    *,
    weights_there: bool,
) -> float | None:
    """Return in how many seconds a pod is expected to be Ready by what was observed, None before anything was."""
    tier = StorageTier.ON_DISK if weights_there or pod.scheduled else StorageTier.COLD
    found = expected(known, pod.revision, pod.gpu_type, tier, total_bytes)
    if found.observations == 0:
        return None
    return remaining(pod, found.phases, now, weights_there=weights_there)


def prior(tier: StorageTier, total_bytes: int | None) -> Phases:
    """Return what a load takes before one was observed."""
    size = total_bytes or PRIOR_BYTES
    return Phases(
        gpu_wait=PRIOR_GPU_SECONDS,
        weights=size / FETCH_BYTES_PER_SECOND if tier is StorageTier.COLD else 0.0,
        image=PRIOR_IMAGE_SECONDS,
        load=PRIOR_LOAD_SECONDS + size / READ_BYTES_PER_SECOND[tier],
        first_answer=PRIOR_ANSWER_SECONDS,
    )


def remaining(pod: PodView, phases: Phases, now: datetime, *, weights_there: bool) -> float:
    """Return in how many seconds a pod is expected to be Ready: 0 when it is, infinity when nobody knows.

    ``weights_there``: whether some node holds its weights. Then one that finds no node waits for a GPU.
    """
    if pod.ready:
        return 0.0
    told = _as_told(pod.report, phases) if pod.report else None
    if told is not None:
        return told
    if pod.scheduled:
        begun = pod.scheduled_at or pod.created or now
        return max(LEAST_SECONDS, phases.after_scheduling - (now - begun).total_seconds())
    if pod.unschedulable is not None and weights_there:
        return math.inf
    age = (now - (pod.created or now)).total_seconds()
    return max(LEAST_SECONDS + phases.after_scheduling, phases.total - age)


def _as_told(report: AgentReport, phases: Phases) -> float | None:
    """Return what is left by what the agent says, None when it does not say."""
    match report.state:
        case AgentState.STALLED | AgentState.FAILED:
            return math.inf
        case AgentState.PROBING | AgentState.SERVING:
            return max(LEAST_SECONDS, phases.first_answer)
        case AgentState.LOADING if report.remaining_seconds is not None:
            return max(LEAST_SECONDS, report.remaining_seconds + phases.first_answer)
    return None


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return a quantile of ordered values, linear between two of them (Hyndman and Fan's type 7).

    >>> quantile([1.0, 2.0, 3.0], 0.5), quantile([1.0, 2.0], 0.9), quantile([7.0], 0.9)
    (2.0, 1.9, 7.0)
    """
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _with(
    kinds: Sequence[LoadKindStatus], pod: PodView, tier: StorageTier, load: ObservedLoad
) -> list[LoadKindStatus]:
    """Return the kinds with one more load, its kind first: what was not seen for the longest is forgotten first."""
    key = (pod.revision, pod.gpu_type, tier)
    mine = next((k for k in kinds if (k.revision, k.gpu_type, k.tier) == key), None)
    recent = [*(mine.recent if mine else ()), load][-RECENT:]
    totals = sorted(float(one.total_seconds) for one in recent)
    grown = LoadKindStatus(
        revision=pod.revision,
        gpu_type=pod.gpu_type,
        tier=tier,
        count=(mine.count if mine else 0) + 1,
        p50_seconds=round(quantile(totals, 0.5)),
        p90_seconds=round(quantile(totals, 0.9)),
        recent=recent,
    )
    return [grown, *(kind for kind in kinds if kind is not mine)]


def _likest(
    kinds: Sequence[LoadKindStatus], revision: str, gpu_type: str, tier: StorageTier
) -> LoadKindStatus | None:
    """Return the kind to go by. Another tier says nothing: it is what the time depends on most.

    But for weights on a disk: what is loaded again and again is in the page cache, as far as it fits.
    """
    alike = [kind for kind in kinds if kind.tier is tier and kind.recent]
    if not alike and tier is StorageTier.ON_DISK:
        alike = [kind for kind in kinds if kind.tier is StorageTier.IN_PAGE_CACHE and kind.recent]
    ranked = sorted(alike, key=lambda kind: (kind.revision != revision, kind.gpu_type != gpu_type))
    return ranked[0] if ranked else None


def _span(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds())


def _whole(seconds: float) -> int:
    return min(MOST_SECONDS, max(0, round(seconds)))
