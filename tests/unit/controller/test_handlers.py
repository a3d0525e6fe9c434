"""Watching begins anew whatever becomes of kopf, and what is left of it is not listened to any more."""

import asyncio
import logging
import threading
from typing import Any

import kopf
import pytest
from kopf._cogs.clients import watching
from preheat import handlers


@pytest.fixture
def released() -> Any:
    made = threading.Event()
    yield made
    made.set()


async def test_a_watch_that_fails_ends_a_kopf_that_hangs(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    """A watch has failed, and the others wait for a login that nobody makes."""

    async def hangs(**_: Any) -> None:
        logging.getLogger("kopf._cogs.aiokits").error("Watcher for pods.v1@none has failed: 409")
        while not released.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    monkeypatch.setattr(kopf, "operator", hangs)
    words = await asyncio.wait_for(handlers._Watching(lambda *_: None, lambda: None).until_it_ends(), 10)
    assert words == "Watcher for pods.v1@none has failed: 409"


async def test_after_its_end_nothing_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    watching = handlers._Watching(lambda event, _body: seen.append(event), lambda: None)

    async def ends(**_: Any) -> None:
        watching._pass_on("ADDED", {})
        logging.getLogger("kopf").error("Watcher for pods.v1@none has failed: 500")
        await asyncio.sleep(0)

    monkeypatch.setattr(kopf, "operator", ends)
    await asyncio.wait_for(watching.until_it_ends(), 10)
    watching._pass_on("MODIFIED", {})
    await asyncio.sleep(0.05)
    assert seen == ["ADDED"]


async def test_words_of_others_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kopf, in another thread, has a trouble of its own."""

    async def works(**_: Any) -> None:
        def elsewhere() -> None:
            logging.getLogger("kopf").error("Watcher for nodes.v1@none has failed: 500")

        await asyncio.to_thread(elsewhere)
        raise ConnectionError("the API server is gone")

    monkeypatch.setattr(kopf, "operator", works)
    words = await asyncio.wait_for(handlers._Watching(lambda *_: None, lambda: None).until_it_ends(), 10)
    assert words == "ConnectionError: the API server is gone"


async def test_a_watch_that_begins_anew_of_a_kind_of_which_nothing_is_left_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kopf's own stream, with an answer of 410: it lists anew, and there is nothing to tell of."""
    missed: list[int] = []
    listed: list[int] = []

    async def lists(**_: Any) -> Any:
        listed.append(1)
        yield [], "5"

    async def is_gone(**_: Any) -> Any:
        yield {"type": "ERROR", "object": {"code": 410}}

    async def streams(**_: Any) -> None:
        async for _event in watching.continuous_watch(
            settings=kopf.OperatorSettings(),
            resource=kopf.Resource("preheat.dev", "v1alpha1", "modelcaches"),
            namespace=None,
            operator_pause_waiter=asyncio.get_running_loop().create_future(),
        ):
            pass
        raise ConnectionError("enough")

    monkeypatch.setattr(watching.fetching, "fetch_objs", lists)
    monkeypatch.setattr(watching, "watch_objs", is_gone)
    monkeypatch.setattr(kopf, "operator", streams)
    said = handlers._Watching(lambda *_: None, lambda: missed.append(1))
    assert await asyncio.wait_for(said.until_it_ends(), 10) == "ConnectionError: enough"
    await asyncio.sleep(0)
    assert (listed, missed) == ([1], [1])
    assert not [
        record
        for record in caplog.records
        if record.levelno == logging.DEBUG and "watch-stream" in record.msg
    ]


async def test_events_are_passed_on_in_order_and_one_that_fails_keeps_no_other_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    is_last = asyncio.Event()

    def takes(_event: str | None, body: dict[str, Any]) -> None:
        if body["number"] == 500:
            raise ValueError("of all events, this one")
        seen.append(body["number"])
        if body["number"] == 999:
            is_last.set()

    watching = handlers._Watching(takes, lambda: None)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))

    async def works(**_: Any) -> None:
        for number in range(1000):
            watching._pass_on("ADDED", {"number": number})
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    monkeypatch.setattr(kopf, "operator", works)
    task = asyncio.create_task(watching.until_it_ends())
    await asyncio.wait_for(is_last.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [number for number in range(1000) if number != 500]
    assert len(told) == 1
