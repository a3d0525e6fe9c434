"""Node disks: three volumes of our own for one folder, and a warmer for each node (``resources/caching.py``)."""

from collections.abc import Mapping

from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.resources import caching
from preheat.resources.metadata import Manifest


class NodeDisks:
    """The disks of the nodes on which replicas will run."""

    def __init__(self, cache: ModelCache, paths: Mapping[str, str], config: OperatorConfig) -> None:
        self._cache = cache
        self._config = config
        self._place = caching.place_of(cache, paths, config)

    def standing(self) -> list[Manifest]:
        """Return the volumes and the claims."""
        return [
            *caching.make_volumes(self._cache, self._place),
            *caching.make_claims(self._cache, self._place),
        ]

    def warmer(self, site: str, *, boot: str = "", waits: bool = False) -> Manifest:
        """Return the Job that fetches and verifies the weights on one node."""
        return caching.make_warmer(self._cache, site, self._place, self._config, boot=boot, waits=waits)
