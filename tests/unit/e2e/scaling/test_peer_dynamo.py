"""The Dynamo planner's port: the cases of its own tests.

ai-dynamo/dynamo @ 1b07235d, components/src/dynamo/planner/tests/plugins/builtins/test_load_propose.py, by test
name; an engine there holds 16,384 KV tokens. The predictors:
components/src/dynamo/planner/core/load/predictors.py @ 260b6ae9.
"""

import math

import pytest

from e2e.bench.scaling.peers.dynamo import (
    LATENCY,
    THROUGHPUT,
    Arima,
    Constant,
    DynamoLoad,
    DynamoSla,
    Easy,
    Kalman,
    easy_decision,
    throughput_decision,
)
from tests.unit.e2e.scaling.views import WORKLOAD, a_view

KV = 16_384


@pytest.mark.parametrize(
    ("name", "tokens", "easy", "wanted"),
    [
        ("agg_easy_scale_up", [16_500, 16_500], THROUGHPUT, 3),
        ("agg_easy_scale_down", [200, 200, 200], THROUGHPUT, 2),
        ("agg_no_change", [10_000, 10_000], THROUGHPUT, None),
        ("any engine is enough to grow", [200, 16_500], THROUGHPUT, 3),
        ("all must be low to shrink", [200, 10_000], THROUGHPUT, None),
        ("latency grows at 40 %", [6_700, 200], LATENCY, 3),
        ("latency shrinks below 10 %", [1_600, 1_600], LATENCY, 1),
        ("one stays", [0], THROUGHPUT, None),
        ("no engine reports", [], THROUGHPUT, None),
    ],
)
def test_easy_mode(name: str, tokens: list[int], easy: Easy, wanted: int | None) -> None:
    assert easy_decision([used / KV for used in tokens], len(tokens), 1, easy) == wanted, name


@pytest.mark.parametrize(
    ("demand", "engine", "wanted"), [(10.0, 2.5, 4), (10.1, 2.5, 5), (0.0, 2.5, 1), (1.0, 0.0, None)]
)
def test_throughput(demand: float, engine: float, wanted: int | None) -> None:
    assert throughput_decision(demand, engine, 1) == wanted


def test_scaling_in_progress_only_observes() -> None:
    scaler = DynamoLoad()
    scaler.start(WORKLOAD)
    assert scaler.decide(a_view(0.0, ready=2, in_service=16.0, queued=9.0)) == 3
    assert scaler.decide(a_view(5.0, ready=2, loading=1, in_service=16.0, queued=90.0)) == 3


def sla(scaler: DynamoSla, arrivals: list[float], *, loading: int = 0) -> list[int]:
    """One number of arrivals for each interval of 180 s; a request takes 20 s: an engine does 0.4 a second."""
    scaler.start(WORKLOAD)
    scaler.decide(a_view(0.0, ready=3, loading=loading))
    return [
        scaler.decide(a_view(180.0 * (i + 1), ready=3, loading=loading, arrivals=many, service_seconds=20.0))
        for i, many in enumerate(arrivals)
    ]


def test_constant_wants_what_was() -> None:
    assert sla(DynamoSla(predictor=Constant), [360.0, 720.0, 180.0]) == [5, 10, 3]


def test_what_is_wanted_during_a_load_is_dropped() -> None:
    assert sla(DynamoSla(predictor=Constant), [720.0, 72.0], loading=1) == [4, 4]


def test_leading_zeros_are_no_load() -> None:
    predictor = Kalman()
    predictor.add(0.0)
    assert predictor.predict() == 0.0
    predictor.add(7.0)
    assert predictor.predict() == 7.0


def test_kalman_by_hand() -> None:
    """After 10, then 16: the level is predicted with variances (2001, 1000, 1000.1), gain 2001/2011 and 1000/2011."""
    predictor = Kalman()
    predictor.add(10.0)
    predictor.predict()
    predictor.add(16.0)
    level, trend = 10.0 + 6.0 * 2001 / 2011, 6.0 * 1000 / 2011
    assert predictor.predict() == pytest.approx(level + trend)
    assert predictor.predict() == pytest.approx(level + trend)


def test_kalman_as_the_library_that_the_planner_uses() -> None:
    """filterpy 2.0.0, KalmanFilter with the planner's matrices, one update and one prediction a value."""
    values = [10.0, 16.0, 13.0, 40.0, 42.0, 0.0, 5.0, 90.0, 88.0, 91.0, 300.0, 310.0]
    wanted = [10.0, 18.953754, 10.430555, 46.89187, 53.793464, 19.551352]
    wanted += [8.468345, 57.671063, 82.618, 97.514055, 216.470015, 293.329331]
    predictor, predicted = Kalman(), []
    for value in values:
        predictor.add(value)
        predicted.append(predictor.predict())
    assert predicted == pytest.approx(wanted, abs=1e-5)


def test_kalman_follows_a_ramp() -> None:
    predictor = Kalman()
    for value in range(100, 400, 10):
        predictor.add(float(value))
    assert predictor.predict() == pytest.approx(400.0, abs=2.0)


def test_arima_is_the_last_value_before_it_knows_more() -> None:
    predictor = Arima()
    for value in (0.0, 3.0, 9.0):
        predictor.add(value)
    assert predictor.predict() == 9.0


def test_arima_of_a_constant_is_the_constant() -> None:
    predictor = Arima()
    for _ in range(9):
        predictor.add(4.0)
    assert predictor.predict() == 4.0


def test_arima_follows_a_ramp_and_a_wave() -> None:
    ramp, wave = Arima(), Arima()
    for i in range(480):
        ramp.add(100.0 + 3.0 * i)
        wave.add(100.0 + 50.0 * math.sin(i / 20.0))
    assert ramp.predict() == pytest.approx(100.0 + 3.0 * 480, abs=1.0)
    assert wave.predict() == pytest.approx(100.0 + 50.0 * math.sin(480 / 20.0), abs=1.0)
