"""LLMDeployment: one pass's decision. Read top-down: what is wanted, what to write, what to say.

wish      how many replicas, of which revision, on which GPU types, from which cache
writes    children that should be so, and old ones that may go
verdict   the one most telling reason why it is not Ready yet
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.conditions import ConditionType, Reason
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import (
    CacheStatus,
    ChildStatus,
    LLMDeployment,
    LLMDeploymentStatus,
    LoadingStatus,
)
from preheat.api.modelcache import ModelCache, NodeCacheState, PlacementSpec, Toleration
from preheat.config import OperatorConfig
from preheat.decide import conditions as say
from preheat.decide import text
from preheat.decide.conditions import Verdict
from preheat.decide.observed import AgentState, DeploymentView, NodeView, PodView, is_controlled_by
from preheat.decide.placement import matching_nodes, split_over_types
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, Plan, Write
from preheat.decide.rollout import Progress, next_old
from preheat.errors import InvalidSpec
from preheat.resources import caching, names, serving
from preheat.resources.metadata import Manifest
from preheat.resources.pod import selector
from preheat.resources.serving import Revision

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
        Reason.IMAGE_UNAVAILABLE,
        Reason.LOAD_FAILED,
        Reason.LOAD_STALLED,
        Reason.CANARY_FAILED,
        Reason.ENGINE_CRASHING,
    }
)
BAD = STUCK | {Reason.NO_CAPACITY, Reason.MODEL_HEALING}


@dataclass(frozen=True, slots=True)
class ServiceObservation:
    """Everything that a pass over one LLMDeployment looks at."""

    nodes: Sequence[NodeView]
    deployments: Sequence[DeploymentView]
    pods: Sequence[PodView]
    caches: Sequence[ModelCache]
    """All ModelCaches of the namespace: one made ahead of time serves as well as our own."""
    children: Sequence[Manifest]
    """Live ControllerRevisions, ConfigMaps, Deployments and ModelCaches of this service."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What should be."""

    replicas: int
    id: str
    shares: Mapping[GPUType, int]
    revisions: tuple[Revision, ...]
    """The wanted revision, once per GPU type that gets replicas."""
    cache: str
    makes_cache: bool


def decide_service(
    service: LLMDeployment, seen: ServiceObservation, config: OperatorConfig, now: datetime
) -> Plan:
    """Return what to do for one LLMDeployment."""
    stored = _stored_revisions(service, seen)
    try:
        wish = _wish(service, seen, stored, config)
    except InvalidSpec as problem:
        return _refusal(service, seen, str(problem), now)
    kept = _kept_revisions(service, stored, wish)
    old_replicas = _old_replicas(wish, seen)
    writes: list[Write] = [
        *_deletions(service, seen, stored, kept, wish, old_replicas),
        *_applies(service, seen, wish, stored, old_replicas, config),
    ]
    return _plan(service, seen, wish, writes, now)


def desired_replicas(service: LLMDeployment) -> int:
    """Return how many replicas should serve: spec.replicas, held within the bounds of spec.scaling."""
    scaling = service.spec.scaling
    return max(scaling.min_replicas, min(scaling.max_replicas, service.spec.replicas))


# --- what is wanted


def _stored_revisions(service: LLMDeployment, seen: ServiceObservation) -> list[Revision]:
    bodies = (
        body
        for body in seen.children
        if body["kind"] == "ControllerRevision" and is_controlled_by(body, service.uid)
    )
    return [r for body in bodies if (r := serving.parse_controller_revision(body)) is not None]


