"""What a Prometheus has of the agents' counters: what it is asked, and what its answers say. Pure.

It is a second source, and it is believed as little as an agent is. Two things are asked:

* **The last minutes** (``recent``), when too few agents answer: the samples themselves, with the times of their scrapes,
  and no ``rate`` over them. So what was scraped long ago, not at all, or from an agent that began anew is unknown here
  as it is there, and never zero. A window is then as long as the time between two scrapes.
* **The last week** (``past``), where the policy does not remember it: means of ten minutes over all replicas. Ten minutes in
  which a tenth of the scrapes failed, or in which Prometheus itself was away, teach nothing.

Queries name one namespace and one LLMDeployment. Both labels are put on by whoever configures the scrape, from what the
API server says of the pod; what a page says of itself comes under another name.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

from preheat.api.constants import PROMETHEUS_LABEL_DEPLOYMENT
from preheat.decide.observed import MOST, Reading
from preheat.decide.scaling import Known
from preheat.decide.scaling.season import SLOT_MINUTES, WEEK_SLOTS
from preheat.decide.signals import Growth, Scrape, Window, grown_window, growth, is_fresh

RANGE_SECONDS = 180
"""How far back samples are asked for: three scrapes of a minute each."""
FRESH_SECONDS = 75.0
"""A scrape of longer ago says nothing of now. Prometheus scrapes every minute if nobody says otherwise."""
AHEAD_SECONDS = 5.0
"""So far ahead of ours its clock may be."""
STEP_SECONDS = 60 * SLOT_MINUTES
LEAST_UP = 0.9
LEAST_SCRAPED = 0.8
"""Of the scrapes that are usual: with fewer, Prometheus was away for a part of the time."""

_SERIES = {
    "preheat_agent_start_time_seconds": "since",
    "preheat_agent_signals_age_seconds": "age",
    "preheat_agent_requests_received_total": "came",
    "preheat_agent_requests_ended_total": "ended",
    "preheat_agent_service_seconds_total": "busy",
    "preheat_agent_requests_waiting": "waiting",
    "preheat_agent_requests_in_service": "in_service",
    "preheat_agent_slots": "slots",
}
_OPTIONAL = {"in_service", "slots"}
_PREFIX = "preheat_agent_"


Scrapes = Mapping[str, Sequence[Scrape]]
"""By the pod's uid, oldest first."""


def recent_query(namespace: str, name: str, labels: Mapping[str, str]) -> str:
    """Return the query for the last samples of one LLMDeployment's agents. ``labels``: of the installation."""
    names = "|".join(sorted(series.removeprefix(_PREFIX) for series in _SERIES))
    return f'{{__name__=~"{_PREFIX}({names})",{_matchers(namespace, name, labels)}}}[{RANGE_SECONDS}s]'


def past_query(namespace: str, name: str, labels: Mapping[str, str]) -> str:
    """Return the query for means of ten minutes. Replicas that two jobs scrape count once."""
    of = f"{{{_matchers(namespace, name, labels)}}}[{STEP_SECONDS}s]"

    def growth_of(series: str) -> str:
        return f"sum(max by (pod) (increase({_PREFIX}{series}{of})))"

    asked = {
        "came": growth_of("requests_received_total"),
        "ended": growth_of("requests_ended_total"),
        "busy": growth_of("service_seconds_total"),
        "waiting": f"sum(max by (pod) (avg_over_time({_PREFIX}requests_waiting{of})))",
        "up": f"avg(avg_over_time(up{of}))",
        "scrapes": f"max(count_over_time(up{of}))",
    }
    return " or ".join(f'label_replace({query},"what","{what}","","")' for what, query in asked.items())


def past_span(now: float) -> tuple[float, float]:
    """Return the first and the last time at which ten minutes end of which is asked, Unix seconds: a week but the first slot."""
    last = now // STEP_SECONDS * STEP_SECONDS
    return last - (WEEK_SLOTS - 1) * STEP_SECONDS, last


def read_recent(body: Any, pods: Mapping[str, str]) -> Scrapes:
    """Return the scrapes in an answer. ``pods``: uids by name.

    Raises ArithmeticError, AttributeError, KeyError, TypeError or ValueError for what is no answer.
    A scrape of which something is missing or no number is left out.
    """
    found: dict[tuple[str, float], dict[str, float]] = {}
    for series in _result(body, "matrix"):
        labels = series["metric"]
        field, uid = _SERIES.get(labels.get("__name__", "")), pods.get(labels.get("pod", ""))
        if field is not None and uid is not None:
            for at, value in series.get("values", ()):
                found.setdefault((uid, float(at)), {})[field] = float(value)
    scrapes: dict[str, list[Scrape]] = {}
    for (uid, at), values in sorted(found.items()):
        reading = _reading(values)
        if reading is not None and math.isfinite(at):
            scrapes.setdefault(uid, []).append(Scrape(at, reading))
    return scrapes


