"""What goes in the middle of a pass over it ends the pass, and is no bug."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from preheat.api.constants import NODE_LABEL_PREFIX, NODE_LABEL_READY
from preheat.config import OperatorConfig
from preheat.controller.reconcile import Reconciler
from preheat.controller.view import View

KEY = ("Node", "", "n1")


class Leaving:
    """The full list that is read before anything is taken away no longer has the node."""

    def __init__(self, view: View) -> None:
        self.asked = 0
        self._view = view

    async def make_sure(self) -> None:
        self.asked += 1
        self._view.replace("Node", [], frozenset({KEY}))


def test_a_node_that_is_gone_when_its_label_is_to_be_taken() -> None:
    view = View()
    labels = {NODE_LABEL_PREFIX + "0" * 16: NODE_LABEL_READY}
    view.put(
        {"kind": "Node", "metadata": {"name": "n1", "uid": "u", "resourceVersion": "1", "labels": labels}}
    )
    lists = Leaving(view)
    anything = cast("Any", SimpleNamespace())
    reconciler = Reconciler(
        view=view,
        lists=cast("Any", lists),
        sidecars=anything,
        complaints=anything,
        scaling=anything,
        front=anything,
        writer=anything,
        config=OperatorConfig(),
        clock=lambda: datetime(2026, 11, 30, tzinfo=UTC),
        turns=anything,
    )
    assert asyncio.run(reconciler.reconcile(KEY)) is None
    assert lists.asked == 1
