"""What pods answer is not ours: an answer that is none is no answer, and never stops a loop."""

from datetime import UTC, datetime
from typing import Any

import pytest
from preheat.config import OperatorConfig
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.observed import (
    MOST,
    AgentReport,
    AgentState,
    JobState,
    JobView,
    KeeperReport,
    NodeView,
    PodView,
    WarmerReport,
    parse_time,
)

from tests.builders import a_cache, a_node

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOAD: dict[str, Any] = {"bytesLoaded": 1, "bytesTotal": 2}
ODD: dict[str, dict[str, Any]] = {
    "less than nothing": {"bytesTotal": 100, "bytesDone": -5},
    "a negative size": {"bytesTotal": -100},
    "a size beyond all numbers": {"bytesTotal": float("inf")},
    "a size that is no number": {"bytesTotal": float("nan")},
    "a size that no status can hold": {"bytesTotal": 10**30},
    "an endless time": {"remainingSeconds": float("inf")},
    "no time at all": {"remainingSeconds": float("nan")},
    "a negative time": {"remainingSeconds": -1},
    "an endless speed": {"bytesPerSecond": float("inf")},
    "a size of four thousand digits": {"bytesTotal": 10**4000},
    "words": {"bytesTotal": "many"},
}


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00", "2026-01-01"]
)
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert parse_time(text) == NOW


@pytest.mark.parametrize("case", ODD)
def test_an_odd_answer_of_a_warmer_is_refused_or_harmless(case: str) -> None:
    body = {"state": "Fetching", "bytesTotal": 100, "bytesDone": 5, **ODD[case]}
    try:
        report = WarmerReport.from_json(body)
    except (KeyError, TypeError, ValueError):
        return  # what the doors to the sidecars take for silence
    job = JobView("job", "uid", "n1", JobState.ACTIVE, None, deleting=False)
    seen = CacheObservation([a_node()], [job], {"n1": report}, {}, {})
    status = decide_cache(a_cache(), seen, OperatorConfig(), NOW).status
    assert status is not None
    assert 0 <= status["totalBytes"] < 2**63


@pytest.mark.parametrize("case", sorted(set(ODD) - {"an endless speed"}))
def test_an_odd_answer_of_an_agent_is_refused(case: str) -> None:
    spelled = {"bytesDone": "bytesLoaded"}
    odd = {spelled.get(key, key): value for key, value in ODD[case].items()}
    with pytest.raises((KeyError, TypeError, ValueError)):
        AgentReport.from_json({"state": "Loading", "load": {**LOAD, **odd}})


