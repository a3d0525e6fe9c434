"""LLMDeployment: what is said. The one most telling reason why it is not Ready, with progress and numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import (
    MOST_CHILDREN,
    CacheStatus,
    ChildStatus,
    LLMDeployment,
    LLMDeploymentStatus,
    LoadingStatus,
    RolloutStatus,
    ScalingMode,
    ScalingStatus,
)
from preheat.api.modelcache import ModelCache, NodeCacheState
from preheat.decide import conditions as say
from preheat.decide import fallback, text
from preheat.decide.ahead import Ahead
from preheat.decide.autoscale import Outcome
from preheat.decide.avoidance import decide_avoidance
from preheat.decide.capacity import in_numbers, too_large
from preheat.decide.conditions import Verdict
from preheat.decide.healing import decide_healing
from preheat.decide.loads import learn, left_of
from preheat.decide.observed import AgentState, PodView, dead_nodes
from preheat.decide.plan import (
    POLL_SECONDS,
    RESYNC_SECONDS,
    Apply,
    EventDraft,
    Milestone,
    Plan,
    Write,
    timestamp,
)
from preheat.decide.renewal import renew
from preheat.decide.rollout import Phase, Step, told
from preheat.decide.rollout.gather import Question
from preheat.decide.sites import holding, misses_image
from preheat.decide.target import Target
from preheat.decide.traffic import Traffic
from preheat.decide.traffic import events as events_of_traffic
from preheat.decide.troubles import Trouble, sentence, trouble_of, what_to_do
from preheat.decide.wish import ServiceObservation, Wish, runs, the_cache, why_never
from preheat.resources.pod import selector
from preheat.resources.weights import digest_in

CRASHES = 3
"""Restarts of an engine after which it is said to be crashing."""

STUCK = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_TAKEN,
        Reason.CHILD_REFUSED,
        Reason.WEIGHTS_FAILED,
        Reason.WEIGHTS_CORRUPT,
        Reason.NO_MATCHING_NODE,
        Reason.OVER_BUDGET,
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
        Reason.IMAGE_UNAVAILABLE,
        Reason.LOAD_FAILED,
        Reason.LOAD_STALLED,
        Reason.CANARY_FAILED,
        Reason.ENGINE_CRASHING,
        Reason.CONTAINER_CRASHING,
        Reason.ROLLED_BACK,
        Reason.ROLLOUT_FAILED,
        Reason.PREFLIGHT_FAILED,
    }
)
BAD = STUCK | {
    Reason.NO_CAPACITY,
    Reason.ROLLOUT_BLOCKED,
    Reason.POD_NOT_STARTING,
    Reason.CLAIM_NOT_BOUND,
    Reason.MODEL_HEALING,
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout that is under way: what was asked, and the step that was answered."""

    question: Question
    step: Step


@dataclass(frozen=True, slots=True)
class Images:
    """What is known of the images of the wanted pods, and the conditions that tell of what is done ahead of them."""

    ahead: Ahead
    verdicts: tuple[Verdict, ...]


def refusal(
    service: LLMDeployment,
    seen: ServiceObservation,
    problem: str,
    now: datetime,
    ways: Sequence[Write] = (),
    traffic: Traffic | None = None,
) -> Plan:
    """Say what is wrong and move no replica: the last good revision keeps serving. ``ways``: what has clients find it."""
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
            **({"traffic": list(traffic.status)} if traffic is not None and traffic.status else {}),
        }
    )
    return Plan(
        tuple(ways), status.to_api(), tuple(say.events(verdicts, before.conditions, BAD)), RESYNC_SECONDS
    )


