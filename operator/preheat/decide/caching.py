"""ModelCache: on which nodes a warmer should run, which nodes are complete, and what to say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

from preheat.api.conditions import ConditionType, Reason
from preheat.api.modelcache import ModelCache, ModelCacheStatus, NodeCacheState, NodeCacheStatus
from preheat.config import OperatorConfig
from preheat.decide import conditions as say
from preheat.decide import text
from preheat.decide.conditions import Verdict
from preheat.decide.observed import JobState, JobView, NodeView, PodView, WarmerReport
from preheat.decide.placement import gpu_type_of, matching_nodes, untolerated
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, Plan, Write
from preheat.decide.troubles import Trouble, sentence, trouble_of, what_to_do
from preheat.resources import caching
from preheat.resources.metadata import Manifest

RETRY_SECONDS = 300.0
"""A warmer that failed for good is tried again after this: a Secret may be right by then."""

STUCK = frozenset(
    {
        Reason.WEIGHTS_FAILED,
        Reason.NO_MATCHING_NODE,
        Reason.NAME_TAKEN,
        Reason.CHILD_REFUSED,
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
    }
)
BAD = STUCK | {Reason.POD_NOT_STARTING}


@dataclass(frozen=True, slots=True)
class CacheObservation:
    """Everything that a pass over one ModelCache looks at."""

    nodes: Sequence[NodeView]
    jobs: Sequence[JobView]
    reports: Mapping[str, WarmerReport]
    """By node: what its warmer says, or said last."""
    pods: Mapping[str, PodView]
    """By node: the newest pod of its warmer."""
    paths: Mapping[str, str]
    """Of the volumes that exist, by name."""
    orphans: Sequence[Manifest] = ()
    """Jobs of ours whose cache of the same name was deleted without them."""
    look_again: float | None = None
    """In how many seconds there may be more to see of Jobs and pods that do not start."""


def decide_cache(cache: ModelCache, seen: CacheObservation, config: OperatorConfig, now: datetime) -> Plan:
    """Return what to do for one ModelCache."""
    key = caching.cache_key(cache)
    matching = matching_nodes(cache.spec.placement, seen.nodes)
    chosen = _choose(cache, matching, seen, key)
    jobs = {job.node: job for job in seen.jobs if not job.deleting}
    told = {node.name: node for node in cache.status.nodes}
    place = caching.place_of(cache, seen.paths, config)
    states = [_node_status(node, jobs.get(node.name), seen, key, told.get(node.name)) for node in chosen]
    writes: list[Write] = [
        *_stale_jobs(seen, {node.name for node in seen.nodes}, cache, now),
        *(Apply(volume, once=True) for volume in caching.make_volumes(cache, place)),
        *(Apply(claim, once=True) for claim in caching.make_claims(cache, place)),
    ]
    if seen.orphans:
        # Warmers of a cache of this name that was deleted without them: new ones go on where they were.
        writes = [
            Delete("Job", cache.namespace, job.name, job.uid) for job in map(JobView.from_body, seen.orphans)
        ]
        return _plan(cache, seen, key, states, writes, now)
    for node in chosen:
        job = jobs.get(node.name)
        if key in node.caches:
            continue
        if job is None:
            writes.append(Apply(caching.make_warmer(cache, node.name, place, config), once=True))
    return _plan(cache, seen, key, states, writes, now)


def lot(key: str, node: str) -> bytes:
    """Return what decides between nodes that are as good as each other for a cache: the smallest wins."""
    return blake2b(f"{key} {node}".encode(), digest_size=8).digest()


def _choose(
    cache: ModelCache, matching: Sequence[NodeView], seen: CacheObservation, key: str
) -> list[NodeView]:
    """Return the nodes that should hold the weights.

    Nodes of the preferred GPU type first; among those, the ones that hold the weights already, then the
    ones that are at it, then by a hash of cache and node: a thousand caches spread over all nodes that match.
    """
    placement = cache.spec.placement
    preference = {gpu_type: rank for rank, gpu_type in enumerate(placement.gpu_types)}
    busy = {job.node for job in seen.jobs}

    def rank(node: NodeView) -> tuple[int, bool, bool, bytes]:
        gpu_type = gpu_type_of(node)
        preferred = preference.get(gpu_type, len(preference)) if gpu_type else len(preference)
        return preferred, key not in node.caches, node.name not in busy, lot(key, node.name)

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
    if report is not None and report.state == "Failed":
        return _tried_again(node, percent, report.reason or "WarmerFailed", report.message)
    if report is not None and report.state in _STATES:
        if report.state == "Listing" and before is not None and before.reason:
            # Another try that is no further yet than the one before it: why that failed still counts.
            return _tried_again(node, percent, before.reason, before.message or "")
        return NodeCacheStatus(name=node.name, state=_STATES[report.state], percent=percent)
    why = _trouble(job, pod)
    waits = before is None or before.state not in _AT_IT or job is None or why is not None
    return NodeCacheStatus(
        name=node.name,
        state=NodeCacheState.PENDING if waits or before is None else before.state,
        percent=percent,
        reason=_node_reason(why) if why else None,
        message=why.message[:512] if why else None,
    )


AGAIN = "; tried again by itself"


def _tried_again(node: NodeView, percent: int, reason: str, message: str) -> NodeCacheStatus:
    """Return that the last try failed and why. The Job makes more of them, with longer and longer pauses."""
    words = message.removesuffix(AGAIN)[: 512 - len(AGAIN)] + AGAIN
    return NodeCacheStatus(
        name=node.name, state=NodeCacheState.PENDING, percent=percent, reason=reason[:64], message=words
    )


def _trouble(job: JobView | None, pod: PodView | None) -> Trouble | None:
    """Return what keeps a warmer from starting: its pod cannot be made, or does not start."""
    if job is not None and job.complaint is not None:
        return Trouble(Reason.PODS_REFUSED, Reason.PODS_REFUSED, job.complaint)
    return trouble_of(pod) if pod is not None else None


_TOLD = frozenset({Reason.PODS_REFUSED, Reason.REFERENCE_MISSING, Reason.POD_NOT_STARTING})
"""What a node's reason is called as Ready's is. Other troubles go by the name of whoever refused."""


def _node_reason(trouble: Trouble) -> str:
    return trouble.reason if trouble.reason in _TOLD else trouble.told


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
    delay = min(delay, seen.look_again or delay)
    drafts = say.events(verdicts, before.conditions, BAD)
    if caching.made_for(cache) is not None:
        # Its service tells how far it is; of its own it has only trouble to tell.
        drafts = [draft for draft in drafts if draft.warning]
    return Plan(tuple(writes), status.to_api(), tuple(drafts), delay)


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
    for state in states:
        if state.state is NodeCacheState.PENDING and state.reason in _TOLD:
            reason = Reason(state.reason)
            words = f"{state.name}: {sentence(state.message or '')}{what_to_do(reason, cache.namespace)}"
            return Verdict(
                ConditionType.READY, False, reason, f"{ready} of {desired} nodes hold the weights. {words}"
            )
    waiting = next((state for state in states if state.message), None)
    detail = f" {waiting.name}: {waiting.reason}: {waiting.message}" if waiting else ""
    return Verdict(
        ConditionType.READY,
        False,
        Reason.WEIGHTS_FETCHING,
        f"{ready} of {desired} nodes hold the weights.{detail}",
    )


def _no_node(cache: ModelCache, seen: CacheObservation, states: Sequence[NodeCacheStatus]) -> str:
    """Say how many nodes there are, and how many of them each thing that is asked for leaves."""
    placement, nodes = cache.spec.placement, seen.nodes
    need = "at least 1" if placement.nodes is None else str(placement.nodes)
    asked: list[tuple[str, int]] = [
        ("Ready and schedulable", sum(node.ready and node.schedulable for node in nodes)),
    ]
    if placement.gpu_types:
        types = [gpu_type_of(node) for node in nodes]
        there = ", ".join(sorted({gpu for gpu in types if gpu is not None})) or "none that is known"
        asked.append(
            (
                f"with gpuTypes {' or '.join(placement.gpu_types)} (there are: {there})",
                sum(gpu in placement.gpu_types for gpu in types),
            )
        )
    asked += [
        (f"with {key}={value}", sum(node.labels.get(key) == value for node in nodes))
        for key, value in sorted(placement.node_selector.items())
    ]
    tolerated = sum(not untolerated(placement, node) for node in nodes)
    if tolerated < len(nodes):
        kept_out = sorted({taint.key for node in nodes for taint in untolerated(placement, node)})
        asked.append((f"without a taint that is not tolerated ({', '.join(kept_out[:5])})", tolerated))
    parts = "; ".join(f"{count} {what}" for what, count in asked)
    return f"{len(states)} of {len(nodes)} nodes match, {need} needed: {parts}. Add such a node, or ask for less."