@pytest.mark.parametrize("kind", [AgentReport, WarmerReport])
@pytest.mark.parametrize("body", [{}, [], None, "text", 3, {"load": LOAD}])
def test_what_is_no_answer_is_refused(kind: type[AgentReport | WarmerReport], body: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        kind.from_json(body)


@pytest.mark.parametrize(
    "body", [{"state": "Loading"}, {"state": "Sleeping", "load": LOAD}, {"state": "Loading", "load": []}]
)
def test_an_agent_tells_a_state_that_is_one_and_a_load(body: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        AgentReport.from_json(body)


def test_long_words_of_a_warmer_fit_into_the_status() -> None:
    long = {"state": "Failed", "reason": "r" * 999, "message": "m" * 9999, "manifestSHA256": "a" * 999,
            "resolvedRevision": "b" * 999}  # fmt: skip
    job = JobView("job", "uid", "n1", JobState.FAILED, NOW, deleting=False)
    seen = CacheObservation([a_node()], [job], {"n1": WarmerReport.from_json(long)}, {}, {})
    assert decide_cache(a_cache(), seen, OperatorConfig(), NOW).status is not None


def test_an_answer_is_read() -> None:
    report = AgentReport.from_json({"state": "Loading", "load": {**LOAD, "remainingSeconds": 3}})
    assert report == AgentReport(AgentState.LOADING, "", "", 1, 2, 3.0)


def test_a_bare_object_is_read_as_one_of_which_nothing_is_known() -> None:
    bare = {"metadata": {"name": "x"}}
    node = NodeView.from_body(bare)
    assert (node.ready, node.schedulable, node.caches) == (False, True, frozenset())
    pod = PodView.from_body(bare, main="engine")
    assert (pod.ready, pod.scheduled, pod.restarts, pod.last_exit) == (False, False, 0, None)
    job = JobView.from_body(bare)
    assert (job.state, job.ended) == (JobState.ACTIVE, None)


def test_a_node_holds_the_caches_whose_label_says_ready() -> None:
    labels = {"cache.preheat.dev/aa": "ready", "cache.preheat.dev/bb": "no", "cache.example.org/cc": "ready"}
    body = {
        "metadata": {"name": "n", "labels": labels},
        "status": {"allocatable": {"nvidia.com/gpu": "4", "cpu": "8", "memory": "64Gi", "a.b/c": "1k"}},
    }
    node = NodeView.from_body(body)
    assert node.caches == {"aa"}
    assert node.allocatable == {"nvidia.com/gpu": 4}


def test_how_a_container_ended_is_told_with_its_last_words() -> None:
    ended = {"exitCode": 1, "reason": "Error", "message": "loading\nout of memory\n"}
    body = {
        "metadata": {"name": "p"},
        "status": {
            "containerStatuses": [
                {"name": "engine", "restartCount": 4, "lastState": {"terminated": ended},
                 "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                {"name": "other", "restartCount": 9},
            ]
        },
    }  # fmt: skip
    pod = PodView.from_body(body, main="engine")
    assert (pod.restarts, pod.last_exit) == (4, "exit code 1 (Error): out of memory")


def test_a_container_of_the_users_own_that_ends_or_lags_is_named() -> None:
    back_off = {"waiting": {"reason": "CrashLoopBackOff"}}
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": "no such file"}}
    body = {
        "metadata": {"name": "p"},
        "status": {
            "initContainerStatuses": [
                {"name": "agent", "restartCount": 7, "state": back_off, "lastState": ended},
                {"name": "prepare", "restartCount": 3, "state": back_off, "lastState": ended},
            ],
            "containerStatuses": [
                {"name": "engine", "ready": False, "state": {"running": {}}},
                {"name": "files", "ready": False, "state": {"running": {}}},
            ],
        },
    }
    pod = PodView.from_body(body, main="engine")
    assert pod.crashing == "container prepare restarted 3 times, exit code 2 (Error): no such file"
    assert pod.lagging == "container files"


def test_a_readiness_gate_is_named_when_only_it_is_missing() -> None:
    conditions = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
    for gates, told in (([{"conditionType": "example.com/attached"}], "a readiness gate"), ([], None)):
        body = {
            "metadata": {"name": "p"},
            "spec": {"readinessGates": gates},
            "status": {"conditions": conditions},
        }
        assert PodView.from_body(body, main="engine").lagging == told


@pytest.mark.parametrize(
    ("reason", "want"), [("ImagePullBackOff", "ImagePullBackOff"), ("ContainerCreating", None)]
)
def test_waiting_is_trouble_only_where_it_is(reason: str, want: str | None) -> None:
    statuses = [{"name": "agent", "state": {"waiting": {"reason": reason}}}]
    body = {"metadata": {"name": "p"}, "status": {"initContainerStatuses": statuses}}
    assert PodView.from_body(body, main="engine").waiting_reason == want


def test_the_most_that_is_believed_fits_into_the_status_of_a_thousand_nodes() -> None:
    """The API server refuses a status with more than an int64: then nothing at all would be told."""
    assert 1000 * MOST < 2**63


@pytest.mark.parametrize(
    ("more", "whole"),
    [
        ({}, True),
        ({"inUse": ["a"], "inUseCount": 1}, True),
        ({"inUse": ["a"], "inUseCount": 2}, False),
        ({"corrupt": {"a": "x"}, "corruptCount": 60}, False),
        ({"cutShort": True}, False),
    ],
)
def test_a_keeper_that_does_not_tell_all_is_known_to(more: dict[str, Any], *, whole: bool) -> None:
    assert KeeperReport.from_json({"state": "Kept", **more}).whole is whole


@pytest.mark.parametrize("state", ["CutShort", "Failed"])
def test_what_a_keeper_that_was_cut_short_has_found_counts_and_is_not_all(state: str) -> None:
    report = KeeperReport.from_json({"state": state, "corrupt": {"a": "x"}, "corruptCount": 1})
    assert (dict(report.corrupt), report.ended_well, report.whole) == ({"a": "x"}, False, False)
    with pytest.raises(ValueError, match="nothing"):
        KeeperReport.from_json({"state": "Failed", "reason": "DiskError"})


def test_what_a_keeper_could_not_remove_is_still_there() -> None:
    report = KeeperReport.from_json(
        {"state": "Kept", "inUse": ["a"], "stuck": {"team/b": "Permission denied"}}
    )
    assert report.in_use == {"a", "b"}
