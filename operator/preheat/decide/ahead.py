"""Which nodes have the images of the wanted revision's pods pulled ahead of them, and whether replicas wait for it. Pure.

    a rollout to images, or with Secrets and           nodes that have the weights or get them; no replica moves before
    ConfigMaps, that no other replica runs with
    at rest                                            nodes that are kept warm beyond the replicas'; nobody waits
    going back, images that run already, a first one   none: a pod has its own pulled

What cannot be known (no image volumes, a puller that is not let in, a node without room for it) holds nobody up: then it is
as without pullers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import NodeCacheState
from preheat.config import OperatorConfig
from preheat.decide.capacity import fitting_nodes
from preheat.decide.conditions import Verdict
from preheat.decide.observed import JobState, PodView, Puller, parse_time
from preheat.decide.plan import IMAGES, Apply, Delete, Write, apart
from preheat.decide.troubles import sentence, trouble_of
from preheat.decide.wish import ServiceObservation, Wish, the_cache
from preheat.resources.metadata import Manifest
from preheat.resources.pulling import PodImages, images_of, make_puller, puller_name
from preheat.resources.serving import Revision

START_SECONDS = 60.0
"""For so long a puller may be without a pod, or its pod without a start. Later it tells nothing, and nobody waits."""
CANNOT = "Images cannot be pulled ahead: "
"""With these words it is told, and known again, that no more pullers can be made."""
UNHURT = "Nobody waits for it: a pod has its images pulled when it starts."
NAMED = 3
"""So many nodes are named."""


class PullState(StrEnum):
    """What is known of a node and the images."""

    PULLED = "Pulled"
    PULLING = "Pulling"
    UNAVAILABLE = "Unavailable"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Pull:
    """A node, and whether the images are there."""

    node: str
    state: PullState
    words: str = ""
    """Why not, where that is known."""
    pod: PodView | None = None
    """The pod for which the kubelet pulls."""
    reason: Reason = Reason.IMAGE_UNAVAILABLE
    """What is not to be had, where something is not."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is known of the wanted images."""

    images: PodImages | None = None
    """None as long as nobody knows what the pods will be like."""
    template: Manifest = field(default_factory=dict)
    gates: bool = False
    """Whether replicas wait for them."""
    pulls: Mapping[str, Pull] = field(default_factory=dict)
    """By node: where a puller is, or a pod that needs the same."""
    missing: PullState = PullState.UNKNOWN
    """What holds where neither is: pulling, as a puller is about to be made, unless none can be."""
    refused: str = ""
    """What is told where none can be."""
    look_again_seconds: float | None = None
    """When a puller without a place will have waited for long enough."""

    def state_on(self, node: str) -> PullState:
        """Return whether the images are on a node."""
        return self.pulls[node].state if node in self.pulls else self.missing

    def waits_on(self, node: str) -> bool:
        """Tell whether no replica should be moved to a node yet."""
        return self.gates and self.state_on(node) in {PullState.PULLING, PullState.UNAVAILABLE}

    @property
    def unavailable(self) -> Pull | None:
        """One of those that could not be pulled, where no node has them."""
        states = {pull.state for pull in self.pulls.values()}
        if not self.gates or PullState.PULLED in states:
            return None
        refused = (pull for _, pull in sorted(self.pulls.items()) if pull.state is PullState.UNAVAILABLE)
        return next(refused, None)


def look_ahead(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, stored: Sequence[Revision], now: datetime
) -> Ahead:
    """Return what is known of the images of the wanted revision's pods."""
    if not wish.revisions:
        return Ahead()
    template = wish.revisions[0].template
    images = images_of(template)
    mine = {p.job.node: p for p in seen.pullers if p.job.name == puller_name(service, images, p.job.node)}
    pulls = {
        pod.node: _of_replica(pod)
        for pod in sorted(seen.pods, key=lambda pod: pod.phase == "Running")
        if pod.revision == wish.id and pod.node and not pod.deleting
    }
    for node, puller in mine.items():
        if node not in pulls or pulls[node].state is not PullState.PULLED:
            pulls[node] = _of_puller(puller, images, now)
    refused = _given_up(service, now, none=not mine)
    is_new = not wish.going_back and not _runs_elsewhere(seen, wish, stored, images)
    return Ahead(
        images,
        template,
        gates=is_new and wish.replicas > 0,
        pulls=pulls,
        missing=PullState.UNKNOWN if refused else PullState.PULLING,
        refused=refused,
        look_again_seconds=min(
            (left for p in mine.values() if (left := _left_seconds(p, now)) > 0), default=None
        ),
    )


def _runs_elsewhere(
    seen: ServiceObservation, wish: Wish, stored: Sequence[Revision], images: PodImages
) -> bool:
    """Tell whether a replica of another revision runs these very images: then they are to be had."""
    running = {pod.revision for pod in seen.pods if pod.phase == "Running" and pod.revision != wish.id}
    return any(images_of(r.template).covers(images) for r in stored if r.id in running)


