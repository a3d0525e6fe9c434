"""``kubectl preheat why``: the decision with its numbers, what it rejected, and what was decided before."""

from typing import Any

from preheat.cli.status import screen
from preheat.cli.why import lines

from tests.builders import a_service

DECIDED: dict[str, Any] = {
    "mode": "Predictive", "wantedReplicas": 4, "forecastReplicas": 5, "reason": "ForecastRises",
    "message": "4 replicas for at most 29 slots forecast for in 5m", "inputs": {"forecast_slots": "29.1", "ready": "2"},
    "rejectedReplicas": 2, "rejectedMessage": "29 slots need 4 replicas of 8 slots",
    "decisions": [
        {"time": "2026-01-01T12:00:00Z", "previousReplicas": 2, "replicas": 4, "reason": "ForecastRises",
         "message": "4 replicas for at most 29 slots forecast for in 5m"},
        {"time": "2026-01-01T08:00:00Z", "previousReplicas": 3, "replicas": 2, "reason": "DemandFalls",
         "message": "2 replicas are enough"},
    ],
}  # fmt: skip
LOADS: dict[str, Any] = {
    "observedUntil": "2026-01-01T00:00:00Z",
    "kinds": [{"revision": "abc", "gpuType": "nvidia-l4", "tier": "OnDisk", "count": 3, "p50Seconds": 200,
               "p90Seconds": 260, "recent": []}],
}  # fmt: skip
SCALED = {"scaling": {"mode": "Predictive", "maxReplicas": 8}}


TYPES = [
    {
        "type": "nvidia-l4",
        "replicas": 0,
        "readyReplicas": 0,
        "message": "1 went on to nvidia-a10g: none was to be had",
    },
    {"type": "nvidia-a10g", "replicas": 2, "readyReplicas": 1},
]


def test_it_is_told_which_gpu_type_has_how_many_replicas_and_why() -> None:
    service = a_service(status={"gpuTypes": TYPES})
    told = ["  0 on nvidia-l4   1 went on to nvidia-a10g: none was to be had", "  2 on nvidia-a10g"]
    assert [line for line in lines(service) if " on nvidia" in line] == told
    shown = [line for line in screen(service, None) if line.startswith("  GPU nvidia")]
    assert [line.split()[1:5] for line in shown] == [
        ["nvidia-l4", "0", "of", "0"],
        ["nvidia-a10g", "1", "of", "2"],
    ]
    assert "none was to be had" in shown[0]


def test_the_last_decision_is_told_with_its_numbers_and_what_it_rejected() -> None:
    service = a_service(status={"scaling": DECIDED, "loadTimes": LOADS, "replicaSummary": "2/4"}, **SCALED)
    assert lines(service) == [
        "default/llama   mode Predictive   replicas 2/4",
        "  4 wanted   ForecastRises: 4 replicas for at most 29 slots forecast for in 5m",
        "  not 2   29 slots need 4 replicas of 8 slots",
        "  decided from",
        "    forecast_slots  29.1",
        "    ready           2",
        "  last changes",
        "    2026-01-01T12:00:00Z    2 -> 4    ForecastRises: 4 replicas for at most 29 slots forecast for in 5m",
        "    2026-01-01T08:00:00Z    3 -> 2    DemandFalls: 2 replicas are enough",
        "  a load takes",
        "    abc on nvidia-l4, OnDisk: 3m20s (90 %: 4m20s), 3 observed",
    ]


def test_the_screen_shows_what_was_decided() -> None:
    told = screen(a_service(status={"scaling": DECIDED}, **SCALED), None)
    assert (
        "  scaling Predictive: 4 wanted   ForecastRises: 4 replicas for at most 29 slots forecast for in 5m"
        in told
    )
    assert not [line for line in screen(a_service(), None) if "scaling" in line]


def test_where_somebody_else_decides_it_says_who_can_tell() -> None:
    told = lines(a_service(replicas=9, scaling={"maxReplicas": 3}))
    assert told[1].startswith("  3 wanted: spec.replicas is 9, held within 0 and 3.")
    assert "--show-managed-fields" in told[1]


def test_before_the_first_decision_nothing_is_made_up() -> None:
    assert "Nothing was decided yet" in lines(a_service(**SCALED))[1]


def test_what_came_from_prometheus_is_told() -> None:
    learnt = "At 2026-01-01T12:00:00Z 432 of the last week's 1008 means of ten minutes came from Prometheus."
    told = {
        "type": "ScalingActive",
        "status": "True",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T12:00:00Z",
    }
    for reason, words in (("SignalsScraped", "Prometheus has it."), ("Deciding", "Preheat decides.")):
        condition = {**told, "reason": reason, "message": words}
        service = a_service(
            status={"scaling": {**DECIDED, "learnt": learnt}, "conditions": [condition]}, **SCALED
        )
        assert f"  learnt   {learnt}" in lines(service)
        assert (f"  {reason}: {words}" in lines(service)) == (reason != "Deciding")
