"""A rollout as it is told: its status, and an Event when it begins, at each step, and when it ends. Pure."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from preheat.api.conditions import Reason
from preheat.api.llmdeployment import LLMDeployment, RolloutStatus, StorageTier
from preheat.decide import text
from preheat.decide.loads import Expected, expected, remaining
from preheat.decide.observed import PodView, parse_time
from preheat.decide.plan import EventDraft, timestamp
from preheat.decide.rollout.gather import Question
from preheat.decide.rollout.moves import counted
from preheat.decide.rollout.state import Method, Phase, Step

_WORDS = 512
_STEADY_SHARE, _STEADY_SECONDS = 0.1, 30.0
"""An ETA that moves by less than this share of the time since the start, or by so much, is not written again."""

_NOBODY_KNOWS = frozenset(
    {Phase.PAUSED, Phase.WAITING_FOR_GPU, Phase.WAITING_FOR_WEIGHTS, Phase.WAITING_FOR_IMAGE}
)
"""Phases of which nobody knows how long they last."""
REASONS = {Phase.PAUSED: Reason.ROLLOUT_PAUSED, Phase.WAITING_FOR_GPU: Reason.ROLLOUT_BLOCKED}


def reason_of(step: Step) -> Reason:
    """Return the reason that Ready gives while a rollout is under way and nothing else is wrong."""
    return REASONS.get(step.phase, Reason.ROLLING_OUT)


def words_of(step: Step) -> str:
    """Return what is said of it in a condition."""
    return f"{step.chosen or 'Not decided yet'}: {step.why} {step.phase}: {step.message}"


def finishing(service: LLMDeployment, question: Question) -> Step | None:
    """Return the last step of a rollout whose old replicas are gone and whose new ones are still on the way.

    The planner has nothing left to do then. The status knows that there was a rollout, as it said so.
    """
    goal, told = question.goal, service.status.rollout
    if told is None or told.to_revision != goal.revision:
        return None
    mine = [child for child in question.observed.children if child.revision == goal.revision]
    ready, scheduled = sum(child.ready for child in mine), sum(child.scheduled for child in mine)
    if ready >= goal.replicas or (ready > 0 and scheduled == ready):
        return None
    waits = scheduled == ready and any(child.blocked for child in mine)
    phase = Phase.WAITING_FOR_GPU if waits else Phase.LOADING
    replicas = {(goal.revision, gpu_type): share for gpu_type, share in goal.shares.items()}
    message = f"{ready} of {counted(goal.replicas, 'new replica')} answer; no old one is left."
    return Step(
        replicas, question.limits.chosen, told.reason, phase, message, told.step_count, told.step_count
    )


def status_of(
    service: LLMDeployment,
    question: Question,
    step: Step,
    pods: Sequence[PodView],
    size: int | None,
    now: datetime,
) -> RolloutStatus:
    """Return what is told of a rollout. ``pods``: live ones; ``size``: of the weights in bytes, where that is known."""
    goal, before = question.goal, service.status.rollout
    same = before if before is not None and before.to_revision == goal.revision else None
    olds = [child for child in question.observed.children if child.revision != goal.revision]
    ranked = sorted(olds, key=lambda child: (child.ready, child.asked, child.revision))
    mine = [child for child in question.observed.children if child.revision == goal.revision]
    old_replicas = sum(count for (revision, _), count in step.replicas.items() if revision != goal.revision)
    keeps = same is not None and same.chosen == step.chosen and same.strategy is service.spec.rollout.strategy
    return RolloutStatus(
        strategy=service.spec.rollout.strategy,
        chosen=step.chosen,
        # Why it was chosen: the numbers of then.
        reason=same.reason if same is not None and keeps else step.why[:_WORDS],
        step=step.phase,
        step_number=step.number,
        step_count=step.of,
        message=step.message[:_WORDS],
        from_revision=same.from_revision if same else ranked[-1].revision,
        to_revision=goal.revision,
        old_replicas=old_replicas,
        updated_replicas=sum(step.replicas.values()) - old_replicas,
        ready_updated_replicas=sum(child.ready for child in mine),
        started_at=same.started_at if same else timestamp(now),
        eta_time=_steady(same, eta(service, question, step, pods, size, now), now),
    )


def is_complete(before: RolloutStatus | None, after: RolloutStatus | None, wanted: str) -> bool:
    """Tell whether a rollout has ended since it was told. One whose revision is not wanted any more is given up."""
    return before is not None and after is None and before.to_revision == wanted


def events(
    before: RolloutStatus | None, after: RolloutStatus | None, wanted: str, now: datetime
) -> list[EventDraft]:
    """Return what is news: that it begins, that replicas move or cannot, that it has ended. ``wanted``: a revision."""
    if after is None:
        if before is None or not is_complete(before, after, wanted):
            return []
        since = parse_time(before.started_at)
        took = f", {text.duration((now - since).total_seconds())} after it began" if since else ""
        words = f"Revision {before.to_revision} has taken over from {before.from_revision}{took}."
        return [EventDraft(Reason.ROLLED_OUT, words, warning=False)]
    if before is None or before.to_revision != after.to_revision:
        words = f"Revision {after.to_revision} takes over from {after.from_revision}. {after.reason}"
        return [EventDraft(Reason.ROLLING_OUT, words, warning=False)]
    if _moves(before) == _moves(after):
        return []
    reason = REASONS.get(Phase(after.step), Reason.ROLLING_OUT)
    words = f"Revision {after.to_revision}: {after.chosen or ''} {after.step}: {after.message}"
    return [EventDraft(reason, words, warning=reason is Reason.ROLLOUT_BLOCKED)]


def _moves(told: RolloutStatus) -> tuple[object, ...]:
    held = told.step if told.step in REASONS else ""
    return told.chosen, told.old_replicas, told.updated_replicas, told.step_number, held


def eta(
    service: LLMDeployment,
    question: Question,
    step: Step,
    pods: Sequence[PodView],
    size: int | None,
    now: datetime,
) -> float | None:
    """Return in how many seconds all new replicas are expected to answer, None when nobody knows.

    New replicas come in rounds: as many at a time as there is room for. A round is a load, and an old one's draining.
    """
    if step.phase in _NOBODY_KNOWS:
        return None
    goal = question.goal
    load = load_of(service, question, size)
    if load.observations == 0:
        return None
    mine = [pod for pod in pods if pod.revision == goal.revision and not pod.deleting]
    loading = [pod for pod in mine if pod.scheduled and not pod.ready]
    left = max((remaining(pod, load.phases, now, weights_there=True) for pod in loading), default=0.0)
    ready = sum(pod.ready for pod in mine)
    rounds = rounds_left(question, step, goal.replicas - ready - len(loading), len(loading))
    per_round = load.phases.after_scheduling + service.spec.runtime.drain_seconds
    pauses = sum(p.seconds for p in question.limits.pauses[step.number :])
    total = left + rounds * per_round + pauses + (step.look_again_seconds or 0.0)
    return total if math.isfinite(total) else None


def load_of(service: LLMDeployment, question: Question, size: int | None) -> Expected:
    """Return what a load of the new revision is expected to take, from weights that are on the node."""
    gpu_type = next(iter(question.goal.shares), "")
    return expected(service.status.load_times, question.goal.revision, gpu_type, StorageTier.ON_DISK, size)


def rounds_left(question: Question, step: Step, missing: int, loading: int) -> int:
    """Return how many times new replicas have yet to be started, as many at once as there is room for."""
    free = sum(room.free for room in question.rooms.values())
    at_once = {Method.SURGE: loading + free, Method.CANARY: loading + free, Method.BLUE_GREEN: missing}
    width = at_once.get(step.chosen, 1) if step.chosen else 1
    return -(-max(0, missing) // max(1, width))


def _steady(before: RolloutStatus | None, seconds: float | None, now: datetime) -> str | None:
    """Return the time of the end, the one that was told before where it is about the same: a clock is no news."""
    if seconds is None:
        return None
    at = now + timedelta(seconds=seconds)
    told = parse_time(before.eta_time) if before is not None else None
    began = parse_time(before.started_at) if before is not None else None
    if before is not None and told is not None and began is not None:
        steady = max(_STEADY_SECONDS, _STEADY_SHARE * (now - began).total_seconds())
        if abs((at - told).total_seconds()) <= steady:
            return before.eta_time
    return timestamp(at)