def _wish(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    config: OperatorConfig,
) -> Wish:
    identity = serving.revision_id(service)
    replicas = desired_replicas(service)
    shares = split_over_types(service, replicas, seen.nodes)
    used = [gpu for gpu, share in shares.items() if share > 0] or [service.spec.hardware.gpu.types[0]]
    same = {revision.gpu_type: revision for revision in stored if revision.id == identity}
    cache, makes_cache = _cache(service, seen, next((r.cache for r in same.values()), None))
    number = _number(identity, stored)
    revisions = []
    for gpu_type in used:
        # What is stored is taken as it is: a new operator version changes no running pod.
        pinned = same.get(gpu_type) or serving.render_revision(service, gpu_type, number, cache, config)
        revisions.append(
            Revision(pinned.id, number, gpu_type, pinned.template, pinned.files, pinned.cache, pinned.claim)
        )
    return Wish(replicas, identity, shares, tuple(revisions), cache, makes_cache)


def _number(identity: str, stored: Sequence[Revision]) -> int:
    """Return the wanted revision's number: the highest. Going back to an old one makes it the newest."""
    newest = max(stored, key=lambda revision: revision.number, default=None)
    if newest is None:
        return 1
    return newest.number if newest.id == identity else newest.number + 1


def _cache(service: LLMDeployment, seen: ServiceObservation, pinned: str | None) -> tuple[str, bool]:
    """Return the name of the ModelCache to use, and whether it is ours to make.

    A cache that somebody made ahead of time with the very same source is used as it is.
    """
    own = names.cache_name(service.name, serving.cache_source(service))
    made_ahead = (
        cache.name
        for cache in seen.caches
        if caching.made_for(cache) is None and caching.same_source(cache, service)
    )
    name = pinned or min(made_ahead, default=own)
    return name, name == own


# --- what to write


def _kept_revisions(service: LLMDeployment, stored: Sequence[Revision], wish: Wish) -> frozenset[str]:
    """Return the revisions to keep: the wanted one and the newest old ones within the history limit."""
    newest: dict[str, int] = {}
    for revision in stored:
        newest[revision.id] = max(newest.get(revision.id, 0), revision.number)
    newest.pop(wish.id, None)
    ranked = sorted(newest, key=lambda identity: -newest[identity])
    return frozenset({wish.id, *ranked[: service.spec.rollout.revision_history_limit]})


def _old_replicas(wish: Wish, seen: ServiceObservation) -> dict[str, int]:
    """Return how many replicas each Deployment of an old revision should have, by name."""
    old = [view for view in seen.deployments if view.revision != wish.id]
    if not old:
        return {}
    mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
    left = next_old(
        Progress(
            desired=wish.replicas,
            old=sum(view.replicas for view in old),
            old_leaving=any(pod.revision != wish.id and pod.deleting for pod in seen.pods),
            new_scheduled=sum(pod.scheduled for pod in mine),
            new_ready=sum(pod.ready for pod in mine),
            blocked=any(pod.unschedulable is not None for pod in mine),
            weights_warm=_ready_nodes(wish, seen) > 0,
        )
    )
    # The oldest give up theirs first, so that the newest that serves stays longest.
    result = {}
    for view in sorted(old, key=lambda view: -_serving(view, seen)):
        result[view.name] = min(view.replicas, left)
        left -= result[view.name]
    return result


def _serving(view: DeploymentView, seen: ServiceObservation) -> int:
    return sum(pod.ready for pod in seen.pods if _runs(view, pod))


def _runs(view: DeploymentView, pod: PodView) -> bool:
    return pod.revision == view.revision and pod.gpu_type == view.gpu_type


def _deletions(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    kept: frozenset[str],
    wish: Wish,
    old_replicas: Mapping[str, int],
) -> list[Write]:
    """Return what may go: revisions beyond the history limit that run nothing, and caches nobody uses."""
    running = {view.revision for view in seen.deployments if view.replicas > 0}
    running |= {pod.revision for pod in seen.pods}
    running |= {view.revision for view in seen.deployments if old_replicas.get(view.name, 0) > 0}
    gone = {revision.id for revision in stored} - kept - running
    used_caches = {r.cache for r in stored if r.id not in gone} | {wish.cache}
    result: list[Write] = []
    for body in seen.children:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata or not is_controlled_by(body, service.uid):
            continue
        revision = (metadata.get("labels") or {}).get("preheat.dev/revision")
        is_unused_cache = body["kind"] == "ModelCache" and metadata["name"] not in used_caches
        if is_unused_cache or revision in gone:
            result.append(Delete(body["kind"], service.namespace, metadata["name"], metadata.get("uid", "")))
    return result


