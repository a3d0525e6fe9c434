"""Full lists into the view."""

import asyncio
from typing import Any, cast

from preheat.controller.lists import Lists
from preheat.controller.view import View

from tests.fakes import FakeKube

BODY = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "ns", "uid": "a"}}


class SlowKube(FakeKube):
    """Answers when it is told to, with what was there when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[asyncio.Event] = []

    async def list_all(self, kind: str) -> list[dict[str, Any]]:
        found = await super().list_all(kind)
        self.answers.append(asyncio.Event())
        await self.answers[-1].wait()
        return found


async def test_an_older_list_brings_back_nothing_that_was_deleted() -> None:
    kube, view = SlowKube(), View()
    live = kube.put(BODY)
    view.put(live)
    lists = Lists(cast("Any", kube), view, lambda: 0.0)
    reads = [asyncio.create_task(lists.read("Service")) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    view.remove(live)
    kube.remove("Service", "ns", "a")
    while not all(read.done() for read in reads):
        for answer in reversed(kube.answers):
            answer.set()
            await asyncio.sleep(0)
    assert view.keys("Service") == frozenset()
