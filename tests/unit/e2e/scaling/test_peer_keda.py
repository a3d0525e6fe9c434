"""KEDA's port: the cases of its executor's tests.

kedacore/keda @ 8b4f083c, pkg/scaling/executor/scale_scaledobjects_test.go, by test name.
"""

import pytest

from e2e.bench.scaling.peers.keda import Activation, Keda
from tests.unit.e2e.scaling.views import FROM_ZERO, WORKLOAD, a_view


@pytest.mark.parametrize(
    ("name", "least", "spec", "active", "wanted"),
    [
        ("ScaleToMinReplicasWhenNotActive", 0, 10, False, 0),
        ("ScaleToMinReplicasFromLowerInitialReplicaCount", 5, 1, False, 5),
        ("ScaleFromMinReplicasWhenActive", 0, 0, True, 1),
        ("from zero to the minimum", 5, 0, True, 5),
        ("the HPA's business", 0, 3, True, 3),
    ],
)
def test_request_scale(name: str, least: int, spec: int, *, active: bool, wanted: int) -> None:
    assert Activation(least, created=-1.0).request(100.0, spec, active=active) == wanted, name


def test_it_cools_down_before_zero() -> None:
    scaler = Keda()
    scaler.start(FROM_ZERO)
    assert scaler.decide(a_view(0.0, ready=1, in_service=1.0)) == 1
    for now in range(15, 301, 15):
        assert scaler.decide(a_view(float(now), ready=1)) == 1, now
    # The last active poll was at 0; 300 s after it is not yet "more than", and polls are 30 s apart.
    assert scaler.decide(a_view(315.0, ready=1)) == 1
    assert scaler.decide(a_view(330.0, ready=1)) == 0


def test_it_wakes_at_a_poll_not_between() -> None:
    scaler = Keda()
    scaler.start(FROM_ZERO)
    assert scaler.decide(a_view(0.0, ready=0)) == 0
    assert scaler.decide(a_view(15.0, ready=0, queued=9.0)) == 0
    assert scaler.decide(a_view(30.0, ready=0, queued=9.0)) == 1


def test_between_one_and_many_it_is_an_hpa() -> None:
    scaler = Keda()
    scaler.start(WORKLOAD)
    assert scaler.decide(a_view(0.0, ready=3, in_service=24.0, queued=4.0)) == 5
