"""Turns what the agents of ready pods tell at two times into what the policy looks at. Pure.

An agent's counters only grow, over every start of its engine; another ``since`` is another agent, whose counters began
anew. So a pod tells of a window when the same agent told at both ends of it, and then by the growth of its counters.

What is not known is None, never zero:

* a pod that is silent, whose page is older than ``STALE_SECONDS`` or whose agent began anew tells nothing;
* a pod that became Ready within the window for the first time came with counters at zero: it tells from its first answer
  on. One that was Ready before (its model was healed, its node was away) tells from the next look on;
* a pod that left within it took at most one window's requests with it, half of it on average.

The Service spreads requests evenly, so the pods that tell stand for those that do not, as long as they are at least
half (``LEAST_SHARE``) of all that were there. With fewer, or with none, nothing is known.

Where too few tell, a Prometheus may be asked what it has of them (``decide/scraped.py``).

While no replica is ready the front is asked in their place (``decide/front.py``): it tells how many it turned away.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from preheat.decide.observed import Reading
from preheat.decide.scaling import Sample

STALE_SECONDS = 10.0
"""An agent reads a page every 2 s."""
LEAST_SHARE = 0.5
LEFT_SHARE = 0.5
"""How much of a window a pod that left within it was there, on average."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one scrape of one pod by a Prometheus found (``decide/scraped.py``)."""

    at: float
    """Unix seconds, on Prometheus' clock."""
    reading: Reading


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
    earlier: frozenset[str] = frozenset()
    """Pods that may have served before the look before this one: what their counters stood at then is not known."""
    scrapes: Mapping[str, Sequence[Scrape]] | None = None
    """What a Prometheus has of the ready pods, where too few of them told. None: it was not asked, or does not answer."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window, as the policy sees it, and what only people look at."""

    sample: Sample
    share: float
    """Of the pods that were there: how much of them told."""
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    """Tokens of the window, where the engine says."""
    scraped: bool = False
    """Whether it comes from a Prometheus, because too few agents told."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How one pod's counters grew within the window."""

    came: float
    ended: float
    busy_seconds: float | None
    prompt_tokens: float | None
    generated_tokens: float | None


def window(before: Look | None, after: Look, loading: tuple[float, ...], available: int | None) -> Window:
    """Return what was seen between two looks; with none before it, only what is true at its end."""
    seconds = after.at - before.at if before is not None else 0.0
    told = [reading for uid, reading in after.readings.items() if is_fresh(reading) and uid in after.pods]
    share = len(told) / len(after.pods) if after.pods else 0.0
    if before is None or seconds <= 0:
        queued = _scaled(sum(reading.waiting for reading in told), share)
        running = _sum(reading.in_service for reading in told)
        sample = Sample(
            at=after.at,
            seconds=0.0,
            arrivals=None,
            in_service=_scaled(running, share),
            queued=queued,
            service_seconds=None,
            ready=len(after.pods),
            loading=loading,
            available=available,
        )
        return Window(sample, share)
    grown = [each for uid in after.pods if (each := _growth(before, after, uid)) is not None]
    left = len(before.pods - after.pods)
    return grown_window(after.at, seconds, len(after.pods), left, grown, told, loading, available)


def too_few_tell(before: Look | None, after: Look) -> bool:
    """Tell whether agents leave unknown how much is asked, though there are pods."""
    return bool(after.pods) and window(before, after, (), None).share < LEAST_SHARE


def grown_window(
    at: float,
    seconds: float,
    ready: int,
    left: int,
    grown: Sequence[Growth],
    told: Sequence[Reading],
    loading: tuple[float, ...],
    available: int | None,
) -> Window:
    """Return the window in which these counters grew. ``left``: pods that went within it; ``told``: readings at its end."""
    queued = _scaled(sum(reading.waiting for reading in told), len(told) / ready if ready else 0.0)
    there = ready + LEFT_SHARE * left
    share = len(grown) / there if there else 0.0
    ended, busy = sum(each.ended for each in grown), _sum(each.busy_seconds for each in grown)
    in_service = _scaled(busy, share)
    sample = Sample(
        at=at,
        seconds=seconds,
        arrivals=_scaled(sum(each.came for each in grown), share),
        in_service=None if in_service is None else in_service / seconds,
        queued=queued,
        service_seconds=busy / ended if busy and ended > 0 else None,
        ready=ready,
        loading=loading,
        available=available,
    )
    return Window(
        sample,
        share,
        _scaled(_sum(each.prompt_tokens for each in grown), share),
        _scaled(_sum(each.generated_tokens for each in grown), share),
    )


def growth(old: Reading, new: Reading) -> Growth | None:
    """Return how one agent's counters grew between two readings, None when another agent tells."""
    if old.since != new.since:
        return None
    return Growth(
        max(0.0, new.came - old.came),
        max(0.0, new.ended - old.ended),
        _difference(new.busy_seconds, old.busy_seconds),
        _difference(new.prompt_tokens, old.prompt_tokens),
        _difference(new.generated_tokens, old.generated_tokens),
    )


def _growth(before: Look, after: Look, uid: str) -> Growth | None:
    new = after.readings.get(uid)
    if new is None or not is_fresh(new):
        return None
    old = before.readings.get(uid)
    if old is None:
        # It was there and silent, or served before: where its counters stood is not known. Else they began at zero.
        return None if uid in before.pods | after.earlier else Growth(*_counters(new))
    return growth(old, new) if is_fresh(old) else None


def _counters(reading: Reading) -> tuple[float, float, float | None, float | None, float | None]:
    return reading.came, reading.ended, reading.busy_seconds, reading.prompt_tokens, reading.generated_tokens


def is_fresh(reading: Reading) -> bool:
    """Tell whether the page that a reading is from was read just before."""
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
