"""What no owner can delete for us goes when its cache is gone, and nothing else does."""

from typing import Any

import pytest
from preheat.config import OperatorConfig
from preheat.decide.orphans import OrphanObservation, decide_orphans
from preheat.decide.plan import RESYNC_SECONDS, Delete
from preheat.resources.caching import cache_key, make_claims, make_volumes, place_of
from preheat.resources.serving import make_network_policy

from tests.builders import a_cache, merged

CACHE = a_cache()
KEY = cache_key(CACHE)
PLACE = place_of(CACHE, {}, OperatorConfig())
VOLUMES = make_volumes(CACHE, PLACE)


def a_volume(number: int = 0, phase: str = "Bound", **metadata: Any) -> dict[str, Any]:
    """One of the volumes of CACHE, as the API server would show it."""
    live = {"metadata": {"uid": f"uid-{number}", **metadata}, "status": {"phase": phase}}
    return merged(VOLUMES[number], live)


def seen(*keys: str, **found: Any) -> OrphanObservation:
    """What is there while these caches are, all of them in CACHE's namespace."""
    here = {CACHE.namespace} if keys else set()
    nothing: dict[str, Any] = {"volumes": [], "claims": [], "policies": [], "service_namespaces": set()}
    return OrphanObservation(keys=set(keys), cache_namespaces=here, **{**nothing, **found})


def deleted(volume: dict[str, Any], *keys: str) -> bool:
    plan = decide_orphans(seen(*keys, volumes=[volume]))
    metadata = volume["metadata"]
    wanted = Delete("PersistentVolume", "", metadata["name"], metadata["uid"])
    assert plan.writes in {(), (wanted,)}
    return bool(plan.writes)


@pytest.mark.parametrize("number", range(3))
def test_volumes_stay_as_long_as_their_cache_and_go_with_it(number: int) -> None:
    assert not deleted(a_volume(number), KEY)
    assert deleted(a_volume(number))


def test_another_cache_of_the_namespace_keeps_what_they_share() -> None:
    assert [deleted(a_volume(number), "another") for number in range(3)] == [False, False, True]


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
    stranger = {
        "kind": "PersistentVolume",
        "metadata": {"name": "preheat-x-serve", "uid": "u", "labels": labels},
    }
    assert not deleted(stranger)


def test_what_a_namespace_shares_goes_with_the_last_who_needs_it() -> None:
    claims = [merged(claim, {"metadata": {"uid": "c"}}) for claim in make_claims(CACHE, PLACE)]
    policy = merged(make_network_policy("default", OperatorConfig()), {"metadata": {"uid": "p"}})
    there = {"claims": claims, "policies": [policy]}
    assert decide_orphans(seen(KEY, **there, service_namespaces={"default"})).writes == ()
    gone = decide_orphans(seen(**there)).writes
    assert [w.name for w in gone if isinstance(w, Delete)] == [
        *(c["metadata"]["name"] for c in claims),
        "preheat-model-pods",
    ]
    assert len(gone) == 4
    leaving = merged(policy, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert decide_orphans(seen(policies=[leaving])).writes == ()


def test_the_claim_of_one_cache_goes_with_it_and_a_strangers_does_not() -> None:
    serve = merged(make_claims(CACHE, PLACE)[2], {"metadata": {"uid": "c"}})
    stranger = merged(serve, {"metadata": {"name": "preheat-data"}})
    (gone,) = decide_orphans(seen("another", claims=[serve, stranger])).writes
    assert isinstance(gone, Delete)
    assert gone.name == serve["metadata"]["name"]


def test_nothing_left_over_is_nothing_done_until_the_next_resync() -> None:
    plan = decide_orphans(seen(KEY, volumes=[a_volume(n) for n in range(3)]))
    assert (plan.writes, plan.status, plan.requeue_after) == ((), None, RESYNC_SECONDS)


def test_a_policy_of_another_name_is_not_ours_to_delete() -> None:
    policy = make_network_policy("ns", OperatorConfig())
    other = merged(policy, {"metadata": {"name": "mine"}})
    writes = decide_orphans(seen(policies=[policy, other])).writes
    assert [write.name for write in writes if isinstance(write, Delete)] == ["preheat-model-pods"]
