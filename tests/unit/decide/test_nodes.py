"""A node's labels say which caches it holds complete: no more, no less, and in one write."""

import pytest
from preheat.decide.nodes import NodeObservation, decide_node
from preheat.decide.plan import LabelNode

from tests.builders import a_node

P = "cache.preheat.dev/"


@pytest.mark.parametrize(
    ("labelled", "complete", "caches", "write"),
    [
        ("", "", "", {}),
        ("", "a", "a", {"a": "ready"}),
        ("a", "a", "a", {}),
        ("a", "", "a", {}),
        ("a", "", "", {"a": None}),
        ("a", "a", "", {"a": None}),
        ("", "a", "", {}),
        ("ad", "abc", "abc", {"b": "ready", "c": "ready", "d": None}),
    ],
)
def test_labels(labelled: str, complete: str, caches: str, write: dict[str, str | None]) -> None:
    node = a_node(caches=frozenset(labelled))
    plan = decide_node(NodeObservation(node, frozenset(complete), frozenset(caches)))
    expected = (LabelNode("n1", {P + key: value for key, value in write.items()}),) if write else ()
    assert plan.writes == expected
