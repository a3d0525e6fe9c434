"""The agent's configuration: the JSON in PREHEAT_AGENT_CONFIG, read once (contract: ../README.md)."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "PREHEAT_AGENT_CONFIG"


class ConfigError(ValueError):
    """The configuration cannot work. The message names the field."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The real question. Times in seconds."""

    prompt: str
    max_tokens: int
    expect: re.Pattern[str] | None
    timeout_seconds: float
    period_seconds: float
    failure_threshold: int
    input_name: str
    output_name: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the agent is told. Times in seconds."""

    model_name: str
    models: tuple[str, ...]
    engine_http: str
    engine_grpc: str
    engine_metrics: str
    engine_process: str
    weights_directory: str
    listen_port: int
    admin_key: str | None
    stall_seconds: float | None
    """None: by what is seen and expected (stall.py)."""
    drain_timeout_seconds: float
    endpoint_delay_seconds: float
    canary: Canary
    metrics_port: int | None = None
    """Where /metrics alone is served, for whoever may not reach the rest. None: nowhere."""
    check_weights: bool = True
    """Whether a warmer's manifest lies beside the weights, to be looked at before each load. None does in an image."""

    @property
    def spread(self) -> float:
        """A number from 0 to 1, another for each pod: what replicas do by themselves, they do not do together."""
        return zlib.crc32((self.admin_key or self.model_name).encode()) / 2**32


def from_environment(environment: Mapping[str, str]) -> Config:
    """Return the configuration. Raises ConfigError with the field that is missing or wrong."""
    text = environment.get(VARIABLE)
    if not text:
        raise ConfigError(f"{VARIABLE} is not set: it holds the agent's configuration as JSON")
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{VARIABLE} must be a JSON object")
    try:
        return _config(given)
    except KeyError as error:
        raise ConfigError(f"{VARIABLE}: field {error} is missing") from error
    except (TypeError, ValueError, re.error) as error:
        raise ConfigError(f"{VARIABLE}: {error}") from error


def _config(given: Mapping[str, Any]) -> Config:
    canary = given["canary"]
    expect = canary.get("expect")
    models = tuple(str(model) for model in given.get("models") or [given["modelName"]])
    return Config(
        model_name=str(given["modelName"]),
        models=models,
        engine_http=str(given["engineHTTP"]).rstrip("/"),
        engine_grpc=str(given["engineGRPC"]),
        engine_metrics=str(given["engineMetrics"]),
        engine_process=str(given.get("engineProcess", "tritonserver")),
        weights_directory=str(given["weightsDirectory"]),
        listen_port=int(given.get("listenPort", 9080)),
        metrics_port=int(port) if (port := given.get("metricsPort")) is not None else None,
        admin_key=given.get("adminKey") or None,
        stall_seconds=float(stall) if (stall := given.get("stallSeconds")) is not None else None,
        drain_timeout_seconds=float(given.get("drainTimeoutSeconds", 60)),
        endpoint_delay_seconds=float(given.get("endpointDelaySeconds", 3)),
        canary=Canary(
            prompt=str(canary["prompt"]),
            max_tokens=int(canary.get("maxTokens", 8)),
            expect=re.compile(expect) if expect else None,
            timeout_seconds=float(canary.get("timeoutSeconds", 30)),
            period_seconds=float(canary.get("periodSeconds", 10)),
            failure_threshold=int(canary.get("failureThreshold", 2)),
            input_name=str(canary.get("inputName", "text_input")),
            output_name=str(canary.get("outputName", "text_output")),
        ),
        check_weights=bool(given.get("checkWeights", True)),
    )
