"""What goes into pods: what a user wrote arrives as it was written, names fit, labels come by invitation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources import names
from preheat.resources.caching import make_cache, make_claims, make_volumes, make_warmer, place_of
from preheat.resources.serving import (
    make_controller_revision,
    make_deployment,
    make_disruption_budget,
    make_network_policy,
    make_service,
    parse_controller_revision,
    render_revision,
)
from preheat_agent.config import from_environment as agent_configuration
from preheat_warmer.config import from_environment as warmer_configuration

from tests.builders import a_cache, a_service

CONFIG = OperatorConfig()
L4 = GPUType.NVIDIA_L4
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=60)


def expanded(text: str, environment: dict[str, str]) -> str:
    """Kubernetes' own rule for $(NAME) in values: $$ is $, a reference that is not known stays as it is."""
    return re.sub(
        r"\$(?:(\$)|\(([^)]*)\))",
        lambda found: "$" if found[1] else environment.get(found[2], found[0]),
        text,
    )


def environment(container: dict[str, Any]) -> dict[str, str]:
    """What a container sees."""
    known = {"POD_UID": "the-uid"}
    return known | {e["name"]: expanded(e["value"], known) for e in container["env"] if "value" in e}


def a_model_pod(service: LLMDeployment) -> dict[str, Any]:
    pod: dict[str, Any] = render_revision(service, L4, 1, "cache", CONFIG).template["spec"]
    return pod


def agent_of(service: LLMDeployment) -> Any:
    return agent_configuration(environment(a_model_pod(service)["initContainers"][0]))


def warmer_of(**spec: Any) -> Any:
    cache = a_cache(**spec)
    (container,) = make_warmer(cache, "n1", place_of(cache, {}, CONFIG), CONFIG)["spec"]["template"]["spec"][
        "containers"
    ]
    return warmer_configuration(environment(container), credentials=Path("/nowhere"))


ODD_PROMPTS = [
    "$(POD_UID)",
    "$$(POD_UID)",
    "$$$(POD_UID)",
    "costs $$5",
    "$",
    "a $",
    '"}$(',
    "${HOME}",
    "\\$(X)",
    "é\n\t☃",
]


@pytest.mark.parametrize("prompt", ODD_PROMPTS)
def test_a_prompt_reaches_the_agent_as_it_was_written(prompt: str) -> None:
    assert agent_of(a_service(health={"canary": {"prompt": prompt}})).canary.prompt == prompt


@given(TEXT)
def test_any_prompt_reaches_the_agent_as_it_was_written(prompt: str) -> None:
    assert agent_of(a_service(health={"canary": {"prompt": prompt}})).canary.prompt == prompt


@pytest.mark.parametrize("pattern", ["*.gguf", "$(POD_UID)*", "$$(X).json"])
def test_a_pattern_reaches_the_warmer_as_it_was_written(pattern: str) -> None:
    assert warmer_of(source={"include": [pattern]}).include == (pattern,)


def test_the_agent_is_told_what_the_spec_says() -> None:
    canary = {"prompt": "2+2?", "maxTokens": 3, "expect": "4$", "timeoutSeconds": 7, "periodSeconds": 9}
    told = agent_of(a_service(health={"canary": canary, "stallSeconds": 44}, runtime={"drainSeconds": 11}))
    assert told.canary.expect is not None
    assert (told.canary.expect.pattern, told.canary.max_tokens) == ("4$", 3)
    assert (told.canary.timeout_seconds, told.canary.period_seconds) == (7, 9)
    assert (told.stall_seconds, told.drain_timeout_seconds) == (44, 11)
    assert told.admin_key == "the-uid"


def test_the_engine_and_the_agent_agree_on_the_key() -> None:
    """The key guards load and unload: it is the pod's own uid, which no other pod knows."""
    pod = a_model_pod(a_service())
    uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}}
    assert uid in pod["initContainers"][0]["env"]
    assert uid in pod["containers"][0]["env"]


def test_an_expectation_that_is_no_pattern_makes_no_pod() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.health\.canary\.expect"):
        a_model_pod(a_service(health={"canary": {"expect": "("}}))


