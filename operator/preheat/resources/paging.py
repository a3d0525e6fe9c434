"""The pager: a Job that reads weights from one node's disk into its memory, so that the load that comes waits for no disk.

Whoever reads a page first pays for it, so the container may use as much memory as the weights take, and asks for none: what
it reads is the node's to drop, and a pod that comes finds as much room as before. It tries once. Memory that is short is
short, and what an eviction ended would only be ended again.
"""

from collections.abc import Iterable

from preheat.api.constants import (
    COMPONENT_PAGER,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    PORT_WARMER,
    WEIGHTS_DIRECTORY,
)
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.template import ENGINE
from preheat.config import OperatorConfig
from preheat.resources import names
from preheat.resources.jobs import make_container, make_job, make_pod, on_node, tolerating
from preheat.resources.metadata import Manifest
from preheat.resources.serving import Revision
from preheat.resources.weights import PUBLISHED

FOLDER = "/weights"
"""Where the cache's own folder is mounted, the one that model/ lies in."""
BESIDES_BYTES = 192 * 2**20
"""What the container needs besides the weights: the program and a block for each thread."""
KERNEL_PART = 200
"""One part in so many more: the kernel keeps books of the pages that it holds, at the container's cost."""


def memory_of(weights_bytes: int) -> int:
    """Return how much memory a pager may use, in bytes."""
    return weights_bytes + weights_bytes // KERNEL_PART + BESIDES_BYTES


def make_pager(
    service: LLMDeployment, revision: Revision, node: str, weights_bytes: int, config: OperatorConfig
) -> Manifest:
    """Have one node read a revision's weights, through the volume by which its pods reach them."""
    labels = {LABEL_DEPLOYMENT: service.name, LABEL_COMPONENT: COMPONENT_PAGER}
    name = names.pager_name(service.name, revision.id, node)
    pod = _pod(revision.template, node, weights_bytes, config)
    return make_job(service, name, labels, node, pod, {"backoffLimit": 0})


def _pod(template: Manifest, node: str, weights_bytes: int, config: OperatorConfig) -> Manifest:
    spec: Manifest = template["spec"]
    mount = {"name": "weights", "mountPath": FOLDER, "readOnly": True}
    if below := _sub_path(spec.get("containers") or ()).removesuffix(PUBLISHED).rstrip("/"):
        mount["subPath"] = below
    container = make_container(
        "pager",
        {"task": "page", "destination": FOLDER, "nodeName": node, "listenPort": PORT_WARMER},
        config,
        requests={"cpu": "0", "memory": "0"},
        memory=str(memory_of(weights_bytes)),
        mounts=[mount],
    )
    return make_pod(
        container,
        affinity=on_node(node),
        tolerations=tolerating(spec.get("tolerations") or ()),
        volumes=[volume for volume in spec.get("volumes") or () if volume.get("name") == "weights"],
    )


def _sub_path(containers: Iterable[Manifest]) -> str:
    """Return which folder of the volume the engine has for its weights."""
    engine: Manifest = next((c for c in containers if c.get("name") == ENGINE), {})
    mounts = (m for m in engine.get("volumeMounts") or () if m.get("name") == "weights")
    return str(next((m.get("subPath") or "" for m in mounts if m.get("mountPath") == WEIGHTS_DIRECTORY), ""))
