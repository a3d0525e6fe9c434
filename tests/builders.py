"""Small valid things for tests: show only what matters to the test."""

from typing import Any

from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.decide.observed import NodeView, PodView, Taint


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a deep merge."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


SERVICE: dict[str, Any] = {
    "model": {"uri": "http://store/model/", "format": "GGUF"},
    "hardware": {"gpu": {"types": ["nvidia-l4"]}},
    "runtime": {"backend": "LlamaCpp"},
}


def a_service(name: str = "llama", status: dict[str, Any] | None = None, **spec: Any) -> LLMDeployment:
    """An LLMDeployment with parts of its spec replaced."""
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 3}
    return parse(LLMDeployment, {"metadata": metadata, "spec": merged(SERVICE, spec), "status": status})


def parse_service(body: dict[str, Any]) -> LLMDeployment:
    """An LLMDeployment as somebody applies it."""
    return parse(LLMDeployment, body)


def a_cache(name: str = "weights", status: dict[str, Any] | None = None, labels: dict[str, str] | None = None,
            **spec: Any) -> ModelCache:  # fmt: skip
    """A ModelCache with parts of its spec replaced."""
    base = {"source": {"uri": "http://store/model/", "format": "GGUF"}}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 1, "labels": labels}
    return parse(ModelCache, {"metadata": metadata, "spec": merged(base, spec), "status": status})


def a_node(name: str = "n1", product: str = "NVIDIA-L4", gpus: int = 2, caches: frozenset[str] = frozenset(),
           taints: tuple[Taint, ...] = (), *, ready: bool = True, schedulable: bool = True,
           labels: dict[str, str] | None = None, **more: Any) -> NodeView:  # fmt: skip
    """A node with GPUs."""
    return NodeView(
        name=name,
        labels={"nvidia.com/gpu.product": product, **(labels or {})},
        taints=taints,
        ready=ready,
        schedulable=schedulable,
        allocatable={"nvidia.com/gpu": gpus},
        caches=caches,
        **more,
    )


def a_pod(name: str = "pod", revision: str = "r", gpu_type: str = "nvidia-l4", **fields: Any) -> PodView:
    """A model pod that is scheduled and not ready."""
    given: dict[str, Any] = {
        "uid": f"uid-{name}", "job_node": None, "node": "n1", "ip": "10.0.0.1", "phase": "Running",
        "ready": False, "deleting": False, "scheduled": True, "unschedulable": None, "waiting_reason": None,
        "waiting_message": None, "restarts": 0, "last_exit": None, "termination_message": None,
    }  # fmt: skip
    return PodView(name=name, revision=revision, gpu_type=gpu_type, **{**given, **fields})
