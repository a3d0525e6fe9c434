"""The one door to tritonclient: asks the model a real question, over gRPC or over HTTP, and reads the answer.

What the model declares decides what is sent: only inputs that it has, shaped with a batch dimension where it
batches. A decoupled model (vLLM, TensorRT-LLM, our llama.cpp) is asked over a stream. Over HTTP it is asked as most
clients ask: the JSON of KServe v2, and for a decoupled model, to which the engine answers 501 there, `generate_stream`,
which takes however many answers there are (`generate` takes exactly one).
"""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from preheat_agent.config import Canary
from preheat_agent.engine import CallError, Engine
from preheat_agent.ladder import Protocol

_DTYPES: dict[str, Any] = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "UINT32": np.uint32,
                           "FP32": np.float32}  # fmt: skip

OK = 200

MATCH_SECONDS = 0.25
"""Processor time that `expect` may take on one answer."""


class CanaryError(Exception):
    """The answer is no good. The message says what it was."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of one element."""

    name: str
    kind: str
    shape: tuple[int, ...]
    value: Any


async def ask(protocol: Protocol, engine: Engine, address: str, model: str, canary: Canary) -> str:
    """Return the model's answer. Raises CanaryError for an error, no text, the wrong text or no answer in time.

    ``address``: of the engine's gRPC port. ``timeoutSeconds`` holds for either protocol, from the first byte sent to the
    last one read.
    """
    try:
        async with asyncio.timeout(canary.timeout_seconds):
            if protocol is Protocol.GRPC:
                text = await _ask_over_grpc(address, model, canary)
            else:
                text = await _ask_over_http(engine, model, canary)
    except TimeoutError:
        raise CanaryError(f"no answer within {canary.timeout_seconds:g} s") from None
    except InferenceServerException as error:
        raise CanaryError(f"the engine answered: {error.message()}") from error
    except CallError as error:
        raise CanaryError(str(error)) from error
    if not text.strip():
        raise CanaryError("the answer is empty")
    if canary.expect is not None and not _matches(canary.expect, text):
        raise CanaryError(f"the answer {text[:80]!r} does not match {canary.expect.pattern!r}")
    return text


class _TooLongError(Exception):
    """The timer went off."""


def _matches(expect: re.Pattern[str], text: str) -> bool:
    """Tell whether an expression is found. Raises CanaryError when looking for it takes too long.

    Some expressions take for ever on some answers ("(a+)+$"), and the probes of the pod are answered by this
    very thread. The timer counts the process's own time, so that a busy machine fails no model.
    """
    before = signal.signal(signal.SIGVTALRM, _give_up)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, MATCH_SECONDS)
        try:
            return expect.search(text) is not None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooLongError:
        raise CanaryError(
            f"the expression {expect.pattern!r} takes too long on the answer {text[:80]!r}: simplify it"
        ) from None
    finally:
        signal.signal(signal.SIGVTALRM, before)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise _TooLongError


async def _ask_over_grpc(address: str, model: str, canary: Canary) -> str:
    client = grpc.InferenceServerClient(address)
    try:
        described = await client.get_model_config(model, as_json=True)
        config = described["config"]
        inputs = [_grpc_input(tensor) for tensor in wanted_inputs(config, canary)]
        outputs = [grpc.InferRequestedOutput(canary.output_name)]
        if is_decoupled(config):
            return await _stream(client, model, inputs, outputs, canary)
        result = await client.infer(model, inputs, outputs=outputs)
        return _text(result, canary)
    finally:
        await client.close()


async def _stream(client: Any, model: str, inputs: Any, outputs: Any, canary: Canary) -> str:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": model,
            "inputs": inputs,
            "outputs": outputs,
            "enable_empty_final_response": True,
        }

    text = ""
    stream = client.stream_infer(requests())
    async for result, error in stream:
        if error is not None:
            raise error
        text += _text(result, canary)
        final = result.get_response().parameters.get("triton_final_response")
        if final is not None and final.bool_param:
            break
    stream.cancel()
    return text


