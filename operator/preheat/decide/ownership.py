"""Whose an object is: ours, an orphan that we may adopt, what a namesake left behind, or a stranger's."""

from preheat.api.constants import (
    ANNOTATION_APPLIED,
    FIELD_MANAGER,
    LABEL_CACHE,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
)
from preheat.decide.changes import difference
from preheat.decide.observed import Body, is_controlled_by
from preheat.decide.plan import Adopt
from preheat.errors import NotOwned, Unavailable
from preheat.resources.metadata import Manifest

_VOLUMES = frozenset({"PersistentVolume", "PersistentVolumeClaim"})


def is_ours(desired: Manifest, live: Body) -> bool:
    """Tell whether a live object is the one that a manifest means: same owner, or no owner at all in both.

    What is to have no owner is known by its labels, or, where somebody changed those, by what we wrote on it. Volumes and
    claims are made once and never applied again, so nobody would put their labels back: they count as a stranger's then.
    """
    owners = desired["metadata"].get("ownerReferences")
    if not owners:
        labels = live["metadata"].get("labels") or {}
        alike = all(labels.get(k) == v for k, v in desired["metadata"].get("labels", {}).items())
        relabelled = (
            live["kind"] not in _VOLUMES and _is_left_to_itself(live) and _same_parents(desired, live)
        )
        return (alike or relabelled) and _volume(live) == _volume(desired)
    return is_controlled_by(live, owners[0]["uid"])


def _volume(body: Body) -> str | None:
    """Return which volume a claim is for: anybody may give a claim of theirs our name and labels."""
    if body["kind"] != "PersistentVolumeClaim":
        return None
    name: str | None = (body.get("spec") or {}).get("volumeName")
    return name


def adoption(desired: Manifest, live: Body) -> Adopt | None:
    """Return the write that makes a live object ours, None when it is ours already.

    Raises NotOwned, naming it, for an object of somebody else: it is never written over. Raises Unavailable
    while what an object of the same name left behind is on its way out.
    """
    if is_ours(desired, live):
        return None
    owners = desired["metadata"].get("ownerReferences")
    if owners and is_orphan(live) and _same_parents(desired, live):
        return Adopt(dict(live), owners[0])
    metadata = desired["metadata"]
    if "deletionTimestamp" in live["metadata"] and _is_marked(live):
        raise Unavailable(f"{desired['kind']} {metadata['name']} is being deleted; waiting until it is gone")
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


def is_orphan(live: Body) -> bool:
    """Tell whether we made an object and its owner left it behind (``kubectl delete --cascade=orphan``).

    It has no controller, but our label, the hash of our own wish, and fields that we wrote.
    """
    return _is_marked(live) and _is_left_to_itself(live)


def _is_left_to_itself(live: Body) -> bool:
    """Tell whether an object that we wrote has no controller, and stays. Who copies one copies no managedFields."""
    metadata = live["metadata"]
    return (
        "deletionTimestamp" not in metadata
        and not any(reference.get("controller") for reference in metadata.get("ownerReferences") or ())
        and ANNOTATION_APPLIED in (metadata.get("annotations") or {})
        and any(entry.get("manager") == FIELD_MANAGER for entry in metadata.get("managedFields") or ())
    )


def _is_marked(live: Body) -> bool:
    return (live["metadata"].get("labels") or {}).get(LABEL_MANAGED_BY) == MANAGED_BY


def _same_parents(desired: Manifest, live: Body) -> bool:
    mine, theirs = desired["metadata"].get("labels") or {}, live["metadata"].get("labels") or {}
    return all(mine.get(key) == theirs.get(key) for key in (LABEL_DEPLOYMENT, LABEL_CACHE))


def is_drift(desired: Manifest, live: Body) -> bool:
    """Tell whether what differs is somebody else's doing: what we applied last is what we want now."""
    mine, theirs = desired["metadata"].get("annotations") or {}, live["metadata"].get("annotations") or {}
    return ANNOTATION_APPLIED in mine and mine[ANNOTATION_APPLIED] == theirs.get(ANNOTATION_APPLIED)


def words_of_drift(desired: Manifest, live: Body) -> str:
    """Say what somebody changed, and who: the last one to write who is not us."""
    paths = list(difference(desired, live))
    others = [
        (str(entry.get("time", "")), str(entry.get("manager", "")))
        for entry in live["metadata"].get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER and entry.get("subresource") != "status"
    ]
    who = max(others)[1] if others else "somebody else"
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{who} changes {', '.join(paths[:3])}{more} of {live['kind']} {live['metadata']['name']}"
