"""The judgement: each target is met at its edge and missed just beyond it, and the tables say who did what."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e2e.bench.scaling import pareto, report
from e2e.bench.scaling.board import cheapest, standings, without_worse_tuned
from e2e.bench.scaling.cells import Group
from e2e.bench.scaling.measures import Measured
from e2e.bench.scaling.oracle import Bounds
from e2e.bench.scaling.targets import Verdict, verdicts
from e2e.bench.scaling.work import Row

SURE = {
    "traffic 45": 0,
    "traffic 5": 1,
    "parity": 2,
    "jumps 5": 3,
    "jumps 45": 4,
    "zero": 5,
    "aborted": 6,
    "dominated": 7,
}
CLAIRVOYANT_HOURS = 100.0


def a_row(
    scaler: str = "preheat",
    *,
    attained: float = 1.0,
    cost: float = 1.0,
    load: float = 2700.0,
    group: Group = Group.RATES,
    trace: str = "t",
    config: str = "default",
    **measured: Any,
) -> Row:
    values = Measured(
        requests=1000, attained_2s=attained, attained=attained, attained_30s=attained, wait_p50=0, wait_p95=0,
        wait_p99=float("inf"), unforeseen=0.0, lost=0, gpu_hours=cost * CLAIRVOYANT_HOURS, cold_starts=10, aborted=0,
        aborted_gpu_hours=0.0, regret=0, peak=5, decisions=10, decision_us=1.0,
    )  # fmt: skip
    bounds = Bounds(80 * 3600, 120 * 3600, CLAIRVOYANT_HOURS * 3600, 0.99, 5)
    return Row(
        f"{scaler}/{config}", scaler, config, trace, group, load, 1, 8, bounds, replace(values, **measured)
    )


def judged(name: str, *rows: Row) -> Verdict:
    return verdicts(rows)[SURE[name]]


@pytest.mark.parametrize(
    ("name", "load", "attained", "cost", "met"),
    [
        ("traffic 45", 2700, 0.97, 1.5, True),
        ("traffic 45", 2700, 0.969, 1.5, False),
        ("traffic 45", 2700, 0.97, 1.51, False),
        ("traffic 5", 300, 0.99, 1.25, True),
        ("traffic 5", 300, 0.989, 1.25, False),
        ("traffic 5", 300, 0.99, 1.26, False),
        ("traffic 5", 2700, 1.0, 1.0, None),
    ],
)
def test_days_of_traffic(name: str, load: float, attained: float, cost: float, met: bool | None) -> None:
    assert judged(name, a_row(attained=attained, cost=cost, load=load)).met is met


def test_traffic_is_judged_by_its_mean_and_real_traffic_before_synthetic() -> None:
    rows = [
        a_row(attained=0.95, trace="a"),
        a_row(attained=0.99, trace="b"),
        a_row(attained=0, group=Group.STEADY),
    ]
    found = judged("traffic 45", *rows)
    assert found.met
    assert "97.00% at 1.00x over 2 cells of real traffic; worst 95.00%" in found.found
    assert not judged("traffic 45", rows[2]).met
    assert "synthetic" in judged("traffic 45", rows[2]).found


@pytest.mark.parametrize(("cost", "met"), [(1.34, True), (1.36, False)])
def test_parity_is_with_the_best_default_peer(cost: float, met: bool) -> None:
    others = [a_row("kpa", cost=1.3, load=60), a_row("hpa", cost=1.1, attained=0.9, load=60)]
    tuned = a_row("kpa", cost=1.0, load=60, config="documented")
    found = judged("parity", a_row(cost=cost, load=60), *others, tuned)
    assert (found.met, "kpa" in found.found) == (met, True)


@pytest.mark.parametrize(
    ("attained", "cost", "loads", "met"),
    [(0.89, 1.2, 20, True), (0.889, 1.2, 20, False), (0.89, 1.21, 20, False), (0.89, 1.2, 21, False)],
)
def test_jumps_are_judged_against_the_peer_that_attains_most(
    attained: float, cost: float, loads: int, met: bool
) -> None:
    peers = [
        a_row("hpa", attained=0.9, cost=2.0, cold_starts=100, group=Group.JUMP),
        a_row("kpa", attained=0.8, cost=1.0, cold_starts=5, group=Group.JUMP),
    ]
    mine = a_row(attained=attained, cost=cost, cold_starts=loads, group=Group.JUMP)
    assert judged("jumps 45", mine, *peers).met is met
    assert judged("jumps 5", mine, *peers).met is None


@pytest.mark.parametrize(
    ("attained", "cost", "met"), [(0.995, 1.1, True), (0.9949, 1.1, False), (0.995, 1.11, False)]
)
def test_scale_to_zero(attained: float, cost: float, met: bool) -> None:
    assert judged("zero", a_row(attained=attained, cost=cost, group=Group.ZERO)).met is met


@pytest.mark.parametrize(("hours", "met"), [(0.99, True), (1.0, False)])
def test_aborted_loads_are_judged_at_each_load_time(hours: float, met: bool) -> None:
    found = judged("aborted", a_row(load=60), a_row(aborted_gpu_hours=hours))
    assert found.met is met
    assert "1 min 0.00%" in found.found


@pytest.mark.parametrize(
    ("attained", "cost", "met"),
    [(0.953, 1.49, False), (0.953, 1.5, True), (0.952, 1.49, True), (0.9, 1.0, True)],
)
def test_dominated_is_by_a_default_peer_in_the_same_unit(attained: float, cost: float, met: bool) -> None:
    mine = a_row(attained=0.95, cost=1.5)
    assert judged("dominated", mine, a_row("hpa", attained=attained, cost=cost)).met is met
    for other in ({"load": 60.0}, {"trace": "u"}, {"config": "documented"}):
        assert judged("dominated", mine, a_row("hpa", attained=1.0, cost=1.0, **other)).met is not False


def test_the_better_score_stands_first() -> None:
    rows = [
        a_row("a", attained=0.9, cost=1.0),  # 1.0 + 0.2 * 9 = 2.8
        a_row("b", attained=0.99, cost=2.0),
        a_row("c", attained=1.0, cost=4.0, trace="t"),
        a_row("c", attained=0.98, cost=1.0, trace="u"),
    ]
    found = {one.who: one for one in standings(rows)}
    assert list(found) == ["b/default", "c/default", "a/default"]
    assert found["a/default"].scores == pytest.approx((1.45, 2.8))
    assert found["c/default"].scores == pytest.approx((2.525, 2.6)), (
        "who is better than 99 % gets nothing for it"
    )
    assert (found["c/default"].cost, found["c/default"].dearest) == pytest.approx((2.0, 4.0))
    assert (found["c/default"].attained, found["c/default"].worst) == pytest.approx((0.99, 0.98))
    assert found["c/default"].over_work == pytest.approx(2.0 / 0.8)


def test_everything_is_said(tmp_path: Path) -> None:
    rows = [a_row(), a_row("hpa", attained=0.9, cost=3.0), a_row("wva", attained=0.2, cost=0.1)]
    table = report.tables(rows)
    assert "days of traffic, load 45 min: t" in table
    assert "* preheat/default" in table
    assert "hpa" in report.by_cell(rows)
    assert "MISSED" not in report.judged(verdicts(rows[:1]))
    assert "# preheat/default" in pareto.plot("title", rows)
    pareto.write_svg(rows, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_text().count("<circle") == 3
    report.write_row(rows[0], tmp_path / "r.jsonl")
    written = json.loads((tmp_path / "r.jsonl").read_text())
    wanted = {
        "scaler", "config", "trace", "load_seconds", "attained", "late_share", "gpu_hours", "clairvoyant_gpu_hours",
        "cold_starts", "aborted_load_share",
    }  # fmt: skip
    assert wanted <= written.keys()
    assert (written["cost_ratio"], written["wait_p99"]) == (1.0, None)


def test_of_what_was_searched_the_best_over_all_cells_is_kept() -> None:
    def tried(label: str, attained: float, trace: str) -> Row:
        return replace(a_row("hpa", attained=attained, trace=trace, config="tuned"), who=f"hpa/tuned {label}")

    rows = [
        a_row("hpa"), tried("a", 0.99, "t"), tried("a", 0.9, "u"), tried("b", 0.98, "t"), tried("b", 0.98, "u"),
    ]  # fmt: skip
    assert [row.who for row in without_worse_tuned(rows)] == ["hpa/default", "hpa/tuned b", "hpa/tuned b"]


def test_the_cheapest_that_is_good_enough_is_shown_or_that_none_is() -> None:
    rows = [
        a_row("hpa", attained=0.96, cost=1.5),
        a_row("hpa", attained=0.995, cost=2.0, config="documented"),
        a_row("hpa", attained=0.9, cost=1.0, config="tuned"),
        a_row("wva", attained=0.5, cost=0.6),
    ]
    good, better = cheapest(rows, 0.95), cheapest(rows, 0.99)
    assert good["hpa"] is not None
    assert better["hpa"] is not None
    assert (good["hpa"].cost, better["hpa"].cost, good["wva"]) == pytest.approx((1.5, 2.0, None))
    assert "not reached" in report.at_equal_service(rows)
