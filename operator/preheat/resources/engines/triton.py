"""Triton, started empty under explicit model control: the agent loads the model over the repository API.

That API can run code, so it is closed to everybody but the agent: it wants a header with the pod's uid, which
only those know who may read pods.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from preheat.api.constants import PORT_GRPC, PORT_HTTP, PORT_METRICS, REPOSITORY_DIRECTORY
from preheat.api.llmdeployment import Backend, LLMDeployment
from preheat.config import OperatorConfig
from preheat.resources.engines.base import Rendering
from preheat.resources.engines.triton_backends import Model, llamacpp, repository, tensorrtllm, vllm

MIN_EXIT_SECONDS = 5
_RESTRICTED = "model-repository:admin-key=$(POD_UID)"


@dataclass(frozen=True, slots=True)
class _Entry:
    """How a backend is rendered, and which image of the installation it runs in."""

    render: Callable[[LLMDeployment], Model]
    image: Callable[[OperatorConfig], str]


_BACKENDS: Mapping[Backend, _Entry] = {
    Backend.VLLM: _Entry(vllm, lambda config: config.vllm_image),
    Backend.TENSORRT_LLM: _Entry(tensorrtllm, lambda config: config.tensorrtllm_image),
    Backend.LLAMA_CPP: _Entry(llamacpp, lambda config: config.llamacpp_image),
    Backend.REPOSITORY: _Entry(repository, lambda config: config.repository_image),
}


class TritonEngine:
    """Renders what a Triton pod needs."""

    def render(self, service: LLMDeployment, config: OperatorConfig) -> Rendering:
        """Return the rendering for the service's backend.

        Raises InvalidSpec when the backend cannot do what the spec asks.
        """
        runtime = service.spec.runtime
        entry = _BACKENDS[runtime.backend]
        model = entry.render(service)
        return Rendering(
            image=runtime.image or entry.image(config),
            command=(
                "tritonserver",
                f"--model-repository={model.repository or REPOSITORY_DIRECTORY}",
                "--model-control-mode=explicit",
                f"--http-port={PORT_HTTP}",
                f"--grpc-port={PORT_GRPC}",
                f"--metrics-port={PORT_METRICS}",
                f"--exit-timeout-secs={max(MIN_EXIT_SECONDS, runtime.drain_seconds)}",
                "--log-format=ISO8601",
                f"--http-restricted-api={_RESTRICTED}",
                f"--grpc-restricted-protocol={_RESTRICTED}",
                *runtime.args,
            ),
            files=model.files,
            models=model.names,
            process="tritonserver",
            environment=model.environment,
        )
