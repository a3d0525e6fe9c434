"""KEDA, the real one: its operator and its metrics server, from its Go module, with its own manifests.

Nothing of it is committed here. The first build takes a quarter of an hour of one core, behind everything else; later ones nothing.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import Provider
from e2e.cluster.local.archive import write_image
from e2e.cluster.local.build import Published, build_published
from e2e.cluster.provider import KUBECTL, ROOT, kubectl, wait_for

KEDA = Published(
    "github.com/kedacore/keda/v2",
    "v2.21.0",
    "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
    {"keda": "./cmd/operator", "keda-adapter": "./cmd/adapter"},
)
NAMESPACE = "keda"
MANIFESTS = "manifests.yaml"
TAG = "preheat"
LEFT_OUT = "keda-admission"
"""Its webhook judges ScaledObjects before they are stored. Nothing here needs it, and it is one more program to build."""
READY_SECONDS = 300
"""It makes certificates for itself and starts anew with them; kubelets may take a minute to mount them."""


def install(provider: Provider) -> None:
    """Build it, bring it to every node, apply its manifests and wait until it tells external metrics."""
    folder = build_published(KEDA, _take_manifests)
    archives = []
    for deployment, program in (("keda", "keda"), ("keda-metrics-apiserver", "keda-adapter")):
        archive = folder / f"{program}.tar"
        if not archive.exists():
            write_image(archive, f"ghcr.io/kedacore/{deployment}:{TAG}", folder / program, f"/{program}")
        archives.append(archive)
    provider.load_images(archives)
    bodies = adapted([body for body in yaml.safe_load_all((folder / MANIFESTS).read_text()) if body])
    path = ROOT / "build" / "e2e" / "keda.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(bodies))
    # Its definitions are larger than what a client-side apply may note.
    kubectl(provider.kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", str(path))
    for name in ("keda-operator", "keda-metrics-apiserver"):
        kubectl(
            provider.kubeconfig,
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            f"deploy/{name}",
            f"--timeout={READY_SECONDS}s",
        )
    wait_for("external metrics are served", lambda: _is_available(provider.kubeconfig), READY_SECONDS, 1)


def adapted(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return KEDA's manifests with images that no registry is asked for, and without its admission webhook."""
    kept = [body for body in bodies if not body["metadata"]["name"].startswith(LEFT_OUT)]
    for body in kept:
        if body["kind"] == "Deployment":
            for container in body["spec"]["template"]["spec"]["containers"]:
                container["image"] = f"{container['image'].rpartition(':')[0]}:{TAG}"
                container["imagePullPolicy"] = "Never"
                if body["metadata"]["name"] == "keda-operator":
                    container["args"].append("--enable-webhook-patching=false")
    return kept


def _take_manifests(source: Path, folder: Path) -> None:
    """Render the manifests that belong to this version: later runs need no Go."""
    rendered = subprocess.run(
        [KUBECTL, "kustomize", str(source / "config" / "default")], capture_output=True, text=True, check=True
    )
    (folder / MANIFESTS).write_text(rendered.stdout)


def _is_available(kubeconfig: Path) -> bool:
    path = '{.status.conditions[?(@.type=="Available")].status}'
    told = kubectl(
        kubeconfig,
        "get",
        "apiservice",
        "v1beta1.external.metrics.k8s.io",
        "-o",
        f"jsonpath={path}",
        check=False,
    )
    return told == "True"
