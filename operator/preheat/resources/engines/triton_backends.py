"""The model repository of each Triton backend: pure text from the spec.

Field names were checked against each backend's own documentation and source: docs/decisions/0003.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from preheat.api.constants import WEIGHTS_DIRECTORY
from preheat.api.llmdeployment import LLMDeployment, Precision
from preheat.api.modelcache import ModelFormat
from preheat.errors import InvalidSpec
from preheat.resources.engines import pbtxt
from preheat.resources.engines.pbtxt import Enum, Value, tensor

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir; the root is read-only
    "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108
    "TRITON_CACHE_DIR": "/tmp/triton",  # noqa: S108
}
"""No engine fetches anything: the weights are here. What it compiles goes to the pod's /tmp."""


@dataclass(frozen=True, slots=True)
class Model:
    """What one backend needs. ``files`` are paths below the repository. ``repository``: another folder."""

    names: tuple[str, ...]
    files: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    repository: str | None = None


def vllm(service: LLMDeployment) -> Model:
    """Render Triton's vLLM backend: model.json holds vLLM's engine arguments."""
    _refuse_format(service, {ModelFormat.GGUF, ModelFormat.ONNX, ModelFormat.TENSORRT}, "VLLM")
    spec = service.spec.model
    arguments: dict[str, Any] = {
        "model": WEIGHTS_DIRECTORY,
        "served_model_name": service.name,
        "gpu_memory_utilization": 0.9,
        "disable_log_stats": False,
        **_parallel(service),
        **_set("max_model_len", spec.context_length_tokens),
        **_set("max_num_seqs", spec.max_batch_size),
        **_vllm_precision(spec.precision),
        **_options(service),
    }
    config: dict[str, Value] = {
        "backend": "vllm",
        "instance_group": [{"count": 1, "kind": Enum("KIND_MODEL")}],
        # vLLM's own gauges on Triton's metrics port: its queue is inside itself, Triton's is always empty.
        "parameters": pbtxt.parameters({"REPORT_CUSTOM_METRICS": "true"}),
    }
    return Model(
        names=(service.name,),
        files={
            f"{service.name}/config.pbtxt": pbtxt.render(config),
            f"{service.name}/1/model.json": json.dumps(arguments, indent=2, sort_keys=True) + "\n",
        },
        environment={**OFFLINE, "VLLM_CACHE_ROOT": "/tmp/vllm", "VLLM_NO_USAGE_STATS": "1"},  # noqa: S108
    )


def tensorrtllm(service: LLMDeployment) -> Model:
    """Render TensorRT-LLM's LLM API model: its model.py lies in the image, model.yaml holds the arguments."""
    unfit = {ModelFormat.GGUF, ModelFormat.ONNX, ModelFormat.PICKLE, ModelFormat.TENSORRT}
    _refuse_format(service, unfit, "TensorRTLLM")
    spec = service.spec.model
    arguments: dict[str, Any] = {
        "model": WEIGHTS_DIRECTORY,
        "backend": "pytorch",
        **_parallel(service),
        **_set("max_seq_len", spec.context_length_tokens),
        **_set("max_batch_size", spec.max_batch_size),
        **_trtllm_precision(spec.precision),
        **_options(service),
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    sampling = {
        "max_tokens": "INT32",
        "temperature": "FP32",
        "top_k": "INT32",
        "top_p": "FP32",
        "seed": "UINT64",
    }
    config: dict[str, Value] = {
        "backend": "python",
        "input": [
            tensor("text_input", "STRING", -1),
            tensor("streaming", "BOOL", optional=True),
            *(tensor(f"sampling_param_{name}", kind, optional=True) for name, kind in sampling.items()),
            tensor("sampling_param_stop", "STRING", -1, optional=True),
            tensor("sampling_param_exclude_input_from_output", "BOOL", optional=True),
            tensor("return_finish_reason", "BOOL", optional=True),
            tensor("stop", "BOOL", optional=True),
        ],
        "output": [tensor("text_output", "STRING", -1), tensor("finish_reason", "STRING", -1)],
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
    }
    return Model(
        names=(service.name,),
        files={
            f"{service.name}/config.pbtxt": pbtxt.render(config),
            f"{service.name}/1/model.yaml": yaml.safe_dump(arguments, sort_keys=True),
            f"{service.name}/1/model.py": _TRTLLM_LOADER,
        },
        environment={**OFFLINE, "TRTLLM_NO_USAGE_STATS": "1"},
    )


_TRTLLM_LOADER = '''\
"""Runs the model.py that the image brings along; model.yaml beside this file says what it loads."""

import importlib.util
import sys

FOLDER = "/app/all_models/llmapi/tensorrt_llm/1"
sys.path.insert(0, FOLDER)  # its helpers
_spec = importlib.util.spec_from_file_location("trtllm_model", f"{FOLDER}/model.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
TritonPythonModel = _module.TritonPythonModel
'''

LLAMACPP_OPTIONS = frozenset({"n_ctx", "n_parallel", "n_threads", "load_bytes_per_second"})


def llamacpp(service: LLMDeployment) -> Model:
    """Render our Python backend on llama.cpp (runtime/engines/triton)."""
    if service.spec.model.format is not ModelFormat.GGUF:
        raise InvalidSpec(
            f"backend LlamaCpp loads GGUF files only, and spec.model.format is {service.spec.model.format}: "
            "set format: GGUF and a GGUF model, or choose another backend"
        )
    unknown = sorted(set(service.spec.runtime.options) - LLAMACPP_OPTIONS)
    if unknown:
        raise InvalidSpec(
            f"spec.runtime.options: backend LlamaCpp knows no {unknown[0]!r}; it knows "
            + ", ".join(sorted(LLAMACPP_OPTIONS))
        )
    spec = service.spec.model
    values = {
        "gguf_path": WEIGHTS_DIRECTORY,
        "n_ctx": str(spec.context_length_tokens or 2048),
        "n_parallel": str(spec.max_batch_size or 2),
        "n_threads": "1",
        "load_bytes_per_second": "0",
        **service.spec.runtime.options,
    }
    config: dict[str, Value] = {
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": [
            tensor("text_input", "STRING"),
            tensor("stream", "BOOL", optional=True),
            tensor("max_tokens", "INT32", optional=True),
            tensor("temperature", "FP32", optional=True),
            tensor("chat", "BOOL", optional=True),
        ],
        "output": [tensor("text_output", "STRING"), tensor("output_tokens", "INT32")],
        "instance_group": [{"kind": Enum("KIND_CPU"), "count": 1}],
        "parameters": pbtxt.parameters(values),
    }
    return Model(
        names=(service.name,),
        files={
            f"{service.name}/config.pbtxt": pbtxt.render(config),
            f"{service.name}/1/model.py": "from preheat_llamacpp import TritonPythonModel  # noqa: F401\n",
        },
    )


