"""The keeper: a Job that makes a node's disk what it should be, in the operator's own namespace.

It takes away weights that nobody wants there and hashes those that were not verified for long. It mounts the folder
that all namespaces' weights lie in, as no warmer can, and needs no network and no right in the cluster.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from preheat.api.constants import (
    ANNOTATION_BOOT,
    ANNOTATION_NODE,
    ANNOTATION_REMOVES,
    ANNOTATION_VERIFIES,
    COMPONENT_KEEPER,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    PORT_WARMER,
)
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.jobs import make_container, make_pod, on_node
from preheat.resources.metadata import Manifest, stamped
from preheat.resources.volumes import ANYWHERE, folder, folder_made, make_claim, make_volume

Keys = Mapping[str, Collection[str]]
"""By namespace: keys of weights."""

YOUNG = timedelta(seconds=20)
"""What was touched this shortly before a keeper was asked for is left alone, whatever it was told: a warmer has
just been there, and the word of it may still be on its way. So far the clocks of node and operator may differ."""
MOST_SECONDS = 6 * 3600
"""A keeper that takes longer hangs. The next one goes on where it was: what is verified is noted on
the disk."""


def make_volumes(config: OperatorConfig) -> list[Manifest]:
    """Return the volumes and claims that every keeper mounts."""
    labels = {LABEL_MANAGED_BY: MANAGED_BY}
    made, kept = (names.volume_name(names.keeper_key(), role) for role in ("make", "warm"))
    root, namespace = config.cache_root, config.namespace
    return [
        make_volume(namespace, made, labels, folder_made(root), ANYWHERE),
        make_volume(namespace, kept, labels, folder(root), ANYWHERE),
        make_claim(namespace, made, labels),
        make_claim(namespace, kept, labels),
    ]


def make_keeper(
    node: str,
    boot: str,
    *,
    keep: Keys,
    verify: Keys,
    fresh_since: Mapping[str, datetime],
    removes: Collection[str],
    config: OperatorConfig,
    now: datetime,
) -> Manifest:
    """Return the Job.

    ``keep``: what stays; whatever else lies there goes. ``removes``: what of that is known. ``verify``: what is
    hashed, unless a note on the disk says that it was since ``fresh_since``.
    """
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: COMPONENT_KEEPER}
    notes = {
        ANNOTATION_NODE: node,
        ANNOTATION_BOOT: boot,
        ANNOTATION_REMOVES: ",".join(sorted(removes)),
        ANNOTATION_VERIFIES: ",".join(sorted(key for keys in verify.values() for key in keys)),
    }
    settings = {
        "task": "keep",
        "root": "/cache",
        "keep": _sorted(keep),
        "verify": _sorted(verify),
        "freshSince": {key: rfc3339(moment) for key, moment in sorted(fresh_since.items())},
        "olderThan": rfc3339(now - YOUNG),
        "maxBytesPerSecond": config.verify_bytes_per_second,
        "listenPort": PORT_WARMER,
        "nodeName": node,
    }
    return stamped(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": names.keeper_name(node),
                "namespace": config.namespace,
                "labels": labels,
                "annotations": notes,
            },
            "spec": {
                "backoffLimit": 3,
                "activeDeadlineSeconds": MOST_SECONDS,
                "template": {
                    "metadata": {"labels": labels, "annotations": {ANNOTATION_NODE: node}},
                    "spec": _pod(node, settings, config),
                },
            },
        }
    )


def _pod(node: str, settings: Mapping[str, Any], config: OperatorConfig) -> Manifest:
    claims = {role: names.volume_name(names.keeper_key(), role) for role in ("make", "warm")}
    container = make_container(
        "keeper",
        settings,
        config,
        port=("progress", PORT_WARMER),
        requests={"cpu": "100m", "memory": "64Mi"},
        memory="512Mi",
        mounts=[
            {"name": "make", "mountPath": "/run/preheat/make", "readOnly": True},
            {"name": "warm", "mountPath": "/cache"},
        ],
    )
    return make_pod(
        container,
        affinity=on_node(node),
        # Wherever weights lie: taints keep models away, not those who clear up.
        tolerations=[{"operator": "Exists"}],
        volumes=[
            {"name": role, "persistentVolumeClaim": {"claimName": claim}} for role, claim in claims.items()
        ],
    )


def rfc3339(moment: datetime) -> str:
    """Return a time as a keeper reads it: whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sorted(keys: Keys) -> dict[str, list[str]]:
    return {namespace: sorted(found) for namespace, found in sorted(keys.items())}
