"""How much the model is asked: counters for whoever scales it, from the engine's metrics page. Pure.

Three kinds of pages are read, by what is on them; of several models on one page, the one that is asked counts:

* backends that queue inside themselves (llama.cpp, vLLM) have gauges of their own for what runs and what waits.
  Triton's own pending count stays 0 for them, and its success count moves when a request is handed over.
* every other model: Triton's pending count is what waits, its request counters are what ended, and the time a
  request held an instance is its whole time less its time in the queue. What runs is on no gauge.

What came is what was handed over and what waits for that (Triton's counts), or else what ended and what is in the
engine: a backlog that grows shows as arrivals, one that drains does not. The canary's own questions are left out. A counter that goes back (a new engine, a model that was loaded
again) is added to what was counted before; what was under way then is taken for failed.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Names:
    """The series of one kind of page. Empty: it has none of that."""

    running: str
    waiting: str
    ended: tuple[str, ...]
    """Counters that together count every request that left the engine, well or not."""
    failed: tuple[str, ...]
    answered: str = ""
    """The counter of requests that were answered whole."""
    came: tuple[str, ...] = ()
    """What together counts every request that came, where that is not what ended and what is under way."""
    prompt_tokens: str = ""
    generated_tokens: str = ""
    slots: str = ""


_TRITONS = ("nv_inference_request_success", "nv_inference_request_failure")
_HANDED_OVER = (*_TRITONS, "nv_inference_pending_request_count")

KINDS = (
    Names(
        running="preheat_llm_running_requests",
        waiting="preheat_llm_waiting_requests",
        ended=(
            "preheat_llm_requests_finished",
            "preheat_llm_requests_failed",
            "preheat_llm_requests_cancelled",
        ),
        failed=("preheat_llm_requests_failed",),
        answered="preheat_llm_requests_finished",
        came=_HANDED_OVER,
        prompt_tokens="preheat_llm_prompt_tokens",
        generated_tokens="preheat_llm_generated_tokens",
        slots="preheat_llm_slots",
    ),
    Names(
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        ended=("vllm:e2e_request_latency_seconds_count",),
        failed=(),
        answered="vllm:e2e_request_latency_seconds_count",
        came=_HANDED_OVER,
        prompt_tokens="vllm:prompt_tokens",
        generated_tokens="vllm:generation_tokens",
    ),
    Names(
        running="",
        waiting="nv_inference_pending_request_count",
        ended=_TRITONS,
        failed=("nv_inference_request_failure",),
        answered="nv_inference_request_success",
    ),
)
"""The first kind whose gauge of waiting requests is on the page is the page's."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one page says of the model's requests. None: it does not say."""

    came: float
    ended: float
    failed: float
    waiting: float
    running: float | None
    busy_seconds: float | None
    """Seconds that ended requests held an instance, all together; where what runs is on no gauge."""
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    slots: float | None = None
    answered: float = 0.0
    """Of those that ended: how many were answered whole."""


@dataclass(frozen=True, slots=True)
class Own:
    """The canary's own part: questions that ended, and whether one is under way."""

    ended: int = 0
    failed: int = 0
    asking: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted since the agent began, over every start of the engine."""

    page: Page | None = None
    """The last one."""
    at: float = 0.0
    """When it was read, on the agent's clock."""
    came: float = 0.0
    """All these: what earlier engines counted."""
    ended: float = 0.0
    failed: float = 0.0
    prompt_tokens: float = 0.0
    generated_tokens: float = 0.0
    ended_busy_seconds: float = 0.0
    busy_seconds: float = 0.0
    """The integral of what runs, over all engines, where that is on a gauge."""
    own: Own = Own()


def read_page(text: str, model: str) -> Page | None:
    """Return what a metrics page says of a model, None when it is not on it. Raises ValueError when it is none."""
    series = _series(text, model)
    names = next((names for names in KINDS if names.waiting in series), None)
    if names is None:
        return None
    if not all(math.isfinite(series.get(name, 0.0)) for name in _all(names)):
        return None
    busy = None
    if not names.running:
        whole = series.get("nv_inference_request_duration_us", 0.0)
        busy = (whole - series.get("nv_inference_queue_duration_us", 0.0)) / 1e6
    ended = sum(series.get(name, 0.0) for name in names.ended)
    under_way = series[names.waiting] + series.get(names.running, 0.0)
    handed_over = [series[name] for name in names.came if name in series]
    return Page(
        came=sum(handed_over) if handed_over else ended + under_way,
        ended=ended,
        failed=sum(series.get(name, 0.0) for name in names.failed),
        waiting=series[names.waiting],
        running=series.get(names.running) if names.running else None,
        busy_seconds=busy,
        prompt_tokens=series.get(names.prompt_tokens),
        generated_tokens=series.get(names.generated_tokens),
        slots=series.get(names.slots),
        answered=series.get(names.answered, 0.0),
    )


