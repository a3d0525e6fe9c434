"""Node: which weights lie on its disk. One loop per node decides and writes it all: labels, room, and its keeper.

A node is labelled `ready` for a cache when its warmer has ended well there, and `warming` when one has been at it for
some seconds: then there is something on the disk, whatever becomes of it. Weights that must go, because their
cache is gone or others need the room, are first labelled `leaving`: no pod can start with them any more. Then a
keeper takes them off the disk, and the label goes. So the labels say what lies there, whoever was down meanwhile.
`avoided` is `ready` for all of this: the weights are there, and no pod may start with them (decide/avoidance.py).

A keeper also hashes weights that were not verified for long, or not since the node was started. What is no longer
what it should be is out of the way already when its last words are read; then its label says `warming`, and its warmer goes
with that: the cache's own loop makes another.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from preheat.api.constants import NODE_LABEL_AVOIDED, NODE_LABEL_LEAVING, NODE_LABEL_READY, NODE_LABEL_WARMING
from preheat.config import OperatorConfig
from preheat.decide.budget import Allotment, Entry, Limits, allot
from preheat.decide.observed import JobState, JobView, KeeperReport, NodeView
from preheat.decide.plan import RESYNC_SECONDS, Admit, Apply, Delete, LabelNode, Plan, Write
from preheat.resources import keeping
from preheat.resources.caching import node_label

WARMING_SECONDS = 5.0
"""A warmer that has been at work for this long is noted on the node. Most are done before."""
TOLD_SECONDS = 30.0
"""What a keeper found wrong stays on record for this long, for the cache's own loop to tell of it."""
MAKES_WAY_SECONDS = 30.0
"""A keeper that only hashes makes way after this for one that removes."""
TOLD_EARLY_SECONDS = 60.0
"""What a warmer was told of its neighbours longer ago than this is looked at once more before it begins."""
YOUNG_SECONDS = 10.0
"""Weights that were warmed a moment before are tried again after this."""
RETRY_SECONDS = 300.0
"""A keeper that failed is tried again after this."""
MOUNTED_SECONDS = 3.0
"""How often it is looked whether the pods are gone that still mount what leaves."""
SWEEP_SECONDS = 604_800.0
"""How often a disk is looked through, though nothing leaves it and nothing is to be verified: a warmer that was killed
before it was noted, and whose cache is gone, leaves a folder that no label tells of."""
IN_USE_SECONDS = 60.0
"""Weights that a pod still held are tried again after this."""


@dataclass(frozen=True, slots=True)
class Held:
    """The weights of one cache, as far as a node is concerned."""

    key: str
    namespace: str
    wanted: bool = True
    """Whether there is a cache of this key, or a Deployment that mounts it."""
    warmer: JobView | None = None
    """Its Job on this node, if there is one that is not being deleted."""
    on_disk: bool = True
    """Whether they lie in a folder that a keeper looks after; if not, in the node's image store."""
    chosen: bool = False
    """Whether its cache says that it should be on this node: another warmer comes."""
    verify_seconds: float = 0.0
    """How long they may lie there before they are verified again; 0: for ever."""
    holders: Collection[str] = ()
    """Other nodes that could serve them; only looked up while its warmer waits for room."""
    seeders: Collection[str] = ()
    """Those of them that do."""
    asked: datetime | None = None
    """A person wants them verified that were last verified before this."""

    @property
    def warmed(self) -> bool:
        """Whether its warmer has ended well here."""
        return self.warmer is not None and self.warmer.state is JobState.COMPLETE

    @property
    def at_work(self) -> bool:
        """Whether a warmer may be writing."""
        return self.warmer is not None and self.warmer.state is JobState.ACTIVE and not self.warmer.suspended


@dataclass(frozen=True, slots=True)
class NodeObservation:
    """Everything that a pass over one node looks at."""

    node: NodeView
    held: Sequence[Held]
    """Of every key that a label or a Job of this node names."""
    entries: Sequence[Entry] = ()
    """What counts on its disk; only looked up while a Job waits for room."""
    limits: Limits = field(default_factory=Limits)
    mounted: Collection[str] = ()
    """Keys that pods on the node mount; only looked up while something leaves."""
    keeper: JobView | None = None
    report: KeeperReport | None = None
    """The last words of the keeper, if it has ended well and they are known."""
    avoids: Mapping[str, datetime | None] = field(default_factory=dict)
    """Keys with which no pod may start here, until when; None: as long as the node tells of a faulty GPU."""


