"""What an engine is told on one GPU type: spec.runtime with what perType lays over it."""

from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment


def on_type(service: LLMDeployment, gpu_type: GPUType) -> LLMDeployment:
    """Return the service as it is rendered for one GPU type: more arguments after its own, options over its own."""
    runtime = service.spec.runtime
    own = next((one for one in runtime.per_type if one.type is gpu_type), None)
    if own is None:
        return service
    changed = {"args": [*runtime.args, *own.args], "options": {**runtime.options, **own.options}}
    spec = service.spec.model_copy(update={"runtime": runtime.model_copy(update=changed)})
    return service.model_copy(update={"spec": spec})
