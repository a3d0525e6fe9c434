"""What the status says when a child could not be written: the same plan, with the refusal as its reason."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentStatus
from preheat.api.modelcache import ModelCache, ModelCacheStatus
from preheat.decide import conditions as say
from preheat.decide import text
from preheat.decide.ahead import not_pulled
from preheat.decide.conditions import Verdict
from preheat.decide.paging import not_read
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, EventDraft, Plan
from preheat.errors import InvalidSpec, NotOwned, PreheatError

BAD = frozenset({Reason.NAME_TAKEN, Reason.CHILD_REFUSED, Reason.INVALID_SPEC, Reason.OPERATOR_ERROR})

IN_VAIN = frozenset({Reason.SCALING_LIMITED, Reason.SCALING_IGNORED, Reason.INVALID_SPEC})
"""Of what is asked for and not followed, the last one of schedules that are skipped."""

TAKEN_SECONDS = 15.0
"""How often a taken name is looked at again: objects of strangers are not watched."""


class Contested(Protocol):
    """Somebody else changes a child back, again and again."""

    @property
    def count(self) -> int:
        """How often it was put back."""

    @property
    def pause_seconds(self) -> float:
        """How long it is left as it is."""

    @property
    def words(self) -> str:
        """Who changes what."""


def unreadable(subject: LLMDeployment | ModelCache, problem: str, now: datetime) -> Plan:
    """Say that a spec means nothing to us, and touch nothing else: what runs goes on running.

    The API server lets such an object in when it was written under another version of the CRD.
    """
    verdict = Verdict(ConditionType.READY, False, Reason.INVALID_SPEC, problem)
    verdicts = [
        *say.summary(verdict, stuck=True),
        Verdict(ConditionType.ACCEPTED, False, Reason.INVALID_SPEC, problem),
    ]
    before = subject.status
    status = before.model_copy(
        update={
            "observed_generation": subject.generation,
            "conditions": say.conditions(verdicts, before.conditions, subject.generation, now),
        }
    )
    return Plan((), status.to_api(), tuple(say.events(verdicts, before.conditions, BAD)), RESYNC_SECONDS)


def with_refusal(
    subject: LLMDeployment | ModelCache,
    plan: Plan,
    refusal: PreheatError,
    now: datetime,
    *,
    lasts: bool = True,
) -> Plan:
    """Return the plan that tells of a refused write. ``lasts``: it was refused for longer than a moment.

    A taken name and an object that the API server calls invalid stay so until somebody acts: Stalled.
    What is merely unavailable is tried again: said at once when the object is not Ready anyway, and beside a Ready
    that stays as it is when it lasts, or is told of already.
    """
    if plan.status is None:
        return plan
    reason = {NotOwned: Reason.NAME_TAKEN, InvalidSpec: Reason.CHILD_REFUSED}.get(type(refusal))
    model = LLMDeploymentStatus if isinstance(subject, LLMDeployment) else ModelCacheStatus
    status = model.model_validate(plan.status)
    ready = next(c for c in status.conditions if c.type == ConditionType.READY)
    if reason is None:
        if ready.status == "True":
            told_of = _is_told(subject)
            return _beside_ready(subject, plan, refusal, now, news=not told_of) if lasts or told_of else plan
        reason = Reason.CHILD_REFUSED
    verdict = Verdict(ConditionType.READY, False, reason, str(refusal))
    summary = say.summary(verdict, stuck=reason in BAD and isinstance(refusal, NotOwned | InvalidSpec))
    before = subject.status.conditions
    named = {v.type for v in summary}
    rest = [c for c in status.conditions if c.type not in named]
    told = say.conditions(summary, before, subject.generation, now)
    changed = status.model_copy(update={"conditions": [*told, *rest]})
    # What was asked in vain has nothing to do with the write, and the status tells of it from now on: no pass posts it again.
    in_vain = (event for event in plan.events if event.reason in IN_VAIN)
    drafts = (*in_vain, *say.events(summary, before, BAD))
    delay = TAKEN_SECONDS if isinstance(refusal, NotOwned) else RESYNC_SECONDS
    delay = min(plan.requeue_after, delay)
    return Plan(plan.writes, changed.to_api(), drafts, delay, milestones=plan.milestones)


def without_pullers(
    subject: LLMDeployment | ModelCache, plan: Plan, refusal: PreheatError, now: datetime
) -> Plan:
    """Return the plan that tells that images cannot be pulled ahead: all goes on as where nobody does.

    The next pass reads it off the status, and tries no more for this spec.
    """
    if plan.status is None:
        return plan
    verdict = Verdict(ConditionType.IMAGE_READY, None, Reason.IMAGE_NOT_PULLED, not_pulled(str(refusal)))
    plan = _without(subject, plan, verdict, now)
    return replace(plan, requeue_after=min(plan.requeue_after, POLL_SECONDS))


def without_pagers(
    subject: LLMDeployment | ModelCache, plan: Plan, refusal: PreheatError, now: datetime
) -> Plan:
    """Return the plan that tells that no pager is let in. The next pass reads it off the status, and tries no more."""
    if plan.status is None:
        return plan
    words = not_read(f"on any node: {refusal}")
    verdict = Verdict(ConditionType.PAGE_CACHE_FILLED, None, Reason.PAGE_CACHE_NOT_FILLED, words)
    return _without(subject, plan, verdict, now)


def _without(subject: LLMDeployment | ModelCache, plan: Plan, verdict: Verdict, now: datetime) -> Plan:
    """Return the plan that tells of what cannot be had ahead. An Event tells of it once."""
    status, before = plan.status or {}, subject.status.conditions
    (told,) = say.conditions([verdict], before, subject.generation, now)
    rest = [c for c in status.get("conditions", ()) if c["type"] != verdict.type]
    known = any(c.type == verdict.type and c.reason == verdict.reason for c in before)
    drafts = () if known else (EventDraft(verdict.reason, verdict.message, warning=False),)
    return replace(
        plan,
        status={**status, "conditions": [*rest, told.to_api()]},
        events=(*plan.events, *drafts),
    )


def _is_told(subject: LLMDeployment | ModelCache) -> bool:
    """Tell whether a status tells of a refusal beside Ready: an operator that has just started goes on with that."""
    return any(
        c.type == ConditionType.RECONCILING and c.status == "True" and c.reason == Reason.CHILD_REFUSED
        for c in subject.status.conditions
    )


def _beside_ready(
    subject: LLMDeployment | ModelCache, plan: Plan, refusal: PreheatError, now: datetime, *, news: bool
) -> Plan:
    """Return the plan that says of an object that is Ready that its spec is not carried out yet, and why."""
    verdict = Verdict(ConditionType.RECONCILING, True, Reason.CHILD_REFUSED, str(refusal))
    (told,) = say.conditions([verdict], subject.status.conditions, subject.generation, now)
    status = plan.status or {}
    rest = [c for c in status.get("conditions", ()) if c["type"] != ConditionType.RECONCILING]
    drafts = (EventDraft(verdict.reason, verdict.message, warning=True),) if news else ()
    return replace(
        plan,
        status={**status, "conditions": [*rest, told.to_api()]},
        events=(*plan.events, *drafts),
        requeue_after=min(plan.requeue_after, RESYNC_SECONDS),
    )


def with_contests(
    subject: LLMDeployment | ModelCache, plan: Plan, contests: Sequence[Contested], now: datetime
) -> Plan:
    """Return the plan that tells who fights over which child, beside what else there is to say."""
    if plan.status is None:
        return plan
    worst = max(contests, key=lambda contest: contest.count)
    more = f" {len(contests) - 1} more children are contested." if len(contests) > 1 else ""
    verdict = Verdict(
        ConditionType.CONTESTED,
        True,
        Reason.CONTESTED,
        f"{worst.words}. It was put back {worst.count} times; others' change now stands for "
        f"{text.duration(worst.pause_seconds)} each time. End one of the two: what runs is set in this object "
        f"alone.{more}",
    )
    before = subject.status.conditions
    (told,) = say.conditions([verdict], before, subject.generation, now)
    conditions = [*plan.status.get("conditions", ()), told.to_api()]
    news = any(condition.type == ConditionType.CONTESTED for condition in before)
    drafts = (
        plan.events if news else (*plan.events, EventDraft(verdict.reason, verdict.message, warning=True))
    )
    return replace(plan, status={**plan.status, "conditions": conditions}, events=drafts)


def broken(subject: LLMDeployment | ModelCache, bug: Exception, now: datetime) -> Plan:
    """Say that the operator failed on this object, and touch nothing else: what runs goes on running."""
    problem = (
        f"The operator failed on this object ({type(bug).__name__}: {bug}). What runs goes on running, and the "
        "operator tries again. Please report this."
    )
    verdict = Verdict(ConditionType.READY, None, Reason.OPERATOR_ERROR, problem)
    verdicts = say.summary(verdict, stuck=True)
    before = subject.status
    named = {verdict.type for verdict in verdicts}
    told = say.conditions(verdicts, before.conditions, subject.generation, now)
    rest = [condition for condition in before.conditions if condition.type not in named]
    status = before.model_copy(update={"conditions": [*told, *rest]})
    return Plan((), status.to_api(), tuple(say.events(verdicts, before.conditions, BAD)), RESYNC_SECONDS)