def _of_replica(pod: PodView) -> Pull:
    node = pod.node or ""
    if pod.phase == "Running":
        return Pull(node, PullState.PULLED)
    return _refused(node, pod) or Pull(node, PullState.PULLING)


def _refused(node: str, pod: PodView) -> Pull | None:
    """Return what a pod cannot start without and does not get, None as long as it may."""
    trouble = trouble_of(pod)
    if trouble is None or trouble.reason not in {Reason.IMAGE_UNAVAILABLE, Reason.REFERENCE_MISSING}:
        return None
    told = f"{trouble.told}: " if pod.waiting_reason is not None else ""
    return Pull(node, PullState.UNAVAILABLE, f"{told}{trouble.message}", pod, trouble.reason)


def _of_puller(puller: Puller, images: PodImages, now: datetime) -> Pull:
    job, pod = puller.job, puller.pod
    if pod is not None and pod.complaint is not None:
        pod = replace(pod, complaint=images.told(pod.complaint))
    said = puller.report.state if puller.report is not None else ""
    if job.state is JobState.COMPLETE or (pod is not None and pod.phase == "Succeeded") or said == "Pulled":
        # A container that others put into the pod may never end.
        return Pull(job.node, PullState.PULLED)
    if job.state is JobState.FAILED or (pod is not None and pod.phase == "Failed"):
        told = puller.report.message if puller.report is not None else ""
        return Pull(job.node, PullState.UNKNOWN, told or "the puller failed; see the logs of its Job", pod)
    refused = _refused(job.node, pod) if pod is not None else None
    if refused is not None:
        return refused
    trouble = trouble_of(pod) if pod is not None else None
    if _age_seconds(puller, now) >= START_SECONDS and (
        trouble is not None or pod is None or not pod.scheduled
    ):
        words = trouble.message if trouble is not None else job.complaint or "the puller has not started"
        return Pull(job.node, PullState.UNKNOWN, words, pod)
    return Pull(job.node, PullState.PULLING, pod=pod)


def _left_seconds(puller: Puller, now: datetime) -> float:
    """Return for how long a puller without a place may still wait, 0 for another. Nobody tells when that is over."""
    waits = puller.job.state is JobState.ACTIVE and (puller.pod is None or not puller.pod.scheduled)
    return max(0.0, START_SECONDS - _age_seconds(puller, now)) if waits else 0.0


def _age_seconds(puller: Puller, now: datetime) -> float:
    return (now - puller.job.created).total_seconds() if puller.job.created is not None else 0.0


def _given_up(service: LLMDeployment, now: datetime, *, none: bool) -> str:
    """Return why no puller, or no more of them, can be made for this spec, empty where one can. ``none``: there is none yet.

    It was refused (``refusals.without_pullers``), or asked for in vain for a while. That is read off the status: one that
    is wiped costs another try.
    """
    told = next((c for c in service.status.conditions if c.type == ConditionType.IMAGE_READY), None)
    if told is None or told.observed_generation != service.generation:
        return ""
    if told.reason == Reason.IMAGE_NOT_PULLED:
        return told.message if told.message.startswith(CANNOT) else ""
    since = parse_time(told.last_transition_time)
    late = since is not None and (now - since).total_seconds() >= START_SECONDS
    refused = {Reason.CHILD_REFUSED, Reason.NAME_TAKEN}
    words = next((c.message for c in service.status.conditions if c.reason in refused), "")
    return not_pulled(words) if none and told.reason == Reason.IMAGE_PULLING and late and words else ""


def not_pulled(words: str) -> str:
    """Say why images are not pulled ahead."""
    return f"{CANNOT}{sentence(words)} {UNHURT}"


def decide_pulls(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    ahead: Ahead,
    config: OperatorConfig,
    *,
    first: Sequence[str],
    most: int,
    rolling: bool,
) -> tuple[list[Write], list[Verdict]]:
    """Return the writes for pullers, and the condition that tells of them.

    ``first``: the nodes that the next replicas come to. ``most``: on how many nodes in all the images should lie.
    ``rolling``: whether a rollout is under way.
    """
    wanted = _wanted_nodes(service, seen, wish, ahead, first=first, most=most, rolling=rolling)
    there = {puller.job.node for puller in seen.pullers if _is_of(service, puller, ahead)}
    makes = ahead.images is not None and ahead.missing is not PullState.UNKNOWN
    writes: list[Write] = [
        *_stale(service, seen, wish, ahead, rolling=rolling),
        *(
            Apply(make_puller(service, ahead.template, ahead.images, node, config), once=True)
            for node in wanted
            if makes and node not in there and ahead.images is not None
        ),
    ]
    return apart(IMAGES, writes), _verdict(ahead, sorted(there | set(wanted)), rolling=rolling)


