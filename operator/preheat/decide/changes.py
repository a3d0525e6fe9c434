"""Which of the objects we want differ from what is there: a write that changes nothing is not made."""

from collections.abc import Iterator, Mapping
from typing import Any

from preheat.api.conditions import ConditionType, Reason
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.decide.observed import Body
from preheat.resources.metadata import Manifest
from preheat.resources.names import digest

NEWS = frozenset(
    {
        ConditionType.READY,
        ConditionType.AVAILABLE,
        ConditionType.ACCEPTED,
        ConditionType.RECONCILING,
        ConditionType.STALLED,
    }
)
"""Conditions whose status somebody may wait for."""
LACKS = frozenset({Reason.NO_CAPACITY, Reason.CLAIM_NOT_BOUND})
"""Reasons of Ready that ask somebody for something, though work goes on by itself once it is there."""


def differs(desired: Any, live: Any) -> bool:
    """Tell whether a live value lacks anything of the desired one. More in the live one is others' business.

    Lists must have the same length: an item more is a change.
    """
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return bool(desired) or live is not None
        return any(differs(value, live.get(key)) for key, value in desired.items())
    if isinstance(desired, list):
        if not isinstance(live, list):
            return bool(desired) or live is not None
        return len(desired) != len(live) or any(map(differs, desired, live))
    return bool(desired != live)


def difference(desired: Any, live: Any, path: str = "") -> Iterator[str]:
    """Return where a live value lacks something of the desired one, as paths that people read.

    >>> list(difference({"spec": {"replicas": 1, "x": [1, 2]}}, {"spec": {"replicas": 3, "x": [1, 3]}}))
    ['spec.replicas', 'spec.x[1]']
    """
    if isinstance(desired, dict) and isinstance(live, dict):
        for key, value in desired.items():
            yield from difference(value, live.get(key), f"{path}.{key}" if path else key)
    elif isinstance(desired, list) and isinstance(live, list) and len(desired) == len(live):
        for number, (mine, theirs) in enumerate(zip(desired, live, strict=True)):
            yield from difference(mine, theirs, f"{path}[{number}]")
    elif differs(desired, live):
        yield path


def projection(desired: Any, live: Any) -> Any:
    """Return the part of a live value that the desired one speaks of."""
    if isinstance(desired, dict) and isinstance(live, dict):
        return {key: projection(value, live.get(key)) for key, value in desired.items()}
    if isinstance(desired, list) and isinstance(live, list):
        pairs = list(map(projection, desired, live))
        return [*pairs, len(live)]
    return live


def fingerprint(desired: Manifest, live: Body) -> str:
    """Return a hash of what we want and what is there of it.

    The API server may store a value in another spelling ("1024Mi" becomes "1Gi"): such an object differs
    for ever. After an apply its fingerprint is remembered, and while it stays the same nothing is written.
    """
    return digest([desired, projection(desired, live)], 32)


def is_progress(subject: LLMDeployment | ModelCache, status: Mapping[str, Any]) -> bool:
    """Tell whether a status only tells of work that goes on as expected: that may wait a while.

    Everything else is news, to be written at once: a new spec, Ready or Stalled that flips, a spec that is not
    accepted, a GPU that is not to be had. That a new object is being worked on is no news.
    """
    conditions = status.get("conditions", ())
    known = {c.reason for c in subject.status.conditions if c.type == ConditionType.READY}
    if any(c["type"] == ConditionType.READY and c["reason"] in LACKS - known for c in conditions):
        return False
    before = {c.type: str(c.status) for c in subject.status.conditions if c.type in NEWS}
    after = {c["type"]: c["status"] for c in conditions if c["type"] in NEWS}
    if after.get("Reconciling") != "True":
        return False
    if not before:
        return after.get("Accepted") != "False"
    return before == after and subject.status.observed_generation == status.get("observedGeneration")
