"""What the operator may do to a node, whatever RBAC grants: set and remove its own labels, and nothing else.

The tests give the operator's account every right there is. What is refused here is refused by the admission
policy of the chart alone.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.cluster.audit import OPERATOR
from tests.integration.conftest import API

STRANGER = "system:serviceaccount:preheat-system:preheat-x"
Patch = Callable[..., Any]

OWNER = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "name": "default",
    "uid": "11111111-1111-1111-1111-111111111111",
}
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
LABELS = "only node labels that start with cache.preheat.dev/"
VALUE = "only the values 'warming', 'ready', 'avoided' and 'leaving'"
SPEC = "may not change the spec of a node"

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a label of somebody else": ({"metadata": {"labels": {"example.com/x": "ready"}}}, "", LABELS),
    "another value for a label that others set": (
        {"metadata": {"labels": {"nvidia.com/gpu.product": "NVIDIA-H100"}}},
        "",
        LABELS,
    ),
    "a label of somebody else removed": ({"metadata": {"labels": {"kubernetes.io/os": None}}}, "", LABELS),
    "all labels removed": ({"metadata": {"labels": None}}, "", LABELS),
    "a longer domain": ({"metadata": {"labels": {"cache.preheat.dev.evil/x": "ready"}}}, "", LABELS),
    "a subdomain": ({"metadata": {"labels": {"a.cache.preheat.dev/x": "ready"}}}, "", LABELS),
    "the parent's domain": ({"metadata": {"labels": {"preheat.dev/x": "ready"}}}, "", LABELS),
    "the prefix as a name": ({"metadata": {"labels": {"cache.preheat.dev": "ready"}}}, "", LABELS),
    "one of ours and one of somebody else": (
        {"metadata": {"labels": {"cache.preheat.dev/x": "ready", "example.com/x": "ready"}}},
        "",
        LABELS,
    ),
    "another value": ({"metadata": {"labels": {"cache.preheat.dev/x": "yes"}}}, "", VALUE),
    "no value": ({"metadata": {"labels": {"cache.preheat.dev/x": ""}}}, "", VALUE),
    "another value for a label that is there": (
        {"metadata": {"labels": {"cache.preheat.dev/there": "READY"}}},
        "",
        VALUE,
    ),
    "an annotation": (
        {"metadata": {"annotations": {"example.com/x": "1"}}},
        "",
        "may not change annotations",
    ),
    "an annotation with our prefix": (
        {"metadata": {"annotations": {"cache.preheat.dev/x": "ready"}}},
        "",
        "may not change annotations",
    ),
    "a taint": ({"spec": {"taints": [TAINT]}}, "", SPEC),
    "cordoning": ({"spec": {"unschedulable": True}}, "", SPEC),
    "a provider's id": ({"spec": {"providerID": "aws:///x/i-1"}}, "", SPEC),
    "a finalizer": ({"metadata": {"finalizers": ["preheat.dev/x"]}}, "", "may not change finalizers"),
    "an owner": ({"metadata": {"ownerReferences": [OWNER]}}, "", "may not change owners"),
    "more GPUs": (
        {"status": {"capacity": {"nvidia.com/gpu": "64"}}},
        "status",
        "may not change the status of a node",
    ),
    "a label through the status": ({"metadata": {"labels": {"example.com/x": "1"}}}, "status", LABELS),
}


@pytest.fixture(scope="module")
def everything(api: API) -> Iterator[API]:
    """Every right there is, for the operator and for a stranger beside it."""
    accounts = [
        f"--serviceaccount={user.removeprefix('system:serviceaccount:')}" for user in (OPERATOR, STRANGER)
    ]
    api.kubectl("create", "clusterrolebinding", "everything", "--clusterrole=cluster-admin", *accounts)
    api.until(
        "every right known", lambda: api.run("auth", "can-i", "*", "*", "--as", OPERATOR).returncode == 0
    )
    yield api
    api.kubectl("delete", "clusterrolebinding", "everything")
    api.until("rights gone", lambda: api.run("auth", "can-i", "*", "*", "--as", OPERATOR).returncode != 0)


@pytest.fixture
def patch(everything: API, node: str) -> Patch:
    """Patch the node as somebody."""
    everything.kubectl("label", "node", node, "cache.preheat.dev/there=ready")

    def patch(change: dict[str, Any], subresource: str = "", user: str = OPERATOR) -> Any:
        where = [f"--subresource={subresource}"] if subresource else []
        return everything.run(
            "--as", user, "patch", "node", node, "--type=merge", "-p", json.dumps(change), *where
        )

    return patch


@pytest.mark.parametrize("case", REFUSED)
def test_everything_but_its_own_labels_is_refused(patch: Patch, case: str) -> None:
    change, subresource, words = REFUSED[case]
    result = patch(change, subresource)
    assert result.returncode != 0, "the API server took it"
    assert "denied request: the Preheat operator may" in result.stderr
    assert words in result.stderr


@pytest.mark.parametrize("case", REFUSED)
def test_others_are_not_fenced(patch: Patch, node: str, everything: API, case: str) -> None:
    change, subresource, _ = REFUSED[case]
    result = patch(change, subresource, STRANGER)
    assert result.returncode == 0, result.stderr
    everything.run("patch", "node", node, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


def test_its_own_labels_are_set_and_removed(everything: API, node: str, patch: Patch) -> None:
    many = {f"cache.preheat.dev/k{number}": "ready" for number in range(50)}
    assert patch({"metadata": {"labels": many}}).returncode == 0
    assert many.items() <= _labels(everything, node).items()
    assert patch({"metadata": {"labels": dict.fromkeys([*many, "cache.preheat.dev/there"])}}).returncode == 0
    assert not [label for label in _labels(everything, node) if label.startswith("cache.preheat.dev/")]


def test_what_a_person_wrote_there_may_stay_and_may_go(everything: API, node: str, patch: Patch) -> None:
    everything.kubectl("label", "node", node, "cache.preheat.dev/odd=else")
    assert patch({"metadata": {"labels": {"cache.preheat.dev/x": "ready"}}}).returncode == 0
    assert _labels(everything, node)["cache.preheat.dev/odd"] == "else"
    assert patch({"metadata": {"labels": {"cache.preheat.dev/odd": None}}}).returncode == 0
    assert "cache.preheat.dev/odd" not in _labels(everything, node)


def test_a_bare_node_can_be_labelled(everything: API) -> None:
    """No label, no annotation, no spec: what is not there is not changed either."""
    everything.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare"}})
    try:
        change = json.dumps({"metadata": {"labels": {"cache.preheat.dev/x": "ready"}}})
        everything.kubectl("--as", OPERATOR, "patch", "node", "bare", "--type=merge", "-p", change)
    finally:
        everything.kubectl("delete", "node", "bare")


def _labels(api: API, node: str) -> dict[str, str]:
    labels: dict[str, str] = (api.get("node", node) or {})["metadata"]["labels"]
    return labels
