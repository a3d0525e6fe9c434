"""Our errors. Each says what the loop does next.

PreheatError
├─ InvalidSpec        the user must change something   -> condition Accepted=False, wait for a change
├─ Unavailable        a peer failed or throttled us    -> back off, last status kept
│  ├─ NotYet          it does not know our kinds yet  -> the same, and nothing is said
│  ├─ Forbidden       the API server lets it not pass -> the same, its other work as usual
│  │  └─ Denied       a webhook or a policy says no  -> the same; a status that is denied is told of by an Event
│  ├─ NotInstalled    no such kind in this cluster     -> there is none of it; the next pass goes without
│  └─ Leaving         a child is being deleted        -> the same; said when it takes longer than a moment
├─ NotOwned           the name is taken by a stranger  -> condition with its name, look again soon
└─ GoingAway          it or its namespace is deleted   -> nothing to do and nothing to say
anything else         a bug                            -> traceback in the log, back off, the loop survives
"""

from datetime import datetime

__all__ = [
    "Denied",
    "Forbidden",
    "GoingAway",
    "InvalidSpec",
    "Leaving",
    "NotInstalled",
    "NotOwned",
    "NotYet",
    "PreheatError",
    "Unavailable",
]


class PreheatError(Exception):
    """Base of all errors that the loop knows how to handle."""


class InvalidSpec(PreheatError):  # noqa: N818 - a verdict on the spec, read as one
    """The spec asks for something that cannot be done. The message says what to change."""


class Unavailable(PreheatError):  # noqa: N818
    """Something outside did not answer, or not now. Trying again is right."""

    again_seconds: float | None = None
    """When to look again at the latest, whatever failed: for its other work. None: nothing else is to be done."""


class Forbidden(Unavailable):
    """The API server is well and lets it not pass: a right, a quota, a webhook, a policy."""


class Denied(Forbidden):
    """A webhook or a policy calls it invalid. Unlike a schema it may change, or be broken, without our hearing of it."""


class NotYet(Unavailable):
    """The API server does not know a kind yet whose definition was installed seconds ago."""


class NotInstalled(Unavailable):
    """The API server has no such kind. Only of those that a cluster may be without."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind} is not installed in this cluster")
        self.kind = kind


class Leaving(Unavailable):
    """A child that is needed is being deleted. It may be gone in a moment, or its owner with it."""

    def __init__(self, message: str, since: datetime | None) -> None:
        super().__init__(message)
        self.since = since


class GoingAway(PreheatError):  # noqa: N818
    """The object or its namespace is being deleted: nothing new is made, and what is there goes."""


class Outdated(PreheatError):  # noqa: N818
    """What a pass was decided from has changed since: nothing of it is written, and the next pass decides anew."""


class NotOwned(PreheatError):  # noqa: N818
    """An object with a name we need exists and is not ours. The message names it."""
