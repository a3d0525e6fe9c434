"""The campaign's judge: it must fail on what is wrong, and on nothing else."""

import doctest
import json
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from e2e.faults import calls, operator, oracle
from e2e.faults.calls import Call
from e2e.faults.operator import trouble
from e2e.faults.oracle import Outcome, Reference
from e2e.faults.plan import CALL_FAULTS, Trace, Way, cases_of, fast_part, pruned
from e2e.faults.proxy import Record

SERVICE = {"spec": {"replicas": 1}, "status": {"readyReplicas": 1}}


def an_outcome(objects: dict[str, Any] | None = None, *, created: int = 1, deleted: int = 0) -> Outcome:
    return Outcome(
        objects or {"LLMDeployment m": SERVICE},
        Counter({"Deployment d": created}),
        Counter({"Deployment d": deleted} if deleted else {}),
    )


def judge(outcome: Outcome, *undisturbed: Outcome) -> list[str]:
    return Reference(list(undisturbed or (an_outcome(), an_outcome()))).judge(outcome)


def test_the_same_is_good() -> None:
    assert judge(an_outcome()) == []


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (an_outcome({"LLMDeployment m": {**SERVICE, "status": {"readyReplicas": 0}}}), "readyReplicas is 0, not 1"),
        (an_outcome({}), ""),
        (an_outcome({"LLMDeployment m": SERVICE, "Job j": {"spec": {}}}), "Job j is there"),
        (an_outcome(created=2, deleted=1), "Deployment d created 2 times instead of 1"),
        (an_outcome(created=0), "Deployment d created 0 times instead of 1"),
    ],
    ids=["another status", "nothing", "a leak", "made twice", "never made"],
)  # fmt: skip
def test_what_differs_is_found(outcome: Outcome, words: str) -> None:
    outcome = Outcome({}, outcome.created, outcome.deleted) if not words else outcome
    found = judge(outcome)
    assert any((words or "is missing") in line for line in found), found


def test_what_undisturbed_runs_do_differently_is_no_finding() -> None:
    other = an_outcome({"LLMDeployment m": {**SERVICE, "status": {"readyReplicas": 7}}})
    third = an_outcome({"LLMDeployment m": {**SERVICE, "status": {"readyReplicas": 9}}})
    assert judge(third, an_outcome(), other) == []
    assert Reference([an_outcome(), other]).masked == ["LLMDeployment m.status.readyReplicas"]


def test_a_log_line_of_an_error_is_found() -> None:
    lines = [
        '{"severity": "warning", "message": "w"}',
        '{"severity": "error", "message": "e\\ntrace"}',
        "boom",
    ]
    assert trouble(lines) == ["e", "boom"]


def a_record(method: str, path: str, *, changed: bool = True) -> Record:
    return Record(Call(method, path), 200, 0.0, changed)


def a_trace() -> Trace:
    base = "/apis/apps/v1/namespaces/n"
    return Trace(
        calls=[
            a_record("GET", f"{base}/deployments/d"),
            a_record("PATCH", f"{base}/deployments/d"),
            a_record("PATCH", f"{base}/deployments/d", changed=False),
        ],
        start=[a_record("GET", "/api/v1/pods")],
    )


def test_every_write_meets_every_fault_and_every_change_a_kill() -> None:
    specs = cases_of("create", a_trace())
    met = Counter((spec.way, spec.site, spec.occurrence) for spec in specs)
    assert met[Way.CALL, "PATCH deployments", 1] == len(CALL_FAULTS)
    assert met[Way.CALL, "PATCH deployments", 2] == 3, "the same code again"
    assert met[Way.CALL, "GET deployments", 1] == 3
    assert met[Way.AT_START, "LIST pods", 1] == len(CALL_FAULTS)
    assert met[Way.KILLED, "PATCH deployments", 1] == 1
    assert met[Way.KILLED, "PATCH deployments", 2] == 0, "a write that changed nothing"
    assert len({(spec.way, spec.id) for spec in specs}) == len(specs)
    assert pruned(a_trace(), specs) == 6 + 6 + 1


def test_at_the_start_every_call_meets_a_fault_and_our_lists_and_kopfs_meet_all() -> None:
    lists = [a_record("GET", f"/api/v1/{kind}") for kind in ("pods", "nodes", "services")]
    specs = cases_of("create", Trace(start=[*lists, a_record("GET", "/apis"), *lists]))
    at_start = [spec for spec in specs if spec.way is Way.AT_START]
    assert {spec.site for spec in at_start} == {"LIST pods", "LIST nodes", "LIST services", "GET /apis"}
    for occurrence in (1, 2):
        found = {s.fault for s in at_start if s.occurrence == occurrence and s.site.startswith("LIST")}
        assert found == set(CALL_FAULTS)


def test_the_fast_part_has_every_workload_and_every_fault() -> None:
    specs = [spec for name in ("create", "edit", "delete") for spec in cases_of(name, a_trace())]
    chosen = fast_part(specs)
    slow = {"watch-half-open"}
    assert {spec.fault for spec in chosen} == {spec.fault for spec in specs} - slow
    assert {spec.way for spec in chosen} == set(Way)
    assert {spec.workload for spec in chosen} == {"create", "edit", "delete"}
    kills = [spec for spec in specs if (spec.workload, spec.way) == ("create", Way.KILLED)]
    assert set(kills) <= set(chosen)


@pytest.mark.parametrize("module", [calls, operator, oracle], ids=lambda module: module.__name__)
def test_the_examples_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_a_verdict_is_spelled_without_the_names_of_pods_their_nodes_and_times() -> None:
    verdicts = [
        json.dumps(
            {
                "message": f"pod m-REVISION2-l4-{name} on {node}: it crashed",
                "evidence": {"count": 3, "node": node},
                "time": time,
            }
        )
        for name, node, time in (
            ("7d4b9c6f58-x2k4z", "gpu-1", "2026-01-01T00:00:00Z"),
            ("5f6d7c8b9-bcdfg", "gpu-2", "2026-01-02T00:00:00Z"),
        )
    ]
    spelling = oracle.Spelling({"lane1-c1": "CASE", "gpu-1": "NODE1", "gpu-2": "NODE2"})
    assert [spelling.value(verdict) for verdict in verdicts] == [
        {
            "message": "pod m-REVISION2-l4-POD on its node: it crashed",
            "evidence": {"count": 3},
            "time": "TIME",
        }
    ] * 2
    assert spelling.value("lane1-c1 has m-REVISION2-l4") == "CASE has m-REVISION2-l4"
