"""What lies on a node's disk, as Jobs tell: only warmers bring weights there."""

from datetime import UTC, datetime
from typing import Any

import pytest
from preheat.config import OperatorConfig
from preheat.controller.disks import entries, held_on
from preheat.controller.view import View
from preheat.decide.observed import JobState, NodeView

from tests.builders import a_cache


def a_view(component: str) -> View:
    """A node, a cache, and a Job of it that has ended well there."""
    view, cache = View(), a_cache()
    owner = {"kind": "ModelCache", "name": cache.name, "uid": cache.uid, "controller": True}
    labels = {"preheat.dev/modelcache": cache.name, "preheat.dev/component": component}
    done = [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    bodies: list[dict[str, Any]] = [
        {"kind": "Node", "metadata": {"name": "n1"}},
        {"kind": "ModelCache", "spec": {"source": {"uri": "http://store/model/"}},
         "metadata": {"name": cache.name, "namespace": "default", "uid": cache.uid, "generation": 1}},
        {"kind": "Job", "status": {"conditions": done},
         "metadata": {"name": "j", "uid": "j", "namespace": "default", "labels": labels, "ownerReferences": [owner],
                      "annotations": {"preheat.dev/node": "n1"}}},
    ]  # fmt: skip
    for version, body in enumerate(bodies, start=1):
        body["metadata"]["resourceVersion"] = str(version)
        view.put(body)
    return view


@pytest.mark.parametrize(("component", "count"), [("warmer", 1), ("seeder", 0)])
def test_only_a_warmer_that_ended_well_makes_a_node_complete(component: str, count: int) -> None:
    """A seeder that was told to end has ended well, too."""
    view = a_view(component)
    held = held_on(view, view.derived(("Node", "", "n1"), NodeView.from_body), OperatorConfig())
    done = [h for h in held if h.warmer is not None and h.warmer.state is JobState.COMPLETE]
    assert len(done) == count


def test_a_cache_whose_spec_cannot_be_read_takes_up_what_its_status_says() -> None:
    """Else all others on its nodes wait for ever until its size is known."""
    view, key = View(), "0123456789abcdef"
    labels = {f"cache.preheat.dev/{key}": "ready"}
    status = {"key": key, "totalBytes": 40, "lastUsedTime": "2026-01-01T00:00:00Z"}
    bodies: list[dict[str, Any]] = [
        {"kind": "Node", "metadata": {"name": "n1", "labels": labels, "resourceVersion": "1"}},
        {
            "kind": "ModelCache",
            "metadata": {"name": "old", "namespace": "default", "uid": "old", "resourceVersion": "2"},
            "spec": {"source": {"uri": "nonsense://"}},
            "status": status,
        },
    ]
    for body in bodies:
        view.put(body)
    node = view.derived(("Node", "", "n1"), NodeView.from_body)
    now = datetime(2026, 2, 1, tzinfo=UTC)
    (entry,) = entries(view, node, held_on(view, node, OperatorConfig()), now)
    assert (entry.name, entry.size_bytes) == ("old", 40)
    assert entry.last_used == datetime(2026, 1, 1, tzinfo=UTC)
