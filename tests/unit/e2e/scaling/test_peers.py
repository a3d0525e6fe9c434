"""What holds for every peer, whatever its algorithm."""

from collections import Counter
from collections.abc import Callable

import pytest

from e2e.bench.scaling.peers import documented, grid, peers
from e2e.bench.scaling.scaler import Scaler, Workload
from tests.unit.e2e.scaling.views import WORKLOAD, a_view

EVERY = [*peers(), *documented()]
NAMES = ["hpa", "keda", "kpa", "kubeai", "ray", "aibrix-apa", "aibrix-kpa", "wva", "dynamo"]

NEVER_SHRINK = {"wva, documented, chart", "wva, documented, sample"}
"""At ten the HPA's tolerance swallows a change by one."""


def named(make: Callable[[], Scaler]) -> str:
    scaler = make()
    return f"{scaler.name}, {scaler.config}, {getattr(scaler, 'label', '')}"


def test_every_peer_is_there_with_its_defaults() -> None:
    found = [make().name for make in peers()]
    assert set(NAMES) <= set(found)
    assert len(found) == len(set(found))
    assert {make().config for make in peers()} == {"default"}


def test_documented_and_tuned_say_so() -> None:
    assert {make().config for make in documented()} == {"documented"}
    assert {make().config for makes in grid().values() for make in makes} == {"tuned"}


def test_every_peer_has_a_grid_of_different_configurations() -> None:
    by_name = grid()
    assert {make().name for make in peers()} <= set(by_name)
    for makes in by_name.values():
        assert max(Counter(named(make) for make in makes).values()) == 1


@pytest.mark.parametrize(
    "make", [*EVERY, *(make for makes in grid().values() for make in makes[:1])], ids=named
)
@pytest.mark.parametrize("least", [0, 1])
def test_a_day_in_the_life(make: Callable[[], Scaler], least: int) -> None:
    """Idle, a surge, a lull; loads take 300 s. It stays within its bounds, serves the surge and comes down again."""
    scaler = make()
    workload = Workload(8, 300.0, 340.0, least, 40)
    scaler.start(workload)
    ready_at: list[float] = [0.0]
    now, seen = 0.0, []
    while now < 14_400.0:
        load = 60.0 if 3600.0 <= now < 9000.0 else 1.0
        ready = sum(at <= now for at in ready_at)
        served = min(load, 8.0 * ready)
        view = a_view(
            now,
            ready=ready,
            loading=len(ready_at) - ready,
            in_service=served,
            queued=load - served,
            arrivals=load / 20.0 * scaler.interval_seconds,
            service_seconds=20.0,
        )
        wanted = max(least, min(40, scaler.decide(view)))
        ready_at = sorted(ready_at)[:wanted] + [now + 300.0] * (wanted - len(ready_at))
        seen.append((now, wanted))
        now += scaler.interval_seconds
    top = max(wanted for at, wanted in seen if at < 9000.0)
    assert top > 1
    assert (seen[-1][1] < top) is (named(make) not in NEVER_SHRINK)


@pytest.mark.parametrize("make", EVERY, ids=named)
def test_start_forgets_everything(make: Callable[[], Scaler]) -> None:
    scaler = make()

    def play() -> list[int]:
        scaler.start(WORKLOAD)
        loads = [5.0, 50.0, 90.0, 20.0, 5.0, 0.0, 0.0, 40.0] * 20
        return [
            scaler.decide(a_view(30.0 * i, ready=4, in_service=min(32.0, load), queued=max(0.0, load - 32.0)))
            for i, load in enumerate(loads)
        ]

    assert play() == play()
