"""LLMDeployment: what is said. The one most telling reason why it is not Ready, with progress and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import (
    CacheStatus,
    ChildStatus,
    LLMDeployment,
    LLMDeploymentStatus,
    LoadingStatus,
)
from preheat.api.modelcache import ModelCache, NodeCacheState
from preheat.decide import conditions as say
from preheat.decide import text
from preheat.decide.capacity import in_numbers, too_large
from preheat.decide.conditions import Verdict
from preheat.decide.observed import AgentState, PodView
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Plan, Write
from preheat.decide.troubles import Trouble, sentence, trouble_of, what_to_do
from preheat.decide.wish import ServiceObservation, Wish, runs, the_cache
from preheat.resources.pod import selector

CRASHES = 3
"""Restarts of an engine after which it is said to be crashing."""

STUCK = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_TAKEN,
        Reason.CHILD_REFUSED,
        Reason.WEIGHTS_FAILED,
        Reason.NO_MATCHING_NODE,
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
        Reason.IMAGE_UNAVAILABLE,
        Reason.LOAD_FAILED,
        Reason.LOAD_STALLED,
        Reason.CANARY_FAILED,
        Reason.ENGINE_CRASHING,
        Reason.CONTAINER_CRASHING,
    }
)
BAD = STUCK | {Reason.NO_CAPACITY, Reason.POD_NOT_STARTING, Reason.MODEL_HEALING}


def refusal(service: LLMDeployment, seen: ServiceObservation, problem: str, now: datetime) -> Plan:
    """Say what is wrong and touch no child: the last good revision keeps serving."""
    ready = sum(pod.ready and not pod.deleting for pod in seen.pods)
    verdicts = [
        *say.summary(Verdict(ConditionType.READY, False, Reason.INVALID_SPEC, problem), stuck=True),
        Verdict(ConditionType.ACCEPTED, False, Reason.INVALID_SPEC, problem),
        _available(ready),
    ]
    before = service.status
    status = before.model_copy(
        update={
            "observed_generation": service.generation,
            "conditions": say.conditions(verdicts, before.conditions, service.generation, now),
            "ready_replicas": ready,
        }
    )
    return Plan((), status.to_api(), tuple(say.events(verdicts, before.conditions, BAD)), RESYNC_SECONDS)


def telling_plan(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    writes: list[Write],
    now: datetime,
) -> Plan:
    """Return the plan with these writes, and the status and events that tell of it."""
    live = [pod for pod in seen.pods if not pod.deleting]
    ready = [pod for pod in live if pod.ready]
    cache = the_cache(wish, seen)
    verdict, loading = _verdict(service, seen, wish, cache)
    before = service.status
    verdicts = [
        *say.summary(verdict, stuck=verdict.reason in STUCK),
        _accepted(service, wish),
        _weights(cache),
        _available(len(ready)),
    ]
    labels = ",".join(f"{key}={value}" for key, value in selector(service.name).items())
    status = LLMDeploymentStatus(
        observed_generation=service.generation,
        conditions=say.conditions(verdicts, before.conditions, service.generation, now),
        desired_replicas=wish.replicas,
        replicas=len(live),
        ready_replicas=len(ready),
        replica_summary=f"{len(ready)}/{wish.replicas}",
        selector=labels,
        revision=wish.id,
        serving_revision=_serving_revision(wish, ready),
        gpu_type=",".join(gpu for gpu, share in wish.shares.items() if share > 0)
        or service.spec.hardware.gpu.types[0].value,
        url=f"http://{service.name}.{service.namespace}.svc:8000",
        cache=CacheStatus(
            name=wish.cache,
            ready_nodes=(cache.status.ready_nodes or 0) if cache else 0,
            desired_nodes=(cache.status.desired_nodes or 0) if cache else 0,
        ),
        loading=loading,
        children=_children(seen, ready),
    )
    # Agents are asked only while a pod is on its way; everything else wakes the loop by itself.
    on_the_way = any(pod.ip and not pod.ready for pod in live)
    return Plan(
        tuple(writes),
        status.to_api(),
        tuple(say.events(verdicts, before.conditions, BAD)),
        min(POLL_SECONDS if on_the_way else RESYNC_SECONDS, seen.look_again or RESYNC_SECONDS),
    )


def _children(seen: ServiceObservation, ready: Sequence[PodView]) -> list[ChildStatus]:
    return [
        ChildStatus(
            name=view.name,
            revision=view.revision,
            gpu_type=view.gpu_type,
            replicas=view.replicas,
            ready_replicas=sum(runs(view, pod) for pod in ready),
        )
        for view in sorted(seen.deployments, key=lambda view: view.name)
    ]


def _serving_revision(wish: Wish, ready: Sequence[PodView]) -> str | None:
    revisions = {pod.revision for pod in ready}
    if wish.id in revisions:
        return wish.id
    return min(revisions, default=None)


def _accepted(service: LLMDeployment, wish: Wish) -> Verdict:
    """Say that the spec is valid, and which bound of spec.scaling overrules spec.replicas."""
    words, asked, scaling = "The spec is valid.", service.spec.replicas, service.spec.scaling
    if asked > wish.replicas:
        words += f" spec.replicas is {asked}; spec.scaling.maxReplicas allows {scaling.max_replicas}."
    elif asked < wish.replicas:
        words += f" spec.replicas is {asked}; spec.scaling.minReplicas asks for {scaling.min_replicas}."
    return Verdict(ConditionType.ACCEPTED, True, Reason.VALID, words)


def _available(ready: int) -> Verdict:
    if ready:
        return Verdict(ConditionType.AVAILABLE, True, Reason.SERVING, f"{ready} replicas answer.")
    return Verdict(ConditionType.AVAILABLE, False, Reason.NOT_SERVING, "No replica answers.")


def _weights(cache: ModelCache | None) -> Verdict:
    ready = (cache.status.ready_nodes or 0) if cache else 0
    desired = (cache.status.desired_nodes or 0) if cache else 0
    holds = cache is not None and desired > 0 and ready >= desired
    failed = cache is not None and any(n.state is NodeCacheState.FAILED for n in cache.status.nodes)
    reason = Reason.WEIGHTS_READY if holds else Reason.WEIGHTS_FAILED if failed else Reason.WEIGHTS_FETCHING
    return Verdict(
        ConditionType.WEIGHTS_READY, holds, reason, f"{ready} of {desired} nodes hold the weights."
    )


Telling = tuple[Verdict, LoadingStatus | None]


def _verdict(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, cache: ModelCache | None
) -> Telling:
    """Return Ready with its most telling reason, and the progress of what that reason names."""
    mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
    ready = sum(pod.ready for pod in mine)
    old = [pod for pod in seen.pods if pod.revision != wish.id]
    if ready >= wish.replicas and len(mine) <= wish.replicas and not old:
        if wish.replicas == 0:
            return _ready(Reason.SCALED_TO_ZERO, "Scaled to zero; the weights stay warm."), None
        return _ready(Reason.SERVING, f"{ready} of {wish.replicas} replicas answer."), None
    for look in (_look_at_children, _look_at_nodes, _look_at_weights, _look_at_pods):
        telling = look(_Look(service, seen, wish, cache, mine))
        if telling is not None:
            return telling
    if old:
        return _not_ready(
            Reason.ROLLING_OUT,
            f"Revision {wish.id}: {ready} of {wish.replicas} replicas answer; {len(old)} old ones remain.",
        ), None
    return _not_ready(
        Reason.PODS_PENDING, f"{ready} of {wish.replicas} replicas answer; waiting for the others' pods."
    ), None


def _ready(reason: Reason, message: str) -> Verdict:
    return Verdict(ConditionType.READY, True, reason, message)


def _not_ready(reason: Reason, message: str) -> Verdict:
    return Verdict(ConditionType.READY, False, reason, message)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look is given. ``mine``: the pods of the wanted revision."""

    service: LLMDeployment
    seen: ServiceObservation
    wish: Wish
    cache: ModelCache | None
    mine: Sequence[PodView]