def others_were_served(before: Page | None, after: Page | None, own_tokens: float) -> bool:
    """Tell whether the model did anything for others between two pages, while a question of ours was not answered.

    Others were answered, or more tokens were made than ours may take (``own_tokens``). What was handed over says nothing:
    a backend that queues inside itself takes our question as well, and may never look at it.
    """
    if before is None or after is None:
        return False
    tokens = (after.generated_tokens or 0.0) - (before.generated_tokens or 0.0)
    return after.answered > before.answered or tokens > own_tokens


def take(tally: Tally, page: Page, own: Own, now: float) -> Tally:
    """Return the tally with one more page, read at ``now`` on the agent's clock (seconds)."""
    last = tally.page
    if last is not None and _began_anew(last, page):
        lost = last.waiting + (last.running or 0.0)
        tally = replace(
            tally,
            came=tally.came + last.came,
            ended=tally.ended + last.ended + lost,
            failed=tally.failed + last.failed + lost,
            prompt_tokens=tally.prompt_tokens + (last.prompt_tokens or 0.0),
            generated_tokens=tally.generated_tokens + (last.generated_tokens or 0.0),
            ended_busy_seconds=tally.ended_busy_seconds + (last.busy_seconds or 0.0),
        )
        last = None
    busy = tally.busy_seconds
    if last is not None and last.running is not None and page.running is not None:
        mean = (_others(last, tally.own)[0] + _others(page, own)[0]) / 2
        busy += max(0.0, now - tally.at) * mean
    return replace(tally, page=page, at=now, busy_seconds=busy, own=own)


def told(tally: Tally, now: float) -> Mapping[str, float | None] | None:
    """Return the counters as they are told (contract: ../README.md), None before the first page."""
    page = tally.page
    if page is None:
        return None
    running, waiting = _others(page, tally.own)
    asked = tally.own.ended + tally.own.asking
    busy = tally.busy_seconds
    if page.busy_seconds is not None:
        busy = tally.ended_busy_seconds + page.busy_seconds
    return {
        "ageSeconds": round(now - tally.at, 3),
        "came": max(0.0, tally.came + page.came - asked),
        "ended": max(0.0, tally.ended + page.ended - tally.own.ended),
        "failed": max(0.0, tally.failed + page.failed - tally.own.failed),
        "inService": None if page.running is None else running,
        "waiting": waiting,
        "busySeconds": round(busy, 3),
        "promptTokens": _sum(tally.prompt_tokens, page.prompt_tokens),
        "generatedTokens": _sum(tally.generated_tokens, page.generated_tokens),
        "slots": page.slots,
    }


def _series(text: str, model: str) -> Mapping[str, float]:
    """Return the sums of a model's series by name. vLLM's own server says model_name."""
    found: dict[str, float] = {}
    for name, labels, value in samples(text):
        if labels.get("model", labels.get("model_name", model)) == model:
            found[name] = found.get(name, 0.0) + value
    return found


def samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Return the samples of a metrics page: name, labels, value; no buckets, no quantiles.

    Counters come without a _total at their end, whether the page has one or not: the parser adds it to those of
    Triton, which have none.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "quantile" not in sample.labels and "le" not in sample.labels:
                name = sample.name.removesuffix("_total") if family.type == "counter" else sample.name
                yield name, sample.labels, sample.value


def _all(names: Names) -> tuple[str, ...]:
    return (
        names.running,
        names.waiting,
        *names.ended,
        *names.came,
        names.answered,
        names.prompt_tokens,
        names.generated_tokens,
    )


def _began_anew(last: Page, page: Page) -> bool:
    return page.ended < last.ended or (page.prompt_tokens or 0.0) < (last.prompt_tokens or 0.0)


def _others(page: Page, own: Own) -> tuple[float, float]:
    """Return what runs and what waits of others: a question of ours waits as long as anybody does."""
    running, waiting = page.running or 0.0, page.waiting
    if own.asking and waiting > 0:
        return running, waiting - 1
    return (max(0.0, running - 1), waiting) if own.asking else (running, waiting)


def _sum(before: float, now: float | None) -> float | None:
    return None if now is None else before + now
