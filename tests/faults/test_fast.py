"""The fast part of the fault campaign: the operator's real process, a real API server, faults between.

Every kind of fault once, every workload once, and a kill after every write of a creation. And a campaign that finds
no bug where one was planted is worth nothing: two are planted, and must be found.
"""

from pathlib import Path

import pytest

from e2e.cluster.audit import CALLS
from e2e.faults.campaign import Choice, run
from e2e.faults.plan import SLOW, Way
from e2e.faults.report import Report
from e2e.faults.workloads import WORKLOADS

LANES = 6
SOON_SECONDS = 25.0
"""How long a case with a planted bug may try."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    made = Report(tmp_path_factory.mktemp("faults") / "faults.jsonl", CALLS / "faults.json")
    run(LANES, Choice(fast=True), made)
    print(made.text())
    return made


def test_no_case_fails(report: Report) -> None:
    assert not report.failed, report.text()


def test_every_workload_and_every_kind_of_fault_was_met(report: Report) -> None:
    met = [verdict.spec for verdict in report.verdicts if verdict.verdict != "not-met"]
    assert {spec.workload for spec in met} == set(WORKLOADS)
    assert {spec.way for spec in met} == set(Way)
    assert not {spec.fault for spec in met} & set(SLOW)


def test_the_operator_may_do_all_it_did(report: Report) -> None:
    assert report.calls


@pytest.mark.parametrize(
    ("plant", "case"),
    [
        ("swallow", "create/killed@PATCH:services#1"),
        ("hasty", "create/503@PATCH:deployments#1"),
    ],
)
def test_a_planted_bug_is_found(plant: str, case: str, tmp_path: Path) -> None:
    made = Report(tmp_path / "faults.jsonl", tmp_path / "calls.json")
    run(1, Choice(cases=(case,), fast=True, plant=plant, deadline=SOON_SECONDS), made)
    (verdict,) = made.failed
    assert verdict.spec.id == case
    assert "its end: not within" in verdict.reason
