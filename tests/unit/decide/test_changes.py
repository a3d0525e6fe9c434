"""A write that changes nothing is not made, and nobody else's object is written over."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.decide.changes import differs, fingerprint, is_progress, projection

from tests.builders import a_cache

DIFFERENCES: dict[str, tuple[Any, Any, bool]] = {
    "the same": ({"a": 1}, {"a": 1}, False),
    "more in the live one is others' business": ({"a": 1}, {"a": 1, "b": 2}, False),
    "more below as well": ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False),
    "another value": ({"a": 1}, {"a": 2}, True),
    "a field that is missing": ({"a": 1}, {}, True),
    "an empty map where nothing is": ({"a": {}}, {}, False),
    "an empty list where nothing is": ({"a": []}, {}, False),
    "an item more is a change": ({"a": [1]}, {"a": [1, 2]}, True),
    "an item less is a change": ({"a": [1, 2]}, {"a": [1]}, True),
    "items are compared in order": ({"a": [1, 2]}, {"a": [2, 1]}, True),
    "an item with more fields": ({"a": [{"n": "x"}]}, {"a": [{"n": "x", "protocol": "TCP"}]}, False),
    "an empty list is asked for": ({"egress": []}, {"egress": [{}]}, True),
    "a map where a list should be": ({"a": [1]}, {"a": {"x": 1}}, True),
    "a list where a map should be": ({"a": {"x": 1}}, {"a": [1]}, True),
    "another spelling": ({"m": "1024Mi"}, {"m": "1Gi"}, True),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_only_what_we_ask_for_and_is_not_there_is_a_difference(case: str) -> None:
    desired, live, want = DIFFERENCES[case]
    assert differs(desired, live) is want


def test_the_projection_is_the_part_that_we_speak_of() -> None:
    live = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 1, "g": 2}, {"f": 3}]}
    assert projection({"b": {"c": 9}, "e": [{"f": 9}]}, live) == {"b": {"c": 2}, "e": [{"f": 1}, 2]}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=4)


@given(OBJECTS)
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert not differs(value, value)


@given(OBJECTS, OBJECTS, st.text(min_size=4, max_size=6))
def test_a_foreign_field_never_changes_the_fingerprint(
    desired: dict[str, Any], live: dict[str, Any], key: str
) -> None:
    assert fingerprint(desired, live) == fingerprint(desired, {**live, key: "theirs"})


def test_the_fingerprint_moves_with_our_wish_and_with_what_is_there_of_it() -> None:
    first = fingerprint({"m": "1024Mi"}, {"m": "1Gi"})
    assert first == fingerprint({"m": "1024Mi"}, {"m": "1Gi", "status": 1})
    assert first != fingerprint({"m": "2048Mi"}, {"m": "1Gi"})
    assert first != fingerprint({"m": "1024Mi"}, {"m": "3Gi"})
    assert fingerprint({"a": [1]}, {"a": [2]}) != fingerprint({"a": [1]}, {"a": [2, 3]})


def told(generation: int = 1, reason: str = "R", **conditions: str) -> dict[str, Any]:
    return {
        "observedGeneration": generation,
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": "",
                "lastTransitionTime": "",
                "observedGeneration": 1,
            }
            for kind, status in conditions.items()
        ],
    }


WORKING = {"Ready": "False", "Reconciling": "True", "Stalled": "False", "Accepted": "True"}
STUCK = {**WORKING, "Reconciling": "False", "Stalled": "True"}
READY = {**WORKING, "Ready": "True", "Reconciling": "False"}


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        (None, told(**WORKING), True),
        (None, told(**STUCK), False),
        (None, told(**{**WORKING, "Accepted": "False"}), False),
        (None, told(**READY), False),
        (told(**WORKING), told(**WORKING), True),
        (told(**WORKING), told(2, **WORKING), False),
        (told(**WORKING), told(**READY), False),
        (told(**WORKING), told(**STUCK), False),
        (told(**READY), told(**WORKING), False),
        (told(**STUCK), told(**STUCK), False),
        (None, told(reason="NoCapacity", **WORKING), False),
        (told(**WORKING), told(reason="NoCapacity", **WORKING), False),
        (told(reason="NoCapacity", **WORKING), told(reason="NoCapacity", **WORKING), True),
        (told(reason="NoCapacity", **WORKING), told(**WORKING), True),
    ],
)
def test_only_work_that_goes_on_as_expected_may_wait_to_be_told(before: Any, after: Any, want: bool) -> None:
    assert is_progress(a_cache(status=before), after) is want
