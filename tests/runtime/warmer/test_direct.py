"""The transport below httpx: connections that are used again, and ends that are told from breaks."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from socket import create_server

import httpx
import pytest
from preheat_warmer.sources.direct import Direct

from tests.runtime.warmer.origin import Answer, Origin

MIB = 1 << 20


def ask(work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def with_client() -> None:
        async with httpx.AsyncClient(transport=Direct()) as client:
            await work(client)

    asyncio.run(with_client())


def test_a_connection_whose_answer_was_read_is_used_again(origin: Origin) -> None:
    origin.files["/a"] = b"x" * MIB
    ports = set()

    async def work(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            async with client.stream("GET", f"{origin.url}/a") as answer:
                pipe = answer.extensions["pipe"]
                while await asyncio.to_thread(pipe.read_into, memoryview(bytearray(MIB))):
                    pass
                ports.add(answer.extensions["network_stream"]._socket.getsockname())

    ask(work)
    assert len(ports) == 1


def test_an_answer_that_was_left_half_read_is_not_gone_on_with(origin: Origin) -> None:
    origin.files["/a"], origin.files["/b"] = b"x" * 8 * MIB, b"b"

    async def work(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"{origin.url}/a") as answer:
            await asyncio.to_thread(answer.extensions["pipe"].read_into, memoryview(bytearray(10)))
        assert (await client.get(f"{origin.url}/b")).text == "b"

    ask(work)


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    def serve() -> None:
        for _ in range(2):  # each connection is closed after one answer that does not say so
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    with closing(create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"

        async def work(client: httpx.AsyncClient) -> None:
            for _ in range(2):
                assert (await client.get(url)).text == "x"

        ask(work)
        thread.join()


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_body_that_breaks_off_is_an_error_not_an_end(origin: Origin, tells_length: bool) -> None:
    origin.files["/a.gguf"] = b"x" * MIB
    origin.tells_length = tells_length
    origin.next("/a.gguf", Answer(cut=1000))

    async def work(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{origin.url}/a.gguf")
        assert len((await client.get(f"{origin.url}/a.gguf")).content) == MIB

    ask(work)


def test_nobody_there_is_a_connect_error() -> None:
    with closing(create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]

    async def work(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")

    ask(work)


def test_a_read_that_waits_is_ended_by_a_cancel() -> None:
    """Else SIGTERM would wait for a silent server's time-out."""
    with closing(create_server(("127.0.0.1", 0))) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"

        async def work(client: httpx.AsyncClient) -> None:
            task = asyncio.create_task(client.get(url))
            connection, _ = await asyncio.to_thread(server.accept)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < 5
            connection.close()

        ask(work)
