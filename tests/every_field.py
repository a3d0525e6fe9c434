"""Every field of both kinds, and where its effect is seen: in a child that is rendered, or in what is deleted.

``tests/unit/api/test_every_field.py`` walks the schema: a field that is not in these tables fails, and so does a
field without an effect. ``tests/integration/test_every_field.py`` applies the same objects to a real API server.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from preheat.api.crd import definitions
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.observed import Taint
from preheat.decide.plan import Apply, Delete, Plan
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation
from preheat.resources import serving

from tests.builders import a_node, merged

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()
NODES = [
    a_node("l4-1", gpus=8),
    a_node("l4-2", gpus=8, labels={"zone": "a"}),
    a_node("l4-3", gpus=8, taints=(Taint("team", "x", "NoSchedule"),)),
    a_node("a10g-1", "NVIDIA-A10G"),
]
DIGEST = "0" * 64
WHOLE = frozenset({"spec.template"})
"""Subtrees that count as one field here: they have tests of their own."""

Scene = Plan
Where = Callable[[Scene], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """How a field is set to what is not its default, and what is then seen where.

    ``base`` is the object in which the field means something; ``change`` is merged into it and sets the field.
    """

    change: Mapping[str, Any]
    where: Where
    seen: Any
    base: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnlyValue:
    """A field with one value today: there is nothing else to set, and nothing that could differ."""

    value: str


# --- where to look


def children(scene: Scene, kind: str) -> list[dict[str, Any]]:
    return [w.manifest for w in scene.writes if isinstance(w, Apply) and w.manifest["kind"] == kind]


def deployment(scene: Scene) -> Any:
    return children(scene, "Deployment")[0]


def pod(scene: Scene) -> Any:
    return deployment(scene)["spec"]["template"]["spec"]


def engine(scene: Scene) -> Any:
    return next(c for c in pod(scene)["containers"] if c["name"] == "engine")


def agent(scene: Scene) -> Any:
    (variable,) = [e for e in pod(scene)["initContainers"][0]["env"] if e["name"] == "PREHEAT_AGENT_CONFIG"]
    return json.loads(variable["value"])


def repository(scene: Scene, name: str) -> str:
    annotations = deployment(scene)["spec"]["template"]["metadata"]["annotations"]
    (text,) = [text for key, text in annotations.items() if key.endswith(name)]
    return str(text)


def engine_arguments(name: str) -> Where:
    return lambda scene: json.loads(repository(scene, "model.json")).get(name)


def canary(name: str) -> Where:
    return lambda scene: agent(scene)["canary"].get(name)


def limit(name: str) -> Where:
    return lambda scene: engine(scene)["resources"]["limits"].get(name)


def volume(name: str) -> Where:
    return lambda scene: next((v for v in pod(scene)["volumes"] if v["name"] == name), None)


def last_toleration(name: str) -> Where:
    return lambda scene: pod(scene)["tolerations"][-1].get(name)


def of_cache(*path: str) -> Where:
    def look(scene: Scene) -> Any:
        return _at(children(scene, "ModelCache")[0]["spec"], path)

    return look


def warmers(scene: Scene) -> list[str]:
    """The nodes that get a warmer."""
    return sorted(job["metadata"]["annotations"]["preheat.dev/node"] for job in children(scene, "Job"))


def warmer(scene: Scene) -> Any:
    return children(scene, "Job")[0]["spec"]["template"]["spec"]


def warmer_config(*path: str) -> Where:
    def look(scene: Scene) -> Any:
        (variable,) = warmer(scene)["containers"][0]["env"]
        return _at(json.loads(variable["value"]), path)

    return look


def warmer_secret(scene: Scene) -> Any:
    return [v["secret"]["secretName"] for v in warmer(scene)["volumes"] if "secret" in v]


def warmer_toleration(name: str) -> Where:
    return lambda scene: warmer(scene)["tolerations"][-1].get(name)


def deleted_revisions(scene: Scene) -> int:
    return sum(isinstance(w, Delete) and w.kind == "ControllerRevision" for w in scene.writes)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
    return value


# --- the tables

VLLM = {"model": {"format": "Safetensors"}, "runtime": {"backend": "VLLM"}}
HUB = {"model": {"uri": "hf://org/name", "revision": "main"}}
FILES = [{"path": "a.gguf", "sha256": DIGEST, "sizeBytes": 7}]
TOLERATION = {"key": "team", "operator": "Equal", "value": "x", "effect": "NoSchedule"}


def _hardware(**given: Any) -> dict[str, Any]:
    return {"hardware": given}


def _tolerates(**given: Any) -> dict[str, Any]:
    return _hardware(tolerations=[{**TOLERATION, **given}])


def _model(**given: Any) -> dict[str, Any]:
    return {"model": given}


def _runtime(**given: Any) -> dict[str, Any]:
    return {"runtime": given}


def _asks(**given: Any) -> dict[str, Any]:
    return {"health": {"canary": given}}


FOUR = merged(VLLM, _hardware(gpu={"count": 4}))

LLMDEPLOYMENT: dict[str, Field | OnlyValue] = {
    "spec.cache.maxBytesPerSecond": Field(
        {"cache": {"maxBytesPerSecond": 5000}}, of_cache("maxBytesPerSecond"), 5000
    ),
    "spec.cache.mode": OnlyValue("Node"),
    "spec.cache.warmNodes": Field({"cache": {"warmNodes": 1}}, of_cache("placement", "nodes"), 2),
    "spec.hardware.gpu.count": Field(_hardware(gpu={"count": 2}), limit("nvidia.com/gpu"), "2"),
    "spec.hardware.gpu.resourceName": Field(
        _hardware(gpu={"resourceName": "example.com/gpu"}), limit("example.com/gpu"), "1"
    ),
    "spec.hardware.gpu.types[]": Field(
        _hardware(gpu={"types": ["nvidia-a10g"]}),
        lambda scene: deployment(scene)["metadata"]["labels"]["preheat.dev/gpu-type"],
        "nvidia-a10g",
    ),
    "spec.hardware.nodeSelector{}": Field(
        _hardware(nodeSelector={"zone": "a"}),
        lambda scene: pod(scene)["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]["nodeSelectorTerms"][0]["matchExpressions"][1:],
        [{"key": "zone", "operator": "In", "values": ["a"]}],
    ),
    "spec.hardware.parallelism.pipeline": Field(
        _hardware(parallelism={"tensor": 1, "pipeline": 4}),
        engine_arguments("pipeline_parallel_size"),
        4,
        FOUR,
    ),
    "spec.hardware.parallelism.tensor": Field(
        _hardware(parallelism={"tensor": 2, "pipeline": 2}), engine_arguments("tensor_parallel_size"), 2, FOUR
    ),
    "spec.hardware.tolerations[].effect": Field(
        _tolerates(effect="NoExecute"), last_toleration("effect"), "NoExecute"
    ),
    "spec.hardware.tolerations[].key": Field(_tolerates(key="reserved"), last_toleration("key"), "reserved"),
    "spec.hardware.tolerations[].operator": Field(
        _hardware(tolerations=[{"key": "team", "operator": "Exists"}]),
        last_toleration("operator"),
        "Exists",
        _tolerates(),
    ),
    "spec.hardware.tolerations[].value": Field(_tolerates(value="y"), last_toleration("value"), "y"),
    "spec.health.canary.expect": Field(_asks(expect="Paris"), canary("expect"), "Paris"),
    "spec.health.canary.failureThreshold": Field(_asks(failureThreshold=5), canary("failureThreshold"), 5),
    "spec.health.canary.maxTokens": Field(_asks(maxTokens=16), canary("maxTokens"), 16),
    "spec.health.canary.periodSeconds": Field(_asks(periodSeconds=20), canary("periodSeconds"), 20),
    "spec.health.canary.prompt": Field(_asks(prompt="The capital is"), canary("prompt"), "The capital is"),
    "spec.health.canary.timeoutSeconds": Field(_asks(timeoutSeconds=7), canary("timeoutSeconds"), 7),
    "spec.health.stallSeconds": Field(
        {"health": {"stallSeconds": 900}}, lambda scene: agent(scene)["stallSeconds"], 900
    ),
    "spec.model.contextLengthTokens": Field(
        _model(contextLengthTokens=4096), engine_arguments("max_model_len"), 4096, VLLM
    ),
    "spec.model.credentials.secretName": Field(
        _model(credentials={"secretName": "token"}), of_cache("source", "credentials", "secretName"), "token"
    ),
    "spec.model.endpoint": Field(
        _model(endpoint="https://hub.example.com"),
        of_cache("source", "endpoint"),
        "https://hub.example.com",
        HUB,
    ),
    "spec.model.files[].path": Field(_model(files=FILES), of_cache("source", "files", "0", "path"), "a.gguf"),
    "spec.model.files[].sha256": Field(
        _model(files=FILES), of_cache("source", "files", "0", "sha256"), DIGEST
    ),
    "spec.model.files[].sizeBytes": Field(
        _model(files=FILES), of_cache("source", "files", "0", "sizeBytes"), 7
    ),
    "spec.model.format": Field(_model(format="Pickle"), of_cache("source", "format"), "Pickle", VLLM),
    "spec.model.include[]": Field(_model(include=["*Q4.gguf"]), of_cache("source", "include"), ["*Q4.gguf"]),
    "spec.model.maxBatchSize": Field(_model(maxBatchSize=8), engine_arguments("max_num_seqs"), 8, VLLM),
    "spec.model.precision": Field(_model(precision="FP16"), engine_arguments("dtype"), "float16", VLLM),
    "spec.model.revision": Field(_model(revision="v2"), of_cache("source", "revision"), "v2", HUB),
    "spec.model.uri": Field(
        _model(uri="http://store/other/"), of_cache("source", "uri"), "http://store/other/"
    ),
    "spec.replicas": Field({"replicas": 2}, lambda scene: deployment(scene)["spec"]["replicas"], 2),
    "spec.rollout.revisionHistoryLimit": Field(
        {"rollout": {"revisionHistoryLimit": 1}}, deleted_revisions, 3
    ),
    "spec.rollout.strategy": OnlyValue("Auto"),
    "spec.runtime.args[]": Field(
        _runtime(args=["--log-verbose=1"]), lambda scene: engine(scene)["command"][-1], "--log-verbose=1"
    ),
    "spec.runtime.backend": Field(
        _runtime(backend="Repository", options={"models": "m"}), lambda scene: agent(scene)["models"], ["m"]
    ),
    "spec.runtime.drainSeconds": Field(
        _runtime(drainSeconds=90), lambda scene: agent(scene)["drainTimeoutSeconds"], 90
    ),
    "spec.runtime.engine": OnlyValue("Triton"),
    "spec.runtime.image": Field(
        _runtime(image="example.com/triton:1"), lambda scene: engine(scene)["image"], "example.com/triton:1"
    ),
    "spec.runtime.options{}": Field(_runtime(options={"seed": "7"}), engine_arguments("seed"), 7, VLLM),
    "spec.runtime.resources.cpu": Field(
        _runtime(resources={"cpu": "3"}), lambda scene: engine(scene)["resources"]["requests"]["cpu"], "3"
    ),
    "spec.runtime.resources.memory": Field(_runtime(resources={"memory": "9Gi"}), limit("memory"), "9Gi"),
    "spec.runtime.sharedMemory": Field(
        _runtime(sharedMemory="2Gi"), lambda scene: volume("shm")(scene)["emptyDir"]["sizeLimit"], "2Gi"
    ),
    "spec.scaling.maxReplicas": Field(
        {"scaling": {"maxReplicas": 2}},
        lambda scene: deployment(scene)["spec"]["replicas"],
        2,
        {"replicas": 3},
    ),
    "spec.scaling.minReplicas": Field(
        {"scaling": {"minReplicas": 2}}, lambda scene: deployment(scene)["spec"]["replicas"], 2
    ),
    "spec.scaling.mode": OnlyValue("External"),
    "spec.template": Field(
        {"template": {"spec": {"schedulerName": "gang"}}},
        lambda scene: pod(scene).get("schedulerName"),
        "gang",
    ),
}


def _source(**given: Any) -> dict[str, Any]:
    return {"source": given}


def _placed(**given: Any) -> dict[str, Any]:
    return {"placement": given}


def _warmer_tolerates(**given: Any) -> dict[str, Any]:
    return _placed(tolerations=[{**TOLERATION, **given}])


MODELCACHE: dict[str, Field | OnlyValue] = {
    "spec.maxBytesPerSecond": Field({"maxBytesPerSecond": 5000}, warmer_config("maxBytesPerSecond"), 5000),
    "spec.placement.gpuTypes[]": Field(_placed(gpuTypes=["nvidia-a10g"]), warmers, ["a10g-1"]),
    "spec.placement.nodeSelector{}": Field(_placed(nodeSelector={"zone": "a"}), warmers, ["l4-2"]),
    "spec.placement.nodes": Field(_placed(nodes=1), lambda scene: len(warmers(scene)), 1),
    "spec.placement.tolerations[].effect": Field(
        _warmer_tolerates(effect="NoExecute"), warmer_toleration("effect"), "NoExecute"
    ),
    "spec.placement.tolerations[].key": Field(
        _warmer_tolerates(key="reserved"), warmer_toleration("key"), "reserved"
    ),
    "spec.placement.tolerations[].operator": Field(
        _placed(tolerations=[{"key": "team", "operator": "Exists"}]),
        warmer_toleration("operator"),
        "Exists",
        _warmer_tolerates(),
    ),
    "spec.placement.tolerations[].value": Field(
        _warmer_tolerates(value="y"), warmer_toleration("value"), "y"
    ),
    "spec.source.credentials.secretName": Field(
        _source(credentials={"secretName": "token"}), warmer_secret, ["token"]
    ),
    "spec.source.endpoint": Field(
        _source(endpoint="https://hub.example.com"),
        warmer_config("hfEndpoint"),
        "https://hub.example.com",
        _source(uri="hf://org/name", revision="main"),
    ),
    "spec.source.files[].path": Field(_source(files=FILES), warmer_config("files", "0", "path"), "a.gguf"),
    "spec.source.files[].sha256": Field(_source(files=FILES), warmer_config("files", "0", "sha256"), DIGEST),
    "spec.source.files[].sizeBytes": Field(_source(files=FILES), warmer_config("files", "0", "sizeBytes"), 7),
    "spec.source.format": Field(_source(format="Pickle"), warmer_config("allowPickle"), True),
    "spec.source.include[]": Field(_source(include=["*Q4.gguf"]), warmer_config("include"), ["*Q4.gguf"]),
    "spec.source.revision": Field(
        _source(revision="v2"),
        warmer_config("source", "revision"),
        "v2",
        _source(uri="hf://org/name", revision="main"),
    ),
    "spec.source.uri": Field(
        _source(uri="http://store/other/"), warmer_config("source", "uri"), "http://store/other/"
    ),
}

TABLES = {"LLMDeployment": LLMDEPLOYMENT, "ModelCache": MODELCACHE}

BASES: dict[str, dict[str, Any]] = {
    "LLMDeployment": {
        "model": {"uri": "http://store/model/", "format": "GGUF"},
        "hardware": {"gpu": {"types": ["nvidia-l4"]}},
        "runtime": {"backend": "LlamaCpp"},
    },
    "ModelCache": {"source": {"uri": "http://store/model/"}},
}


# --- objects, rendered


def spec_of(kind: str, given: Field, *, changed: bool) -> dict[str, Any]:
    """Return a spec with the field, or without it."""
    base = merged(BASES[kind], dict(given.base))
    return merged(base, dict(given.change)) if changed else base


def body_of(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def rendered(kind: str, spec: dict[str, Any]) -> Scene:
    """Return what the operator does for a spec."""
    body = body_of(kind, "every-field", spec)
    body["metadata"] |= {"uid": "uid", "generation": 1}
    if kind == "ModelCache":
        return decide_cache(parse(ModelCache, body), CacheObservation(NODES, (), {}, {}, {}), CONFIG, NOW)
    seen = ServiceObservation(NODES, (), (), (), _history())
    return decide_service(parse(LLMDeployment, body), seen, CONFIG, NOW)


def _history() -> list[dict[str, Any]]:
    """Four old revisions that run nothing."""
    found = []
    for number in range(1, 5):
        spec = merged(BASES["LLMDeployment"], {"health": {"stallSeconds": 100 + number}})
        body = body_of("LLMDeployment", "every-field", spec)
        body["metadata"] |= {"uid": "uid", "generation": 1}
        service = parse(LLMDeployment, body)
        revision = serving.render_revision(
            service, service.spec.hardware.gpu.types[0], number, "cache", CONFIG
        )
        manifest = serving.make_controller_revision(service, revision)
        manifest["metadata"]["uid"] = f"revision-{number}"
        found.append(manifest)
    return found


# --- the schema, walked


def leaves(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the path and the schema of every field below spec that has none below itself."""
    schema = next(d for d in definitions().values() if d["spec"]["names"]["kind"] == kind)
    (version,) = schema["spec"]["versions"]
    yield from _leaves(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")


def _leaves(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if path in WHOLE:
        yield path, node
    elif "properties" in node:
        for name, child in node["properties"].items():
            yield from _leaves(child, f"{path}.{name}")
    elif "items" in node:
        yield from _leaves(node["items"], f"{path}[]")
    elif "additionalProperties" in node:
        yield from _leaves(node["additionalProperties"], f"{path}{{}}")
    else:
        yield path, node


def value_at(spec: Any, path: str) -> Any:
    """Return what a spec has at a path of the walk, None where it has nothing. Of lists and maps the first."""
    value = spec
    for part in path.removeprefix("spec.").replace("[]", ".[]").replace("{}", ".{}").split("."):
        if part == "[]":
            value = value[0] if value else None
        elif part == "{}":
            value = next(iter(value.values()), None) if value else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value
