"""ModelCache: on which nodes a warmer should run, which nodes are complete, and what to say about it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b

from preheat.api.conditions import ConditionType, Reason
from preheat.api.constants import ANNOTATION_NODES_FIRST, SHARED_SITE
from preheat.api.modelcache import (
    MOST_NODES,
    CacheMode,
    ModelCache,
    ModelCacheStatus,
    NodeCacheState,
    NodeCacheStatus,
    NodeFailure,
)
from preheat.config import OperatorConfig
from preheat.decide import conditions as say
from preheat.decide import sites, text
from preheat.decide.budget import Wait, limits_of
from preheat.decide.conditions import Verdict
from preheat.decide.neighbours import WAITS, Neighbourhood, decide_neighbours
from preheat.decide.observed import JobState, JobView, KeeperReport, NodeView, PodView, WarmerReport
from preheat.decide.placement import gpu_type_of, matching_nodes, types_there, untolerated
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, Plan, Write, timestamp
from preheat.decide.quarantine import LOOK_SECONDS, Mount, still_quarantined
from preheat.decide.troubles import Trouble, sentence, trouble_of, what_to_do
from preheat.decide.verification import verify_shared
from preheat.resources import caching, names
from preheat.resources.metadata import Manifest
from preheat.resources.places import places_for

RETRY_SECONDS = 300.0
"""A warmer that failed for good is tried again after this: a Secret may be right by then."""

OF_THE_DISK = frozenset({"DiskFull", "DiskError"})
"""Why a warmer may give up on one node where another would not."""

STUCK = frozenset(
    {
        Reason.WEIGHTS_FAILED,
        Reason.NO_MATCHING_NODE,
        Reason.OVER_BUDGET,
        Reason.NAME_TAKEN,
        Reason.CHILD_REFUSED,
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
    }
)
BAD = STUCK | {Reason.POD_NOT_STARTING, Reason.WEIGHTS_CORRUPT, Reason.CLAIM_NOT_BOUND}
WAITING_SECONDS = 10.0
"""How often it is looked at why there is no room yet."""


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
    waits: Mapping[str, Wait] = field(default_factory=dict)
    """By node: why its warmer has no room there."""
    corrupt: Mapping[str, str] = field(default_factory=dict)
    """By node: what was found wrong with the weights that lay there."""
    verified: datetime | None = None
    """When what lies on a shared volume was last found right; known once it was decided what to verify."""
    wrong: Mapping[str, datetime] = field(default_factory=dict)
    """By node: when what lies there was found wrong, unless it was fetched anew since."""
    mounts: Sequence[Mount] = ()
    """The pods that mount the weights; only looked up where some were wrong."""
    in_use: bool = False
    """Whether a Deployment with replicas mounts the weights."""
    orphans: Sequence[Manifest] = ()
    """Jobs of ours whose cache of the same name was deleted without them."""
    look_again: float | None = None
    """In how many seconds there may be more to see of Jobs and pods that do not start."""
    missed: Collection[str] = ()
    """Nodes whose kubelet does not find the image of a model pod there."""
    verifier: JobView | None = None
    """The Job that hashes what lies on a shared volume."""
    verification: KeeperReport | None = None
    """What it said last."""
    seeders: Sequence[JobView] = ()
    seeder_pods: Mapping[str, PodView] = field(default_factory=dict)
    """By node."""
    issuer_keys: Manifest | None = None
    """The public keys that sign the cluster's tokens, None where they are not known: then nobody serves others."""


