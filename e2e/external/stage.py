"""Where the cases play: a cluster with the operator, weights to load, and a number that autoscalers look at.

The number has two doors: a page, which KEDA reads, and the API of external metrics, which the autoscaler of
kube-controller-manager asks through the API server. KEDA, once it is there, serves that API itself.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import Provider
from e2e.cluster.local.controlplane import write_certificate
from e2e.cluster.provider import ROOT, step
from e2e.external import keda
from e2e.images.catalog import IMAGES
from e2e.install import NAMES, SYSTEM, TAG, image_archives, install_operator
from e2e.tests.cluster import Cluster, fast_store

GAUGE = "gauge"
TARGET = 10
"""What one replica is to have of the number."""
METRIC = "asked"
GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
HOST = f"{GAUGE}.{Cluster.namespace}.svc"
READY_SECONDS = 120

SERVE = (
    """
import datetime, http.server, json, ssl, threading
API = "/apis/GROUP/VERSION"
RESOURCE = {"name": "METRIC", "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
KINDS = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "GROUP/VERSION", "resources": [RESOURCE]}
class Gauge(http.server.BaseHTTPRequestHandler):
    value = 0
    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/":
            self.answer({"value": Gauge.value})
        elif path == API:
            self.answer(KINDS)
        elif path.startswith(API + "/namespaces/") and path.endswith("/METRIC"):
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            item = {"metricName": "METRIC", "metricLabels": {}, "timestamp": now, "value": str(Gauge.value)}
            self.answer({"kind": "ExternalMetricValueList", "apiVersion": "GROUP/VERSION", "metadata": {}, "items": [item]})
        else:
            self.send_error(404)
    def do_PUT(self):
        Gauge.value = int(self.path[1:])
        self.answer({"value": Gauge.value})
    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
