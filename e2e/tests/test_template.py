"""spec.template on a real cluster: the pod comes up under Pod Security `restricted` with all that was laid over it."""

import json

from e2e.cluster.provider import ROOT
from e2e.tests.cluster import Cluster

SPREAD = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"example.com/spread": "own"}},
            }
        ]
    }
}


def test_a_pod_comes_up_with_what_the_template_lays_over_it(cluster: Cluster, service: str) -> None:
    image = _agent_image(cluster)
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": service, "namespace": cluster.namespace},
        "data": {"greeting": "hello from a ConfigMap"},
    }
    manifest = ROOT / "build" / "e2e" / f"{service}-settings.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps(settings))
    cluster.kubectl("apply", "-f", str(manifest))
    copy = "import shutil; shutil.copy('/etc/settings/greeting', '/scratch/greeting')"
    serve = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=7000, bind='127.0.0.1')"
    scratch = {"name": "scratch", "mountPath": "/scratch"}
    mounted = {"name": "settings", "mountPath": "/etc/settings"}
    template = {
        "metadata": {
            "labels": {"example.com/spread": "own"},
            "annotations": {"example.com/on-call": "search"},
        },
        "spec": {
            "affinity": SPREAD,
            "volumes": [
                {"name": "settings", "configMap": {"name": service}},
                {"name": "scratch", "emptyDir": {}},
            ],
            "initContainers": [
                {
                    "name": "prepare",
                    "image": image,
                    "command": ["python3", "-c", copy],
                    "volumeMounts": [mounted, scratch],
                }
            ],
            "containers": [
                {
                    "name": "engine",
                    "env": [
                        {"name": "OWN", "value": "1"},
                        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    ],
                    "volumeMounts": [mounted, {**scratch, "readOnly": True}],
                },
                {
                    "name": "files",
                    "image": image,
                    "command": ["python3", "-c", serve],
                    "workingDir": "/scratch",
                    "volumeMounts": [scratch, {"name": "weights", "mountPath": "/weights", "readOnly": True}],
                },
            ],
        },
    }
    cluster.apply(service, template=template)
    cluster.wait_ready(service)

    (pod,) = cluster.pods(service)
    assert pod["metadata"]["labels"]["example.com/spread"] == "own"
    assert pod["metadata"]["annotations"]["example.com/on-call"] == "search"
    statuses = pod["status"]["containerStatuses"]
    assert {s["name"] for s in statuses if s["ready"]} == {"engine", "files"}
    namespace = cluster.get("namespace", cluster.namespace)
    assert namespace is not None
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    name = pod["metadata"]["name"]
    assert _run(cluster, name, "engine", "printenv", "OWN", "NODE").split() == ["1", pod["spec"]["nodeName"]]
    for path in ("/etc/settings/greeting", "/scratch/greeting"):
        assert _run(cluster, name, "engine", "cat", path) == "hello from a ConfigMap"
    # The container of the user's own sees the verified weights, and cannot write what it did not ask for.
    assert ".gguf" in _run(cluster, name, "files", "ls", "/weights", "/weights/model")
    for path_in_pod in ("/weights/x", "/x"):
        said = _run(cluster, name, "files", "sh", "-c", f"touch {path_in_pod} 2>&1 || true")
        assert "Read-only file system" in said


def _agent_image(cluster: Cluster) -> str:
    """An image that the nodes have, with Python in it."""
    cluster.apply("smollm2")
    cluster.until("a pod", lambda: cluster.pods("smollm2"), 60)
    (agent,) = cluster.pods("smollm2")[0]["spec"]["initContainers"]
    image: str = agent["image"]
    return image


def _run(cluster: Cluster, pod: str, container: str, *command: str) -> str:
    return cluster.kubectl("-n", cluster.namespace, "exec", pod, "-c", container, "--", *command)
