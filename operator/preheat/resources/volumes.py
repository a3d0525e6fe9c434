"""PersistentVolumes of folders on nodes, each with the claim that it is bound to from the start."""

from preheat.resources.metadata import Manifest, stamped

CLAIM_SIZE = "1Gi"
"""Volumes on a node's disk know no size; the API asks for one. The warmer checks the real free space."""

ANYWHERE: Manifest = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
"""Any node: a local volume must name some."""


def folder_made(path: str) -> Manifest:
    """Return a volume's source: mounting it makes the kubelet create the folder, as root."""
    return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}


def folder(path: str) -> Manifest:
    """Return a volume's source: mounting it with fsGroup gives the folder to our group."""
    return {"local": {"path": path}}


def make_volume(
    namespace: str, name: str, labels: dict[str, str], where: Manifest, node: Manifest
) -> Manifest:
    """Return a volume for the claim of its name in a namespace, on nodes that an expression selects."""
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "capacity": {"storage": CLAIM_SIZE},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": namespace,
                    "name": name,
                },
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
                **where,
            },
        }
    )


def make_claim(namespace: str, name: str, labels: dict[str, str]) -> Manifest:
    """Return the claim of a volume."""
    return stamped(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "storageClassName": "",
                "volumeName": name,
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": CLAIM_SIZE}},
            },
        }
    )
