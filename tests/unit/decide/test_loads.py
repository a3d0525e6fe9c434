"""How long loads take: what is learned of them, when, and what is expected of the next one and of one under way."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.llmdeployment import LoadTimesStatus, StorageTier
from preheat.decide.loads import (
    KINDS,
    RECENT,
    Phases,
    expected,
    is_unlearned,
    learn,
    observed,
    prior,
    quantile,
    remaining,
)
from preheat.decide.observed import AgentReport, AgentState, PodView

from tests.builders import a_pod

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DISK = StorageTier.ON_DISK


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def a_report(state: AgentState = AgentState.SERVING, **fields: Any) -> AgentReport:
    given_: dict[str, Any] = {
        "reason": "", "message": "", "bytes_done": 100, "bytes_total": 100, "remaining_seconds": None,
        "load_started": at(30), "load_seconds": 60.0, "first_answer_seconds": 5.0, "storage_bytes": 100,
        "engine_starts": 1,
    }  # fmt: skip
    return AgentReport(state=state, **{**given_, **fields})


def a_loaded(name: str = "pod", begin: float = 0, **fields: Any) -> PodView:
    """A pod that was asked for at ``begin``, had a node after 10 s, began to load after 30 and was Ready after 97."""
    report = fields.pop("report", a_report(load_started=at(begin + 30)))
    given_: dict[str, Any] = {
        "ready": True, "created": at(begin), "scheduled_at": at(begin + 10), "ready_at": at(begin + 97),
    }  # fmt: skip
    return a_pod(name, report=report, **{**given_, **fields})


def test_the_phases_of_a_load_add_up() -> None:
    tier, load = observed(a_loaded(), {}) or pytest.fail("nothing observed")
    assert tier is StorageTier.ON_DISK
    assert load.model_dump() == {
        "total_seconds": 97, "gpu_wait_seconds": 10, "weights_seconds": 0, "image_seconds": 22,
        "load_seconds": 60, "first_answer_seconds": 5,
    }  # fmt: skip


def test_a_pod_that_waited_for_its_nodes_weights_loaded_from_cold() -> None:
    tier, load = observed(a_loaded(), {"n1": at(7)}) or pytest.fail("nothing observed")
    assert (tier, load.weights_seconds, load.gpu_wait_seconds) == (StorageTier.COLD, 7, 3)
    long_there, _ = observed(a_loaded(), {"n1": at(-500)}) or pytest.fail("nothing observed")
    assert long_there is StorageTier.ON_DISK


def test_weights_of_which_next_to_nothing_came_from_the_disk_were_in_the_page_cache() -> None:
    cached = a_report(storage_bytes=10)
    assert (observed(a_loaded(report=cached), {}) or [None])[0] is StorageTier.IN_PAGE_CACHE
    assert (observed(a_loaded(report=a_report(storage_bytes=11)), {}) or [None])[0] is DISK


@pytest.mark.parametrize(
    "pod",
    [
        a_loaded(report=None),
        a_loaded(report=a_report(heals=1)),
        a_loaded(report=a_report(engine_starts=2)),
        a_loaded(restarts=1),
        a_loaded(ready_at=at(30 + 60 + 5 + 121)),
    ],
    ids=["silent agent", "healed", "engine restarted", "container restarted", "was Ready before"],
)
def test_what_was_no_load_from_its_beginning_on_is_not_counted(pod: PodView) -> None:
    assert observed(pod, {}) is None


def test_a_load_is_learned_once_and_only_with_the_number_of_ready_replicas() -> None:
    first = learn(None, [a_loaded()], 0, {})
    assert first is not None
    assert [kind.count for kind in first.kinds] == [1]
    assert learn(first, [a_loaded()], 0, {}) == first, "the same pod again"
    late = a_loaded("b", 200)
    assert learn(first, [a_loaded(), late], 2, {}) == first, "no status is written for its sake"
    both = learn(first, [a_loaded(), late], 1, {})
    assert both is not None
    assert [(kind.count, len(kind.recent)) for kind in both.kinds] == [(2, 2)]


def test_an_agent_is_asked_for_its_load_until_it_is_learned() -> None:
    known = learn(None, [a_loaded()], 0, {})
    assert is_unlearned(a_loaded(), None)
    assert not is_unlearned(a_loaded(), known)
    assert is_unlearned(a_loaded("b", 1), known)
    assert not is_unlearned(a_pod("c"), known)


def test_what_is_kept_is_bounded() -> None:
    known: LoadTimesStatus | None = None
    for number in range(20):
        known = learn(known, [a_loaded(begin=1000 * number)], 0, {})
    for number in range(20, 40):
        known = learn(known, [a_loaded(begin=1000 * number, revision=f"r{number}")], 0, {})
    assert known is not None
    assert len(known.kinds) == KINDS
    assert known.kinds[0].revision == "r39"
    assert all(len(kind.recent) <= RECENT for kind in known.kinds)


def taught(*totals: float, **fields: Any) -> LoadTimesStatus:
    known: LoadTimesStatus | None = None
    for number, total in enumerate(totals):
        begin = 10_000.0 * number
        report = a_report(load_started=at(begin + 30), load_seconds=total - 37)
        known = learn(
            known, [a_loaded(begin=begin, ready_at=at(begin + total), report=report, **fields)], 0, {}
        )
    assert known is not None
    return known


def test_before_a_load_was_seen_the_prior_is_expected() -> None:
    small, large = (expected(None, "r", "nvidia-l4", DISK, size) for size in (10**9, 10**12))
    assert (small.observations, large.observations) == (0, 0)
    assert small.p50_seconds < large.p50_seconds
    assert large.p50_seconds == pytest.approx(prior(DISK, 10**12).total)
    cold, warm = (
        expected(None, "r", "nvidia-l4", tier, 10**11).p50_seconds for tier in (StorageTier.COLD, DISK)
    )
    assert cold > 4 * warm
    assert prior(StorageTier.COLD, 10**11).load >= prior(DISK, 10**11).load, (
        "what was fetched is not in memory"
    )


def test_what_was_seen_takes_the_place_of_the_prior() -> None:
    found = expected(taught(90, 100, 110), "r", "nvidia-l4", DISK, 10**12)
    assert found.p50_seconds == 100
    assert 110 < found.p90_seconds < 130, "three loads say little of the tail"
    assert found.phases.load == 63
    assert found.observations == 3


def test_an_unknown_revision_is_expected_to_load_like_the_others_on_that_gpu() -> None:
    known = taught(100)
    assert expected(known, "new", "nvidia-l4", DISK, None).p50_seconds == 100
    assert expected(known, "new", "nvidia-l4", StorageTier.COLD, None).observations == 0


def test_a_day_without_a_gpu_is_no_long_load() -> None:
    known = taught(100, 100, 100)
    day = a_loaded(
        "d", 50_000, scheduled_at=at(50_000 + 86_400), ready_at=at(50_000 + 86_490),
        report=a_report(load_started=at(50_000 + 86_420), load_seconds=63.0),
    )  # fmt: skip
    learned = learn(known, [day], 0, {})
    assert expected(learned, "r", "nvidia-l4", DISK, None).p90_seconds < 150


PHASES = Phases(gpu_wait=10, weights=0, image=20, load=60, first_answer=5)


@pytest.mark.parametrize(
    ("pod", "seconds"),
    [
        (a_loaded(), 0),
        (a_pod(created=BEGIN, scheduled_at=at(10)), 10 + 85 - 40),
        (a_pod(created=BEGIN, scheduled_at=at(-500)), 1),
        (a_pod(created=BEGIN, scheduled=False), 95 - 40),
        (a_pod(created=BEGIN, scheduled=False, unschedulable="0/1 nodes: Insufficient nvidia.com/gpu"), math.inf),
        (a_pod(report=a_report(AgentState.LOADING, remaining_seconds=30.0)), 35),
        (a_pod(report=a_report(AgentState.PROBING)), 5),
        (a_pod(report=a_report(AgentState.STALLED)), math.inf),
    ],
)  # fmt: skip
def test_what_is_left_of_a_load(pod: PodView, seconds: float) -> None:
    # an unscheduled pod is never nearer than what follows its scheduling
    floor = 86 if not pod.scheduled and pod.unschedulable is None else 0
    assert remaining(pod, PHASES, at(40), weights_there=True) == max(seconds, floor)


def test_a_pod_without_a_node_waits_for_its_weights_where_no_node_has_them() -> None:
    pod = a_pod(created=BEGIN, scheduled=False, unschedulable="volume node affinity conflict")
    assert remaining(pod, PHASES, at(2), weights_there=False) == 93


@given(st.lists(st.floats(0, 1e6), min_size=1).map(sorted), st.floats(0, 1))
def test_a_quantile_lies_within_what_was_seen(values: list[float], q: float) -> None:
    assert values[0] - 1e-6 <= quantile(values, q) <= values[-1] + 1e-6
