"""The CRDs: on disk as generated, bounded everywhere, with the columns and subresources that users rely on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from preheat.api.crd import HEADER, definitions

ROOT = Path(__file__).parents[2]
NAMES = sorted(definitions())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["crds", "charts/preheat/files/crds"])
def test_on_disk_is_what_the_types_say(name: str, folder: str) -> None:
    text = (ROOT / folder / name).read_text()
    assert text.startswith(HEADER)
    assert yaml.safe_load(text) == definitions()[name], "make generate"


def _nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _nodes(schema[key], f"{path}[]")


def _schema(name: str) -> dict[str, Any]:
    root: dict[str, Any] = definitions()[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


@pytest.mark.parametrize("name", NAMES)
def test_everything_has_a_bound_and_a_description(name: str) -> None:
    """CEL's cost budget refuses rules over what has none, and nobody explains what says nothing."""
    for part in ("spec", "status"):
        for path, node in _nodes(_schema(name)["properties"][part], part):
            kind = node.get("type")
            if kind == "string":
                assert "maxLength" in node or "enum" in node, path
            if kind == "array":
                assert "maxItems" in node, path
                assert "x-kubernetes-list-type" in node or node["items"]["type"] in {"string", "object"}, path
            anything = "x-kubernetes-preserve-unknown-fields" in node
            if kind == "object" and "properties" not in node and not anything:
                assert "maxProperties" in node, path
            assert kind != "number", f"{path}: no floats"
            assert kind is not None or node["x-kubernetes-int-or-string"], path
            # What is as in a pod is explained there: kubectl explain pod.spec.volumes
            deep = path.startswith("spec.template.spec.") and path.count(".") > 3
            if not path.endswith("[]") and not deep:
                assert node.get("description"), path


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_never_null(name: str) -> None:
    for path, node in _nodes(_schema(name), ""):
        assert "default" not in node or node["default"] is not None, path


def test_columns_and_subresources() -> None:
    version = definitions()["llmdeployments.yaml"]["spec"]["versions"][0]
    columns = version["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == [
        "Model", "Ready", "Replicas", "Loading %", "ETA", "Reason", "Age",
    ]  # fmt: skip
    assert [c["name"] for c in columns if c.get("priority") == 1] == ["Revision", "GPU", "URL"]
    assert version["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
    assert (
        _schema("llmdeployments.yaml")["properties"]["status"]["properties"]["selector"]["type"] == "string"
    )
