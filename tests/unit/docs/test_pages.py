"""The documentation says what is: links lead somewhere, examples are valid, tables know what the code knows and no more."""

import argparse
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from preheat.api.conditions import ConditionType, Reason
from preheat.api.gpu import GPU_MODELS
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.cli.main import parser
from preheat.config import OperatorConfig
from preheat.decide import caching, telling
from preheat.decide.rollout.state import Phase
from preheat.decide.scaling import Reason as ScalingReason

from tests.pages import DOCS, ROOT, anchors, blocks, pages, prose, section

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
READ: dict[str, Callable[[dict[str, Any]], object]] = {
    "LLMDeployment": lambda body: parse(LLMDeployment, body),
    "ModelCache": lambda body: parse(ModelCache, body),
}
SCHEMAS: dict[str, dict[str, Any]] = {
    body["spec"]["names"]["kind"]: body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for body in (yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml"))
}
LEFT_OUT: dict[str, dict[str, Any]] = {
    "LLMDeployment": {
        "model": {"uri": "http://store/m/"},
        "hardware": {"gpu": {"types": list(GPU_MODELS)[:8]}},
    },
    "ModelCache": {"source": {"uri": "http://store/m/"}},
}
"""What fragments of the documentation leave out, because they are about something else."""


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_no_page_keeps_what_a_merge_could_not_join(page: Path) -> None:
    assert not re.search(r"^(<{7}|>{7}) ", page.read_text(), re.MULTILINE)


def test_every_decision_is_in_the_index_once() -> None:
    folder = DOCS / "decisions"
    index = re.findall(r"^\| \[\d{4}\]\(([^)]+)\)", (folder / "README.md").read_text(), re.MULTILINE)
    assert index == sorted(path.name for path in folder.glob("0*.md"))


def unknown(schema: dict[str, Any], value: Any, path: str = "") -> list[str]:
    """Return the fields that the API server would warn of and drop."""
    if isinstance(value, list):
        return [p for item in value for p in unknown(schema.get("items", {}), item, f"{path}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known, others, found = schema.get("properties", {}), schema.get("additionalProperties"), []
    for key, inner in value.items():
        below = known.get(key, others)
        found += [f"{path}.{key}"] if below is None else unknown(below, inner, f"{path}.{key}")
    return found


def _kind(body: dict[str, Any]) -> str:
    """Return an object's kind; of a fragment, whose spec has what is written there."""
    fields = body.get("spec", {}).keys()
    return body.get("kind") or next(
        (k for k, s in SCHEMAS.items() if fields <= s["properties"]["spec"]["properties"].keys()), ""
    )


@pytest.mark.parametrize(
    "page", [*PAGES, *(pytest.param(p, id=p.name) for p in (ROOT / "examples").glob("*.yaml"))]
)
def test_every_example_is_an_object_that_can_be_applied(page: Path) -> None:
    found = blocks(page) if page.suffix == ".md" else [(1, list(yaml.safe_load_all(page.read_text())))]
    for line, bodies in found:
        for body in bodies:
            kind = _kind(body)
            if kind not in READ:
                assert "apiVersion" in body, f"line {line}: a fragment with a field that no kind of ours has"
                continue
            spec = body["spec"]
            assert unknown(SCHEMAS[kind]["properties"]["spec"], spec) == [], f"line {line}"
            if "apiVersion" not in body:
                spec = {**LEFT_OUT[kind], **spec}
                if kind == "LLMDeployment":
                    spec["hardware"] = {**LEFT_OUT[kind]["hardware"], **spec["hardware"]}
            READ[kind]({"metadata": {"name": "x", "namespace": "x", "uid": "x"}, "spec": spec})


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_pages_name_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z0-9-]+)", text, re.MULTILINE)) <= targets
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert (
        set(re.findall(r"kubectl[ -]preheat ([a-z]+)", text.replace("`kubectl preheat` ", "")))
        <= commands.choices.keys()
    )
    for module in set(re.findall(r"python -m ((?:e2e|tests|preheat)[a-z0-9_.]*)", text)):
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("page", PAGES)
def test_paths_from_the_root_that_pages_name_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:charts|crds|docs|e2e|examples|operator|runtime|tests)/[\w./-]+)(?:::(\w+))?`", prose(page)
    )
    for path, test in named:
        if "VERSION" in path:
            continue
        there = page.parent / path if (page.parent / path).exists() else ROOT / path
        assert there.exists(), path
        assert not test or f"def {test}(" in there.read_text(), f"{path}::{test}"


FAILURES = DOCS / "failure-modes.md"
REASONS = "All reasons"


def words(text: str) -> set[str]:
    """Return every CamelCase word in backticks."""
    return set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", text))


def test_every_reason_is_listed() -> None:
    listed = words(section(FAILURES, REASONS))
    assert [r.value for r in Reason if r.value not in listed] == []
    assert [r.value for r in ScalingReason if r.value not in listed] == []
    assert [p.value for p in Phase if p.value not in listed] == []


def test_no_reason_is_listed_that_nobody_gives() -> None:
    known = {*Reason, *ScalingReason, *Phase, *ConditionType, *READ}
    of_nodes = {"WaitsForNeighbour", "JobLeaving", "WarmerFailed"}
    of_numbers = {"Beginning", "Bounds"}
    assert words(section(FAILURES, REASONS)) - known - of_nodes - of_numbers == set()
    code = "".join(path.read_text() for path in (ROOT / "operator/preheat").rglob("*.py"))
    assert [r.name for r in Reason if not re.search(rf"\bReason\.{r.name}\b", code)] == []
    assert [word for word in of_nodes | of_numbers if f'"{word}"' not in code] == []


def test_who_is_stalled_is_listed() -> None:
    text = (
        section(FAILURES, REASONS)
        .split("`Stalled` is True with these reasons:", 1)[1]
        .split("What waits", 1)[0]
    )
    both, own = text.split("; of an LLMDeployment also")
    by_refusal = {Reason.INVALID_SPEC, Reason.OPERATOR_ERROR}
    assert words(both) == caching.STUCK | by_refusal
    assert words(both) | words(own) - {"LLMDeployment"} == telling.STUCK | by_refusal


def test_every_condition_is_in_the_guide() -> None:
    table = section(DOCS / "api.md", "What it says")
    assert {w for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for w in words(row)} == set(
        ConditionType
    )


def test_every_gpu_type_is_in_the_guide_with_its_labels() -> None:
    rows = re.findall(
        r"^\| `(nvidia-[a-z0-9-]+)` \| (.+?) \| (.+?) \|$", (DOCS / "api.md").read_text(), re.MULTILINE
    )
    told = {name: (tuple(re.findall("`(.+?)`", a)), tuple(re.findall("`(.+?)`", b))) for name, a, b in rows}
    assert told == {t.value: (m.products, m.accelerators) for t, m in GPU_MODELS.items()}


def test_every_setting_of_the_operator_is_in_its_table() -> None:
    table = section(ROOT / "operator/README.md", "Settings")
    assert [n for n in OperatorConfig.__dataclass_fields__ if f"`PREHEAT_{n.upper()}`" not in table] == []


def leaves(values: dict[str, Any], above: str = "") -> list[str]:
    """Return the names of a chart's values. What Kubernetes reads is one value, whatever is in it."""
    found = []
    for key, value in values.items():
        whole = not isinstance(value, dict) or not value or key == "resources"
        found += [above + key] if whole else leaves(value, f"{above}{key}.")
    return found


def test_every_value_of_the_chart_is_in_its_table_and_no_other() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "charts/preheat/README.md").read_text(), re.MULTILINE)
    told = [name for row in rows for name in re.findall("`(.+?)`", row)]
    assert sorted(told) == sorted(leaves(yaml.safe_load((ROOT / "charts/preheat/values.yaml").read_text())))