SOURCES: dict[str, dict[str, Any]] = {
    "hub": {"uri": "hf://org/name", "revision": "abc", "format": "Safetensors"},
    "mirror": {"uri": "hf://org/name", "revision": "abc", "endpoint": "https://mirror.example/hf"},
    "web": {"uri": "https://store.example/m/", "format": "GGUF"},
    "claim": {"uri": "pvc://models/llama", "format": "Safetensors"},
    "bucket": {"uri": "s3://models/llama/v1", "endpoint": "http://minio.storage.svc:9000"},
    "Google's": {"uri": "gs://my.models", "format": "GGUF"},
    "registry": {"uri": "oci://r.example:5000/models/llama:v1", "format": "GGUF"},
    "digest": {"uri": f"oci://r.example/m@sha256:{'0' * 64}", "endpoint": "https://mirror.example"},
    "model registry": {"uri": "mlflow://llama%203@champion", "endpoint": "http://mlflow.team.svc:5000"},
    "files": {
        "uri": "http://store/m/", "files": [{"path": "a/b.gguf", "sha256": "0" * 64, "sizeBytes": 7}],
    },
    "pickle": {"uri": "http://store/m/", "format": "Pickle"},
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_the_warmer_understands_what_it_is_told(source: str) -> None:
    given_source = SOURCES[source]
    told = warmer_of(source=given_source, maxBytesPerSecond=4096)
    assert told.uri == given_source["uri"]
    assert told.revision == given_source.get("revision", "")
    endpoint = given_source.get("endpoint", "")
    assert told.hf_endpoint == (endpoint if told.scheme == "hf" and endpoint else "https://huggingface.co")
    assert told.endpoint == (endpoint if told.scheme != "hf" else "")
    assert told.allow_pickle is (given_source.get("format") == "Pickle")
    assert [(f.path, f.size, f.sha256) for f in told.files] == [
        (f["path"], f["sizeBytes"], f["sha256"]) for f in given_source.get("files", [])
    ]
    assert (told.max_bytes_per_second, told.node_name) == (4096, "n1")


def test_without_a_limit_the_warmer_has_none() -> None:
    assert warmer_of().max_bytes_per_second is None


def children(service: LLMDeployment, gpu_type: GPUType = L4) -> list[dict[str, Any]]:
    """Every child of a service and of the cache that it makes."""
    cache_name = names.cache_name(service.name, {"uri": "x"})
    cache = a_cache(cache_name).model_copy(update={"labels": service.labels})
    revision = render_revision(service, gpu_type, 1, cache_name, CONFIG)
    node = "gke-prod-" + "x" * 180 + ".internal.example.org"
    return [
        make_network_policy(service.namespace, CONFIG),
        make_service(service),
        make_disruption_budget(service),
        make_cache(service, cache_name, 1),
        make_controller_revision(service, revision),
        make_deployment(service, revision, 1),
        *make_volumes(cache, place_of(cache, {}, CONFIG)),
        *make_claims(cache, place_of(cache, {}, CONFIG)),
        make_warmer(cache, node, place_of(cache, {}, CONFIG), CONFIG),
    ]


def labels_of(manifest: dict[str, Any]) -> dict[str, str]:
    template = manifest.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
    return {**template, **manifest["metadata"]["labels"]}


@pytest.mark.parametrize("gpu_type", [L4, GPUType.NVIDIA_H200_141GB])
@pytest.mark.parametrize("length", [1, 20, 40])
def test_every_name_and_label_fits(length: int, gpu_type: GPUType) -> None:
    for manifest in children(a_service("m" * length), gpu_type):
        name = manifest["metadata"]["name"]
        assert len(name) <= names.NAME_LIMIT, manifest["kind"]
        assert NAME.fullmatch(name), name
        for key, value in labels_of(manifest).items():
            assert len(value) <= 63, key
            assert LABEL_VALUE.fullmatch(value), value


def test_long_names_with_the_same_beginning_stay_apart() -> None:
    long = "m" * 40
    gpus = [names.child_name(long, "r" * 10, gpu_type) for gpu_type in GPUType]
    assert len(set(gpus)) == len(gpus)
    nodes = [names.warmer_name(long, f"{'n' * 80}-{n}") for n in range(3)]
    assert len(set(nodes)) == len(nodes)


def test_user_labels_reach_children_only_by_invitation() -> None:
    mine = {
        "cost.preheat.dev/center": "42",
        "team.preheat.dev/name": "search",
        "argocd.argoproj.io/instance": "prod",
        "app.kubernetes.io/instance": "prod",
        "app.kubernetes.io/managed-by": "Helm",
        "preheat.dev/llmdeployment": "another",
    }
    service = a_service().model_copy(update={"labels": mine})
    for manifest in children(service):
        labels, kind = labels_of(manifest), manifest["kind"]
        assert not [key for key in labels if key.startswith(("argocd", "app.kubernetes.io/instance"))], kind
        assert labels["app.kubernetes.io/managed-by"] == "preheat", kind
        assert labels.get("preheat.dev/llmdeployment", "llama") == "llama", kind
        if "ownerReferences" in manifest["metadata"]:
            assert labels["cost.preheat.dev/center"] == "42", kind


def test_every_child_has_the_hash_of_itself_and_its_owner_unless_it_must_outlast_it() -> None:
    for manifest in children(a_service()):
        metadata, kind = manifest["metadata"], manifest["kind"]
        assert re.fullmatch("[0-9a-f]{16}", metadata["annotations"]["preheat.dev/applied"]), kind
        if kind not in {"NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim"}:
            (owner,) = metadata["ownerReferences"]
            assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, True), kind


