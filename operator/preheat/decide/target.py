"""Which revision replicas move to: the spec's, the one that a person asks for, or the one before a failed one.

In this order, and all of it from what is stored, never from the status:

    annotation preheat.dev/rollback-to names a stored revision   that one: a person knows best
    the spec's revision has a verdict, autoRollback              the one that the verdict names, else the newest good one
    the spec's revision has a verdict, no autoRollback           the spec's, and nothing moves
    else                                                         the spec's

A verdict holds until the spec asks for another revision, or ``preheat.dev/retry`` has a value that it does not know. Only
the spec's revision is ever judged, so what was gone back to cannot fail in turn: nothing loops.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from preheat.api.conditions import Reason
from preheat.api.constants import (
    ANNOTATION_RETRY,
    ANNOTATION_ROLLBACK_TO,
    ANNOTATION_SERVED,
    ANNOTATION_SOAKED,
)
from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentSpec
from preheat.decide.judgement.failure import Failure, failure_of
from preheat.resources import serving
from preheat.resources.serving import Revision

LISTED = 8
"""So many revisions are named where the one that was asked for is not there."""


@dataclass(frozen=True, slots=True)
class Target:
    """The revision that is wanted, and why it is not the spec's, where it is not."""

    id: str
    why: str = ""
    """One or more sentences; empty as long as the spec's revision is wanted and nothing is wrong with it."""
    going_back: bool = False
    """Whether it is another revision than the spec's."""
    reason: Reason | None = None
    failure: Failure | None = None
    """Why the spec's revision failed."""
    alone: bool = False
    """Whether it may fail, and there is no other to go back to."""
    held: bool = False
    """Whether it stands in for the spec's revision, which cannot run as far as is known (``preflight.py``)."""
    preflight: str | None = None
    """Why the spec's revision cannot run; empty where nothing speaks against it, None where that is not asked."""
    holds: bool = False
    """Whether nothing moves: the spec's revision failed, and nobody may go back but a person."""


def choose_target(service: LLMDeployment, stored: Sequence[Revision]) -> Target:
    """Return which revision is wanted."""
    identity = serving.revision_id(service)
    asked, unknown = _asked_for(service, identity, stored)
    if asked is not None:
        words = (
            f"Revision {asked.number} ({asked.id}) serves, and not the spec's ({identity}), because the annotation "
            f"{ANNOTATION_ROLLBACK_TO} asks for it. Remove the annotation to have the spec's."
        )
        return Target(asked.id, words, asked.id != identity, Reason.ROLLBACK_REQUESTED)
    failure = failure_of(stored, identity)
    if failure is None or failure.retry != service.annotations.get(ANNOTATION_RETRY, ""):
        return Target(identity, unknown, reason=Reason.REVISION_UNKNOWN if unknown else None)
    told = f"Revision {identity} failed, {failure.reason}: {failure.message}"
    back = back_from(failure, identity, stored)
    if back is None:
        return Target(identity, f"{told} {unknown}".strip(), reason=Reason.ROLLOUT_FAILED, failure=failure)
    if not service.spec.rollout.auto_rollback:
        words = (
            f"{told} Nothing moves, as `rollout.autoRollback` is false: change the spec, have it tried again "
            f"(annotation {ANNOTATION_RETRY}), or go back to {back.number} ({back.id}) with `kubectl preheat rollback`."
        )
        return Target(identity, words, reason=Reason.ROLLOUT_FAILED, failure=failure, holds=True)
    words = (
        f"{told} Revision {back.number} ({back.id}) serves instead. Change the spec, or have it tried again: "
        f"annotation {ANNOTATION_RETRY} with a new value."
    )
    return Target(back.id, words, going_back=True, reason=Reason.ROLLED_BACK, failure=failure)


def back_from(failure: Failure, identity: str, stored: Sequence[Revision]) -> Revision | None:
    """Return where to go back to: where the verdict says, else to the newest good one, None without any."""
    named = [r for r in stored if r.id == failure.back_to and r.id != identity]
    return max(named, key=lambda r: r.number, default=None) or way_back(stored, identity, ())


