"""That a revision failed: what is written on its ControllerRevisions, and read from there after any restart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from preheat.api.conditions import Reason
from preheat.api.constants import ANNOTATION_SOAKED, ANNOTATION_VERDICT
from preheat.decide.observed import parse_time
from preheat.decide.plan import timestamp
from preheat.resources.serving import Revision

MESSAGE_LIMIT = 700
"""A condition has room for 1024 characters, and what follows from it has to fit as well."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a revision failed, and which one was the way back then."""

    reason: Reason
    message: str
    time: datetime
    back_to: str
    """The id of the revision that was good. It is remembered: who is good must not change with who serves just now."""
    retry: str = ""
    """The value of the annotation ``preheat.dev/retry`` that the revision had its chance with."""
    evidence: Mapping[str, str | int | float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as it is stored."""
        body = {
            "reason": self.reason.value,
            "message": self.message[:MESSAGE_LIMIT],
            "time": timestamp(self.time),
            "backTo": self.back_to,
            "retry": self.retry,
            "evidence": dict(self.evidence),
        }
        return json.dumps(body, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Failure":
        """Return what is stored. Raises KeyError, TypeError or ValueError for what is none."""
        body = json.loads(text)
        time = parse_time(str(body["time"]))
        if time is None or not isinstance(body.get("evidence", {}), dict):
            raise ValueError("no verdict")
        return cls(
            reason=Reason(body["reason"]),
            message=str(body["message"])[:MESSAGE_LIMIT],
            time=time,
            back_to=str(body["backTo"]),
            retry=str(body.get("retry") or ""),
            evidence=dict(body.get("evidence", {})),
        )


def failure_of(revisions: Sequence[Revision], identity: str) -> Failure | None:
    """Return why a revision failed, None when it did not. One of its ControllerRevisions that says so is enough.

    What cannot be read was written by hand, and is no verdict. Nor is what was written before it turned out to be good.
    """
    if any(ANNOTATION_SOAKED in r.marks for r in revisions if r.id == identity):
        return None
    for revision in revisions:
        text = revision.marks.get(ANNOTATION_VERDICT) if revision.id == identity else None
        if text is None:
            continue
        try:
            return Failure.from_json(text)
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return None


def condemned_caches(stored: Sequence[Revision]) -> frozenset[str]:
    """Return the uids of the ModelCaches whose weights a revision failed for. Also of one that is tried again."""
    uids: set[str] = set()
    for identity in {revision.id for revision in stored}:
        failure = failure_of(stored, identity)
        if failure is not None and failure.reason is Reason.WEIGHTS_FAILED:
            uids.add(str(failure.evidence.get("cache") or ""))
    return frozenset(uids - {""})


def marked(revision: Revision, mark: str, text: str) -> Revision:
    """Return a revision with one thing more that is remembered of it."""
    return replace(revision, marks={**revision.marks, mark: text})
