"""What spec.template must not hold, and one template that holds everything it may: for unit and integration tests."""

from pathlib import Path
from typing import Any

import yaml
from preheat.api import template as t

HERE = Path(__file__).parent


def everything() -> dict[str, Any]:
    """A template that sets every field that is taken, with values that a real API server takes."""
    found: dict[str, Any] = yaml.safe_load((HERE / "template-everything.yaml").read_text())
    return found


def engine(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "engine", **fields}]}}


def agent(**fields: Any) -> dict[str, Any]:
    return {"spec": {"initContainers": [{"name": "agent", **fields}]}}


def extra(place: str = "containers", **fields: Any) -> dict[str, Any]:
    return {"spec": {place: [{"name": "mine", "image": "busybox", **fields}]}}


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def volume(**fields: Any) -> dict[str, Any]:
    return pod(volumes=[{"name": "mine", **fields}])


def mount(path: str) -> dict[str, Any]:
    return engine(volumeMounts=[{"name": "mine", "mountPath": path}])


PROBE = {"httpGet": {"path": "/", "port": 1234}}
TERMS = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}

ODD_VALUES: dict[str, Any] = {
    "activeDeadlineSeconds": 5, "ephemeralContainers": [{"name": "x", "image": "y"}], "hostname": "x",
    "evictionResponders": [{"name": "x", "priority": 1}], "hostnameOverride": "x", "nodeName": "n1",
    "os": {"name": "linux"}, "overhead": {"cpu": "1"}, "priority": 5, "resources": {"limits": {"cpu": "1"}},
    "restartPolicy": "Never", "schedulingGates": [{"name": "x"}], "schedulingGroup": {"podGroupName": "x"},
    "serviceAccount": "x", "setHostnameAsFQDN": True, "subdomain": "x", "terminationGracePeriodSeconds": 5,
}  # fmt: skip
ENGINE_VALUES: dict[str, Any] = {
    "args": ["--x"], "command": ["x"], "image": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    "livenessProbe": PROBE, "readinessProbe": PROBE, "startupProbe": PROBE,
    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
    "securityContext": {"privileged": True}, "stdin": True, "stdinOnce": True, "tty": True,
    "terminationMessagePath": "/x", "terminationMessagePolicy": "File", "workingDir": "/x",
}  # fmt: skip
SECURITY_VALUES: dict[str, Any] = {
    "fsGroup": 1, "runAsGroup": 1, "runAsNonRoot": False, "runAsUser": 0,
    "seccompProfile": {"type": "Unconfined"},
}  # fmt: skip
OTHER_SOURCES = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "fc", "flexVolume", "flocker",
    "gcePersistentDisk", "gitRepo", "glusterfs", "hostPath", "iscsi", "nfs", "photonPersistentDisk",
    "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
)  # fmt: skip

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{name: (pod(**{name: ODD_VALUES[name]}), text) for name, text in t.REFUSED_POD_FIELDS.items()},
    **{f"{name} {value}": (pod(**{name: value}), text) for name, (value, text) in t.REFUSED_POD_VALUES.items()},
    **{
        f"{name} of the pod": (pod(securityContext={name: SECURITY_VALUES[name]}), text)
        for name, text in t.REFUSED_POD_SECURITY.items()
    },
    **{
        f"{name} of the engine": (engine(**{name: ENGINE_VALUES[name]}), f"`{name}` of the engine: {text}")
        for name, text in t.REFUSED_ENGINE_FIELDS.items()
    },
    **{f"a {name} volume": (volume(**{name: {"x": "y"}}), t.REFUSED_VOLUME_SOURCE) for name in OTHER_SOURCES},
    **{f"a volume called {name}": (pod(volumes=[{"name": name}]), t.REFUSED_VOLUME_NAME) for name in t.OWN_VOLUMES},
    **{f"a mount at {path}": (mount(path), t.REFUSED_MOUNT) for path in (
        "/", "/tmp", "/tmp/", "/tmp/x", "/mnt", "/mnt/models", "/mnt/models/x", "/models", "/models/x", "/dev",
        "/dev/shm", "//tmp", "/x/../tmp", "/x/./y", "/x/..", "tmp",
    )},
    **{
        f"a mount of weights, {place}": (
            extra(place, volumeMounts=[{"name": "weights", "mountPath": "/x"}]), t.REFUSED_WEIGHTS_MOUNT
        ) for place in ("containers", "initContainers")
    },
    "a mount of weights for writing": (
        extra(volumeMounts=[{"name": "weights", "mountPath": "/x", "readOnly": False}]), t.REFUSED_WEIGHTS_MOUNT
    ),
    **{
        f"the claim of the {role} volume": (
            volume(persistentVolumeClaim={"claimName": f"preheat-{'0123456789abcdef'}-{role}"}), t.REFUSED_CLAIM
        ) for role in ("serve", "warm", "make")
    },
    **{f"port {port}": (extra(ports=[{"containerPort": port}]), t.REFUSED_PORT) for port in t.OWN_PORTS},
    "a port of the engine": (engine(ports=[{"containerPort": 8000}]), t.REFUSED_PORT),
    "a port of an init container": (extra("initContainers", ports=[{"containerPort": 9080}]), t.REFUSED_PORT),
    **{
        f"{name} for the {who}": (make(env=[{"name": name, "value": "x"}]), t.REFUSED_VARIABLE)
        for name in (*t.OWN_VARIABLES, "PREHEAT_AGENT_CONFIG", "PREHEAT_")
        for who, make in (("engine", engine), ("agent", agent))
    },
    "an image for the agent": (agent(image="x"), t.REFUSED_AGENT_FIELD),
    "mounts for the agent": (agent(volumeMounts=[{"name": "x", "mountPath": "/x"}]), t.REFUSED_AGENT_FIELD),
    "the agent among the containers": (pod(containers=[{"name": "agent"}]), t.REFUSED_AGENT_HERE),
    "the engine among the init containers": (pod(initContainers=[{"name": "engine"}]), t.REFUSED_ENGINE_HERE),
    "a container without an image": (pod(containers=[{"name": "mine"}]), t.REFUSED_WITHOUT_IMAGE),
    "an init container without an image": (pod(initContainers=[{"name": "mine"}]), t.REFUSED_WITHOUT_IMAGE),
    "a restart policy for the engine": (engine(restartPolicy="Always"), t.REFUSED_RESTART),
    "a restart policy for a container": (extra(restartPolicy="Always"), t.REFUSED_RESTART),
    "one name in both": (
        pod(containers=[{"name": "a", "image": "x"}], initContainers=[{"name": "a", "image": "x"}]), t.REFUSED_TWICE
    ),
    "required node affinity": (
        pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": TERMS}}),
        t.REFUSED_NODE_AFFINITY,
    ),
    "a toleration of any key": (pod(tolerations=[{"operator": "Equal", "value": "x"}]), t.REFUSED_TOLERATION_KEY),
    "a toleration of any value": (
        pod(tolerations=[{"key": "a", "operator": "Exists", "value": "x"}]), t.REFUSED_TOLERATION_VALUE
    ),
    "a node that holds the weights": (pod(nodeSelector={"cache.preheat.dev/x": "ready"}), t.REFUSED_NODE_LABEL),
    "a node that hardware excludes": (pod(nodeSelector={"zone": "b"}), t.REFUSED_SELECTOR),
    **{
        f"a GPU for {who}, {kind}": (make(resources={kind: {"nvidia.com/gpu": 1}}), t.REFUSED_GPU)
        for who, make in (("engine", engine), ("agent", agent), ("a sidecar", extra))
        for kind in ("limits", "requests")
    },
    **{
        f"label {key}": ({"metadata": {"labels": {key: "x"}}}, text) for key, text in (
            ("preheat.dev/llmdeployment", t.REFUSED_PREFIX), ("cache.preheat.dev/x", t.REFUSED_PREFIX),
            ("other.preheat.dev/x", t.REFUSED_PREFIX), ("app.kubernetes.io/managed-by", t.REFUSED_MANAGED_BY),
            ("app.kubernetes.io/instance", t.REFUSED_GITOPS), ("argocd.argoproj.io/instance", t.REFUSED_GITOPS),
            ("kustomize.toolkit.fluxcd.io/name", t.REFUSED_GITOPS), ("helm.toolkit.fluxcd.io/name", t.REFUSED_GITOPS),
        )
    },
    **{
        f"annotation {key}": ({"metadata": {"annotations": {key: "x"}}}, text) for key, text in (
            ("preheat.dev/applied", t.REFUSED_PREFIX), ("repository.preheat.dev/x", t.REFUSED_PREFIX),
            ("argocd.argoproj.io/tracking-id", t.REFUSED_GITOPS),
        )
    },
}  # fmt: skip
"""What is refused -> (template, the sentence), whoever refuses it: the API server, or the operator."""
NEWLY_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a port of the node for the engine": (engine(ports=[{"containerPort": 7, "hostPort": 7}]), t.REFUSED_HOST_PORT),
    "a port of the node": (extra(ports=[{"containerPort": 7, "hostPort": 7}]), t.REFUSED_HOST_PORT),
    "a port of the node for an init container": (
        extra("initContainers", ports=[{"containerPort": 7, "hostPort": 7}]), t.REFUSED_HOST_PORT
    ),
}  # fmt: skip
"""What the API server refuses of an object that does not have it yet. The operator takes it: 0.1.0 let it in."""
HARDWARE = {"gpu": {"types": ["nvidia-l4"]}, "nodeSelector": {"zone": "a"}}
"""What these cases are tried with."""
