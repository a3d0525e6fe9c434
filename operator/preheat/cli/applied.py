"""What an object would be if somebody applied a file: as `kubectl apply`, or whoever applied it before, would do it. Pure.

kubectl writes what it applied into an annotation. From that it knows what the file said and says no more: those fields go,
all others are as the file says, and lists are replaced as a whole. What was applied on the server's side belongs to a
manager by name: applied under another name nothing would go, and sets would be joined.
"""

import json
from collections.abc import Mapping
from typing import Any

from preheat.api.constants import FIELD_MANAGER
from preheat.resources.metadata import Manifest

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def merge_patch(live: Manifest, wanted: Manifest) -> Manifest:
    """Return the JSON merge patch (RFC 7386) of a spec that `kubectl apply` would send for an object that is there."""
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED, "")
    try:
        last = json.loads(text)
    except ValueError:
        last = {}
    before = last.get("spec") if isinstance(last, dict) else None
    spec = wanted.get("spec")
    return {"spec": _changed(before, spec) if isinstance(spec, Mapping) else spec}


def manager_of(live: Manifest) -> str | None:
    """Return who applied an object's spec on the server's side, None where it was applied by kubectl's annotation, or by nobody."""
    if LAST_APPLIED in (live["metadata"].get("annotations") or {}):
        return None
    return next(
        (
            str(entry.get("manager"))
            for entry in live["metadata"].get("managedFields") or ()
            if entry.get("operation") == "Apply"
            and not entry.get("subresource")
            and "f:spec" in (entry.get("fieldsV1") or {})
            and entry.get("manager") != FIELD_MANAGER
        ),
        None,
    )


def _changed(before: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is wanted, with None for each field that was wanted before and is no more.

    >>> _changed({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]}, {"b": {"d": 3}, "e": [2]})
    {'b': {'d': 3, 'c': None}, 'e': [2], 'a': None}
    """
    known = before if isinstance(before, Mapping) else {}
    patch = {
        name: _changed(known.get(name), value) if isinstance(value, Mapping) else value
        for name, value in wanted.items()
    }
    return {**patch, **dict.fromkeys(name for name in known if name not in wanted)}
