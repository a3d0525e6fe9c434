"""What each backend is told, in full; every config.pbtxt is read back by Triton's own protobuf."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources.engines import ENGINES
from preheat.resources.engines.pbtxt import parameters, render
from tritonclient.grpc import model_config_pb2

from tests.builders import a_service
from tests.golden.golden import check

HERE = Path(__file__).parent / "engines"
HUB = {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct", "revision": "0e9e39f", "format": "Safetensors"}

CASES: dict[str, dict[str, Any]] = {
    "vllm": {"model": HUB, "runtime": {"backend": "VLLM"}},
    "vllm-tuned": {
        "model": {**HUB, "precision": "BF16", "contextLengthTokens": 8192, "maxBatchSize": 64},
        "hardware": {
            "gpu": {"types": ["nvidia-h100-80gb"], "count": 4},
            "parallelism": {"tensor": 2, "pipeline": 2},
        },
        "runtime": {
            "backend": "VLLM",
            "options": {"gpu_memory_utilization": "0.8", "enable_prefix_caching": "true"},
        },
    },
    "vllm-fp8": {"model": {**HUB, "precision": "FP8"}, "runtime": {"backend": "VLLM"}},
    "tensorrtllm": {
        "model": {**HUB, "precision": "FP16", "contextLengthTokens": 4096, "maxBatchSize": 32},
        "hardware": {"gpu": {"types": ["nvidia-l4"], "count": 2}},
        "runtime": {
            "backend": "TensorRTLLM",
            "options": {"kv_cache_config": '{"free_gpu_memory_fraction": 0.8}'},
        },
    },
    "llamacpp": {"runtime": {"backend": "LlamaCpp", "options": {"n_threads": "4"}}},
    "repository": {
        "model": {"uri": "http://store/repository/", "format": "ONNX"},
        "runtime": {"backend": "Repository", "options": {"models": "tokenizer, ensemble"}},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_engine(case: str) -> None:
    rendering = ENGINES["Triton"].render(a_service(**CASES[case]), OperatorConfig())  # type: ignore[index]
    parts = [f"image: {rendering.image}", "command:", *(f"  {word}" for word in rendering.command)]
    parts += [f"models: {', '.join(rendering.models)}", "environment:"]
    parts += [f"  {name}={value}" for name, value in sorted(rendering.environment.items())]
    for path, text in sorted(rendering.files.items()):
        parts += ["", f"=== {path}", text.rstrip()]
        if path.endswith(".pbtxt"):
            text_format.Parse(text, model_config_pb2.ModelConfig())
    check(HERE / f"{case}.txt", "\n".join(parts) + "\n")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "GGUF for vLLM": ({"runtime": {"backend": "VLLM"}}, "backend VLLM cannot load"),
    "pickle for TensorRT-LLM": (
        {"model": {**HUB, "format": "Pickle"}, "runtime": {"backend": "TensorRTLLM"}},
        "cannot load spec.model.format Pickle",
    ),
    "safetensors for llama.cpp": ({"model": HUB}, "loads GGUF files only"),
    "an option that llama.cpp does not know": (
        {"runtime": {"options": {"n_ctxx": "1"}}},
        "knows no 'n_ctxx'",
    ),
    "a repository without models": ({"runtime": {"backend": "Repository"}}, "spec.runtime.options.models"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_backend_cannot_do_is_refused_with_what_to_do(case: str) -> None:
    spec, words = REFUSED[case]
    with pytest.raises(InvalidSpec, match=words):
        ENGINES["Triton"].render(a_service(**spec), OperatorConfig())  # type: ignore[index]


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=5))
def test_no_text_breaks_out_of_its_field(values: dict[str, str]) -> None:
    try:
        for text in [*values, *values.values()]:
            text.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: no API server takes that
    read = text_format.Parse(render({"parameters": parameters(values)}), model_config_pb2.ModelConfig())
    assert {key: value.string_value for key, value in read.parameters.items()} == values


@pytest.mark.parametrize("backend", ["VLLM", "TensorRTLLM"])
@pytest.mark.parametrize("text", ["[" * 1024, "[" * 500 + "]" * 500, "[" * 60 + "]" * 60])
def test_an_option_that_is_nested_without_end_is_text(backend: str, text: str) -> None:
    model = {"uri": "http://store/model/", "format": "Safetensors"}
    service = a_service(model=model, runtime={"backend": backend, "options": {"x": text, "y": "[[1], [2]]"}})
    files = ENGINES[service.spec.runtime.engine].render(service, OperatorConfig()).files
    told = next(
        yaml.safe_load(body) for name, body in files.items() if name.endswith(("model.json", "model.yaml"))
    )
    assert (told["x"], told["y"]) == (text, [[1], [2]])