page, api = (http.server.ThreadingHTTPServer(("", port), Gauge) for port in (8080, 8443))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
api.socket = context.wrap_socket(api.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=api.serve_forever, daemon=True).start()
page.serve_forever()
""".replace("GROUP", GROUP)
    .replace("VERSION", VERSION)
    .replace("METRIC", METRIC)
)
PUT = """
import sys, urllib.request
request = urllib.request.Request(f"http://127.0.0.1:8080/{sys.argv[1]}", method="PUT")
urllib.request.urlopen(request, timeout=10).read()
"""


class Stage(Cluster):
    """A cluster with all that a case needs."""

    def prepare(self) -> None:
        """Have weights to load, and the number."""
        self.kubectl("apply", "-f", str(fast_store("external-model-store")))
        certificate = ROOT / "build" / "e2e" / "external-gauge"
        write_certificate(certificate, GAUGE, "-addext", f"subjectAltName=DNS:{HOST}")
        self.put("gauge", *_gauge(self.namespace, certificate))
        for name in ("model-store", GAUGE):
            self.kubectl(
                "-n", self.namespace, "rollout", "status", f"deploy/{name}", f"--timeout={READY_SECONDS}s"
            )

    def serve_metric(self) -> None:
        """Have the number served as an external metric. Raises RuntimeError where KEDA serves these already."""
        service = {"name": GAUGE, "namespace": self.namespace}
        served = (json.loads(self._api_service() or "{}").get("spec") or {}).get("service") or service
        if served["name"] != GAUGE:
            raise RuntimeError(
                f"{served['namespace']}/{served['name']} serves external metrics in this cluster: take another"
            )
        bundle = (ROOT / "build" / "e2e" / "external-gauge.crt").read_bytes()
        self.put(
            "api-service",
            {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"{VERSION}.{GROUP}"},
             "spec": {"group": GROUP, "version": VERSION, "service": service, "groupPriorityMinimum": 100,
                      "versionPriority": 100, "caBundle": base64.b64encode(bundle).decode()}},
        )  # fmt: skip
        self.until("the metric is served", self._is_served, READY_SECONDS, 1)

    def install_keda(self) -> None:
        """Have KEDA, which serves external metrics itself; do nothing when it is there."""
        if "keda-metrics-apiserver" in self._api_service():
            return
        self.kubectl("delete", "apiservice", f"{VERSION}.{GROUP}", "--ignore-not-found")
        with step("KEDA"):
            keda.install(self.provider)

    def put(self, name: str, *bodies: dict[str, Any]) -> None:
        """Apply objects."""
        path = ROOT / "build" / "e2e" / f"external-{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump_all(bodies))
        self.kubectl("apply", "-f", str(path))

    def set_gauge(self, value: int) -> None:
        """Set the number."""
        self.kubectl("-n", self.namespace, "exec", f"deploy/{GAUGE}", "--", "python3", "-c", PUT, str(value))

    def set_operators(self, count: int) -> None:
        """Have so many operators, and wait until that is so."""
        self.kubectl("-n", SYSTEM, "scale", "deploy/preheat", f"--replicas={count}")
        self.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", f"--timeout={READY_SECONDS}s")
        operators = "app.kubernetes.io/name=preheat"
        self.until(
            "so many operators", lambda: len(self.items("pods", operators, SYSTEM)) == count, READY_SECONDS
        )

    def _api_service(self) -> str:
        return self.kubectl("get", "apiservice", f"{VERSION}.{GROUP}", "-o", "json", "--ignore-not-found")

    def _is_served(self) -> bool:
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{METRIC}"
        return '"items"' in self.kubectl("get", "--raw", path, check=False)


@contextmanager
def open_stage(provider: Provider, *, keep: bool) -> Iterator[Stage]:
    """Bring a cluster up with the operator in it, or take the one of this name; take it away, unless it shall be kept."""
    try:
        archives = image_archives()
        provider.up()
        provider.load_images([archives[name] for name in NAMES])
        install_operator(provider.kubeconfig)
        stage = Stage(provider)
        # Images have the same name each time: a cluster that was kept still runs the operator of then.
        stage.set_operators(0)
        stage.set_operators(1)
        stage.prepare()
        yield stage
    finally:
        if not keep:
            provider.down()


def a_scaled_object(
    namespace: str, name: str, target: dict[str, Any], *, activation: int = 0, **spec: Any
) -> dict[str, Any]:
    """Return a ScaledObject that looks at the number every 5 s. ``activation``: what is more than that wakes it."""
    trigger = {
        "type": "metrics-api",
        "metadata": {
            "url": f"http://{HOST}.cluster.local/", "valueLocation": "value", "targetValue": str(TARGET), "activationTargetValue": str(activation),
        },
    }  # fmt: skip
    at_once = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": target,
            "pollingInterval": 5,
            "cooldownPeriod": 10,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": at_once}},
            "triggers": [trigger],
            **spec,
        },
    }


def an_autoscaler(
    namespace: str, name: str, target: dict[str, Any], least: int, most: int, kind: str
) -> dict[str, Any]:
    """Return a HorizontalPodAutoscaler that looks at the number. ``kind``: AverageValue or Value."""
    wanted = {"type": kind, "averageValue" if kind == "AverageValue" else "value": str(TARGET)}
    metric = {"type": "External", "external": {"metric": {"name": METRIC}, "target": wanted}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }


def _gauge(namespace: str, certificate: Path) -> list[dict[str, Any]]:
    where, labels = {"name": GAUGE, "namespace": namespace}, {"app": GAUGE}
    container = {
        "name": GAUGE,
        "image": IMAGES["agent"].reference(TAG),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SERVE],
        "ports": [{"containerPort": 8080}, {"containerPort": 8443}],
        "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tls", "secret": {"secretName": GAUGE}}],
    }
    tls = {f"tls.{end}": certificate.with_suffix(f".{end}").read_text() for end in ("crt", "key")}
    # Another certificate is another pod: it is read at its start.
    notes = {"preheat.dev/certificate": hashlib.sha256(tls["tls.crt"].encode()).hexdigest()}
    template = {"metadata": {"labels": labels, "annotations": notes}, "spec": pod}
    ports = [
        {"name": "page", "port": 80, "targetPort": 8080},
        {"name": "api", "port": 443, "targetPort": 8443},
    ]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": where,
         "spec": {"selector": labels, "ports": ports}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": where, "type": "kubernetes.io/tls", "stringData": tls},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": where,
         "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}},
    ]  # fmt: skip
