"""Names that users and other programs see: the group, labels, annotations. Each key is written once, here."""

from typing import Final

GROUP: Final = "preheat.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

FIELD_MANAGER: Final = "preheat"
"""The one server-side-apply field manager of the operator."""

# Labels on children. Selectors use only the first two, which never change.
LABEL_DEPLOYMENT: Final = "preheat.dev/llmdeployment"
LABEL_COMPONENT: Final = "preheat.dev/component"
LABEL_REVISION: Final = "preheat.dev/revision"
LABEL_GPU_TYPE: Final = "preheat.dev/gpu-type"
LABEL_CACHE: Final = "preheat.dev/modelcache"
LABEL_CACHE_NAMESPACE: Final = "preheat.dev/modelcache-namespace"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "preheat"

COMPONENT_ENGINE: Final = "engine"
COMPONENT_WARMER: Final = "warmer"

ANNOTATION_APPLIED: Final = "preheat.dev/applied"
"""Hash of the manifest as we applied it: tells that our own wish changed, fields we dropped included."""
ANNOTATION_REPOSITORY_PREFIX: Final = "repository.preheat.dev/"
"""Files of the model repository, in a model pod's annotations."""
ANNOTATION_NODE: Final = "preheat.dev/node"
"""The node that a warmer Job works for."""

NODE_LABEL_PREFIX: Final = "cache.preheat.dev/"
NODE_LABEL_READY: Final = "ready"

PROPAGATED_LABEL_PREFIXES: Final = ("team.preheat.dev/", "cost.preheat.dev/")
"""User labels that reach children. Everything else stays: GitOps tracking labels on children get them pruned."""

RUN_AS: Final = 1000
"""uid, gid and fsGroup of model and warmer pods. The agent reads the engine's /proc, so they share it."""

WEIGHTS_DIRECTORY: Final = "/mnt/models"
"""Where the verified weights are mounted, read-only."""
REPOSITORY_DIRECTORY: Final = "/models"
"""Where the rendered model repository is mounted, file by file, read-only."""

PORT_HTTP: Final = 8000
PORT_GRPC: Final = 8001
PORT_METRICS: Final = 8002
PORT_AGENT: Final = 9080
PORT_WARMER: Final = 9081
