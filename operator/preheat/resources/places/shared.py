"""A shared volume: the claim is a user's own. One warmer writes to its folder .preheat/NAMESPACE/KEY, for all nodes.

The warmer mounts it for writing, model pods for reading. It runs where replicas may run: a volume that is made for
its first pod is then made where the others can reach it.
"""

from datetime import datetime

from preheat.api.constants import (
    COMPONENT_VERIFIER,
    PORT_WARMER,
    SHARED_FOLDER,
    SHARED_SITE,
    VERIFIER_SITE,
)
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.resources.caching import (
    Reach,
    cache_key,
    warmer_job,
    warmer_pod,
    warmer_settings,
    with_source,
)
from preheat.resources.jobs import required
from preheat.resources.keeping import rfc3339
from preheat.resources.metadata import Manifest
from preheat.resources.pod import node_affinity
from preheat.resources.weights import shared_folder


class SharedVolume:
    """The volume of a claim in the cache's namespace."""

    def __init__(self, cache: ModelCache, config: OperatorConfig) -> None:
        self._cache = cache
        self._config = config

    def standing(self) -> list[Manifest]:
        """Return nothing: the claim is the user's."""
        return []

    def warmer(self, site: str, *, boot: str = "", waits: bool = False) -> Manifest:
        """Return the Job that fetches and verifies the weights on the volume."""
        cache = self._cache
        destination = f"/cache/{shared_folder(cache.namespace, cache_key(cache))}"
        settings = warmer_settings(cache, SHARED_SITE, destination, self._config)
        pod = warmer_pod(cache, with_source(cache, self.reach()), settings, self._config)
        return warmer_job(cache, site, pod, boot=boot, waits=waits)

    def reach(self) -> Reach:
        """Return the volume, and the nodes that replicas may run on."""
        claim = {"claimName": self._cache.spec.storage.claim_name}
        return Reach(
            volumes=[{"name": "warm", "persistentVolumeClaim": claim}],
            mounts=[{"name": "warm", "mountPath": "/cache"}],
            node_affinity=self._where_replicas_may_run(),
        )

    def _where_replicas_may_run(self) -> Manifest:
        placement = self._cache.spec.placement
        if placement.gpu_types:
            return node_affinity(placement.gpu_types, placement.node_selector)
        wanted = [
            {"key": key, "operator": "In", "values": [value]}
            for key, value in sorted(placement.node_selector.items())
        ]
        return required([{"matchExpressions": wanted}]) if wanted else {}


def make_verifier(
    cache: ModelCache, fresh_since: datetime, config: OperatorConfig, now: datetime
) -> Manifest:
    """Return the Job that hashes what lies on the volume, as a node's keeper does, and puts aside what is wrong.

    It removes nothing: whoever else writes to that volume, another cluster perhaps, is not known.
    ``fresh_since``: what a note says was verified then or later is not hashed again.
    """
    key = cache_key(cache)
    ours = {cache.namespace: [key]}
    settings = {
        "task": "keep",
        "root": f"/cache/{SHARED_FOLDER}",
        "removes": False,
        "keep": ours,
        "verify": ours,
        "freshSince": {key: rfc3339(fresh_since)},
        "olderThan": rfc3339(now),
        "maxBytesPerSecond": config.verify_bytes_per_second,
        "listenPort": PORT_WARMER,
        "nodeName": VERIFIER_SITE,
    }
    pod = warmer_pod(cache, SharedVolume(cache, config).reach(), settings, config)
    return warmer_job(cache, VERIFIER_SITE, pod, component=COMPONENT_VERIFIER)
