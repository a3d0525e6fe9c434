"""The contract between an engine and the pod it runs in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that is particular to one engine and backend.

    ``files``: path below REPOSITORY_DIRECTORY -> text. ``command``: argv of the engine's container.
    ``environment``: more variables. ``models``: what the agent loads, in order; the last is asked the canary.
    ``process``: name of the engine's process, as /proc shows it.
    ``input_name`` / ``output_name``: tensors of the canary's question and answer.
    """

    image: str
    command: tuple[str, ...]
    files: Mapping[str, str]
    models: tuple[str, ...]
    process: str
    environment: Mapping[str, str] = field(default_factory=dict)
    input_name: str = "text_input"
    output_name: str = "text_output"


class Engine(Protocol):
    """How one inference server is told what to serve."""

    def render(self, service: LLMDeployment, config: OperatorConfig) -> Rendering:
        """Return what this engine needs for this service. Pure.

        Raises preheat.errors.InvalidSpec when the spec asks for something the backend cannot do.
        """
        ...
