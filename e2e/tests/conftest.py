"""The e2e suite: a real cluster (its own, or yours by --kubeconfig), the chart, real pods of a real Triton.

Each of pytest's workers has a cluster of its own: two of them wait side by side, and use both cores.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import PROVIDERS, provider_for
from e2e.cluster.audit import calls, keep_calls
from e2e.install import NAMES, image_archives, install_operator
from e2e.tests.cluster import Cluster, fast_store

LONG = (
    "test_scaling.py",
    "test_rollout.py",
    "test_modes.py",
    "test_disks.py",
    "test_front.py",
    "test_pages.py",
)
"""Files that take minutes: they begin, so that no worker has one of them left when the others are done."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("preheat")
    group.addoption("--provider", choices=("auto", *PROVIDERS), default="auto", help="who makes the cluster")
    group.addoption("--kubeconfig", type=Path, help="use this cluster, with the operator installed, instead")
    group.addoption("--keep", action="store_true", help="leave the cluster up afterwards")
    group.addoption("--cluster-name", default="preheat-test", help="name of the cluster that is made")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with the operator and the model store."""
    name = f"{request.config.getoption('cluster_name')}{_worker()}"
    provider = provider_for(request.config.getoption("provider"), name)
    own = request.config.getoption("kubeconfig")
    if own is not None:
        provider.kubeconfig = own
    try:
        if own is None:
            archives = image_archives()
            provider.up()
            provider.load_images([archives[name] for name in NAMES])
            install_operator(provider.kubeconfig)
        made = Cluster(provider)
        made.kubectl("apply", "-f", str(fast_store(f"model-store{_worker()}")))
        made.kubectl("-n", made.namespace, "rollout", "status", "deploy/model-store", "--timeout=120s")
        yield made
        if own is None and provider.audit_log is not None:
            keep_calls("e2e", calls(provider.audit_log))
    finally:
        if own is None and not request.config.getoption("keep"):
            provider.down()


@pytest.fixture
def service(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for an LLMDeployment that is gone, with its pods, after the test."""
    name = request.node.name.removeprefix("test_").split("[")[0].replace("_", "-")[:30].rstrip("-")
    yield name
    cluster.kubectl("-n", cluster.namespace, "delete", "llmd", name, "--ignore-not-found", "--wait=true")
    cluster.until(f"pods of {name} gone", lambda: not cluster.pods(name), 120)


def _worker() -> str:
    """Return the end of a name that belongs to this worker alone; empty where there are no workers."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    return f"-{worker}" if worker else ""
