"""Judges the spec's revision, as long as it is not known to be good and there is a good one to go back to."""

from collections.abc import Sequence
from datetime import datetime

from preheat.api.conditions import Reason
from preheat.api.constants import ANNOTATION_BASELINE, ANNOTATION_RETRY
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment, StorageTier
from preheat.decide.ahead import Ahead
from preheat.decide.capacity import fitting_nodes, too_large
from preheat.decide.judgement.compare import Regression, Tally, regression, tally
from preheat.decide.judgement.failure import Failure, condemned_caches
from preheat.decide.judgement.images import fault_of_images
from preheat.decide.judgement.pods import Fault, Patience, decisive_fault
from preheat.decide.judgement.weights import refusal_of
from preheat.decide.loads import expected
from preheat.decide.observed import PodView
from preheat.decide.target import Target, as_it_was, choose_target, is_soaked
from preheat.decide.wish import ServiceObservation, Wish, the_cache
from preheat.resources.serving import Revision

COMPARE_SECONDS = 15.0
"""How often agents are asked while two revisions are compared."""


def is_judged(target: Target, stored: Sequence[Revision]) -> bool:
    """Tell whether the wanted revision can still fail: only the spec's, and only until it is known to be good."""
    settled = target.going_back or target.failure is not None or target.reason is Reason.ROLLBACK_REQUESTED
    return not settled and not is_soaked(stored, target.id)


def is_compared(service: LLMDeployment, stored: Sequence[Revision]) -> bool:
    """Tell whether a new revision is compared with one before it: their agents are asked, whoever scales."""
    target = choose_target(service, stored)
    return is_judged(target, stored) and any(r.id != target.id for r in stored)


def judge(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    back: Revision,
    wish: Wish,
    now: datetime,
    ahead: Ahead,
) -> Failure | None:
    """Return why the wanted revision failed, None as long as it may be good.

    ``back``: the one to go back to. ``ahead``: what is known of the images of the wanted one's pods.
    A verdict lies on a ControllerRevision: one that is not there yet, or that somebody deleted, is made first.
    """
    if not any(revision.id == wish.id for revision in stored):
        return None
    refused = _without_weights(service, seen, stored, back, wish, now)
    if refused is not None:
        return refused
    fault = (
        _without_images(service, seen, wish, now, ahead)
        or fault_of_revision(service, seen, wish, now)
        or _nowhere_to_run(service, seen, stored, back, wish, now)
    )
    retry = service.annotations.get(ANNOTATION_RETRY, "")
    if fault is None:
        worse = _regression(service, seen, stored, back, wish)
        return Failure(worse.reason, worse.words, now, back.id, retry, worse.evidence) if worse else None
    return Failure(
        reason=fault.reason,
        message=fault.words,
        time=now,
        back_to=back.id,
        retry=retry,
        evidence={"pod": fault.pod, "node": fault.node, "attempts": fault.attempts},
    )


def _without_weights(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    back: Revision,
    wish: Wish,
    now: datetime,
) -> Failure | None:
    """Return that the wanted revision's weights are not to be had.

    It is nothing against it where the one before needs the same weights, or where a verdict was passed on this cache:
    what it tells then is as old as that verdict. ``_deletions`` has ours made anew.
    """
    cache = the_cache(wish, seen)
    if cache is None or wish.replicas == 0:
        return None
    if back.key == wish.key if back.key and wish.key else back.cache == cache.name:
        return None
    if cache.uid in condemned_caches(stored):
        return None
    found = refusal_of(cache)
    if found is None:
        return None
    return Failure(
        reason=Reason.WEIGHTS_FAILED,
        message=found.words,
        time=now,
        back_to=back.id,
        retry=service.annotations.get(ANNOTATION_RETRY, ""),
        evidence={"node": found.node, "told": found.reason, "attempts": found.attempts, "cache": cache.uid},
    )


