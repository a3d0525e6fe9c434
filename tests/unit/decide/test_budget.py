"""Who gets room on a node's disk, who has to leave for it, and what the others are told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.config import OperatorConfig
from preheat.decide.budget import Allotment, DiskState, Entry, Limits, allot, limits_of

from tests.builders import a_node

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITING, WARMING, READY, LEAVING = DiskState.WAITING, DiskState.WARMING, DiskState.READY, DiskState.LEAVING


def entry(
    key: str, state: DiskState, size: int | None = 60, age: int = 0, namespace: str = "team", **more: Any
) -> Entry:
    """Weights that were last used ``age`` seconds ago."""
    return Entry(key, namespace, f"cache-{key}", state, NOW - timedelta(seconds=age), size, **more)


def on(*entries: Entry, node: int | None = 100, namespace: int | None = None) -> Allotment:
    return allot(entries, Limits(node, namespace), "n1")


def test_without_a_budget_everybody_begins_at_once() -> None:
    assert on(entry("a", WAITING), entry("b", WAITING, None), node=None).admitted == {"a": None, "b": None}


def test_what_fits_begins_and_is_told_how_much_it_may_take() -> None:
    assert on(entry("a", READY, 40), entry("b", WAITING, 60)).admitted == {"b": 60}


def test_one_whose_size_nobody_knows_gets_what_is_left_and_the_next_waits() -> None:
    found = on(entry("a", READY, 40), entry("b", WAITING, None), entry("c", WAITING, 1, age=9))
    assert found.admitted == {"b": 60}
    assert "c" in found.waiting


def test_the_least_recently_used_leaves_and_no_more_than_needed() -> None:
    found = on(entry("old", READY, 30, age=90), entry("new", READY, 30, age=10), entry("mid", READY, 30, age=50),
               entry("x", WAITING, 35))  # fmt: skip
    assert set(found.evicted) == {"old"}
    assert not found.admitted
    assert "gone from the disk" in found.waiting["x"].message


@pytest.mark.parametrize("stays", [{"needed": True}, {"kept": True}])
def test_what_is_in_use_or_to_be_rolled_back_to_never_leaves(stays: dict[str, bool]) -> None:
    found = on(entry("a", READY, 60, age=999, **stays), entry("b", WAITING, 60, needed=True))
    assert not found.evicted
    assert not found.admitted
    words = found.waiting["b"].message
    assert "60 B are needed" in words
    assert "60 B of the 100 B for weights on n1 are taken" in words
    assert "cache-a" in words
    assert "raise the budget" in words


def test_two_that_nobody_needs_do_not_throw_each_other_out_in_turn() -> None:
    older, newer = {"age": 50}, {"age": 10}
    assert set(on(entry("a", READY, **older), entry("b", WAITING, **newer)).evicted) == {"a"}
    after = on(entry("a", WAITING, **older), entry("b", READY, **newer))
    assert not after.evicted
    assert not after.admitted


def test_who_serves_comes_before_who_was_used_later() -> None:
    found = on(entry("idle", WAITING, 60, age=0), entry("serves", WAITING, 60, age=99, needed=True))
    assert found.admitted == {"serves": 60}


def test_bytes_that_leave_count_until_they_are_gone() -> None:
    found = on(entry("a", LEAVING, 60), entry("b", WAITING, 60))
    assert not found.admitted
    assert not found.evicted
    assert on(entry("b", WAITING, 60)).admitted == {"b": 60}


def test_one_that_gave_up_before_its_size_was_known_comes_after_those_that_did_not() -> None:
    """Else it takes all the room whenever it is tried again, and the others wait for ever."""
    found = on(entry("typo", WAITING, None, age=1, gave_up=True), entry("b", WAITING, 60, age=99))
    assert found.admitted == {"b": 60, "typo": 40}
    assert not on(entry("typo", WAITING, None, gave_up=True), entry("b", READY, 100, age=99)).evicted
    needed = on(entry("typo", WAITING, None, gave_up=True, needed=True), entry("b", WAITING, 60))
    assert needed.admitted == {"typo": 100}


def test_room_that_is_being_made_for_one_is_not_given_to_another() -> None:
    first = on(entry("idle", READY, 50, age=99), entry("serves", READY, 20, needed=True),
               entry("x", WAITING, 70, needed=True), entry("y", WAITING, 30, age=9))  # fmt: skip
    assert set(first.evicted) == {"idle"}
    assert not first.admitted, "what fits beside all that is there takes what was made room for"
    assert "x" in first.waiting

    then = on(entry("serves", READY, 20, needed=True), entry("x", WAITING, 70, needed=True),
              entry("y", WAITING, 30, age=9))  # fmt: skip
    assert then.admitted == {"x": 70}


def test_who_fits_beside_what_room_is_being_made_for_begins() -> None:
    found = on(
        entry("gone", LEAVING, 90), entry("x", WAITING, 60, needed=True), entry("y", WAITING, 10, age=9)
    )
    assert found.admitted == {"y": 10}


def test_a_namespace_has_a_limit_of_its_own() -> None:
    there = entry("a", READY, 30, namespace="other"), entry("b", READY, 30, age=5)
    found = on(*there, entry("c", WAITING, 30), node=1000, namespace=50)
    assert set(found.evicted) == {"b"}, "only its own weights leave for it"
    assert on(*there, entry("d", WAITING, 20), node=1000, namespace=50).admitted == {"d": 20}


def test_nobody_hears_of_other_namespaces_caches() -> None:
    found = on(entry("secret", READY, 60, namespace="other", needed=True), entry("b", WAITING, 60))
    assert "secret" not in found.waiting["b"].message
    assert "other namespaces 60 B" in found.waiting["b"].message
    evicted = on(entry("a", READY, 60, age=9), entry("secret", WAITING, 60, namespace="other")).evicted["a"]
    assert "secret" not in evicted


def test_a_running_warmer_of_unknown_size_counts_its_room() -> None:
    found = on(entry("a", WARMING, None, room_bytes=70), entry("b", WAITING, 40))
    assert not found.admitted
    unknown = on(entry("a", WARMING, None), entry("b", WAITING, 40))
    assert "until it is known how much cache-a takes" in unknown.waiting["b"].message


def test_while_a_size_is_unknown_nobody_is_told_to_delete_anything() -> None:
    wait = on(entry("a", WARMING, None, room_bytes=100), entry("b", WAITING, 40)).waiting["b"]
    assert not wait.refused


def test_a_nodes_annotation_goes_before_the_installation() -> None:
    config = OperatorConfig(node_budget_bytes=10, namespace_budget_bytes=5)
    assert limits_of(a_node(), config) == Limits(10, 5)
    assert limits_of(a_node(budget_bytes=7), config) == Limits(7, 5)
    assert not limits_of(a_node(), OperatorConfig())


ENTRIES = st.lists(
    st.builds(
        entry,
        st.integers(0, 10**6).map(str),
        st.sampled_from(DiskState),
        st.none() | st.integers(0, 200),
        st.integers(0, 100),
        st.sampled_from(["team", "other"]),
        needed=st.booleans(),
        kept=st.booleans(),
        room_bytes=st.none() | st.integers(0, 100),
    ),
    max_size=8,
    unique_by=lambda e: e.key,
)


@given(ENTRIES, st.integers(0, 300), st.none() | st.integers(0, 300))
def test_whatever_lies_there(there: list[Entry], node: int, namespace: int | None) -> None:
    found = on(*there, node=node, namespace=namespace)
    by_key = {e.key: e for e in there}
    waiting = {e.key for e in there if e.state is WAITING}
    assert found.admitted.keys() | found.waiting.keys() == waiting
    assert not found.admitted.keys() & found.waiting.keys()
    for key in found.evicted:
        assert by_key[key].state is READY
        assert not by_key[key].needed
        assert not by_key[key].kept
    pools = [(node, there), (namespace, [e for e in there if e.namespace == "team"])]
    for limit, pool in pools:
        added = sum(room or 0 for key, room in found.admitted.items() if by_key[key] in pool)
        before = sum(e.taken_bytes or 0 for e in pool if e.state is not WAITING)
        assert limit is None or not added or before + added <= limit, "never beyond the budget"
