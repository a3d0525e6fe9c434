"""Writes Triton's config.pbtxt (protobuf text format), with every string escaped.

A message is a dict, a repeated field a list, a string a str, an enum an Enum(value).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Enum:
    """A bare word."""

    word: str


Value = str | int | bool | Enum | Mapping[str, "Value"] | Sequence["Value"]

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def render(message: Mapping[str, Value], indent: str = "") -> str:
    r"""Return the text of a message, one field a line.

    >>> print(render({"backend": "python", "parameters": {"key": 'a"b', "n": 1}}), end="")
    backend: "python"
    parameters {
      key: "a\"b"
      n: 1
    }
    """
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Value, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{render(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(_field(name, item, indent) for item in value)
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: str | int | bool | Enum) -> str:
    if isinstance(value, Enum):
        return value.word
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(_ESCAPES.get(c) or _printable(c) for c in value) + '"'


def _printable(char: str) -> str:
    if char.isprintable() and char.isascii():
        return char
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "replace"))


def tensor(name: str, kind: str, dims: int = 1, *, optional: bool = False) -> dict[str, Value]:
    """Return an input or output of a model."""
    described: dict[str, Value] = {"name": name, "data_type": Enum(f"TYPE_{kind}"), "dims": [dims]}
    return {**described, "optional": True} if optional else described


def parameters(values: Mapping[str, str]) -> list[Value]:
    """Return the `parameters` of a model."""
    return [{"key": key, "value": {"string_value": value}} for key, value in sorted(values.items())]