def _without_images(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    now: datetime,
    ahead: Ahead,
) -> Fault | None:
    """Return that the images of the wanted revision's pods are not to be had, before any of its replicas was started."""
    if ahead.unavailable is None:
        return None
    up = {node.name for node in seen.nodes if node.ready}
    return fault_of_images(
        [pull for pull in ahead.pulls.values() if pull.node in up], patience_of(service, seen, wish), now
    )


def _regression(
    service: LLMDeployment, seen: ServiceObservation, stored: Sequence[Revision], back: Revision, wish: Wish
) -> Regression | None:
    """Return what the wanted revision does worse than the one before, as far as both were asked enough."""
    new, old = counted(seen, wish.id), baseline_of(stored, back.id, wish.id) or counted(seen, back.id)
    if new is None or old is None:
        return None
    return regression(new, old, service.spec.rollout.analysis)


def counted(seen: ServiceObservation, identity: str) -> Tally | None:
    """Return what the agents of a revision's ready replicas counted since they began."""
    uids = [pod.uid for pod in seen.pods if pod.revision == identity and pod.ready and not pod.deleting]
    return tally(seen.readings[uid] for uid in uids if uid in seen.readings)


def baseline_of(stored: Sequence[Revision], identity: str, newer: str) -> Tally | None:
    """Return how a revision served before the newer one came, None where that was not written down."""
    texts = (
        r.marks[ANNOTATION_BASELINE] for r in stored if r.id == identity and ANNOTATION_BASELINE in r.marks
    )
    return next((found for text in texts if (found := Tally.from_json(text, newer)) is not None), None)


def serving_ids(seen: ServiceObservation) -> frozenset[str]:
    """Return the revisions of which a replica answers."""
    return frozenset(pod.revision for pod in seen.pods if pod.ready and not pod.deleting)


def fault_of_revision(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, now: datetime
) -> Fault | None:
    """Return why the wanted revision cannot serve, by what its pods tell."""
    mine = _mine(seen, wish)
    up = {node.name for node in seen.nodes if node.ready}
    lost = {pod.node for pod in mine if pod.node is not None and pod.node not in up}
    return decisive_fault(mine, lost, patience_of(service, seen, wish), now)


def patience_of(service: LLMDeployment, seen: ServiceObservation, wish: Wish) -> Patience:
    """Return how long what is no proof must last: by what loads take, measured or assumed, never by a clock alone."""
    cache = the_cache(wish, seen)
    gpu_type = next(
        (gpu for gpu, share in wish.shares.items() if share > 0), service.spec.hardware.gpu.types[0]
    )
    known = expected(
        service.status.load_times,
        wish.id,
        GPUType(gpu_type).value,
        StorageTier.ON_DISK,
        cache.status.total_bytes if cache else None,
    )
    start = known.p90_seconds - known.phases.gpu_wait
    return Patience(start, start * service.spec.rollout.progress_limit_factor)


def _nowhere_to_run(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    back: Revision,
    wish: Wish,
    now: datetime,
) -> Fault | None:
    """Return that no node could ever take a replica, while nodes can take the revision before it.

    What is missing may be on its way: a replica waits for a usual start first. GPUs in use are no reason.
    """
    waiting = [pod for pod in _mine(seen, wish) if pod.unschedulable is not None]
    since = min((pod.created for pod in waiting if pod.created is not None), default=None)
    if since is None or (now - since).total_seconds() < patience_of(service, seen, wish).start:
        return None
    before = as_it_was(service, stored, Target(back.id, going_back=True))
    if before is service or _obstacle(before, seen) is not None:
        return None
    obstacle = _obstacle(service, seen)
    if obstacle is None or any(pod.scheduled for pod in _mine(seen, wish)):
        return None
    return Fault(Reason.UNSCHEDULABLE, waiting[0].name, "", obstacle, len(waiting))


def _obstacle(service: LLMDeployment, seen: ServiceObservation) -> str | None:
    if not fitting_nodes(service, seen.nodes):
        return "no node has what its hardware and its template ask for, and some have what the revision before asks for."
    return too_large(service, seen.nodes)


def _mine(seen: ServiceObservation, wish: Wish) -> list[PodView]:
    return [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
