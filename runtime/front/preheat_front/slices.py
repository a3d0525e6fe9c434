"""What the operator tells: one EndpointSlice for each deployment that may be at zero. Pure.

Its port is where this deployment's clients come in, two annotations say what to tell them. Whether the slice has
endpoints, that is whether clients are sent here now, is between the operator and Kubernetes: we listen all the time,
so no client comes before we do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SELECTOR = "app.kubernetes.io/managed-by=preheat,preheat.dev/component=front"
LABEL_DEPLOYMENT = "preheat.dev/llmdeployment"
ANNOTATION_READY_AT = "preheat.dev/ready-at"
ANNOTATION_WAKES_IN = "preheat.dev/wakes-in-seconds"
MOST_SECONDS = 86_400.0

Slice = Mapping[str, Any]
"""An EndpointSlice as the API server gives it."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A deployment whose clients may come to us."""

    namespace: str
    name: str
    port: int
    ready_at: float | None = None
    """Unix seconds. None: it is not on its way, or nobody knows when it will be there."""
    wakes_in: float | None = None
    """Seconds that waking takes, where it sleeps and that is known."""


def sleepers(slices: Iterable[Slice], first_port: int, last_port: int) -> dict[int, Sleeper]:
    """Return who is behind which port. Of two with one port the older has it, as the operator sees it."""
    found: dict[int, Sleeper] = {}
    for body in sorted(slices, key=_age):
        sleeper = read(body)
        if sleeper is not None and first_port <= sleeper.port <= last_port:
            found.setdefault(sleeper.port, sleeper)
    return found


def read(body: Slice) -> Sleeper | None:
    """Return what a slice tells, None when it is none of the operator's."""
    metadata = body.get("metadata") or {}
    name = (metadata.get("labels") or {}).get(LABEL_DEPLOYMENT)
    # The first and no other, as the operator reads it: else a stranger's slice has a port that nobody knows is taken.
    ports = body.get("ports") or ()
    port = ports[0].get("port") if ports else None
    if not name or not isinstance(port, int) or _owner(metadata) != name:
        return None
    annotations = metadata.get("annotations") or {}
    return Sleeper(
        namespace=str(metadata.get("namespace", "")),
        name=str(name),
        port=port,
        ready_at=_time(annotations.get(ANNOTATION_READY_AT)),
        wakes_in=_seconds(annotations.get(ANNOTATION_WAKES_IN)),
    )


def _owner(metadata: Mapping[str, Any]) -> str | None:
    owners = metadata.get("ownerReferences") or ()
    return next(
        (o.get("name") for o in owners if o.get("controller") and o.get("kind") == "LLMDeployment"), None
    )


def _age(body: Slice) -> tuple[str, str]:
    metadata = body.get("metadata") or {}
    return str(metadata.get("creationTimestamp", "")), str(metadata.get("uid", ""))


def _time(text: str | None) -> float | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= MOST_SECONDS else None
