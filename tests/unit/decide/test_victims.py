"""Which replicas go: the cheapest to lose, and nothing is written of those that stay."""

import math
from datetime import UTC, datetime
from typing import Any

from preheat.decide.capacity import GPUUse
from preheat.decide.loads import Phases
from preheat.decide.observed import AgentReport, AgentState, PodView, Reading
from preheat.decide.plan import PricePod
from preheat.decide.victims import COST, Scene, price

from tests.builders import a_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PHASES = Phases(gpu_wait=10, weights=0, image=20, load=60, first_answer=5)


def a_scene(requests: dict[str, tuple[float, float]] | None = None, **fields: Any) -> Scene:
    readings = {
        f"uid-{name}": Reading("a", 1, 0, 0, 0, running, waiting, 0)
        for name, (running, waiting) in (requests or {}).items()
    }
    return Scene("default", readings, PHASES, fields.get("uses", ()), NOW)


def loading(name: str, seconds: float) -> PodView:
    state = AgentState.FAILED if math.isinf(seconds) else AgentState.LOADING
    return a_pod(name, report=AgentReport(state, "", "", 1, 2, None if math.isinf(seconds) else seconds))


def victims(writes: list[PricePod]) -> set[str]:
    assert all(write.cost in {COST, None} for write in writes)
    return {write.name for write in writes if write.cost == COST}


def test_of_those_that_load_the_furthest_from_ready_goes() -> None:
    pods = [loading("near", 10), loading("far", 500), loading("stuck", math.inf), a_pod("busy", ready=True)]
    scene = a_scene({"busy": (0, 0)})
    assert victims(price(pods, 3, scene)) == {"stuck"}
    assert victims(price(pods, 2, scene)) == {"stuck", "far"}
    assert victims(price(pods, 1, scene)) == {"stuck", "far", "near"}, (
        "loading ones go before ready ones anyway"
    )


def test_of_the_ready_the_one_with_the_fewest_requests_goes() -> None:
    pods = [a_pod(name, ready=True) for name in ("a", "b", "c")]
    scene = a_scene({"a": (4, 9), "b": (3, 0), "c": (8, 0)})
    assert victims(price(pods, 2, scene)) == {"b"}
    assert victims(price(pods, 1, scene)) == {"b", "c"}


def test_one_that_says_nothing_is_taken_for_busy() -> None:
    pods = [a_pod("silent", ready=True), a_pod("b", ready=True)]
    assert victims(price(pods, 1, a_scene({"b": (8, 8)}))) == {"b"}


def test_of_equals_the_one_on_the_most_crowded_node_goes() -> None:
    pods = [a_pod("a", ready=True, node="n1"), a_pod("b", ready=True, node="n2")]
    scene = a_scene({"a": (1, 0), "b": (1, 0)}, uses=[GPUUse("n2", "default/other", 3)])
    assert victims(price(pods, 1, scene)) == {"b"}


def test_nothing_is_written_twice_and_a_price_of_before_is_taken_back() -> None:
    pods = [a_pod("a", ready=True, deletion_cost=COST), a_pod("b", ready=True, deletion_cost=COST)]
    writes = price(pods, 1, a_scene({"a": (0, 0), "b": (5, 0)}))
    assert writes == [PricePod("default", "b", "uid-b", None)]
    assert price(pods[:1], 1, a_scene()) == [PricePod("default", "a", "uid-a", None)]
    assert price([a_pod("a", ready=True)], 1, a_scene()) == []
