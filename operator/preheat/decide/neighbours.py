"""Which node asks the source, which a neighbour, which waits, and which serves. Pure.

    no node holds the weights      one asks the source, the others wait for it
    some do, others need them      seeders on nodes that do; warmers of the others begin with their addresses
    no seeder is there in time     one asks the source
    nobody needs them any more     the seeders go

A warmer's neighbours are written into its Job, so who serves whom is counted from what is there. Each seeder serves
four warmers at a time, and there are more seeders where more nodes wait: the nodes that hold the weights multiply,
and the source sends every byte once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b

from preheat.api.constants import ANNOTATION_APPLIED
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.decide.observed import JobState, JobView, NodeView, PodView, WarmerReport
from preheat.decide.plan import Apply, Delete, Write
from preheat.decide.troubles import trouble_of
from preheat.resources.caching import lies_on_disks, tolerations
from preheat.resources.metadata import Manifest
from preheat.resources.neighbours import Near, Peer, audience, make_seeder, make_seeder_policy

WARMERS_EACH = 4
"""How many warmers a seeder serves at a time."""
PEERS_EACH = 2
"""How many neighbours a warmer is told of, where there are so many: one may fail."""
SEEDERS_AT_MOST = 8
SEEDER_SECONDS = 30.0
"""For so long a new seeder is waited for. Then the source is asked."""
START_SECONDS = 120.0
"""A warmer whose pod does not run after this holds up no other."""
RETRY_SECONDS = 300.0
"""A seeder that ended is deleted after this, and its node may serve again."""
OF_THE_NODE = frozenset({"DiskFull", "DiskError", "OverBudget", "InternalError"})
"""Why a warmer may fail where another would not. When the source is away, it is so for all."""
WAITS = "WaitsForNeighbour"
CHEAP = ("pvc://",)
"""Sources in the cluster: nobody waits for a neighbour there."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """What there is of one cache. Mappings are by node."""

    key: str
    missing: Sequence[str]
    """Nodes that should hold the weights, do not, and have no warmer."""
    chosen: frozenset[str]
    """All nodes that should hold them, and can take a pod."""
    holders: Sequence[NodeView]
    """Nodes that hold them and can take a pod."""
    labelled: frozenset[str]
    """All nodes that hold them: one that is cordoned goes on with what it serves."""
    warmers: Mapping[str, JobView]
    pods: Mapping[str, PodView]
    reports: Mapping[str, WarmerReport]
    refused: frozenset[str]
    """Nodes on which there is no room for them, now or ever."""
    seeders: Sequence[JobView]
    seeder_pods: Mapping[str, PodView]
    narrow: bool = False
    """Whether the serve volume shows the cache's folder alone."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What to do. ``look_again_seconds``: when a wait is over though nothing happens."""

    begin: Mapping[str, Sequence[Peer]]
    """Node -> the neighbours that its warmer is told of; nobody: it asks the source."""
    waits: Mapping[str, str]
    """Node -> what it waits for."""
    serve: Sequence[str]
    """Nodes on which a seeder should be."""
    end: Sequence[JobView]
    """Seeders that should go."""
    look_again_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass over a cache does for its nodes without a warmer, and for its seeders."""

    writes: Sequence[Write]
    """For seeders."""
    begin: Mapping[str, Near]
    """Node -> what its warmer is told, for those that begin."""
    waits: Mapping[str, str]
    look_again_seconds: float | None


def decide_neighbours(
    cache: ModelCache,
    seen: Neighbourhood,
    issuer_keys: Manifest | None,
    config: OperatorConfig,
    now: datetime,
) -> Outcome:
    """Return who begins. Where neighbours are off, or the source is cheap, every node asks the source at once."""
    manifests = (report.manifest_sha256 for report in seen.reports.values())
    manifest = next(filter(None, manifests), cache.status.manifest_sha256)
    cheap = cache.spec.source.uri.startswith(CHEAP) or not lies_on_disks(cache)
    if not config.neighbours or issuer_keys is None or cheap:
        wish = Spread(dict.fromkeys(_in_turn(seen), ()), {}, (), [j for j in seen.seeders if not j.deleting])
    elif manifest is None:
        wish = spread(replace(seen, holders=(), labelled=frozenset()), now)
    else:
        wish = spread(seen, now)
    keys, fed = issuer_keys or {}, {node for job in _at_work(seen) for node in job.peers}
    wanted = {
        node: make_seeder(cache, node, seen.key, tolerations(cache), config, keys, narrow=seen.narrow)
        for node in wish.serve
    }
    writes: list[Write] = [_deletion(cache, job) for job in wish.end]
    for job in seen.seeders:
        # Other keys, or another image: a new one is made once nobody is served by the old one.
        if (
            job.node in wanted
            and job.node not in fed
            and not job.deleting
            and job.applied != _stamp(wanted[job.node])
        ):
            writes.append(_deletion(cache, job))
            del wanted[job.node]
    if wanted:
        writes += [
            Apply(make_seeder_policy(cache)),
            *(Apply(seeder, once=True) for seeder in wanted.values()),
        ]
    theirs = audience(cache.namespace, seen.key)
    begin = {node: Near(theirs, tuple(peers), manifest or "") for node, peers in wish.begin.items()}
    return Outcome(writes, begin, wish.waits, wish.look_again_seconds)


def _deletion(cache: ModelCache, job: JobView) -> Delete:
    return Delete("Job", cache.namespace, job.name, job.uid)


def _stamp(seeder: Manifest) -> str:
    return str(seeder["metadata"]["annotations"][ANNOTATION_APPLIED])


def spread(seen: Neighbourhood, now: datetime) -> Spread:
    """Return who begins, who waits, who serves."""
    fed = [job for job in _at_work(seen) if job.peers and not _has_no_room(seen, job, now)]
    seeders = [job for job in seen.seeders if not job.deleting]
    if not seen.missing and not fed:
        return Spread({}, {}, (), seeders)
    kept = [job for job in seeders if job.state is JobState.ACTIVE and job.node in seen.labelled]
    end = [
        job for job in seeders if job not in kept and (job.node not in seen.labelled or _is_over(job, now))
    ]
    serve = _serving(seen, kept)
    begin, left = _seats(seen, kept, [job for job in fed if _gets_on(seen, job, now)])
    starting = [job for job in kept if not _is_ready(seen.seeder_pods.get(job.node))]
    soon = {
        **{job.node: _seconds_left(job.ended, now) for job in _just_done(seen)},
        **{job.node: _seconds_left(job.created, now) for job in starting},
        **dict.fromkeys(serve[len(kept) :], SEEDER_SECONDS),
    }
    wait = max(soon.values(), default=0.0)
    if left and len(starting) < len(kept):
        words = f"all neighbours that serve it give to {WARMERS_EACH} others already; its turn comes"
        return Spread(begin, dict.fromkeys(left, words), serve, end, _seat_free_in(seen, fed, now))
    if left and wait > 0:
        waits = dict.fromkeys(
            left, f"{_named([n for n in soon if soon[n] > 0])} has it and is about to serve it"
        )
        return Spread(begin, waits, serve, end, wait)
    first, waits = _from_the_source(seen, left, now)
    return Spread({**begin, **dict.fromkeys(first, ())}, waits, serve, end)


def _serving(seen: Neighbourhood, kept: Sequence[JobView]) -> list[str]:
    """Return the nodes that should serve: those that do, and as many more as those without a warmer want."""
    has_one = {job.node for job in seen.seeders}
    others = [node.name for node in seen.holders if node.name not in has_one]
    wanted = min(SEEDERS_AT_MOST, max(PEERS_EACH, -(-len(seen.missing) // WARMERS_EACH)))
    more = max(0, wanted - len(kept)) if seen.missing else 0
    return [*(job.node for job in kept), *sorted(others, key=lambda node: _lot(seen.key, node))[:more]]


def _seats(
    seen: Neighbourhood, kept: Sequence[JobView], fed: Sequence[JobView]
) -> tuple[dict[str, Sequence[Peer]], list[str]]:
    """Return which warmers begin with which neighbours, and who found no seat."""
    load = Counter(node for job in fed for node in job.peers)
    ready = [
        Peer(job.node, pod.ip)
        for job in kept
        if (pod := seen.seeder_pods.get(job.node)) is not None and _is_ready(pod) and pod.ip
    ]
    begin: dict[str, Sequence[Peer]] = {}
    left = []
    for node in _in_turn(seen):
        free = [peer for peer in ready if load[peer.node] < WARMERS_EACH]
        if not free:
            left.append(node)
            continue
        free.sort(key=lambda peer: (load[peer.node], _lot(node, peer.node)))
        begin[node] = free[:PEERS_EACH]
        load.update(peer.node for peer in free[:PEERS_EACH])
    return begin, left


def _seat_free_in(seen: Neighbourhood, fed: Sequence[JobView], now: datetime) -> float | None:
    """Return in how many seconds the first warmer that does not start loses its seat, None when all have started."""
    left = (
        START_SECONDS - (now - job.created).total_seconds()
        for job in fed
        if job.created is not None and ((pod := seen.pods.get(job.node)) is None or pod.phase == "Pending")
    )
    return min((seconds for seconds in left if seconds > 0), default=None)


def _from_the_source(
    seen: Neighbourhood, left: Sequence[str], now: datetime
) -> tuple[Sequence[str], dict[str, str]]:
    """Return who asks the source now, one at most, and what the others wait for."""
    asking = [job.node for job in _at_work(seen) if not job.peers and _gets_on(seen, job, now)]
    first = () if asking else left[:1]
    if len(left) == len(first):
        return first, {}
    node = (*asking, *first)[0]
    report = seen.reports.get(node)
    percent = 100 * report.bytes_done // report.bytes_total if report and report.bytes_total else 0
    words = f"{node} fetches it from the source: {min(percent, 100)} %"
    return first, {name: words for name in left if name not in first}


def _at_work(seen: Neighbourhood) -> list[JobView]:
    """Return the warmers that are at work on nodes that can take a pod, in a stable order."""
    active = (
        job for job in seen.warmers.values() if job.state is JobState.ACTIVE and job.node in seen.chosen
    )
    return sorted(active, key=lambda job: _lot(seen.key, job.node))


def _just_done(seen: Neighbourhood) -> list[JobView]:
    """Return the warmers that have ended well on nodes that do not carry the label yet."""
    done = (job for job in seen.warmers.values() if job.state is JobState.COMPLETE)
    return [job for job in done if job.node in seen.chosen - seen.labelled]


def _gets_on(seen: Neighbourhood, job: JobView, now: datetime) -> bool:
    """Tell whether a warmer is worth waiting for. One that cannot start, or fails for its node's sake, is not."""
    pod, report = seen.pods.get(job.node), seen.reports.get(job.node)
    if job.complaint is not None or _has_no_room(seen, job, now):
        return False
    if pod is not None and trouble_of(pod) is not None:
        return False
    if report is not None and report.state == "Failed" and report.reason in OF_THE_NODE:
        return False
    runs = pod is not None and pod.phase != "Pending"
    return runs or job.created is None or (now - job.created).total_seconds() < START_SECONDS