def _is_of(service: LLMDeployment, puller: Puller, ahead: Ahead) -> bool:
    """Tell whether a puller is for the wanted images."""
    job = puller.job
    return ahead.images is not None and job.name == puller_name(service, ahead.images, job.node)


def _wanted_nodes(
    service: LLMDeployment,
    seen: ServiceObservation,
    wish: Wish,
    ahead: Ahead,
    *,
    first: Sequence[str],
    most: int,
    rolling: bool,
) -> list[str]:
    """Return the nodes that should pull, those without a replica that does so itself."""
    mine = [pod for pod in seen.pods if pod.revision == wish.id and not pod.deleting]
    taken = {pod.node for pod in mine if pod.node}
    settled = not rolling and sum(pod.phase == "Running" for pod in mine) >= wish.replicas
    if ahead.images is None or not (settled or (rolling and ahead.gates)):
        return []
    cache = the_cache(wish, seen)
    told = cache.status.nodes if cache is not None else []
    warm = [node.name for node in told if node.state is NodeCacheState.READY]
    lost = {NodeCacheState.READY, NodeCacheState.FAILED, NodeCacheState.EVICTING}
    coming = [node.name for node in told if node.state not in lost] if rolling else []
    ranked = [name for name in dict.fromkeys((*first, *warm, *coming)) if name not in taken]
    if not ranked:
        return []
    fitting = {node.name for node in fitting_nodes(service, seen.nodes)}
    return [name for name in ranked if name in fitting][: max(0, most - len(taken))]


def _stale(
    service: LLMDeployment, seen: ServiceObservation, wish: Wish, ahead: Ahead, *, rolling: bool
) -> list[Delete]:
    """Return the deletion of pullers for other images, and of those on nodes that are not kept warm any more."""
    cache = the_cache(wish, seen)
    known = {node.name for node in seen.nodes}
    kept = {node.name for node in cache.status.nodes} if cache is not None else set()
    kept |= {pod.node for pod in seen.pods if pod.node and pod.revision == wish.id}

    def is_stale(puller: Puller) -> bool:
        if puller.orphan or puller.job.node not in known:
            return True
        if ahead.images is None:
            return False
        return not _is_of(service, puller, ahead) or (not rolling and puller.job.node not in kept)

    return [
        Delete("Job", service.namespace, puller.job.name, puller.job.uid)
        for puller in seen.pullers
        if not puller.job.deleting and is_stale(puller)
    ]


def _verdict(ahead: Ahead, nodes: Sequence[str], *, rolling: bool) -> list[Verdict]:
    """Return the condition; none where nothing is pulled ahead.

    At rest nobody waits, and a kubelet that tries again for days says now this, now that: its words are left to its Events.
    """
    if not nodes:
        return []
    if ahead.refused and any(node not in ahead.pulls for node in nodes):
        # Before all else: there the next pass reads it.
        return [Verdict(ConditionType.IMAGE_READY, None, Reason.IMAGE_NOT_PULLED, ahead.refused)]
    by_state: dict[PullState, list[str]] = {}
    for node in nodes:
        by_state.setdefault(ahead.state_on(node), []).append(node)
    here = len(by_state.get(PullState.PULLED, ()))
    words = f"{here} of {len(nodes)} nodes have the images of the pods"
    for state, holds, reason in _TOLD:
        if state not in by_state:
            continue
        named = by_state[state]
        pull = ahead.pulls.get(named[0])
        why = f": {sentence(pull.words)}" if pull is not None and pull.words else "."
        if state is PullState.PULLED:
            message = f"{words}."
        elif state is PullState.PULLING:
            more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
            message = f"{words}; pulled on {', '.join(named[:NAMED])}{more}."
        elif state is PullState.UNAVAILABLE:
            is_missing = pull is not None and pull.reason is Reason.REFERENCE_MISSING
            what = "no pod can start on" if is_missing else "not to be had on"
            if not rolling and pull is not None and pull.pod is not None:
                why = f": see the Events of pod {pull.pod.name}."
            message = f"{words}; {what} {named[0]}{why}"
        else:
            message = f"{words}; not known of {named[0]}{why} {UNHURT}"
        told = pull.reason if pull is not None and state is PullState.UNAVAILABLE else reason
        return [Verdict(ConditionType.IMAGE_READY, holds, told, message)]
    return []


_TOLD: Sequence[tuple[PullState, bool | None, Reason]] = (
    (PullState.UNAVAILABLE, False, Reason.IMAGE_UNAVAILABLE),
    (PullState.PULLING, False, Reason.IMAGE_PULLING),
    (PullState.UNKNOWN, None, Reason.IMAGE_NOT_PULLED),
    (PullState.PULLED, True, Reason.IMAGE_PULLED),
)
"""In this order they are told."""
