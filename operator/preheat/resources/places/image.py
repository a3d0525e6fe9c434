"""An image: each node's container runtime pulls it by its digest, and a warmer there mounts and verifies it.

What a tag stands for is asked of the registry once for all nodes, before any of them pulls.
"""

from typing import Any

from preheat.api.constants import PORT_WARMER, REGISTRY_SITE
from preheat.api.modelcache import ModelCache, ModelFormat
from preheat.config import OperatorConfig
from preheat.resources.caching import Reach, warmer_job, warmer_pod, with_source
from preheat.resources.jobs import on_node
from preheat.resources.metadata import Manifest
from preheat.resources.weights import image_reference

FOLDER = "/image"
"""Where a warmer mounts the image."""


class Images:
    """The image stores of nodes. ``resolved``: the image's digest, empty while only a tag is known."""

    def __init__(self, cache: ModelCache, resolved: str, config: OperatorConfig) -> None:
        self._cache = cache
        self._resolved = resolved
        self._config = config

    def standing(self) -> list[Manifest]:
        """Return nothing: an image store needs no volume of ours."""
        return []

    def warmer(self, site: str, *, boot: str = "", waits: bool = False) -> Manifest:
        """Return the Job that has one node pull the image and verifies it, or the one that asks the registry."""
        pod = self._asking() if site == REGISTRY_SITE else self._verifying(site)
        return warmer_job(self._cache, site, pod, boot=boot, waits=waits)

    def _asking(self) -> Manifest:
        settings = {**self._settings("resolve", REGISTRY_SITE), "endpoint": self._cache.spec.source.endpoint}
        return warmer_pod(self._cache, with_source(self._cache, Reach([], [], {})), settings, self._config)

    def _verifying(self, node: str) -> Manifest:
        source = self._cache.spec.source
        image = {
            "reference": image_reference(source.uri, self._resolved),
            "pullPolicy": "IfNotPresent",
        }
        reach = Reach(
            volumes=[{"name": "weights", "image": image}],
            mounts=[{"name": "weights", "mountPath": FOLDER, "readOnly": True}],
            node_affinity=on_node(node),
            pull_secrets=(source.credentials.secret_name,) if source.credentials else (),
        )
        settings = {
            **self._settings("verifyImage", node),
            "destination": FOLDER,
            "resolvedRevision": self._resolved,
            "files": [file.to_api() for file in source.files],
            "allowPickle": source.format is ModelFormat.PICKLE,
        }
        return warmer_pod(self._cache, reach, settings, self._config)

    def _settings(self, task: str, site: str) -> dict[str, Any]:
        return {
            "task": task,
            "source": {"uri": self._cache.spec.source.uri},
            "destination": FOLDER,
            "listenPort": PORT_WARMER,
            "nodeName": site,
        }
