"""What the generated definitions promise that tests/golden/test_crds.py does not say: the whole of both of them."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from preheat.api.crd import definitions

NAMES = sorted(definitions())


def version(name: str) -> dict[str, Any]:
    (only,) = definitions()[name]["spec"]["versions"]
    found: dict[str, Any] = only
    return found


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from fields(child, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from fields(schema[key], f"{path}[]")


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = version(name)["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_is_structural(name: str) -> None:
    """The API server refuses these words, or lets through what they should hold back."""
    forbidden = {"$ref", "anyOf", "oneOf", "allOf", "not", "const", "nullable", "title", "additionalItems",
                 "uniqueItems"}  # fmt: skip
    for path, node in fields(schema(name)):
        assert not forbidden & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert isinstance(node.get("type"), str) is not node.get("x-kubernetes-int-or-string", False), path
        # Anything goes only where everything is refused: tests/unit/api/test_podschema.py.
        assert "x-kubernetes-preserve-unknown-fields" not in node or ".template.spec." in path, path


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_format_that_holds_it(name: str) -> None:
    for path, node in fields(schema(name)):
        if node.get("type") == "integer":
            assert node["format"] == ("int32" if node.get("maximum", 2**62) < 2**31 else "int64"), path
            assert node.get("minimum", -1) >= 0, f"{path}: nothing here is less than nothing"


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_of_their_type_and_allowed(name: str) -> None:
    types = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    for path, node in fields(schema(name)):
        if "default" in node:
            assert isinstance(node["default"], types[node["type"]]), path
            assert "enum" not in node or node["default"] in node["enum"], path


@pytest.mark.parametrize("name", NAMES)
def test_what_is_required_is_there_and_has_no_default(name: str) -> None:
    for path, node in fields(schema(name)):
        for key in node.get("required", []):
            assert "default" not in node["properties"][key], f"{path}.{key}"


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_says_what_to_do(name: str) -> None:
    for path, node in fields(schema(name)):
        for rule in node.get("x-kubernetes-validations", []):
            assert len(rule["message"]) > 20, path
            code = re.sub(r"'[^']*'", "''", rule["rule"])
            assert code.count("(") == code.count(")"), path


@pytest.mark.parametrize("name", NAMES)
def test_no_user_is_shown_a_regular_expression(name: str) -> None:
    """Of a pattern the API server prints the pattern: a rule with a message says the same in words."""
    assert [path for path, node in fields(schema(name)) if "pattern" in node] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_points_to_a_field_that_is_there(name: str) -> None:
    for path, node in fields(schema(name)):
        for rule in node.get("x-kubernetes-validations", []):
            found = node
            for part in rule.get("fieldPath", "").split(".")[1:]:
                assert part in found["properties"], f"{path}: {rule['fieldPath']}"
                found = found["properties"][part]


@pytest.mark.parametrize("name", NAMES)
def test_maps_that_are_lists_have_their_keys(name: str) -> None:
    for path, node in fields(schema(name)):
        if node.get("x-kubernetes-list-type") == "map":
            items = node["items"]
            for key in node["x-kubernetes-list-map-keys"]:
                assert key in items["properties"], path
                assert key in items["required"] or "default" in items["properties"][key], path


@pytest.mark.parametrize("name", NAMES)
def test_the_status_is_a_subresource_and_every_column_points_somewhere(name: str) -> None:
    assert version(name)["subresources"]["status"] == {}
    root = schema(name)
    for column in version(name)["additionalPrinterColumns"]:
        path = column["jsonPath"].removeprefix(".")
        if path.startswith("metadata."):
            continue
        node = root
        for part in path.partition("[")[0].split("."):
            node = node["properties"][part]
        if "[" in path:
            assert path.rpartition(".")[2] in node["items"]["properties"], path
        else:
            assert node["type"] == {"date": "string"}.get(column["type"], column["type"]), path


def test_scale_reads_and_writes_fields_that_are_there() -> None:
    scale = version("llmdeployments.yaml")["subresources"]["scale"]
    for key, kind in (
        ("specReplicasPath", "integer"),
        ("statusReplicasPath", "integer"),
        ("labelSelectorPath", "string"),
    ):
        node = schema("llmdeployments.yaml")
        for part in scale[key].removeprefix(".").split("."):
            node = node["properties"][part]
        assert node["type"] == kind, key


def test_each_is_stored_in_the_one_version_that_is_served() -> None:
    for name in NAMES:
        assert (version(name)["served"], version(name)["storage"]) == (True, True)
        assert definitions()[name]["spec"]["scope"] == "Namespaced"


def test_a_modelcache_shows_its_columns() -> None:
    columns = version("modelcaches.yaml")["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == [
        "Source", "Ready", "Nodes", "Percent", "Speed", "ETA", "In use", "Reason", "Age",
    ]  # fmt: skip


def test_the_schema_bounds_the_names_that_become_labels() -> None:
    """A label's value has at most 63 characters, and every child carries its parent's name as one."""
    for name in NAMES:
        rules = [rule["rule"] for rule in schema(name).get("x-kubernetes-validations", [])]
        limits = [
            int(found) for rule in rules for found in re.findall(r"metadata\.name\.size\(\) <= (\d+)", rule)
        ]
        assert limits, name
        assert max(limits) <= 63, name
