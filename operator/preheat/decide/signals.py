"""Turns what the agents of ready pods tell at two times into what the policy looks at. Pure.

An agent's counters only grow, over every start of its engine; another ``since`` is another agent, whose counters began
anew. So a pod tells of a window when the same agent told at both ends of it, and then by the growth of its counters.

What is not known is None, never zero:

* a pod that is silent, whose page is older than ``STALE_SECONDS`` or whose agent began anew tells nothing;
* a pod that became Ready within the window came with counters at zero: it tells from its first answer on;
* a pod that left within it took at most one window's requests with it, half of it on average.

The Service spreads requests evenly, so the pods that tell stand for those that do not, as long as they are at least
half (``LEAST_SHARE``) of all that were there. With fewer, or with none, nothing is known.

While no replica is ready the front is asked in their place (``decide/front.py``): it tells how many it turned away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from preheat.decide.observed import Reading
from preheat.decide.scaling import Sample

STALE_SECONDS = 10.0
"""An agent reads a page every 2 s."""
LEAST_SHARE = 0.5
LEFT_SHARE = 0.5
"""How much of a window a pod that left within it was there, on average."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the agents of all ready pods told at one time. Pods by uid; the silent ones are in ``pods`` alone."""

    at: float
    """Unix seconds."""
    pods: frozenset[str]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    fronted: bool = False
    """Whether a front counts who comes while no replica is ready."""
    turned_away: float | None = None
    """How many came to it since the look before; None: it does not say."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window, as the policy sees it, and what only people look at."""

    sample: Sample
    share: float
    """Of the pods that were there: how much of them told."""
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    """Tokens of the window, where the engine says."""


@dataclass(frozen=True, slots=True)
class _Growth:
    """How one pod's counters grew within the window."""

    came: float
    ended: float
    busy_seconds: float | None
    prompt_tokens: float | None
    generated_tokens: float | None


def window(before: Look | None, after: Look, loading: tuple[float, ...], available: int | None) -> Window:
    """Return what was seen between two looks; with none before it, only what is true at its end."""
    seconds = after.at - before.at if before is not None else 0.0
    told = [reading for uid, reading in after.readings.items() if _is_fresh(reading) and uid in after.pods]
    share = len(told) / len(after.pods) if after.pods else 0.0
    queued = _scaled(sum(reading.waiting for reading in told), share)
    if before is None or seconds <= 0:
        running = _sum(reading.in_service for reading in told)
        sample = _sample(after, 0.0, None, _scaled(running, share), queued, None, loading, available)
        return Window(sample, share)
    grown = [growth for uid in after.pods if (growth := _growth(before, after, uid)) is not None]
    there = len(after.pods) + LEFT_SHARE * len(before.pods - after.pods)
    share = len(grown) / there if there else 0.0
    ended, busy = sum(growth.ended for growth in grown), _sum(growth.busy_seconds for growth in grown)
    in_service = _scaled(busy, share)
    sample = _sample(
        after,
        seconds,
        _scaled(sum(growth.came for growth in grown), share),
        None if in_service is None else in_service / seconds,
        queued,
        busy / ended if busy and ended > 0 else None,
        loading,
        available,
    )
    return Window(
        sample,
        share,
        _scaled(_sum(growth.prompt_tokens for growth in grown), share),
        _scaled(_sum(growth.generated_tokens for growth in grown), share),
    )


def _sample(
    after: Look,
    seconds: float,
    arrivals: float | None,
    in_service: float | None,
    queued: float | None,
    service_seconds: float | None,
    loading: tuple[float, ...],
    available: int | None,
) -> Sample:
    return Sample(
        at=after.at,
        seconds=seconds,
        arrivals=arrivals,
        in_service=in_service,
        queued=queued,
        service_seconds=service_seconds,
        ready=len(after.pods),
        loading=loading,
        available=available,
    )


def _growth(before: Look, after: Look, uid: str) -> _Growth | None:
    new = after.readings.get(uid)
    if new is None or not _is_fresh(new):
        return None
    old = before.readings.get(uid)
    if old is None:
        # It was there and silent: where its counters stood is not known. Else they began at zero.
        return None if uid in before.pods else _Growth(*_counters(new))
    if old.since != new.since or not _is_fresh(old):
        return None
    return _Growth(
        max(0.0, new.came - old.came),
        max(0.0, new.ended - old.ended),
        _difference(new.busy_seconds, old.busy_seconds),
        _difference(new.prompt_tokens, old.prompt_tokens),
        _difference(new.generated_tokens, old.generated_tokens),
    )


def _counters(reading: Reading) -> tuple[float, float, float | None, float | None, float | None]:
    return reading.came, reading.ended, reading.busy_seconds, reading.prompt_tokens, reading.generated_tokens


def _is_fresh(reading: Reading) -> bool:
    return reading.age_seconds <= STALE_SECONDS


def _difference(new: float | None, old: float | None) -> float | None:
    return None if new is None or old is None else max(0.0, new - old)


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum, None when one is not known, or when there is none."""
    known = list(values)
    return sum(v for v in known if v is not None) if known and all(v is not None for v in known) else None


def _scaled(value: float | None, share: float) -> float | None:
    """Return what all pods together have, by the share that told; None when too few did."""
    return None if value is None or share < LEAST_SHARE else value / min(1.0, share)
