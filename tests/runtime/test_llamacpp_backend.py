"""The demo backend in a real tritonserver with the real SmolLM2-135M: nothing here is faked."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from e2e.images.once import cache_directory  # noqa: E402
from e2e.images.triton_tree import (  # noqa: E402
    demo_model,
    triton_command,
    triton_environment,
    triton_tree,
)

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.uname().machine != "x86_64", reason="the wheel is Linux x86-64"
    ),
    pytest.mark.timeout(180),
]
MODEL_PY = "from preheat_llamacpp import TritonPythonModel  # noqa: F401\n"
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Triton:
    process: subprocess.Popen[bytes]
    repository: Path
    client: httpx.Client
    grpc_address: str
    metrics_url: str

    def load(self, name: str) -> httpx.Response:
        return self.client.post(f"/v2/repository/models/{name}/load")

    def generate(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v2/models/smollm2/generate", json=fields)

    def stream(self, **fields: Any) -> list[dict[str, Any]]:
        url = "/v2/models/smollm2/generate_stream"
        with self.client.stream("POST", url, json={"stream": True, **fields}) as answer:
            lines = [line for line in answer.iter_lines() if line]
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def metric(self, name: str) -> float:
        text = httpx.get(self.metrics_url, trust_env=False).text
        found = re.search(rf'^preheat_llm_{name}{{model="smollm2",version="1"}} (\S+)$', text, re.MULTILINE)
        assert found, f"preheat_llm_{name} is not among the metrics"
        return float(found[1])


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def add_model(repository: Path, name: str, **parameters: str) -> None:
    """Write the two files of a model, with the README's config.pbtxt."""
    readme = (REPOSITORY / "runtime/engines/triton/README.md").read_text()
    config = readme.split("```protobuf\n")[1].split("```")[0]
    for key, value in parameters.items():
        config, count = re.subn(rf'(key: "{key}" +value {{ string_value: )"[^"]*"', rf'\1"{value}"', config)
        assert count == 1, f"{key} is not in the README's config.pbtxt"
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1/model.py").write_text(MODEL_PY)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:.0f} s: {what}"
        time.sleep(0.05)  # real time: a real server


def start_triton(repository: Path, log: Path) -> Triton:
    tree = triton_tree(cache_directory())
    http, grpc, metrics = free_ports(3)
    with log.open("wb") as output:
        process = subprocess.Popen(
            triton_command(tree, repository, http=http, grpc=grpc, metrics=metrics),
            env=triton_environment(tree),
            stderr=output,
            stdout=output,
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=DEADLINE_SECONDS, trust_env=False)
    triton = Triton(process, repository, client, f"127.0.0.1:{grpc}", f"http://127.0.0.1:{metrics}/metrics")

    def is_live() -> bool:
        assert process.poll() is None, f"tritonserver ended at once:\n{log.read_text()[-2000:]}"
        try:
            return client.get("/v2/health/live").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_live, "tritonserver is live")
    return triton


def stop_triton(triton: Triton) -> int:
    triton.client.close()  # an idle connection would hold the exit for 30 s
    triton.process.send_signal(signal.SIGTERM)
    return triton.process.wait(DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    repository = tmp_path_factory.mktemp("repository")
    add_model(repository, "smollm2", gguf_path=str(demo_model(cache_directory()).parent))
    running = start_triton(repository, tmp_path_factory.mktemp("log") / "triton.log")
    try:
        answer = running.load("smollm2")
        assert answer.status_code == 200, answer.text
        yield running
    finally:
        stop_triton(running)


def test_one_question_gets_one_answer(triton: Triton) -> None:
    answer = triton.generate(text_input="The capital of France is", max_tokens=8).json()
    assert "Paris" in answer["text_output"]
    assert answer["output_tokens"] == 8


def test_a_chat_is_put_into_the_models_own_form(triton: Triton) -> None:
    answer = triton.generate(text_input="Say hello.", max_tokens=16, chat=True).json()
    assert "hello" in answer["text_output"].lower()


def test_the_pieces_of_a_stream_are_the_whole_answer(triton: Triton) -> None:
    whole = triton.generate(text_input="Once upon a time", max_tokens=12).json()["text_output"]
    pieces = triton.stream(text_input="Once upon a time", max_tokens=12)
    assert "".join(piece["text_output"] for piece in pieces) == whole
    assert [piece["output_tokens"] for piece in pieces] == list(range(1, 13))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_input": ""}, "text_input is empty"),
        ({"text_input": "x", "max_tokens": 0}, "max_tokens must be at least 1, was 0"),
        ({"text_input": "x", "temperature": -1.0}, "temperature must lie between 0 and 10, was -1"),
        ({"text_input": "word " * 3000, "max_tokens": 1}, "exceeds the available context size"),
    ],
)
def test_a_wrong_request_is_the_callers_fault(triton: Triton, fields: dict[str, Any], message: str) -> None:
    answer = triton.generate(**fields)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def grpc_inputs(text: str, max_tokens: int) -> list[Any]:
    values = {
        "text_input": (np.array([text.encode()], dtype=object), "BYTES"),
        "stream": (np.array([True]), "BOOL"),
        "max_tokens": (np.array([max_tokens], dtype=np.int32), "INT32"),
    }
    inputs = []
    for name, (array, kind) in values.items():
        tensor = grpcclient.InferInput(name, [1], kind)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def test_a_grpc_stream_ends_with_the_final_flag(triton: Triton) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpcclient.InferenceServerClient(triton.grpc_address) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("smollm2", grpc_inputs("One, two,", 6), enable_empty_final_response=True)
        texts = []
        while True:
            result, error = answers.get(timeout=DEADLINE_SECONDS)
            assert error is None
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
            texts.append(result.as_numpy("text_output")[0].decode())
        client.stop_stream()
    assert len(texts) == 6


