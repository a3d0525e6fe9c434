"""Watching begins anew whatever becomes of kopf, and what is left of it is not listened to any more."""

import asyncio
import logging
import threading
from typing import Any

import kopf
import pytest
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
    words = await asyncio.wait_for(handlers._Watching(lambda *_: None).until_it_ends(), 10)
    assert words == "Watcher for pods.v1@none has failed: 409"


async def test_after_its_end_nothing_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    watching = handlers._Watching(lambda event, _body: seen.append(event))

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
    words = await asyncio.wait_for(handlers._Watching(lambda *_: None).until_it_ends(), 10)
    assert words == "ConnectionError: the API server is gone"