def way_back(stored: Sequence[Revision], identity: str, serving_ids: Collection[str]) -> Revision | None:
    """Return the newest good revision but this one: soaked before one that only serves or served, never a failed one."""
    good = [
        r
        for r in stored
        if r.id != identity and failure_of(stored, r.id) is None and (_is_proven(r) or r.id in serving_ids)
    ]
    return max(good, key=lambda r: (ANNOTATION_SOAKED in r.marks, r.number), default=None)


def is_soaked(stored: Sequence[Revision], identity: str) -> bool:
    """Tell whether a revision is known to be good."""
    return any(ANNOTATION_SOAKED in r.marks for r in stored if r.id == identity)


def has_taken_over(stored: Sequence[Revision], identity: str) -> bool:
    """Tell whether a revision is known to be good, and none came after it."""
    newest = max(stored, key=lambda r: r.number, default=None)
    return newest is not None and newest.id == identity and is_soaked(stored, identity)


def is_proven(stored: Sequence[Revision], identity: str) -> bool:
    """Tell whether it is remembered that a revision is good, or at least served."""
    return any(_is_proven(r) for r in stored if r.id == identity)


def _is_proven(revision: Revision) -> bool:
    return ANNOTATION_SOAKED in revision.marks or ANNOTATION_SERVED in revision.marks


def _asked_for(
    service: LLMDeployment, identity: str, stored: Sequence[Revision]
) -> tuple[Revision | None, str]:
    """Return the revision that a person asks for, or in words that there is none such; neither without a wish.

    ``N@ID`` is a wish from when the spec asked for revision ID: another spec is a newer wish.
    """
    wish, _, since = service.annotations.get(ANNOTATION_ROLLBACK_TO, "").strip().partition("@")
    if not wish or (since and since != identity):
        return None, ""
    found = next((r for r in stored if wish in {str(r.number), r.id}), None)
    if found is not None:
        return found, ""
    there = sorted({(r.number, r.id) for r in stored}, reverse=True)[:LISTED]
    listed = ", ".join(f"{number} ({known})" for number, known in there) or "none yet"
    return (
        None,
        f"The annotation {ANNOTATION_ROLLBACK_TO} asks for revision {wish}, which is not there. There are: {listed}.",
    )


def as_it_was(service: LLMDeployment, stored: Sequence[Revision], target: Target) -> LLMDeployment:
    """Return the service as its target's revision was made: what does not make a revision is as the spec says now.

    Of the GPU types those are taken for which the revision is stored: nothing is rendered for a way back.
    """
    mine = [revision for revision in stored if revision.id == target.id]
    if not target.going_back or not mine:
        return service
    now = service.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    kept = sorted({revision.gpu_type for revision in mine})
    parts = next((r.spec for r in mine if r.spec is not None), {}) or {}
    then = (
        {**now, **{part: parts.get(part) for part in serving.SPEC_PARTS if part != "cache"}} if parts else now
    )
    types = [gpu_type for gpu_type in service.spec.hardware.gpu.types if gpu_type in kept] or kept
    # Which types there are and how long one is waited for makes no revision.
    where: dict[str, Any] = {
        "types": [gpu_type.value for gpu_type in types],
        "patienceSeconds": service.spec.hardware.gpu.patience_seconds,
    }
    hardware = then["hardware"]
    then = {**then, "hardware": {**hardware, "gpu": {**hardware["gpu"], **where}}}
    if parts:
        waits = {key: value for key, value in parts.get("cache", {}).items() if key in {"mode", "claimName"}}
        others = {k: v for k, v in (now.get("cache") or {}).items() if k not in {"mode", "claimName"}}
        then["cache"] = {**others, **waits}
    try:
        spec = LLMDeploymentSpec.model_validate({k: v for k, v in then.items() if v is not None})
    except ValidationError:
        # It was stored under another schema. What is pinned is run as it is; of the rest the spec of now is the best guess.
        return service
    return service.model_copy(update={"spec": spec})