def telling_plan(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    writes: list[Write],
    now: datetime,
    scaled: Outcome | None = None,
    rollout: Rollout | None = None,
    target: Target | None = None,
    traffic: Traffic | None = None,
    images: Images | None = None,
    *,
    planned: bool = True,
) -> Plan:
    """Return the plan with these writes, and the status and events that tell of it.

    ``traffic``, ``images``: what is told of them; None: what was told stays.

    ``planned``: whether the planner was asked. Where it was not, what is told of a rollout stays as it is.
    """
    target = target or Target(wish.id)
    live = [pod for pod in seen.pods if not pod.deleting]
    ready = [pod for pod in live if pod.ready]
    cache = the_cache(wish, seen)
    verdict, loading = _verdict(service, seen, wish, cache, now, rollout, images.ahead if images else None)
    verdict = _with_target(verdict, target)
    going_back = _rolled_back(target)
    advice, rationed = decide_healing(service, live)
    avoidance = decide_avoidance(service, seen, now)
    special = [
        *_told(ConditionType.HEALING_RATIONED, Reason.HEALING_RATIONED, rationed),
        *_told(ConditionType.NODE_AVOIDED, Reason.NODE_AVOIDED, avoidance.words),
    ]
    by_type = fallback.status_of(service, wish.split, _ready_by_type(wish, ready))
    fell_back = _told(ConditionType.FELL_BACK, Reason.FELL_BACK, fallback.words_of(by_type))
    before = service.status
    renewal = renew(service.namespace, seen, wish).verdict
    rolling = _rollout_status(service, rollout, live, cache, now) if planned else before.rollout
    routed = list(traffic.verdicts) if traffic is not None else _as_told(before, ConditionType.ROUTED)
    pulled = (
        list(images.verdicts)
        if images is not None
        else [
            *_as_told(before, ConditionType.IMAGE_READY),
            *_as_told(before, ConditionType.PAGE_CACHE_FILLED),
        ]
    )
    accepted = _accepted(service, wish, scaled)
    verdicts = [
        *say.summary(verdict, stuck=verdict.reason in STUCK),
        accepted,
        _weights(service, seen, wish, cache),
        *pulled,
        _available(len(ready)),
        *_scaling(service, scaled, len(ready), now),
        *([renewal] if renewal is not None else []),
        *special,
        *fell_back,
        *_preflight(target),
        *going_back,
        *routed,
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
        scaling=_scaled(service, scaled),
        load_times=learn(before.load_times, live, before.ready_replicas, seen.warmed),
        rollout=rolling,
        traffic=(list(traffic.status) if traffic.status else None) if traffic is not None else before.traffic,
        gpu_types=by_type,
        avoided_nodes=avoidance.nodes or None,
        children=_children(seen, ready),
    )
    # Agents are asked only while a pod is on its way; everything else wakes the loop by itself.
    on_the_way = any(pod.ip and not pod.ready for pod in live)
    looks = seen.scaling.next_look_seconds if seen.scaling is not None else RESYNC_SECONDS
    return Plan(
        (*writes, *avoidance.deletes),
        status.to_api(),
        (
            *(e for e in say.events(verdicts, before.conditions, BAD) if e.reason not in _OF_ROLLOUTS),
            *_changes(before, scaled),
            *_in_vain(service, wish),
            *_skipped(before, accepted),
            *_quarantined(before, renewal),
            *_news(before, special),
            *_turns(before, going_back),
            *_not_pulled(before, pulled),
            *_passed_on(wish, writes),
            *told.events(before.rollout, rolling, wish.id, now),
            *events_of_traffic({(c.type, c.reason) for c in before.conditions}, routed),
        ),
        min(
            POLL_SECONDS if on_the_way else RESYNC_SECONDS,
            seen.look_again or RESYNC_SECONDS,
            max(POLL_SECONDS, (images.ahead.look_again_seconds if images else None) or RESYNC_SECONDS),
            max(1.0, wish.split.look_again_seconds or RESYNC_SECONDS),
            looks,
            _look_again(rollout),
            traffic.look_again_seconds if traffic is not None else RESYNC_SECONDS,
        ),
        scaled,
        tuple(advice),
        _milestones(before, rolling, going_back, wish),
    )


def _as_told(before: LLMDeploymentStatus, kind: ConditionType) -> list[Verdict]:
    """Return a condition as it was told."""
    return [
        Verdict(kind, {"True": True, "False": False}.get(c.status), Reason(c.reason), c.message)
        for c in before.conditions
        if c.type == kind and c.reason in set(Reason)
    ]


