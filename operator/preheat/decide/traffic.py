"""What each revision gets of the requests that come through a gateway (Gateway API). Pure.

One HTTPRoute leads to a Service of each revision, with weights that are 100 in all:

    one revision has ready replicas     100
    Canary                              the step's `weight` (or `percent`), in between in proportion to new replicas that answer
    BlueGreen                           0, and 100 as soon as all new ones answer: one write
    Auto, Surge, InPlace                in proportion to ready replicas, as the Service does it
    paused                              as it was, whichever revision is wanted meanwhile
    one wanted that serves already      no less than it had: a spec that is put back takes nothing from who serves
    going back                          0 to the revision that is left, at once

Who has no ready replica gets nothing, and what it would have got goes to those that have. What failed, and what a rollout
takes away, gets something only where nobody else answers. While nobody answers the route leads to the LLMDeployment's own
Service, where the front is. Old replicas go when no gateway sends them anything any more, and not before.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from typing_extensions import override

from preheat.api.conditions import ConditionType, Reason
from preheat.api.constants import ANNOTATION_SHARE, FIELD_MANAGER, LABEL_REVISION
from preheat.api.llmdeployment import LLMDeployment, TrafficStatus
from preheat.api.quantity import parse_count
from preheat.decide.conditions import Verdict
from preheat.decide.observed import Body, DeploymentView, PodView, is_controlled_by, parse_time
from preheat.decide.plan import POLL_SECONDS, RESYNC_SECONDS, Apply, Delete, EventDraft, Write
from preheat.decide.rollout.state import Method, Phase, Step
from preheat.resources.gateway import MOST_BACKENDS, make_revision_service, make_route
from preheat.resources.metadata import Manifest
from preheat.resources.names import revision_service_name

TAKEN_SECONDS = 30.0
"""For so long after a write old replicas wait for the gateways to say that they have it. One that is silent holds up no more."""
WORDS = 400


@dataclass(frozen=True, slots=True)
class Share:
    """What is asked for: how much one revision is to get, in percent."""

    revision: str
    percent: int
    least: int = 0
    """What it had when it became the wanted one: it gets no less."""

    @classmethod
    def parse(cls, text: str) -> "Share | None":
        """Return what an annotation says, None for anything else: anybody may have written it.

        >>> Share.parse("new=10"), Share.parse("new=95,90"), Share.parse("new"), Share.parse("=7")
        (Share(revision='new', percent=10, least=0), Share(revision='new', percent=95, least=90), None, None)
        """
        revision, _, numbers = text.partition("=")
        percent, _, least = numbers.partition(",")
        asked = parse_count(percent)
        if not revision or asked is None:
            return None
        return cls(revision, min(100, asked), min(100, parse_count(least) or 0))

    @override
    def __str__(self) -> str:
        """Return it as an annotation."""
        return f"{self.revision}={self.percent}" + (f",{self.least}" if self.least else "")


@dataclass(frozen=True, slots=True)
class RouteView:
    """What is decided from in an HTTPRoute."""

    weights: Mapping[str, int]
    """By Service."""
    share: Share | None
    """What we asked for last (``ANNOTATION_SHARE``)."""
    written: datetime | None
    """When we wrote it last."""
    refused: str
    """Why a gateway does not take it; empty where none says so."""
    accepted: int
    """How many of its parents have taken it."""
    behind: bool
    """Whether a gateway has yet to say what it makes of this version."""

    @classmethod
    def from_body(cls, body: Body) -> "RouteView":
        """Return the view of an HTTPRoute. What anybody may have written is taken as it is, or left out."""
        metadata, generation = body["metadata"], body["metadata"].get("generation")
        parents = [p for p in _list(_dict(body.get("status")).get("parents")) if isinstance(p, dict)]
        told = [_told(parent) for parent in parents]
        refused = [words for conditions in told for words in _refusals(conditions)]
        written = [
            parse_time(entry.get("time"))
            for entry in _list(metadata.get("managedFields"))
            if isinstance(entry, dict) and entry.get("manager") == FIELD_MANAGER
        ]
        return cls(
            weights=_weights_of(body),
            share=Share.parse(str(_dict(metadata.get("annotations")).get(ANNOTATION_SHARE, ""))),
            written=max((time for time in written if time is not None), default=None),
            refused="; ".join(refused)[:WORDS],
            accepted=sum(_is_taken(conditions) for conditions in told),
            behind=any(
                condition.get("observedGeneration") != generation
                for conditions in told
                for condition in conditions.values()
            ),
        )


def _told(parent: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    conditions = (c for c in _list(parent.get("conditions")) if isinstance(c, dict))
    return {kind: c for c in conditions if (kind := str(c.get("type"))) in {"Accepted", "ResolvedRefs"}}


def _refusals(conditions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{kind}=False {condition.get('reason', '')}: {condition.get('message', '')}"
        for kind, condition in conditions.items()
        if condition.get("status") == "False"
    ]


def _is_taken(conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    return conditions.get("Accepted", {}).get("status") == "True" and not _refusals(conditions)


def _weights_of(body: Body) -> dict[str, int]:
    found: dict[str, int] = {}
    for rule in _list(_dict(body.get("spec")).get("rules")):
        for backend in _list(_dict(rule).get("backendRefs")):
            name, weight = _dict(backend).get("name"), parse_count(str(_dict(backend).get("weight", 1)))
            if isinstance(name, str):
                found[name] = found.get(name, 0) + (weight or 0)
    return found


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class RouteObservation:
    """What is known of the way through gateways."""

    installed: bool
    """Whether the cluster has Gateway API."""
    live: Body | None = None
    """The HTTPRoute of its name, None while there is none with our label."""
    services: Sequence[Body] = ()
    """The Services of single revisions."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is to be written and told of it."""

    writes: tuple[Write, ...] = ()
    stay: frozenset[str] = frozenset()
    """Old revisions that a gateway may still send requests to: their ready replicas stay."""
    status: tuple[TrafficStatus, ...] | None = None
    verdicts: tuple[Verdict, ...] = ()
    look_again_seconds: float = RESYNC_SECONDS


