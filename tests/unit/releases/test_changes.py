"""The check of a definition against the last release's finds every narrowing, and no widening."""

from copy import deepcopy
from typing import Any

import pytest

from tests.releases.changes import breaking_changes


def a_definition(**field: Any) -> dict[str, Any]:
    """A definition whose spec has one field."""
    spec = {"type": "object", "properties": {"field": field or {"type": "string"}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
               "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas"}},
               "selectableFields": [{"jsonPath": ".spec.field"}]}  # fmt: skip
    names = {
        "kind": "Thing",
        "plural": "things",
        "listKind": "ThingList",
        "singular": "thing",
        "shortNames": ["th"],
    }
    return {
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def field_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    start = "things.example.com: v1 spec.field"
    found = breaking_changes(a_definition(**old), a_definition(**new))
    assert all(change.startswith(start) for change in found), found
    return [change.removeprefix(start).removeprefix(": ") for change in found]


BREAKS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "type changed": ({"type": "string"}, {"type": "integer"}, "type changed from string to integer"),
    "format narrowed": (
        {"type": "integer", "format": "int64"},
        {"type": "integer", "format": "int32"},
        "format changed from int64 to int32",
    ),
    "default changed": ({"default": 1}, {"default": 2}, "default changed from 1 to 2"),
    "default added": ({}, {"default": 2}, "default changed from none to 2"),
    "default removed": ({"default": 0}, {"type": "string"}, "default changed from 0 to none"),
    "enum narrowed": ({"enum": ["A", "B"]}, {"enum": ["A"]}, "enum does not allow B any more"),
    "enum added": ({"maxLength": 9}, {"maxLength": 9, "enum": ["A"]}, "enum does not allow any other value any more"),
    "minimum raised": ({"minimum": 0}, {"minimum": 1}, "minimum raised from 0 to 1"),
    "minimum added": ({"maximum": 9}, {"maximum": 9, "minimum": 0}, "minimum raised from none to 0"),
    "maximum lowered": ({"maximum": 9}, {"maximum": 8}, "maximum lowered from 9 to 8"),
    "length narrowed": ({"maxLength": 9}, {"maxLength": 8}, "maxLength lowered from 9 to 8"),
    "items narrowed": ({"maxItems": 9}, {"maxItems": 8}, "maxItems lowered from 9 to 8"),
    "empty not allowed": ({"maxLength": 9}, {"maxLength": 9, "minLength": 1}, "minLength raised from none to 1"),
    "pattern changed": ({"pattern": "^a"}, {"pattern": "^b"}, "pattern changed from ^a to ^b"),
    "pattern added": ({"maxLength": 9}, {"maxLength": 9, "pattern": "^b"}, "pattern changed from none to ^b"),
    "null not allowed": ({"nullable": True}, {"type": "string"}, "nullable changed from True to none"),
    "list type changed": (
        {"x-kubernetes-list-type": "atomic"},
        {"x-kubernetes-list-type": "set"},
        "x-kubernetes-list-type changed from atomic to set",
    ),
    "list key changed": (
        {"x-kubernetes-list-map-keys": ["a"]},
        {"x-kubernetes-list-map-keys": ["b"]},
        "x-kubernetes-list-map-keys changed from ['a'] to ['b']",
    ),
    "rule added": (
        {"x-kubernetes-validations": [{"rule": "a", "message": "m"}]},
        {"x-kubernetes-validations": [{"rule": "a", "message": "n"}, {"rule": "b  <\n c"}]},
        "new rule b < c",
    ),
    "unknown fields pruned": (
        {"x-kubernetes-preserve-unknown-fields": True},
        {"type": "object"},
        "x-kubernetes-preserve-unknown-fields changed from True to none",
    ),
    "a map of strings no more": (
        {"additionalProperties": {"type": "string"}},
        {"type": "object"},
        ".*: changed from {'type': 'string'} to none",
    ),
    "map values narrowed": (
        {"additionalProperties": {"maxLength": 9}},
        {"additionalProperties": {"maxLength": 8}},
        ".*: maxLength lowered from 9 to 8",
    ),
    "list items narrowed": ({"items": {"enum": [1, 2]}}, {"items": {"enum": [1]}}, "[]: enum does not allow 2 any more"),
    "a field of it removed": ({"properties": {"a": {}}}, {"properties": {"b": {}}}, ".a: removed"),
    "a field of it required": (
        {"properties": {"a": {}}},
        {"properties": {"a": {}}, "required": ["a"]},
        ".a: is required now",
    ),
    "a new field required": ({"properties": {}}, {"properties": {"a": {}}, "required": ["a"]}, ".a: is required now"),
    "a keyword that nobody thought of": ({"maxLength": 1}, {"maxLength": 1, "not": {}}, "not is a keyword that this check does not know"),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKS)