def _milestones(
    before: LLMDeploymentStatus, rolling: RolloutStatus | None, going_back: Sequence[Verdict], wish: Wish
) -> tuple[tuple[Milestone, str], ...]:
    """Return what the status that is there does not tell of yet. A way back is a rollout as well."""
    was = before.rollout
    found: list[tuple[Milestone, str]] = []
    if told.is_complete(was, rolling, wish.id):
        found.append((Milestone.ROLLOUT_COMPLETED, ""))
    if rolling is not None and (was is None or was.to_revision != rolling.to_revision):
        found.append((Milestone.ROLLOUT_STARTED, ""))
    known = {(c.type, c.status, c.reason) for c in before.conditions}
    found += [
        (Milestone.ROLLED_BACK, verdict.reason)
        for verdict in going_back
        if verdict.holds and (ConditionType.ROLLED_BACK, "True", verdict.reason) not in known
    ]
    return tuple(found)


_OF_ROLLOUTS = frozenset({Reason.ROLLING_OUT, Reason.ROLLOUT_PAUSED, Reason.ROLLOUT_BLOCKED})
"""Reasons whose Events are posted with the steps that they tell of."""


def _rollout_status(
    service: LLMDeployment,
    rollout: Rollout | None,
    live: Sequence[PodView],
    cache: ModelCache | None,
    now: datetime,
) -> RolloutStatus | None:
    if rollout is None:
        return None
    size = cache.status.total_bytes if cache else None
    return told.status_of(service, rollout.question, rollout.step, live, size, now)


def _look_again(rollout: Rollout | None) -> float:
    """Return in how many seconds a rollout has more to do, though nothing in the cluster changes."""
    if rollout is None:
        return RESYNC_SECONDS
    waits = (rollout.step.look_again_seconds, rollout.question.look_again_seconds)
    return max(POLL_SECONDS, min((wait for wait in waits if wait is not None), default=RESYNC_SECONDS))


def _told(kind: ConditionType, reason: Reason, words: str | None) -> list[Verdict]:
    """Return a condition that is only there while there is something to say."""
    return [] if words is None else [Verdict(kind, True, reason, words)]


def _not_pulled(before: LLMDeploymentStatus, verdicts: Sequence[Verdict]) -> list[EventDraft]:
    """Return an Event when it turns out that images, or weights, cannot be had ahead here: nothing else is wrong then."""
    known = {c.reason for c in before.conditions}
    return [
        EventDraft(verdict.reason, verdict.message, warning=False)
        for verdict in verdicts
        if verdict.reason in {Reason.IMAGE_NOT_PULLED, Reason.PAGE_CACHE_NOT_FILLED} - known
    ]


def _news(before: LLMDeploymentStatus, verdicts: Sequence[Verdict]) -> list[EventDraft]:
    """Return an Event for each of these conditions that was not there before."""
    there = {condition.type for condition in before.conditions}
    return [
        EventDraft(verdict.reason, verdict.message, warning=True)
        for verdict in verdicts
        if verdict.type not in there
    ]


_FAULTS = frozenset(
    {
        Reason.LOAD_FAILED,
        Reason.LOAD_STALLED,
        Reason.CANARY_FAILED,
        Reason.ENGINE_CRASHING,
        Reason.CONTAINER_CRASHING,
        Reason.IMAGE_UNAVAILABLE,
        Reason.WEIGHTS_FAILED,
    }
)
"""Reasons for which a revision is gone back from, where there is another."""


def _with_target(ready: Verdict, target: Target) -> Verdict:
    """Say that the spec is not what is wanted, where its revision failed: nobody waits for what will not come.

    What a person asked for is what is wanted: it is Ready when it serves.
    """
    if target.alone and ready.reason in _FAULTS:
        words = f"{ready.message} There is no earlier revision to go back to: it goes on trying."
        return Verdict(ready.type, ready.holds, ready.reason, words)
    if target.held:
        words = target.why if ready.holds else f"{target.why} {ready.reason}: {ready.message}"
        return Verdict(ConditionType.READY, False, Reason.PREFLIGHT_FAILED, words)
    if target.failure is None or (ready.holds and not target.going_back and not target.holds):
        return ready
    reason = target.reason or Reason.ROLLOUT_FAILED
    words = target.why if ready.holds else f"{target.why} {ready.reason}: {ready.message}"
    return Verdict(ConditionType.READY, False, reason, words)


def _rolled_back(target: Target) -> list[Verdict]:
    """Say that another revision is wanted than the spec's, or that one was asked for that is not there."""
    if target.going_back and not target.held:
        reason = target.failure.reason if target.failure is not None else Reason.ROLLBACK_REQUESTED
        return [Verdict(ConditionType.ROLLED_BACK, True, reason, target.why)]
    if target.reason is Reason.REVISION_UNKNOWN:
        return [Verdict(ConditionType.ROLLED_BACK, False, Reason.REVISION_UNKNOWN, target.why)]
    return []


