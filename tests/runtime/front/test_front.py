"""The front over real sockets: what clients are told, who is counted, what it takes and what it does not."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton
from preheat.decide.observed import FrontReport
from tritonclient.utils import InferenceServerException

from tests.runtime.front.apiserver import SliceServer, a_slice, serving
from tests.runtime.front.conftest import Front, free_port, running

INFER = "/v2/models/m/infer"


def ask(port: int, method: str = "POST", path: str = INFER, **more: Any) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10, **more)


def say(port: int, data: bytes, seconds: float = 5) -> bytes:
    """Send bytes, and return all that comes until the other side ends it."""
    with closing(socket.create_connection(("127.0.0.1", port), seconds)) as one:
        one.settimeout(seconds)
        one.sendall(data)
        said = b""
        while chunk := one.recv(65536):
            said += chunk
        return said


@pytest.fixture
def port(slices: SliceServer) -> int:
    """The port of a deployment `m` that sleeps and takes 80 seconds to wake."""
    number = free_port()
    slices.put(a_slice("m", number, wakes_in="80"))
    return number


@pytest.fixture
def asleep(port: int, front: Front) -> int:
    """The same, and the front listens there."""
    front.until("listening", lambda: ask(port, "GET", "/v2/health/live").status_code == 503)
    return port


def test_who_comes_is_told_when_to_come_again(front: Front, asleep: int) -> None:
    answer = ask(asleep, json={"inputs": []})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "84"
    assert answer.headers["connection"] == "close", "the next request is to find a replica"
    assert answer.headers["content-type"] == "application/json"
    (field,) = answer.json()
    assert field == "error"
    assert (
        "models/m is scaled to zero; this request wakes it, which takes about 84 s" in answer.json()["error"]
    )
    assert front.arrivals() == {"m": 1}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"), ("GET", "/v2/models/m/ready"),
        ("GET", "/v2/models/m/versions/1/ready"), ("GET", "/metrics"), ("GET", "/"), ("HEAD", "/"), ("GET", "/v2"),
        ("GET", "/v2/models/m/stats"), ("POST", "/v2/repository/index"), ("POST", "/v2/models/m/trace/setting"),
        ("OPTIONS", INFER),
    ],
)  # fmt: skip
def test_who_only_looks_is_answered_and_not_counted(
    front: Front, asleep: int, method: str, path: str
) -> None:
    assert ask(asleep, method, path).status_code == 503
    assert front.arrivals() == {}
    assert front.metric('preheat_front_requests_total{kind="other",name="m",namespace="models"}') >= 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", INFER), ("POST", "/v2/models/m/generate_stream"), ("POST", "/v1/completions?x=1"),
     ("GET", "/v2/models/m"), ("GET", "/v2/models/m/versions/1/config"), ("GET", "/v2/models/ready")],
)  # fmt: skip
def test_who_wants_something_is_counted(front: Front, asleep: int, method: str, path: str) -> None:
    ask(asleep, method, path)
    assert front.arrivals() == {"m": 1}
    assert front.metric('preheat_front_requests_total{kind="arrival",name="m",namespace="models"}') == 1


def test_the_answer_changes_with_the_slice_while_it_listens(
    front: Front, slices: SliceServer, asleep: int
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    slices.put(a_slice("m", asleep, ready_at=soon.strftime("%Y-%m-%dT%H:%M:%SZ")))
    front.until("told", lambda: "waking up" in ask(asleep, "GET", "/").json()["error"])
    left = (soon - datetime.now(UTC)).total_seconds()
    assert left - 2 <= int(ask(asleep, "GET", "/").headers["retry-after"]) <= left + 2
    late = datetime.now(UTC) - timedelta(seconds=3)
    slices.put(a_slice("m", asleep, ready_at=late.strftime("%Y-%m-%dT%H:%M:%SZ")))
    front.until("late", lambda: ask(asleep, "GET", "/").headers["retry-after"] == "5")
    slices.put(a_slice("m", asleep))
    front.until("unknown", lambda: ask(asleep, "GET", "/").headers["retry-after"] == "60")


def test_a_deployment_that_comes_is_heard_and_one_that_goes_is_not(
    front: Front, slices: SliceServer, asleep: int
) -> None:
    other = free_port()
    slices.put(a_slice("other", other, wakes_in="1"))
    front.until("the other", lambda: ask(other).status_code == 503)
    assert front.arrivals()["other"] == 1
    assert "m" not in front.arrivals()
    slices.remove("m-front")
    front.until("m is gone", lambda: front.metric("preheat_front_ports") == 1)
    with pytest.raises(httpx.ConnectError):
        ask(asleep)
    slices.put(a_slice("m", asleep, wakes_in="1"))
    front.until("m is back", lambda: ask(asleep, "GET", "/").status_code == 503)
    assert "m" not in front.arrivals(), "what was counted before went with its slice"


def test_a_port_that_moves_is_followed(front: Front, slices: SliceServer, asleep: int) -> None:
    ask(asleep)
    moved = free_port()
    slices.put(a_slice("m", moved, wakes_in="1"))
    front.until("moved", lambda: ask(moved, "GET", "/").status_code == 503)
    assert front.arrivals() == {"m": 1}, "its count stays"
    with pytest.raises(httpx.ConnectError):
        ask(asleep)


def test_a_slice_that_is_not_the_operators_is_not_listened_to(
    front: Front, slices: SliceServer, asleep: int
) -> None:
    low, stranger, unowned = free_port(1500, 1900), free_port(), free_port()
    slices.put(a_slice("low", low))
    slices.put(
        a_slice(
            "stranger", stranger, ownerReferences=[{"kind": "LLMDeployment", "name": "m", "controller": True}]
        )
    )
    slices.put(a_slice("unowned", unowned, ownerReferences=[]))
    slices.put(a_slice("thief", asleep, creationTimestamp="2026-01-02T00:00:00Z"))
    last = free_port()
    slices.put(a_slice("last", last))
    front.until("all were seen", lambda: ask(last, "GET", "/").status_code == 503)
    for port in (low, stranger, unowned):
        with pytest.raises(httpx.ConnectError):
            ask(port)
    assert "models/m " in ask(asleep).json()["error"], "of two with one port the older has it"
    assert front.arrivals() == {"m": 1}


def test_hundreds_that_change_at_once_delay_nobody(front: Front, slices: SliceServer, asleep: int) -> None:
    ports = [port for port in range(21_000, 21_900) if port != asleep][:400]
    for round_ in range(3):
        for number, port in enumerate(ports):
            slices.put(a_slice(f"x{number}", port, wakes_in=str(round_)))
    started = time.monotonic()
    assert ask(asleep).status_code == 503
    assert time.monotonic() - started < 1
    front.until("all are listened for", lambda: front.metric("preheat_front_ports") >= 390, 30)
    assert front.memory_bytes() < 120e6


def test_when_history_is_forgotten_it_lists_again(front: Front, slices: SliceServer, asleep: int) -> None:
    slices.forget_history()
    other = free_port()
    slices.put(a_slice("other", other))
    front.until("listed again", lambda: ask(other, "GET", "/").status_code == 503)
    assert ask(asleep, "GET", "/").status_code == 503


def test_while_the_api_server_is_away_it_goes_on(slices: SliceServer, port: int, tmp_path: Path) -> None:
    with serving(slices) as url:
        context = running(url, tmp_path)
        front = context.__enter__()
        front.until("listening", lambda: ask(port, "GET", "/").status_code == 503)
    try:
        front.until("it noticed", lambda: front.metric("preheat_front_watch_failures_total") >= 1)
        assert ask(port).status_code == 503
        assert front.arrivals() == {"m": 1}
        assert front.get("/readyz").status_code == 200
    finally:
        context.__exit__(None, None, None)


def test_it_is_not_ready_before_it_knows_who_sleeps(tmp_path: Path) -> None:
    nobody = free_port()
    with running(f"http://127.0.0.1:{nobody}", tmp_path) as front:
        assert front.get("/readyz").status_code == 503
        assert front.get("/healthz").status_code == 200


def test_told_to_end_it_is_not_ready_and_answers_on_for_a_while(
    slices: SliceServer, port: int, tmp_path: Path
) -> None:
    with serving(slices) as url, running(url, tmp_path, drainSeconds=2) as front:
        front.until("listening", lambda: ask(port, "GET", "/").status_code == 503)
        front.process.send_signal(signal.SIGTERM)
        front.until("not ready", lambda: front.get("/readyz").status_code == 503, 1)
        assert ask(port).status_code == 503
        assert front.process.wait(10) == 0


# --- gRPC


@contextmanager
def client(port: int) -> Iterator[Any]:
    with closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as made:
        yield made


def test_a_grpc_client_sees_unavailable_and_when_to_come_again(front: Front, asleep: int) -> None:
    with client(asleep) as made:
        for number in (1, 2, 3):
            with pytest.raises(InferenceServerException) as refused:
                made.infer("m", [], client_timeout=5)
            assert refused.value.status() == "StatusCode.UNAVAILABLE"
            assert "this request wakes it, which takes about 84 s" in refused.value.message()
            assert front.arrivals() == {"m": number}


def test_a_grpc_client_that_only_looks_is_not_counted(front: Front, asleep: int) -> None:
    with client(asleep) as made:
        for look in (
            made.is_server_live,
            made.is_server_ready,
            lambda **more: made.is_model_ready("m", **more),
        ):
            with pytest.raises(InferenceServerException, match="scaled to zero"):
                look(client_timeout=5)
        assert front.arrivals() == {}
        with pytest.raises(InferenceServerException):
            made.get_model_metadata("m", client_timeout=5)
        assert front.arrivals() == {"m": 1}


def test_a_grpc_request_larger_than_what_is_read_is_answered(front: Front, asleep: int) -> None:
    with client(asleep) as made:
        tensor = triton.InferInput("x", [4_000_000], "UINT8")
        tensor._raw_content = bytes(4_000_000)
        with pytest.raises(InferenceServerException) as refused:
            made.infer("m", [tensor], client_timeout=10)
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        assert front.arrivals() == {"m": 1}


# --- who means no good, or knows no better


def test_a_large_body_is_not_read_and_its_sender_gets_the_answer(front: Front, asleep: int) -> None:
    answer = ask(asleep, content=bytes(6_000_000))
    assert answer.status_code == 503
    assert front.arrivals() == {"m": 1}
    assert front.memory_bytes() < 120e6


def test_a_head_that_is_too_large_is_refused(front: Front, asleep: int) -> None:
    said = say(asleep, b"POST / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 431 ")
    assert front.arrivals() == {}


def test_a_head_without_an_end_is_not_kept(front: Front, asleep: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", asleep))) as one:
        one.settimeout(10)
        with pytest.raises(OSError, match=r"reset|Broken"):
            [one.sendall(b"X" * 65536) for _ in range(10_000)]
    assert front.arrivals() == {}
    assert front.memory_bytes() < 120e6


@pytest.mark.parametrize(
    "data",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET /\r\n\r\n", b"get / HTTP/1.1\r\n\r\n"],
)
def test_what_is_no_request_is_refused_and_not_counted(front: Front, asleep: int, data: bytes) -> None:
    assert say(asleep, data).startswith(b"HTTP/1.1 400 ")
    assert front.arrivals() == {}
    assert front.metric("preheat_front_malformed_total") == 1


@pytest.mark.parametrize(
    "data", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n" + b"x" * 100_000]
)
def test_http2_that_asks_nothing_or_is_none_is_ended(front: Front, asleep: int, data: bytes) -> None:
    started = time.monotonic()
    with suppress(OSError):  # a reset ends it as well
        say(asleep, data)
    assert time.monotonic() - started < 4
    assert front.arrivals() == {}


def test_who_is_slow_is_ended_and_delays_nobody(front: Front, asleep: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", asleep)) for _ in range(100)]
    try:
        for one in slow:
            one.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nA: ")
        started = time.monotonic()
        assert ask(asleep).status_code == 503
        assert time.monotonic() - started < 1
        for one in slow:
            one.settimeout(5)
            assert one.recv(1) == b"", "ended after headSeconds, without a word"
    finally:
        for one in slow:
            one.close()
    assert front.arrivals() == {"m": 1}


def test_more_connections_than_it_holds_cut_off_the_oldest(
    slices: SliceServer, port: int, tmp_path: Path
) -> None:
    with serving(slices) as url, running(url, tmp_path, connections=50, headSeconds=30) as front:
        front.until("listening", lambda: ask(port, "GET", "/").status_code == 503)
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        try:
            front.until("bounded", lambda: front.metric("preheat_front_cut_off_total") >= 150)
            assert front.metric("preheat_front_connections") <= 50
            assert ask(port).status_code == 503
            held[0].settimeout(5)
            assert held[0].recv(1) == b"", "ended long before headSeconds"
        finally:
            for one in held:
                one.close()


def test_a_crowd_is_answered_and_every_one_counted(front: Front, asleep: int) -> None:
    codes: list[int] = []

    def come() -> None:
        codes.extend([ask(asleep, json={}).status_code for _ in range(25)])

    threads = [threading.Thread(target=come) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [503] * 400
    assert front.arrivals() == {"m": 400}
    front.until("nobody is left", lambda: front.metric("preheat_front_connections") == 0)
    assert front.memory_bytes() < 120e6


def test_a_wrong_configuration_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="preheat-front: PREHEAT_FRONT_CONFIG: firstPort is 'x': it must be a whole number"), \
         running("http://127.0.0.1:1", tmp_path, firstPort="x"):  # fmt: skip
        pass


def test_arrivals_are_told_as_the_operator_reads_them(front: Front, asleep: int) -> None:
    ask(asleep)
    told = json.loads(front.get("/arrivals").content)
    report = FrontReport.from_json(told)
    assert report.since == told["since"]
    ((name, (count, ago)),) = report.arrivals.items()
    assert (name, count) == (("models", "m"), 1)
    assert 0 <= ago < 5
