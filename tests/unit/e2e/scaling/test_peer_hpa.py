"""The HPA's port: the cases of Kubernetes' own tests, and what its controller answers to random histories.

Cases: kubernetes/kubernetes v1.36.3, pkg/controller/podautoscaler/{replica_calculator,horizontal}_test.go, by
test name. Histories: vectors/hpa.json, written by vectors/hpa_test.go, which runs the controller itself.
"""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.bench.scaling.peers.hpa import (
    Behavior,
    Controller,
    Hpa,
    Metric,
    Rules,
    Select,
    Step,
    Tolerances,
    Unit,
    average_value,
    limited,
    milli,
    pods_value,
    total_value,
)
from tests.unit.e2e.scaling.views import FROM_ZERO, WORKLOAD, a_view

DEFAULT = Tolerances()
FINE = Tolerances(0.1, 0.01)
HISTORIES = json.loads((Path(__file__).parent / "vectors" / "hpa.json").read_text())


@pytest.mark.parametrize(
    ("name", "usage", "target", "replicas", "tolerances", "wanted"),
    [
        ("ScaleUpPerPodCMExternal", 8600, 2150, 3, DEFAULT, 4),
        ("ScaleDownPerPodCMExternal", 8600, 2867, 5, DEFAULT, 3),
        ("TolerancePerPodCMExternal", 8600, 2900, 3, DEFAULT, 3),
        ("ConfigurableTolerancePerPodCMExternal", 8600, 2800, 3, FINE, 4),
    ],
)
def test_average_value(
    name: str, usage: int, target: int, replicas: int, tolerances: Tolerances, wanted: int
) -> None:
    assert average_value(usage, target, replicas, tolerances) == wanted, name


@pytest.mark.parametrize(
    ("name", "usage", "target", "spec", "ready", "tolerances", "wanted"),
    [
        ("ScaleUpCMExternal", 8600, 4400, 1, 1, DEFAULT, 2),
        ("ScaleUpCMExternalIgnoresUnreadyPods", 8600, 4400, 3, 1, DEFAULT, 2),
        ("ScaleDownCMExternal", 8600, 14334, 5, 5, DEFAULT, 3),
        ("ToleranceCMExternal", 8600, 8888, 3, 3, DEFAULT, 3),
        ("ConfigurableToleranceCMExternal", 8900, 8800, 3, 3, FINE, 4),
    ],
)
def test_value(
    name: str, usage: int, target: int, spec: int, ready: int, tolerances: Tolerances, wanted: int
) -> None:
    assert total_value(usage, target, spec, ready, tolerances) == wanted, name


@pytest.mark.parametrize(
    ("name", "measured", "missing", "target", "spec", "tolerances", "wanted"),
    [
        ("ScaleUpCM", [20000, 10000, 30000], 0, 15000, 3, DEFAULT, 4),
        ("ScaleUpCMUnreadyHotCpuNoLessScale", [50000, 10000, 30000], 0, 15000, 3, DEFAULT, 6),
        ("ScaleUpCMUnreadyHotCpuScaleWouldScaleDown", [50000, 15000, 30000], 0, 15000, 3, DEFAULT, 7),
        ("ScaleDownCM", [12000] * 5, 0, 20000, 5, DEFAULT, 3),
        ("ToleranceCM", [20000, 21000, 21000], 0, 20000, 3, DEFAULT, 3),
        ("ConfigurableToleranceCM", [20000, 21000, 21000], 0, 20000, 3, FINE, 4),
        ("PlainMetricReplicaCalcMissingMetricsNoChangeEq", [20000, 19000, 21000], 2, 20000, 5, DEFAULT, 5),
        ("a mean is a whole number of thousandths: 1100, not 1100.5", [1100, 1101], 0, 1000, 2, DEFAULT, 2),
        ("DuringRollingUpdateWithMaxSurgeCM", [10000, 10000], 1, 17000, 2, DEFAULT, 2),
    ],
)
def test_pods(
    name: str, measured: list[int], missing: int, target: int, spec: int, tolerances: Tolerances, wanted: int
) -> None:
    assert pods_value(measured, missing, 0, target, spec, tolerances) == wanted, name


def test_no_pod_with_a_value_changes_nothing() -> None:
    assert pods_value([], 3, 0, 1000, 3, DEFAULT) is None


@pytest.mark.parametrize(
    ("seconds_ago", "proposal", "wanted"),
    [
        ([], 5, 5),
        ([(120, 4), (60, 5)], 3, 5),
        ([(120, 1), (60, 2)], 3, 3),
        ([(600, 10), (540, 9)], 3, 3),
        ([(600, 10), (540, 9), (120, 5), (60, 4)], 3, 5),
    ],
    ids=["empty log", "stabilize", "no stabilize", "old recommendations", "stabilize, old recommendations"],
)
def test_stabilisation_without_a_behavior_block(
    seconds_ago: list[tuple[int, int]], proposal: int, wanted: int
) -> None:
    log = deque((1000.0 - ago, replicas) for ago, replicas in seconds_ago)
    controller = Controller(1, 100, recommended=log or deque([(0.0, 1)]))
    assert controller.sync(1000.0, 50, lambda: proposal) == wanted


