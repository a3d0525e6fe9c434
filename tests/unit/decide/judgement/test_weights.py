"""What warmers tell against a revision, and what says nothing of it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from preheat.api.conditions import Reason
from preheat.api.gpu import GPUType
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.decide.ahead import Ahead
from preheat.decide.judgement.judge import judge
from preheat.decide.judgement.weights import OF_THE_REVISION, refusal_of
from preheat.decide.wish import ServiceObservation, make_wish
from preheat.resources.names import cache_name
from preheat.resources.serving import cache_source, cache_storage, render_revision

from tests.builders import a_cache, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def gave_up(name: str = "n1", word: str = "NotFound", times: int = 1, **changed: Any) -> dict[str, Any]:
    """A node whose warmer's Job has just failed."""
    last = {"reason": word, "time": f"2026-01-01T00:00:0{times}Z", "times": times}
    told = {"name": name, "state": "Failed", "percent": 0, "reason": word, "message": f"{name} says why"}
    return {**told, "lastFailure": last, **changed}


def a_node(name: str, state: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "percent": 0, **changed}


def of(*nodes: dict[str, Any], **status: Any) -> ModelCache:
    return a_cache(status={"observedGeneration": 1, "readyNodes": 0, "nodes": list(nodes), **status})


@pytest.mark.parametrize("reason", sorted(OF_THE_REVISION))
def test_two_nodes_that_gave_up_for_a_reason_of_the_weights(reason: str) -> None:
    found = refusal_of(of(gave_up("n1", reason), gave_up("n2", reason)))
    assert found is not None
    assert (found.node, found.reason, found.attempts) == ("n2", reason, 2)
    assert found.words.endswith(f"n2: {reason}: n2 says why.")
    assert "gave up 2 times on 2 of 2 nodes" in found.words


AGAINST: dict[str, list[dict[str, Any]]] = {
    "one node that is asked twice": [gave_up(times=2)],
    "one that left no last words the second time": [gave_up(times=2, reason="WarmerFailed", lastFailure={"reason": "NotFound", "time": "t", "times": 2})],
    "two, and one is at it again": [gave_up("n1"), gave_up("n2", state="Fetching", reason=None)],
    "two, and one waits for its turn": [gave_up("n1"), gave_up("n2", state="Pending", reason="WaitsForNeighbour")],
    "two, and a third was never heard": [gave_up("n1"), gave_up("n2"), a_node("n3", "Pending")],
    "for different reasons of the weights": [gave_up("n1", "DigestMismatch"), gave_up("n2", "NotFound")],
}  # fmt: skip


@pytest.mark.parametrize("name", AGAINST)
def test_it_is_enough(name: str) -> None:
    assert refusal_of(of(*AGAINST[name])) is not None


