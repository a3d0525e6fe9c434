"""What a real API server says to good and bad objects."""

import json
from typing import Any

import pytest

from tests.integration.conftest import API, a_service

MODEL = {"uri": "http://store.example/model/", "format": "GGUF"}
GPU = {"gpu": {"types": ["nvidia-l4"]}}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown GPU type": ({"hardware": {"gpu": {"types": ["nvidia-l5"]}}}, 'Unsupported value: "nvidia-l5"'),
    "no GPU type": ({"hardware": {"gpu": {"types": []}}}, "should have at least 1 items"),
    "the same GPU type twice": (
        {"hardware": {"gpu": {"types": ["nvidia-l4", "nvidia-l4"]}}},
        "Duplicate value",
    ),
    "negative replicas": ({"replicas": -1}, "should be greater than or equal to 0"),
    "huge replicas": ({"replicas": 100_000}, "should be less than or equal to 1000"),
    "min over max": (
        {"scaling": {"minReplicas": 3, "maxReplicas": 2}},
        "raise `maxReplicas` or lower `minReplicas`",
    ),
    "unknown scheme": ({"model": {"uri": "ftp://store/model/"}}, "spec.model.uri"),
    "hub without a revision": (
        {"model": {"uri": "hf://org/name"}},
        "`revision` must be set for an hf:// URI",
    ),
    "revision on http": ({"model": {**MODEL, "revision": "main"}}, "`revision` is only known to hf:// URIs"),
    "a file that escapes": (
        {"model": {**MODEL, "files": [{"path": "a/../../etc/passwd", "sha256": "0" * 64}]}},
        "must be relative",
    ),
    "a digest that is none": ({"model": {**MODEL, "files": [{"path": "a", "sha256": "x"}]}}, "sha256"),
    "parallelism that does not fit the GPUs": (
        {"hardware": {"gpu": {"types": ["nvidia-l4"], "count": 2}, "parallelism": {"tensor": 4}}},
        "`parallelism.tensor` times `parallelism.pipeline` must equal `gpu.count`",
    ),
    "an unknown backend": ({"runtime": {"backend": "Magic"}}, 'Unsupported value: "Magic"'),
    "a quantity that is none": (
        {"runtime": {"resources": {"memory": "lots"}}},
        "spec.runtime.resources.memory",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_words_that_help(api: API, case: str) -> None:
    spec, words = BAD[case]
    result = api.run("apply", "-f", "-", stdin=json.dumps(a_service("bad", **spec)))
    assert result.returncode != 0, "the API server took it"
    assert words in result.stderr


def test_a_name_too_long_for_the_children_is_refused(api: API) -> None:
    result = api.run("apply", "-f", "-", stdin=json.dumps(a_service("x" * 41)))
    assert "at most 40 characters" in result.stderr


def test_an_unknown_field_is_reported(api: API) -> None:
    result = api.run("apply", "--validate=strict", "-f", "-", stdin=json.dumps(a_service("typo", replica=2)))
    assert 'unknown field "spec.replica"' in result.stderr


def test_defaults_are_filled_in_and_scale_works(api: API) -> None:
    api.apply(a_service("defaults"))
    body = api.get("llmd", "defaults")
    assert body is not None
    assert body["spec"]["replicas"] == 1
    assert body["spec"]["health"]["canary"]["failureThreshold"] == 2
    assert body["spec"]["scaling"] == {"minReplicas": 0, "maxReplicas": 1000, "mode": "External"}
    api.kubectl("scale", "llmd/defaults", "--replicas=3")
    assert (api.get("llmd", "defaults") or {})["spec"]["replicas"] == 3
    api.kubectl("delete", "llmd", "defaults")


def test_the_source_of_a_cache_cannot_change(api: API) -> None:
    cache = {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "ModelCache",
        "metadata": {"name": "fixed", "namespace": "default"},
        "spec": {"source": {"uri": "http://store.example/a/"}},
    }
    api.apply(cache)
    changed = {**cache, "spec": {"source": {"uri": "http://store.example/b/"}}}
    result = api.run("apply", "-f", "-", stdin=json.dumps(changed))
    assert "create a new one" in result.stderr
    api.kubectl("delete", "mc", "fixed")


def test_explain_reads_like_documentation(api: API) -> None:
    text = api.kubectl("explain", "llmdeployment.spec.scaling")
    assert "Who decides the number of replicas" in " ".join(text.split())
    for field in ("minReplicas", "maxReplicas", "mode"):
        assert field in text
