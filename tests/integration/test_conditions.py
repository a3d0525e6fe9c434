"""What only the operator can know becomes a condition with numbers within seconds, and clears itself.

A Secret or a claim that is missing needs a kubelet: e2e/tests/test_missing.py.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.conftest import API, a_service

PROMISED_SECONDS = 5
DEADLINE_SECONDS = 60
"""The machine may be busy; what it took is printed."""

GPUS = {"gpu": {"types": ["nvidia-l4"]}}


def a_cache(name: str, **placement: Any) -> dict[str, Any]:
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "ModelCache",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"source": {"uri": "http://store.example/m/"}, "placement": placement},
    }


def told(api: API, kind: str, name: str, reason: str, what: str, *words: str) -> dict[str, Any]:
    """Wait for a reason of Ready; print how long it took; return the condition, whose message has these words."""
    started = time.monotonic()
    api.until(f"{name} {reason}", lambda: api.condition(kind, name).get("reason") == reason, DEADLINE_SECONDS)
    print(f"{what}: {reason} after {time.monotonic() - started:.1f} s (promised: {PROMISED_SECONDS} s)")
    condition = api.condition(kind, name)
    for word in words:
        assert word in condition["message"], condition["message"]
    return condition


@contextmanager
def a_quota(api: API) -> Iterator[None]:
    """A namespace in which no pod may be made, and none is: what other tests left takes its time to go."""
    api.until("no pods", lambda: not api.kubectl("get", "pods", "-o", "name").split(), 60)
    quota = {"metadata": {"name": "none", "namespace": "default"}, "spec": {"hard": {"pods": "0"}}}
    api.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    spec = {"containers": [{"name": "a", "image": "a"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec}
    api.until(
        "the quota holds",
        lambda: (
            "exceeded quota" in api.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod)).stderr
        ),
    )
    try:
        yield
    finally:
        api.kubectl("delete", "quota", "none", "--ignore-not-found")


@pytest.fixture(scope="module")
def operator(api: API) -> Iterator[API]:
    """An operator that has begun to work: what is measured is how fast it tells, not how fast it starts."""
    with api.operator():
        api.apply(a_cache("first"))
        api.until("the operator works", lambda: api.condition("mc", "first"), DEADLINE_SECONDS)
        api.kubectl("delete", "mc", "first")
        yield api


@pytest.fixture
def running(operator: API) -> Iterator[API]:
    yield operator
    operator.kubectl("delete", "llmd,mc", "--all")


def test_a_quota_that_keeps_a_warmer_out_is_told_and_clears_itself(running: API, node: str) -> None:
    with a_quota(running):
        running.apply(a_cache("full"))
        condition = told(
            running, "mc", "full", "PodsRefused", "quota for a warmer",
            "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0", node,
        )  # fmt: skip
        assert condition["status"] == "False"
        assert running.condition("mc", "full", "Stalled")["status"] == "True"
    told(running, "mc", "full", "WeightsFetching", "the quota is gone")


def test_a_quota_that_keeps_model_pods_out_is_told_and_clears_itself(running: API, node: str) -> None:
    with a_quota(running):
        running.apply(a_service("full"))
        told(
            running, "llmd", "full", "PodsRefused", "quota for a model pod",
            "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0",
        )  # fmt: skip
    told(running, "llmd", "full", "WeightsFetching", "the quota is gone")


def test_a_gpu_type_that_no_node_has_is_told_with_what_there_is(running: API, node: str) -> None:
    running.apply(a_service("rare", hardware={"gpu": {"types": ["nvidia-h100-80gb"]}}))
    told(
        running, "llmd", "rare", "NoMatchingNode", "a GPU that no node has",
        "0 of 1 nodes match, 1 needed", "1 Ready and schedulable",
        "0 with gpuTypes nvidia-h100-80gb (there are: nvidia-l4)",
    )  # fmt: skip
    running.kubectl("label", "node", node, "nvidia.com/gpu.product=NVIDIA-H100-PCIe", "--overwrite")
    told(running, "llmd", "rare", "WeightsFetching", "a node has it now")


def test_a_selector_that_matches_nothing_is_told_part_by_part(running: API, node: str) -> None:
    running.kubectl("label", "node", node, "zone=a")
    running.apply(a_service("picky", hardware={**GPUS, "nodeSelector": {"zone": "a", "team": "x"}}))
    told(
        running, "llmd", "picky", "NoMatchingNode", "a selector that matches nothing",
        "1 with gpuTypes nvidia-l4", "0 with team=x", "1 with zone=a",
    )  # fmt: skip
    running.kubectl("label", "node", node, "team=x")
    told(running, "llmd", "picky", "WeightsFetching", "a node matches now")


def test_a_taint_that_is_not_tolerated_is_named(running: API, node: str) -> None:
    running.kubectl("taint", "node", node, "reserved=yes:NoSchedule")
    running.apply(a_cache("kept-out", gpuTypes=["nvidia-l4"]))
    told(
        running, "mc", "kept-out", "NoMatchingNode", "a taint",
        "0 without a taint that is not tolerated (reserved)",
    )  # fmt: skip
    running.kubectl("taint", "node", node, "reserved-")
    told(running, "mc", "kept-out", "WeightsFetching", "the taint is gone")


def test_more_gpus_than_any_node_has_are_told_before_the_download(running: API, node: str) -> None:
    running.apply(a_service("huge", hardware={"gpu": {"types": ["nvidia-l4"], "count": 8}}))
    told(
        running, "llmd", "huge", "NoCapacity", "more GPUs than a node has",
        "One replica needs 8 nvidia.com/gpu on one node; the largest of 1 matching node offers 2",
    )  # fmt: skip
    amount = {"nvidia.com/gpu": "8"}
    patch = {"status": {"capacity": amount, "allocatable": amount}}
    running.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(patch))
    told(running, "llmd", "huge", "WeightsFetching", "the node has them now")


def test_no_node_at_all_is_told_and_clears_itself(running: API, request: pytest.FixtureRequest) -> None:
    running.apply(a_service("alone"))
    told(running, "llmd", "alone", "NoMatchingNode", "no node at all", "0 of 0 nodes match, 1 needed")
    request.getfixturevalue("node")
    told(running, "llmd", "alone", "WeightsFetching", "there is a node")