def window(
    ready: frozenset[str],
    left: int,
    scrapes: Scrapes,
    now: float,
    known_at: float,
    loading: tuple[float, ...],
    available: int | None,
) -> Window | None:
    """Return the window up to the last scrapes, None while they say nothing new.

    ``ready``, ``left``: pods that are there, and how many left since the last look; ``known_at``: until when is known
    what was asked. Pods are scraped one after the other, so each tells of a time of its own, the last one again until
    half of them were scraped anew; what grew is brought to the mean of these times.
    """
    spans = [span for uid in sorted(ready) if (span := _span(scrapes.get(uid, ()), now, known_at))]
    if not spans or 2 * sum(last.at > known_at for _, last in spans) < len(spans):
        return None
    seconds = sum(last.at - first.at for first, last in spans) / len(spans)
    grown = [
        _stretched(grew, seconds / (last.at - first.at))
        for first, last in spans
        if (grew := growth(first.reading, last.reading)) is not None
    ]
    told = [last.reading for _, last in spans]
    at = min(now, max(last.at for _, last in spans))
    found = grown_window(at, seconds, len(ready), left, grown, told, loading, available)
    return replace(found, scraped=True)


def slots(scrapes: Scrapes) -> list[float]:
    """Return how many requests the engines serve at once, as far as they say."""
    return [told for each in scrapes.values() if each and (told := each[-1].reading.slots)]


def read_past(body: Any, first: float, last: float) -> tuple[Known, ...]:
    """Return the windows of ten minutes that an answer knows, oldest first. Raises as ``read_recent``.

    ``first``, ``last``: the times that were asked for. What is of another time, or of none, is left out.
    """
    found: dict[float, dict[str, float]] = {}
    for series in _result(body, "matrix"):
        for at, value in series.get("values", ()):
            if first <= float(at) <= last:
                found.setdefault(float(at), {})[series["metric"]["what"]] = float(value)
    usual = median([each["scrapes"] for each in found.values() if "scrapes" in each] or [0.0])
    windows = (_known(at, each, LEAST_SCRAPED * usual) for at, each in sorted(found.items()))
    return tuple(each for each in windows if each is not None)


def _known(at: float, said: Mapping[str, float], least_scrapes: float) -> Known | None:
    """Return a window of which all is known, None for another. Its numbers are means of many scrapes."""
    if not {"came", "ended", "busy", "waiting", "up", "scrapes"} <= said.keys():
        return None
    if not all(0 <= value <= MOST for value in said.values()):
        return None
    if said["up"] < LEAST_UP or said["scrapes"] < least_scrapes:
        return None
    ended, busy = said["ended"], said["busy"]
    return Known(
        at=at,
        seconds=float(STEP_SECONDS),
        arrivals=said["came"],
        in_service=busy / STEP_SECONDS,
        queued=said["waiting"],
        service_seconds=busy / ended if ended > 0 and busy > 0 else None,
        ready=0,
    )


def _span(scrapes: Sequence[Scrape], now: float, known_at: float) -> tuple[Scrape, Scrape] | None:
    """Return two scrapes of a pod between which it tells: the last one, and the one at which what is known ends, or the one before."""
    believed = [scrape for scrape in scrapes if scrape.at <= now + AHEAD_SECONDS]
    if len(believed) < 2 or believed[-1].at < now - FRESH_SECONDS:
        return None
    *before, last = believed
    first = next((one for one in reversed(before) if one.at <= known_at), before[-1])
    between = [one for one in believed if one.at >= first.at]
    if any(_began_anew(one, two) for one, two in pairwise(between)):
        return None
    return (first, last) if is_fresh(first.reading) and is_fresh(last.reading) else None


def _began_anew(one: Scrape, two: Scrape) -> bool:
    """Tell whether counters began at zero between two scrapes: those that are exported never go back."""
    old, new = one.reading, two.reading
    pairs = ((old.came, new.came), (old.ended, new.ended), (old.busy_seconds or 0, new.busy_seconds or 0))
    return new.since != old.since or any(after < before for before, after in pairs)


def _stretched(grew: Growth, factor: float) -> Growth:
    return replace(
        grew,
        came=grew.came * factor,
        ended=grew.ended * factor,
        busy_seconds=None if grew.busy_seconds is None else grew.busy_seconds * factor,
    )


def _reading(said: Mapping[str, float]) -> Reading | None:
    if not set(_SERIES.values()) - _OPTIONAL <= said.keys():
        return None
    if not all(0 <= value <= MOST for value in said.values()):
        return None
    return Reading(
        since=repr(said["since"]),
        age_seconds=said["age"],
        came=said["came"],
        ended=said["ended"],
        failed=0.0,
        in_service=said.get("in_service"),
        waiting=said["waiting"],
        busy_seconds=said["busy"],
        slots=said.get("slots"),
    )


def _result(body: Any, kind: str) -> Iterable[Mapping[str, Any]]:
    data = body["data"]
    if body["status"] != "success" or data["resultType"] != kind or not isinstance(data["result"], list):
        raise ValueError(f"this is no {kind}")
    return data["result"]


def _matchers(namespace: str, name: str, labels: Mapping[str, str]) -> str:
    wanted = {**labels, "namespace": namespace, PROMETHEUS_LABEL_DEPLOYMENT: name}
    return ",".join(f"{label}={json.dumps(value)}" for label, value in wanted.items())
