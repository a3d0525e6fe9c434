"""What the operator was installed with. Read once at start, from the environment that the chart sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DEFAULT_IMAGES: Final = {
    "agent": "ghcr.io/preheat-dev/agent:0.1.0",
    "warmer": "ghcr.io/preheat-dev/warmer:0.1.0",
    "VLLM": "nvcr.io/nvidia/tritonserver:25.10-vllm-python-py3",
    "TensorRTLLM": "nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3",
    "LlamaCpp": "ghcr.io/preheat-dev/triton-cpu:0.1.0",
    "Repository": "nvcr.io/nvidia/tritonserver:25.10-py3",
}


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """The installation's settings. Each comes from the variable PREHEAT_<NAME>."""

    namespace: str = "preheat-system"
    """Where the operator runs: only this namespace may reach agents and warmers."""
    agent_image: str = DEFAULT_IMAGES["agent"]
    warmer_image: str = DEFAULT_IMAGES["warmer"]
    vllm_image: str = DEFAULT_IMAGES["VLLM"]
    tensorrtllm_image: str = DEFAULT_IMAGES["TensorRTLLM"]
    llamacpp_image: str = DEFAULT_IMAGES["LlamaCpp"]
    repository_image: str = DEFAULT_IMAGES["Repository"]
    cache_root: str = "/var/lib/preheat"
    """Folder on every node under which weights lie, absolute."""
    hf_endpoint: str = "https://huggingface.co"
    api_timeout_seconds: float = 30.0
    """How long the API server may take for one answer."""
    resync_seconds: float = 300.0
    """How often everything is listed anew: watches miss deletions, and nothing else finds them out."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "OperatorConfig":
        """Return the settings. A variable that is not set or empty keeps its default.

        Raises ValueError, with the variable's name, for a value that cannot work.
        """
        given: dict[str, Any] = {
            name: _seconds(name, value) if name.endswith("_seconds") else value
            for name in cls.__dataclass_fields__
            if (value := environment.get(f"PREHEAT_{name.upper()}", ""))
        }
        config = cls(**given)
        if not config.cache_root.startswith("/") or ".." in config.cache_root.split("/"):
            raise ValueError(
                f"PREHEAT_CACHE_ROOT is {config.cache_root!r}: it must be an absolute path without '..'"
            )
        return config


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise ValueError(
            f"PREHEAT_{name.upper()} is {value!r}: it must be a number of seconds from 1 to 86400"
        )
    return seconds