def _look_at_children(at: _Look) -> Telling | None:
    refused = [v for v in at.seen.deployments if v.revision == at.wish.id and v.refused is not None]
    if refused:
        return _not_ready(Reason.PODS_REFUSED, f"Pods cannot be created: {refused[0].refused}"), None
    return None


def _look_at_nodes(at: _Look) -> Telling | None:
    """Say at once, and not after an hour's download, that no node is large enough."""
    if at.wish.replicas == 0 or any(pod.scheduled for pod in at.mine):
        return None
    problem = too_large(at.service, at.seen.nodes)
    return (_not_ready(Reason.NO_CAPACITY, problem), None) if problem is not None else None


_OF_THE_CACHE = frozenset(
    {
        Reason.WEIGHTS_FAILED,
        Reason.NO_MATCHING_NODE,
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
        Reason.POD_NOT_STARTING,
    }
)
"""Reasons of the cache that are told as they are: somebody must act, or should know."""


def _look_at_weights(at: _Look) -> Telling | None:
    """Weights are the reason as long as no node holds them, or while a pod waits for a node that does."""
    wish, cache, mine = at.wish, at.cache, at.mine
    if wish.replicas == 0:
        return None
    if cache is None:
        if wish.makes_cache:
            return _not_ready(Reason.WEIGHTS_FETCHING, f"ModelCache {wish.cache} is being made."), None
        words = f"ModelCache {wish.cache} is gone, and this revision's pods need it: make it again, or change the spec."
        return _not_ready(Reason.WEIGHTS_FAILED, words), None
    status = cache.status
    ready, desired = status.ready_nodes or 0, status.desired_nodes or 0
    waits = not mine or any(not pod.scheduled for pod in mine)
    if not waits or (ready >= desired and ready > 0):
        return None
    theirs = next((c for c in status.conditions if c.type == ConditionType.READY), None)
    reason = Reason.WEIGHTS_FETCHING
    if theirs is not None and theirs.reason in _OF_THE_CACHE:
        reason = Reason(theirs.reason)
    detail = theirs.message if theirs else "not started yet"
    total = (status.total_bytes or 0) * max(desired, 1)
    percent = status.percent or 0
    loading = LoadingStatus(
        percent=percent, bytes_done=total * percent // 100, bytes_total=total, eta=status.eta
    )
    return _not_ready(reason, f"ModelCache {cache.name}: {detail}"), loading


