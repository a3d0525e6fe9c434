"""What no owner can delete for us: volumes, and what all services or caches of a namespace share.

Level-triggered: what is there is compared with what should be. It works however long the operator was down.
Labels of nodes are a matter of each node's own loop (``decide/nodes.py``).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from preheat.api.constants import ANNOTATION_NODE, LABEL_CACHE, LABEL_CACHE_NAMESPACE
from preheat.decide.observed import Body
from preheat.decide.plan import RESYNC_SECONDS, Delete, Plan, Write
from preheat.resources.names import keeper_key, key_of_volume, namespace_key, volume_name
from preheat.resources.serving import POLICY

ROLES = ("make", "warm", "serve")


@dataclass(frozen=True, slots=True)
class OrphanObservation:
    """Everything with our marks that has no owner, and what it is there for."""

    keys: Collection[str]
    """The keys of all caches that exist or are mounted."""
    cache_namespaces: Collection[str]
    """Namespaces with a cache, or with a Deployment that may mount one."""
    service_namespaces: Collection[str]
    """Namespaces with an LLMDeployment, or with a Deployment that one left behind."""
    volumes: Iterable[Body]
    claims: Iterable[Body]
    policies: Iterable[Body]
    nodes: Collection[str] = ()
    """Names of all nodes."""
    keepers: Iterable[Body] = ()
    """Jobs of keepers."""


def decide_orphans(seen: OrphanObservation) -> Plan:
    """Return the deletions that bring what has no owner back to what is asked for.

    A volume whose claim was deleted and made again stays Released for ever; deleting it lets the next
    pass over its cache make it anew. The weights on the disk are not touched by that.
    """
    expected = {volume_name(key, role) for key in seen.keys for role in ROLES}
    expected |= {
        volume_name(namespace_key(name), role) for name in seen.cache_namespaces for role in ("make", "warm")
    }
    writes: list[Write] = []
    for volume in seen.volumes:
        is_a_caches, name = LABEL_CACHE_NAMESPACE in _labels(volume), volume["metadata"]["name"]
        is_keepers = name in {volume_name(keeper_key(), role) for role in ("make", "warm")}
        spent = (is_a_caches or is_keepers) and is_spent(volume)
        if spent or (is_a_caches and name not in expected):
            writes.extend(_delete(volume))
    for claim in seen.claims:
        labels, name = _labels(claim), claim["metadata"]["name"]
        is_shared = LABEL_CACHE_NAMESPACE in labels and LABEL_CACHE not in labels
        if is_shared and claim["metadata"]["namespace"] not in seen.cache_namespaces:
            writes.extend(_delete(claim))
        is_of_a_cache = LABEL_CACHE in labels and any(key_of_volume(name, role) for role in ROLES)
        if is_of_a_cache and name not in expected:
            writes.extend(_delete(claim))
    for policy in seen.policies:
        is_shared = policy["metadata"]["name"] == POLICY and not policy["metadata"].get("ownerReferences")
        if is_shared and policy["metadata"]["namespace"] not in seen.service_namespaces:
            writes.extend(_delete(policy))
    for job in seen.keepers:
        if (job["metadata"].get("annotations") or {}).get(ANNOTATION_NODE) not in seen.nodes:
            writes.extend(_delete(job))
    return Plan(tuple(writes), None, (), RESYNC_SECONDS)


def is_spent(volume: Body) -> bool:
    """Tell whether a volume's claim is gone: no other will ever get it."""
    return (volume.get("status") or {}).get("phase") in {"Released", "Failed"}


def _labels(body: Body) -> dict[str, str]:
    return body["metadata"].get("labels") or {}


def _delete(body: Body) -> list[Write]:
    metadata = body["metadata"]
    if "deletionTimestamp" in metadata:
        return []
    return [Delete(body["kind"], metadata.get("namespace", ""), metadata["name"], metadata.get("uid", ""))]