def decide_cache(cache: ModelCache, seen: CacheObservation, config: OperatorConfig, now: datetime) -> Plan:
    """Return what to do for one ModelCache."""
    key = caching.cache_key(cache)
    matching = matching_nodes(cache.spec.placement, seen.nodes)
    jobs = {job.node: job for job in seen.jobs if not job.deleting}
    leaving = {job.node: job.name for job in seen.jobs if job.deleting and job.node not in jobs}
    resolved = sites.resolved(cache, seen.reports)
    chosen = sites.instead_of_nodes(cache, jobs, key, resolved) or _choose(cache, matching, seen, key)
    told = {node.name: node for node in cache.status.nodes}
    places = places_for(cache, seen.paths, resolved, config)
    unsized = _unsized(cache, chosen, config)
    around = _around(key, chosen, matching, jobs, leaving, seen, unsized)
    near = decide_neighbours(cache, around, seen.issuer_keys, config, now)
    again = verify_shared(cache, jobs.get(SHARED_SITE), seen.verifier, seen.verification, config, now)
    seen = replace(
        seen,
        look_again=_sooner(seen.look_again, near.look_again_seconds, again.look_again_seconds),
        corrupt={**seen.corrupt, **again.corrupt},
        verified=again.verified,
    )
    states = [
        _remembering(
            _waiting(
                _without_weights(node, jobs.get(node.name), seen, key, told.get(node.name))
                or _node_status(node, jobs.get(node.name), seen, key, told.get(node.name)),
                near.waits,
                leaving,
            ),
            jobs.get(node.name),
            seen.reports.get(node.name),
            told.get(node.name),
        )
        for node in chosen
    ]
    writes: list[Write] = [
        *_stale_jobs(cache, seen, {node.name for node in chosen}, now),
        *sites.answers_lost(cache, jobs, seen.reports, resolved),
        *sites.forgetting(seen.missed, seen.nodes, jobs, key, cache.namespace, now),
        *again.writes,
        *(Apply(standing, once=True) for standing in places.standing()),
    ]
    if seen.orphans:
        # Warmers of a cache of this name that was deleted without them: new ones go on where they were.
        writes = [
            Delete("Job", cache.namespace, job.name, job.uid) for job in map(JobView.from_body, seen.orphans)
        ]
        return _plan(cache, seen, key, states, writes, now)
    writes += near.writes
    for node in chosen:
        if node.name not in near.begin:
            continue
        waits = caching.lies_on_disks(cache) and bool(limits_of(node, config)) and key not in node.caches
        warmer = places.warmer(node.name, boot=node.boot, waits=waits)
        writes.append(Apply(near.begin[node.name].told_to(warmer), once=True))
    return _plan(cache, seen, key, states, writes, now)


def _unsized(cache: ModelCache, chosen: Sequence[NodeView], config: OperatorConfig) -> frozenset[str]:
    """Return the nodes with a budget on which nobody knows how much these weights take: a warmer there finds it out.

    A cache that was deleted and made again finds its weights where they were, and its size forgotten.
    """
    if cache.status.total_bytes is not None or not caching.lies_on_disks(cache):
        return frozenset()
    return frozenset(node.name for node in chosen if limits_of(node, config))


def _around(
    key: str,
    chosen: Sequence[NodeView],
    matching: Sequence[NodeView],
    jobs: Mapping[str, JobView],
    leaving: Collection[str],
    seen: CacheObservation,
    unsized: Collection[str],
) -> Neighbourhood:
    return Neighbourhood(
        key=key,
        missing=[
            node.name
            for node in chosen
            if (key not in node.caches or node.name in unsized)
            and node.name not in jobs
            and node.name not in leaving
        ],
        chosen=frozenset(node.name for node in chosen),
        holders=[node for node in matching if key in node.caches],
        labelled=frozenset(node.name for node in seen.nodes if key in node.caches),
        warmers=jobs,
        pods=seen.pods,
        reports=seen.reports,
        refused=frozenset(node for node, wait in seen.waits.items() if wait.refused),
        seeders=seen.seeders,
        seeder_pods=seen.seeder_pods,
        narrow=caching.shows_one_cache(seen.paths.get(names.volume_name(key, "serve"), ""), key),
    )


LEAVING = "JobLeaving"
"""The reason of a node whose last Job is being deleted and does not go: it has the name that the next one gets."""


def _waiting(state: NodeCacheStatus, waits: Mapping[str, str], leaving: Mapping[str, str]) -> NodeCacheStatus:
    if state.reason is not None:
        return state
    if state.name in leaving and state.state is not NodeCacheState.READY:
        words = f"Job {leaving[state.name]} is being deleted; waiting until it and its pod are gone"
        return state.model_copy(update={"reason": LEAVING, "message": words[:512]})
    if state.name in waits:
        return state.model_copy(update={"reason": WAITS, "message": waits[state.name][:512]})
    return state


