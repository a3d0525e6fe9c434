"""ModelCache: on which nodes a warmer should run, which nodes are complete, and what to say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from preheat.api.conditions import ConditionType, Reason
from preheat.api.constants import NODE_LABEL_READY
from preheat.api.modelcache import ModelCache, ModelCacheStatus, NodeCacheState, NodeCacheStatus
from preheat.config import OperatorConfig
from preheat.decide import conditions as say
from preheat.decide import text
from preheat.decide.conditions import Verdict
from preheat.decide.observed import JobState, JobView, NodeView, PodView, WarmerReport
from preheat.decide.placement import gpu_type_of, matching_nodes
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, LabelNode, Plan, Write
from preheat.resources import caching

RETRY_SECONDS = 300.0
"""A warmer that failed for good is tried again after this: a Secret may be right by then."""

BAD = frozenset({Reason.WEIGHTS_FAILED, Reason.NO_MATCHING_NODE, Reason.NAME_TAKEN, Reason.CHILD_REFUSED})
STUCK = BAD


@dataclass(frozen=True, slots=True)
class CacheObservation:
    """Everything that a pass over one ModelCache looks at."""

    nodes: Sequence[NodeView]
    jobs: Sequence[JobView]
    reports: Mapping[str, WarmerReport]
    """By node: what its warmer says, or said last."""
    pods: Mapping[str, PodView]
    """By node: the newest pod of its warmer."""


def decide_cache(cache: ModelCache, seen: CacheObservation, config: OperatorConfig, now: datetime) -> Plan:
    """Return what to do for one ModelCache."""
    key = caching.cache_key(cache)
    matching = matching_nodes(cache.spec.placement, seen.nodes)
    chosen = _choose(cache, matching, seen, key)
    jobs = {job.node: job for job in seen.jobs if not job.deleting}
    told = {node.name: node for node in cache.status.nodes}
    states = [_node_status(node, jobs.get(node.name), seen, key, told.get(node.name)) for node in chosen]
    writes: list[Write] = [
        *_stale_jobs(seen, {node.name for node in seen.nodes}, cache, now),
        *(Apply(volume, once=True) for volume in caching.make_volumes(cache, config)),
        *(Apply(claim, once=True) for claim in caching.make_claims(cache)),
    ]
    for node in chosen:
        job = jobs.get(node.name)
        if key in node.caches:
            continue
        if job is None:
            writes.append(Apply(caching.make_warmer(cache, node.name, config), once=True))
        elif job.state is JobState.COMPLETE:
            writes.append(LabelNode(node.name, caching.node_label(key), NODE_LABEL_READY))
    return _plan(cache, seen, key, states, writes, now)


def _choose(
    cache: ModelCache, matching: Sequence[NodeView], seen: CacheObservation, key: str
) -> list[NodeView]:
    """Return the nodes that should hold the weights.

    Nodes of the preferred GPU type first; among those, the ones that hold the weights already, then the
    ones that are at it, then by name.
    """
    placement = cache.spec.placement
    preference = {gpu_type: rank for rank, gpu_type in enumerate(placement.gpu_types)}
    busy = {job.node for job in seen.jobs}

    def rank(node: NodeView) -> tuple[int, bool, bool, str]:
        gpu_type = gpu_type_of(node)
        preferred = preference.get(gpu_type, len(preference)) if gpu_type else len(preference)
        return preferred, key not in node.caches, node.name not in busy, node.name

    return sorted(sorted(matching, key=rank)[: placement.nodes], key=lambda node: node.name)


def _stale_jobs(seen: CacheObservation, known: set[str], cache: ModelCache, now: datetime) -> list[Delete]:
    def is_stale(job: JobView) -> bool:
        if job.deleting:
            return False
        if job.node not in known:
            return True
        failed = job.state is JobState.FAILED
        return failed and job.ended is not None and now - job.ended > timedelta(seconds=RETRY_SECONDS)

    return [Delete("Job", cache.namespace, job.name, job.uid) for job in seen.jobs if is_stale(job)]


_STATES = {
    "Listing": NodeCacheState.LISTING,
    "Fetching": NodeCacheState.FETCHING,
    "Verifying": NodeCacheState.VERIFYING,
    "Published": NodeCacheState.VERIFYING,
}


_AT_IT = frozenset({NodeCacheState.LISTING, NodeCacheState.FETCHING, NodeCacheState.VERIFYING})


def _node_status(
    node: NodeView,
    job: JobView | None,
    seen: CacheObservation,
    key: str,
    before: NodeCacheStatus | None,
) -> NodeCacheStatus:
    """Return how far a node is. A warmer that is silent for a moment is where it was: silence is not zero."""
    if key in node.caches:
        return NodeCacheStatus(name=node.name, state=NodeCacheState.READY, percent=100)
    report, pod = seen.reports.get(node.name), seen.pods.get(node.name)
    percent = _percent(report)
    if percent is None:
        percent = before.percent if before is not None and job is not None else 0
    percent = min(percent, 99)
    if job is not None and job.state is JobState.FAILED:
        return NodeCacheStatus(
            name=node.name,
            state=NodeCacheState.FAILED,
            percent=percent,
            reason=(report.reason if report and report.reason else "WarmerFailed")[:64],
            message=(report.message if report else "The warmer gave up; see the logs of its Job.")[:512],
        )
    if report is not None and report.state in _STATES:
        return NodeCacheStatus(name=node.name, state=_STATES[report.state], percent=percent)
    why = _pod_trouble(pod)
    waits = before is None or before.state not in _AT_IT or job is None or why is not None
    return NodeCacheStatus(
        name=node.name,
        state=NodeCacheState.PENDING if waits or before is None else before.state,
        percent=percent,
        reason=why[0] if why else None,
        message=why[1][:512] if why else None,
    )


def _pod_trouble(pod: PodView | None) -> tuple[str, str] | None:
    if pod is None:
        return None
    if pod.unschedulable is not None:
        return "Unschedulable", pod.unschedulable
    if pod.waiting_reason is not None:
        return pod.waiting_reason, pod.waiting_message or pod.waiting_reason
    return None


def _percent(report: WarmerReport | None) -> int | None:
    if report is None or report.bytes_total <= 0:
        return None
    return min(100, 100 * report.bytes_done // report.bytes_total)


def _plan(
    cache: ModelCache,
    seen: CacheObservation,
    key: str,
    states: list[NodeCacheStatus],
    writes: list[Write],
    now: datetime,
) -> Plan:
    ready = sum(state.state is NodeCacheState.READY for state in states)
    verdict = _verdict(cache, seen, states)
    verdicts = say.summary(verdict, stuck=verdict.reason in STUCK)
    busy = [
        report
        for state in states
        if state.state is not NodeCacheState.READY and (report := seen.reports.get(state.name))
    ]
    before = cache.status
    total = max((report.bytes_total for report in seen.reports.values()), default=0) or before.total_bytes
    speed = sum(report.bytes_per_second for report in busy if report.state == "Fetching")
    left = [report.remaining_seconds for report in busy if report.remaining_seconds is not None]
    named = [report for report in seen.reports.values() if report.manifest_sha256]
    status = ModelCacheStatus(
        observed_generation=cache.generation,
        conditions=say.conditions(verdicts, before.conditions, cache.generation, now),
        key=key,
        resolved_revision=named[0].resolved_revision if named else before.resolved_revision,
        manifest_sha256=named[0].manifest_sha256 if named else before.manifest_sha256,
        total_bytes=total,
        percent=sum(state.percent for state in states) // len(states) if states else 0,
        speed=text.speed(speed) if speed > 0 else None,
        eta=text.duration(max(left)) if left and not verdict.holds else None,
        ready_nodes=ready,
        desired_nodes=_desired_nodes(cache, states),
        node_summary=f"{ready}/{_desired_nodes(cache, states)}",
        nodes=states,
    )
    # Ask for progress as long as a warmer runs; everything else wakes the loop by itself.
    running = any(
        job.state is JobState.ACTIVE and (pod := seen.pods.get(job.node)) is not None and pod.ip
        for job in seen.jobs
    )
    retry = any(job.state is JobState.FAILED for job in seen.jobs)
    delay = POLL_SECONDS if running else RETRY_SECONDS / 5 if retry else RESYNC_SECONDS
    return Plan(tuple(writes), status.to_api(), tuple(say.events(verdicts, before.conditions, BAD)), delay)


def _desired_nodes(cache: ModelCache, states: Sequence[NodeCacheStatus]) -> int:
    wanted = cache.spec.placement.nodes
    return len(states) if wanted is None else wanted


def _verdict(cache: ModelCache, seen: CacheObservation, states: Sequence[NodeCacheStatus]) -> Verdict:
    wanted = cache.spec.placement.nodes
    desired = _desired_nodes(cache, states)
    failed = [state for state in states if state.state is NodeCacheState.FAILED]
    ready = sum(state.state is NodeCacheState.READY for state in states)
    if failed:
        first = failed[0]
        return Verdict(
            ConditionType.READY,
            False,
            Reason.WEIGHTS_FAILED,
            f"{len(failed)} of {desired} nodes failed. {first.name}: {first.reason}: {first.message}",
        )
    if ready >= desired and (desired > 0 or wanted == 0):
        return Verdict(
            ConditionType.READY, True, Reason.WEIGHTS_READY, f"{ready} of {desired} nodes hold the weights."
        )
    if len(states) < desired or not states:
        return Verdict(ConditionType.READY, False, Reason.NO_MATCHING_NODE, _no_node(cache, seen, states))
    waiting = next((state for state in states if state.message), None)
    detail = f" {waiting.name}: {waiting.reason}: {waiting.message}" if waiting else ""
    return Verdict(
        ConditionType.READY,
        False,
        Reason.WEIGHTS_FETCHING,
        f"{ready} of {desired} nodes hold the weights.{detail}",
    )


def _no_node(cache: ModelCache, seen: CacheObservation, states: Sequence[NodeCacheStatus]) -> str:
    placement = cache.spec.placement
    wants = [f"gpuTypes {', '.join(placement.gpu_types)}"] if placement.gpu_types else []
    wants += [f"{key}={value}" for key, value in sorted(placement.node_selector.items())]
    asked = f" with {' and '.join(wants)}" if wants else ""
    need = "at least 1" if placement.nodes is None else str(placement.nodes)
    return (
        f"{len(states)} of {len(seen.nodes)} nodes are Ready, schedulable, tolerated and match{asked}; "
        f"{need} needed. Add such a node, or ask for less."
    )
