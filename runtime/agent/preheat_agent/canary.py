"""The one door to tritonclient: asks the model a real question over gRPC and reads the answer.

What the model declares decides what is sent: only inputs that it has, shaped with a batch dimension where it
batches. A decoupled model (vLLM, TensorRT-LLM, our llama.cpp) is asked over a stream.
"""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from preheat_agent.config import Canary

_DTYPES: dict[str, Any] = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "UINT32": np.uint32,
                           "FP32": np.float32}  # fmt: skip

MATCH_SECONDS = 0.25
"""Processor time that `expect` may take on one answer."""


class CanaryError(Exception):
    """The answer is no good. The message says what it was."""


async def ask(address: str, model: str, canary: Canary) -> str:
    """Return the model's answer. Raises CanaryError for an error, no text, the wrong text or no answer in time."""
    try:
        async with asyncio.timeout(canary.timeout_seconds):
            text = await _ask(address, model, canary)
    except TimeoutError:
        raise CanaryError(f"no answer within {canary.timeout_seconds:g} s") from None
    except InferenceServerException as error:
        raise CanaryError(f"the engine answered: {error.message()}") from error
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


async def _ask(address: str, model: str, canary: Canary) -> str:
    client = grpc.InferenceServerClient(address)
    try:
        described = await client.get_model_config(model, as_json=True)
        config = described["config"]
        inputs = _inputs(config, canary)
        outputs = [grpc.InferRequestedOutput(canary.output_name)]
        if config.get("model_transaction_policy", {}).get("decoupled"):
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


def _inputs(config: dict[str, Any], canary: Canary) -> list[Any]:
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


def _tensor(entry: dict[str, Any], value: Any, *, batched: bool) -> Any:
    kind = str(entry["data_type"]).removeprefix("TYPE_").replace("STRING", "BYTES")
    shape = [1] * (len(entry.get("dims") or [1]) + (1 if batched else 0))
    if kind == "BYTES":
        data = np.array([str(value).encode()], dtype=np.object_).reshape(shape)
    else:
        data = np.array([value], dtype=_DTYPES[kind]).reshape(shape)
    tensor = grpc.InferInput(entry["name"], shape, kind)
    tensor.set_data_from_numpy(data)
    return tensor