def _text(result: Any, canary: Canary) -> str:
    values = result.as_numpy(canary.output_name)
    if values is None:
        return ""
    parts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.reshape(-1)]
    return "".join(parts)


def _grpc_input(tensor: Tensor) -> Any:
    value = str(tensor.value).encode() if tensor.kind == "BYTES" else tensor.value
    kind = np.object_ if tensor.kind == "BYTES" else _DTYPES[tensor.kind]
    made = grpc.InferInput(tensor.name, list(tensor.shape), tensor.kind)
    made.set_data_from_numpy(np.array([value], dtype=kind).reshape(tensor.shape))
    return made


async def _ask_over_http(engine: Engine, model: str, canary: Canary) -> str:
    config = _json(*await engine.call(f"/v2/models/{model}/config"))
    tensors = wanted_inputs(config, canary)
    if is_decoupled(config):
        question = {tensor.name: tensor.value for tensor in tensors}
        return streamed_text(*await engine.call(f"/v2/models/{model}/generate_stream", question), canary)
    infer = {
        "inputs": [
            {"name": t.name, "datatype": t.kind, "shape": list(t.shape), "data": [t.value]} for t in tensors
        ],
        "outputs": [{"name": canary.output_name}],
    }
    return infer_text(_json(*await engine.call(f"/v2/models/{model}/infer", infer)), canary)


def _json(status: int, text: str) -> Mapping[str, Any]:
    """Return a JSON object that the engine answered. Raises CanaryError for an error, and for what is none."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if status != OK or not isinstance(body, dict):
        words = body.get("error") if isinstance(body, dict) else None
        raise CanaryError(f"the engine answered {status}: {words or text[:200]}")
    return body


def infer_text(body: Mapping[str, Any], canary: Canary) -> str:
    """Return the text of an answer to `infer`; empty when the output is not in it."""
    outputs = body.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict) and output.get("name") == canary.output_name:
            return _joined(output.get("data"))
    return ""


def streamed_text(status: int, text: str, canary: Canary) -> str:
    """Return the text of all answers of a `generate_stream`. Raises CanaryError: an error comes as data, inside a 200."""
    if status != OK:
        _json(status, text)
    events = (line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:"))
    found = ""
    for event in events:
        body = _json(status, event)
        if "error" in body:
            raise CanaryError(f"the engine answered: {body['error']}")
        found += _joined(body.get(canary.output_name))
    return found


def _joined(data: Any) -> str:
    values: Sequence[Any] = data if isinstance(data, list) else [data]
    return "".join(str(value) for value in values if value is not None)


def is_decoupled(config: Mapping[str, Any]) -> bool:
    """Tell whether a model answers as often as it likes."""
    return bool((config.get("model_transaction_policy") or {}).get("decoupled"))


def wanted_inputs(config: Mapping[str, Any], canary: Canary) -> list[Tensor]:
    """Return what is sent of what the model declares. Raises CanaryError when it has no input for the question."""
    batched = int(config.get("max_batch_size") or 0) > 0
    sampling = json.dumps({"max_tokens": canary.max_tokens, "temperature": 0})
    wanted: dict[str, Any] = {
        canary.input_name: canary.prompt,
        "max_tokens": canary.max_tokens,
        "temperature": 0.0,
        "sampling_parameters": sampling,
        "sampling_param_max_tokens": canary.max_tokens,
        "stream": False,
        "streaming": False,
    }
    declared = {entry["name"]: entry for entry in config.get("input", [])}
    if canary.input_name not in declared:
        raise CanaryError(
            f"the model has no input {canary.input_name!r}; it has {', '.join(declared) or 'none'}"
        )
    return [
        _tensor(declared[name], value, batched=batched) for name, value in wanted.items() if name in declared
    ]


def _tensor(entry: Mapping[str, Any], value: Any, *, batched: bool) -> Tensor:
    kind = str(entry["data_type"]).removeprefix("TYPE_").replace("STRING", "BYTES")
    shape = (1,) * (len(entry.get("dims") or [1]) + (1 if batched else 0))
    return Tensor(entry["name"], kind, shape, value)
