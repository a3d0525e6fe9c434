"""Which changes of a CustomResourceDefinition could break somebody who uses the last release.

Stored objects must stay valid, what people apply must stay accepted and mean the same, and the last release's
operator must still be able to write its status. Wider is fine; narrower, gone or other is not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

NAMES = ("kind", "plural", "listKind", "singular")
SHORT = ("shortNames", "categories")
LOWER_BOUNDS = ("minimum", "minLength", "minItems", "minProperties")
UPPER_BOUNDS = ("maximum", "maxLength", "maxItems", "maxProperties")
FIXED = (
    "type", "format", "default", "pattern", "nullable", "multipleOf", "uniqueItems", "exclusiveMinimum",
    "exclusiveMaximum", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
    "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource",
)  # fmt: skip
MAY_GO = frozenset({"pattern", "multipleOf", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum"})
"""Of those: what only ever forbids, so that leaving it out forbids less."""
KNOWN = {
    *FIXED, *LOWER_BOUNDS, *UPPER_BOUNDS, "description", "enum", "required", "properties", "items",
    "additionalProperties", "x-kubernetes-validations",
}  # fmt: skip


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return what could break, one sentence each, from one release's definition to the next one."""
    name = new["metadata"]["name"]
    found = [*_definition(old["spec"], new["spec"])]
    versions = {version["name"]: version for version in new["spec"]["versions"]}
    for before in old["spec"]["versions"]:
        after = versions.get(before["name"])
        if after is None or (before["served"] and not after["served"]):
            found.append(f"version {before['name']} is not served any more")
            continue
        if before["storage"] and not after["storage"]:
            found.append(f"version {before['name']} is not stored any more: stored objects must be migrated")
        found += _subresources(before, after)
        schemas = (version["schema"]["openAPIV3Schema"] for version in (before, after))
        found += (f"{before['name']} {change}" for change in _node(*schemas, ""))
    return [f"{name}: {change}" for change in found]


def _definition(old: Schema, new: Schema) -> Iterator[str]:
    for key in ("group", "scope"):
        if old[key] != new[key]:
            yield f"{key} changed from {old[key]} to {new[key]}"
    for key in NAMES:
        if old["names"].get(key) != new["names"].get(key):
            yield f"names.{key} changed from {old['names'].get(key)} to {new['names'].get(key)}"
    for key in SHORT:
        for gone in sorted(set(old["names"].get(key, ())) - set(new["names"].get(key, ()))):
            yield f"names.{key}: {gone} removed"


def _subresources(old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("subresources", {}), new.get("subresources", {})
    for key in sorted(before):
        if before[key] != after.get(key):
            yield f"subresource {key} changed from {before[key]} to {after.get(key, 'none')}"
    paths = [{field["jsonPath"] for field in version.get("selectableFields", ())} for version in (old, new)]
    for gone in sorted(paths[0] - paths[1]):
        yield f"selectable field {gone} removed"


def _node(old: Schema, new: Schema, path: str) -> Iterator[str]:
    """Compare two schemas of the same place."""
    here = path or "the object"
    for key in sorted(set(new) - KNOWN):
        yield f"{here}: {key} is a keyword that this check does not know"
    yield from _keywords(old, new, here)
    yield from _bounds(old, new, here)
    if "enum" in new and new["enum"] != old.get("enum"):
        gone = [value for value in old.get("enum", ("any other value",)) if value not in new["enum"]]
        yield from (f"{here}: enum does not allow {value} any more" for value in gone)
    for field in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{_join(path, field)}: is required now"
    rules = {rule["rule"] for rule in old.get("x-kubernetes-validations", ())}
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in rules:
            yield f"{here}: new rule {' '.join(rule['rule'].split())}"
    for field, before in old.get("properties", {}).items():
        if field not in new.get("properties", {}):
            yield f"{_join(path, field)}: removed"
        else:
            yield from _node(before, new["properties"][field], _join(path, field))
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if key in old or key in new:
            yield from _nested(old.get(key), new.get(key), f"{path}{suffix}")


def _nested(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _node(old, new, path)
    elif old != new:
        yield f"{path}: changed from {_say(old)} to {_say(new)}"


def _keywords(old: Schema, new: Schema, here: str) -> Iterator[str]:
    for key in FIXED:
        before, after = old.get(key), new.get(key)
        if before != after and not (after is None and key in MAY_GO):
            yield f"{here}: {key} changed from {_say(before)} to {_say(after)}"


def _bounds(old: Schema, new: Schema, here: str) -> Iterator[str]:
    for key in LOWER_BOUNDS:
        if key in new and (key not in old or new[key] > old[key]):
            yield f"{here}: {key} raised from {_say(old.get(key))} to {new[key]}"
    for key in UPPER_BOUNDS:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{here}: {key} lowered from {_say(old.get(key))} to {new[key]}"


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _say(value: Any) -> str:
    return "none" if value is None else str(value)