@dataclass(frozen=True, slots=True)
class Rolling:
    """Where the replicas of a pass are going. ``step`` None: nothing but the wanted revision is there."""

    wanted: str
    step: Step | None = None
    left: Collection[str] = field(default_factory=frozenset)
    """Revisions that failed, or that a person went back from. Never the wanted one."""
    going_back: bool = False


def decide_traffic(
    service: LLMDeployment,
    route: RouteObservation | None,
    pods: Sequence[PodView],
    deployments: Sequence[DeploymentView],
    rolling: Rolling,
    now: datetime,
) -> Traffic:
    """Return what has each revision get its share. ``pods``: of every revision; ``route`` None: nobody looked."""
    gateway = service.spec.rollout.gateway
    if route is None or (gateway is None and route.live is None and not route.services):
        return Traffic()
    ours = route.live if route.live is not None and is_controlled_by(route.live, service.uid) else None
    if gateway is None or not route.installed:
        missing = () if gateway is None else (_missing(),)
        return Traffic(tuple(_all_gone(service, ours, route.services)), verdicts=missing)
    live = [pod for pod in pods if not pod.deleting]
    ready = {r: sum(p.ready for p in live if p.revision == r) for r in {p.revision for p in live}}
    view = RouteView.from_body(ours) if ours is not None else None
    had = view.weights.get(revision_service_name(service.name, rolling.wanted), 0) if view is not None else 0
    share = share_of(rolling, ready, view.share if view is not None else None, had)
    weights = weigh(ready, share.revision, share.percent, _last_resort(rolling, ready))
    there = {v.revision for v in deployments if v.replicas > 0} | set(ready)
    revisions = _listed(rolling.wanted, there, weights)
    told = {revision: weights.get(revision, 0) for revision in revisions} if weights else {}
    writes: list[Write] = [Apply(make_revision_service(service, revision)) for revision in revisions]
    writes.append(Apply(make_route(service, gateway, told, str(share))))
    used = {revision_service_name(service.name, revision) for revision in revisions}
    used |= view.weights.keys() if view is not None else set()
    writes += [_delete(body) for body in route.services if _may_go(body, service, used)]
    stay = _stay(service, view, weights, rolling.wanted, ready, now)
    return Traffic(
        tuple(writes),
        stay,
        tuple(TrafficStatus(revision=r, weight=w) for r, w in told.items()) or None,
        (_verdict(service, view),),
        POLL_SECONDS if stay else RESYNC_SECONDS,
    )


