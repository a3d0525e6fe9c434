"""Asks a served model as a user would: KServe v2 over REST and over gRPC, through `kubectl port-forward`."""

import queue
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as grpc

from e2e.cluster.provider import KUBECTL

MAX_TOKENS = 12
PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and how long it took, in seconds."""

    text: str
    seconds: float
    first_seconds: float


@contextmanager
def forwarded(kubeconfig: Path, namespace: str, service: str, port: int) -> Iterator[int]:
    """Forward a free local port to a Service's port; yield it."""
    process = subprocess.Popen(
        [KUBECTL, "--kubeconfig", str(kubeconfig), "-n", namespace, "port-forward",
         f"service/{service}", f":{port}", "--address", "127.0.0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        if match is None:
            raise RuntimeError(f"port-forward: {line.strip() or 'no output'}")
        yield int(match[1])
    finally:
        process.terminate()
        process.communicate(timeout=10)


def ask_rest(kubeconfig: Path, namespace: str, model: str, prompt: str) -> Reply:
    """Ask over REST (`generate`)."""
    with forwarded(kubeconfig, namespace, model, 8000) as port:
        started = time.monotonic()
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v2/models/{model}/generate",
            json={"text_input": prompt, "max_tokens": MAX_TOKENS, "stream": False},
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        )
        answer.raise_for_status()
        seconds = time.monotonic() - started
        return Reply(answer.json()["text_output"], seconds, seconds)


def ask_grpc(kubeconfig: Path, namespace: str, model: str, prompt: str) -> Reply:
    """Ask over a gRPC stream, token by token."""
    with forwarded(kubeconfig, namespace, model, 8001) as port:
        client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        started = time.monotonic()
        inputs = [
            _tensor("text_input", "BYTES", np.array([prompt.encode()], dtype=np.object_)),
            _tensor("max_tokens", "INT32", np.array([MAX_TOKENS], dtype=np.int32)),
            _tensor("stream", "BOOL", np.array([True])),
        ]
        client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        text, first = "", 0.0
        while True:
            result, error = answers.get(timeout=PATIENCE_SECONDS)
            if error is not None:
                raise RuntimeError(f"gRPC: {error}")
            values = result.as_numpy("text_output")
            if values is not None:
                first = first or time.monotonic() - started
                text += b"".join(values.reshape(-1)).decode()
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        seconds = time.monotonic() - started
        client.stop_stream()
        client.close()
        return Reply(text, seconds, first)


def _tensor(name: str, kind: str, values: Any) -> Any:
    tensor = grpc.InferInput(name, list(values.shape), kind)
    tensor.set_data_from_numpy(values)
    return tensor
