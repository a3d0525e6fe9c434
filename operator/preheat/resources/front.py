"""The EndpointSlice by which a Service's clients come to the front while no replica is ready."""

from collections.abc import Sequence

from preheat.api.constants import (
    ANNOTATION_READY_AT,
    ANNOTATION_WAKES_IN,
    COMPONENT_FRONT,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_SERVICE_NAME,
    LABEL_SLICE_MANAGED_BY,
    SLICE_MANAGED_BY,
)
from preheat.api.llmdeployment import LLMDeployment
from preheat.resources.metadata import Manifest, child
from preheat.resources.names import front_name

PROTOCOLS = {"http": "http", "grpc": "kubernetes.io/h2c"}
"""The Service's ports that lead to the front, both to one port of it: it sees what a client speaks."""


def make_front_slice(
    service: LLMDeployment, port: int, family: str, addresses: Sequence[str], ready_at: str, wakes_in: str
) -> Manifest:
    """Send the Service's clients to these addresses of the front, nobody where there are none.

    ``ready_at``, ``wakes_in``: what the front tells them, empty where nothing is known.
    """
    return child(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        front_name(service.name),
        service,
        {
            LABEL_DEPLOYMENT: service.name,
            LABEL_COMPONENT: COMPONENT_FRONT,
            LABEL_SERVICE_NAME: service.name,
            LABEL_SLICE_MANAGED_BY: SLICE_MANAGED_BY,
        },
        annotations={ANNOTATION_READY_AT: ready_at, ANNOTATION_WAKES_IN: wakes_in},
        addressType=family,
        ports=[
            {"name": name, "port": port, "protocol": "TCP", "appProtocol": protocol}
            for name, protocol in PROTOCOLS.items()
        ],
        endpoints=[
            {"addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False}}
            for address in addresses
        ],
    )
