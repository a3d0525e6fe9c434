"""Names that users and other programs see: the group, labels, annotations. Each key is written once, here."""

from typing import Final

GROUP: Final = "preheat.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

FIELD_MANAGER: Final = "preheat"
"""The one server-side-apply field manager of the operator."""

# Labels on children. Selectors use only the first two, which never change.
LABEL_DEPLOYMENT: Final = "preheat.dev/llmdeployment"
PROMETHEUS_LABEL_DEPLOYMENT: Final = "preheat_dev_llmdeployment"
"""The same, as Prometheus spells it."""
LABEL_COMPONENT: Final = "preheat.dev/component"
LABEL_REVISION: Final = "preheat.dev/revision"
LABEL_GPU_TYPE: Final = "preheat.dev/gpu-type"
LABEL_CACHE: Final = "preheat.dev/modelcache"
LABEL_CACHE_NAMESPACE: Final = "preheat.dev/modelcache-namespace"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "preheat"

COMPONENT_ENGINE: Final = "engine"
COMPONENT_WARMER: Final = "warmer"
COMPONENT_KEEPER: Final = "keeper"
COMPONENT_SEEDER: Final = "seeder"
COMPONENT_VERIFIER: Final = "verifier"
COMPONENT_SCALER: Final = "scaler"
COMPONENT_FRONT: Final = "front"
COMPONENT_PULLER: Final = "puller"
COMPONENT_PAGER: Final = "pager"

LABEL_SERVICE_NAME: Final = "kubernetes.io/service-name"
"""Kubernetes' own, on an EndpointSlice: the Service whose endpoints these are, beside those of other slices."""
LABEL_SLICE_MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
"""Kubernetes' own: its controller leaves alone what is not its own."""
SLICE_MANAGED_BY: Final = "preheat.dev"

ANNOTATION_APPLIED: Final = "preheat.dev/applied"
"""Hash of the manifest as we applied it: tells that our own wish changed, fields we dropped included."""
ANNOTATION_REPOSITORY_PREFIX: Final = "repository.preheat.dev/"
"""Files of the model repository, in a model pod's annotations."""
ANNOTATION_NODE: Final = "preheat.dev/node"
"""The node that a warmer's, a seeder's, a puller's, a pager's or a keeper's Job works for, or what stands in a node's place (below)."""
ANNOTATION_PEERS: Final = "preheat.dev/peers"
"""The nodes from which a warmer gets its weights, by name, with a comma between."""
ANNOTATION_BOOT: Final = "preheat.dev/boot-id"
"""As which of its starts the node ran when a Job for it was made (status.nodeInfo.bootID)."""
ANNOTATION_REMOVES: Final = "preheat.dev/removes"
"""Keys of the weights that a keeper is to take off its node's disk, with a comma between."""
ANNOTATION_VERIFIES: Final = "preheat.dev/verifies"
"""Keys of the weights that a keeper is to hash, with a comma between."""
ANNOTATION_ROOM: Final = "preheat.dev/room-bytes"
"""How much a warmer may take on its node. On the pod, where the warmer reads it."""
ANNOTATION_BUDGET: Final = "preheat.dev/cache-budget"
"""Set by people on a Node: the most bytes of weights there, for example 500Gi. It goes before the installation's."""
ANNOTATION_VERIFY: Final = "preheat.dev/verify-requested-at"
"""Set by people on a ModelCache: weights that were last verified before this time (RFC 3339) are verified again."""
ANNOTATION_NODES_FIRST: Final = "preheat.dev/nodes-first"
"""On a ModelCache of a service's own, while a rollout is under way: the nodes that get the weights before others."""
ANNOTATION_RESOLVED: Final = "preheat.dev/resolved"
"""What a tag stood for when pods were made of it: a cache that is made again takes the same image."""

ANNOTATION_MEMORY: Final = "preheat.dev/scaling-memory"
"""What a scaler must not forget, as JSON, on a ControllerRevision of its own."""
ANNOTATION_MEMORY_TIME: Final = "preheat.dev/scaling-memory-time"
"""When that was written."""
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' own, on a pod: of those that are as ready, a ReplicaSet deletes the one with the lowest first."""

ANNOTATION_READY_AT: Final = "preheat.dev/ready-at"
"""On the front's EndpointSlice: when a replica is expected to answer (RFC 3339); empty while none is on its way."""
ANNOTATION_WAKES_IN: Final = "preheat.dev/wakes-in-seconds"
"""On the front's EndpointSlice: how long waking takes nearly always; empty where it does not sleep, or nobody knows."""

ANNOTATION_SHARE: Final = "preheat.dev/share"
"""On an HTTPRoute: ``REVISION=PERCENT``, what the wanted revision is to get, whoever is ready. A pause holds it.

``REVISION=PERCENT,LEAST``, where it had so much already when it became the wanted one."""

ANNOTATION_VERDICT: Final = "preheat.dev/verdict"
"""On a ControllerRevision: that its revision failed, why, and where was gone back to, as JSON."""
ANNOTATION_SERVED: Final = "preheat.dev/served"
"""On a ControllerRevision: when its revision served as another was about to take over (RFC 3339)."""
ANNOTATION_SOAKED: Final = "preheat.dev/soaked"
"""On a ControllerRevision: since when its revision is known to be good (RFC 3339)."""
ANNOTATION_BASELINE: Final = "preheat.dev/baseline"
"""On a ControllerRevision: how its revision served before the next one came, which is compared with it, as JSON."""
ANNOTATION_RETRY: Final = "preheat.dev/retry"
"""Set by people on an LLMDeployment: any value that a verdict does not know has the failed revision tried again."""
ANNOTATION_ROLLBACK_TO: Final = "preheat.dev/rollback-to"
"""Set by people on an LLMDeployment: the number or the id of the revision to go back to; ``N@ID`` only while ID is wanted."""

SHARED_SITE: Final = "Shared"
VERIFIER_SITE: Final = "SharedVerifier"
"""In a node's place: the volume of a claim. No node can be called so: their names have no capitals."""
REGISTRY_SITE: Final = "Registry"
"""In a node's place: whoever says what a tag stands for."""
SHARED_FOLDER: Final = ".preheat"
"""Our folder on a claim that is a user's own. Nothing else on it is touched."""

NODE_LABEL_PREFIX: Final = "cache.preheat.dev/"
NODE_LABEL_READY: Final = "ready"
NODE_LABEL_WARMING: Final = "warming"
"""A warmer has been at it for a while: there are bytes on the disk to be cleared away if it never ends well."""
NODE_LABEL_AVOIDED: Final = "avoided"
"""The weights are there, complete, and no new pod may start with them on this node. Those that run go on."""
NODE_LABEL_LEAVING: Final = "leaving"
"""No pod may start with these weights any more; they are still on the disk."""

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
PORT_SEEDER: Final = 9082
PORT_FRONT: Final = 9083
PORT_AGENT_METRICS: Final = 9084
"""The agent's /metrics and nothing else, so that whoever scrapes need not reach the agent."""
AGENT_METRICS: Final = "agent-metrics"
"""What that port is called: only pods that have it are scraped."""
PORTS_OF_DEPLOYMENTS: Final = range(20000, 24000)
"""On the front: one for each LLMDeployment that may be at zero. Below those that kernels give to clients (32768 on)."""
