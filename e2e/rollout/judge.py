"""Whether a case ended as it must: pure, from what was seen of the model and from the record of the requests.

Who a failed request is laid on: the revision that it names, where the answer names one. Else it is laid on the bad
revision when that had taken traffic and the good one was not back yet, and on nobody when no replica could serve and that
was to be expected. All others were lost by the replicas that were good.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from e2e import campaign
from e2e.rollout.eyes import Body, Glimpse, Moment
from e2e.rollout.traffic import Request, failed, reasons

MARGIN_SECONDS = 3.0
"""Until the last node's rules follow an endpoint that came or went."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the status says became of a revision. ``word``: a condition; ``at``: when it was told, Unix seconds."""

    word: str
    reason: str
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Span:
    """A time, both ends in Unix seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def meets(self, request: Request, margin: float = MARGIN_SECONDS) -> bool:
        """Tell whether a request was under way within it, or so soon before or after that it may be of it."""
        return request.at <= self.end + margin and request.ended >= self.start - margin


@dataclass(frozen=True, slots=True)
class Outcome(campaign.Outcome):
    """What came of a case. ``lost``: of the failed ones, those that good replicas lost.

    ``seconds_to_verdict`` counts from the change, ``seconds_to_recovery`` from the verdict until the good replicas were
    all back, or for a rollout how long no replica served. ``percent_asked``: what a gateway was to give the new
    revision, ``percent_measured``: what it gave, of the requests that were answered.
    """

    verdict: str = ""
    reason: str = ""
    sent: int = 0
    failed: int = 0
    lost: int = 0
    seconds_to_verdict: float | None = None
    seconds_to_recovery: float | None = None
    percent_asked: float | None = None
    percent_measured: float | None = None


VERDICTS = (("RolledBack", "True"), ("PreflightPassed", "False"))
"""Conditions by which the operator says that a revision does not go out, the strongest first."""


def verdict_of(body: Body, at: float) -> Verdict | None:
    """Return what the status says of the newest spec, None while it says nothing of it."""
    generation = body["metadata"]["generation"]
    conditions = {c["type"]: c for c in (body.get("status") or {}).get("conditions", ())}
    for word, status in VERDICTS:
        told = conditions.get(word)
        if told and told["status"] == status and told["observedGeneration"] == generation:
            return Verdict(word, told["reason"], told["message"], at)
    return None


def first_verdict(glimpses: Iterable[Glimpse], since: float) -> Verdict | None:
    """Return the first verdict that was told after a change."""
    told = (g for g in glimpses if g.kind == "LLMDeployment" and g.at >= since and not g.gone)
    return next((verdict for g in told if (verdict := verdict_of(g.body, g.at))), None)


def first_ready(history: Iterable[Moment], good: str, since: float) -> float:
    """Return when a replica of another revision than the good one first took traffic; infinity for never."""
    times = (m.at for m in history if m.at >= since and any(r.ready for r in m.others(good)))
    return next(times, math.inf)


def recovered(history: Sequence[Moment], good: str, replicas: int, since: float) -> float | None:
    """Return from when on the good revision alone served with all its replicas, None when it does not."""
    back = None
    for moment in history:
        if moment.ready(good) >= replicas and not moment.others(good):
            back = back if back is not None else moment.at
        else:
            back = None
    return None if back is None else max(back, since)


def first_moved(history: Iterable[Moment], good: str, replicas: int, since: float) -> float:
    """Return when one of the good replicas first had to go, or was gone; infinity for never."""
    times = (
        m.at
        for m in history
        if m.at >= since and sum(r.revision == good and not r.leaving for r in m.replicas.values()) < replicas
    )
    return next(times, math.inf)


def first_pulled(glimpses: Iterable[Glimpse], since: float) -> float:
    """Return when it was first told that nodes have all that the new pods need; infinity for never."""
    for glimpse in glimpses:
        if glimpse.kind != "LLMDeployment" or glimpse.at < since:
            continue
        body = glimpse.body
        for told in (body.get("status") or {}).get("conditions", ()):
            is_new = told["observedGeneration"] == body["metadata"]["generation"]
            if told["type"] == "ImageReady" and told["status"] == "True" and is_new:
                return glimpse.at
    return math.inf


def problems_of_pull(pulled: float, moved: float) -> list[str]:
    """Return what is wrong with when a good replica had to go for an image that had to be pulled first."""
    if math.isinf(pulled):
        return ["it was never told that a node has the image"]
    # What is told of a pass is written after what it moves.
    early = pulled - moved
    return (
        [f"a good replica went {early:.1f} s before a node had the image"] if early > MARGIN_SECONDS else []
    )


def unserved(history: Sequence[Moment], since: float, until: float) -> list[Span]:
    """Return the times in which no replica took traffic."""
    found, start = [], None
    for moment in history:
        if moment.ready() == 0 and start is None:
            start = max(moment.at, since)
        elif moment.ready() > 0 and start is not None:
            if moment.at > since:
                found.append(Span(start, moment.at))
            start = None
    if start is not None and start < until:
        found.append(Span(start, until))
    return found


def weighted(glimpses: Iterable[Glimpse], good: str, percent: int, until: float) -> list[Span]:
    """Return the times in which all but so many percent were told to go to the good revision."""
    found, start = [], None
    for glimpse in glimpses:
        if glimpse.kind != "LLMDeployment":
            continue
        told = (glimpse.body.get("status") or {}).get("traffic") or ()
        others = sum(share["weight"] for share in told if share["revision"] != good)
        if start is None and others == percent:
            start = glimpse.at
        elif start is not None and others != percent:
            found.append(Span(start, glimpse.at))
            start = None
    return [*found, Span(start, until)] if start is not None else found


def percent_of(requests: Iterable[Request], revision: str, spans: Sequence[Span]) -> tuple[float, int]:
    """Return how many percent of the requests over REST a revision answered, and of how many that is.

    Its first and last seconds are left out: gateways hear of a weight after it is written, the status is told after that.
    """
    within = [
        request.revision == revision
        for request in requests
        if request.protocol == "REST" and request.revision
        if any(
            span.start + MARGIN_SECONDS <= request.at and request.ended <= span.end - MARGIN_SECONDS
            for span in spans
        )
    ]
    return 100 * sum(within) / len(within) if within else 0.0, len(within)


SURE = 3.29
"""Standard deviations that chance leaves once in a thousand times."""


def problems_of_share(percent: float, asked: float, count: int, least: int) -> list[str]:
    """Return what is wrong with a share that was measured. Gateways may deal by chance: of few requests it says little.

    The bound is that of a binomial proportion by the normal approximation, once in a thousand times passed by chance.
    """
    if count < least:
        return [f"only {count} requests while {asked:g} % were to go to it"]
    bound = SURE * math.sqrt(asked * (100 - asked) / count)
    if abs(percent - asked) > bound:
        return [f"it got {percent:.1f} % of {count} requests, not {asked:g} % (within {bound:.1f})"]
    return []


def lost(requests: Iterable[Request], bad: str, excused: Sequence[Span]) -> list[Request]:
    """Return the failed requests that good replicas lost. ``bad``: what the bad revision calls itself, if there is one."""
    return [
        request
        for request in failed(requests)
        if request.revision != bad or not bad
        if request.revision or not any(span.meets(request) for span in excused)
    ]


def problems_of_loss(requests: Sequence[Request]) -> list[str]:
    """Return what to say of requests that good replicas lost."""
    return [f"{len(requests)} requests lost: {reasons(requests)}"] if requests else []


def problems_of_reason(verdict: Verdict | None, right: Iterable[str]) -> list[str]:
    """Return what is wrong with a verdict."""
    if verdict is None:
        return ["no verdict"]
    if verdict.reason not in right:
        return [f"the reason is {verdict.reason}, not {' or '.join(sorted(right))}: {verdict.message}"]
    return [] if verdict.message else [f"{verdict.reason} without a message"]


def problems_of_traffic(requests: Sequence[Request], least: int) -> list[str]:
    """Return what is wrong with the traffic itself: a case without it proves nothing."""
    counts = {name: sum(r.protocol == name for r in requests) for name in ("REST", "gRPC")}
    return [f"only {count} requests over {name}" for name, count in counts.items() if count < least]


def problems_of_gap(
    spans: Sequence[Span], requests: Sequence[Request], glimpses: Iterable[Glimpse], since: float
) -> list[str]:
    """Return what is wrong with the one gap of a rollout that had no room: it must be one, and announced."""
    if not spans:
        return []
    found = [f"{len(spans)} gaps in which nothing served"] if len(spans) > 1 else []
    # A pod that goes answers for as long as it takes endpoints to notice: the gap begins later than it is seen here.
    before = [g for g in glimpses if since <= g.at <= spans[0].start + MARGIN_SECONDS]
    if not any(announces(g.body) for g in before):
        found.append("the gap was not announced before it began")
    if not failed(requests):
        return found
    outside = [r for r in failed(requests) if not any(span.meets(r) for span in spans)]
    return found + problems_of_loss(outside)


def announces(body: Body) -> bool:
    """Tell whether a status says that the rollout lets the only replica go first, or an Event that nothing answers."""
    rollout = (body.get("status") or {}).get("rollout") or {}
    return rollout.get("chosen") == DRAIN_FIRST or NOTHING_ANSWERS in str(body.get("message", ""))


DRAIN_FIRST, NOTHING_ANSWERS = "DrainFirst", "nothing answers"