def rules(window: float, pods: int = 0, pods_s: float = 0, percent: int = 0, percent_s: float = 0) -> Rules:
    steps = [Step(Unit.PODS, pods, pods_s)] if pods else []
    steps += [Step(Unit.PERCENT, percent, percent_s)] if percent else []
    return Rules(window, tuple(steps))


@pytest.mark.parametrize(
    ("seconds_ago", "current", "proposal", "wanted", "up", "down"),
    [
        ([], 100, 5, 5, 0, 0),
        ([(120, 4), (60, 5)], 100, 3, 5, 0, 180),
        ([(120, 4), (60, 5)], 1, 7, 4, 300, 0),
        ([(120, 1), (60, 2)], 100, 3, 3, 300, 0),
        ([(120, 4), (60, 5)], 1, 3, 3, 0, 300),
        ([(600, 10), (540, 9)], 100, 3, 3, 0, 0),
        ([(600, 10), (540, 9)], 1, 100, 100, 0, 0),
        ([(600, 10), (540, 9), (120, 5), (60, 4)], 100, 3, 5, 0, 180),
        ([(6000, 10), (180, 9), (120, 5), (60, 6)], 1, 100, 5, 300, 0),
        ([(6000, 2), (180, 3)], 2, 1, 2, 300, 300),
        ([(6000, 2), (180, 1)], 2, 3, 2, 300, 300),
    ],
)
def test_stabilisation_with_a_behavior_block(
    seconds_ago: list[tuple[int, int]], current: int, proposal: int, wanted: int, up: int, down: int
) -> None:
    free = (Step(Unit.PODS, 10_000, 1.0),)
    controller = Controller(
        1,
        10_000,
        Behavior(Rules(up, free), Rules(down, free)),
        recommended=deque((10_000.0 - ago, replicas) for ago, replicas in seconds_ago) or deque([(0.0, 1)]),
    )
    assert controller.sync(10_000.0, current, lambda: proposal) == wanted


UNIFORM = 120.0
DEFAULT_UP, DEFAULT_DOWN = Behavior().up, Behavior().down


def events(many: list[int]) -> list[tuple[float, int]]:
    """As the tests spread them over 120 s: seconds ago, replicas."""
    segment = UNIFORM / len(many) if many else 0.0
    return [(int(UNIFORM - segment * (i + 1) + segment / 2), value) for i, value in enumerate(many)]


def within(ago: list[tuple[float, int]]) -> Callable[[float], int]:
    return lambda seconds: sum(value for at, value in ago if at < seconds)