def decide_node(seen: NodeObservation, config: OperatorConfig, now: datetime) -> Plan:
    """Return the writes that make a node's labels true and its disk right."""
    held = {entry.key: entry for entry in seen.held}
    allotment = allot(seen.entries, seen.limits, seen.node.name)
    corrupt = _corrupt(seen, held)
    labels, unneeded = _labels(seen, held, allotment, corrupt, now)
    writes: list[Write] = [*unneeded]
    if labels:
        named = {node_label(key): value for key, value in labels.items()}
        writes.append(LabelNode(seen.node.name, named, seen.node.version))
    keeps, again = _keeper(seen, held, labels, config, now)
    admits: list[Write] = [
        Delete("Job", job.namespace, job.name, job.uid)
        if not allotment.waiting and _was_told_early(held[key], now)
        else Admit(job.namespace, job.name, job.uid, room)
        for key, room in allotment.admitted.items()
        if (job := held[key].warmer) is not None
    ]
    noted_in = (_noted_in(entry, now) for entry in seen.held if entry.key not in _labelled(seen.node))
    ends = [(until - now).total_seconds() for until in seen.avoids.values() if until is not None]
    delay = min([again, *(t for t in ends if t > 0), RESYNC_SECONDS, *(t for t in noted_in if t > 0)])
    return Plan((*writes, *keeps, *admits), None, (), delay)


def takes_away(plan: Plan) -> bool:
    """Tell whether a plan lets weights go, or makes a keeper, which removes what it is not told to keep.

    Such a plan is too dear to be carried out on what watches told last.
    """
    return any(
        NODE_LABEL_LEAVING in write.labels.values()
        if isinstance(write, LabelNode)
        else isinstance(write, Apply)
        for write in plan.writes
    )


def _was_told_early(entry: Held, now: datetime) -> bool:
    """Tell whether a warmer has waited for so long that other neighbours serve by now than those it was told of.

    Its addresses are written into its Job. Another Job is made with those of today, and is let begin at once. Where
    others wait for room as well, they would take it in between: there it begins as it is, and asks the source if need be.
    """
    job = entry.warmer
    if job is None or job.created is None or not entry.holders:
        return False
    waited = (now - job.created).total_seconds() > TOLD_EARLY_SECONDS
    return waited and not any(peer in entry.seeders for peer in job.peers)


def _labelled(node: NodeView) -> frozenset[str]:
    return node.caches | node.warming | node.leaving


def _noted_in(entry: Held, now: datetime) -> float:
    """Return in how many seconds a warmer has been at work for long; what is not at work never has."""
    if entry.warmer is None or not entry.at_work:
        return RESYNC_SECONDS
    created = entry.warmer.created
    return RESYNC_SECONDS if created is None else WARMING_SECONDS - (now - created).total_seconds()


def _corrupt(seen: NodeObservation, held: Mapping[str, Held]) -> frozenset[str]:
    """Return the keys whose weights the keeper found wrong, and no warmer has fetched anew since."""
    if seen.report is None or seen.keeper is None:
        return frozenset()
    return frozenset(
        key
        for key in seen.report.corrupt
        if key in held
        and not (held[key].warmed and _is_after(held[key].warmer, seen.keeper.ended or seen.keeper.created))
    )


def _is_after(job: JobView | None, moment: datetime | None) -> bool:
    return job is None or job.ended is None or moment is None or job.ended > moment


def _labels(
    seen: NodeObservation,
    held: Mapping[str, Held],
    allotment: Allotment,
    corrupt: Collection[str],
    now: datetime,
) -> tuple[dict[str, str | None], list[Delete]]:
    """Return which labels change, and the warmers that ended well and whose word is good no more."""
    labels: dict[str, str | None] = {}
    unneeded: list[Delete] = []
    for key, entry in sorted(held.items()):
        goes = key in allotment.evicted or key in corrupt
        stale = key not in seen.node.caches and entry.on_disk and _is_of_another_boot(entry, seen)
        taken = _is_removed(key, seen) and not _is_there(entry, seen)
        if (goes or stale or taken) and entry.warmed and entry.warmer is not None:
            unneeded.append(Delete("Job", entry.warmer.namespace, entry.warmer.name, entry.warmer.uid))
        before, after = _label(seen.node, key), None
        if before == NODE_LABEL_READY and goes:
            # Wrong bytes are put aside, and another warmer comes: there is still something on the disk.
            after = NODE_LABEL_WARMING if key in corrupt and entry.wanted else NODE_LABEL_LEAVING
        else:
            after = _next_label(before, entry, seen, now, good=not goes)
        if key in seen.node.avoided:
            before = NODE_LABEL_AVOIDED
        if after == NODE_LABEL_READY and key in seen.avoids:
            after = NODE_LABEL_AVOIDED
        if after != before:
            labels[key] = after
    return labels, unneeded


