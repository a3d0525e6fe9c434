"""Scale to zero, seen by clients: when they are sent to the front, what it tells them, when their coming wakes. Pure.

    no replica is ready      the Service's clients are sent to the front; it says when to come again and counts them
    one is                   nobody is sent there

The front counts, and the operator asks it (``controller/front.py``). What it counted enters as arrivals, up to what
one replica would be busy with: who is turned away comes again, and a client that comes again every second must not
be taken for a crowd. One replica wakes; how many more are wanted it tells itself, or the forecast and the schedule do.
A front that is silent says nothing: that is no zero, and no reason for anything.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from preheat.api.conditions import ConditionType
from preheat.api.constants import ANNOTATION_READY_AT, PORTS_OF_DEPLOYMENTS
from preheat.api.llmdeployment import LLMDeployment, ScalingMode
from preheat.decide import loads
from preheat.decide.autoscale import Outcome
from preheat.decide.observed import Body, FrontReport, Name, PodView, is_controlled_by, parse_time
from preheat.decide.plan import Apply, Delete, Write, timestamp
from preheat.resources.front import make_front_slice
from preheat.resources.names import digest

RECENT_SECONDS = 30.0
"""An arrival that a front we did not know tells of counts when it is no older: its client still waits."""
MOVED_SECONDS, MOVED_SHARE = 10.0, 0.25
"""By how much an expectation has to move until another is written: seconds, and a share of what is left."""
IPV4, IPV6 = "IPv4", "IPv6"


@dataclass(frozen=True, slots=True)
class FrontObservation:
    """What is known of the front, and of one LLMDeployment's way to it."""

    enabled: bool
    """Whether there is to be one."""
    addresses: tuple[str, ...]
    """Of its pods that are ready, in order."""
    live: Body | None
    """The EndpointSlice, None when there is none."""
    port: int | None
    """Where the front listens for this deployment; None when all are taken."""


def may_sleep(service: LLMDeployment) -> bool:
    """Tell whether Preheat may scale it to zero. Where somebody else decides, nobody would wake it."""
    scaling = service.spec.scaling
    return (
        scaling.mode is not ScalingMode.EXTERNAL and bool(scaling.scale_to_zero) and scaling.min_replicas == 0
    )


def decide_front(
    service: LLMDeployment,
    front: FrontObservation,
    pods: Collection[PodView],
    scaled: Outcome | None,
    now: datetime,
    *,
    weights_there: bool,
) -> list[Write]:
    """Return what makes the EndpointSlice right. ``pods``: the live ones of every revision."""
    live = front.live if front.live is not None and is_controlled_by(front.live, service.uid) else None
    if not front.enabled or not may_sleep(service):
        return [] if live is None else [_delete(live)]
    if front.port is None or (live is None and not front.addresses):
        return []  # the kind of its addresses cannot be changed afterwards
    family = live["addressType"] if live is not None else _family(front.addresses[0])
    if any(pod.ready for pod in pods):
        return [Apply(make_front_slice(service, front.port, family, (), "", ""))]
    addresses = [address for address in front.addresses if _family(address) == family]
    told = parse_time((live["metadata"].get("annotations") or {}).get(ANNOTATION_READY_AT)) if live else None
    ready_at, wakes_in = _expectation(service, pods, scaled, told, now, weights_there=weights_there)
    return [Apply(make_front_slice(service, front.port, family, addresses, ready_at, wakes_in))]


def _expectation(
    service: LLMDeployment,
    pods: Collection[PodView],
    scaled: Outcome | None,
    told: datetime | None,
    now: datetime,
    *,
    weights_there: bool,
) -> tuple[str, str]:
    """Return when a replica is expected, and how long waking takes: one of them, or neither where nobody knows."""
    stuck = any(
        c.type == ConditionType.STALLED and str(c.status) == "True" for c in service.status.conditions
    )
    if scaled is None or stuck:
        return "", ""
    if scaled.replicas == 0:
        return "", str(_rounded(scaled.load.p90_seconds))
    phases = scaled.load.phases
    left = min(
        (loads.remaining(pod, phases, now, weights_there=weights_there) for pod in pods),
        default=scaled.load.p50_seconds,
    )
    return ("", "") if math.isinf(left) else (_ready_at(told, left, now), "")


def _ready_at(told: datetime | None, left: float, now: datetime) -> str:
    """Return when it is expected: as it was told, as long as that still holds. A load that is late is no write a second."""
    found = now + timedelta(seconds=math.ceil(left))
    if told is None:
        return timestamp(found)
    if told <= now:
        return timestamp(max(found, now + timedelta(seconds=MOVED_SECONDS)))
    moved = abs((found - told).total_seconds())
    return timestamp(told if moved <= max(MOVED_SECONDS, MOVED_SHARE * left) else found)


def _rounded(seconds: float) -> int:
    """Return a time with two digits, rounded up: what is measured anew with each load is rarely written anew.

    >>> _rounded(7.2), _rounded(94.0), _rounded(104.0), _rounded(1234.0)
    (8, 94, 110, 1300)
    """
    whole = max(1, math.ceil(seconds))
    unit = int(10 ** max(0, len(str(whole)) - 2))
    return math.ceil(whole / unit) * unit


def choose_port(name: str, mine: int | None, taken: Collection[int]) -> int | None:
    """Return a deployment's port at the front: the one that it has, else one by its name, else the next that is free.

    ``taken``: those of others that go before it. None when there is none left.
    """
    if mine in PORTS_OF_DEPLOYMENTS and mine not in taken:
        return mine
    first = int(digest(name, 8), 16) % len(PORTS_OF_DEPLOYMENTS)
    places = (
        PORTS_OF_DEPLOYMENTS[(first + step) % len(PORTS_OF_DEPLOYMENTS)]
        for step in range(len(PORTS_OF_DEPLOYMENTS))
    )
    return next((port for port in places if port not in taken), None)


def port_of(body: Body) -> int | None:
    """Return the port that a slice leads to."""
    ports = body.get("ports") or ()
    return ports[0].get("port") if ports else None


def grown(before: FrontReport | None, after: FrontReport) -> Mapping[Name, int]:
    """Return who was asked for how often between two answers of one pod of the front.

    Where its counts began anew, or it is new to us, what it counted is of any time: one, if somebody came just now.
    """
    same = before is not None and before.since == after.since
    found: dict[Name, int] = {}
    for name, (count, seconds_ago) in after.arrivals.items():
        known = before.arrivals.get(name, (0, 0.0))[0] if before is not None and same else 0
        fresh = count - known if count >= known else count
        many = fresh if same else int(seconds_ago <= RECENT_SECONDS)
        if many > 0:
            found[name] = many
    return found


def _family(address: str) -> str:
    return IPV6 if ":" in address else IPV4


def _delete(live: Body) -> Delete:
    metadata = live["metadata"]
    return Delete("EndpointSlice", metadata["namespace"], metadata["name"], metadata.get("uid", ""))
