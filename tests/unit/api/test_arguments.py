"""Arguments of the engine that are Preheat's own: refused in full and shortened, and no others with them."""

import re
from typing import Any

import pytest
from preheat.api.crd import definitions

OPTIONS = (
    "allow-cpu-metrics", "allow-gpu-metrics", "allow-sagemaker", "allow-vertex-ai", "backend-config",
    "disable-auto-complete-config", "exit-on-error", "grpc-header-forward-pattern", "grpc-infer-thread-count",
    "grpc-keepalive-time", "http-header-forward-pattern", "http-max-input-size", "http-thread-count", "log-verbose",
    "metrics-config", "metrics-interval-ms", "model-config-name", "model-load-thread-count", "model-namespacing",
    "pinned-memory-pool-byte-size", "rate-limit", "repository-poll-secs", "response-cache-byte-size",
    "reuse-http-port", "strict-readiness", "trace-config",
)  # fmt: skip
"""Others of tritonserver 2.6x (src/command_line_parser.cc)."""


@pytest.fixture(scope="module")
def pattern() -> str:
    runtime: Any = definitions()["llmdeployments.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for field in ("spec", "runtime", "args"):
        runtime = runtime["properties"][field]
    rules = runtime["x-kubernetes-validations"]
    found = [re.search(r"matches\('([^']*)'\)", rule["rule"]) for rule in rules]
    return "|".join(f"({pattern[1]})" for pattern in found if pattern is not None)


@pytest.mark.parametrize(
    "argument",
    [
        "--http-port=9000", "--http-port", "--http-por=9000", "--model-control=none", "--allow-htt=false",
        "--http-address=127.0.0.1", "--model-repository=/data", "--model-store=/data", "--load-model=x", "--allow-metrics",
        "--exit-timeout-secs=0", "--grpc-restricted-protocol=x", "--metrics-port=1", "-http-port=9000", "--grpc-use-ssl=1",
        "$(ANY)", "--$(ANY)=9000", "--http-$(ANY)", "-$(A)$(B)=1",
    ],
)  # fmt: skip
def test_what_is_preheats_own_is_refused(pattern: str, argument: str) -> None:
    assert re.search(pattern, argument)


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_not_is_not(pattern: str, option: str) -> None:
    assert not re.search(pattern, f"--{option}=1")
    assert not re.search(pattern, f"--{option}")
    assert not re.search(pattern, "true")
    assert not re.search(pattern, f"--{option}=$(VALUE)")
    assert not re.search(pattern, f"--{option}=a$(VALUE)=$(OTHER)")
