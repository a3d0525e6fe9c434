"""What a gateway needs to give each revision its share: a Service of each, and one HTTPRoute over them."""

from collections.abc import Mapping
from typing import Any

from preheat.api.constants import (
    ANNOTATION_SHARE,
    LABEL_DEPLOYMENT,
    LABEL_REVISION,
    PORT_HTTP,
)
from preheat.api.llmdeployment import GatewaySpec, LLMDeployment
from preheat.resources.metadata import Manifest, child
from preheat.resources.names import revision_service_name
from preheat.resources.pod import selector

ROUTE_VERSION = "gateway.networking.k8s.io/v1"
MOST_BACKENDS = 16
"""So many Gateway API takes in a rule."""


def make_revision_service(service: LLMDeployment, revision: str) -> Manifest:
    """Reach the ready replicas of one revision over HTTP. Clients in the cluster have the LLMDeployment's own Service."""
    labels = {LABEL_DEPLOYMENT: service.name, LABEL_REVISION: revision}
    port = {
        "name": "http",
        "port": PORT_HTTP,
        "targetPort": "http",
        "protocol": "TCP",
        "appProtocol": "http",
    }
    return child(
        "v1",
        "Service",
        revision_service_name(service.name, revision),
        service,
        labels,
        spec={
            "type": "ClusterIP",
            "selector": {**selector(service.name), LABEL_REVISION: revision},
            "ports": [port],
        },
    )


def make_route(
    service: LLMDeployment, gateway: GatewaySpec, weights: Mapping[str, int], share: str
) -> Manifest:
    """Give each revision its share in percent. Without weights nobody answers: then it leads to the LLMDeployment's Service.

    There a replica is found as soon as it is ready, and until then the front, where there is one.
    """
    backends = [
        {"name": revision_service_name(service.name, revision), "port": PORT_HTTP, "weight": weight}
        for revision, weight in weights.items()
    ]
    spec: dict[str, Any] = {
        "parentRefs": [parent.to_api() for parent in gateway.parent_refs],
        **({"hostnames": list(gateway.hostnames)} if gateway.hostnames else {}),
        "rules": [{"backendRefs": backends or [{"name": service.name, "port": PORT_HTTP, "weight": 100}]}],
    }
    return child(
        ROUTE_VERSION,
        "HTTPRoute",
        service.name,
        service,
        {LABEL_DEPLOYMENT: service.name},
        annotations={ANNOTATION_SHARE: share},
        spec=spec,
    )