def _label(node: NodeView, key: str) -> str | None:
    for keys, label in (
        (node.caches, NODE_LABEL_READY),
        (node.warming, NODE_LABEL_WARMING),
        (node.leaving, NODE_LABEL_LEAVING),
    ):
        if key in keys:
            return label
    return None


def _next_label(
    before: str | None, entry: Held, seen: NodeObservation, now: datetime, *, good: bool
) -> str | None:
    """Return what the label says of weights that nobody takes off the disk in this pass."""
    if not entry.on_disk:
        return NODE_LABEL_READY if entry.wanted and (entry.warmed or before == NODE_LABEL_READY) else None
    if before == NODE_LABEL_READY:
        return NODE_LABEL_READY if entry.wanted else NODE_LABEL_LEAVING
    if (
        good
        and entry.warmed
        and entry.wanted
        and _is_there(entry, seen)
        and not _is_of_another_boot(entry, seen)
    ):
        return NODE_LABEL_READY
    if before == NODE_LABEL_LEAVING:
        return None if _is_removed(entry.key, seen) else NODE_LABEL_LEAVING
    if before == NODE_LABEL_WARMING:
        return NODE_LABEL_WARMING if entry.warmer is not None or entry.chosen else NODE_LABEL_LEAVING
    return NODE_LABEL_WARMING if _noted_in(entry, now) <= 0 else None


def _is_of_another_boot(entry: Held, seen: NodeObservation) -> bool:
    """Tell whether a warmer's word is of an earlier start of the node: the disk may be another one by now."""
    boot = entry.warmer.boot if entry.warmer is not None else ""
    return bool(boot and seen.node.boot) and boot != seen.node.boot


def _is_there(entry: Held, seen: NodeObservation) -> bool:
    """Tell whether what a warmer has put there was not taken away after it."""
    keeper, report = seen.keeper, seen.report
    if keeper is None or entry.key not in keeper.removes or _is_after(entry.warmer, keeper.created):
        return True
    return report is not None and report.whole and entry.key in report.in_use


def _is_removed(key: str, seen: NodeObservation) -> bool:
    keeper, report = seen.keeper, seen.report
    if keeper is None or keeper.state is not JobState.COMPLETE or key not in keeper.removes or report is None:
        return False
    return report.whole and key not in report.in_use | report.young


def _keeper(
    seen: NodeObservation,
    held: Mapping[str, Held],
    labels: Mapping[str, str | None],
    config: OperatorConfig,
    now: datetime,
) -> tuple[list[Write], float]:
    """Return what makes or clears away the node's keeper, and in how many seconds there is more to do."""
    after: dict[str, str | None] = {
        **dict.fromkeys(seen.node.caches, NODE_LABEL_READY),
        **dict.fromkeys(seen.node.leaving, NODE_LABEL_LEAVING),
        **{key: NODE_LABEL_READY if value == NODE_LABEL_AVOIDED else value for key, value in labels.items()},
    }
    leaving = {
        key
        for key, value in after.items()
        if value == NODE_LABEL_LEAVING and not (key in held and held[key].at_work)
    }
    removes = frozenset(leaving - set(seen.mounted))
    ready = [held[key] for key, value in after.items() if value == NODE_LABEL_READY and key in held]
    due_in = {entry.key: _due_in(entry, seen, now) for entry in ready}
    due = [entry for entry in ready if due_in[entry.key] <= 0]
    swept_in = _swept_in(seen, now)
    soonest = min([swept_in, *due_in.values()])
    if not removes and not due and swept_in > 0:
        return [], min(soonest, MOUNTED_SECONDS) if leaving else soonest
    keeper = seen.keeper
    if keeper is None:
        if not seen.node.ready:
            return [], RESYNC_SECONDS
        if swept_in <= 0:
            # What was verified lately is not hashed again, and stays on record as verified.
            due = [entry for entry in ready if entry.verify_seconds or entry in due]
        known = _labelled(seen.node)
        stay = [
            entry
            for entry in held.values()
            if entry.namespace
            and entry.key not in removes
            and (entry.key in known or entry.warmer is not None)
        ]
        job = keeping.make_keeper(
            seen.node.name,
            seen.node.boot,
            keep=_by_namespace(stay),
            verify=_by_namespace(due),
            fresh_since={entry.key: _fresh_since(entry, now) for entry in due},
            removes=removes,
            config=config,
            now=now,
        )
        made = [*keeping.make_volumes(config), job]
        return [Apply(manifest, once=True) for manifest in made], RESYNC_SECONDS
    wait = _still_at_it(seen, keeper, removes, now)
    if wait > 0:
        return [], wait
    return [Delete("Job", config.namespace, keeper.name, keeper.uid)], RESYNC_SECONDS


