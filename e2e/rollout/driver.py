"""Asks a model over REST and over gRPC until it is told to stop, and prints a line of JSON for each request.

It runs inside the cluster, in a pod of the agent's image (httpx and tritonclient are in it), given as a program. Every
request has a connection of its own, so that the Service spreads them over the replicas and an idle connection holds up
no drain. Nothing is tried again: what fails is counted. Bounded in requests and in time; a line or the end of standard
input stops it sooner.

    python driver.py ADDRESS MODEL --rate 4 --most 5000 --seconds 600 --rest-address GATEWAY
"""

import argparse
import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

TIMEOUT_SECONDS = 10.0
HTTP_PORT, GRPC_PORT = 8000, 8001
WORKERS = 2
"""Of each protocol. A worker has one request under way at most: a slow model is not buried."""
WHO = re.compile(r"\[(?P<revision>\S+) (?P<pod>\S+)\]")
"""Answers and errors of the campaign's models begin with who gave them."""
WORDS = 300

Ask = Callable[[str], Awaitable[str]]


class NoAnswerError(Exception):
    """The request failed; the message says how."""


async def ask_rest(address: str, model: str, question: str) -> str:
    """Return the answer over REST. Raises NoAnswerError."""
    url = f"http://{address}/v2/models/{model}/infer"
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [question]}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            answer = await client.post(url, json={"inputs": [tensor]}, headers={"Connection": "close"})
    except httpx.HTTPError as error:
        raise NoAnswerError(f"{type(error).__name__} {error}".strip()) from error
    if answer.status_code != httpx.codes.OK:
        raise NoAnswerError(f"HTTP {answer.status_code}: {answer.text}")
    try:
        (output,) = answer.json()["outputs"]
        return "".join(output["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise NoAnswerError(f"no output in {answer.text}") from error


async def ask_grpc(address: str, model: str, question: str) -> str:
    """Return the answer over gRPC. Raises NoAnswerError."""
    # Without it, channels to one address share a connection.
    client = grpc.InferenceServerClient(address, channel_args=[("grpc.use_local_subchannel_pool", 1)])
    tensor = grpc.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([question.encode()], dtype=np.object_))
    try:
        result = await client.infer(model, [tensor], client_timeout=TIMEOUT_SECONDS)
        values = result.as_numpy("text_output")
    except InferenceServerException as error:
        raise NoAnswerError(f"gRPC {error.status()}: {error.message()}") from error
    finally:
        await client.close()
    if values is None:
        raise NoAnswerError("no text_output")
    return b"".join(values.reshape(-1)).decode()


async def request(protocol: str, ask: Ask, question: str) -> dict[str, Any]:
    """Ask once; return what came of it. ``at`` is Unix time, both times in seconds."""
    at, started = time.time(), time.monotonic()
    try:
        text = await ask(question)
        why = "" if text.endswith(question) else f"another answer: {text!r}" if text else "an empty answer"
    except NoAnswerError as error:
        text, why = str(error), str(error)
    who = WHO.search(text)
    return {
        "at": round(at, 3),
        "seconds": round(time.monotonic() - started, 4),
        "protocol": protocol,
        "revision": who["revision"] if who else "",
        "pod": who["pod"] if who else "",
        "ok": not why,
        "why": why[:WORDS],
    }


async def drive(
    asks: dict[str, Ask],
    tell: Callable[[dict[str, Any]], None],
    stopped: asyncio.Event,
    *,
    rate: float,
    most: int,
) -> None:
    """Ask until stopped, or until the most requests were made. ``rate``: requests per second of each protocol."""
    numbers = iter(range(most))

    async def work(protocol: str, ask: Ask, numbers: Iterator[int]) -> None:
        pause = WORKERS / rate
        while not stopped.is_set():
            number = next(numbers, None)
            if number is None:
                return
            due = asyncio.get_running_loop().time() + pause
            tell(await request(protocol, ask, f"question {number}"))
            left = due - asyncio.get_running_loop().time()
            if left > 0:
                await _pause(stopped, left)

    await asyncio.gather(*(_first_answer(ask, stopped) for ask in asks.values()))
    workers = itertools.product(asks.items(), range(WORKERS))
    await asyncio.gather(*(work(protocol, ask, numbers) for (protocol, ask), _ in workers))


async def _first_answer(ask: Ask, stopped: asyncio.Event) -> None:
    """Ask until there is an answer, which is not counted: nodes learn of a first endpoint a moment after it is ready."""
    while not stopped.is_set():
        with suppress(NoAnswerError):
            await ask("anyone there?")
            return
        await _pause(stopped, 0.1)


async def _pause(stopped: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopped.wait()
    except TimeoutError:
        return


async def main(arguments: list[str]) -> None:
    """Drive one address until standard input says something, or ends."""
    parser = argparse.ArgumentParser(description="Asks a model over REST and gRPC.")
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("--rest-address", help="where to ask over REST, if elsewhere: a gateway")
    parser.add_argument("--http-port", type=int, default=HTTP_PORT)
    parser.add_argument("--grpc-port", type=int, default=GRPC_PORT)
    parser.add_argument("--rate", type=float, default=4.0, help="requests per second of each protocol")
    parser.add_argument("--most", type=int, default=5000, help="requests of both, together")
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args(arguments)
    rest_address = given.rest_address or given.address
    asks: dict[str, Ask] = {
        "REST": lambda q: ask_rest(f"{rest_address}:{given.http_port}", given.model, q),
        "gRPC": lambda q: ask_grpc(f"{given.address}:{given.grpc_port}", given.model, q),
    }
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin, stopped.set)
    loop.call_later(given.seconds, stopped.set)
    await drive(
        asks, lambda made: print(json.dumps(made), flush=True), stopped, rate=given.rate, most=given.most
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