def share_of(rolling: Rolling, ready: Mapping[str, int], held: Share | None, had: int = 0) -> Share:
    """Return what is asked for. ``held``: what was asked for last; ``had``: what the wanted revision gets until now.

    A revision may serve already when it becomes the wanted one: a spec was put back. A step knows nothing of that.
    """
    step = rolling.step
    if step is None or rolling.going_back:
        return Share(rolling.wanted, 100)
    if step.phase is Phase.PAUSED and held is not None:
        return held
    least = held.least if held is not None and held.revision == rolling.wanted else min(100, had)
    asked = step.share
    if asked is None and step.phase is Phase.PAUSED and step.chosen is Method.BLUE_GREEN:
        asked = 0
    if asked is None:
        total = sum(ready.values())
        asked = 100 * ready.get(rolling.wanted, 0) // total if total else 100
    return Share(rolling.wanted, max(asked, least), least)


def weigh(
    ready: Mapping[str, int], wanted: str, share: int, last_resort: Collection[str] = ()
) -> dict[str, int]:
    """Return what each revision gets, in percent: 100 in all, or 0 to everybody where nobody answers: then it is empty.

    ``share``: of the wanted one, or the one that a pause holds. ``last_resort``: who gets something only where nobody else answers.

    >>> weigh({"a": 9, "b": 1}, "b", 10), weigh({"a": 9, "b": 0}, "b", 10), weigh({"a": 2, "b": 1}, "b", 10, {"a"})
    ({'a': 90, 'b': 10}, {'a': 100, 'b': 0}, {'a': 0, 'b': 100})
    """
    answer = {revision: count for revision, count in ready.items() if count > 0}
    if not answer:
        return {}
    chosen = {revision: count for revision, count in answer.items() if revision not in last_resort} or answer
    others = {revision: count for revision, count in chosen.items() if revision != wanted}
    mine = 0 if wanted not in chosen else share if others else 100
    found = dict.fromkeys(ready, 0)
    found |= _split(100 - mine, others)
    if wanted in chosen:
        found[wanted] = mine
    return found


