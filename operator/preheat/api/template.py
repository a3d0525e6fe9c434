"""spec.template: what a user adds to the model pods, and what cannot be added, each with what to do instead.

The sentences are written once, here. ``podschema`` makes CEL rules of them, by which the API server refuses
an object; ``resources/template_check`` says the same of an object that was written under an older schema.
"""

from typing import Annotated, Final

from pydantic import Field, JsonValue

from preheat.api.base import APIModel, LabelKey, LabelValue
from preheat.api.constants import (
    GROUP,
    LABEL_MANAGED_BY,
    NODE_LABEL_PREFIX,
    PORT_AGENT,
    PORT_GRPC,
    PORT_HTTP,
    PORT_METRICS,
    PROPAGATED_LABEL_PREFIXES,
    REPOSITORY_DIRECTORY,
    WEIGHTS_DIRECTORY,
)


class TemplateMetadata(APIModel):
    """Labels and annotations of the model pods."""

    labels: Annotated[
        dict[LabelKey, LabelValue] | None,
        Field(
            max_length=32,
            description="More labels of the pods.",
            json_schema_extra={"x-preheat-schema": "labels"},
        ),
    ] = None
    annotations: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=16_384)]] | None,
        Field(
            max_length=64,
            description="More annotations of the pods. One that changes makes a new revision.",
            json_schema_extra={"x-preheat-schema": "annotations"},
        ),
    ] = None


class PodTemplate(APIModel):
    """What is laid over the model pods that Preheat makes, merged as Kubernetes merges a patch."""

    metadata: Annotated[TemplateMetadata | None, Field(description="Labels and annotations.")] = None
    spec: Annotated[
        dict[str, JsonValue] | None,
        Field(
            description="Fields of a pod's spec. Containers, volumes, variables and mounts are merged by name: "
            "the container `engine` is the model server, the init container `agent` watches it, any other "
            "name is a container of your own.",
            json_schema_extra={"x-preheat-schema": "pod"},
        ),
    ] = None


ENGINE: Final = "engine"
AGENT: Final = "agent"

POD_FIELDS: Final = {
    "affinity": "Affinity and anti-affinity to pods, and preferred node affinity. Added to Preheat's own.",
    "containers": "`engine`, and containers of your own beside it.",
    "dnsConfig": "DNS parameters, added to those of dnsPolicy.",
    "dnsPolicy": "DNS policy.",
    "enableServiceLinks": "Whether Services appear as environment variables. Left out: no.",
    "hostAliases": "Lines for the pod's hosts file.",
    "hostUsers": "false: a user namespace of the pod's own.",
    "imagePullSecrets": "Secrets for pulling the images, the engine's included.",
    "initContainers": "`agent`, and init containers of your own, which run before it.",
    "nodeSelector": "Labels that a node must have. The weights are placed by them as well.",
    "preemptionPolicy": "Whether pods of lower priority may be preempted.",
    "priorityClassName": "Priority class.",
    "readinessGates": "More conditions that a pod needs to be Ready.",
    "resourceClaims": "Claims to devices (dynamic resource allocation).",
    "runtimeClassName": "Runtime class, for example nvidia.",
    "schedulerName": "The scheduler to use.",
    "securityContext": "Pod security, as far as it is not Preheat's own.",
    "serviceAccountName": "Service account. Its token is not mounted.",
    "tolerations": "Taints to tolerate. Added to Preheat's own; the weights are placed by them as well.",
    "topologySpreadConstraints": "How replicas spread over zones or nodes.",
    "volumes": "More volumes.",
}
"""Fields of a pod's spec that are taken, with what `kubectl explain` says of each."""

_REACHED = "replicas are reached through the Service (status.url), and each has its pod's name: leave it out"

REFUSED_POD_FIELDS: Final = {
    "activeDeadlineSeconds": "a replica serves until it is told to stop: leave it out",
    "ephemeralContainers": "they are added to a running pod, by `kubectl debug`: leave them out",
    "evictionResponders": "the agent drains a replica that must go: use spec.runtime.drainSeconds",
    "hostname": _REACHED,
    "hostnameOverride": _REACHED,
    "nodeName": "it goes past the scheduler, which alone keeps pods off nodes without weights: use nodeSelector",
    "os": "model pods run on Linux: leave it out",
    "overhead": "it comes from the RuntimeClass: use runtimeClassName",
    "priority": "it comes from the PriorityClass: use priorityClassName",
    "resources": "use spec.runtime.resources for the engine, and the `resources` of each container",
    "restartPolicy": "model pods always restart: leave it out; a sidecar that must start first is an init "
    "container with restartPolicy: Always",
    "schedulingGates": "gates belong to the controller that removes them, and it adds its own: leave them out, "
    "and set the label or annotation that it asks for in template.metadata",
    "schedulingGroup": "a replica is one pod and is scheduled alone: leave it out",
    "serviceAccount": "the name is deprecated: use serviceAccountName",
    "setHostnameAsFQDN": _REACHED,
    "subdomain": _REACHED,
    "terminationGracePeriodSeconds": "it follows from how long a drain may take: use spec.runtime.drainSeconds",
}
"""Fields of a pod's spec that are never taken, and what to do instead."""

