"""Every field of both kinds, and where its effect is seen: in a child that is rendered, or in what is deleted.

``tests/unit/api/test_every_field.py`` walks the schema: a field that is not in these tables fails, and so does a
field without an effect. ``tests/integration/test_every_field.py`` applies the same objects to a real API server.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from preheat.api.constants import ANNOTATION_SOAKED, ANNOTATION_VERDICT, LABEL_REVISION
from preheat.api.crd import definitions
from preheat.api.llmdeployment import LLMDeployment, ScalingMode
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.controller.disks import observe_node
from preheat.controller.view import View
from preheat.decide.autoscale import ScalingObservation
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.nodes import decide_node
from preheat.decide.observed import AgentReport, AgentState, DeploymentView, Reading, Taint
from preheat.decide.plan import Apply, Delete, Plan, Write
from preheat.decide.scaling import Memory
from preheat.decide.serving import decide_service
from preheat.decide.traffic import RouteObservation
from preheat.decide.wish import ServiceObservation
from preheat.resources import serving
from preheat.resources.caching import cache_key, make_warmer, node_label, place_of
from preheat.resources.names import cache_name
from preheat.resources.serving import revision_id

from tests.builders import a_node, a_pod, merged

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()
NODES = [
    a_node("l4-1", gpus=8),
    a_node("l4-2", gpus=8, labels={"zone": "a"}),
    a_node("l4-3", gpus=8, taints=(Taint("team", "x", "NoSchedule"),)),
    a_node("a10g-1", "NVIDIA-A10G"),
]
DIGEST = "0" * 64
PROBING = AgentReport(AgentState.PROBING, "Probing", "", 0, 0, None)
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


def weights_claim(scene: Scene) -> Any:
    return volume("weights")(scene)["persistentVolumeClaim"]["claimName"]


def last_toleration(name: str) -> Where:
    return lambda scene: pod(scene)["tolerations"][-1].get(name)


def of_cache(*path: str) -> Where:
    def look(scene: Scene) -> Any:
        return _at(children(scene, "ModelCache")[0]["spec"], path)

    return look


def jobs(scene: Scene, component: str) -> list[dict[str, Any]]:
    """Warmers, keepers or pagers."""
    found = children(scene, "Job")
    return [job for job in found if job["metadata"]["labels"]["preheat.dev/component"] == component]


def warmers(scene: Scene) -> list[str]:
    """The nodes that get a warmer."""
    return sorted(job["metadata"]["annotations"]["preheat.dev/node"] for job in jobs(scene, "warmer"))


def pagers(scene: Scene) -> list[str]:
    """The nodes that get a pager."""
    return sorted(job["metadata"]["annotations"]["preheat.dev/node"] for job in jobs(scene, "pager"))


def warmer(scene: Scene) -> Any:
    return jobs(scene, "warmer")[0]["spec"]["template"]["spec"]


def warmer_claim(scene: Scene) -> Any:
    return warmer(scene)["volumes"][0]["persistentVolumeClaim"]["claimName"]


def warmer_config(*path: str) -> Where:
    def look(scene: Scene) -> Any:
        (variable,) = [
            e for e in warmer(scene)["containers"][0]["env"] if e["name"] == "PREHEAT_WARMER_CONFIG"
        ]
        return _at(json.loads(variable["value"]), path)

    return look


def warmer_secret(scene: Scene) -> Any:
    return [v["secret"]["secretName"] for v in warmer(scene)["volumes"] if "secret" in v]


def warmer_toleration(name: str) -> Where:
    return lambda scene: warmer(scene)["tolerations"][-1].get(name)


def of_policy(name: str) -> Where:
    return lambda scene: getattr(scene.scaled.policy, name) if scene.scaled else None


def of_schedule(name: str) -> Where:
    return lambda scene: getattr(scene.scaled.policy.schedules[0], name) if scene.scaled else None


def deleted_revisions(scene: Scene) -> int:
    return sum(isinstance(w, Delete) and w.kind == "ControllerRevision" for w in scene.writes)


def later(scene: Scene, counts: Sequence[float] = (), **pod: Any) -> Plan:
    """What is done once the wanted revision has a pod like this, beside a good revision before it.

    ``counts``: requests that ended, that failed, and seconds in service of the new one; the good one's are 1000, 0, 1000.
    """
    service = _later_of(scene)
    wanted = [
        m
        for m in children(scene, "ControllerRevision")
        if m["metadata"]["labels"][LABEL_REVISION] == revision_id(service)
    ]
    before = serving.parse_controller_revision(_history()[-1])
    assert before is not None
    good = serving.make_controller_revision(
        service, replace(before, marks={ANNOTATION_SOAKED: "2026-01-01T00:00:00Z"})
    )
    pods = [a_pod("new", revision_id(service), ready_at=NOW - timedelta(seconds=400), **pod)]
    readings = {}
    if counts:
        pods.append(a_pod("old", before.id, ready=True))
        readings = {
            "uid-old": Reading("a", 1, 1000, 1000, 0, None, 0, 1000.0),
            "uid-new": Reading("b", 1, counts[0], counts[0], counts[1], None, 0, counts[2]),
        }
    nodes = [*NODES, a_node("n1")]
    seen = ServiceObservation(nodes, (), pods, (), [*wanted, good], readings=readings)
    first = decide_service(service, seen, CONFIG, NOW)
    if verdict_of(first) is None:
        return first
    return replace(first, writes=(*first.writes, *_after_the_verdict(service, seen, first).writes))


def _later_of(scene: Scene) -> LLMDeployment:
    (service,) = (
        w.manifest["of"] for w in scene.writes if isinstance(w, Apply) and w.manifest["kind"] == "Later"
    )
    found: LLMDeployment = service
    return found


def _after_the_verdict(service: LLMDeployment, seen: ServiceObservation, plan: Plan) -> Plan:
    verdict = children(plan, "ControllerRevision")
    names = {body["metadata"]["name"] for body in verdict}
    others = [body for body in seen.children if body["metadata"]["name"] not in names]
    return decide_service(service, replace(seen, children=[*verdict, *others]), CONFIG, NOW)


def verdict_of(scene: Scene) -> Any:
    """Return the reason for which a revision failed, None when none did."""
    marks = (
        m["metadata"]["annotations"].get(ANNOTATION_VERDICT) for m in children(scene, "ControllerRevision")
    )
    return next((json.loads(mark)["reason"] for mark in marks if mark), None)


def goes_back(scene: Scene) -> bool:
    """Tell whether replicas move once the wanted revision has failed."""
    after = later(scene, crashing="container x restarted 9 times")
    old = _history()[-1]["metadata"]["labels"][LABEL_REVISION]
    return any(
        d["spec"]["replicas"] > 0 and d["metadata"]["labels"][LABEL_REVISION] == old
        for d in children(after, "Deployment")
    )


def on_the_first_type(scene: Scene) -> Any:
    """How many replicas the first type is asked for once one has found no GPU for 400 s."""
    service = _later_of(scene)
    waits = a_pod(
        "waits", revision_id(service), node=None, scheduled=False, created=NOW - timedelta(seconds=400),
        unschedulable="1 Insufficient nvidia.com/gpu",
    )  # fmt: skip
    pinned = children(scene, "ControllerRevision")
    plan = decide_service(service, ServiceObservation(NODES, (), [waits], (), pinned), CONFIG, NOW)
    (first, *_) = (plan.status or {})["gpuTypes"]
    return first["replicas"]


def is_held_back(scene: Scene) -> bool:
    """Tell whether a good revision is kept where no node could take the new one."""
    service, before = _later_of(scene), serving.parse_controller_revision(_history()[-1])
    assert before is not None
    good = serving.make_controller_revision(
        service, replace(before, marks={ANNOTATION_SOAKED: "2026-01-01T00:00:00Z"})
    )
    old = a_pod("old", before.id, ready=True)
    plan = decide_service(
        service, ServiceObservation([a_node("t4", "Tesla-T4")], (), [old], (), [good]), CONFIG, NOW
    )
    return bool((plan.status or {})["revision"] == before.id)


def route(*path: str) -> Where:
    """What its HTTPRoute has at a path."""
    return lambda scene: _at(children(scene, "HTTPRoute")[0]["spec"], path)


def shares(scene: Scene) -> list[int]:
    """What the new and the old revision get through a gateway once a replica of each is ready."""
    service, before = _later_of(scene), _history()[-1]
    pinned = [
        m
        for m in children(scene, "ControllerRevision")
        if m["metadata"]["labels"][LABEL_REVISION] == revision_id(service)
    ]
    old = before["metadata"]["labels"][LABEL_REVISION]
    pods = [
        a_pod("new", revision_id(service), ready=True, ready_at=NOW),
        a_pod("old", old, ready=True, ready_at=NOW),
    ]
    there = [DeploymentView.from_body(_that_served(before)),
             replace(DeploymentView.from_body(_that_served(pinned[0])), replicas=1)]  # fmt: skip
    seen = ServiceObservation(
        NODES, there, pods, (), [*pinned, before], route=RouteObservation(installed=True)
    )
    plan = decide_service(service, seen, CONFIG, NOW)
    return [told["weight"] for told in (plan.status or {})["traffic"]]


def is_soaked(scene: Scene) -> bool:
    return any(
        ANNOTATION_SOAKED in m["metadata"]["annotations"]
        for m in children(later(scene, ready=True), "ControllerRevision")
    )


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


SCALED = {"scaling": {"mode": "Predictive", "maxReplicas": 8}}


def _canary(percent: int, pause: int) -> dict[str, Any]:
    steps = [{"percent": percent, "pauseSeconds": pause}, {"percent": 100}]
    return {"rollout": {"strategy": "Canary", "steps": steps}}


def _gateway(**parent: Any) -> dict[str, Any]:
    return {"rollout": {"gateway": {"parentRefs": [{"name": "public", **parent}]}}}


def _weighted(weight: int) -> dict[str, Any]:
    steps = [{"percent": 25, "pauseSeconds": 60, "weight": weight}, {"percent": 100}]
    return {"replicas": 4, "rollout": {"strategy": "Canary", "steps": steps, **_gateway()["rollout"]}}


def _scheduled(**given: Any) -> dict[str, Any]:
    window = {"start": "08:00", "end": "18:00", "minReplicas": 2, **given}
    return {"scaling": {**SCALED["scaling"], "schedules": [window]}}


def _hardware(**given: Any) -> dict[str, Any]:
    return {"hardware": given}


def _tolerates(**given: Any) -> dict[str, Any]:
    return _hardware(tolerations=[{**TOLERATION, **given}])


def _model(**given: Any) -> dict[str, Any]:
    return {"model": given}


def _runtime(**given: Any) -> dict[str, Any]:
    return {"runtime": given}


def _on_l4(**given: Any) -> dict[str, Any]:
    return _runtime(perType=[{"type": "nvidia-l4", **given}])


def _asks(**given: Any) -> dict[str, Any]:
    return {"health": {"canary": given}}


SHARED = {"mode": "Shared", "claimName": "weights"}
FOUR = merged(VLLM, _hardware(gpu={"count": 4}))

LLMDEPLOYMENT: dict[str, Field | OnlyValue] = {
    "spec.cache.maxBytesPerSecond": Field(
        {"cache": {"maxBytesPerSecond": 5000}}, of_cache("maxBytesPerSecond"), 5000
    ),
    "spec.cache.claimName": Field(
        {"cache": {"claimName": "other"}}, weights_claim, "other", {"cache": SHARED}
    ),
    "spec.cache.mode": Field({"cache": SHARED}, weights_claim, "weights"),
    "spec.cache.pageCache": Field({"cache": {"pageCache": "Ahead"}}, pagers, ["l4-1"]),
    "spec.cache.warmNodes": Field({"cache": {"warmNodes": 1}}, of_cache("placement", "nodes"), 2),
    "spec.hardware.gpu.count": Field(_hardware(gpu={"count": 2}), limit("nvidia.com/gpu"), "2"),
    "spec.hardware.gpu.patienceSeconds": Field(
        _hardware(gpu={"patienceSeconds": 600}),
        on_the_first_type,
        1,
        _hardware(gpu={"types": ["nvidia-l4", "nvidia-a10g"]}),
    ),
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
        {"health": {"stallSeconds": 900}}, lambda scene: agent(scene).get("stallSeconds"), 900
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
    "spec.rollout.analysis.maxErrorPercent": Field(
        {"rollout": {"analysis": {"maxErrorPercent": 80}}},
        lambda scene: verdict_of(later(scene, (200, 100, 200), ready=True)),
        None,
    ),
    "spec.rollout.analysis.maxSlowdownPercent": Field(
        {"rollout": {"analysis": {"maxSlowdownPercent": 900}}},
        lambda scene: verdict_of(later(scene, (200, 0, 1000), ready=True)),
        None,
    ),
    "spec.rollout.autoRollback": Field({"rollout": {"autoRollback": False}}, goes_back, False),
    "spec.rollout.gateway.hostnames[]": Field(
        {"rollout": {"gateway": {"hostnames": ["llama.example.com"]}}},
        route("hostnames"),
        ["llama.example.com"],
        _gateway(),
    ),
    "spec.rollout.gateway.parentRefs[].name": Field(
        _gateway(name="other"), route("parentRefs", "0", "name"), "other", _gateway()
    ),
    "spec.rollout.gateway.parentRefs[].namespace": Field(
        _gateway(namespace="infra"), route("parentRefs", "0", "namespace"), "infra", _gateway()
    ),
    "spec.rollout.gateway.parentRefs[].port": Field(
        _gateway(port=443), route("parentRefs", "0", "port"), 443, _gateway()
    ),
    "spec.rollout.gateway.parentRefs[].sectionName": Field(
        _gateway(sectionName="https"), route("parentRefs", "0", "sectionName"), "https", _gateway()
    ),
    "spec.rollout.preflight": Field({"rollout": {"preflight": "Report"}}, is_held_back, False),
    "spec.rollout.progressLimitFactor": Field(
        {"rollout": {"progressLimitFactor": 2}},
        lambda scene: verdict_of(later(scene, unready_since=NOW - timedelta(seconds=1000), report=PROBING)),
        "ProgressDeadlineExceeded",
    ),
    "spec.rollout.soakSeconds": Field({"rollout": {"soakSeconds": 300}}, is_soaked, True),
    "spec.rollout.revisionHistoryLimit": Field(
        {"rollout": {"revisionHistoryLimit": 1}}, deleted_revisions, 3
    ),
    "spec.rollout.paused": Field(
        {"rollout": {"paused": True}}, lambda scene: _at(scene.status, ("rollout", "step")), "Paused"
    ),
    "spec.rollout.steps[].pauseSeconds": Field(
        _canary(50, 70),
        lambda scene: "pause of 70 s" in str(_at(scene.status, ("rollout", "message"))),
        True,
        _canary(50, 60),
    ),
    "spec.rollout.steps[].percent": Field(
        _canary(75, 60),
        lambda scene: _at(scene.status, ("rollout", "updatedReplicas")),
        3,
        {"replicas": 4, **_canary(50, 60)},
    ),
    "spec.rollout.steps[].weight": Field(_weighted(10), shares, [10, 90], _weighted(20)),
    "spec.rollout.strategy": Field(
        {"rollout": {"strategy": "BlueGreen"}},
        lambda scene: _at(scene.status, ("rollout", "chosen")),
        "BlueGreen",
    ),
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
    "spec.runtime.perType[].args[]": Field(
        _on_l4(args=["--log-verbose=1"]), lambda scene: engine(scene)["command"][-1], "--log-verbose=1"
    ),
    "spec.runtime.perType[].options{}": Field(
        _on_l4(options={"seed": "8"}),
        engine_arguments("seed"),
        8,
        merged(VLLM, _runtime(options={"seed": "7"})),
    ),
    "spec.runtime.perType[].type": Field(
        _on_l4(type="nvidia-a10g", args=["--log-verbose=1"]),
        lambda scene: engine(scene)["command"][-1] == "--log-verbose=1",
        False,
        merged(_on_l4(args=["--log-verbose=1"]), _hardware(gpu={"types": ["nvidia-l4", "nvidia-a10g"]})),
    ),
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
    "spec.scaling.mode": Field(
        {"scaling": {"mode": "Reactive"}},
        lambda scene: _at(scene.status, ("scaling", "mode")),
        "Reactive",
        SCALED,
    ),
    "spec.scaling.scaleToZero": Field(
        {"scaling": {"scaleToZero": True}}, of_policy("min_replicas"), 0, SCALED
    ),
    "spec.scaling.targetConcurrency": Field(
        {"scaling": {"targetConcurrency": 3}}, of_policy("slots"), 3, SCALED
    ),
    "spec.scaling.lateAfterSeconds": Field(
        {"scaling": {"lateAfterSeconds": 2}}, of_policy("late_seconds"), 2, SCALED
    ),
    "spec.scaling.schedules[].days[]": Field(
        _scheduled(days=["Tuesday"]), of_schedule("weekdays"), (1,), {**SCALED, **_scheduled()}
    ),
    "spec.scaling.schedules[].start": Field(
        _scheduled(start="07:30"), of_schedule("from_minute"), 450, {**SCALED, **_scheduled()}
    ),
    "spec.scaling.schedules[].end": Field(
        _scheduled(end="19:00"), of_schedule("to_minute"), 1140, {**SCALED, **_scheduled()}
    ),
    "spec.scaling.schedules[].timeZone": Field(
        _scheduled(timeZone="Europe/Berlin"), of_schedule("from_minute"), 420, {**SCALED, **_scheduled()}
    ),
    "spec.scaling.schedules[].minReplicas": Field(
        _scheduled(minReplicas=3), of_schedule("replicas"), 3, {**SCALED, **_scheduled()}
    ),
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
    "spec.storage.claimName": Field(
        {"storage": {"claimName": "other"}}, warmer_claim, "other", {"storage": SHARED}
    ),
    "spec.storage.mode": Field({"storage": SHARED}, warmers, ["Shared"]),
    "spec.source.uri": Field(
        _source(uri="http://store/other/"), warmer_config("source", "uri"), "http://store/other/"
    ),
    "spec.verifyIntervalSeconds": Field(
        {"verifyIntervalSeconds": 0},
        lambda scene: len(
            [job for job in jobs(scene, "keeper") if job["metadata"]["annotations"]["preheat.dev/verifies"]]
        ),
        0,
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
        seen_of_it = CacheObservation(NODES, (), {}, {}, {})
        plan = decide_cache(parse(ModelCache, body), seen_of_it, CONFIG, NOW)
        return replace(plan, writes=(*plan.writes, *_a_month_later(body)))
    service = parse(LLMDeployment, body)
    external = service.spec.scaling.mode is ScalingMode.EXTERNAL
    scaling = None if external else ScalingObservation(None, None, Memory(), None)
    history = _history()
    rolling = {"strategy", "steps", "paused"} & spec.get("rollout", {}).keys()
    before = [DeploymentView.from_body(_that_served(history[-1]))] if rolling else []
    way = RouteObservation(installed=True)
    seen = ServiceObservation(NODES, before, (), (), history, scaling=scaling, route=way)
    plan = decide_service(service, seen, CONFIG, NOW)
    asleep = _woken_after_a_while(body, service) if "pageCache" in spec.get("cache", {}) else ()
    return replace(plan, writes=(*plan.writes, *asleep, Apply({"kind": "Later", "of": service})))


def _woken_after_a_while(body: dict[str, Any], service: LLMDeployment) -> Sequence[Write]:
    """What is done for a service that is asked for a replica, with its weights on a node since long ago."""
    source = serving.cache_source(service)
    name = cache_name(service.name, source)
    cache = body_of("ModelCache", name, {"source": source})
    cache["metadata"]["uid"] = "cache"
    cache["status"] = {"totalBytes": 5000, "readyNodes": 1, "desiredNodes": 1}
    weights = parse(ModelCache, cache)
    node = replace(NODES[0], caches=frozenset({cache_key(weights)}), memory_bytes=2**40)
    told = parse(
        LLMDeployment, {**body, "status": {"cache": {"name": name, "readyNodes": 1, "desiredNodes": 1}}}
    )
    return decide_service(told, ServiceObservation([node], (), (), [weights], ()), CONFIG, NOW).writes


def _a_month_later(body: dict[str, Any]) -> Sequence[Write]:
    """What is done on a node where the weights have lain for a month."""
    view, ended = View(), (NOW - timedelta(days=30)).isoformat()
    cache = parse(ModelCache, body)
    job = make_warmer(cache, "old", place_of(cache, {}, CONFIG), CONFIG)
    job["status"] = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": ended}]}
    labels = {node_label(cache_key(cache)): "ready"}
    node = {
        "kind": "Node",
        "metadata": {"name": "old", "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    for thing in (body, job, node):
        view.put(thing)
    return decide_node(observe_node(("Node", "", "old"), view, CONFIG, NOW), CONFIG, NOW).writes


def _that_served(revision: dict[str, Any]) -> dict[str, Any]:
    """A Deployment of an old revision: then a rollout is under way."""
    return {**revision, "kind": "Deployment", "spec": {"replicas": 4}}


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
