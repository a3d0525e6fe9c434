"""What the operator was installed with. Read once at start, from the environment that the chart sets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from preheat.api.constants import PROMETHEUS_LABEL_DEPLOYMENT
from preheat.api.quantity import parse_bytes

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
    node_budget_bytes: int | None = None
    """The most bytes of weights on one node, None for as many as its disk has. A node's annotation goes before it."""
    namespace_budget_bytes: int | None = None
    """The most bytes of one namespace's weights on one node, None for no limit."""
    verify_bytes_per_second: int | None = None
    """How fast weights that lie on a disk are read to be verified again, None for as fast as it goes."""
    hf_endpoint: str = "https://huggingface.co"
    neighbours: bool = True
    """Whether a node that has weights may serve them to others."""
    front: bool = True
    """Whether a front is installed that answers and counts requests for what is scaled to zero."""
    prometheus_url: str = ""
    """A Prometheus that scrapes agents, asked where they are silent and for the week before. Empty: none is asked."""
    prometheus_labels: str = ""
    """What tells this cluster's series from others' in it: `cluster=eu,tenant=a`."""
    prometheus_token_file: str = ""
    """Its bearer token, read anew with each question."""
    prometheus_ca_file: str = ""
    """Who signs its certificate, in place of those that the system trusts."""
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
            name: _read(name, value)
            for name in cls.__dataclass_fields__
            if (value := environment.get(f"PREHEAT_{name.upper()}", ""))
        }
        config = cls(**given)
        if not re.fullmatch(r"(/[^/\s]+){2,}", config.cache_root) or ".." in config.cache_root.split("/"):
            raise ValueError(
                f"PREHEAT_CACHE_ROOT is {config.cache_root!r}: it must be an absolute path of two parts or more, without "
                "'//' and '..', for example /var/lib/preheat: the kubelet gives all that lies below it to Preheat's group"
            )
        _check_prometheus(config)
        return config

    @property
    def prometheus_matchers(self) -> dict[str, str]:
        """Return ``prometheus_labels`` as labels and their values."""
        pairs = (pair.partition("=") for pair in self.prometheus_labels.split(",") if pair.strip())
        return {name.strip(): value.strip() for name, _, value in pairs}


def _check_prometheus(config: OperatorConfig) -> None:
    if config.prometheus_url and not _is_base_url(config.prometheus_url):
        raise ValueError(
            "PREHEAT_PROMETHEUS_URL must be http:// or https://, a host and no more than a path, for example "
            "http://prometheus.monitoring:9090: a token is a file, PREHEAT_PROMETHEUS_TOKEN_FILE"
        )
    for pair in filter(None, (each.strip() for each in config.prometheus_labels.split(","))):
        if not re.fullmatch(r"_?[a-zA-Z][a-zA-Z0-9_]*\s*=\s*[^,]+", pair):
            raise ValueError(
                f"PREHEAT_PROMETHEUS_LABELS has {pair!r}: it must be labels and their values, for example cluster=eu,tenant=a"
            )
        if pair.partition("=")[0].strip() in {"namespace", PROMETHEUS_LABEL_DEPLOYMENT}:
            raise ValueError(
                f"PREHEAT_PROMETHEUS_LABELS has {pair!r}: each question names the namespace and the LLMDeployment that it is about"
            )


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    bare = url.username is None and not url.query and not url.fragment
    return url.scheme in {"http", "https"} and bool(url.hostname) and bare


def _read(name: str, value: str) -> Any:
    if name.endswith("_seconds"):
        return _seconds(name, value)
    if name in {"neighbours", "front"}:
        return _switch(name, value)
    return _bytes(name, value) if "_bytes" in name else value


def _switch(name: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError(f"PREHEAT_{name.upper()} is {value!r}: it must be true or false")
    return value == "true"


def _bytes(name: str, value: str) -> int:
    try:
        amount = parse_bytes(value)
    except ValueError as error:
        raise ValueError(f"PREHEAT_{name.upper()}: {error}") from None
    if amount == 0 and name.endswith("_per_second"):
        raise ValueError(
            f"PREHEAT_{name.upper()} is {value!r}: at that speed nothing is ever verified; leave it out"
        )
    return amount


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