NOTHING: dict[str, list[dict[str, Any]]] = {
    "nobody is asked": [],
    "one node, once": [gave_up()],
    "one of two nodes, once": [gave_up("n1"), a_node("n2", "Pending")],
    "one of two nodes, again and again": [gave_up("n1", times=9), a_node("n2", "Pending")],
    "all are at it again": [gave_up("n1", state="Fetching", reason=None), gave_up("n2", state="Listing", reason=None)],
    "another has the weights": [gave_up("n1", times=3), gave_up("n2"), a_node("n3", "Ready", percent=100)],
    "the network": [gave_up("n1", "SourceUnavailable", 3), gave_up("n2", "SourceUnavailable", 3)],
    "the network, the last time": [gave_up("n1", times=3), gave_up("n2", state="Pending", reason="SourceUnavailable")],
    "the network, at one of them": [gave_up("n1"), gave_up("n2"), gave_up("n3", "SourceUnavailable")],
    "it was the network, and is tried again": [gave_up("n1"), gave_up("n2"), gave_up("n3", "SourceUnavailable", state="Fetching", reason=None)],
    "credentials": [gave_up("n1", "Unauthorized", 3), gave_up("n2", "Unauthorized", 3)],
    "a Secret that is missing at one": [gave_up("n1"), gave_up("n2"), a_node("n3", "Pending", reason="ReferenceMissing", message="x")],
    "a full disk": [gave_up("n1"), gave_up("n2"), gave_up("n3", "DiskFull")],
    "no room": [gave_up("n1"), gave_up("n2"), a_node("n3", "Pending", reason="OverBudget", message="x")],
    "weights that rotted on a disk": [gave_up("n1"), gave_up("n2"), a_node("n3", "Pending", reason="WeightsCorrupt")],
    "no last words at all": [a_node("n1", "Failed", reason="WarmerFailed"), a_node("n2", "Failed", reason="WarmerFailed")],
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_it_says_nothing(name: str) -> None:
    assert refusal_of(of(*NOTHING[name])) is None


def test_what_is_told_of_an_older_spec_or_beside_a_ready_node_is_nothing() -> None:
    assert refusal_of(of(gave_up("n1"), gave_up("n2"))) is not None
    assert refusal_of(of(gave_up("n1"), gave_up("n2"), observedGeneration=0)) is None
    assert refusal_of(of(gave_up("n1"), gave_up("n2"), observedGeneration=None)) is None
    assert refusal_of(of(gave_up("n1"), gave_up("n2"), readyNodes=1)) is None


def test_who_has_no_revision_to_write_it_on_yet_gets_no_verdict() -> None:
    """While nobody knows which image a tag is there is no ControllerRevision of it: a pass must not wait for one."""
    cache = {"mode": "Image"}
    new, old = (
        a_service(model={"uri": "oci://r/m:2"}, cache=cache),
        a_service(model={"uri": "oci://r/m:1"}, cache=cache),
    )
    name = cache_name(new.name, cache_source(new), cache_storage(new))
    nodes = [gave_up("Registry", times=3)]
    spec = {"source": cache_source(new), "storage": cache_storage(new)}
    lost = a_cache(name, {"observedGeneration": 1, "readyNodes": 0, "nodes": nodes}, **spec)
    seen = ServiceObservation([], [], [], [lost], [])
    back = render_revision(old, GPUType("nvidia-l4"), 1, "weights", OperatorConfig(), "sha256:" + "0" * 64)
    wish = make_wish(new, seen, [back], OperatorConfig(), NOW)
    assert wish.cache == name
    assert judge(new, seen, [back], back, wish, NOW, Ahead()) is None
    mine = render_revision(new, GPUType("nvidia-l4"), 2, name, OperatorConfig(), "sha256:" + "1" * 64)
    found = judge(new, seen, [back, mine], back, wish, NOW, Ahead())
    assert found is not None
    assert (found.reason, found.back_to) == (Reason.WEIGHTS_FAILED, back.id)


def test_a_cache_that_holds_other_weights_by_now_tells_nothing() -> None:
    """A person made it ahead of time, and has changed its source since a revision was pinned to it."""
    new, old = a_service(model={"uri": "http://store/new/"}), a_service()
    nodes = [gave_up("n1"), gave_up("n2")]
    back = render_revision(old, GPUType("nvidia-l4"), 1, "weights", OperatorConfig())
    mine = render_revision(new, GPUType("nvidia-l4"), 2, "ahead", OperatorConfig())
    for source, want in (("new", True), ("newer", False)):
        status = {"observedGeneration": 1, "readyNodes": 0, "nodes": nodes}
        ahead = a_cache("ahead", status, source={"uri": f"http://store/{source}/", "format": "GGUF"})
        seen = ServiceObservation([], [], [], [ahead], [])
        wish = make_wish(new, seen, [back, mine], OperatorConfig(), NOW)
        assert wish.cache == "ahead"
        assert (judge(new, seen, [back, mine], back, wish, NOW, Ahead()) is not None) is want
