"""Where the campaign plays: a cluster with the operator, a store with the revisions, and a pod that asks."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import Provider
from e2e.cluster.provider import ROOT
from e2e.images.catalog import IMAGES
from e2e.install import NAMES, SYSTEM, TAG, image_archives, install_operator
from e2e.rollout.revisions import files, filled
from e2e.tests.cluster import Cluster

STORE, CLIENT = "rollout-store", "rollout-client"
NAMESPACE = "rollout"
OPERATOR = "app.kubernetes.io/name=preheat"
READY_SECONDS = 120

LAY_OUT = """
import json, pathlib
for path, content in json.loads(pathlib.Path("/config/files.json").read_text()).items():
    file = pathlib.Path("/weights", path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else FILLER * content)
""".replace("FILLER", repr(filled(1)))
SLEEP = "import time; time.sleep(1_000_000)"


class Stage(Cluster):
    """A cluster with everything that a case needs, in a namespace of its own."""

    namespace = NAMESPACE

    def prepare(self) -> None:
        """Make the namespace, the store and the pod that asks."""
        self.put("stage", *_bodies())
        self.kubectl("-n", NAMESPACE, "rollout", "status", f"deploy/{STORE}", f"--timeout={READY_SECONDS}s")
        self.kubectl(
            "-n", NAMESPACE, "wait", "--for=condition=Ready", f"pod/{CLIENT}", f"--timeout={READY_SECONDS}s"
        )

    def put(self, name: str, *bodies: dict[str, Any]) -> None:
        """Apply objects."""
        path = ROOT / "build" / "e2e" / f"rollout-{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump_all(bodies))
        self.kubectl("apply", "-f", str(path))

    def kill_operator(self) -> None:
        """End the operator at once; return when the next one is ready."""
        self.kubectl("-n", SYSTEM, "delete", "pods", "-l", OPERATOR, "--force", "--grace-period=0")
        self.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", f"--timeout={READY_SECONDS}s")

    def set_gpus(self, node: str, count: int) -> None:
        """Say how many GPUs a node has."""
        amount = {"nvidia.com/gpu": str(count)}
        patch = json.dumps({"status": {"capacity": amount, "allocatable": amount}})
        self.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)


@contextmanager
def open_stage(provider: Provider, kubeconfig: Path | None, *, keep: bool) -> Iterator[Stage]:
    """Bring a cluster up, or take one that has the operator in it; take it away, unless it shall be kept."""
    own = kubeconfig is None
    try:
        if kubeconfig is not None:
            provider.kubeconfig = kubeconfig
        else:
            archives = image_archives()
            provider.up()
            provider.load_images([archives[name] for name in NAMES])
            install_operator(provider.kubeconfig)
        stage = Stage(provider)
        stage.prepare()
        yield stage
    finally:
        if own and not keep:
            provider.down()


def a_holder(name: str, node: str, gpus: int) -> dict[str, Any]:
    """Return a pod of somebody else's that holds GPUs of a node and does nothing."""
    container = _container("holder", "agent", command=["python3", "-c", SLEEP])
    amounts = {"nvidia.com/gpu": str(gpus)}
    resources = {"requests": amounts, "limits": {**amounts, "memory": "64Mi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            **_pod(),
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{**container, "resources": resources}],
        },
    }


def _bodies() -> list[dict[str, Any]]:
    content = json.dumps(files(), sort_keys=True)
    where = {"namespace": NAMESPACE}
    labels = {"app": STORE}
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": restricted}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": STORE, **where},
         "data": {"files.json": content}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": STORE, **where},
         "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": STORE, **where},
         "spec": {"replicas": 1, "selector": {"matchLabels": labels},
                  "template": _store(labels, hashlib.sha256(content.encode()).hexdigest())}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CLIENT, **where},
         "spec": {**_pod(), "terminationGracePeriodSeconds": 0,
                  "containers": [_container("client", "agent", command=["python3", "-c", SLEEP])]}},
    ]  # fmt: skip


def _store(labels: dict[str, str], digest: str) -> dict[str, Any]:
    weights = {"name": "weights", "mountPath": "/weights"}
    lay_out = _container("lay-out", "model-store", command=["python3", "-c", LAY_OUT],
                         volumeMounts=[weights, {"name": "config", "mountPath": "/config"}])  # fmt: skip
    server = _container(
        "server",
        "model-store",
        args=["--root", "/weights"],  # after the image's own, and the last one counts
        ports=[{"containerPort": 8080}],
        readinessProbe={"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        volumeMounts=[{**weights, "readOnly": True}],
    )
    volumes = [{"name": "weights", "emptyDir": {}}, {"name": "config", "configMap": {"name": STORE}}]
    return {
        # Other files are another pod: it reads them at its start.
        "metadata": {"labels": labels, "annotations": {"preheat.dev/files": digest}},
        "spec": {**_pod(), "initContainers": [lay_out], "containers": [server], "volumes": volumes},
    }


def _pod() -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _container(name: str, image: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": IMAGES[image].reference(TAG),
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **more,
    }
