"""What the cases judge by: each rule can tell right from wrong."""

from typing import Any

import pytest

from e2e.external.judge import Outcome, complaints, refusals, spec_writes, unlike, writers
from e2e.external.keda import TAG, adapted
from e2e.external.report import table

MINE = {"preheat.dev/llmdeployment": "llama", "preheat.dev/component": "engine"}
SELECTOR = "preheat.dev/component=engine,preheat.dev/llmdeployment=llama"


def an_entry(manager: str, subresource: str | None, **fields: Any) -> dict[str, Any]:
    return {"manager": manager, "subresource": subresource, "fieldsV1": {"f:spec": fields}}


def test_who_has_the_number_is_told_and_nobody_else() -> None:
    entries = [
        an_entry("kube-controller-manager", "scale", **{"f:replicas": {}}),
        an_entry("kubectl", None, **{"f:model": {"f:uri": {}}}),
        {"manager": "preheat", "subresource": "status", "fieldsV1": {"f:status": {"f:replicas": {}}}},
    ]
    assert writers({"metadata": {"managedFields": entries}}) == {"kube-controller-manager/scale"}


@pytest.mark.parametrize(
    ("kind", "status", "reason", "count"),
    [
        ("AbleToScale", "False", "FailedGetScale", 1),
        ("ScalingActive", "False", "FailedGetExternalMetric", 1),
        ("ScalingActive", "False", "ScalingDisabled", 0),
        ("ScalingActive", "True", "ValidMetricFound", 0),
        ("ScalingLimited", "False", "DesiredWithinRange", 0),
    ],
)
def test_an_autoscaler_complains_of_what_keeps_it_from_scaling(
    kind: str, status: str, reason: str, count: int
) -> None:
    told = {"type": kind, "status": status, "reason": reason, "message": "why"}
    assert len(complaints({"status": {"conditions": [told]}})) == count


def test_an_autoscaler_that_is_not_there_complains_of_nothing() -> None:
    assert complaints({}) == []


def test_a_target_that_cannot_be_scaled_is_told_once() -> None:
    events = [{"reason": "FailedGetScale", "message": "no"}] * 2 + [
        {"reason": "SuccessfulRescale", "message": "2"}
    ]
    assert refusals(events) == ["FailedGetScale: no"]


def a_pod(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def a_scale(replicas: int, selector: str = SELECTOR) -> dict[str, Any]:
    return {"metadata": {"name": "llama"}, "status": {"replicas": replicas, "selector": selector}}


@pytest.mark.parametrize(
    ("scale", "count"),
    [
        (a_scale(1), 0),
        (a_scale(2), 1),
        (a_scale(1, ""), 1),
        (a_scale(1, "preheat.dev/llmdeployment=llama"), 1),
        (a_scale(0, "preheat.dev/llmdeployment=other"), 2),
    ],
)
def test_a_scale_that_is_not_what_the_pods_are_is_found(scale: dict[str, Any], count: int) -> None:
    warmer = {**MINE, "preheat.dev/component": "warmer"}
    assert len(unlike(scale, [a_pod("one", **MINE), a_pod("warmer", **warmer), a_pod("other")])) == count


def test_an_audit_log_tells_of_writes_that_are_not_the_status() -> None:
    def entry(verb: str, resource: str, subresource: str = "") -> dict[str, Any]:
        return {"verb": verb, "objectRef": {"resource": resource, "subresource": subresource}}

    right = [
        entry("list", "llmdeployments"),
        entry("patch", "llmdeployments", "status"),
        entry("patch", "deployments"),
        {"verb": "get"},
    ]
    assert spec_writes(right) == []
    wrong = [entry("patch", "llmdeployments"), entry("update", "llmdeployments", "scale")]
    assert spec_writes([*right, *wrong]) == ["patch llmdeployments", "update llmdeployments/scale"]


def test_a_case_that_failed_is_seen_in_the_table() -> None:
    text = table(
        [Outcome("a", steps=(("2 answer", 3.5), ("1 answer", 1.0))), Outcome("b", problems=["it is wrong"])]
    )
    assert "2 answer: 3.5 s" in text
    assert "  b: it is wrong" in text
    assert "cases run: 2, failed: 1" in text


def test_kedas_manifests_ask_no_registry_and_leave_its_webhook_out() -> None:
    def deployment(name: str, image: str) -> dict[str, Any]:
        spec = {"containers": [{"image": image, "args": ["--leader-elect"], "imagePullPolicy": "Always"}]}
        return {"kind": "Deployment", "metadata": {"name": name}, "spec": {"template": {"spec": spec}}}

    bodies = [
        deployment("keda-operator", "ghcr.io/kedacore/keda:main"),
        deployment("keda-admission", "ghcr.io/kedacore/keda-admission-webhooks:main"),
        {"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "keda-admission"}},
        {"kind": "Service", "metadata": {"name": "keda-operator"}},
    ]
    kept = adapted(bodies)
    assert [body["kind"] for body in kept] == ["Deployment", "Service"]
    (container,) = kept[0]["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == (f"ghcr.io/kedacore/keda:{TAG}", "Never")
    assert container["args"] == ["--leader-elect", "--enable-webhook-patching=false"]