def _preflight(target: Target) -> list[Verdict]:
    """Say whether the spec's revision can run, as long as none of its replicas has a GPU."""
    if target.preflight is None:
        return []
    if not target.preflight:
        words = "Nothing that is known keeps a replica from running."
        return [Verdict(ConditionType.PREFLIGHT_PASSED, True, Reason.PREFLIGHT_PASSED, words)]
    return [Verdict(ConditionType.PREFLIGHT_PASSED, False, Reason.PREFLIGHT_FAILED, target.preflight)]


def _ready_by_type(wish: Wish, ready: Sequence[PodView]) -> dict[str, int]:
    mine = [pod.gpu_type for pod in ready if pod.revision == wish.id]
    return {gpu_type: mine.count(gpu_type) for gpu_type in set(mine)}


def _passed_on(wish: Wish, writes: Sequence[Write]) -> list[EventDraft]:
    """Return an Event for replicas that go on from one GPU type to another, in the pass that asks for it."""
    if not any(isinstance(write, Apply) and write.manifest["kind"] == "Deployment" for write in writes):
        return []
    return [
        EventDraft(
            Reason.FELL_BACK,
            f"{one.replicas} replica{'s go' if one.replicas > 1 else ' goes'} on from {one.source} to {one.to}: {one.why}",
            warning=False,
        )
        for one in wish.split.passings
    ]


def _turns(before: LLMDeploymentStatus, verdicts: Sequence[Verdict]) -> list[EventDraft]:
    """Return an Event for what a person asked for. That a revision failed is told by Ready, whose reason it is."""
    known = {
        condition.reason for condition in before.conditions if condition.type == ConditionType.ROLLED_BACK
    }
    ours = {Reason.ROLLBACK_REQUESTED, Reason.REVISION_UNKNOWN}
    return [
        EventDraft(v.reason, v.message, warning=v.reason is Reason.REVISION_UNKNOWN)
        for v in verdicts
        if v.reason in ours and v.reason not in known
    ]


def _scaling(service: LLMDeployment, scaled: Outcome | None, ready: int, now: datetime) -> list[Verdict]:
    """Say whether Preheat can decide the number of replicas; nothing where somebody else does."""
    if scaled is None:
        return []
    mode = service.spec.scaling.mode
    if scaled.scraped_since is not None and scaled.is_scraped(now) and not scaled.is_blind(now):
        words = (
            f"Since {timestamp(scaled.scraped_since)} too few ready replicas tell the operator how much they are asked; "
            f"Preheat decides, in mode {mode}, by what Prometheus has of them. Look at port 9080, /signals, of the pods."
        )
        return [Verdict(ConditionType.SCALING_ACTIVE, True, Reason.SIGNALS_SCRAPED, words)]
    if not scaled.is_blind(now):
        words = f"Preheat decides the number of replicas, in mode {mode}. `spec.replicas` is only what it began with."
        return [Verdict(ConditionType.SCALING_ACTIVE, True, Reason.DECIDING, words)]
    since = timestamp(scaled.blind_since) if scaled.blind_since else "long"
    words = (
        f"Since {since} too few ready replicas tell how much they are asked: the number stays as it is. Look at "
        "port 9080, /signals, of the pods: agents of 0.1.0 have none and need a new revision, and an engine without "
        "metrics for the model tells nothing."
        if ready
        else f"Since {since} the front does not tell who comes while no replica is ready: the number stays as it is, but "
        "for a schedule, and no request wakes the model. Look at its pods: kubectl get pods -A -l "
        "preheat.dev/component=front"
    )
    return [Verdict(ConditionType.SCALING_ACTIVE, False, Reason.SIGNALS_MISSING, words)]


def _scaled(service: LLMDeployment, scaled: Outcome | None) -> ScalingStatus | None:
    """Return what was decided, with what was asked for meanwhile."""
    if scaled is None:
        return None
    return scaled.status.model_copy(update={"asked_replicas": service.spec.replicas})


