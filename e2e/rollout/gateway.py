"""A real gateway: Contour, from its Go module, with Envoy, from PyPI, and Gateway API's own definitions.

Nothing of them is committed here. The first build takes some minutes, behind everything else; later ones nothing.
"""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import Provider
from e2e.cluster.gateway_api import definition
from e2e.cluster.local.archive import write_image
from e2e.cluster.local.build import Published, build_published
from e2e.cluster.provider import ROOT, kubectl
from e2e.images.builders import find_builder
from e2e.images.once import cache_directory, digest, locked, made_once
from e2e.images.packages import install_packages

CONTOUR = Published(
    "github.com/projectcontour/contour",
    "v1.33.8",
    "h1:QoOfwqWws+CVRFpsRC2+f1DmB5IdurtyUtepIsiWfE0=",
    {"contour": "./cmd/contour"},
)
MANIFESTS = ("00-common.yaml", "01-crds.yaml", "02-rbac.yaml", "02-role-contour.yaml")
"""Of its module: namespace, service accounts, definitions, rights."""
CONTOUR_IMAGE, ENVOY_IMAGE = "ghcr.io/projectcontour/contour:preheat", "docker.io/envoyproxy/envoy:preheat"
ENVOY_LOCK = ROOT / "requirements" / "envoy.lock"
ENVOY_CONTAINERFILE = Path(__file__).with_name("Containerfile.envoy")
NAME, NAMESPACE = "contour", "projectcontour"
PORT = 8000
"""Of its listener and its Service: that of the models, so that a client need not know which of both it asks."""
ENVOY_PORT = PORT + 8000
"""What Contour has Envoy listen on for it."""
XDS_PORT = 8001
READY_PORT = 8002
KINDS = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
UNUSED_KINDS = ("grpcroutes", "tcproutes", "tlsroutes", "backendtlspolicies")
"""What Contour would watch as well, some in versions that Gateway API no longer serves."""
READY_SECONDS = 120


def install(provider: Provider) -> str:
    """Have one Gateway that takes routes of every namespace; return the address of its Service.

    What is there already is only brought to what it should be.
    """
    folder = build_published(CONTOUR, _take_manifests)
    archive = folder / "contour.tar"
    if not archive.exists():
        write_image(archive, CONTOUR_IMAGE, folder / "contour", "/contour")
    provider.load_images([archive, _envoy()])
    kubeconfig = provider.kubeconfig
    # Definitions are larger than what a client-side apply may note.
    for path in (*(definition(kind) for kind in KINDS), *(folder / name for name in MANIFESTS)):
        kubectl(kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", str(path))
    path = ROOT / "build" / "e2e" / "rollout-gateway.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(_bodies()))
    kubectl(kubeconfig, "apply", "-f", str(path))
    where, timeout = ("-n", NAMESPACE), f"--timeout={READY_SECONDS}s"
    kubectl(kubeconfig, *where, "rollout", "status", f"deploy/{NAME}", timeout)
    kubectl(kubeconfig, *where, "wait", "--for=condition=Programmed", f"gateway/{NAME}", timeout)
    return kubectl(kubeconfig, *where, "get", "service", NAME, "-o", "jsonpath={.spec.clusterIP}")


def _take_manifests(source: Path, folder: Path) -> None:
    """Copy the manifests that belong to this version: later runs need no Go."""
    for name in MANIFESTS:
        (folder / name).write_bytes((source / "examples" / "contour" / name).read_bytes())


def _envoy() -> Path:
    """Return the archive of Envoy's image; build it if it is missing."""
    cache = cache_directory()
    key = digest(ENVOY_LOCK.read_bytes(), ENVOY_CONTAINERFILE.read_bytes())

    def make(folder: Path) -> None:
        with locked(cache / "images" / "build.lock"), tempfile.TemporaryDirectory(dir=cache) as context:
            install_packages(ENVOY_LOCK, Path(context) / "site-packages")
            builder = find_builder(cache, lambda words: print(f"  {words}", flush=True))
            builder.build(ENVOY_CONTAINERFILE, Path(context), ENVOY_IMAGE, folder / "envoy.tar")

    folder = cache / "images" / f"envoy-{key}"
    made_once(folder, make)
    return folder / "envoy.tar"


def _bodies() -> list[dict[str, Any]]:
    where = {"name": NAME, "namespace": NAMESPACE}
    labels = {"app": NAME}
    gateway_api = {"apiVersion": "gateway.networking.k8s.io/v1"}
    settings = yaml.safe_dump({"gateway": {"gatewayRef": where}})
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": PORT,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": {"contour.yaml": settings}},
        {"apiVersion": "v1", "kind": "Service", "metadata": where,
         "spec": {"selector": labels, "ports": [{"port": PORT, "targetPort": ENVOY_PORT}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": where,
         "spec": {"replicas": 1, "selector": {"matchLabels": labels},
                  "template": {"metadata": {"labels": labels}, "spec": _pod()}}},
        {**gateway_api, "kind": "GatewayClass", "metadata": {"name": NAME},
         "spec": {"controllerName": "projectcontour.io/gateway-controller"}},
        {**gateway_api, "kind": "Gateway", "metadata": where,
         "spec": {"gatewayClassName": NAME, "listeners": [listener]}},
    ]  # fmt: skip


def _pod() -> dict[str, Any]:
    """Return Contour and the one Envoy that it steers, side by side: they talk over the pod's loopback, without TLS."""
    settings = {"name": "settings", "mountPath": "/settings", "readOnly": True}
    steered = {"name": "envoy", "mountPath": "/envoy"}
    admin = {"name": "admin", "mountPath": "/admin"}
    xds = ["--xds-address=127.0.0.1", f"--xds-port={XDS_PORT}"]
    serve = ["serve", "--incluster", "--insecure", "--disable-leader-election"]
    serve += [f"--disable-feature={kind}" for kind in UNUSED_KINDS]
    envoy = ["-c", "/envoy/envoy.json", "--service-cluster", NAMESPACE, "--service-node", NAME]
    ready = {"httpGet": {"path": "/ready", "port": READY_PORT}, "periodSeconds": 1}
    return {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "fsGroup": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [
            _container("bootstrap", CONTOUR_IMAGE, ["bootstrap", "/envoy/envoy.json", *xds], [steered]),
        ],
        "containers": [
            _container("contour", CONTOUR_IMAGE, [*serve, *xds, "--config-path=/settings/contour.yaml"], [settings]),
            _container("envoy", ENVOY_IMAGE, envoy, [steered, admin], readinessProbe=ready),
        ],
        "volumes": [
            {"name": "settings", "configMap": {"name": NAME}},
            {"name": "envoy", "emptyDir": {}},
            {"name": "admin", "emptyDir": {}},
        ],
    }  # fmt: skip


def _container(
    name: str, image: str, arguments: list[str], mounts: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "args": arguments,
        "volumeMounts": mounts,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **more,
    }