def repository(service: LLMDeployment) -> Model:
    """Serve the weights as they are: a complete Triton model repository of the user's own."""
    named = [name.strip() for name in service.spec.runtime.options.get("models", "").split(",")]
    names = tuple(name for name in named if name)
    if not names:
        raise InvalidSpec(
            "backend Repository needs spec.runtime.options.models: the models to load, in order, separated by "
            "commas; the last one is asked the canary's question"
        )
    unknown = sorted(set(service.spec.runtime.options) - {"models"})
    if unknown:
        raise InvalidSpec(
            f"spec.runtime.options: backend Repository knows no {unknown[0]!r}; it knows models"
        )
    return Model(names=names, files={}, environment=OFFLINE, repository=WEIGHTS_DIRECTORY)


def _refuse_format(service: LLMDeployment, unfit: set[ModelFormat], backend: str) -> None:
    given = service.spec.model.format
    if given in unfit:
        raise InvalidSpec(
            f"backend {backend} cannot load spec.model.format {given}: use a safetensors version of the model, "
            "or backend LlamaCpp for GGUF, or Repository for what Triton loads itself"
        )


def _parallel(service: LLMDeployment) -> dict[str, int]:
    hardware = service.spec.hardware
    if hardware.parallelism is None:
        return {"tensor_parallel_size": hardware.gpu.count, "pipeline_parallel_size": 1}
    split = hardware.parallelism
    return {"tensor_parallel_size": split.tensor, "pipeline_parallel_size": split.pipeline}


def _set(name: str, value: int | None) -> dict[str, int]:
    return {} if value is None else {name: value}


_DTYPES = {Precision.FP32: "float32", Precision.BF16: "bfloat16", Precision.FP16: "float16"}


def _vllm_precision(precision: Precision | None) -> dict[str, str]:
    """Return vLLM's arguments for a precision: FP8 is quantized while loading, INT8 and INT4 are the checkpoint's."""
    if precision is None:
        return {}
    if precision is Precision.FP8:
        return {"quantization": "fp8"}
    return {"dtype": _DTYPES.get(precision, "auto")}


def _trtllm_precision(precision: Precision | None) -> dict[str, str]:
    """Return TensorRT-LLM's arguments: FP8 and integers are read from the checkpoint's own quantization."""
    return {"dtype": _DTYPES.get(precision, "auto")} if precision else {}


def _options(service: LLMDeployment) -> dict[str, Any]:
    """Return the user's options with their types: what reads as JSON is JSON, the rest is text."""
    return {name: _typed(text) for name, text in service.spec.runtime.options.items()}


DEEPEST = 32
"""Levels of an option's JSON, one in the other. No backend knows one with so many, and no library writes any number."""


def _typed(text: str) -> Any:
    try:
        value = json.loads(text)
        return value if _levels(value) <= DEEPEST else text
    except (ValueError, RecursionError):
        return text


def _levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_levels, inner), default=0)