def _split(percent: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Split a share in proportion to replicas; what is left over by rounding goes to those with most of a percent."""
    total = sum(counts.values())
    if not total:
        return {}
    found = {revision: percent * count // total for revision, count in counts.items()}
    by_rest = sorted(counts, key=lambda revision: (-(percent * counts[revision] % total), revision))
    for revision in by_rest[: percent - sum(found.values())]:
        found[revision] += 1
    return found


def _last_resort(rolling: Rolling, ready: Mapping[str, int]) -> frozenset[str]:
    """Return who gets something only where nobody else answers: what failed, and what is on its way out.

    Where all that is left is on its way out, those that failed come last.
    """
    left = frozenset(rolling.left) - {rolling.wanted}
    going = frozenset[str]()
    if rolling.step is not None and rolling.step.phase is not Phase.PAUSED:
        kept: dict[str, int] = {}
        for (revision, _), count in rolling.step.replicas.items():
            kept[revision] = kept.get(revision, 0) + count
        going = frozenset(r for r in ready if r != rolling.wanted and kept.get(r, 0) == 0)
    answers = {revision for revision, count in ready.items() if count > 0}
    return left | going if answers - left - going else left


def _listed(wanted: str, there: Collection[str], weights: Mapping[str, int]) -> list[str]:
    """Return the revisions that the route names: the wanted one first, and no more than a rule may have."""
    others = sorted(set(there) - {wanted}, key=lambda revision: (-weights.get(revision, 0), revision))
    return [wanted, *sorted(others[: MOST_BACKENDS - 1])]


def _stay(
    service: LLMDeployment,
    view: RouteView | None,
    weights: Mapping[str, int],
    wanted: str,
    ready: Mapping[str, int],
    now: datetime,
) -> frozenset[str]:
    if view is None:
        return frozenset()
    is_new = view.written is not None and (now - view.written).total_seconds() < TAKEN_SECONDS
    return frozenset(
        revision
        for revision, count in ready.items()
        if revision != wanted
        and count > 0
        and weights.get(revision, 0) == 0
        and (
            view.weights.get(revision_service_name(service.name, revision), 0) > 0 or (view.behind and is_new)
        )
    )


def _missing() -> Verdict:
    words = (
        "`rollout.gateway` is set, and the cluster has no HTTPRoute of gateway.networking.k8s.io/v1: install Gateway API. "
        "Until then the Service gives every ready replica as much as any other."
    )
    return Verdict(ConditionType.ROUTED, False, Reason.GATEWAY_API_MISSING, words)


def _verdict(service: LLMDeployment, view: RouteView | None) -> Verdict:
    asked = len(service.spec.rollout.gateway.parent_refs) if service.spec.rollout.gateway else 0
    if view is not None and view.refused:
        words = f"HTTPRoute {service.name} is not taken: {view.refused}"
        return Verdict(ConditionType.ROUTED, False, Reason.ROUTE_REFUSED, words)
    if view is None or view.accepted < asked:
        known = view.accepted if view is not None else 0
        words = (
            f"{known} of {asked} parents have taken HTTPRoute {service.name}: does each Gateway exist, and does its "
            "class have a controller that runs?"
        )
        return Verdict(ConditionType.ROUTED, None, Reason.ROUTE_PENDING, words)
    words = f"HTTPRoute {service.name} is taken by all of its parents."
    return Verdict(ConditionType.ROUTED, True, Reason.ROUTED, words)


def events(before: Collection[tuple[str, str]], verdicts: Sequence[Verdict]) -> list[EventDraft]:
    """Return an Event for a route that is not taken, or not possible. ``before``: type and reason of each condition."""
    bad = {Reason.ROUTE_REFUSED, Reason.GATEWAY_API_MISSING}
    return [
        EventDraft(verdict.reason, verdict.message, warning=True)
        for verdict in verdicts
        if verdict.reason in bad and (verdict.type, verdict.reason) not in before
    ]


def is_of_a_revision(body: Manifest) -> bool:
    """Tell whether a Service is that of a single revision."""
    return LABEL_REVISION in (body["metadata"].get("labels") or {})


def _all_gone(service: LLMDeployment, ours: Body | None, services: Sequence[Body]) -> list[Write]:
    writes: list[Write] = [] if ours is None or _leaves(ours) else [_delete(ours)]
    return writes + [_delete(body) for body in services if _may_go(body, service, ())]


def _may_go(body: Body, service: LLMDeployment, used: Collection[str]) -> bool:
    metadata = body["metadata"]
    return not _leaves(body) and is_controlled_by(body, service.uid) and metadata["name"] not in used


def _leaves(body: Body) -> bool:
    return "deletionTimestamp" in body["metadata"]


def _delete(body: Body) -> Delete:
    metadata = body["metadata"]
    return Delete(body["kind"], metadata["namespace"], metadata["name"], metadata.get("uid", ""))
