"""The driver against a server of this process that speaks as Triton does, over HTTP and gRPC."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from e2e.rollout import driver, traffic
from e2e.rollout.traffic import read

WHO = "[good-1 pod-1] "
ADDRESS = "127.0.0.1"


class Model(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with what ``answer`` makes of a question; raises what it raises."""

    def __init__(self) -> None:
        self.answer: Any = lambda question: WHO + question
        self.connections: set[str] = set()

    async def rest(self, request: web.Request) -> web.Response:
        self.connections.add(
            f"REST {request.transport.get_extra_info('peername')}" if request.transport else ""
        )
        try:
            (question,) = (await request.json())["inputs"][0]["data"]
            text = self.answer(question)
        except RuntimeError as error:
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"outputs": [{"name": "text_output", "data": [text]}]})

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's own name
        self.connections.add(f"gRPC {context.peer()}")
        question = request.raw_input_contents[0][4:].decode()
        try:
            text = self.answer(question)
        except RuntimeError as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        values = serialize_byte_tensor(np.array([text.encode()], dtype=np.object_))
        output = service_pb2.ModelInferResponse.InferOutputTensor(
            name="text_output", datatype="BYTES", shape=[1]
        )
        return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[values.item()])


@asynccontextmanager
async def serving(model: Model) -> AsyncIterator[dict[str, driver.Ask]]:
    """Serve; yield how to ask."""
    async with listening(model) as (http, port):
        yield {
            "REST": lambda q: driver.ask_rest(f"{ADDRESS}:{http}", "m", q),
            "gRPC": lambda q: driver.ask_grpc(f"{ADDRESS}:{port}", "m", q),
        }


@asynccontextmanager
async def listening(model: Model) -> AsyncIterator[tuple[int, int]]:
    """Serve on ports of its own; yield the one for HTTP and the one for gRPC."""
    app = web.Application()
    app.router.add_post("/v2/models/m/infer", model.rest)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, ADDRESS, 0)
    await site.start()
    http = runner.addresses[0][1]
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    port = server.add_insecure_port(f"{ADDRESS}:0")
    await server.start()
    try:
        yield http, port
    finally:
        await server.stop(None)
        await runner.cleanup()


async def ask_each(model: Model) -> list[dict[str, Any]]:
    async with serving(model) as asks:
        return [await driver.request(name, ask, "question 1") for name, ask in asks.items()]


async def test_an_answer_says_who_gave_it() -> None:
    for made in await ask_each(Model()):
        assert made["ok"], made
        assert (made["revision"], made["pod"]) == ("good-1", "pod-1")
        assert read(json.dumps(made)) is not None


async def test_an_error_is_a_failure_that_says_who_gave_it() -> None:
    def refuse(_question: str) -> str:
        raise RuntimeError("Failed to process: [errors pod-2] this revision refuses to answer")

    model = Model()
    model.answer = refuse
    for made in await ask_each(model):
        assert not made["ok"]
        assert (made["revision"], made["pod"]) == ("errors", "pod-2")
        assert "refuses to answer" in made["why"]


async def test_an_empty_answer_and_another_questions_answer_are_failures() -> None:
    model = Model()
    model.answer = lambda _question: ""
    assert {made["why"] for made in await ask_each(model)} == {"an empty answer"}
    model.answer = lambda _question: WHO + "question 2"
    assert {made["why"] for made in await ask_each(model)} == {"another answer: '[good-1 pod-1] question 2'"}


async def test_nobody_at_home_is_a_failure_of_nobody() -> None:
    async with serving(Model()) as asks:
        pass
    for name, ask in asks.items():
        made = await driver.request(name, ask, "question 1")
        assert not made["ok"]
        assert made["revision"] == ""


async def test_it_ends_after_the_most_requests_each_over_a_connection_of_its_own() -> None:
    model, told = Model(), list[dict[str, Any]]()
    async with serving(model) as asks:
        await driver.drive(asks, told.append, asyncio.Event(), rate=1000, most=12)
    assert len(told) == 12
    assert {made["protocol"] for made in told} == {"REST", "gRPC"}
    assert len(model.connections) == 12 + len(asks)  # and the first answers, which are not counted


async def test_what_fails_before_a_first_answer_is_not_counted() -> None:
    model, told, questions = Model(), list[dict[str, Any]](), list[str]()

    def refuse_at_first(question: str) -> str:
        questions.append(question)
        if len(questions) < 10:
            raise RuntimeError("not yet")
        return WHO + question

    model.answer = refuse_at_first
    async with serving(model) as asks:
        await driver.drive(asks, told.append, asyncio.Event(), rate=1000, most=4)
    assert len(told) == 4
    assert all(made["ok"] for made in told), told


async def test_it_ends_when_it_is_told_to() -> None:
    told, stopped = list[dict[str, Any]](), asyncio.Event()

    def tell(made: dict[str, Any]) -> None:
        told.append(made)
        stopped.set()

    async with serving(Model()) as asks:
        await driver.drive(asks, tell, stopped, rate=1000, most=100_000)
    assert len(told) <= 2 * driver.WORKERS


def test_what_is_no_request_is_not_read_as_one() -> None:
    assert read("Traceback (most recent call last):") is None
    assert read('{"at": 1}') is None


async def test_the_program_runs_where_kubectl_runs_it_and_ends_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "KUBECTL", str(a_kubectl(tmp_path)))
    async with listening(Model()) as (http, port):
        ports = ["--http-port", str(http), "--grpc-port", str(port)]
        at_work = traffic.Traffic(tmp_path / "kubeconfig", "n", "client", [ADDRESS, "m", *ports])
        try:
            await asyncio.to_thread(until_both_were_asked, at_work)
            requests = await asyncio.to_thread(at_work.stop)
        finally:
            at_work.end()
    assert all(request.ok for request in requests), requests


async def test_a_program_that_fails_is_told_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "KUBECTL", str(a_kubectl(tmp_path)))
    at_work = traffic.Traffic(tmp_path / "kubeconfig", "n", "client", ["a", "m", "--no-such-option"])
    with pytest.raises(RuntimeError, match="no-such-option"):
        await asyncio.to_thread(at_work.stop)


def until_both_were_asked(at_work: traffic.Traffic) -> None:
    deadline = time.monotonic() + 60
    while {request.protocol for request in at_work.requests} != {"REST", "gRPC"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def a_kubectl(folder: Path) -> Path:
    """A kubectl whose `exec` runs the command here, with this Python."""
    made = folder / "kubectl"
    made.write_text(
        f'#!/bin/sh\nPATH={Path(sys.executable).parent}:$PATH\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
    )
    made.chmod(0o755)
    return made
