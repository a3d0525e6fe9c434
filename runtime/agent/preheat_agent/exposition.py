"""How much the model is asked, as Prometheus reads it: what ``/signals`` tells, under names of its conventions.

What is not known has no series: it is not zero. All of it is read from one page of the engine, so all series of one
scrape belong together, and ``preheat_agent_start_time_seconds`` tells one agent's counters from the next one's.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

COUNTERS = {
    "came": ("preheat_agent_requests_received", "Requests that came."),
    "ended": ("preheat_agent_requests_ended", "Requests that left the engine, well or not."),
    "failed": ("preheat_agent_requests_failed", "Requests that failed."),
    "busySeconds": ("preheat_agent_service_seconds", "Seconds that requests were in service, all together."),
    "promptTokens": ("preheat_agent_prompt_tokens", "Tokens of prompts."),
    "generatedTokens": ("preheat_agent_generated_tokens", "Tokens that were generated."),
}
"""Without the _total that each gets."""
GAUGES = {
    "inService": ("preheat_agent_requests_in_service", "Requests in service."),
    "waiting": ("preheat_agent_requests_waiting", "Requests that wait."),
    "slots": ("preheat_agent_slots", "Requests that are served at once."),
    "ageSeconds": (
        "preheat_agent_signals_age_seconds",
        "How old the engine's page is that all this is from.",
    ),
}


class Signals(Collector):
    """Asks for the signals with each scrape. ``signals``: what ``/signals`` tells, None before the first page."""

    def __init__(self, signals: Callable[[], Mapping[str, float | None] | None], started_at: float) -> None:
        self._signals = signals
        self._started_at = started_at
        self._most: dict[str, float] = {}

    @override
    def collect(self) -> Iterator[Metric]:
        """Return one series for each number that is known."""
        yield GaugeMetricFamily(
            "preheat_agent_start_time_seconds", "When the agent began, Unix time.", value=self._started_at
        )
        told = self._signals() or {}
        for key, (name, words) in COUNTERS.items():
            if (value := told.get(key)) is not None:
                # A question of the canary is counted off a moment before the engine counts it. Prometheus would take
                # a counter that goes back by one for one that began anew, and add all of it.
                self._most[key] = max(value, self._most.get(key, 0.0))
                yield CounterMetricFamily(name, words, value=self._most[key])
        for key, (name, words) in GAUGES.items():
            if (value := told.get(key)) is not None:
                yield GaugeMetricFamily(name, words, value=value)
