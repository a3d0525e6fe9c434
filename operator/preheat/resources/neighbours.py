"""What lets a node give its weights to another: the seeder, its fence, and what a warmer is told of it.

A warmer proves of which namespace it is by a token of its pod's service account. The token is meant for these weights
alone (its audience names them), and a seeder checks it against the cluster's public keys, asking nobody.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass

from preheat.api.constants import (
    ANNOTATION_PEERS,
    COMPONENT_SEEDER,
    COMPONENT_WARMER,
    GROUP,
    LABEL_CACHE,
    LABEL_COMPONENT,
    PORT_SEEDER,
)
from preheat.api.modelcache import ModelCache
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.jobs import make_container, make_job, make_pod, on_node, tries
from preheat.resources.metadata import Manifest, child

TOKEN_DIRECTORY = "/var/run/secrets/preheat/peer"  # noqa: S105 - a path
TOKEN_SECONDS = 600
"""How long a token is good: as short as Kubernetes gives any. The kubelet renews it before, and each request reads it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A neighbour that serves the weights."""

    node: str
    ip: str

    @property
    def url(self) -> str:
        """Where its seeder answers."""
        return f"http://[{self.ip}]:{PORT_SEEDER}" if ":" in self.ip else f"http://{self.ip}:{PORT_SEEDER}"


@dataclass(frozen=True, slots=True)
class Near:
    """What a warmer is told of its neighbours. ``manifest_sha256``: what the weights must be."""

    audience: str
    peers: tuple[Peer, ...] = ()
    manifest_sha256: str = ""

    def told_to(self, warmer: Manifest) -> Manifest:
        """Return a warmer's Job that knows its neighbours, and has the token for them. Without any it stays as it is."""
        if not self.peers:
            return warmer
        made = copy.deepcopy(warmer)
        made["metadata"]["annotations"][ANNOTATION_PEERS] = ",".join(peer.node for peer in self.peers)
        pod = made["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (variable,) = [entry for entry in container["env"] if entry["name"] == "PREHEAT_WARMER_CONFIG"]
        settings = json.loads(variable["value"].replace("$$", "$"))
        settings |= {"peers": [peer.url for peer in self.peers], "manifestSHA256": self.manifest_sha256}
        variable["value"] = json.dumps(settings, sort_keys=True).replace("$", "$$")
        container["volumeMounts"].append({"name": "peer", "mountPath": TOKEN_DIRECTORY, "readOnly": True})
        token = {"audience": self.audience, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
        sources = [{"serviceAccountToken": token}]
        pod["volumes"].append({"name": "peer", "projected": {"sources": sources, "defaultMode": 0o440}})
        return made


def audience(namespace: str, key: str) -> str:
    """Return what a token must be for: the weights of one cache of one namespace."""
    return f"{GROUP}/{namespace}/{key}"


def make_seeder(
    cache: ModelCache,
    node: str,
    key: str,
    tolerations: Sequence[Manifest],
    config: OperatorConfig,
    issuer_keys: Manifest,
    *,
    narrow: bool = False,
) -> Manifest:
    """Serve the weights that lie on one node. It ends when the Job is deleted.

    ``narrow``: whether the serve volume shows the cache's folder alone.
    """
    labels = _labels(cache)
    pod = _pod(cache, node, key, tolerations, config, issuer_keys, narrow=narrow)
    return make_job(cache, names.seeder_name(cache.name, node), labels, node, pod, tries("seeder"))


def _pod(
    cache: ModelCache,
    node: str,
    key: str,
    tolerations: Sequence[Manifest],
    config: OperatorConfig,
    issuer_keys: Manifest,
    *,
    narrow: bool,
) -> Manifest:
    settings = {
        "task": "serve",
        "destination": "/cache",
        "listenPort": PORT_SEEDER,
        "namespace": cache.namespace,
        "audience": audience(cache.namespace, key),
        "issuerKeys": issuer_keys,
        "nodeName": node,
    }
    claim = {"claimName": names.volume_name(key, "serve"), "readOnly": True}
    container = make_container(
        "seeder",
        settings,
        config,
        port=("weights", PORT_SEEDER),
        requests={"cpu": "50m", "memory": "64Mi"},
        memory="512Mi",
        mounts=[
            {
                "name": "weights",
                "mountPath": "/cache",
                "readOnly": True,
                **({} if narrow else {"subPath": key}),
            }
        ],
    )
    container["readinessProbe"] = {
        "httpGet": {"path": "/healthz", "port": PORT_SEEDER},
        "periodSeconds": 1,
        "timeoutSeconds": 2,
    }
    pod = make_pod(
        container,
        affinity=on_node(node),
        tolerations=tolerations,
        volumes=[{"name": "weights", "persistentVolumeClaim": claim}],
    )
    return {**pod, "terminationGracePeriodSeconds": 5}


def make_seeder_policy(cache: ModelCache) -> Manifest:
    """Let only the warmers of the same cache reach its seeders, and these nobody."""
    seeders, warmers = _labels(cache), {**_labels(cache), LABEL_COMPONENT: COMPONENT_WARMER}
    return child(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        names.seeders_name(cache.name),
        cache,
        seeders,
        spec={
            "podSelector": {"matchLabels": seeders},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": warmers}}],
                    "ports": [{"port": PORT_SEEDER, "protocol": "TCP"}],
                }
            ],
            "egress": [],
        },
    )


def _labels(cache: ModelCache) -> dict[str, str]:
    return {LABEL_CACHE: cache.name, LABEL_COMPONENT: COMPONENT_SEEDER}
