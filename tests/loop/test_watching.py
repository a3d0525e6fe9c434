"""kopf ends when a watch tells of an error: our own loop does not, and watching begins anew."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import kopf
import pytest
from preheat import handlers
from preheat.controller.service import Controller
from preheat.controller.telemetry import Metrics
from preheat.controller.view import View
from preheat.errors import Unavailable

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, a_controller, controller, example

DEADLINE_SECONDS = 20.0


class Seer:
    """As much of a controller as watching needs."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.events: list[str | None] = []
        self.came = asyncio.Event()
        self.view = View()
        self.kinds_changed = asyncio.Event()

    def saw(self, event: str | None, body: dict[str, Any]) -> None:
        self.events.append(event)
        self.came.set()

    def missed_something(self) -> None:
        pass


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """Replace kopf by something that ends with an error the first two times, with tasks of its own under way."""
    monkeypatch.setattr(handlers, "BACKOFF_SECONDS", (0.01,))
    passed_on: list[Callable[..., Any]] = []

    async def operator(**arguments: Any) -> None:
        passed_on.append(arguments["registry"].pass_on)
        passed_on[-1](None, {"kind": "Pod"})
        if len(passed_on) < 3:
            raise RuntimeError("Error in the watch-stream: 500")
        await asyncio.Event().wait()

    monkeypatch.setattr(
        handlers, "registry", lambda pass_on, absent: SimpleNamespace(pass_on=pass_on, absent=absent)
    )
    monkeypatch.setattr(kopf, "operator", operator)
    return passed_on


async def test_watching_begins_anew_and_our_tasks_live_on(begins: list[Callable[..., Any]]) -> None:
    seer = Seer()
    bystander = asyncio.create_task(asyncio.Event().wait())
    watching = asyncio.create_task(handlers.watch_forever(cast("Controller", seer)))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(begins) < 3 or len(seer.events) < 3:
            await seer.came.wait()
            seer.came.clear()
    assert seer.metrics.watch_restarts._value.get() == 2
    assert not bystander.done()
    seer.came.clear()
    begins[-1]("MODIFIED", {"kind": "Pod"})
    async with asyncio.timeout(DEADLINE_SECONDS):
        await seer.came.wait()
    assert seer.events[-1] == "MODIFIED"
    watching.cancel()
    bystander.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(watching, bystander, return_exceptions=True)
    assert watching.cancelled()


@pytest.mark.looptime
async def test_an_api_server_that_is_away_at_the_start_is_asked_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kube = FakeKube()
    kube.put(NODE)
    refusals = 3
    list_all = kube.list_all

    async def away(kind: str) -> list[dict[str, Any]]:
        nonlocal refusals
        if kind == "Pod" and refusals:
            refusals -= 1
            raise Unavailable("503")
        return await list_all(kind)

    monkeypatch.setattr(kube, "list_all", away)
    made = a_controller(kube)
    started = asyncio.get_running_loop().time()
    await made.start()
    try:
        assert asyncio.get_running_loop().time() - started == pytest.approx(1 + 2 + 5)
        assert made.view.keys("Node")
    finally:
        await made.stop()


async def test_a_watch_that_is_silent_is_opened_anew_within_half_a_minute() -> None:
    assert handlers.settings().watching.inactivity_timeout == 30


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["a watch of another kind begins anew", "its own does"])
async def test_of_a_kind_of_which_nothing_is_left_the_end_is_found_out(how: str) -> None:
    """A watch that begins anew tells only of what is there: of the last one that went while it was away, nothing."""
    kube = FakeKube()
    node = kube.put(NODE)
    kube.put(example())
    async with controller(kube) as made:
        await asyncio.sleep(30)
        assert made.view.keys("ModelCache")
        for key in [key for key in kube.store if key[0] in {"LLMDeployment", "ModelCache", "Job"}]:
            del kube.store[key]
        if how.startswith("its own"):
            made.missed_something()
        else:
            made.saw(None, node)
        await asyncio.sleep(8)
        assert not made.view.keys("ModelCache")
        assert not made.view.keys("LLMDeployment")
