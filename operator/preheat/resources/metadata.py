"""Labels, owners and hashes: what every child carries, added in one place."""

from typing import Any

from preheat.api.constants import (
    ANNOTATION_APPLIED,
    API_VERSION,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    PROPAGATED_LABEL_PREFIXES,
)
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.resources.names import digest

Manifest = dict[str, Any]
"""A plain Kubernetes object."""


def child(
    api_version: str,
    kind: str,
    name: str,
    owner: LLMDeployment | ModelCache,
    labels: dict[str, str],
    annotations: dict[str, str] | None = None,
    **body: Any,
) -> Manifest:
    """Return a namespaced object that its owner controls, with the hash of itself as an annotation."""
    manifest: Manifest = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**_propagated(owner.labels), LABEL_MANAGED_BY: MANAGED_BY, **labels},
            "ownerReferences": [owner_reference(owner)],
            **({"annotations": annotations} if annotations else {}),
        },
        **body,
    }
    return stamped(manifest)


def owner_reference(owner: LLMDeployment | ModelCache) -> Manifest:
    """Return the reference by which the garbage collector deletes a child, the operator running or not."""
    return {
        "apiVersion": API_VERSION,
        "kind": type(owner).__name__,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def stamped(manifest: Manifest) -> Manifest:
    """Return the manifest with the hash of itself: a field that we stop setting changes it as well."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED: digest(manifest, 16)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _propagated(labels: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key.startswith(PROPAGATED_LABEL_PREFIXES)}
