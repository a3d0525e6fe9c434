"""A write that changes nothing is not made, and nobody else's object is written over."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.decide.changes import check_owner, differs, fingerprint, projection
from preheat.errors import NotOwned, Unavailable

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


def owned(
    uid: str | None, kind: str = "LLMDeployment", name: str = "llama", *, controller: bool = True
) -> dict[str, Any]:
    reference = {"kind": kind, "name": name, "uid": uid, "controller": controller}
    references = [reference] if uid is not None else []
    return {
        "kind": "Service",
        "metadata": {"name": "llama", "namespace": "ns", "ownerReferences": references},
    }


def volume(**labels: str) -> dict[str, Any]:
    return {"kind": "PersistentVolume", "metadata": {"name": "v", "labels": labels}}


@pytest.mark.parametrize(
    ("desired", "live", "refusal"),
    [
        (owned("me"), owned("me"), None),
        (owned("me"), owned("else", name="other"), NotOwned),
        (owned("me"), owned(None), NotOwned),
        (owned("me"), owned("me", controller=False), NotOwned),
        (owned("me"), owned("before"), Unavailable),
        (owned("me"), owned("x", kind="StatefulSet"), NotOwned),
        (volume(a="1"), volume(a="1", b="2"), None),
        (volume(a="1"), volume(a="2"), NotOwned),
        (volume(a="1"), volume(), NotOwned),
    ],
    ids=[
        "ours", "another owner", "no owner", "an owner that does not control", "left by a namesake",
        "a namesake of another kind", "a volume of ours", "a volume of another cache", "a stranger's volume",
    ],
)  # fmt: skip
def test_only_what_is_ours_is_written_over(
    desired: dict[str, Any], live: dict[str, Any], refusal: type[Exception] | None
) -> None:
    if refusal is None:
        check_owner(desired, live)
        return
    with pytest.raises(refusal, match=desired["metadata"]["name"]):
        check_owner(desired, live)
