"""Builders of what the campaign sees: requests, pods, moments."""

from typing import Any

from e2e.rollout.eyes import Glimpse, Moment, Replica
from e2e.rollout.traffic import Request

GOOD, BAD = "aaa", "bbb"
"""Hashes of revisions, as in the labels of pods."""


def a_request(at: float = 0.0, **more: Any) -> Request:
    """A request that was answered within 0.1 s by the good revision, unless told otherwise."""
    base: dict[str, Any] = {"seconds": 0.1, "protocol": "REST", "revision": "good-1", "pod": "p", "ok": True}
    if more.get("why"):
        base |= {"ok": False, "revision": ""}
    return Request(**{"at": at, "why": "", **base, **more})


def a_replica(name: str = "p", revision: str = GOOD, **more: Any) -> Replica:
    base: dict[str, Any] = {"ready": True, "leaving": False, "runs": True, "restarts": 0}
    return Replica(**{"name": name, "revision": revision, "gpu_type": "nvidia-l4", **base, **more})


def a_moment(at: float, *replicas: Replica) -> Moment:
    return Moment(at, {replica.name: replica for replica in replicas})


def a_pod(
    name: str = "p", revision: str = GOOD, *, ready: bool = True, leaving: bool = False
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": {"preheat.dev/revision": revision}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "kind": "Pod",
        "metadata": metadata,
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "engine", "state": {"running": {}}, "restartCount": 1}],
        },
    }


def a_service(
    generation: int = 2, rollout: dict[str, Any] | None = None, **conditions: Any
) -> dict[str, Any]:
    """An LLMDeployment. ``conditions``: type -> (status, reason, message, generation)."""
    told = [
        {"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": of}
        for kind, (status, reason, message, of) in conditions.items()
    ]
    return {
        "kind": "LLMDeployment",
        "metadata": {"name": "m", "generation": generation},
        "status": {"conditions": told, **({"rollout": rollout} if rollout else {})},
    }


def a_glimpse(at: float, body: dict[str, Any], *, gone: bool = False) -> Glimpse:
    return Glimpse(at, gone, body)
