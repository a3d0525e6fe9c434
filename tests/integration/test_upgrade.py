"""A new version of the operator restarts no model, and neither does going back to the old one.

The old one is the last release: its own code, its own definitions and its own rights, on an API server of its own.
Its models serve; then the new definitions and rights are applied and the new operator starts; then back.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from preheat.decide.changes import difference

from e2e.cluster.audit import requests
from e2e.cluster.local.controlplane import ControlPlane, free_port
from e2e.cluster.provider import ROOT
from e2e.rights import admit_operator
from tests.integration.conftest import API, a_service, add_node, complete_warmers
from tests.releases.last import last_release

QUIET_SECONDS = 8.0
"""Longer than from the operator's start to its first full list (five seconds), and to the passes after it."""
SETTLE_SECONDS = 180.0

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "several": {"replicas": 3, "hardware": {"gpu": {"types": ["nvidia-a10g", "nvidia-l4"]}}},
    "pair": {"hardware": {"gpu": {"types": ["nvidia-l4"], "count": 2}}, "runtime": {"backend": "LlamaCpp"}},
    "canary": {
        "health": {"canary": {"prompt": "The capital of $(HOME) is", "expect": "Paris|$"}, "stallSeconds": 60},
        "runtime": {"backend": "LlamaCpp", "options": {"n_ctx": "1024"}, "drainSeconds": 7},
        "cache": {"warmNodes": 1, "maxBytesPerSecond": 1_000_000},
    },
    "hub": {
        "model": {"uri": "hf://org/name", "revision": "0123456789abcdef0123456789abcdef01234567"},
        "runtime": {"backend": "VLLM", "resources": {"cpu": "500m", "memory": "1024Mi"}},
    },
    "bounded": {"replicas": 9, "scaling": {"minReplicas": 1, "maxReplicas": 2}, "rollout": {"revisionHistoryLimit": 1}},
    "asleep": {"replicas": 0},
}  # fmt: skip
"""What people have running: several GPU types, several GPUs, a canary, options, another engine, bounds, none."""

EXPLAINED: dict[tuple[str, str, str], str] = {
    (
        "patch",
        "deployments",
        "hub",
    ): "The API server spells 1024Mi as 1Gi. Which of our wishes it spells otherwise is not "
    "remembered over a start: one apply finds out again that it changes nothing.",
    (
        "create",
        "events",
        "bounded",
    ): "That a number beyond a bound is not followed is an Event now, once.",
    (
        "patch",
        "modelcaches",
        "several",
    ): "With replicas on two GPU types, which nodes get the weights before others is told now: an annotation, once.",
    (
        "patch",
        "networkpolicies",
        "preheat-model-pods",
    ): "0.1.0 had a policy for each model, with the same rules; now a namespace has one.",
    (
        "patch",
        "controllerrevisions",
        "",
    ): "A revision that has served for long is remembered as one to go back to: an annotation, once.",
    **{
        ("create", "jobs", f"{name}-image-"): "A node that is warm and has no replica pulls the images, once."
        for name in SHAPES
    },
}
"""Writes that a start may make to what was there before, as (verb, resource, of which model), and why.

A write to a status is always right. Nothing here may ever change a generation, let alone a pod: that is asserted for all.
"""


@dataclass(frozen=True)
class Models:
    """All that runs, or decides what runs."""

    deployments: dict[str, Any]
    revisions: dict[str, Any]
    pods: dict[str, Any]
    objects: dict[str, Any]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree of the last release."""
    tree = (last_release() / "tree").read_text().strip()
    archive = subprocess.run(["git", "archive", tree], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.fail(
            f"release {last_release().name} is tree {tree}, and this clone does not have it "
            f"({archive.stderr.decode().strip()}). Fetch the whole history: git fetch --unshallow"
        )
    folder = tmp_path_factory.mktemp("release")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@pytest.fixture(scope="module")
def cluster(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    """An API server with the last release's definitions, two kinds of nodes, and models of every shape."""
    folder = tmp_path_factory.mktemp("upgrade")
    with ControlPlane(folder / "state", controllers="*,-node-lifecycle-controller", audit=True) as plane:
        api = API(plane, folder)
        _install(api, release)
        for number in range(3):
            add_node(api, f"l4-{number}", "NVIDIA-L4", 8)
        add_node(api, "a10g", "NVIDIA-A10G", 1)
        for name, spec in SHAPES.items():
            api.apply(a_service(name, **spec))
        ahead = {"source": {"uri": "http://store.example/ahead/"}, "placement": {"nodes": 2}}
        api.apply({**a_service("ahead"), "kind": "ModelCache", "spec": ahead})
        yield api


