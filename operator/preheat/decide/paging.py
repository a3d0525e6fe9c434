"""On which nodes weights are read from the disk into memory ahead of a load. Pure.

    a replica has a node, and its engine has not begun to load        that node
    more are wanted, or expected within a load time, than have one    as many nodes with the weights and free GPUs
    a rollout                                                         of the nodes that it takes next, one

Nobody waits for it, and nothing is tried twice: a Job stays until its node's load is over, and one whose load comes no more for a
while yet, as a forecast that wavers would have it made again and again. Weights that came just now are read as well: the warmer
writes most of them past the page cache.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from preheat.api.conditions import Condition, ConditionType, Reason
from preheat.api.llmdeployment import LLMDeployment, PageCache
from preheat.api.modelcache import CacheMode, ModelCache
from preheat.config import OperatorConfig
from preheat.decide.capacity import fitting_nodes, memory_held
from preheat.decide.conditions import Verdict
from preheat.decide.observed import AgentState, JobState, NodeView, PodView, Puller
from preheat.decide.plan import PAGES, Apply, Delete, Write, apart
from preheat.decide.troubles import sentence
from preheat.decide.wish import ServiceObservation, Wish, the_cache
from preheat.resources.caching import cache_key
from preheat.resources.names import pager_name
from preheat.resources.paging import make_pager

KEPT_SECONDS = 600.0
"""From when it was made a pager is left for so long though its load is expected no more."""
UNHURT = "Nobody waits for it: the engine reads them from the disk."


def decide_pages(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    config: OperatorConfig,
    now: datetime,
    *,
    first: Collection[str],
    rolling: bool,
) -> tuple[list[Write], list[Verdict]]:
    """Return the writes for pagers, and the condition that tells where none could do its work.

    ``first``: the nodes that a rollout takes next. ``rolling``: whether one is under way.
    """
    if service.spec.cache.page_cache is PageCache.NEVER and not seen.pagers:
        return [], []
    cache = the_cache(wish, seen)
    mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
    loading = {pod.node: pod for pod in mine if pod.node and not pod.ready}
    near = _near(service, seen, wish, cache, mine, first, rolling=rolling)
    due = [*loading, *near]
    told = _told(service) if due else None
    is_refused = told is not None and told.status == "Unknown"
    there = {pager.job.node for pager in seen.pagers}
    new = [
        node.name
        for node in (seen.nodes if due and not is_refused else ())
        if node.name in due
        and node.name not in there
        and (node.name not in loading or _is_before_its_load(loading[node.name]))
        and cache is not None
        and _is_worth_it(service, seen, wish, cache, node, is_there=rolling or node.name in loading)
    ]
    size = (cache.status.total_bytes or 0) if cache is not None else 0
    stay = [*due, *_kept(service, seen, wish, mine, now)]
    writes: list[Write] = [
        *(
            Delete("Job", service.namespace, pager.job.name, pager.job.uid)
            for pager in seen.pagers
            if not pager.job.deleting and not _is_of(service, wish, pager, stay)
        ),
        *(Apply(make_pager(service, wish.revisions[0], node, size, config), once=True) for node in new),
    ]
    failed = [pager for pager in seen.pagers if _is_of(service, wish, pager, due) and _has_failed(pager)]
    return apart(PAGES, writes), _verdict(failed, told if is_refused else None)


def not_read(words: str) -> str:
    """Say why weights are not read ahead."""
    return f"Weights are not read into memory ahead of the load {sentence(words)} {UNHURT}"


def _near(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    cache: ModelCache | None,
    mine: Sequence[PodView],
    first: Collection[str],
    *,
    rolling: bool,
) -> list[str]:
    """Return the nodes on which a load is near though no replica has come there yet. Of equals those with a pager stay."""
    asked = service.spec.cache
    if asked.page_cache is not PageCache.AHEAD or asked.mode is not CacheMode.NODE or cache is None:
        return []
    placed = {pod.node for pod in mine if pod.node}
    expected = max(wish.replicas, (wish.forecast or 0) if wish.replicas else 0)
    missing = expected - sum(bool(pod.node) for pod in mine)
    key = cache_key(cache)
    used: dict[str, int] = {}
    for use in seen.uses:
        used[use.node] = used.get(use.node, 0) + use.count
    gpu, there = service.spec.hardware.gpu, {pager.job.node for pager in seen.pagers}
    ranked = sorted(
        (node.name not in there, node.name)
        for node in (fitting_nodes(service, seen.nodes) if missing > 0 else ())
        if key in node.caches - node.avoided - node.leaving
        and node.name not in placed
        and (
            node.name in first
            if rolling
            else node.allocatable.get(gpu.resource_name, 0) - used.get(node.name, 0) >= gpu.count
        )
    )
    return [name for _, name in ranked][: min(missing, 1) if rolling else missing]


def _is_before_its_load(pod: PodView) -> bool:
    """Tell whether a pod's engine has not read its weights yet. One that started again has them in memory as far as they fit."""
    report = pod.report
    if pod.restarts or (report is not None and (report.heals or report.engine_starts > 1)):
        return False
    if report is not None:
        return report.state is AgentState.WAITING_FOR_ENGINE
    return pod.starting or not pod.begun