def _has_no_room(seen: Neighbourhood, job: JobView, now: datetime) -> bool:
    """Tell whether a warmer waits for room on its node that may never come, or not soon."""
    late = job.created is not None and (now - job.created).total_seconds() > START_SECONDS
    return job.suspended and (job.node in seen.refused or late)


def _in_turn(seen: Neighbourhood) -> list[str]:
    return sorted(seen.missing, key=lambda node: _lot(seen.key, node))


def _lot(key: str, node: str) -> bytes:
    """Return what decides between nodes that are as good as each other: the smallest wins."""
    return blake2b(f"neighbours {key} {node}".encode(), digest_size=8).digest()


def _is_ready(pod: PodView | None) -> bool:
    return pod is not None and pod.ready and not pod.deleting and pod.ip is not None


def _is_over(job: JobView, now: datetime) -> bool:
    """Tell whether a seeder that ended has been left alone for long enough."""
    if job.deleting or job.state is JobState.ACTIVE:
        return False
    return job.ended is None or (now - job.ended).total_seconds() > RETRY_SECONDS


def _seconds_left(since: datetime | None, now: datetime) -> float:
    """Return for how long what is about to serve is still waited for."""
    return 0.0 if since is None else SEEDER_SECONDS - (now - since).total_seconds()


def _named(nodes: Sequence[str]) -> str:
    return nodes[0] if len(nodes) == 1 else f"one of {', '.join(nodes[:3])}"