def test_a_revision_is_read_back_as_it_was_pinned() -> None:
    service = a_service()
    revision = render_revision(service, L4, 7, "cache", CONFIG)
    manifest = make_controller_revision(service, revision)
    assert parse_controller_revision(json.loads(json.dumps(manifest))) == revision


@pytest.mark.parametrize("data", [None, [], "text", "{", {}, {"template": {}}, 7])
def test_a_strangers_revision_is_none_of_ours(data: Any) -> None:
    manifest = make_controller_revision(a_service(), render_revision(a_service(), L4, 1, "cache", CONFIG))
    assert parse_controller_revision({**manifest, "data": data}) is None


@pytest.mark.parametrize("drain", [0, 10, 3600])
def test_the_kubelet_waits_longer_than_both_drains(drain: int) -> None:
    grace = a_model_pod(a_service(runtime={"drainSeconds": drain}))["terminationGracePeriodSeconds"]
    assert grace > 2 * drain


@pytest.mark.parametrize("length", [1, 63])
def test_the_names_and_labels_of_a_cache_that_a_person_made_fit(length: int) -> None:
    """The schema allows no longer name: labels are how a child is found again."""
    cache = a_cache("c" * length)
    for manifest in [
        *make_volumes(cache, place_of(cache, {}, CONFIG)),
        *make_claims(cache, place_of(cache, {}, CONFIG)),
        make_warmer(cache, "n" * 253, place_of(cache, {}, CONFIG), CONFIG),
    ]:
        assert len(manifest["metadata"]["name"]) <= names.NAME_LIMIT
        shared = manifest["metadata"]["name"].endswith(("-make", "-warm"))
        assert shared or labels_of(manifest)["preheat.dev/modelcache"] == cache.name
        assert all(len(value) <= 63 for value in labels_of(manifest).values())


def test_what_another_version_put_into_a_revision_is_written_back_as_it_was() -> None:
    """The API server lets nobody change the data of a ControllerRevision: an apply without a part of it is refused."""
    service = a_service()
    manifest = make_controller_revision(service, render_revision(service, L4, 1, "cache", CONFIG))
    manifest["data"]["files"] = {"m/config.pbtxt": "backend"}
    revision = parse_controller_revision(manifest)
    assert revision is not None
    assert make_controller_revision(service, revision)["data"] == manifest["data"]
