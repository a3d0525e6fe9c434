"""Triton, started empty under explicit model control: the agent loads the model over the repository API."""

from preheat.api.constants import PORT_GRPC, PORT_HTTP, PORT_METRICS
from preheat.api.llmdeployment import Backend, LLMDeployment
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources.engines.base import REPOSITORY_DIRECTORY, WEIGHTS_DIRECTORY, Rendering


class TritonEngine:
    """Renders what a Triton pod needs."""

    def render(self, service: LLMDeployment, config: OperatorConfig) -> Rendering:
        """Return the rendering for the service's backend."""
        runtime = service.spec.runtime
        if runtime.backend is not Backend.LLAMA_CPP:
            raise InvalidSpec("not yet")
        pars = {
            "gguf_path": WEIGHTS_DIRECTORY,
            "n_ctx": "2048",
            "n_parallel": "2",
            "n_threads": "1",
            **runtime.options,
        }
        params = "".join(
            f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in sorted(pars.items())
        )
        pbtxt = (
            """backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "chat" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
]
output [
  { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "output_tokens" data_type: TYPE_INT32 dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
            + params
        )
        name = service.name
        return Rendering(
            image=runtime.image or config.llamacpp_image,
            command=(
                "tritonserver",
                f"--model-repository={REPOSITORY_DIRECTORY}",
                "--model-control-mode=explicit",
                f"--http-port={PORT_HTTP}",
                f"--grpc-port={PORT_GRPC}",
                f"--metrics-port={PORT_METRICS}",
                f"--exit-timeout-secs={max(5, runtime.drain_seconds)}",
                "--http-restricted-api=model-repository:admin-key=$(POD_UID)",
                "--grpc-restricted-protocol=model-repository:admin-key=$(POD_UID)",
                *runtime.args,
            ),
            files={
                f"{name}/config.pbtxt": pbtxt,
                f"{name}/1/model.py": "from preheat_llamacpp import TritonPythonModel  # noqa: F401\n",
            },
            models=(name,),
            process="tritonserver",
        )
