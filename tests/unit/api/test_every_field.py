"""No field is silently ignored: each one of the schema is in a table, and what the table says is seen."""

from typing import Any

import pytest

from tests.every_field import TABLES, Field, OnlyValue, leaves, rendered, spec_of, value_at

CASES = [
    pytest.param(kind, path, given, id=f"{kind}-{path}")
    for kind, table in TABLES.items()
    for path, given in table.items()
]


@pytest.mark.parametrize("kind", TABLES)
def test_the_table_knows_every_field_of_the_schema_and_no_other(kind: str) -> None:
    paths = [path for path, _ in leaves(kind)]
    assert len(paths) > 10
    assert [path for path in paths if path not in TABLES[kind]] == [], (
        "new fields: say in tests/every_field.py where their effect is seen"
    )
    assert [path for path in TABLES[kind] if path not in paths] == [], "fields that are gone"


@pytest.mark.parametrize(("kind", "path", "given"), CASES)
def test_a_field_that_is_set_is_seen(kind: str, path: str, given: Field | OnlyValue) -> None:
    if isinstance(given, OnlyValue):
        schema: dict[str, Any] = dict(leaves(kind))[path]
        assert schema["enum"] == [given.value], f"{path} has a choice now: say where it is seen"
        assert schema["default"] == given.value
        return
    without, spec = spec_of(kind, given, changed=False), spec_of(kind, given, changed=True)
    assert value_at(spec, path) is not None, "the change sets the field"
    assert value_at(spec, path) != value_at(without, path), "to something else"
    assert given.where(rendered(kind, spec)) == given.seen
    assert given.where(rendered(kind, without)) != given.seen, f"{path} makes no difference"


def test_a_field_without_an_effect_would_be_found() -> None:
    ignored = Field({"replicas": 2}, lambda _: "the same", "the same")
    with pytest.raises(AssertionError, match="makes no difference"):
        test_a_field_that_is_set_is_seen("LLMDeployment", "spec.replicas", ignored)
