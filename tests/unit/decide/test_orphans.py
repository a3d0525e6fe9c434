"""What no owner can delete for us goes when its cache is gone, and nothing else does."""

from typing import Any

import pytest
from preheat.config import OperatorConfig
from preheat.decide.orphans import OrphanObservation, decide_orphans
from preheat.decide.plan import RESYNC_SECONDS, Delete, LabelNode
from preheat.resources.caching import cache_key, make_volumes

from tests.builders import a_cache, a_node, merged

CACHE = a_cache()
KEY = cache_key(CACHE)
VOLUMES = make_volumes(CACHE, OperatorConfig())


def a_volume(number: int = 0, phase: str = "Bound", **metadata: Any) -> dict[str, Any]:
    """One of the volumes of CACHE, as the API server would show it."""
    live = {"metadata": {"uid": f"uid-{number}", **metadata}, "status": {"phase": phase}}
    return merged(VOLUMES[number], live)


def deleted(volume: dict[str, Any], *keys: str) -> bool:
    plan = decide_orphans(OrphanObservation(frozenset(keys), [volume], []))
    metadata = volume["metadata"]
    wanted = Delete("PersistentVolume", "", metadata["name"], metadata["uid"])
    assert plan.writes in {(), (wanted,)}
    return bool(plan.writes)


@pytest.mark.parametrize("number", range(3))
def test_volumes_stay_as_long_as_their_cache_and_go_with_it(number: int) -> None:
    assert not deleted(a_volume(number), KEY)
    assert deleted(a_volume(number))
    assert deleted(a_volume(number), "another")


@pytest.mark.parametrize(
    ("phase", "goes"),
    [("Pending", False), ("Available", False), ("Bound", False), ("Released", True), ("Failed", True)],
)
def test_a_volume_that_can_never_be_bound_again_makes_room_for_a_new_one(phase: str, goes: bool) -> None:
    assert deleted(a_volume(phase=phase), KEY) is goes


def test_a_volume_that_is_on_its_way_out_is_not_deleted_twice() -> None:
    assert not deleted(a_volume(deletionTimestamp="2026-01-01T00:00:00Z"))


@pytest.mark.parametrize("labels", [None, {}, {"app.kubernetes.io/managed-by": "preheat"}])
def test_a_strangers_volume_is_left_alone(labels: dict[str, str] | None) -> None:
    stranger = {"metadata": {"name": "preheat-x-serve", "uid": "u", "labels": labels}}
    assert not deleted(stranger)


def test_labels_of_caches_that_are_gone_are_taken_off_every_node() -> None:
    nodes = [
        a_node("a", caches=frozenset({KEY, "dead", "also-dead"})),
        a_node("b", caches=frozenset({"dead"}), ready=False),
        a_node("c", caches=frozenset({KEY})),
    ]
    plan = decide_orphans(OrphanObservation(frozenset({KEY}), [], nodes))
    assert plan.writes == (
        LabelNode("a", "cache.preheat.dev/also-dead", None),
        LabelNode("a", "cache.preheat.dev/dead", None),
        LabelNode("b", "cache.preheat.dev/dead", None),
    )


def test_nothing_left_over_is_nothing_done_until_the_next_resync() -> None:
    plan = decide_orphans(OrphanObservation(frozenset({KEY}), [a_volume(n) for n in range(3)], [a_node()]))
    assert (plan.writes, plan.status, plan.requeue_after) == ((), None, RESYNC_SECONDS)
