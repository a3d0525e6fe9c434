"""LLMDeployment: one pass's decision, what is written. ``wish`` says what is wanted, ``telling`` what is said."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from preheat.api.constants import LABEL_REVISION
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.decide.capacity import fitting_nodes
from preheat.decide.observed import DeploymentView, is_controlled_by
from preheat.decide.ownership import is_orphan
from preheat.decide.plan import Adopt, Apply, Delete, Plan, Write
from preheat.decide.rollout import Progress, next_old
from preheat.decide.telling import refusal, telling_plan
from preheat.decide.wish import ServiceObservation, Wish, make_wish, ready_nodes, runs, stored_revisions
from preheat.errors import InvalidSpec
from preheat.resources import caching, names, serving
from preheat.resources.metadata import owner_reference
from preheat.resources.serving import Revision

MOST_NODES = 1000
"""On no more nodes than this can one cache be (the bound of its spec.placement.nodes)."""


def decide_service(
    service: LLMDeployment, seen: ServiceObservation, config: OperatorConfig, now: datetime
) -> Plan:
    """Return what to do for one LLMDeployment."""
    stored = stored_revisions(service, seen)
    orphans = [body for body in seen.children if is_orphan(body)]
    try:
        caching.wanted_placement(service)
        wish = make_wish(service, seen, stored, config)
    except InvalidSpec as problem:
        return refusal(service, seen, str(problem), now)
    if orphans:
        # What an LLMDeployment of the same name left behind runs: take it over before anything is decided of it.
        adoptions: list[Write] = [Adopt(body, owner_reference(service)) for body in orphans]
        return telling_plan(service, seen, wish, adoptions, now)
    kept = _kept_revisions(service, stored, wish)
    old_replicas = _old_replicas(wish, seen)
    writes: list[Write] = [
        *_deletions(service, seen, stored, kept, wish, old_replicas),
        *_applies(service, seen, wish, stored, old_replicas, config),
    ]
    return telling_plan(service, seen, wish, writes, now)


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
            weights_warm=ready_nodes(wish, seen) > 0,
        )
    )
    # The oldest give up theirs first, so that the newest that serves stays longest.
    result = {}
    for view in sorted(old, key=lambda view: -_serving(view, seen)):
        result[view.name] = min(view.replicas, left)
        left -= result[view.name]
    return result


def _serving(view: DeploymentView, seen: ServiceObservation) -> int:
    return sum(pod.ready for pod in seen.pods if runs(view, pod))


def _deletions(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    kept: frozenset[str],
    wish: Wish,
    old_replicas: Mapping[str, int],
) -> list[Write]:
    """Return what may go: revisions beyond the history limit that run nothing, and caches nobody uses.

    And Deployments whose revision somebody deleted, once nothing of them is needed: they cannot be shrunk.
    """
    running = {view.revision for view in seen.deployments if view.replicas > 0}
    running |= {pod.revision for pod in seen.pods}
    running |= {view.revision for view in seen.deployments if old_replicas.get(view.name, 0) > 0}
    gone = {revision.id for revision in stored} - kept - running
    used_caches = {r.cache for r in stored if r.id not in gone} | {wish.cache}
    pinned = {names.child_name(service.name, r.id, r.gpu_type) for r in stored}
    unpinned = {name for name, count in old_replicas.items() if count == 0 and name not in pinned}
    result: list[Write] = []
    for body in seen.children:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata or not is_controlled_by(body, service.uid):
            continue
        revision = (metadata.get("labels") or {}).get(LABEL_REVISION)
        is_unused_cache = body["kind"] == "ModelCache" and metadata["name"] not in used_caches
        is_unpinned = body["kind"] == "Deployment" and metadata["name"] in unpinned
        if is_unused_cache or is_unpinned or revision in gone:
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
        Apply(serving.make_network_policy(service.namespace, config)),
        Apply(serving.make_service(service)),
    ]
    if wish.replicas > 1:
        # Once made it stays: it lets a single replica be drained, as no budget would.
        writes.append(Apply(serving.make_disruption_budget(service)))
    if wish.makes_cache:
        nodes = _cache_nodes(service, seen, wish)
        writes.append(Apply(caching.make_cache(service, wish.cache, nodes)))
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
    available = len(fitting_nodes(service, seen.nodes))
    return max(1, min(available, max(1, wish.replicas) + service.spec.cache.warm_nodes, MOST_NODES))
