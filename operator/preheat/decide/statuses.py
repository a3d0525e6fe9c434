"""What is ours in a status, and what somebody else wrote into it.

Statuses are written by the operator alone. Anybody with the right may still write one by hand: what we say is
put back by the next write, what we do not say would stay for ever, so it is removed. Conditions of types that
are not ours are left alone, as long as there is room for ours.
"""

from collections.abc import Mapping
from typing import Any

from preheat.api.conditions import ConditionType

_NAMED_BY = {
    "avoidedNodes": "name",
    "children": "name",
    "conditions": "type",
    "gpuTypes": "type",
    "nodes": "name",
    "quarantined": "name",
}
"""The lists in our statuses whose items have owners of their own, and what names an item. Others are written whole."""
_OURS = frozenset(ConditionType)


def own_part(status: Any) -> dict[str, Any]:
    """Return what a status says without the conditions of others, in one order."""
    if not isinstance(status, Mapping):
        return {}
    result = dict(status)
    for field, name in _NAMED_BY.items():
        if isinstance(result.get(field), list):
            result[field] = sorted(result[field], key=lambda item: str(item.get(name)))
    if "conditions" in result:
        result["conditions"] = [c for c in result["conditions"] or () if c.get("type") in _OURS]
    return result


def foreign_fields(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Return JSON pointers to what a live status has beyond the wanted one, the last first."""
    return _fields(wanted, live, "/status")


def _fields(wanted: Mapping[str, Any], live: Mapping[str, Any], path: str) -> list[str]:
    found: list[str] = []
    for field in sorted(live, reverse=True):
        here, mine, theirs = f"{path}/{field}", wanted.get(field), live[field]
        if field not in wanted:
            found.append(here)
        elif isinstance(mine, dict) and isinstance(theirs, dict):
            found += _fields(mine, theirs, here)
        elif isinstance(mine, list) and isinstance(theirs, list) and field in _NAMED_BY:
            found += _items(field, mine, theirs, here)
    return found


def _items(field: str, mine: list[Any], theirs: list[Any], path: str) -> list[str]:
    name = _NAMED_BY[field]
    by_name = {item[name]: item for item in mine}
    found: list[str] = []
    for number, item in reversed(list(enumerate(theirs))):
        here = f"{path}/{number}"
        if item.get(name) in by_name:
            found += _fields(by_name[item[name]], item, here)
        elif field != "conditions" or item.get(name) in _OURS:
            found.append(here)
    return found
