"""The schema of spec.template: complete, typed, small enough, and with a sentence for whatever is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import models
from preheat.api import template as t
from preheat.api.crd import definitions

from tests.template import NEWLY_REFUSED, REFUSED, everything

APPLY_LIMIT_BYTES = 262_144
"""kubectl apply keeps what was applied in an annotation, and annotations end there."""


def template() -> dict[str, Any]:
    (version,) = definitions()["llmdeployments.yaml"]["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found: dict[str, Any] = spec["properties"]["template"]
    return found


def is_refused(node: dict[str, Any]) -> bool:
    return any(rule["rule"] == "false" for rule in node.get("x-kubernetes-validations", ()))


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            yield from nodes(node[name], f"{path}[]")


def paths(value: Any, path: str = "") -> Iterator[str]:
    """Where something is set; the items of a list are one place."""
    yield path
    if isinstance(value, dict):
        for name, child in value.items():
            yield from paths(child, f"{path}.{name}")
    if isinstance(value, list):
        for child in value:
            yield from paths(child, f"{path}[]")


def test_the_definition_can_be_applied_by_kubectl() -> None:
    """With room to grow: six tenths of what an annotation holds."""
    for definition in definitions().values():
        assert len(json.dumps(definition, separators=(",", ":"))) < 0.6 * APPLY_LIMIT_BYTES


def test_every_field_of_a_pods_spec_is_taken_or_refused_with_a_sentence() -> None:
    """A field that is in neither would be pruned by clients that do not ask for strict validation."""
    known = set(models.V1PodSpec.attribute_map.values())
    assert known == set(t.POD_FIELDS) | set(t.REFUSED_POD_FIELDS) | set(t.REFUSED_POD_VALUES)
    assert set(template()["properties"]["spec"]["properties"]) == known


def test_every_field_of_the_engine_is_taken_or_refused_with_a_sentence() -> None:
    containers = template()["properties"]["spec"]["properties"]["containers"]["items"]
    known = t.ENGINE_FIELDS | set(t.REFUSED_ENGINE_FIELDS) | {"restartPolicy"}
    assert set(containers["properties"]) == known
    security = template()["properties"]["spec"]["properties"]["securityContext"]
    assert set(security["properties"]) == t.POD_SECURITY_FIELDS | set(t.REFUSED_POD_SECURITY)
    volumes = template()["properties"]["spec"]["properties"]["volumes"]["items"]
    taken = {name for name, node in volumes["properties"].items() if not is_refused(node)}
    assert taken == t.VOLUME_SOURCES | {"name"}


def test_there_is_no_default_below_the_template() -> None:
    """Whoever has a template would get a new revision, and a restart, from a new default."""
    assert not [path for path, node in nodes(template()) if "default" in node]


def test_nothing_that_is_taken_goes_unchecked() -> None:
    for path, node in nodes(template()):
        odd = "x-kubernetes-preserve-unknown-fields" in node
        assert not odd or is_refused(node) or path.endswith("[]"), path


def test_every_number_and_text_of_every_rule_is_known_to_the_tests() -> None:
    """A rule that no case breaks is a rule that nobody has seen work."""
    said = [text for _, text in (REFUSED | NEWLY_REFUSED).values()]
    for path, node in nodes(template()):
        for rule in node.get("x-kubernetes-validations", ()):
            if "self.matches" in rule["rule"] or "k.matches(r'" in rule["rule"]:
                continue  # the form of a key, a name or an amount: tests/integration/test_template.py
            assert any(text in rule["message"] for text in said), f"{path}: {rule['message']}"


def test_the_sample_sets_every_field_that_is_taken() -> None:
    refused = {
        path for path, node in nodes(template()) if is_refused(node) or path.endswith(tuple(
            f".spec.{name}" for name in t.REFUSED_POD_VALUES))
    } | {".spec.containers[].restartPolicy"}  # fmt: skip
    wanted = {
        path for path, _ in nodes(template())
        if not path.endswith("[]") and not any(path == r or path.startswith((f"{r}.", f"{r}[")) for r in refused)
        # Kubernetes has it in the type of all probes, and refuses it here.
        and not path.endswith("readinessProbe.terminationGracePeriodSeconds")
        # Only an object that has one already keeps it.
        and not path.endswith(".ports[].hostPort")
    }  # fmt: skip
    missing = sorted(wanted - set(paths(everything())))
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("folder", ["crds", "charts/preheat/files/crds"])
def test_the_files_hold_no_anchors(folder: str) -> None:
    """Not every tool that reads a CustomResourceDefinition knows YAML's."""
    text = (Path(__file__).parents[3] / folder / "llmdeployments.yaml").read_text()
    assert "&id" not in text
