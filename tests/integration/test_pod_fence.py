"""What the operator may do to a pod, whatever RBAC grants: say what deleting it costs, and nothing else.

As with the fence around nodes, the tests give the operator's account every right there is.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.cluster.audit import OPERATOR
from tests.integration.conftest import API
from tests.integration.test_fence import OWNER, STRANGER, everything

__all__ = ["everything"]

COST = "controller.kubernetes.io/pod-deletion-cost"
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "fenced", "namespace": "default", "labels": {"preheat.dev/llmdeployment": "llama"},
                 "annotations": {"example.com/there": "1"}},
    "spec": {"containers": [{"name": "engine", "image": "registry.example/engine:1"}]},
}  # fmt: skip
ANNOTATION = "may change only the annotation controller.kubernetes.io/pod-deletion-cost"

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image": (
        {"spec": {"containers": [{"name": "engine", "image": "registry.example/evil:1"}]}},
        "",
        "may not change the spec of a pod",
    ),
    "a label": ({"metadata": {"labels": {"app": "x"}}}, "", "may not change labels of a pod"),
    "another annotation": ({"metadata": {"annotations": {"example.com/x": "1"}}}, "", ANNOTATION),
    "another value of an annotation": (
        {"metadata": {"annotations": {"example.com/there": "2"}}},
        "",
        ANNOTATION,
    ),
    "an annotation removed": ({"metadata": {"annotations": {"example.com/there": None}}}, "", ANNOTATION),
    "a finalizer": ({"metadata": {"finalizers": ["preheat.dev/x"]}}, "", "may not change finalizers"),
    "an owner": ({"metadata": {"ownerReferences": [OWNER]}}, "", "may not change owners"),
    "a status": ({"status": {"phase": "Failed"}}, "status", "may not change the status of a pod"),
}

Patch = Callable[..., Any]


@pytest.fixture
def patch(everything: API) -> Iterator[Patch]:
    """Patch a pod as somebody."""
    # The ServiceAccount that a pod needs is made by the controller-manager a moment after its namespace.
    everything.until("a ServiceAccount", lambda: everything.get("serviceaccount", "default"))
    everything.apply(POD)

    def patch(
        change: dict[str, Any], subresource: str = "", user: str = OPERATOR, pod: str = "fenced"
    ) -> Any:
        where = [f"--subresource={subresource}"] if subresource else []
        kind = "strategic" if "spec" in change else "merge"
        return everything.run(
            "--as", user, "patch", "pod", pod, f"--type={kind}", "-p", json.dumps(change), *where
        )

    yield patch
    everything.run("patch", "pod", "fenced", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    everything.kubectl("delete", "pod", "fenced", "--ignore-not-found", "--force", "--grace-period=0")


@pytest.mark.parametrize("case", REFUSED)
def test_everything_but_what_deleting_it_costs_is_refused(patch: Patch, case: str) -> None:
    change, subresource, words = REFUSED[case]
    result = patch(change, subresource)
    assert result.returncode != 0, "the API server took it"
    assert words in result.stderr
    assert patch(change, subresource, STRANGER).returncode == 0, "others are not fenced"


def test_what_deleting_it_costs_is_said_and_taken_back(patch: Patch, everything: API) -> None:
    for cost in ("-1", "5", None):
        assert patch({"metadata": {"annotations": {COST: cost}}}).returncode == 0
        pod = everything.get("pod", "fenced") or {}
        assert pod["metadata"]["annotations"].get(COST) == cost


def test_only_pods_of_an_llmdeployment_may_be_deleted(patch: Patch, everything: API) -> None:
    body = {**POD, "metadata": {"name": "theirs", "namespace": "default"}}
    everything.apply(body)
    now = ("--force", "--grace-period=0")
    result = everything.run("--as", OPERATOR, "delete", "pod", "theirs", *now)
    assert result.returncode != 0
    assert "may delete only pods of an LLMDeployment" in result.stderr
    assert everything.run("--as", STRANGER, "delete", "pod", "theirs", *now).returncode == 0
    mine = everything.run("--as", OPERATOR, "delete", "pod", "fenced", *now)
    assert mine.returncode == 0, mine.stderr


def test_a_pod_of_somebody_else_is_left_alone(patch: Patch, everything: API) -> None:
    body = {**POD, "metadata": {"name": "theirs", "namespace": "default"}}
    everything.apply(body)
    try:
        result = patch({"metadata": {"annotations": {COST: "-1"}}}, pod="theirs")
        assert "only pods of an LLMDeployment" in result.stderr
    finally:
        everything.kubectl("delete", "pod", "theirs", "--force", "--grace-period=0")