_AGENT_REASONS: dict[AgentState, Reason] = {
    AgentState.FAILED: Reason.LOAD_FAILED,
    AgentState.STALLED: Reason.LOAD_STALLED,
    AgentState.HEALING: Reason.MODEL_HEALING,
    AgentState.LOADING: Reason.MODEL_LOADING,
    AgentState.PROBING: Reason.MODEL_PROBING,
    AgentState.SERVING: Reason.MODEL_PROBING,
    AgentState.WAITING_FOR_ENGINE: Reason.ENGINE_STARTING,
}
"""In this order the states are told: trouble first."""


def _look_at_pods(at: _Look) -> Telling | None:
    waiting = [pod for pod in at.mine if not pod.ready]
    for pod in waiting:
        if pod.restarts >= CRASHES and pod.last_exit is not None:
            return _not_ready(
                Reason.ENGINE_CRASHING,
                f"Pod {pod.name}: engine restarted {pod.restarts} times, {pod.last_exit}",
            ), None
        if pod.crashing is not None:
            return _not_ready(
                Reason.CONTAINER_CRASHING, f"Pod {pod.name}: {pod.crashing}. Correct it in spec.template."
            ), None
        trouble = trouble_of(pod)
        if trouble is not None:
            return _not_ready(trouble.reason, _words_of(trouble, pod, at)), None
    return _look_at_agents(at.wish, waiting)


def _words_of(trouble: Trouble, pod: PodView, at: _Look) -> str:
    if trouble.reason is Reason.NO_CAPACITY:
        return f"Pod {pod.name}: {sentence(trouble.message)} {in_numbers(at.service, at.seen.nodes, at.seen.uses)}"
    told = f"{trouble.told}: " if pod.waiting_reason is not None else ""
    return (
        f"Pod {pod.name}: {told}{sentence(trouble.message)}{what_to_do(trouble.reason, at.service.namespace)}"
    )


def _look_at_agents(wish: Wish, waiting: Sequence[PodView]) -> Telling | None:
    reporting = [(pod, pod.report) for pod in waiting if pod.report is not None]
    for state, reason in _AGENT_REASONS.items():
        told = [(pod, report) for pod, report in reporting if report.state is state]
        if not told:
            continue
        pod, report = told[0]
        if state is AgentState.FAILED and report.reason == "CanaryFailed":
            reason = Reason.CANARY_FAILED  # noqa: PLW2901 - the agent knows better than the table
        words = report.message or report.reason or state.value
        loading = None
        if state is AgentState.LOADING:
            done = sum(r.bytes_done for _, r in told)
            total = sum(r.bytes_total for _, r in told)
            left = [r.remaining_seconds for _, r in told if r.remaining_seconds is not None]
            percent = min(99, 100 * done // total) if total else 0
            # The status moves with the percentage, not with every byte: an hour's load is a hundred writes.
            loading = LoadingStatus(
                percent=percent,
                bytes_done=total * percent // 100,
                bytes_total=total,
                eta=text.duration(max(left)) if left else None,
            )
            words = f"{len(told)} of {wish.replicas} replicas are loading"
        if state is AgentState.SERVING:
            words = "the model has answered; the kubelet has not asked yet"
            if pod.lagging is not None:
                words = f"the model has answered; {pod.lagging} of spec.template is not Ready"
        return _not_ready(reason, f"Pod {pod.name}: {words}"), loading
    if waiting and any(pod.scheduled for pod in waiting):
        return _not_ready(Reason.ENGINE_STARTING, f"Pod {waiting[0].name} is starting."), None
    return None