def _remembering(
    state: NodeCacheStatus,
    job: JobView | None,
    report: WarmerReport | None,
    before: NodeCacheStatus | None,
) -> NodeCacheStatus:
    """Return a node's status with how its last warmer that gave up ended: the next one takes its place after a while.

    A Job that failed without last words says nothing. It is counted once, by the time at which it failed.
    """
    if state.state is NodeCacheState.READY:
        return state
    known = before.last_failure if before is not None else None
    if job is not None and job.state is JobState.FAILED and job.ended is not None and _gave_up(report):
        reason, time = (report.reason if report else "")[:64], timestamp(job.ended)
        if known is None or known.reason != reason:
            known = NodeFailure(reason=reason, time=time)
        elif known.time != time:
            known = NodeFailure(reason=reason, time=time, times=known.times + 1)
    return state.model_copy(update={"last_failure": known}) if known is not None else state


def _gave_up(report: WarmerReport | None) -> bool:
    return report is not None and report.state == "Failed" and bool(report.reason)


def _sooner(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def lot(key: str, node: str) -> bytes:
    """Return what decides between nodes that are as good as each other for a cache: the smallest wins."""
    return blake2b(f"{key} {node}".encode(), digest_size=8).digest()


def _choose(
    cache: ModelCache, matching: Sequence[NodeView], seen: CacheObservation, key: str
) -> list[NodeView]:
    """Return the nodes that should hold the weights: as many as are asked for, MOST_NODES at most.

    Those on which pods may start; of them those that its service names (``ANNOTATION_NODES_FIRST``): a rollout takes
    them next. Then nodes of the preferred GPU type; among those, the ones that hold the weights already, then the
    ones that are at it (not those without room, or whose disk failed the last warmer), then by a hash of cache and
    node: a thousand caches spread over all nodes that match.
    """
    placement = cache.spec.placement
    preference = {gpu_type: rank for rank, gpu_type in enumerate(placement.gpu_types)}
    busy = {job.node for job in seen.jobs}
    broken = _with_broken_disks(cache, seen)

    first = frozenset(filter(None, cache.annotations.get(ANNOTATION_NODES_FIRST, "").split(",")))

    def rank(node: NodeView) -> tuple[bool, bool, int, bool, bool, bool, bytes]:
        gpu_type = gpu_type_of(node)
        preferred = preference.get(gpu_type, len(preference)) if gpu_type else len(preference)
        there = key in node.caches
        refused = node.name in seen.waits and seen.waits[node.name].refused
        full = not there and (refused or node.name in broken)
        keeps_off, later = key in node.avoided or node.gpu_fault is not None, node.name not in first
        return keeps_off, later, preferred, not there, full, node.name not in busy, lot(key, node.name)

    count = MOST_NODES if placement.nodes is None else placement.nodes
    return sorted(sorted(matching, key=rank)[:count], key=lambda node: node.name)


def _with_broken_disks(cache: ModelCache, seen: CacheObservation) -> frozenset[str]:
    """Return the nodes on which the last warmer gave up for the disk's sake, as Jobs that are still there or the status tell."""
    told = {
        node.name
        for node in cache.status.nodes
        if node.last_failure and node.last_failure.reason in OF_THE_DISK
    }
    failed = {job.node for job in seen.jobs if job.state is JobState.FAILED}
    reports = ((node, seen.reports.get(node)) for node in failed)
    return frozenset(told | {node for node, report in reports if report and report.reason in OF_THE_DISK})


def _stale_jobs(
    cache: ModelCache, seen: CacheObservation, chosen: Collection[str], now: datetime
) -> list[Delete]:
    known = {node.name for node in seen.nodes} | sites.NO_NODES

    def is_stale(job: JobView) -> bool:
        if job.deleting:
            return False
        if job.node not in known or (job.suspended and job.node not in chosen):
            return True
        if job.state is not JobState.FAILED:
            return False
        if _is_over_budget(seen.reports.get(job.node)) and cache.status.total_bytes:
            return True  # its size is on record: the next waits until there is room for it
        return job.ended is not None and now - job.ended > timedelta(seconds=RETRY_SECONDS)

    return [Delete("Job", cache.namespace, job.name, job.uid) for job in seen.jobs if is_stale(job)]


def _is_over_budget(report: WarmerReport | None) -> bool:
    """Tell whether a warmer has found out how large the weights are, and that it has no room for them."""
    failed = report is not None and report.state == "Failed" and report.reason == Reason.OVER_BUDGET
    return failed and report is not None and report.bytes_total > 0


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
            reason=(report.reason if report and report.reason else SPEECHLESS)[:64],
            message=(report.message if report else "The warmer gave up; see the logs of its Job.")[:512],
        )
    if report is not None and report.state == "Failed":
        return _tried_again(node, percent, report.reason or SPEECHLESS, report.message)
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


