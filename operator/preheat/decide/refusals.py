"""What the status says when a child could not be written: the same plan, with the refusal as its reason."""

from datetime import datetime

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentStatus
from preheat.api.modelcache import ModelCache, ModelCacheStatus
from preheat.decide import conditions as say
from preheat.decide.conditions import Verdict
from preheat.decide.plan import RESYNC_SECONDS, Plan
from preheat.errors import InvalidSpec, NotOwned, PreheatError

BAD = frozenset({Reason.NAME_TAKEN, Reason.CHILD_REFUSED, Reason.INVALID_SPEC})


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
    subject: LLMDeployment | ModelCache, plan: Plan, refusal: PreheatError, now: datetime
) -> Plan:
    """Return the plan that tells of a refused write.

    A taken name and an object that the API server calls invalid stay so until somebody acts: Stalled.
    What is merely unavailable is tried again, and only said when the object is not Ready anyway.
    """
    if plan.status is None:
        return plan
    reason = {NotOwned: Reason.NAME_TAKEN, InvalidSpec: Reason.CHILD_REFUSED}.get(type(refusal))
    model = LLMDeploymentStatus if isinstance(subject, LLMDeployment) else ModelCacheStatus
    status = model.model_validate(plan.status)
    ready = next(c for c in status.conditions if c.type == ConditionType.READY)
    if reason is None:
        if ready.status == "True":
            return plan
        reason = Reason.CHILD_REFUSED
    verdict = Verdict(ConditionType.READY, False, reason, str(refusal))
    summary = say.summary(verdict, stuck=reason in BAD and isinstance(refusal, NotOwned | InvalidSpec))
    before = subject.status.conditions
    named = {v.type for v in summary}
    rest = [c for c in status.conditions if c.type not in named]
    told = say.conditions(summary, before, subject.generation, now)
    changed = status.model_copy(update={"conditions": [*told, *rest]})
    drafts = tuple(say.events(summary, before, BAD))
    return Plan(plan.writes, changed.to_api(), drafts, min(plan.requeue_after, RESYNC_SECONDS))
