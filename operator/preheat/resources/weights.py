"""How a model pod reaches its weights, and what keeps it off nodes where they are not: one way for each mode.

Node    the claim of the cache's serve volume, whose node affinity asks for the label of complete nodes, and in it
        the cache's folder
Shared  the user's claim, and on it the folder that a warmer published. No node is better than another: replicas
        wait for the cache (``decide/serving.py``), and the agent looks before it lets the engine load
Image   an image by its digest, never pulled for a pod: the pods' own node affinity asks for the label
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from preheat.api.constants import NODE_LABEL_PREFIX, NODE_LABEL_READY, SHARED_FOLDER
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import CacheMode
from preheat.resources import names
from preheat.resources.metadata import Manifest

PUBLISHED = "model"
"""The folder that a warmer publishes with one rename (PUBLISHED in preheat_warmer/publish.py)."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Weights:
    """What a pod has to mount, and where it can."""

    volume: Manifest
    """The volume, without its name."""
    sub_path: str = ""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """Of the nodes where the weights are, unless the volume itself says where."""
    pull_secret: str = ""
    published: bool = True
    """Whether a warmer's manifest lies beside them, for the agent to look at before each load. None does in an image."""

    @property
    def claim(self) -> str:
        """The claim through which they are reached; empty where there is none."""
        return str(self.volume.get("persistentVolumeClaim", {}).get("claimName", ""))


def weights_of(service: LLMDeployment, key: str, resolved: str, *, narrow: bool = False) -> Weights:
    """Return how a service's pods reach their weights.

    ``resolved``: the digest of an image. ``narrow``: whether the serve volume shows the cache's folder alone.
    """
    cache, source = service.spec.cache, service.spec.model
    if cache.mode is CacheMode.SHARED:
        return Weights(
            _claimed(cache.claim_name or ""),
            f"{shared_folder(service.namespace, key)}/{PUBLISHED}",
        )
    if cache.mode is CacheMode.IMAGE:
        image = {"reference": image_reference(source.uri, resolved), "pullPolicy": "Never"}
        secret = source.credentials.secret_name if source.credentials else ""
        ready = {NODE_LABEL_PREFIX + key: NODE_LABEL_READY}
        return Weights({"image": image}, node_labels=ready, pull_secret=secret, published=False)
    return Weights(_claimed(names.volume_name(key, "serve")), PUBLISHED if narrow else f"{key}/{PUBLISHED}")


def _claimed(claim: str) -> Manifest:
    return {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def shared_folder(namespace: str, key: str) -> str:
    """Return the folder of a cache on a shared volume, laid out as a node's disk: claims of two namespaces may share one."""
    return f"{SHARED_FOLDER}/{namespace}/{key}"


def key_in_pod(pod: Manifest) -> str | None:
    """Return the key of the cache whose weights a pod mounts, by volume, by folder of a claim, or by image: None for none."""
    for volume in pod.get("volumes") or ():
        claim = str((volume.get("persistentVolumeClaim") or {}).get("claimName", ""))
        if (key := names.key_of_volume(claim, "serve")) is not None:
            return key
    # Whose weights are in an image may mount another cache's folder beside them.
    return next(_image_keys(pod), None) or next(_shared_keys(pod), None)


_SHARED = re.compile(rf"{re.escape(SHARED_FOLDER)}/[^/]+/([0-9a-f]{{16}})/{PUBLISHED}")


def _shared_keys(pod: Manifest) -> Iterator[str]:
    """Return the keys in the folders of a claim that a pod's containers mount."""
    for container in pod.get("containers") or ():
        for mount in container.get("volumeMounts") or ():
            found = _SHARED.fullmatch(str(mount.get("subPath", "")))
            if found is not None:
                yield found[1]


def _image_keys(pod: Manifest) -> Iterator[str]:
    """Return the keys in the labels of nodes that a pod asks for."""
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    needed = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in needed.get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            key = str(expression.get("key", ""))
            if key.startswith(NODE_LABEL_PREFIX):
                yield key.removeprefix(NODE_LABEL_PREFIX)


def image_reference(uri: str, digest: str) -> str:
    """Return the name by which a container runtime knows one image, whatever its tag stands for.

    >>> image_reference("oci://r.example:5000/team/llama:v3", "sha256:" + "0" * 64)[:35]
    'r.example:5000/team/llama@sha256:00'
    """
    name = uri.removeprefix("oci://").partition("@")[0]
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition(':')[0]}@{digest}"


def digest_in(text: str | None) -> str:
    """Return the digest that a URI or a note ends in; empty for none.

    >>> digest_in("oci://r.example/m@sha256:" + "1" * 64)[:9], digest_in("oci://r.example/m:v1"), digest_in(None)
    ('sha256:11', '', '')
    """
    digest = (text or "").rpartition("@")[2]
    return digest if _DIGEST.fullmatch(digest) else ""
