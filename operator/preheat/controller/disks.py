"""What lies on the disks of nodes, as far as labels, Jobs and last words tell: for the loops of nodes and of caches."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from preheat.api.constants import (
    ANNOTATION_VERIFY,
    COMPONENT_KEEPER,
    COMPONENT_SEEDER,
    COMPONENT_WARMER,
    LABEL_CACHE,
    LABEL_COMPONENT,
)
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse_header
from preheat.config import OperatorConfig
from preheat.controller.keys import (
    is_of,
    key_in,
    namespace_of,
    parsed_cache,
    running_keys,
    serve_path,
    used_namespaces,
)
from preheat.controller.view import Key, View, key_of
from preheat.decide.budget import SOAK_SECONDS, Allotment, DiskState, Entry, Wait, allot, limits_of
from preheat.decide.neighbours import CHEAP
from preheat.decide.nodes import Held, NodeObservation
from preheat.decide.observed import (
    JobState,
    JobView,
    KeeperReport,
    NodeView,
    PodView,
    WarmerReport,
    is_controlled_by,
    parse_time,
)
from preheat.decide.placement import matching_nodes
from preheat.decide.quarantine import Mount
from preheat.resources.caching import cache_key, lies_on_disks
from preheat.resources.metadata import Manifest
from preheat.resources.names import keeper_name, key_of_volume
from preheat.resources.serving import Revision, parse_controller_revision

Report = TypeVar("Report", WarmerReport, KeeperReport)


def observe_node(key: Key, view: View, config: OperatorConfig, now: datetime) -> NodeObservation:
    """Gather what a pass over one node looks at: its labels, the warmers there, its keeper, and what needs room."""
    node = view.derived(key, NodeView.from_body)
    there = [_beside_neighbours(held, node, view, config) for held in held_on(view, node, config)]
    keeper, report = keeper_of(view, node.name, config)
    limits = limits_of(node, config)
    leaves = node.leaving or any(not held.wanted for held in there)
    waits = any(held.warmer is not None and held.warmer.suspended for held in there)
    return NodeObservation(
        node=node,
        held=there,
        entries=entries(view, node, there, now) if waits else (),
        limits=limits,
        mounted=mounted_on(view, node.name) if leaves or waits else frozenset(),
        keeper=keeper,
        report=report,
        avoids=avoided_on(view, node, now),
    )


def _beside_neighbours(held: Held, node: NodeView, view: View, config: OperatorConfig) -> Held:
    """Return weights with the nodes that could serve them to a warmer that waits for room here."""
    job = held.warmer
    if job is None or not job.suspended or not config.neighbours or view.issuer_keys is None:
        return held
    owner = next((c for c in _caches(view) if c.key == held.key), None)
    if owner is None or owner.is_cheap:
        return held
    nodes = view.derived_of_all("Node", NodeView.from_body)
    bodies = view.children(("ModelCache", owner.namespace, owner.name), "Job")
    jobs = [view.derived(key_of(body), JobView.from_body) for body in bodies]
    return replace(
        held,
        holders=[
            other.name
            for other in nodes
            if held.key in other.caches and other.name != node.name and other.ready and other.schedulable
        ],
        seeders=[
            seeder.node
            for seeder in jobs
            if seeder.component == COMPONENT_SEEDER
            and seeder.state is JobState.ACTIVE
            and not seeder.deleting
        ],
    )


def avoided_on(view: View, node: NodeView, now: datetime) -> dict[str, datetime | None]:
    """Return with which weights no pod may start on a node, and until when.

    Where the same is true of every node that holds them, it is true of none: a replica somewhere is better than nowhere.
    """
    asked = _avoided_by_services(view, now)
    found: dict[str, datetime | None] = {
        key: until for (name, key), until in asked.items() if name == node.name
    }
    if node.gpu_fault is not None:
        found |= dict.fromkeys(node.caches)
    if not found:
        return {}
    others = [other for other in view.derived_of_all("Node", NodeView.from_body) if other.name != node.name]

    def has_another(key: str) -> bool:
        return any(
            key in other.caches and other.ready and other.gpu_fault is None and (other.name, key) not in asked
            for other in others
        )

    return {key: until for key, until in found.items() if has_another(key)}


def _avoided_by_services(view: View, now: datetime) -> dict[tuple[str, str], datetime]:
    """Return what the statuses of all LLMDeployments say: by node and key, until when."""
    found: dict[tuple[str, str], datetime] = {}
    for entries in view.derived_of_all("LLMDeployment", avoided_nodes):
        for name, key, text in entries:
            until = parse_time(text)
            if until is not None and now < until:
                found[name, key] = max(until, found.get((name, key), until))
    return found


def avoided_nodes(service: Manifest) -> frozenset[tuple[str, str, str]]:
    """Return which nodes an LLMDeployment says to be avoided: name, key of the weights, until when."""
    told = (service.get("status") or {}).get("avoidedNodes")
    entries = (entry for entry in told if isinstance(entry, dict)) if isinstance(told, list) else ()
    return frozenset((str(e.get("name")), str(e.get("key")), str(e.get("until"))) for e in entries)


def held_on(view: View, node: NodeView, config: OperatorConfig) -> list[Held]:
    """Return the weights of every cache that a label or a warmer of a node names."""
    found: dict[str, Held] = {}
    for body in view.children(("Node", "", node.name), "Job"):
        # Whose it is comes first: anybody may give a Job of theirs the marks of ours.
        cache = _cache_of_job(view, body)
        job = view.derived(key_of(body), JobView.from_body) if cache is not None else None
        if cache is not None and job is not None and job.component == COMPONENT_WARMER and not job.deleting:
            found[cache.key] = _held(cache, node, job)
    for key in (node.caches | node.warming | node.leaving) - found.keys():
        found[key] = Held(key, "", wanted=False)
    bare = {key for key, held in found.items() if held.warmer is None}
    if bare:
        for cache in _caches(view):
            if cache.key in bare:
                found[cache.key] = _held(cache, node, None)
        for key, namespace in used_namespaces(view):
            if key in bare and not found[key].wanted and is_of(view, key, namespace):
                found[key] = Held(key, namespace)
    return [_within_reach(found[key], view, config) for key in sorted(found)]


def _within_reach(held: Held, view: View, config: OperatorConfig) -> Held:
    """Return weights as a keeper sees them: what lies below another root, or was laid out by a release before 0.2, it does not."""
    path, home = serve_path(view, held.key), f"{config.cache_root}/{held.namespace}"
    if not path or not held.namespace or path in {home, f"{home}/{held.key}"}:
        return held
    return replace(held, verify_seconds=0, asked=None)


def mounted_on(view: View, node: str) -> frozenset[str]:
    """Return the keys of the weights that pods on a node mount, also those that are on their way out.

    What a pod says it mounts it mounts only where the volume is its namespace's. While a pod holds a volume, it is
    there.
    """
    found = (view.derived(pod, _mounts) for pod in view.keys("Pod"))
    return frozenset(
        key
        for where, key, namespace in filter(None, found)
        if where == node and namespace_of(view, key) == namespace
    )


def mounts_of(view: View, key: str) -> list[Mount]:
    """Return the pods that mount the weights of a key, also those that are on their way out."""
    found = []
    for pod in view.keys("Pod"):
        mounted = view.derived(pod, _mounts)
        created = view.derived(pod, _created)
        if mounted is None or created is None or mounted[1] != key:
            continue
        if mounted[2] == namespace_of(view, key):
            found.append(Mount(mounted[0], created))
    return found


def _created(body: Manifest) -> datetime | None:
    return parse_time(body["metadata"].get("creationTimestamp"))


def _mounts(pod: Manifest) -> tuple[str, str, str] | None:
    """Return on which node a pod that has not ended mounts which key, and the pod's namespace."""
    spec, phase = pod.get("spec") or {}, (pod.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in {"Succeeded", "Failed"}:
        return None
    claims = (volume["persistentVolumeClaim"].get("claimName", "") for volume in spec.get("volumes") or ())
    key = next((key for claim in claims if (key := key_of_volume(claim, "serve")) is not None), None)
    return None if key is None else (spec["nodeName"], key, pod["metadata"].get("namespace", ""))


def keeper_of(view: View, node: str, config: OperatorConfig) -> tuple[JobView | None, KeeperReport | None]:
    """Return a node's keeper, and what is known of what it did.

    A keeper may be cut short and tried again: what any of its pods found corrupt counts, and only the words of one that
    has ended well tell all. A Job that has ended well and whose words are lost counts as failed. It is in our own
    namespace: elsewhere anybody may give a Job of theirs the marks of a keeper.
    """
    body = view.get("Job", config.namespace, keeper_name(node))
    if body is None or not is_keepers(body):
        return None, None
    job = view.derived(key_of(body), JobView.from_body)
    # By uid: a keeper has the name of the one before it, whose pod may not be gone yet.
    pods = (
        pod
        for pod in view.children(("Node", "", node), "Pod")
        if pod["metadata"].get("namespace") == config.namespace and is_controlled_by(pod, job.uid)
    )
    words = (last_words(view.derived(key_of(pod), _keeper_pod), KeeperReport.from_json) for pod in pods)
    reports = [word for word in words if word is not None]
    best = next((report for report in reports if report.ended_well), next(iter(reports), None))
    if best is not None:
        corrupt = {key: why for report in [*reports, best] for key, why in report.corrupt.items()}
        best = replace(best, corrupt=corrupt)
    if job.state is JobState.COMPLETE and (best is None or not best.ended_well):
        job = replace(job, state=JobState.FAILED)
    return job, best


def entries(view: View, node: NodeView, there: Iterable[Held], now: datetime) -> list[Entry]:
    """Return what counts on a node's disk, and what waits for room there."""
    caches, needed, kept = {c.key: c for c in _caches(view)}, running_keys(view), _kept_keys(view, now)
    found = []
    for held in there:
        cache, job = caches.get(held.key), held.warmer
        if not held.on_disk:
            continue
        if held.key in node.caches:
            state = DiskState.READY
        elif held.key in node.leaving:
            state = DiskState.LEAVING
        elif job is not None and job.suspended:
            state = DiskState.WAITING
        elif job is not None or held.key in node.warming:
            state = DiskState.WARMING
        else:
            continue
        found.append(
            Entry(
                key=held.key,
                namespace=held.namespace,
                name=cache.name if cache else held.key,
                state=state,
                last_used=cache.last_used if cache else now,
                size_bytes=cache.size_bytes if cache else None,
                room_bytes=job.room_bytes if job else None,
                needed=(held.key, held.namespace) in needed,
                kept=held.key in kept,
                gave_up=cache is not None and cache.size_bytes is None and node.name in cache.gave_up_on,
            )
        )
    return found


def why_it_waits(cache: ModelCache, view: View, config: OperatorConfig, now: datetime) -> dict[str, Wait]:
    """Return why a cache's warmers have no room, by node. Only nodes with one that is suspended are looked at.

    Where one is refused, other nodes that would refuse it as well are told too: else each looks better than the last,
    and its warmer goes from one to the next for ever.
    """
    key, found = cache_key(cache), {}
    bodies = view.children(("ModelCache", cache.namespace, cache.name), "Job")
    jobs = [view.derived(key_of(body), JobView.from_body) for body in bodies]
    for job in jobs:
        if not job.suspended or job.deleting or view.get("Node", "", job.node) is None:
            continue
        node = view.derived(("Node", "", job.node), NodeView.from_body)
        allotment = _allotment(view, node, config, now)
        found[job.node] = allotment.waiting.get(key, Wait("waits for its turn"))
    refused = next((node for node, wait in found.items() if wait.refused), None)
    if refused is None or cache.spec.placement.nodes is None:
        return found
    begun = {job.node for job in jobs if job.state is JobState.ACTIVE}
    return {**found, **_refused_elsewhere(cache, refused, begun, view, config, now)}


def _refused_elsewhere(
    cache: ModelCache, refused: str, begun: Collection[str], view: View, config: OperatorConfig, now: datetime
) -> dict[str, Wait]:
    """Return which nodes would refuse a cache, as the node ``refused`` does. ``begun``: nodes that have a warmer of it."""
    key, found = cache_key(cache), {}
    there = view.derived(("Node", "", refused), NodeView.from_body)
    claim = next(e for e in entries(view, there, held_on(view, there, config), now) if e.key == key)
    for node in matching_nodes(cache.spec.placement, view.derived_of_all("Node", NodeView.from_body)):
        limits = limits_of(node, config)
        if not limits or node.name in begun or key in node.caches | node.leaving:
            continue
        held = [entry for entry in held_on(view, node, config) if entry.key != key]
        wait = allot([*entries(view, node, held, now), claim], limits, node.name).waiting.get(key)
        if wait is not None and wait.refused:
            found[node.name] = wait
    return found


def _allotment(view: View, node: NodeView, config: OperatorConfig, now: datetime) -> Allotment:
    """Return who gets room on a node: the same for all caches that wait there, until something changes."""

    def make() -> Allotment:
        there = held_on(view, node, config)
        return allot(entries(view, node, there, now), limits_of(node, config), node.name)

    return view.memo(("allotment", "", node.name), make)


def what_is_corrupt(cache: ModelCache, view: View, config: OperatorConfig) -> dict[str, str]:
    """Return what the keepers found wrong with a cache's weights, and no warmer has fetched anew since, by node."""
    key, found = cache_key(cache), {}
    for told in cache.status.nodes:
        if view.get("Node", "", told.name) is None:
            continue
        keeper, report = keeper_of(view, told.name, config)
        if keeper is not None and report is not None and key in report.corrupt:
            found[told.name] = report.corrupt[key]
    return found


def found_wrong(
    cache: ModelCache, view: View, config: OperatorConfig, jobs: Iterable[JobView]
) -> dict[str, datetime]:
    """Return where keepers found a cache's weights wrong, and when, unless they were fetched anew since, by node."""
    key, found = cache_key(cache), {}
    warmed = {job.node: job.ended for job in jobs if job.state is JobState.COMPLETE}
    for node in view.derived_of_all("Node", NodeView.from_body):
        if key not in node.caches | node.warming:
            continue
        keeper, report = keeper_of(view, node.name, config)
        since = None if keeper is None else keeper.ended or keeper.created
        if since is None or report is None or key not in report.corrupt:
            continue
        anew = warmed.get(node.name)
        if anew is None or anew <= since:
            found[node.name] = since
    return found


@dataclass(frozen=True, slots=True)
class _Cache:
    """What a node's loop looks at in a cache."""

    key: str
    namespace: str
    name: str
    uid: str
    verify_seconds: float
    asked: datetime | None
    on_disk: bool
    is_cheap: bool
    """Whether its source is in the cluster: nobody waits for a neighbour there."""
    size_bytes: int | None
    last_used: datetime
    nodes: frozenset[str]
    gave_up_on: frozenset[str]
    """Nodes on which its last warmer gave up."""


def _caches(view: View) -> Iterable[_Cache]:
    return (cache for cache in view.derived_of_all("ModelCache", _brief) if cache is not None)


def _brief(body: Manifest) -> _Cache | None:
    """Return a cache in brief. Of one whose spec cannot be read its status tells: its key, if any, and what it takes up."""
    key, cache, metadata = key_in(body), parsed_cache(body), body["metadata"]
    if key is None:
        return None
    status = parse_header(ModelCache, body).status
    used = parse_time(status.last_used_time)
    return _Cache(
        key=key,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        verify_seconds=cache.spec.verify_interval_seconds if cache else 0,
        on_disk=cache is None or lies_on_disks(cache),
        is_cheap=cache is None or cache.spec.source.uri.startswith(CHEAP),
        asked=parse_time((metadata.get("annotations") or {}).get(ANNOTATION_VERIFY)),
        size_bytes=status.total_bytes,
        nodes=frozenset(told.name for told in status.nodes),
        gave_up_on=frozenset(told.name for told in status.nodes if told.last_failure is not None),
        last_used=used or parse_time(metadata.get("creationTimestamp")) or datetime.min.replace(tzinfo=UTC),
    )


def _cache_of_job(view: View, job: Manifest) -> _Cache | None:
    metadata = job["metadata"]
    name = (metadata.get("labels") or {}).get(LABEL_CACHE)
    key = ("ModelCache", metadata.get("namespace", ""), name or "")
    if name is None or view.get(*key) is None:
        return None
    cache = view.derived(key, _brief)
    return cache if cache is not None and is_controlled_by(job, cache.uid) else None


def _held(cache: _Cache, node: NodeView, warmer: JobView | None) -> Held:
    return Held(
        cache.key,
        cache.namespace,
        warmer=warmer,
        chosen=node.name in cache.nodes,
        on_disk=cache.on_disk,
        verify_seconds=cache.verify_seconds if cache.on_disk else 0,
        asked=cache.asked if cache.on_disk else None,
    )


def is_keepers(body: Manifest) -> bool:
    """Tell whether a Job is a keeper."""
    return (body["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == COMPONENT_KEEPER


def _kept_keys(view: View, now: datetime) -> frozenset[str]:
    """Return the keys of the caches that a rollout would go back to.

    Those of each service's revision before the newest, until the newest has served for SOAK_SECONDS.
    """
    found = set()
    for key in view.keys("LLMDeployment"):
        if view.derived(key, _serves_since) is None or _is_fresh(view.derived(key, _serves_since), now):
            claim = _claim_before_the_newest(view.children(key, "ControllerRevision"))
            found |= {k for k in [key_of_volume(claim, "serve")] if k is not None}
    return frozenset(found)


def _serves_since(service: Manifest) -> datetime | None:
    conditions = (service.get("status") or {}).get("conditions") or ()
    ready = next((c for c in conditions if c.get("type") == "Ready" and c.get("status") == "True"), None)
    return parse_time(ready.get("lastTransitionTime")) if ready else None


def _is_fresh(since: datetime | None, now: datetime) -> bool:
    return since is None or (now - since).total_seconds() < SOAK_SECONDS


def _claim_before_the_newest(bodies: Iterable[Manifest]) -> str:
    revisions = [r for body in bodies if (r := parse_controller_revision(body)) is not None]
    newest: dict[str, Revision] = {}
    for revision in sorted(revisions, key=lambda revision: -revision.number):
        newest.setdefault(revision.id, revision)
    return next((revision.claim for revision in list(newest.values())[1:2]), "")


def _keeper_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="keeper")


def last_words(pod: PodView, read: Callable[[Mapping[str, Any]], Report]) -> Report | None:
    """Return what a pod's main container said last, None when it said nothing that can be read."""
    if pod.termination_message is None:
        return None
    try:
        return read(json.loads(pod.termination_message))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
