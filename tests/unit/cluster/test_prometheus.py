"""The door to Prometheus: an answer is read, and whatever else happens holds up nobody."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from preheat.api.constants import PROMETHEUS_LABEL_DEPLOYMENT
from preheat.cluster import prometheus as door
from preheat.cluster.prometheus import ANSWER_LIMIT_BYTES, PAUSES_SECONDS, Prometheus
from preheat.config import OperatorConfig
from preheat.errors import Unavailable

EMPTY = {"status": "success", "data": {"resultType": "matrix", "result": []}}
PODS = {"llama-0": "uid-0"}


def answered(value: Any) -> Any:
    series = {"metric": {"__name__": "preheat_agent_slots", "pod": "llama-0"}, "values": [[1, value]]}
    return {"status": "success", "data": {"resultType": "matrix", "result": [series]}}


class Asked:
    """A Prometheus that answers as it is told, and what came of each question."""

    def __init__(self, answer: Callable[[httpx.Request], Any], **config: str) -> None:
        self.requests: list[httpx.Request] = []
        self.outcomes: list[tuple[str, str]] = []
        self.now = 0.0

        async def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            said = answer(request)
            if isinstance(said, float):
                await asyncio.sleep(said)
                return httpx.Response(200, json=EMPTY)
            return said if isinstance(said, httpx.Response) else httpx.Response(200, json=said)

        http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
        settings = OperatorConfig(prometheus_url="http://prometheus:9090/base/", **config)
        self.client = Prometheus(http, settings, lambda *what: self.outcomes.append(what), lambda: self.now)

    async def recent(self) -> Any:
        return await self.client.recent("default", "llama", PODS)


async def test_a_question_is_posted_for_one_deployment_with_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    asked = Asked(lambda _: EMPTY, prometheus_token_file=str(token), prometheus_labels="cluster=eu")
    assert await asked.recent() == {}
    token.write_text("second")
    assert await asked.client.past("default", "llama", 1e9) == ()
    one, two = asked.requests
    assert (str(one.url), str(two.url)) == (
        "http://prometheus:9090/base/api/v1/query", "http://prometheus:9090/base/api/v1/query_range",
    )  # fmt: skip
    assert [each.headers["authorization"] for each in asked.requests] == ["Bearer first", "Bearer second"]
    query = httpx.QueryParams(one.content.decode())["query"]
    assert all(
        part in query
        for part in ('cluster="eu"', 'namespace="default"', f'{PROMETHEUS_LABEL_DEPLOYMENT}="llama"')
    )
    assert asked.outcomes == [("recent", "empty"), ("past", "empty")]


def redirect(_: httpx.Request) -> httpx.Response:
    return httpx.Response(302, headers={"location": "http://elsewhere/"})


def refuse(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuse, "refused"),
        (redirect, "302"),
        (lambda _: httpx.Response(422, json={"status": "error", "error": "too many samples"}), "too many samples"),
        (lambda _: httpx.Response(401, text="who are you"), "who are you"),
        (lambda _: httpx.Response(200, content=b" " * (ANSWER_LIMIT_BYTES + 1)), "longer than"),
        (lambda _: httpx.Response(200, text="<html>"), "cannot be read"),
        (lambda _: httpx.Response(200, content=b"[" * 100_000), "cannot be read"),
        (lambda _: {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": 1}]}}, "cannot be read"),
        (lambda _: httpx.Response(200, json=answered(10**400)), "cannot be read"),
    ],
    ids=["refused", "redirect", "too much", "no token", "endless", "no JSON", "deep", "another shape", "a number of 400 digits"],
)  # fmt: skip
async def test_whatever_goes_wrong_is_said_once_and_asked_again_later(
    answer: Callable[[httpx.Request], Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked(answer)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert await asked.recent() is None
    assert len(asked.requests) == 1, "nobody asks while it is ill"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert said in caplog.text
    assert asked.outcomes == [("recent", "failed"), *[("recent", "skipped")] * 4]
    for pause in PAUSES_SECONDS:
        asked.now += pause
        assert await asked.recent() is None
    assert len(asked.requests) == 1 + len(PAUSES_SECONDS)
    assert len(caplog.records) == 1
    with pytest.raises(Unavailable):
        await asked.client.past("default", "llama", 1e9)


async def test_one_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "RECENT_SECONDS", 0.05)
    asked = Asked(lambda _: 30.0)
    async with asyncio.timeout(5):
        found = await asyncio.gather(*[asked.recent() for _ in range(20)])
    assert found == [None] * 20
    assert len(asked.requests) <= door.AT_ONCE


async def test_one_that_is_asked_by_many_is_not_taken_for_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "WAIT_SECONDS", 0.05)
    asked = Asked(lambda _: 0.3)
    found = await asyncio.gather(*[asked.recent() for _ in range(20)])
    assert sorted(found, key=str) == [None] * (20 - door.AT_ONCE) + [{}] * door.AT_ONCE
    assert asked.client.pause_seconds == 0


@pytest.mark.parametrize("content", [b"", b"two\nlines", "gehe\u00edm".encode()])
async def test_what_is_no_token_is_in_no_log(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    asked = Asked(lambda _: EMPTY, prometheus_token_file=str(token))
    assert await asked.recent() is None
    assert asked.requests == []
    assert "holds no token" in caplog.text
    assert "lines" not in caplog.text.replace("one line of", "")


async def test_it_is_asked_as_ever_when_it_answers_again() -> None:
    ill = [True]
    asked = Asked(lambda _: httpx.Response(503) if ill[0] else EMPTY)
    assert await asked.recent() is None
    ill[0] = False
    asked.now += PAUSES_SECONDS[0]
    assert await asked.recent() == {}
    assert await asked.recent() == {}
    assert [outcome for _, outcome in asked.outcomes] == ["failed", "empty", "empty"]


def test_without_an_url_there_is_none_and_a_wrong_authority_is_told(tmp_path: Path) -> None:
    assert Prometheus.open(OperatorConfig(), print) is None
    wrong = tmp_path / "ca.crt"
    wrong.write_text(json.dumps({}))
    for path in (wrong, tmp_path / "missing"):
        with pytest.raises(ValueError, match="PREHEAT_PROMETHEUS_CA_FILE"):
            Prometheus.open(OperatorConfig(prometheus_url="https://p", prometheus_ca_file=str(path)), print)
