"""Nothing is silently pruned: every field of both kinds is applied to a real API server and read back."""

import json
from typing import Any

from tests.every_field import TABLES, Field, OnlyValue, body_of, spec_of, value_at
from tests.integration.conftest import API

SINGLE = {
    "spec.cache.mode": {"cache": {"mode": "Node"}},
    "spec.runtime.engine": {"runtime": {"engine": "Triton"}},
}
"""Fields with one value: how they are set."""


def test_every_field_is_kept_as_it_was_set(api: API) -> None:
    wanted = {f"{kind.lower()[:3]}-{number}": (kind, path, _spec(kind, path, given))
              for kind, table in TABLES.items()
              for number, (path, given) in enumerate(table.items())}  # fmt: skip
    bodies = [body_of(kind, name, spec) for name, (kind, _, spec) in wanted.items()]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
    # Unknown fields are let through: the API server would prune them without a word.
    api.kubectl("create", "--validate=ignore", "-f", "-", stdin=text)
    try:
        found = json.loads(api.kubectl("get", "llmd,mc", "-o", "json"))["items"]
        stored = {body["metadata"]["name"]: body["spec"] for body in found}
        for name, (kind, path, spec) in wanted.items():
            assert value_at(spec, path) is not None, path
            assert value_at(stored[name], path) == value_at(spec, path), f"{kind} {path}"
            assert _lost(spec, stored[name]) == [], f"{kind} {path}"
    finally:
        api.kubectl("delete", "llmd,mc", "--all", "--wait=true")


def test_what_no_schema_knows_would_be_found(api: API) -> None:
    spec = {"source": {"uri": "http://store/m/", "pruned": "x"}}
    text = json.dumps(body_of("ModelCache", "pruned", spec))
    api.kubectl("create", "--validate=ignore", "-f", "-", stdin=text)
    try:
        body = api.get("mc", "pruned")
        assert body is not None
        assert _lost(spec, body["spec"]) == [".source.pruned"]
    finally:
        api.kubectl("delete", "mc", "pruned")


def _spec(kind: str, path: str, given: Field | OnlyValue) -> dict[str, Any]:
    if isinstance(given, OnlyValue):
        given = Field(SINGLE[path], lambda _: None, None)
    return spec_of(kind, given, changed=True)


def _lost(sent: Any, kept: Any, path: str = "") -> list[str]:
    """Return what was sent and is not kept."""
    if isinstance(sent, dict):
        if not isinstance(kept, dict):
            return [path]
        return [lost for key, value in sent.items() for lost in _lost(value, kept.get(key), f"{path}.{key}")]
    if isinstance(sent, list):
        if not isinstance(kept, list) or len(kept) != len(sent):
            return [path]
        return [
            lost
            for i, pair in enumerate(zip(sent, kept, strict=True))
            for lost in _lost(*pair, f"{path}[{i}]")
        ]
    return [] if sent == kept else [path]