def _still_at_it(seen: NodeObservation, keeper: JobView, removes: Collection[str], now: datetime) -> float:
    """Return for how many seconds a keeper is left alone: 0 when another is to take its place."""
    if keeper.deleting:
        return RESYNC_SECONDS
    if keeper.state is JobState.ACTIVE:
        # Hashing takes hours, and goes on where it was: who needs room does not wait for it.
        only_verifies = bool(removes) and not keeper.removes and keeper.created is not None
        age = (now - keeper.created).total_seconds() if keeper.created is not None else 0.0
        return max(0.0, MAKES_WAY_SECONDS - age) if only_verifies else RESYNC_SECONDS
    patience = RETRY_SECONDS if keeper.state is JobState.FAILED else _patience(seen, removes)
    return 0.0 if keeper.ended is None else patience - (now - keeper.ended).total_seconds()


def _patience(seen: NodeObservation, removes: Collection[str]) -> float:
    """Return for how long what a keeper could not remove is left alone."""
    report = seen.report or KeeperReport()
    if any(key in report.in_use for key in removes):
        return IN_USE_SECONDS
    if report.corrupt:
        return TOLD_SECONDS
    if removes and not report.whole:
        return IN_USE_SECONDS  # more could not be removed than it could tell of, and the next finds the same
    return YOUNG_SECONDS if any(key in report.young for key in removes) else 0.0


def _swept_in(seen: NodeObservation, now: datetime) -> float:
    """Return in how many seconds a disk that holds something is looked through, whatever else there is to do."""
    on_disk = [entry.warmer for entry in seen.held if entry.on_disk]
    if not on_disk:
        return RESYNC_SECONDS
    if seen.keeper is not None:
        since = seen.keeper.ended
    else:
        since = min((job.ended for job in on_disk if job is not None and job.ended is not None), default=None)
    return RESYNC_SECONDS if since is None else SWEEP_SECONDS - (now - since).total_seconds()


def _due_in(entry: Held, seen: NodeObservation, now: datetime) -> float:
    """Return in how many seconds weights are to be verified again."""
    warmed = entry.warmer.ended if entry.warmed and entry.warmer is not None else None
    boot = entry.warmer.boot if entry.warmed and entry.warmer is not None else ""
    keeper, begun = seen.keeper, warmed
    if (
        keeper is not None
        and _has_verified(entry.key, seen)
        and (warmed is None or _began_after(keeper, warmed))
    ):
        warmed, begun, boot = keeper.ended, keeper.created, keeper.boot
    if warmed is None or begun is None:
        return 0.0 if entry.verify_seconds else RESYNC_SECONDS
    if entry.asked is not None and begun < entry.asked <= now:
        return 0.0
    if not entry.verify_seconds:
        return RESYNC_SECONDS
    if boot and seen.node.boot and boot != seen.node.boot:
        return 0.0
    return (warmed + timedelta(seconds=entry.verify_seconds) - now).total_seconds()


def _has_verified(key: str, seen: NodeObservation) -> bool:
    """Tell whether the node's keeper has hashed these weights. One that was cut short tells of none."""
    keeper, report = seen.keeper, seen.report
    done = keeper is not None and keeper.state is JobState.COMPLETE and key in keeper.verifies
    return done and report is not None and report.whole


def _began_after(keeper: JobView, warmed: datetime) -> bool:
    return keeper.created is not None and warmed <= keeper.created


def _fresh_since(entry: Held, now: datetime) -> datetime:
    """Return from when on a note on the disk that these weights were verified is good enough."""
    asked = entry.asked if entry.asked is not None and entry.asked <= now else None
    age = timedelta(seconds=entry.verify_seconds) if entry.verify_seconds else timedelta()
    return max(now - age, asked) if asked and entry.verify_seconds else asked or now - age


def _by_namespace(entries: Sequence[Held]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for entry in entries:
        found[entry.namespace].append(entry.key)
    return dict(found)
