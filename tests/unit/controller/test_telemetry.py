"""Probes are answered whatever other clients of the port do."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from preheat.controller import telemetry
from preheat.controller.telemetry import CONNECTIONS, STUCK_SECONDS, Metrics, Probe, serve

from e2e.cluster.local.controlplane import free_port

PROMPT_SECONDS = 5.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def probe(clock: Clock) -> Probe:
    return Probe(clock)


@pytest.fixture
def port(probe: Probe) -> Iterator[int]:
    chosen = free_port()
    stop = serve(chosen, Metrics(), probe)
    yield chosen
    stop()


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PROMPT_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_ready_once_begun(port: int, probe: Probe) -> None:
    assert ask(port, "/readyz") == (503, "no\n")
    probe.ready = True
    assert ask(port, "/readyz") == (200, "ok\n")


def test_alive_while_passes_end(port: int, probe: Probe, clock: Clock) -> None:
    clock.now = STUCK_SECONDS
    assert ask(port, "/healthz") == (200, "ok\n"), "no object, nothing to do"
    probe.loops = 1
    assert ask(port, "/healthz") == (503, "no\n")
    probe.beat()
    assert ask(port, "/healthz") == (200, "ok\n")


def test_metrics_and_nothing_else(port: int) -> None:
    assert "preheat_objects" in ask(port, "/metrics")[1]
    assert ask(port, "/") == (404, "/metrics, /healthz and /readyz are here\n")
    assert ask(port, "/../../etc/passwd")[0] == 404


@pytest.mark.parametrize("words", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
def test_clients_that_say_nothing_keep_no_probe_out(port: int, words: bytes) -> None:
    with ExitStack() as silent:
        for _ in range(2 * CONNECTIONS):
            client = silent.enter_context(socket.create_connection(("127.0.0.1", port), PROMPT_SECONDS))
            client.sendall(words)
        assert ask(port, "/healthz") == (200, "ok\n")


def test_the_oldest_of_too_many_clients_is_cut_off(port: int) -> None:
    with ExitStack() as silent:
        clients = [
            silent.enter_context(socket.create_connection(("127.0.0.1", port), PROMPT_SECONDS))
            for _ in range(CONNECTIONS + 1)
        ]
        assert clients[0].recv(1) == b""


def test_a_client_that_says_nothing_is_let_go(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry._Handler, "timeout", 0.05)
    chosen = free_port()
    stop = serve(chosen, Metrics(), probe)
    with socket.create_connection(("127.0.0.1", chosen), PROMPT_SECONDS) as client:
        assert client.recv(1) == b"", "closed by the server"
    stop()
