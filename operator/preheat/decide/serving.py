"""LLMDeployment: one pass's decision, what is written. ``wish`` says what is wanted, ``telling`` what is said."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from preheat.api.constants import ANNOTATION_BASELINE, ANNOTATION_SERVED, ANNOTATION_VERDICT, LABEL_REVISION
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import MOST_NODES, CacheMode, NodeCacheState
from preheat.config import OperatorConfig
from preheat.decide.ahead import Ahead, decide_pulls, look_ahead
from preheat.decide.autoscale import Outcome
from preheat.decide.capacity import fitting_nodes
from preheat.decide.conditions import Verdict
from preheat.decide.fallback import warm_first
from preheat.decide.front import decide_front
from preheat.decide.judgement.failure import condemned_caches, failure_of, marked
from preheat.decide.judgement.judge import (
    COMPARE_SECONDS,
    baseline_of,
    counted,
    is_judged,
    judge,
    serving_ids,
)
from preheat.decide.judgement.soak import soak_left_seconds, soaked
from preheat.decide.observed import is_controlled_by
from preheat.decide.ownership import is_orphan
from preheat.decide.paging import decide_pages
from preheat.decide.plan import POLL_SECONDS, Adopt, Apply, Delete, Plan, PricePod, Write, apart, timestamp
from preheat.decide.preflight import with_preflight
from preheat.decide.renewal import Renewal, renew
from preheat.decide.rollout import Method, Phase, Step, next_step
from preheat.decide.rollout.gather import Question, gather
from preheat.decide.rollout.told import finishing
from preheat.decide.target import Target, as_it_was, choose_target, is_proven, is_soaked, way_back
from preheat.decide.telling import Images, Rollout, refusal, telling_plan
from preheat.decide.traffic import Rolling, Traffic, decide_traffic
from preheat.decide.victims import COST, Scene, price
from preheat.decide.wish import (
    ServiceObservation,
    Wish,
    make_wish,
    ready_nodes,
    runs,
    scale,
    stored_revisions,
    the_cache,
)
from preheat.errors import InvalidSpec
from preheat.resources import caching, names, serving
from preheat.resources.metadata import owner_reference
from preheat.resources.serving import Revision


def decide_service(
    service: LLMDeployment, seen: ServiceObservation, config: OperatorConfig, now: datetime
) -> Plan:
    """Return what to do for one LLMDeployment."""
    stored = stored_revisions(service, seen)
    orphans = [body for body in seen.children if is_orphan(body)]
    target = choose_target(service, stored)
    wanted = serving.revision_id(service)
    own_cache = names.cache_name(service.name, serving.cache_source(service), serving.cache_storage(service))
    try:
        target = with_preflight(service, seen, stored, target)
        service = as_it_was(service, stored, target)
        caching.wanted_placement(service)
        scaled = scale(service, seen, now)
        wish = make_wish(service, seen, stored, config, now, scaled, target)
    except InvalidSpec as problem:
        ways, traffic = _ways_as_they_are(service, seen, now)
        return refusal(service, seen, str(problem), now, ways, traffic)
    if orphans:
        # What an LLMDeployment of the same name left behind runs: take it over before anything is decided of it.
        adoptions: list[Write] = [Adopt(body, owner_reference(service)) for body in orphans]
        return telling_plan(service, seen, wish, adoptions, now, scaled, target=target, planned=False)
    back = way_back(stored, wanted, serving_ids(seen)) if is_judged(target, stored) else None
    target = replace(target, alone=back is None and is_judged(target, stored))
    ahead = look_ahead(service, seen, wish, stored, now)
    failure = judge(service, seen, stored, back, wish, now, ahead) if back is not None else None
    if failure is not None:
        # First it is written down. Replicas move in the next pass, whoever makes it.
        verdict = _marks(service, stored, wish.id, ANNOTATION_VERDICT, failure.to_json())
        plan = telling_plan(service, seen, wish, verdict, now, scaled, target=target, planned=False)
        return replace(plan, requeue_after=POLL_SECONDS)
    if target.held and wish.id in serving_ids(seen) and not is_proven(stored, wish.id):
        wish = _served(wish, now)  # else nobody would know that it is good, once its last replica is lost
    if not is_soaked(stored, wish.id) and soak_left_seconds(service, seen, wish, now) == 0:
        wish = soaked(wish, now)
    # Whatever the history's limit: the spec's with its verdict, and the way back until the spec's is known to be good.
    kept = _kept_revisions(service, stored, wish) | {wanted, *([back.id] if back is not None else ())}
    question = _question(service, seen, wish, stored, target, now, ahead)
    step = next_step(question.observed, question.goal, question.rooms, question.limits)
    step = _announced(service, seen, step) if step else finishing(service, question)
    left = {r.id for r in stored if failure_of(stored, r.id) is not None} | (
        {wanted} if wish.going_back else set()
    )
    going = Rolling(wish.id, step, left - {wish.id}, wish.going_back)
    traffic = decide_traffic(service, seen.route, seen.pods, seen.deployments, going, now)
    if step is not None and step.chosen is Method.IN_PLACE and traffic.stay:
        step = _one_for_one(seen, step, wish.id)
    old_replicas = _old_replicas(service, wish, seen, step, traffic.stay)
    pulls, images = _pulls(service, seen, wish, ahead, _Under(step, question), config)
    pages, unread = decide_pages(
        service, seen, wish, config, now, first=question.nodes_first, rolling=step is not None
    )
    renewal = renew(service.namespace, seen, wish)
    writes: list[Write] = [
        *_marks_of_predecessors(service, seen, stored, back, wish, now),
        *renewal.prices,
        *_prices_of_old(service, seen, question, old_replicas),
        *_deletions(service, seen, stored, kept, wish, old_replicas, own_cache if target.held else ""),
        *([] if target.holds else _condemned(service, seen, stored)),
        *_applies(service, seen, wish, stored, old_replicas, renewal, config, _Under(step, question)),
        # What cannot be pulled ahead is pulled for a pod: nothing else waits for the write.
        *pulls,
        *pages,
        # Clients have to find what serves, whatever else is refused.
        *apart("front", _front(service, seen, wish, scaled, now)),
        *apart("gateway", traffic.writes),
    ]
    if scaled is not None:
        prices = _prices(service, seen, wish, scaled, renewal, now)
        writes = [*prices, *writes, *_memory(service, scaled, now)]
    rollout = Rollout(question, step) if step else None
    plan = telling_plan(
        service, seen, wish, writes, now, scaled, rollout, target, traffic, Images(ahead, (*images, *unread))
    )
    if back is None or wish.id not in serving_ids(seen):
        return plan
    # An agent that is silent now may tell the next time.
    return replace(plan, requeue_after=min(plan.requeue_after, COMPARE_SECONDS))


def _announced(service: LLMDeployment, seen: ServiceObservation, step: Step) -> Step:
    """Return the step without what ends a replica that serves, as long as its status does not tell that this is the way.

    A gap is announced before it begins, also where a status is told late because a thousand are.
    """
    told = service.status.rollout
    if step.chosen not in {Method.DRAIN_FIRST, Method.ONE_BY_ONE} or (told and told.chosen == step.chosen):
        return step
    now = {
        (v.revision, v.gpu_type): v.replicas
        for v in seen.deployments
        if (v.revision, v.gpu_type) in step.replicas
    }
    kept = {key: max(count, now.get(key, 0)) for key, count in step.replicas.items()}
    return replace(step, replicas=kept, look_again_seconds=POLL_SECONDS)


def _one_for_one(seen: ServiceObservation, step: Step, wanted: str) -> Step:
    """Return the step without new replicas: the old one whose place the next was to take stays for a gateway yet."""
    now = {(v.revision, v.gpu_type): v.replicas for v in seen.deployments}
    asked = {
        key: min(count, now.get(key, 0)) if key[0] == wanted else count
        for key, count in step.replicas.items()
    }
    return replace(step, replicas=asked, look_again_seconds=POLL_SECONDS)


def _question(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    stored: Sequence[Revision],
    target: Target,
    now: datetime,
    ahead: Ahead,
) -> Question:
    """Return what the planner is asked. Where a person alone may go back, nothing moves, as if it were paused."""
    question = gather(service, seen, wish, stored, now, ahead)
    return replace(question, limits=replace(question.limits, paused=True)) if target.holds else question


def rollout_ahead(
    service: LLMDeployment, seen: ServiceObservation, config: OperatorConfig, now: datetime
) -> Question:
    """Return what the planner would be asked: ``kubectl preheat plan`` goes on from there, on paper.

    Raises InvalidSpec as ``decide_service`` would say it.
    """
    stored = stored_revisions(service, seen)
    target = with_preflight(service, seen, stored, choose_target(service, stored))
    service = as_it_was(service, stored, target)
    wish = make_wish(service, seen, stored, config, now, scale(service, seen, now), target)
    return _question(service, seen, wish, stored, target, now, look_ahead(service, seen, wish, stored, now))


@dataclass(frozen=True, slots=True)
class _Under:
    """What a rollout asks for now; no step: nothing is under way."""

    step: Step | None
    question: Question


def _marks(
    service: LLMDeployment, stored: Sequence[Revision], identity: str, mark: str, text: str
) -> list[Write]:
    """Return the writes that have it remembered of a revision, on every GPU type that it is stored for."""
    mine = [revision for revision in stored if revision.id == identity]
    return [Apply(serving.make_controller_revision(service, marked(r, mark, text))) for r in mine]


def _served(wish: Wish, now: datetime) -> Wish:
    revisions = tuple(marked(r, ANNOTATION_SERVED, timestamp(now)) for r in wish.revisions)
    return replace(wish, revisions=revisions)


def _marks_of_predecessors(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    back: Revision | None,
    wish: Wish,
    now: datetime,
) -> list[Write]:
    """Return the writes that have it remembered who serves, and how, before it makes room for another revision."""
    found: list[Write] = []
    for revision in stored:
        identity = revision.id
        if (
            identity == wish.id
            or identity not in serving_ids(seen)
            or failure_of(stored, identity) is not None
        ):
            continue
        known = revision
        if not is_proven(stored, identity):
            known = marked(known, ANNOTATION_SERVED, timestamp(now))
        counts = counted(seen, identity) if back is not None and back.id == identity else None
        if counts is not None and baseline_of(stored, identity, wish.id) is None:
            known = marked(known, ANNOTATION_BASELINE, counts.to_json(wish.id))
        if known is not revision:
            found.append(Apply(serving.make_controller_revision(service, known)))
    return found


def _prices(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    scaled: Outcome,
    renewal: Renewal,
    now: datetime,
) -> list[Write]:
    """Return what has to be said of pods before a Deployment of the wanted revision is asked for fewer.

    Where replicas are renewed, that says which goes.
    """
    look = seen.scaling and (seen.scaling.look or seen.scaling.before)
    uses = [use for use in seen.uses if use.holder != f"{service.namespace}/{service.name}"]
    scene = Scene(service.namespace, look.readings if look else {}, scaled.load.phases, uses, now)
    found: list[Write] = []
    for revision in wish.revisions:
        name = names.child_name(service.name, revision.id, revision.gpu_type)
        view = next((view for view in seen.deployments if view.name == name), None)
        share = wish.shares[revision.gpu_type]
        if view is not None and view.replicas > share and name not in renewal.replicas:
            found += price([pod for pod in seen.pods if runs(view, pod) and not pod.deleting], share, scene)
    return found


def _prices_of_old(
    service: LLMDeployment, seen: ServiceObservation, question: Question, old_replicas: Mapping[str, int]
) -> list[Write]:
    """Return what has to be said of old pods so that those go whose GPUs the new revision can take.

    A ReplicaSet deletes what is not ready first: prices count among the ready ones.
    """
    useful = [name for room in question.rooms.values() for name in room.useful]
    rank = {name: place for place, name in enumerate(useful)}
    found: list[Write] = []
    for view in seen.deployments:
        live = [pod for pod in seen.pods if runs(view, pod) and not pod.deleting]
        ready = sorted(
            (pod for pod in live if pod.ready), key=lambda pod: (rank.get(pod.name, len(rank)), pod.name)
        )
        going = len(ready) - old_replicas.get(view.name, len(live))
        if 0 < going < len(ready):
            found += [
                PricePod(service.namespace, pod.name, pod.uid, wanted)
                for place, pod in enumerate(ready)
                if (wanted := COST if place < going and pod.name in rank else None) != pod.deletion_cost
            ]
    return found


def _front(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, scaled: Outcome | None, now: datetime
) -> list[Write]:
    """Return what has clients told when to come again while no replica is ready."""
    if seen.front is None:
        return []
    live = [pod for pod in seen.pods if not pod.deleting]
    there = ready_nodes(wish, seen) > 0
    return decide_front(service, seen.front, live, scaled, now, weights_there=there)


def _ways_as_they_are(
    service: LLMDeployment, seen: ServiceObservation, now: datetime
) -> tuple[list[Write], Traffic]:
    """Return what has clients find what serves while the spec is refused. Nothing is made that is not there.

    Replicas come and go meanwhile: one that was loading answers, one of a canary is lost.
    """
    writes, traffic = list[Write](), Traffic()
    if seen.front is not None and seen.front.live is not None:
        live = [pod for pod in seen.pods if not pod.deleting]
        writes += apart("front", decide_front(service, seen.front, live, None, now, weights_there=False))
    route, told = seen.route, service.status.revision
    if route is not None and route.live is not None and service.spec.rollout.gateway is not None and told:
        held = Rolling(told, Step({}, None, "", Phase.PAUSED, ""))
        traffic = decide_traffic(service, route, seen.pods, seen.deployments, held, now)
        writes += apart("gateway", traffic.writes)
    return writes, traffic


def _memory(service: LLMDeployment, scaled: Outcome, now: datetime) -> list[Write]:
    """Return the write of what the scaler must not forget, when it is due. Nothing waits for it, nor it for anything."""
    if scaled.keep is None:
        return []
    return apart("memory", [Apply(serving.make_scaler_memory(service, scaled.keep, timestamp(now)))])


def _kept_revisions(service: LLMDeployment, stored: Sequence[Revision], wish: Wish) -> frozenset[str]:
    """Return the revisions to keep: the wanted one and the newest old ones within the history limit."""
    newest: dict[str, int] = {}
    for revision in stored:
        newest[revision.id] = max(newest.get(revision.id, 0), revision.number)
    newest.pop(wish.id, None)
    ranked = sorted(newest, key=lambda identity: -newest[identity])
    return frozenset({wish.id, *ranked[: service.spec.rollout.revision_history_limit]})


def _old_replicas(
    service: LLMDeployment, wish: Wish, seen: ServiceObservation, step: Step | None, stay: Collection[str]
) -> dict[str, int]:
    """Return how many replicas each Deployment of an old revision should have, by name.

    As many as it has until the new Deployments are there: what the API server refuses takes nobody's place.
    ``stay``: revisions to which a gateway may still send requests. Those of their replicas that are ready stay.
    """
    there = {view.name for view in seen.deployments}
    wanted = {names.child_name(service.name, r.id, r.gpu_type) for r in wish.revisions}
    if wish.replicas > 0 and not wanted <= there:
        return {view.name: view.replicas for view in seen.deployments if view.revision != wish.id}
    asked = step.replicas if step is not None else {}
    ready = [pod for pod in seen.pods if pod.ready and not pod.deleting and pod.revision in stay]
    return {
        view.name: max(
            asked.get((view.revision, view.gpu_type), 0),
            min(view.replicas, sum(runs(view, pod) for pod in ready)),
        )
        for view in seen.deployments
        if view.revision != wish.id
    }


def _deletions(
    service: LLMDeployment,
    seen: ServiceObservation,
    stored: Sequence[Revision],
    kept: frozenset[str],
    wish: Wish,
    old_replicas: Mapping[str, int],
    held_cache: str,
) -> list[Write]:
    """Return what may go: revisions beyond the history limit that run nothing, and caches nobody uses.

    And Deployments whose revision somebody deleted, once nothing of them is needed: they cannot be shrunk.
    ``held_cache``: that of a revision that is held back, stored or not: without it nobody knew that it is too large, and it
    would be begun again and again.
    """
    running = {view.revision for view in seen.deployments if view.replicas > 0}
    running |= {pod.revision for pod in seen.pods}
    running |= {view.revision for view in seen.deployments if old_replicas.get(view.name, 0) > 0}
    gone = {revision.id for revision in stored} - kept - running
    used_caches = {r.cache for r in stored if r.id not in gone} | {wish.cache, held_cache}
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


def _condemned(service: LLMDeployment, seen: ServiceObservation, stored: Sequence[Revision]) -> list[Write]:
    """Return the deletion of our caches whose weights a revision failed for, as long as no node has them.

    Nobody fetches for ever what nobody wants any more. Who wants it again, by another spec or ``preheat.dev/retry``, has
    it made anew, and it tells of new tries alone.
    """
    uids = condemned_caches(stored)
    ours = {
        body["metadata"].get("uid")
        for body in seen.children
        if is_controlled_by(body, service.uid) and "deletionTimestamp" not in body["metadata"]
    }
    return [
        Delete("ModelCache", service.namespace, cache.name, cache.uid)
        for cache in seen.caches
        if cache.uid in uids and cache.uid in ours and not cache.status.ready_nodes
    ]


def _applies(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    stored: Sequence[Revision],
    old_replicas: Mapping[str, int],
    renewal: Renewal,
    config: OperatorConfig,
    rolling: _Under,
) -> list[Write]:
    writes: list[Write] = [
        # Old replicas go before new ones come: that frees their GPUs.
        *_resized(service, stored, old_replicas),
        Apply(serving.make_network_policy(service.namespace, config)),
        Apply(serving.make_service(service)),
    ]
    if wish.replicas > 1:
        # Once made it stays: it lets a single replica be drained, as no budget would.
        writes.append(Apply(serving.make_disruption_budget(service)))
    if wish.makes_cache:
        nodes = nodes_to_warm(service, wish.replicas, wish.forecast, len(fitting_nodes(service, seen.nodes)))
        first = _nodes_first(service, seen, wish, rolling)
        nodes = max(nodes, len(first))
        writes.append(Apply(caching.make_cache(service, wish.cache, nodes, wish.resolved, first)))
    for revision in wish.revisions:
        writes.append(Apply(serving.make_controller_revision(service, revision)))
        name = names.child_name(service.name, revision.id, revision.gpu_type)
        asked = renewal.replicas.get(name, _replicas(service, seen, wish, revision, rolling.step))
        writes.append(Apply(serving.make_deployment(service, revision, asked)))
    # A GPU type of this very revision that gets no replicas any more.
    used = {revision.gpu_type.value for revision in wish.revisions}
    idle = {
        view.name: 0 for view in seen.deployments if view.revision == wish.id and view.gpu_type not in used
    }
    return [*_resized(service, stored, {**idle, **_on_types_not_listed(seen, wish)}), *writes]


def _pulls(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    ahead: Ahead,
    rolling: _Under,
    config: OperatorConfig,
) -> tuple[list[Write], list[Verdict]]:
    """Return the writes that have images pulled ahead of replicas, and what is told of it."""
    first = _nodes_first(service, seen, wish, rolling) if rolling.step is not None else ()
    most = max(len(first), nodes_to_warm(service, wish.replicas, wish.forecast, len(seen.nodes)))
    return decide_pulls(
        service, seen, wish, ahead, config, first=first, most=most, rolling=rolling.step is not None
    )


def _on_types_not_listed(seen: ServiceObservation, wish: Wish) -> dict[str, int]:
    """Return how many replicas stay on GPU types that the spec lists no more: as many as are missing on those that it does.

    They need other GPUs than the new ones, so each goes when one of those answers.
    """
    listed = {gpu_type.value for gpu_type in wish.shares}
    ready = sum(
        pod.ready and not pod.deleting and pod.revision == wish.id and pod.gpu_type in listed
        for pod in seen.pods
    )
    left, found = max(0, wish.replicas - ready), dict[str, int]()
    for view in sorted(seen.deployments, key=lambda view: view.name):
        if view.revision == wish.id and view.gpu_type not in listed:
            live = sum(runs(view, pod) and not pod.deleting and pod.ready for pod in seen.pods)
            found[view.name] = min(view.replicas, live, left)
            left -= found[view.name]
    return found


def _nodes_first(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, rolling: _Under
) -> tuple[str, ...]:
    """Return the nodes that get the weights before others: those that a rollout takes next, and those of a later GPU type."""
    if wish.replicas == 0:
        return ()
    first = set(rolling.question.nodes_first if rolling.step is not None else ())
    if len(wish.shares) > 1:
        cache = the_cache(wish, seen)
        used: dict[str, int] = {}
        for use in seen.uses:
            used[use.node] = used.get(use.node, 0) + use.count
        mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
        coming = (
            {n.name for n in cache.status.nodes if n.state is not NodeCacheState.FAILED} if cache else set()
        )
        key = caching.cache_key(cache) if cache else ""
        first |= set(warm_first(service, wish.shares, seen.nodes, mine, key, coming, used))
    return tuple(sorted(first))


def _replicas(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, revision: Revision, step: Step | None
) -> int:
    """Return how many replicas a Deployment of the wanted revision is asked for: its share, or what a rollout allows.

    A shared volume is reached from every node, so no node's label keeps a pod off weights that are not complete:
    no replica is added before the cache is ready. Those that are there stay: a cache that is made again, or a
    warmer's Job that somebody deletes, ends no pod.
    """
    share = wish.shares[revision.gpu_type]
    if step is not None:
        share = step.replicas.get((revision.id, revision.gpu_type.value), share)
    if service.spec.cache.mode is not CacheMode.SHARED or ready_nodes(wish, seen) > 0:
        return share
    name = names.child_name(service.name, revision.id, revision.gpu_type)
    return min(share, next((view.replicas for view in seen.deployments if view.name == name), 0))


def _resized(service: LLMDeployment, stored: Sequence[Revision], replicas: Mapping[str, int]) -> list[Write]:
    """Return the writes that give Deployments of stored revisions so many replicas, by name."""
    by_name = {names.child_name(service.name, r.id, r.gpu_type): r for r in stored}
    return [
        Apply(serving.make_deployment(service, by_name[name], count))
        for name, count in replicas.items()
        if name in by_name
    ]


def nodes_to_warm(service: LLMDeployment, replicas: int, forecast: int | None, available: int) -> int:
    """Return on how many nodes the weights should lie: one per replica and the margin, as far as nodes go.

    ``forecast``: the most replicas that are expected within the time that a node needs to get the weights, None where
    nobody forecasts. It is what a scaler calls this with: weights are on a node before its first replica is decided.
    """
    expected = max(1, replicas, forecast or 0)
    return max(1, min(available, expected + service.spec.cache.warm_nodes, MOST_NODES))
