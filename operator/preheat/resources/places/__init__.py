"""Where the weights of a ModelCache can wait: node disks, a shared volume, an image. One file each."""

from collections.abc import Mapping

from preheat.api.modelcache import CacheMode, ModelCache
from preheat.config import OperatorConfig
from preheat.resources.places.base import Places
from preheat.resources.places.image import Images
from preheat.resources.places.node import NodeDisks
from preheat.resources.places.shared import SharedVolume

__all__ = ["Places", "places_for"]


def places_for(cache: ModelCache, paths: Mapping[str, str], resolved: str, config: OperatorConfig) -> Places:
    """Return what carries a cache's weights to where they wait.

    ``paths``: of the volumes that exist, by name. ``resolved``: the digest of an image, empty while nobody knows it.
    """
    match cache.spec.storage.mode:
        case CacheMode.SHARED:
            return SharedVolume(cache, config)
        case CacheMode.IMAGE:
            return Images(cache, resolved, config)
        case CacheMode.NODE:
            return NodeDisks(cache, paths, config)