def _changes(before: LLMDeploymentStatus, scaled: Outcome | None) -> list[EventDraft]:
    """Return an Event for each change of the number that the status does not tell of yet."""
    if scaled is None:
        return []
    known = before.scaling.decisions if before.scaling is not None else []
    fresh = [decision for decision in scaled.status.decisions if decision not in known]
    return [
        EventDraft(
            Reason.SCALING_UP if decision.replicas > decision.previous_replicas else Reason.SCALING_DOWN,
            f"From {decision.previous_replicas} to {decision.replicas} replicas, {decision.reason}: {decision.message}",
            warning=False,
        )
        for decision in reversed(fresh)
    ]


def _quarantined(before: LLMDeploymentStatus, verdict: Verdict | None) -> list[EventDraft]:
    """Return an Event when replicas begin to run on weights that were put aside."""
    if verdict is None or any(condition.type == verdict.type for condition in before.conditions):
        return []
    return [EventDraft(Reason.WEIGHTS_CORRUPT, verdict.message, warning=True)]


def _children(seen: ServiceObservation, ready: Sequence[PodView]) -> list[ChildStatus]:
    """Return what to tell of the Deployments: of more than a status holds, those of kept revisions are left out first."""
    told = sorted(seen.deployments, key=lambda view: (view.replicas == 0, view.name))[:MOST_CHILDREN]
    return [
        ChildStatus(
            name=view.name,
            revision=view.revision,
            gpu_type=view.gpu_type,
            replicas=view.replicas,
            ready_replicas=sum(runs(view, pod) for pod in ready),
        )
        for view in sorted(told, key=lambda view: view.name)
    ]


def _serving_revision(wish: Wish, ready: Sequence[PodView]) -> str | None:
    revisions = {pod.revision for pod in ready}
    if wish.id in revisions:
        return wish.id
    return min(revisions, default=None)


def _accepted(service: LLMDeployment, wish: Wish, scaled: Outcome | None) -> Verdict:
    """Say that the spec is valid, and what overrules spec.replicas; or which schedules are skipped, as if they were not there."""
    if scaled is not None and scaled.skipped is not None:
        words = f"{scaled.skipped}. Such a schedule is skipped, and everything else goes on."
        return Verdict(ConditionType.ACCEPTED, False, Reason.INVALID_SPEC, words)
    words, scaling = "The spec is valid.", service.spec.scaling
    bound = _bound(service, wish)
    if scaling.mode is not ScalingMode.EXTERNAL:
        words += f" spec.replicas is only the number to begin with: spec.scaling.mode is {scaling.mode}."
        if service.scaled_by:
            words += f" {service.scaled_by} set it to {service.spec.replicas} through /scale."
    elif bound is not None:
        words += f" {bound.message}"
    return Verdict(ConditionType.ACCEPTED, True, Reason.VALID, words)


def _skipped(before: LLMDeploymentStatus, accepted: Verdict) -> list[EventDraft]:
    """Return an Event for what of the spec is skipped, once: the status tells of it from then on."""
    known = [c.message for c in before.conditions if c.type == ConditionType.ACCEPTED]
    if accepted.holds or accepted.message[: say.MESSAGE_LIMIT] in known:
        return []
    return [EventDraft(accepted.reason, accepted.message, warning=True)]


def _bound(service: LLMDeployment, wish: Wish) -> EventDraft | None:
    """Return which bound overrules spec.replicas in mode External, None where none does."""
    asked, scaling = service.spec.replicas, service.spec.scaling
    if scaling.mode is not ScalingMode.EXTERNAL or asked == wish.replicas:
        return None
    if asked > wish.replicas:
        words = f"spec.replicas is {asked}; spec.scaling.maxReplicas allows {scaling.max_replicas}."
        return EventDraft(Reason.SCALING_LIMITED, words, warning=True)
    words = f"spec.replicas is {asked}; spec.scaling.minReplicas asks for {scaling.min_replicas}."
    return EventDraft(Reason.SCALING_LIMITED, words, warning=False)