LEAVES = "these weights leave the node's disk: others need the room, and replicas use none of these"
_OF_ROOM = frozenset({Reason.OVER_BUDGET, Reason.MAKING_ROOM, Reason.EVICTED})


def _without_weights(
    node: NodeView,
    job: JobView | None,
    seen: CacheObservation,
    key: str,
    before: NodeCacheStatus | None,
) -> NodeCacheStatus | None:
    """Return what there is to say of weights that had to leave a node, or that have no room on it."""
    if key in node.caches:
        return None
    report, wait = seen.reports.get(node.name), seen.waits.get(node.name)
    reason, message = Reason.MAKING_ROOM, ""
    if job is not None and not job.suspended:
        if report is not None and _is_over_budget(report):
            message = report.message
    elif key in node.leaving:
        reason, message = Reason.EVICTED, LEAVES
    elif wait is not None:
        reason, message = Reason.OVER_BUDGET if wait.refused else Reason.MAKING_ROOM, wait.message
    elif node.name in seen.corrupt:
        reason, message = Reason.WEIGHTS_CORRUPT, f"{seen.corrupt[node.name]}: put aside, and fetched anew"
    elif before is not None and before.reason in _OF_ROOM:
        message = before.message or ""
    if not message:
        return None
    state = NodeCacheState.EVICTING if reason is Reason.EVICTED else NodeCacheState.PENDING
    return NodeCacheStatus(name=node.name, state=state, percent=0, reason=reason, message=message[:512])


AGAIN = "; tried again by itself"
SPEECHLESS = "WarmerFailed"
"""The reason of a node whose warmer gave up and left no last words."""


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
    if pod is not None and sites.is_unbound(pod):
        return Trouble(Reason.CLAIM_NOT_BOUND, Reason.CLAIM_NOT_BOUND, UNBOUND)
    return trouble_of(pod) if pod is not None else None


UNBOUND = "The claim has no volume yet; kubectl describe pvc says why"
_TOLD = frozenset(
    {
        Reason.PODS_REFUSED,
        Reason.REFERENCE_MISSING,
        Reason.POD_NOT_STARTING,
        Reason.CLAIM_NOT_BOUND,
        Reason.OVER_BUDGET,
        Reason.EVICTED,
        Reason.WEIGHTS_CORRUPT,
    }
)
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
    labelled = {node.name for node in seen.nodes if key in node.caches}
    quarantined = still_quarantined(before.quarantined or (), seen.wrong, labelled, seen.mounts)
    status = ModelCacheStatus(
        observed_generation=cache.generation,
        conditions=say.conditions(verdicts, before.conditions, cache.generation, now),
        key=key,
        resolved_revision=sites.resolved(cache, seen.reports)
        or (named[0].resolved_revision if named else before.resolved_revision),
        manifest_sha256=named[0].manifest_sha256 if named else before.manifest_sha256,
        total_bytes=total,
        percent=sum(state.percent for state in states) // len(states) if states else 0,
        speed=text.speed(speed) if speed > 0 else None,
        eta=text.duration(max(left)) if left and not verdict.holds else None,
        in_use=seen.in_use,
        last_used_time=timestamp(now) if before.in_use and not seen.in_use else before.last_used_time,
        last_verified_time=timestamp(seen.verified) if seen.verified else before.last_verified_time,
        ready_nodes=ready,
        desired_nodes=_desired_nodes(cache, states),
        node_summary=_summary(cache, ready, states),
        nodes=states,
        quarantined=quarantined or None,
    )
    # Ask for progress as long as a warmer runs; everything else wakes the loop by itself.
    running = any(
        job.state is JobState.ACTIVE and (pod := seen.pods.get(job.node)) is not None and pod.ip
        for job in seen.jobs
    )
    retry = any(job.state is JobState.FAILED for job in seen.jobs)
    delay = POLL_SECONDS if running else RETRY_SECONDS / 5 if retry else RESYNC_SECONDS
    if seen.waits:
        delay = min(delay, WAITING_SECONDS)
    if quarantined:
        delay = min(delay, LOOK_SECONDS)
    if any(job.state is JobState.FAILED and _is_over_budget(seen.reports.get(job.node)) for job in seen.jobs):
        delay = POLL_SECONDS
    delay = min(delay, seen.look_again or delay)
    drafts = say.events(verdicts, before.conditions, BAD)
    if caching.made_for(cache) is not None:
        # Its service tells how far it is; of its own it has only trouble to tell.
        drafts = [draft for draft in drafts if draft.warning]
    return Plan(tuple(writes), status.to_api(), tuple(drafts), delay)