def _applies(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    stored: Sequence[Revision],
    old_replicas: Mapping[str, int],
    config: OperatorConfig,
) -> list[Write]:
    writes: list[Write] = [
        # Old replicas go before new ones come: that frees their GPUs.
        *_shrinks(service, stored, old_replicas),
        Apply(serving.make_service_account(service)),
        Apply(serving.make_network_policy(service, config)),
        Apply(serving.make_service(service)),
        Apply(serving.make_disruption_budget(service)),
    ]
    if wish.makes_cache:
        nodes = _cache_nodes(service, seen, wish)
        writes.append(Apply(caching.make_cache(service, wish.cache, nodes)))
    writes.append(Apply(serving.make_repository(service, wish.revisions[0]), once=True))
    for revision in wish.revisions:
        writes.append(Apply(serving.make_controller_revision(service, revision)))
        writes.append(Apply(serving.make_deployment(service, revision, wish.shares[revision.gpu_type])))
    # A GPU type of this very revision that gets no replicas any more.
    used = {revision.gpu_type.value for revision in wish.revisions}
    idle = {
        view.name: 0 for view in seen.deployments if view.revision == wish.id and view.gpu_type not in used
    }
    return [*_shrinks(service, stored, idle), *writes]


def _shrinks(service: LLMDeployment, stored: Sequence[Revision], replicas: Mapping[str, int]) -> list[Write]:
    by_name = {names.child_name(service.name, r.id, r.gpu_type): r for r in stored}
    return [
        Apply(serving.make_deployment(service, by_name[name], count))
        for name, count in replicas.items()
        if name in by_name
    ]


def _cache_nodes(service: LLMDeployment, seen: ServiceObservation, wish: Wish) -> int:
    """Return on how many nodes the weights should lie: one per replica and the margin, as far as nodes go."""
    hardware = service.spec.hardware
    gpus = Toleration(key=hardware.gpu.resource_name, operator="Exists")
    placement = PlacementSpec(
        gpu_types=hardware.gpu.types,
        node_selector=hardware.node_selector,
        tolerations=[gpus, *hardware.tolerations],
    )
    available = len(matching_nodes(placement, seen.nodes))
    return max(1, min(available, max(1, wish.replicas) + service.spec.cache.warm_nodes))


# --- what to say


def _ready_nodes(wish: Wish, seen: ServiceObservation) -> int:
    cache = _the_cache(wish, seen)
    return (cache.status.ready_nodes or 0) if cache else 0


def _the_cache(wish: Wish, seen: ServiceObservation) -> ModelCache | None:
    return next((cache for cache in seen.caches if cache.name == wish.cache), None)


def _refusal(service: LLMDeployment, seen: ServiceObservation, problem: str, now: datetime) -> Plan:
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


def _plan(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    writes: list[Write],
    now: datetime,
) -> Plan:
    live = [pod for pod in seen.pods if not pod.deleting]
    ready = [pod for pod in live if pod.ready]
    cache = _the_cache(wish, seen)
    verdict, loading = _verdict(seen, wish, cache)
    before = service.status
    verdicts = [
        *say.summary(verdict, stuck=verdict.reason in STUCK),
        Verdict(ConditionType.ACCEPTED, True, Reason.VALID, "The spec is valid."),
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
        POLL_SECONDS if on_the_way else RESYNC_SECONDS,
    )


def _children(seen: ServiceObservation, ready: Sequence[PodView]) -> list[ChildStatus]:
    return [
        ChildStatus(
            name=view.name,
            revision=view.revision,
            gpu_type=view.gpu_type,
            replicas=view.replicas,
            ready_replicas=sum(_runs(view, pod) for pod in ready),
        )
        for view in sorted(seen.deployments, key=lambda view: view.name)
    ]


