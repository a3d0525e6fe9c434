"""The real question: what is sent, how an answer is read, and what it is held against."""

import asyncio
import json
import re
import time
from dataclasses import replace

import pytest
from preheat_agent.canary import (
    MATCH_SECONDS,
    CanaryError,
    Tensor,
    _matches,
    ask,
    infer_text,
    streamed_text,
    wanted_inputs,
)
from preheat_agent.config import Canary, from_environment
from preheat_agent.engine import Counters, Engine
from preheat_agent.ladder import Protocol
from preheat_agent.main import Agent
from preheat_agent.traffic import Page

ENDLESS = [
    ("(a+)+$", "a" * 40 + "b"),
    ("(a|aa)+$", "a" * 60 + "b"),
    (r"(?:a?){60}a{60}", "a" * 60),
    (r"(\w+\s?)*!", "word " * 200),
    (r"(?=(a+)+$)b", "a" * 50 + "c"),
]


@pytest.mark.parametrize(("expression", "answer"), ENDLESS)
def test_an_expression_that_takes_for_ever_is_given_up_and_said_so(expression: str, answer: str) -> None:
    started = time.process_time()
    with pytest.raises(CanaryError, match="takes too long"):
        _matches(re.compile(expression), answer)
    assert time.process_time() - started < 4 * MATCH_SECONDS


def test_an_expression_is_found_or_not() -> None:
    assert _matches(re.compile("Par.s"), "It is Paris.")
    assert not _matches(re.compile("Rome"), "It is Paris.")


CANARY = Canary("Hi", 8, None, 5, 10, 2, "text_input", "text_output")
CONFIG = from_environment({"PREHEAT_AGENT_CONFIG": json.dumps({
    "modelName": "m", "engineHTTP": "http://127.0.0.1:1", "engineGRPC": "127.0.0.1:1", "engineMetrics": "http://x",
    "weightsDirectory": "/tmp", "adminKey": "uid-1", "canary": {"prompt": "Hi"},
})})  # fmt: skip
TAKEN = Page(
    came=5, ended=5, failed=0, waiting=0, running=0, busy_seconds=None, generated_tokens=600, answered=5
)
MODEL = {
    "max_batch_size": 4,
    "input": [
        {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "max_tokens", "data_type": "TYPE_INT32", "dims": [1]},
        {"name": "image", "data_type": "TYPE_FP32", "dims": [3, 8, 8]},
    ],
}


def test_only_what_the_model_declares_is_sent() -> None:
    assert wanted_inputs(MODEL, CANARY) == [
        Tensor("text_input", "BYTES", (1, 1), "Hi"),
        Tensor("max_tokens", "INT32", (1, 1), 8),
    ]
    with pytest.raises(CanaryError, match="has no input 'text_input'; it has prompt"):
        wanted_inputs({"input": [{"name": "prompt", "data_type": "TYPE_STRING"}]}, CANARY)


STREAMS = {
    "one answer": ('data: {"text_output":"Paris"}\n\n', "Paris"),
    "several answers": ('data: {"text_output":"Pa"}\n\ndata: {"text_output":["ris"]}\n\n', "Paris"),
    "another output": ('data: {"other":"x"}\n\n', ""),
    "nothing at all": ("", ""),
}


@pytest.mark.parametrize(("text", "found"), STREAMS.values(), ids=STREAMS)
def test_a_stream_is_read(text: str, found: str) -> None:
    assert streamed_text(200, text, CANARY) == found


@pytest.mark.parametrize(
    ("status", "text"),
    [(200, 'data: {"error":"stub is gone"}\n\n'), (500, '{"error":"stub is gone"}'), (503, "stub is gone")],
)
def test_an_error_is_told_whether_it_comes_as_a_status_or_as_data(status: int, text: str) -> None:
    with pytest.raises(CanaryError, match="stub is gone"):
        streamed_text(status, text, CANARY)


def test_an_answer_to_infer_is_read() -> None:
    outputs = [{"name": "other", "data": ["x"]}, {"name": "text_output", "data": ["Par", "is"]}]
    assert infer_text({"outputs": outputs}, CANARY) == "Paris"
    assert infer_text({"outputs": None}, CANARY) == ""


async def test_an_engine_is_asked_over_http_as_it_wants_to_be() -> None:
    """A decoupled model gets 501 for `infer`: it is asked over its stream."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
        asked.append(path)
        config = {**MODEL, "model_transaction_policy": {"decoupled": True}}
        body = json.dumps(config) if path.endswith("/config") else 'data: {"text_output":"Paris"}\n\n'
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = Engine(f"http://127.0.0.1:{port}", "", None)
    try:
        assert await ask(Protocol.HTTP, engine, "", "m", CANARY) == "Paris"
        assert asked == ["/v2/models/m/config", "/v2/models/m/generate_stream"]
    finally:
        server.close()
    with pytest.raises(CanaryError, match="broke the call off"):
        await ask(Protocol.HTTP, engine, "", "m", CANARY)
    await engine.close()


async def test_an_engine_that_accepts_and_says_nothing_has_timeout_seconds() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    engine = Engine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "", None)
    with pytest.raises(CanaryError, match=r"no answer within 0\.2 s"):
        await ask(Protocol.HTTP, engine, "", "m", replace(CANARY, timeout_seconds=0.2))
    await engine.close()
    server.close()
    await asyncio.sleep(0.05)


async def test_a_model_that_takes_every_question_and_answers_none_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an engine does whose workers hang: Triton counts what it hands over as a success, our question as well."""
    agent = Agent(replace(CONFIG, canary=replace(CANARY, timeout_seconds=0.01)))
    agent._counters = Counters(TAKEN.came, 0, 0, 0, TAKEN)

    async def counters(_model: str) -> Counters:
        page = replace(TAKEN, came=TAKEN.came + handed_over, running=handed_over)
        return Counters(page.came, 0, 0, 0, page)

    handed_over = 0

    async def hang(*_: object) -> str:
        nonlocal handed_over
        handed_over = 1
        await asyncio.sleep(0.02)
        raise CanaryError("no answer within 0.01 s")

    monkeypatch.setattr(agent._engine, "counters", counters)
    monkeypatch.setattr("preheat_agent.canary.ask", hang)
    await agent._ask(Protocol.GRPC)
    assert agent._answer is not None
    assert not agent._answer.good
