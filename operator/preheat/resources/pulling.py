"""The puller: a Job that has one node's kubelet pull the images of a revision's pods before any of them comes.

Its pod mounts each image as a volume, read-only, looks that something is mounted, and ends. The kubelet pulls the image
of a volume as it pulls that of a container: before the container is made, with the pod's pull secrets, told by the same
reasons (ErrImagePull, ...). As long as the ended pod is there the image counts as used, and stays. There is no deadline: an
image that is not to be had today must not look, tomorrow, as if nothing was known of it.
"""

from dataclasses import dataclass

from preheat.api.constants import (
    ANNOTATION_NODE,
    COMPONENT_PULLER,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
)
from preheat.api.gpu import GPU_TAINTS
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.jobs import make_container, make_pod, on_node, tries
from preheat.resources.metadata import Manifest, child

FOLDER = "/images"
"""Where the images are mounted, each in a folder named by its place."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a pod needs, and whether it is pulled where it is there."""

    reference: str
    policy: str


@dataclass(frozen=True, slots=True)
class PodImages:
    """What the pods of a revision have pulled, and on whose word."""

    images: tuple[Image, ...]
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    """Kubernetes adds its pull secrets to pods that name none."""

    def covers(self, other: "PodImages") -> bool:
        """Tell whether pods that run with these show that the others are to be had, on the same word."""
        same = (self.pull_secrets, self.service_account) == (other.pull_secrets, other.service_account)
        return same and set(other.images) <= set(self.images)

    @property
    def key(self) -> str:
        """What tells it from others, in names."""
        images = [[image.reference, image.policy] for image in self.images]
        return names.digest([images, list(self.pull_secrets), self.service_account], 16)


def images_of(template: Manifest) -> PodImages:
    """Return what the pods of a template have pulled: the engine's image, the agent's, and those of a user's own containers."""
    spec: Manifest = template.get("spec") or {}
    containers = (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
    found = dict.fromkeys(
        Image(container["image"], container.get("imagePullPolicy") or _usual_policy(container["image"]))
        for container in containers
        if container.get("image")
    )
    secrets = [secret.get("name") for secret in spec.get("imagePullSecrets") or ()]
    return PodImages(tuple(found), tuple(filter(None, secrets)), spec.get("serviceAccountName") or "")


def _usual_policy(reference: str) -> str:
    """Return what Kubernetes takes where a container says nothing.

    >>> _usual_policy("r.example:5000/engine"), _usual_policy("engine:v1"), _usual_policy("engine@sha256:0")
    ('Always', 'IfNotPresent', 'IfNotPresent')
    """
    name, _, digest = reference.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if digest or tag not in {"", "latest"} else "Always"


def puller_name(service: LLMDeployment, images: PodImages, node: str) -> str:
    """Return the name of a puller's Job: it tells which images and which node."""
    return names.puller_name(service.name, images.key, node)


def make_puller(
    service: LLMDeployment, template: Manifest, images: PodImages, node: str, config: OperatorConfig
) -> Manifest:
    """Have one node pull the images of a revision. ``template``: that of its pods, which says what they tolerate."""
    labels = {LABEL_DEPLOYMENT: service.name, LABEL_COMPONENT: COMPONENT_PULLER}
    body = child(
        "batch/v1",
        "Job",
        puller_name(service, images, node),
        service,
        labels,
        spec={
            **tries("puller"),
            "template": {
                "metadata": {
                    "labels": {**labels, LABEL_MANAGED_BY: MANAGED_BY},
                    "annotations": {ANNOTATION_NODE: node},
                },
                "spec": _pod(template, images, node, config),
            },
        },
    )
    body["metadata"]["annotations"][ANNOTATION_NODE] = node
    return body


def _pod(template: Manifest, images: PodImages, node: str, config: OperatorConfig) -> Manifest:
    folders = [f"{FOLDER}/{place}" for place in range(len(images.images))]
    container = make_container(
        "puller",
        {"task": "pull", "images": folders, "nodeName": node},
        config,
        requests={"cpu": "10m", "memory": "64Mi"},
        memory="256Mi",
        mounts=[
            {"name": f"image-{place}", "mountPath": folder, "readOnly": True}
            for place, folder in enumerate(folders)
        ],
    )
    custom = [{"key": key, "operator": "Exists"} for key in GPU_TAINTS]
    asked = (template.get("spec") or {}).get("tolerations") or ()
    pod = make_pod(
        container,
        affinity=on_node(node),
        tolerations=[*custom, *(toleration for toleration in asked if toleration not in custom)],
        volumes=[
            {"name": f"image-{place}", "image": {"reference": image.reference, "pullPolicy": image.policy}}
            for place, image in enumerate(images.images)
        ],
    )
    if images.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in images.pull_secrets]
    if images.service_account:
        pod["serviceAccountName"] = images.service_account
    return pod
