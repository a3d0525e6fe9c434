"""The door: what is valid comes in whole, what is not is named field by field, a status never stops us."""

from typing import Any

import pytest
from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentStatus
from preheat.api.modelcache import ModelCache, ModelCacheStatus
from preheat.api.parse import InvalidSpecError, parse, parse_header

from tests.builders import SERVICE, merged

METADATA = {
    "name": "llama", "namespace": "ns", "uid": "u", "generation": 4, "labels": {"a": "b"},
    "annotations": {"c": "d"}, "managedFields": [{"manager": "kubectl"}],
}  # fmt: skip
CACHE: dict[str, Any] = {"source": {"uri": "hf://org/name", "revision": "abc"}}


def a_body(spec: Any = SERVICE, status: Any = None) -> dict[str, Any]:
    return {"apiVersion": "preheat.dev/v1alpha1", "kind": "LLMDeployment", "metadata": METADATA, "spec": spec,
            "status": status}  # fmt: skip


def test_the_header_is_read() -> None:
    service = parse(LLMDeployment, a_body())
    assert (service.name, service.namespace, service.uid, service.generation) == ("llama", "ns", "u", 4)
    assert (service.labels, service.annotations) == ({"a": "b"}, {"c": "d"})


@pytest.mark.parametrize(("kind", "spec"), [(LLMDeployment, SERVICE), (ModelCache, CACHE)])
def test_what_is_written_is_read_back_the_same(kind: Any, spec: dict[str, Any]) -> None:
    once = parse(kind, a_body(spec))
    again = parse(kind, a_body(once.spec.to_api(), once.status.to_api()))
    assert again == once


def test_a_status_is_written_and_read_back_the_same() -> None:
    condition = {"type": "Ready", "status": "True", "observedGeneration": 4, "reason": "Serving",
                 "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "ok"}  # fmt: skip
    loading = {"percent": 3, "bytesDone": 1, "bytesTotal": 2, "eta": "40s"}
    given = {"observedGeneration": 4, "conditions": [condition], "url": "http://x", "loading": loading}
    service = parse(LLMDeployment, a_body(status=given))
    assert service.status.to_api() == {**given, "children": []}


def test_defaults_are_those_of_the_schema() -> None:
    spec = parse(LLMDeployment, a_body()).spec
    assert (spec.replicas, spec.scaling.max_replicas, spec.rollout.revision_history_limit) == (1, 1000, 2)
    assert (spec.hardware.gpu.count, spec.hardware.gpu.resource_name) == (1, "nvidia.com/gpu")


def test_a_field_of_a_later_version_is_no_error() -> None:
    assert parse(LLMDeployment, a_body({**SERVICE, "tomorrow": {"x": 1}})) == parse(LLMDeployment, a_body())


def test_what_is_parsed_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(LLMDeployment, a_body()).spec.replicas = 2  # type: ignore[misc]


GARBAGE: dict[str, tuple[Any, str]] = {
    "no spec": (None, "spec"),
    "a list": ([], "spec"),
    "text": ("replicas: 1", "spec"),
    "an empty spec": ({}, r"spec\.model: .*spec\.hardware"),
    "a number where a map should be": (merged(SERVICE, {"hardware": 7}), r"spec\.hardware"),
    "a GPU that there is not": (merged(SERVICE, {"hardware": {"gpu": {"types": ["voodoo"]}}}), r"gpu\.types\.0"),
    "no GPU type": (merged(SERVICE, {"hardware": {"gpu": {"types": []}}}), r"gpu\.types"),
    "fewer than none": (merged(SERVICE, {"replicas": -1}), r"spec\.replicas"),
    "a path for a URI": (merged(SERVICE, {"model": {"uri": "/tmp/model"}}), r"model\.uri"),
    "a file URI": (merged(SERVICE, {"model": {"uri": "file:///etc/passwd"}}), r"model\.uri"),
    "a quantity that is none": (merged(SERVICE, {"runtime": {"resources": {"memory": "much"}}}), "memory"),
    "a digest that is none": (merged(SERVICE, {"model": {"files": [{"path": "a", "sha256": "x"}]}}), "sha256"),
}  # fmt: skip


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused_with_the_field_that_is_wrong(case: str) -> None:
    spec, field = GARBAGE[case]
    with pytest.raises(InvalidSpecError, match=field):
        parse(LLMDeployment, a_body(spec))


def test_a_refusal_names_a_few_fields_and_fits_into_a_condition() -> None:
    files = [{"path": "\x00", "sha256": "?"} for _ in range(200)]
    with pytest.raises(InvalidSpecError) as refused:
        parse(LLMDeployment, a_body(merged(SERVICE, {"model": {"files": files}})))
    assert str(refused.value).count(";") == 4


STATUSES: list[Any] = [
    None,
    {},
    [],
    "text",
    {"conditions": "none"},
    {"conditions": [{"type": "Ready"}]},
    {"loading": {"percent": 900}},
    {"readyReplicas": "many"},
]


@pytest.mark.parametrize("status", STATUSES, ids=repr)
def test_a_status_that_means_nothing_is_dropped(status: Any) -> None:
    assert parse(LLMDeployment, a_body(status=status)).status == LLMDeploymentStatus()


def test_of_a_spec_that_means_nothing_the_header_is_still_known() -> None:
    service = parse_header(LLMDeployment, a_body("garbage", {"readyReplicas": 2}))
    assert (service.name, service.generation, service.status.ready_replicas) == ("llama", 4, 2)
    cache = parse_header(ModelCache, a_body(None))
    assert (cache.name, cache.status) == ("llama", ModelCacheStatus())


@pytest.mark.parametrize(
    ("entries", "who"),
    [
        pytest.param([("kubectl", None), ("preheat", "status")], "", id="nobody scaled it"),
        pytest.param(
            [("kubectl", None), ("kube-controller-manager", "scale")], "kube-controller-manager", id="scaled"
        ),
    ],
)
def test_who_scaled_it_is_known(entries: list[tuple[str, str | None]], who: str) -> None:
    """As a real API server has it: an entry for /scale has no time."""
    fields = [
        {"manager": manager, "operation": "Update", **({"subresource": subresource} if subresource else {})}
        for manager, subresource in entries
    ]
    body = a_body()
    body["metadata"] = {**METADATA, "managedFields": fields}
    assert parse(LLMDeployment, body).scaled_by == who