def test_what_breaks_is_told(case: str) -> None:
    old, new, words = BREAKS[case]
    both = {"type": "string"}
    assert words in field_changes({**both, **old}, {**both, **new})


WIDENS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({"type": "string"}, {"type": "string"}),
    "another description": ({"description": "a"}, {"description": "b"}),
    "a new optional field": ({"properties": {"a": {}}}, {"properties": {"a": {}, "b": {"default": 1}}}),
    "a field not required any more": ({"required": ["a"]}, {"properties": {}}),
    "minimum lowered": ({"minimum": 1}, {"minimum": 0}),
    "maximum raised": ({"maximum": 1}, {"maximum": 2}),
    "a bound removed": ({"maxLength": 1}, {"type": "string"}),
    "pattern removed": ({"pattern": "^a"}, {"type": "string"}),
    "enum widened": ({"enum": ["A"]}, {"enum": ["B", "A"]}),
    "enum removed": ({"enum": ["A"]}, {"type": "string"}),
    "rule removed": ({"x-kubernetes-validations": [{"rule": "a"}]}, {"type": "string"}),
    "a rule's message": (
        {"x-kubernetes-validations": [{"rule": "a", "message": "m"}]},
        {"x-kubernetes-validations": [{"rule": "a", "message": "n"}]},
    ),
}


@pytest.mark.parametrize("case", WIDENS)
def test_what_only_allows_more_is_not_told(case: str) -> None:
    old, new = WIDENS[case]
    both = {"type": "string"}
    assert field_changes({**both, **old}, {**both, **new}) == []


def test_a_field_removed_and_a_section_removed() -> None:
    new = a_definition()
    del new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["field"]
    assert breaking_changes(a_definition(), new) == ["things.example.com: v1 spec.field: removed"]
    del new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert breaking_changes(a_definition(), new) == ["things.example.com: v1 spec: removed"]


DEFINITION: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "scope": (("scope",), "Cluster", "scope changed from Namespaced to Cluster"),
    "group": (("group",), "example.org", "group changed from example.com to example.org"),
    "kind": (("names", "kind"), "Other", "names.kind changed from Thing to Other"),
    "plural": (("names", "plural"), "others", "names.plural changed from things to others"),
    "short name": (("names", "shortNames"), ["tg"], "names.shortNames: th removed"),
    "version unserved": (("versions", 0, "served"), False, "version v1 is not served any more"),
    "version removed": (("versions", 0, "name"), "v2", "version v1 is not served any more"),
    "version not stored": (
        ("versions", 0, "storage"),
        False,
        "version v1 is not stored any more: stored objects must be migrated",
    ),
    "no status": (
        ("versions", 0, "subresources", "status"),
        None,
        "subresource status changed from {} to None",
    ),
    "scale moved": (
        ("versions", 0, "subresources", "scale", "specReplicasPath"),
        ".spec.count",
        "subresource scale changed from {'specReplicasPath': '.spec.replicas'} to {'specReplicasPath': '.spec.count'}",
    ),
    "field not selectable": (
        ("versions", 0, "selectableFields"),
        [],
        "selectable field .spec.field removed",
    ),
}


@pytest.mark.parametrize("case", DEFINITION)
def test_what_changes_around_the_schema_is_told(case: str) -> None:
    (*steps, last), value, words = DEFINITION[case]
    new = deepcopy(a_definition())
    place: Any = new["spec"]
    for step in steps:
        place = place[step]
    place[last] = value
    assert f"things.example.com: {words}" in breaking_changes(a_definition(), new)