def test_an_upgrade_and_a_downgrade_restart_no_model(cluster: API, release: Path) -> None:
    with _operator(cluster, release):
        cluster.until("every model serves", lambda: _serve(cluster), SETTLE_SECONDS)
        _quiet(cluster)
    before = _models(cluster)
    serving = [pod["spec"]["nodeName"] for pod in _pods(cluster)]
    assert len(serving) == sum(body["spec"]["replicas"] for body in before.deployments.values()) == 9
    assert set(serving) == {"a10g", "l4-0"}

    for version in (ROOT, release):
        seen = len(_writes(cluster))
        _install(cluster, version)
        with _operator(cluster, version) as port:
            cluster.until("it has looked at every model", lambda p=port: _passes(p) >= len(SHAPES), 60)
            _quiet(cluster)
        after = _models(cluster)
        name = "the new version" if version == ROOT else "the old version again"
        for what in ("deployments", "revisions", "pods"):
            assert getattr(after, what) == getattr(before, what), f"{name} changed {what}"
        # The API server shows the defaults of new fields in what it reads: nobody has written them.
        changed = list(difference(before.objects, after.objects))
        assert changed == [], f"{name} changed objects"
        assert {kind: set(found) for kind, found in after.objects.items()} == {
            kind: set(found) for kind, found in before.objects.items()
        }, f"{name} made or removed objects"
        unexplained = [call for call in _writes(cluster)[seen:] if not _is_explained(*call)]
        assert not unexplained, f"{name} wrote what need not be written"


def test_after_all_that_the_new_version_still_does_its_work(cluster: API) -> None:
    """It was not idle because it was blind: a model that is scaled is scaled, from the stored revision."""
    _install(cluster, ROOT)
    before = _models(cluster)
    with _operator(cluster, ROOT):
        cluster.kubectl("scale", "llmd/plain", "--replicas=2")
        cluster.until("two replicas", lambda: len(_pods(cluster, "plain")) == 2)
    after = _models(cluster)
    assert before.pods.items() <= after.pods.items()
    assert after.revisions == before.revisions


# --- installing and running a version