def _in_vain(service: LLMDeployment, wish: Wish) -> list[EventDraft]:
    """Return an Event for a number that is asked for and not followed, once: the status tells of it from then on.

    Where Preheat decides, nearly every number differs. Only who changes it means it to be followed.
    """
    before, asked = service.status, service.spec.replicas
    if service.spec.scaling.mode is ScalingMode.EXTERNAL:
        bound = _bound(service, wish)
        known = [c.message for c in before.conditions if c.type == ConditionType.ACCEPTED]
        return [] if bound is None or any(bound.message in words for words in known) else [bound]
    was = before.scaling.asked_replicas if before.scaling is not None else None
    if was is None or was == asked:
        return []
    words = (
        f"{service.scaled_by or 'Somebody'} set spec.replicas to {asked}, and nothing follows from that: spec.scaling.mode "
        f"is {service.spec.scaling.mode}. Take an autoscaler that writes it away, or set the mode to External."
    )
    return [EventDraft(Reason.SCALING_IGNORED, words, warning=True)]


def _available(ready: int) -> Verdict:
    if ready:
        return Verdict(ConditionType.AVAILABLE, True, Reason.SERVING, f"{ready} replicas answer.")
    return Verdict(ConditionType.AVAILABLE, False, Reason.NOT_SERVING, "No replica answers.")


def _weights(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, cache: ModelCache | None
) -> Verdict:
    """Say whether the wanted weights are where they should be, or that nobody fetches them."""
    never = why_never(service, seen, wish)
    if never is not None:
        return Verdict(ConditionType.WEIGHTS_READY, False, Reason.WEIGHTS_FAILED, never)
    ready = (cache.status.ready_nodes or 0) if cache else 0
    desired = (cache.status.desired_nodes or 0) if cache else 0
    holds = cache is not None and desired > 0 and ready >= desired
    failed = cache is not None and any(n.state is NodeCacheState.FAILED for n in cache.status.nodes)
    reason = Reason.WEIGHTS_READY if holds else Reason.WEIGHTS_FAILED if failed else Reason.WEIGHTS_FETCHING
    return Verdict(ConditionType.WEIGHTS_READY, holds, reason, holding(service.spec.cache, ready, desired))


Telling = tuple[Verdict, LoadingStatus | None]


def _verdict(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    cache: ModelCache | None,
    now: datetime,
    rollout: Rollout | None,
    ahead: Ahead | None,
) -> Telling:
    """Return Ready with its most telling reason, and the progress of what that reason names."""
    mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
    ready = sum(pod.ready for pod in mine)
    # On a node that is gone a pod leaves for ever: the rollout does not wait for it either.
    dead = dead_nodes(seen.nodes)
    old = [pod for pod in seen.pods if pod.revision != wish.id and not (pod.deleting and pod.node in dead)]
    asked = wish.replicas + renew(service.namespace, seen, wish).surplus
    if ready >= wish.replicas and len(mine) <= asked and not old:
        if wish.replicas == 0:
            return _ready(Reason.SCALED_TO_ZERO, "Scaled to zero; the weights stay warm."), None
        return _ready(Reason.SERVING, f"{ready} of {wish.replicas} replicas answer."), None
    for look in (_look_at_children, _look_at_nodes, _look_at_images, _look_at_weights, _look_at_pods):
        telling = look(_Look(service, seen, wish, cache, mine, now, rollout is not None, ahead))
        if telling is not None:
            return telling
    if rollout is not None:
        step = rollout.step
        words = f"Revision {wish.id}: {told.words_of(step)}"
        if step.phase is Phase.WAITING_FOR_GPU:
            words = f"{words} {in_numbers(service, seen.nodes, seen.uses)}"
        return _not_ready(told.reason_of(step), words), None
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
    now: datetime
    rolling: bool = False
    """Whether a rollout is under way: then a pod that waits for a GPU waits on purpose."""
    ahead: Ahead | None = None
    """What is known of the images of the wanted pods; None where nobody looked."""


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


def _look_at_images(at: _Look) -> Telling | None:
    """Say that images, or what pods name, are not to be had, before a replica was started for them."""
    pull = at.ahead.unavailable if at.rolling and at.ahead is not None else None
    if pull is None:
        return None
    is_missing = pull.reason is Reason.REFERENCE_MISSING
    what = "start a pod" if is_missing else "pull the images"
    to_do = f" {what_to_do(pull.reason, at.service.namespace)}" if is_missing else ""
    words = f"Node {pull.node} cannot {what} of revision {at.wish.id}: {sentence(pull.words)}{to_do} No replica moves before."
    return _not_ready(pull.reason, words), None


