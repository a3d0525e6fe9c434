"""What config.pbtxt says about the model, parsed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class InvalidSettingsError(Exception):
    """The model cannot be loaded as configured; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The `parameters` of config.pbtxt.

    ``gguf_path``: the file, or a folder with exactly one. ``context_tokens``: for all slots together (n_ctx).
    ``slots``: requests that are generated at once (n_parallel). ``threads``: for computing (n_threads).
    ``load_bytes_per_second``: pace of reading the file before it is mapped; 0 is "as fast as it goes".
    """

    gguf_path: Path
    context_tokens: int
    slots: int
    threads: int
    load_bytes_per_second: int


def parse_settings(model_config: Mapping[str, Any]) -> Settings:
    """Return the settings in Triton's model config (as it hands it to initialize). Raises InvalidSettingsError."""
    raw = model_config.get("parameters", {})
    parameters = {key: str(value["string_value"]) for key, value in raw.items()}
    if not parameters.get("gguf_path"):
        raise InvalidSettingsError(
            "parameter gguf_path is missing: name the GGUF file, or the folder it lies in"
        )
    settings = Settings(
        gguf_path=Path(parameters["gguf_path"]),
        context_tokens=_number(parameters, "n_ctx", 2048, least=64),
        slots=_number(parameters, "n_parallel", 2, least=1),
        threads=_number(parameters, "n_threads", 1, least=1),
        load_bytes_per_second=_number(parameters, "load_bytes_per_second", 0, least=0),
    )
    if settings.context_tokens < 64 * settings.slots:
        raise InvalidSettingsError(
            f"n_ctx is {settings.context_tokens} for {settings.slots} slots: give each at least 64 tokens"
        )
    return settings


def _number(parameters: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = parameters.get(name, str(default))
    try:
        number = int(text)
    except ValueError as error:
        raise InvalidSettingsError(f"parameter {name} must be a whole number, was {text!r}") from error
    if number < least:
        raise InvalidSettingsError(f"parameter {name} must be at least {least}, was {number}")
    return number
