"""Which of the objects we want differ from what is there: a write that changes nothing is not made."""

from typing import Any

from preheat.decide.observed import Body, is_controlled_by
from preheat.errors import NotOwned, Unavailable
from preheat.resources.metadata import Manifest
from preheat.resources.names import digest


def is_ours(desired: Manifest, live: Body) -> bool:
    """Tell whether a live object is the one that a manifest means: same owner, or no owner at all in both."""
    owners = desired["metadata"].get("ownerReferences")
    if not owners:
        labels = live["metadata"].get("labels") or {}
        return all(labels.get(k) == v for k, v in desired["metadata"].get("labels", {}).items())
    return is_controlled_by(live, owners[0]["uid"])


def check_owner(desired: Manifest, live: Body) -> None:
    """Refuse to write over an object of somebody else. Raises NotOwned, naming it.

    Raises Unavailable while what an object of the same name left behind is on its way out.
    """
    if is_ours(desired, live):
        return
    metadata = desired["metadata"]
    if _is_of_a_namesake(desired, live):
        raise Unavailable(
            f"{desired['kind']} {metadata['name']} is of an object of the same name that was deleted; "
            "waiting until it is gone"
        )
    where = f" in namespace {metadata['namespace']}" if "namespace" in metadata else ""
    raise NotOwned(
        f"{desired['kind']} {metadata['name']}{where} exists and belongs to somebody else. "
        "Rename or delete it, or choose another name."
    )


def _is_of_a_namesake(desired: Manifest, live: Body) -> bool:
    """Tell whether the live object's owner had the same kind and name: it was deleted and made again."""
    mine = (desired["metadata"].get("ownerReferences") or [{}])[0]
    theirs = live["metadata"].get("ownerReferences") or ()
    return any(
        other.get("controller")
        and (other.get("kind"), other.get("name")) == (mine.get("kind"), mine.get("name"))
        for other in theirs
    )


def differs(desired: Any, live: Any) -> bool:
    """Tell whether a live value lacks anything of the desired one. More in the live one is others' business.

    Lists must have the same length: an item more is a change.
    """
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return bool(desired) or live is not None
        return any(differs(value, live.get(key)) for key, value in desired.items())
    if isinstance(desired, list):
        if not isinstance(live, list):
            return bool(desired) or live is not None
        return len(desired) != len(live) or any(map(differs, desired, live))
    return bool(desired != live)


def projection(desired: Any, live: Any) -> Any:
    """Return the part of a live value that the desired one speaks of."""
    if isinstance(desired, dict) and isinstance(live, dict):
        return {key: projection(value, live.get(key)) for key, value in desired.items()}
    if isinstance(desired, list) and isinstance(live, list):
        pairs = list(map(projection, desired, live))
        return [*pairs, len(live)]
    return live


def fingerprint(desired: Manifest, live: Body) -> str:
    """Return a hash of what we want and what is there of it.

    The API server may store a value in another spelling ("1024Mi" becomes "1Gi"): such an object differs
    for ever. After an apply its fingerprint is remembered, and while it stays the same nothing is written.
    """
    return digest([desired, projection(desired, live)], 32)