_HOST = "replicas share their node with others, and Pod Security `restricted` forbids it: leave it out"

REFUSED_POD_VALUES: Final = {
    "automountServiceAccountToken": (
        True,
        "every container would get the token: leave it out, and mount a projected volume with a "
        "serviceAccountToken into the container that needs it",
    ),
    "hostIPC": (True, f"{_HOST}; containers of a pod share memory through the volume `shm`"),
    "hostNetwork": (True, f"{_HOST}; replicas are reached through the Service (status.url)"),
    "hostPID": (True, _HOST),
    "shareProcessNamespace": (False, "the agent watches the engine's load through it: leave it out"),
}
"""Fields that are refused with one value; the other one is Preheat's own."""

_UID = (
    "agent and engine need Preheat's own: leave it out here, and set it in the securityContext of a container "
    "of your own"
)

POD_SECURITY_FIELDS: Final = frozenset(
    {
        "appArmorProfile",
        "fsGroupChangePolicy",
        "seLinuxOptions",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "sysctls",
    }
)
REFUSED_POD_SECURITY: Final = {
    "fsGroup": f"{_UID}; groups that own a volume's files go into supplementalGroups",
    "runAsGroup": _UID,
    "runAsNonRoot": _UID,
    "runAsUser": _UID,
    "seccompProfile": _UID,
}

REFUSED_NODE_AFFINITY: Final = "the weights must go where the pods go: use template.spec.nodeSelector or hardware.gpu.types, which place both"

VOLUME_SOURCES: Final = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
REFUSED_VOLUME_SOURCE: Final = (
    "Pod Security `restricted` forbids this kind of volume: make a PersistentVolume of it with a claim, and use "
    "persistentVolumeClaim"
)

OWN_VOLUMES: Final = ("weights", "repository", "shm", "tmp")
REFUSED_VOLUME_NAME: Final = "is the name of a volume of Preheat's own: choose another; its volumes can be mounted without naming them here"
OWN_CLAIM: Final = "^preheat-[0-9a-f]{16}-(serve|warm|make)$"
REFUSED_CLAIM: Final = (
    "is where Preheat keeps verified weights: mount the volume `weights` with readOnly: true instead"
)
REFUSED_WEIGHTS_MOUNT: Final = "`weights` holds verified bytes: mount it with readOnly: true"

OWN_MOUNTS: Final = (WEIGHTS_DIRECTORY, REPOSITORY_DIRECTORY, "/dev/shm", "/tmp")  # noqa: S108 - in the pod
REFUSED_MOUNT: Final = (
    "`volumeMounts` of the engine must be absolute paths that neither cover Preheat's own "
    f"({', '.join(OWN_MOUNTS)}) nor lie in them: mount it elsewhere"
)
OWN_PORTS: Final = (PORT_HTTP, PORT_GRPC, PORT_METRICS, PORT_AGENT)
REFUSED_PORT: Final = (
    f"`ports` {', '.join(map(str, OWN_PORTS))} are the engine's and the agent's, and a pod's containers share their "
    "ports: choose another"
)