def _desired_nodes(cache: ModelCache, states: Sequence[NodeCacheStatus]) -> int:
    wanted = sites.wanted_nodes(cache, states)
    return len(states) if wanted is None else wanted


def _summary(cache: ModelCache, ready: int, states: Sequence[NodeCacheStatus]) -> str:
    is_shared = cache.spec.storage.mode is CacheMode.SHARED
    return "shared" if is_shared else f"{ready}/{_desired_nodes(cache, states)}"


def _verdict(cache: ModelCache, seen: CacheObservation, states: Sequence[NodeCacheStatus]) -> Verdict:
    wanted = sites.wanted_nodes(cache, states)
    desired = _desired_nodes(cache, states)
    failed = [state for state in states if state.state is NodeCacheState.FAILED]
    ready = sum(state.state is NodeCacheState.READY for state in states)
    held = sites.progress(cache, states, ready, desired) + _left_out(cache, seen, states)
    if failed:
        first = failed[0]
        who = held if first.name in sites.NO_NODES else f"{len(failed)} of {desired} nodes failed."
        return Verdict(
            ConditionType.READY,
            False,
            Reason.WEIGHTS_FAILED,
            f"{who} {first.name}: {first.reason}: {first.message}",
        )
    if ready >= desired and (desired > 0 or wanted == 0):
        return Verdict(ConditionType.READY, True, Reason.WEIGHTS_READY, held)
    if len(states) < desired or not states:
        return Verdict(ConditionType.READY, False, Reason.NO_MATCHING_NODE, _no_node(cache, seen, states))
    for state in states:
        if state.state in {NodeCacheState.PENDING, NodeCacheState.EVICTING} and state.reason in _TOLD:
            reason = Reason(state.reason)
            words = f"{state.name}: {sentence(state.message or '')}{what_to_do(reason, cache.namespace)}"
            return Verdict(ConditionType.READY, False, reason, f"{held} {words}")
    waiting = next((state for state in states if state.message), None)
    detail = f" {waiting.name}: {waiting.reason}: {waiting.message}" if waiting else ""
    return Verdict(ConditionType.READY, False, Reason.WEIGHTS_FETCHING, f"{held}{detail}")


def _left_out(cache: ModelCache, seen: CacheObservation, states: Sequence[NodeCacheStatus]) -> str:
    """Say that more nodes match than one cache can be on; nothing where they do not."""
    placement = cache.spec.placement
    if placement.nodes is not None or len(states) < MOST_NODES:
        return ""
    matching = len(matching_nodes(placement, seen.nodes))
    if matching <= MOST_NODES:
        return ""
    return (
        f" {matching} nodes match, and a ModelCache is on {MOST_NODES} of them at most: ask for fewer in "
        "`placement`, and make another ModelCache for the others."
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
        asked.append(
            (
                f"with gpuTypes {' or '.join(placement.gpu_types)} (there are: {types_there(nodes)})",
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