_OF_THE_CACHE = frozenset(
    {
        Reason.WEIGHTS_FAILED,
        Reason.NO_MATCHING_NODE,
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
        Reason.POD_NOT_STARTING,
        Reason.CLAIM_NOT_BOUND,
    }
)
"""Reasons of the cache that are told as they are: somebody must act, or should know."""


def _look_at_weights(at: _Look) -> Telling | None:
    """Weights are the reason as long as no node holds them, or while a pod waits for a node that does."""
    wish, cache, mine = at.wish, at.cache, at.mine
    if wish.replicas == 0:
        return None
    if cache is None:
        never = why_never(at.service, at.seen, wish)
        if never is not None:
            return _not_ready(Reason.WEIGHTS_FAILED, never), None
        return _not_ready(Reason.WEIGHTS_FETCHING, f"ModelCache {wish.cache} is being made."), None
    status = cache.status
    ready, desired = status.ready_nodes or 0, status.desired_nodes or 0
    if wish.resolved and digest_in(status.resolved_revision) not in {"", wish.resolved}:
        return _not_ready(
            Reason.WEIGHTS_FAILED,
            f"ModelCache {cache.name} holds another image, {status.resolved_revision}, than this revision's pods name, "
            f"{wish.resolved}: the tag has moved and the cache was made again. Name the digest that you want in "
            "`model.uri`.",
        ), None
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
        if trouble is not None and not (at.rolling and trouble.reason is Reason.NO_CAPACITY):
            return _not_ready(trouble.reason, _words_of(trouble, pod, at)), None
    return _look_at_agents(at, waiting)


def _words_of(trouble: Trouble, pod: PodView, at: _Look) -> str:
    if trouble.reason is Reason.NO_CAPACITY:
        return f"Pod {pod.name}: {sentence(trouble.message)} {in_numbers(at.service, at.seen.nodes, at.seen.uses)}"
    told = f"{trouble.told}: " if pod.waiting_reason is not None else ""
    if misses_image(pod, at.wish.resolved):
        return (
            f"Pod {pod.name}: {told}{sentence(trouble.message)} The kubelet of {pod.node} has removed the image with "
            "the weights: the node loses its label, pulls and verifies it again, and the pod goes on."
        )
    return (
        f"Pod {pod.name}: {told}{sentence(trouble.message)}{what_to_do(trouble.reason, at.service.namespace)}"
    )


def _look_at_agents(at: _Look, waiting: Sequence[PodView]) -> Telling | None:
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
            left = left or _left(at, [pod for pod, _ in told])
            percent = min(99, 100 * done // total) if total else 0
            # The status moves with the percentage, not with every byte: an hour's load is a hundred writes.
            loading = LoadingStatus(
                percent=percent,
                bytes_done=total * percent // 100,
                bytes_total=total,
                eta=text.duration(max(left)) if left else None,
            )
            words = f"{len(told)} of {at.wish.replicas} replicas are loading"
        if state is AgentState.WAITING_FOR_ENGINE:
            loading = _before_the_load(at, [pod for pod, _ in told])
        if state is AgentState.SERVING:
            words = "the model has answered; the kubelet has not asked yet"
            if pod.lagging is not None:
                words = f"the model has answered; {pod.lagging} of spec.template is not Ready"
        return _not_ready(reason, f"Pod {pod.name}: {words}"), loading
    if waiting and any(pod.scheduled for pod in waiting):
        words, scheduled = f"Pod {waiting[0].name} is starting.", [pod for pod in waiting if pod.scheduled]
        return _not_ready(Reason.ENGINE_STARTING, words), _before_the_load(at, scheduled)
    return None


def _before_the_load(at: _Look, pods: Sequence[PodView]) -> LoadingStatus | None:
    """Return when pods whose load has not begun are expected to answer, None before a load of theirs was observed."""
    left, total = _left(at, pods), (at.cache.status.total_bytes or 0) if at.cache else 0
    if not left:
        return None
    return LoadingStatus(percent=0, bytes_done=0, bytes_total=total, eta=text.duration(max(left)))


def _left(at: _Look, pods: Sequence[PodView]) -> list[float]:
    known, size = at.service.status.load_times, at.cache.status.total_bytes if at.cache else None
    times = (left_of(pod, known, size, at.now, weights_there=True) for pod in pods)
    return [seconds for seconds in times if seconds is not None and math.isfinite(seconds)]