@pytest.mark.parametrize(
    ("up", "down", "bounds", "up_rules", "down_rules", "current", "wish", "wanted"),
    [
        ([], [], (3, 8), DEFAULT_UP, DEFAULT_DOWN, 5, 7, 7),
        ([], [], (2, 8), DEFAULT_UP, DEFAULT_DOWN, 3, 1, 2),
        ([], [], (0, 10), DEFAULT_UP, DEFAULT_DOWN, 1, 0, 0),
        ([], [], (1, 10), DEFAULT_UP, DEFAULT_DOWN, 20, 1000, 10),
        ([], [], (100, 150), DEFAULT_UP, DEFAULT_DOWN, 100, 1000, 150),
        ([], [], (1, 2000), rules(0, 0, 0, 1, 60), DEFAULT_DOWN, 3, 1000, 4),
        ([], [], (1, 1000), DEFAULT_UP, DEFAULT_DOWN, 10, 50, 20),
        ([], [], (1, 1000), rules(0, 100, 60, 100, 60), DEFAULT_DOWN, 10, 500, 110),
        ([], [], (1, 1000), rules(0, 2, 60, 100, 60), DEFAULT_DOWN, 10, 500, 20),
        ([], [], (1, 1000), rules(0, 100, 60), DEFAULT_DOWN, 10, 50, 50),
        ([], [], (1, 1000), rules(0, 30, 60), DEFAULT_DOWN, 10, 50, 40),
        ([], [], (1, 1000), rules(0, 0, 0, 200, 60), DEFAULT_DOWN, 10, 50, 30),
        ([], [], (1, 1000), DEFAULT_UP, rules(300, 20, 60, 1, 60), 100, 2, 80),
        ([], [], (1, 1000), DEFAULT_UP, rules(300, 2, 60, 1, 60), 100, 2, 98),
        ([], [], (1, 1000), DEFAULT_UP, rules(300, 100, 60), 10, 0, 1),
        ([], [], (5, 1000), DEFAULT_UP, rules(300, 0, 0, 100, 60), 10, 2, 5),
        ([], [], (1, 1000), DEFAULT_UP, rules(300, 5, 60), 10, 2, 5),
        ([], [], (1, 1000), DEFAULT_UP, rules(300, 0, 0, 50, 60), 10, 5, 5),
        ([1, 5, 9], [], (1, 200), rules(0, 300, 60), DEFAULT_DOWN, 100, 500, 200),
        ([1, 5, 9], [], (1, 1000), rules(0, 5, 120), DEFAULT_DOWN, 100, 500, 100),
        ([1, 5, 9], [], (1, 1000), rules(0, 150, 120), DEFAULT_DOWN, 100, 500, 235),
        ([1, 5, 9], [], (1, 1000), rules(0, 0, 0, 200, 120), DEFAULT_DOWN, 100, 500, 255),
        ([4], [2], (1, 1000), rules(0, 0, 0, 300, 300), DEFAULT_DOWN, 6, 24, 16),
        ([], [1, 5, 9], (1, 1000), DEFAULT_UP, DEFAULT_DOWN, 10, 5, 5),
        ([], [1, 5, 9], (1, 1000), DEFAULT_UP, rules(300, 115, 120), 100, 0, 1),
        ([], [1, 5, 9], (1, 1000), DEFAULT_UP, rules(300, 5, 120), 100, 2, 100),
        ([], [2, 4, 6], (1, 1000), DEFAULT_UP, rules(300, 0, 0, 50, 120), 100, 0, 56),
        ([2], [4], (1, 1000), DEFAULT_UP, rules(0, 0, 0, 50, 180), 10, 1, 6),
        ([], [10, 10, 10], (1, 1000), DEFAULT_UP, rules(300, 0, 0, 10, 120), 100, 0, 100),
        ([], [10, 10, 10], (1, 1000), DEFAULT_UP, rules(300, 0, 0, 1000, 120), 10, 5, 5),
    ],
)
def test_scaling_with_rules(
    up: list[int],
    down: list[int],
    bounds: tuple[int, int],
    up_rules: Rules,
    down_rules: Rules,
    current: int,
    wish: int,
    wanted: int,
) -> None:
    changed = (within(events(up)), within(events(down)))
    assert limited(current, wish, bounds, Behavior(up_rules, down_rules), changed) == wanted


def as_rules(found: dict[str, Any]) -> Rules:
    steps = tuple(Step(Unit(s["unit"]), s["value"], s["seconds"]) for s in found["steps"])
    return Rules(found["window"], steps, Select(found["select"]))


@pytest.mark.parametrize(
    "history", HISTORIES, ids=lambda h: f"{h['metric']}, {'no ' * (not h['up'])}behavior"
)
def test_the_controller_itself_says_the_same(history: dict[str, Any]) -> None:
    behavior = Behavior(as_rules(history["up"]), as_rules(history["down"])) if history["up"] else None
    controller = Controller(history["least"], history["most"], behavior)
    for number, step in enumerate(history["steps"]):
        wanted = controller.sync(15.0 * number, step["spec"], lambda step=step: proposed(history, step))
        assert wanted == step["wanted"], f"step {number}: {step}"


def proposed(history: dict[str, Any], step: dict[str, Any]) -> int | None:
    match history["metric"]:
        case "average":
            return average_value(step["usage"], history["target"], step["spec"], DEFAULT)
        case "value":
            return total_value(step["usage"], history["target"], step["spec"], step["ready"], DEFAULT)
        case _:
            measured = step["measured"]
            missing = step["spec"] - len(measured) - step["pending"]
            return pods_value(measured, missing, step["pending"], history["target"], step["spec"], DEFAULT)


def test_quantities_are_rounded_up_to_thousandths() -> None:
    assert milli(5.6) == 5600
    assert milli(0.0001) == 1


def test_it_aims_at_seventy_per_cent_of_the_slots() -> None:
    scaler = Hpa()
    scaler.start(WORKLOAD)
    # 28.4 / 5.6 = 5.07: six, but at most twice as many at once.
    assert scaler.decide(a_view(0.0, ready=2, in_service=16.0, queued=12.4)) == 4
    assert scaler.decide(a_view(15.0, ready=4, in_service=28.4)) == 6


def test_the_pods_own_gauge_does_not_see_the_queue() -> None:
    scaler = Hpa(metric=Metric.PODS)
    scaler.start(WORKLOAD)
    assert scaler.decide(a_view(0.0, ready=10, in_service=80.0, queued=1000.0)) == 15


def test_at_zero_the_controller_does_nothing_so_its_user_keeps_one() -> None:
    assert Controller(1, 10).sync(0.0, 0, lambda: 5) == 0
    scaler = Hpa()
    scaler.start(FROM_ZERO)
    assert scaler.decide(a_view(0.0, ready=0)) == 1
    assert scaler.decide(a_view(15.0, ready=1)) == 1
