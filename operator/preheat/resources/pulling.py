"""The puller: a Job that has one node's kubelet pull the images of a revision's pods before any of them comes.

Its pod mounts each image as a volume, read-only, looks that something is mounted, and ends. The kubelet pulls the image
of a volume as it pulls that of a container: before the container is made, with the pod's pull secrets, told by the same
reasons (ErrImagePull, ...). As long as the ended pod is there the image counts as used, and stays. There is no deadline: an
image that is not to be had today must not look, tomorrow, as if nothing was known of it.

The Secrets and ConfigMaps that the pods name are one more volume. Where one is not there, or lacks a key, the kubelet
mounts nothing and tells all that is missing in one Event. Of what is mounted the process can read nothing: the files have
mode 0, and no group that is the pod's.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preheat.api.constants import COMPONENT_PULLER, LABEL_COMPONENT, LABEL_DEPLOYMENT
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.jobs import make_container, make_job, make_pod, on_node, tolerating, tries
from preheat.resources.metadata import Manifest

FOLDER = "/images"
"""Where the images are mounted, each in a folder named by its place."""
NAMED, NAMED_FOLDER = "named", "/named"
"""The volume of the Secrets and ConfigMaps."""
_LACKS = re.compile(r"non-existent (secret|config) key: ([-._a-zA-Z0-9]+)")
"""What the kubelet says of a key that is not there: it does not say where."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a pod needs, and whether it is pulled where it is there."""

    reference: str
    policy: str


@dataclass(frozen=True, slots=True, order=True)
class Named:
    """A Secret or ConfigMap without which a pod does not start. ``key``: what of it; empty: that it is there."""

    kind: str
    """As a projected volume calls it: secret or configMap."""
    name: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class PodImages:
    """What the pods of a revision have pulled, on whose word, and what else has to be there."""

    images: tuple[Image, ...]
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    """Kubernetes adds its pull secrets to pods that name none."""
    named: tuple[Named, ...] = ()

    def covers(self, other: "PodImages") -> bool:
        """Tell whether pods that run with these show that the others are to be had, on the same word."""
        same = (self.pull_secrets, self.service_account) == (other.pull_secrets, other.service_account)
        return same and set(other.images) <= set(self.images) and set(other.named) <= set(self.named)

    @property
    def key(self) -> str:
        """What tells it from others, in names."""
        images = [[image.reference, image.policy] for image in self.images]
        named = [[one.kind, one.name, one.key] for one in self.named]
        return names.digest([images, list(self.pull_secrets), self.service_account, named], 16)

    def told(self, words: str) -> str:
        """Return the kubelet's words; with a key that is not there, where it is not."""

        def where(found: re.Match[str]) -> str:
            kind = "secret" if found[1] == "secret" else "configMap"
            holders = [f'"{one.name}"' for one in self.named if (one.kind, one.key) == (kind, found[2])]
            return f"{found[0]} (in {kind} {' or '.join(holders)})" if holders else found[0]

        return _LACKS.sub(where, words)


def images_of(template: Manifest) -> PodImages:
    """Return what the pods of a template have pulled: the engine's image, the agent's, and those of a user's own containers."""
    spec: Manifest = template.get("spec") or {}
    containers = (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
    mounted = {mount.get("name") for one in containers for mount in one.get("volumeMounts") or ()}
    volumes = [volume for volume in spec.get("volumes") or () if volume.get("name") in mounted]
    found = dict.fromkeys(
        Image(container["image"], container.get("imagePullPolicy") or _usual_policy(container["image"]))
        for container in containers
        if container.get("image")
    )
    secrets = [secret.get("name") for secret in spec.get("imagePullSecrets") or ()]
    named = {*_named_by_variables(containers), *_named_by_volumes(volumes)}
    return PodImages(
        tuple(found),
        tuple(filter(None, secrets)),
        spec.get("serviceAccountName") or "",
        tuple(sorted(named)),
    )


def _named_by_variables(containers: Sequence[Manifest]) -> Iterator[Named]:
    for container in containers:
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            yield from _named("secret", source.get("secretKeyRef"), "name")
            yield from _named("configMap", source.get("configMapKeyRef"), "name")
        for source in container.get("envFrom") or ():
            yield from _named("secret", source.get("secretRef"), "name")
            yield from _named("configMap", source.get("configMapRef"), "name")


def _named_by_volumes(volumes: Sequence[Manifest]) -> Iterator[Named]:
    for volume in volumes:
        yield from _named("secret", volume.get("secret"), "secretName")
        yield from _named("configMap", volume.get("configMap"), "name")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from _named("secret", source.get("secret"), "name")
            yield from _named("configMap", source.get("configMap"), "name")


def _named(kind: str, source: Manifest | None, field: str) -> Iterator[Named]:
    """Yield what a source cannot do without: nothing, the object, or keys of it."""
    if not source or source.get("optional") or not source.get(field):
        return
    keys = [source["key"]] if source.get("key") else [item["key"] for item in source.get("items") or ()]
    yield from (Named(kind, source[field], key) for key in keys or [""])


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
    pod = _pod(template, images, node, config)
    return make_job(service, puller_name(service, images, node), labels, node, pod, tries("puller"))


def _pod(template: Manifest, images: PodImages, node: str, config: OperatorConfig) -> Manifest:
    folders = [f"{FOLDER}/{place}" for place in range(len(images.images))]
    named = _volume_of(images.named)
    container = make_container(
        "puller",
        {"task": "pull", "images": folders, "nodeName": node},
        config,
        requests={"cpu": "10m", "memory": "64Mi"},
        memory="256Mi",
        mounts=[
            {"name": f"image-{place}", "mountPath": folder, "readOnly": True}
            for place, folder in enumerate(folders)
        ]
        + [{"name": NAMED, "mountPath": NAMED_FOLDER, "readOnly": True} for _ in named],
    )
    pod = make_pod(
        container,
        affinity=on_node(node),
        tolerations=tolerating((template.get("spec") or {}).get("tolerations") or ()),
        volumes=[
            {"name": f"image-{place}", "image": {"reference": image.reference, "pullPolicy": image.policy}}
            for place, image in enumerate(images.images)
        ]
        + named,
    )
    # With one, the kubelet would give the group what is in the volumes.
    pod["securityContext"] = {
        key: value for key, value in pod["securityContext"].items() if "fsGroup" not in key
    }
    if images.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in images.pull_secrets]
    if images.service_account:
        pod["serviceAccountName"] = images.service_account
    return pod


def _volume_of(named: Sequence[Named]) -> list[Manifest]:
    """Return the volume with what is named, none for nothing.

    Keys lie in folders of their own, called as no key can be: none hides another.
    """
    if not named:
        return []
    sources: list[Manifest] = []
    for place, one in enumerate(named):
        items = {"items": [{"key": one.key, "path": f"+{place}/{one.key}"}]} if one.key else {}
        sources.append({one.kind: {"name": one.name, **items}})
    return [{"name": NAMED, "projected": {"defaultMode": 0, "sources": sources}}]