def _serving_revision(wish: Wish, ready: Sequence[PodView]) -> str | None:
    revisions = {pod.revision for pod in ready}
    if wish.id in revisions:
        return wish.id
    return min(revisions, default=None)


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


def _verdict(seen: ServiceObservation, wish: Wish, cache: ModelCache | None) -> Telling:
    """Return Ready with its most telling reason, and the progress of what that reason names."""
    mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
    ready = sum(pod.ready for pod in mine)
    old = [pod for pod in seen.pods if pod.revision != wish.id]
    if ready >= wish.replicas and len(mine) <= wish.replicas and not old:
        if wish.replicas == 0:
            return _ready(Reason.SCALED_TO_ZERO, "Scaled to zero; the weights stay warm."), None
        return _ready(Reason.SERVING, f"{ready} of {wish.replicas} replicas answer."), None
    for look in (_look_at_children, _look_at_weights, _look_at_pods):
        telling = look(seen, wish, cache, mine)
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


def _look_at_children(
    seen: ServiceObservation, wish: Wish, _cache: ModelCache | None, _mine: Sequence[PodView]
) -> Telling | None:
    refused = [v for v in seen.deployments if v.revision == wish.id and v.refused is not None]
    if refused:
        return _not_ready(Reason.PODS_REFUSED, f"Pods cannot be created: {refused[0].refused}"), None
    return None


def _look_at_weights(
    _seen: ServiceObservation, wish: Wish, cache: ModelCache | None, mine: Sequence[PodView]
) -> Telling | None:
    """Weights are the reason as long as no node holds them, or while a pod waits for a node that does."""
    if wish.replicas == 0:
        return None
    if cache is None:
        return _not_ready(Reason.WEIGHTS_FETCHING, f"ModelCache {wish.cache} is being made."), None
    status = cache.status
    ready, desired = status.ready_nodes or 0, status.desired_nodes or 0
    waits = not mine or any(not pod.scheduled for pod in mine)
    if not waits or (ready >= desired and ready > 0):
        return None
    theirs = next((c for c in status.conditions if c.type == ConditionType.READY), None)
    reason = Reason.WEIGHTS_FETCHING
    if theirs is not None and theirs.reason in {Reason.WEIGHTS_FAILED, Reason.NO_MATCHING_NODE}:
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


def _look_at_pods(
    _seen: ServiceObservation, wish: Wish, _cache: ModelCache | None, mine: Sequence[PodView]
) -> Telling | None:
    waiting = [pod for pod in mine if not pod.ready]
    for pod in waiting:
        if pod.unschedulable is not None:
            return _not_ready(Reason.NO_CAPACITY, f"Pod {pod.name}: {pod.unschedulable}"), None
        if pod.restarts >= CRASHES and pod.last_exit is not None:
            return _not_ready(
                Reason.ENGINE_CRASHING,
                f"Pod {pod.name}: engine restarted {pod.restarts} times, {pod.last_exit}",
            ), None
        if pod.waiting_reason is not None and pod.waiting_reason != "CrashLoopBackOff":
            words = pod.waiting_message or pod.waiting_reason
            return _not_ready(
                Reason.IMAGE_UNAVAILABLE, f"Pod {pod.name}: {pod.waiting_reason}: {words}"
            ), None
    return _look_at_agents(wish, waiting)


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
            loading = LoadingStatus(
                percent=percent,
                bytes_done=min(done, total),
                bytes_total=total,
                eta=text.duration(max(left)) if left else None,
            )
            words = f"{len(told)} of {wish.replicas} replicas are loading"
        if state is AgentState.SERVING:
            words = "the model has answered; the kubelet has not asked yet"
        return _not_ready(reason, f"Pod {pod.name}: {words}"), loading
    if waiting and any(pod.scheduled for pod in waiting):
        return _not_ready(Reason.ENGINE_STARTING, f"Pod {waiting[0].name} is starting."), None
    return None