def _install(api: API, version: Path) -> None:
    """Apply a version's definitions and rights, as its chart would."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(version / "crds"))
    api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    api.operator_kubeconfig = admit_operator(api.plane, version)


@contextmanager
def _operator(api: API, version: Path) -> Iterator[int]:
    """Run a version's own code; yield its port. The images that it was built with have its own name."""
    port, tag = free_port(), "new" if version == ROOT else "old"
    environment = {
        "PYTHONPATH": str(version / "operator"),
        "PREHEAT_PORT": str(port),
        "PREHEAT_AGENT_IMAGE": f"registry.example/agent:{tag}",
        "PREHEAT_LLAMACPP_IMAGE": f"registry.example/engine:{tag}",
        "PREHEAT_WARMER_IMAGE": f"registry.example/warmer:{tag}",
    }
    found = subprocess.run(
        [sys.executable, "-c", "import preheat; print(preheat.__file__)"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(version), "the code that runs is that version's"
    with api.operator(**environment):
        yield port


def _passes(port: int) -> int:
    """Return how many passes over LLMDeployments ended well, as the operator counts them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    counts = [
        line
        for line in lines
        if line.startswith('preheat_reconcile_total{kind="LLMDeployment",outcome="ok"}')
    ]
    return sum(int(float(line.split()[-1])) for line in counts)


# --- what a kubelet and a scheduler would do


def _serve(api: API) -> bool:
    """Do one step of what brings the models up; tell whether all of them serve."""
    complete_warmers(api)
    for pod in _pods(api):
        if "nodeName" not in pod["spec"]:
            _bind(api, pod)
    listed = json.loads(api.kubectl("get", "llmd,mc", "-o", "json"))["items"]
    return all(_is_ready(body) for body in listed)


def _bind(api: API, pod: dict[str, Any]) -> None:
    name = pod["metadata"]["name"]
    node = {"nvidia-a10g": "a10g", "nvidia-l4": "l4-0"}[pod["metadata"]["labels"]["preheat.dev/gpu-type"]]
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
               "target": {"apiVersion": "v1", "kind": "Node", "name": node}}  # fmt: skip
    path = f"/api/v1/namespaces/default/pods/{name}/binding"
    api.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))
    started = "2026-01-01T00:00:00Z"
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    running = {
        "ready": True,
        "restartCount": 0,
        "image": "x",
        "imageID": "x",
        "state": {"running": {"startedAt": started}},
    }
    status = {
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": started} for kind in kinds],
        "initContainerStatuses": [{"name": "agent", "started": True, **running}],
        "containerStatuses": [{"name": "engine", "started": True, **running}],
    }
    api.kubectl(
        "patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )


# --- what is there, and what was written


def _is_ready(body: dict[str, Any]) -> bool:
    conditions = (body.get("status") or {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _pods(api: API, service: str = "") -> list[dict[str, Any]]:
    which = f"preheat.dev/llmdeployment={service}" if service else "preheat.dev/llmdeployment"
    items: list[dict[str, Any]] = json.loads(
        api.kubectl("get", "pods", "-l", f"{which},preheat.dev/component=engine", "-o", "json")
    )["items"]
    return items


def _models(api: API) -> Models:
    """Return everything of which a change would restart a model, or change what is promised. What pulls images is neither."""

    def listed(kind: str, *parts: str) -> dict[str, Any]:
        items = json.loads(api.kubectl("get", kind, "-o", "json"))["items"]
        return {
            body["metadata"]["name"]: {
                "uid": body["metadata"]["uid"],
                "generation": body["metadata"].get("generation"),
                "deleted": "deletionTimestamp" in body["metadata"],
                **{part: body.get(part) for part in parts},
            }
            for body in items
            if (body["metadata"].get("labels") or {}).get("preheat.dev/component") != "puller"
        }

    return Models(
        deployments=listed("deployments", "spec"),
        revisions=listed("controllerrevisions", "data", "revision"),
        pods=listed("pods", "spec"),
        objects={
            kind: listed(kind, "spec")
            for kind in ("llmd", "mc", "services", "jobs", "pv", "pvc", "replicasets")
        },
    )


def _writes(api: API) -> list[tuple[str, str, str]]:
    """Return the operator's writes to objects, but to their status: verb, resource, name."""
    assert api.plane.audit_log is not None
    return [
        (entry["verb"], entry["objectRef"]["resource"], entry["objectRef"].get("name", ""))
        for entry in requests(api.plane.audit_log)
        if entry["verb"] not in {"get", "list", "watch"} and entry["objectRef"].get("subresource") != "status"
    ]


def _is_explained(verb: str, resource: str, name: str) -> bool:
    return any((verb, resource) == key[:2] and name.startswith(key[2]) for key in EXPLAINED)


def _quiet(api: API) -> None:
    """Wait until the operator has written nothing for a while."""
    count, since = len(_writes(api)), time.monotonic()

    def is_quiet() -> bool:
        nonlocal count, since
        now = len(_writes(api))
        if now != count:
            count, since = now, time.monotonic()
        return time.monotonic() - since > QUIET_SECONDS

    api.until("the operator is quiet", is_quiet, SETTLE_SECONDS)


def test_the_shapes_are_what_the_release_took(release: Path) -> None:
    """Every shape sets what the last release knows: else the test would look at less than it says."""
    schema = yaml.safe_load((release / "crds" / "llmdeployments.yaml").read_text())
    known = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for name, spec in SHAPES.items():
        assert set(spec) <= set(known), name