ENGINE_FIELDS: Final = frozenset(
    {"env", "envFrom", "imagePullPolicy", "name", "ports", "resources", "volumeDevices", "volumeMounts"}
)
_PROBES = "the agent answers the engine's probes: use spec.health"
_FIXED = f"the engine takes only {', '.join(sorted(ENGINE_FIELDS))}: leave it out"
REFUSED_ENGINE_FIELDS: Final = {
    "args": "use spec.runtime.args",
    "command": "the command comes from the spec: add arguments with spec.runtime.args",
    "image": "use spec.runtime.image",
    "lifecycle": "the agent drains the engine: use spec.runtime.drainSeconds, and an init container for what "
    "must happen before it starts",
    "livenessProbe": _PROBES,
    "readinessProbe": _PROBES,
    "startupProbe": _PROBES,
    "resizePolicy": _FIXED,
    "securityContext": "it is what Pod Security `restricted` asks for: leave it out; for a folder that can be "
    "written, mount an emptyDir volume there",
    "stdin": _FIXED,
    "stdinOnce": _FIXED,
    "terminationMessagePath": _FIXED,
    "terminationMessagePolicy": _FIXED,
    "tty": _FIXED,
    "workingDir": _FIXED,
}
AGENT_FIELDS: Final = frozenset({"env", "name", "resources"})
REFUSED_AGENT_FIELD: Final = (
    "the agent takes only env and resources: use a container of your own for anything else"
)
REFUSED_AGENT_HERE: Final = "`agent` runs before the engine, as a native sidecar: put it under initContainers"
REFUSED_ENGINE_HERE: Final = "`engine` is no init container: put it under containers, or choose another name"
REFUSED_PRIVILEGED: Final = (
    "a privileged container beside the model breaks Pod Security `restricted`: leave `privileged` out, or run it in a "
    "pod of its own (a DaemonSet)"
)
REFUSED_HOST_PORT: Final = (
    "a `hostPort` is there once on a node, so that a second replica never fits, and Pod Security `restricted` forbids "
    "it: leave it out; replicas are reached through the Service (status.url)"
)
REFUSED_WITHOUT_IMAGE: Final = (
    "`image` must be set for a container of your own; Preheat's are `engine` (containers) and `agent` "
    "(initContainers)"
)
REFUSED_RESTART: Final = (
    "`restartPolicy` is a field of init containers: leave it out, or move the container there to have it start "
    "first and stay"
)
REFUSED_TWICE: Final = "a name must not be in both containers and initContainers: rename one of them"

OWN_VARIABLES: Final = ("POD_UID", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
OWN_VARIABLE_PREFIX: Final = "PREHEAT_"
REFUSED_VARIABLE: Final = (
    f"`env` must not set {', '.join(OWN_VARIABLES)} or {OWN_VARIABLE_PREFIX}*: they are Preheat's own in this "
    "container; choose another name"
)

OWN_METADATA: Final = f"^([a-z0-9.-]+[.])?{GROUP.replace('.', '[.]')}/"
"""Keys of our group and of its subdomains, but those of PROPAGATED_LABEL_PREFIXES."""
GITOPS_PREFIXES: Final = ("argocd.argoproj.io/", "kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/")
REFUSED_PREFIX: Final = (
    f"keys below {GROUP}/ and its subdomains are Preheat's own: use a prefix of your own, "
    f"{' or '.join(PROPAGATED_LABEL_PREFIXES)}"
)
REFUSED_GITOPS: Final = (
    "GitOps tools track by such keys what they own, and would adopt or prune the pods: use a prefix of your own, "
    "or app.kubernetes.io/name and app.kubernetes.io/part-of"
)
OWN_LABELS: Final = (LABEL_MANAGED_BY,)
REFUSED_MANAGED_BY: Final = (
    f"{LABEL_MANAGED_BY} says that Preheat manages the pods: leave it out, or use app.kubernetes.io/part-of"
)
GITOPS_LABELS: Final = ("app.kubernetes.io/instance",)

REFUSED_NODE_LABEL: Final = (
    f"labels below {NODE_LABEL_PREFIX} are set when a node holds the weights, and this asks for them before: leave "
    "it out, pods go only where weights are"
)
NOT_A_LABEL_OF_WEIGHTS: Final = (
    f"self.all(k, !k.startsWith('{NODE_LABEL_PREFIX}') || (oldSelf.hasValue() && k in oldSelf.value()))",
    REFUSED_NODE_LABEL,
)
"""The rule for a selector of nodes outside of the template. An object that asks for such a label already keeps it."""
REFUSED_TAINT: Final = (
    "must be the key of a taint: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', optionally after a domain "
    "and '/', for example nvidia.com/gpu"
)
REFUSED_TOLERATION_VALUE: Final = (
    "`value` must be left out where `operator` is Exists: it tolerates every value"
)
REFUSED_TOLERATION_KEY: Final = (
    "`key` must be set where `operator` is Equal; to tolerate every taint set `operator: Exists`"
)
REFUSED_SELECTOR: Final = (
    "`template.spec.nodeSelector` and `hardware.nodeSelector` must not ask for different values of one label: "
    "keep one of them"
)
REFUSED_GPU: Final = (
    "`template` must not ask for the resource in hardware.gpu.resourceName: GPUs per replica are "
    "hardware.gpu.count, and a container that needs one of its own is a Deployment of its own"
)