def _is_worth_it(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    cache: ModelCache,
    node: NodeView,
    *,
    is_there: bool,
) -> bool:
    """Tell whether weights on a node may be read ahead: they are there, and fit into its memory beside what our own pods ask for.

    ``is_there``: whether what the replica asks for is among that already, or an old one's that goes.
    """
    asked, told = service.spec.cache, service.status.cache
    if asked.page_cache is not PageCache.AHEAD or asked.mode is not CacheMode.NODE or not wish.revisions:
        return False
    size = cache.status.total_bytes
    if told is None or told.name != wish.cache or not size or node.memory_bytes is None:
        return False
    replica = 0 if is_there else memory_held(wish.revisions[0].template)[1]
    return (
        cache_key(cache) in node.caches
        and size + seen.memory.get(node.name, 0) + replica <= node.memory_bytes
    )


def _is_of(service: LLMDeployment, wish: Wish, pager: Puller, due: Collection[str]) -> bool:
    """Tell whether a pager is for a load that is still due."""
    job = pager.job
    return not pager.orphan and job.node in due and job.name == pager_name(service.name, wish.id, job.node)


def _kept(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, mine: Sequence[PodView], now: datetime
) -> list[str]:
    """Return the nodes whose pager is left though no load is due there: it is young, and no replica has loaded there."""
    if service.spec.cache.page_cache is PageCache.NEVER or wish.replicas == 0:
        return []
    loaded = {pod.node for pod in mine if pod.ready}
    return [
        pager.job.node
        for pager in seen.pagers
        if pager.job.node not in loaded
        and pager.job.created is not None
        and (now - pager.job.created).total_seconds() < KEPT_SECONDS
    ]


def _has_failed(pager: Puller) -> bool:
    return pager.job.state is JobState.FAILED


def _told(service: LLMDeployment) -> Condition | None:
    """Return what is told of this spec's pagers. Unknown: none is let in, and none is tried while the same loads are due."""
    return next(
        (
            c
            for c in service.status.conditions
            if c.type == ConditionType.PAGE_CACHE_FILLED and c.observed_generation == service.generation
        ),
        None,
    )


def _verdict(failed: Sequence[Puller], refused: Condition | None) -> list[Verdict]:
    kind, reason = ConditionType.PAGE_CACHE_FILLED, Reason.PAGE_CACHE_NOT_FILLED
    if refused is not None:
        return [Verdict(kind, None, reason, refused.message)]
    for pager in failed[:1]:
        words = pager.report.message if pager.report is not None else ""
        why = words or f"the pager failed; see the logs of Job {pager.job.name}"
        return [Verdict(kind, False, reason, not_read(f"on {pager.job.node}: {why}"))]
    return []