def test_a_caller_who_hangs_up_frees_the_slot(triton: Triton) -> None:
    cancelled, generated = triton.metric("requests_cancelled_total"), triton.metric("generated_tokens_total")
    url = "/v2/models/smollm2/generate_stream"
    fields = {"text_input": "Once upon a time", "max_tokens": 900, "stream": True}
    with triton.client.stream("POST", url, json=fields) as answer:
        next(answer.iter_lines())
    wait_until(
        lambda: triton.metric("requests_cancelled_total") == cancelled + 1, "the request counts as cancelled"
    )
    assert triton.metric("running_requests") == 0
    assert triton.metric("generated_tokens_total") - generated < 900


def test_two_run_and_the_third_waits(triton: Triton) -> None:
    finished = triton.metric("requests_finished_total")
    pieces: list[list[dict[str, Any]]] = []

    def ask(number: int) -> None:
        pieces.append(triton.stream(text_input=f"Tale number {number}: once", max_tokens=80))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: (triton.metric("running_requests"), triton.metric("waiting_requests")) == (2, 1),
        "two requests run and one waits",
    )
    wait_until(lambda: triton.metric("kv_tokens") > 0, "the KV cache holds tokens")
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(len(answer) for answer in pieces) == [80, 80, 80]
    assert triton.metric("requests_finished_total") == finished + 3
    assert (triton.metric("running_requests"), triton.metric("waiting_requests")) == (0, 0)


def test_capacity_and_latencies_are_among_the_metrics(triton: Triton) -> None:
    triton.generate(text_input="Hello", max_tokens=2)
    assert triton.metric("slots") == 2
    assert triton.metric("kv_capacity_tokens") == 2048
    assert triton.metric("load_seconds") > 0
    for name in ("time_to_first_token", "request", "time_per_output_token"):
        assert triton.metric(f"{name}_seconds_count") >= 1
        assert triton.metric(f"{name}_seconds_sum") > 0


def test_missing_weights_are_the_reason_of_the_failed_load(triton: Triton) -> None:
    add_model(triton.repository, "lost", gguf_path="/nowhere/model.gguf")
    answer = triton.load("lost")
    assert answer.status_code == 400
    assert "no weights at /nowhere/model.gguf: check gguf_path" in answer.json()["error"]


def test_a_broken_file_is_the_reason_of_the_failed_load(triton: Triton, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    add_model(triton.repository, "cut", gguf_path=str(tmp_path))
    answer = triton.load("cut")
    assert answer.status_code == 400
    assert "llama.cpp cannot load" in answer.json()["error"]


def children_read_bytes(process: int) -> int:
    """Return the most that any child of the process has read, in bytes."""
    most = 0
    for listing in Path(f"/proc/{process}/task").glob("*/children"):  # any of its threads may have started it
        for child in listing.read_text().split():
            try:
                most = max(most, int(Path(f"/proc/{child}/io").read_text().split()[1]))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return most


def test_a_paced_load_shows_its_progress_and_a_stream_survives_sigterm(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    model = demo_model(cache_directory())
    add_model(
        repository, "smollm2", gguf_path=str(model), load_bytes_per_second=str(model.stat().st_size // 2)
    )
    triton = start_triton(repository, tmp_path / "triton.log")
    try:
        read_bytes: list[int] = []
        loading = threading.Thread(target=lambda: triton.load("smollm2"))
        loading.start()
        while loading.is_alive():
            read_bytes.append(children_read_bytes(triton.process.pid))
            loading.join(0.2)
        half = model.stat().st_size / 2
        assert any(half * 0.5 < done < half * 1.5 for done in read_bytes), (
            "the progress was never seen half way"
        )
        assert triton.metric("load_seconds") > 2.0
        pieces: list[dict[str, Any]] = []
        stream = threading.Thread(
            target=lambda: pieces.extend(triton.stream(text_input="Once", max_tokens=100))
        )
        stream.start()
        wait_until(lambda: triton.metric("generated_tokens_total") > 3, "the stream runs")
        triton.process.send_signal(signal.SIGTERM)
        stream.join(DEADLINE_SECONDS)
    finally:
        code = stop_triton(triton)
    assert len(pieces) == 100
    assert code == 0
