"""Where weights come from: one file per scheme, one protocol."""

from preheat_warmer.config import Config
from preheat_warmer.sources.base import Source, Transfer
from preheat_warmer.sources.bucket import BucketSource
from preheat_warmer.sources.claim import ClaimSource
from preheat_warmer.sources.hub import HubSource
from preheat_warmer.sources.mlflow import ModelVersionSource
from preheat_warmer.sources.registry import RegistrySource
from preheat_warmer.sources.web import Web, WebSource

__all__ = ["Source", "Transfer", "source_for"]


def source_for(config: Config, web: Web) -> Source:
    """Return the source that a URI names; the configuration has checked its scheme."""
    match config.scheme:
        case "hf":
            return HubSource(config.uri, config.revision, config.hf_endpoint, web)
        case "pvc":
            return ClaimSource(config.uri, config.source_directory)
        case "s3" | "gs":
            endpoint = config.endpoint or config.secret.endpoint
            return BucketSource(config.uri, endpoint, config.token, config.secret, web)
        case "oci":
            return RegistrySource(config.uri, config.endpoint, config.secret, web)
        case "mlflow":
            return ModelVersionSource(config.uri, config.endpoint, config.token, config.secret, web)
        case _:
            return WebSource(config.uri, web)
