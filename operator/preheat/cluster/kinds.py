"""The kinds we read and write, and the URL paths under which the API server keeps them."""

from dataclasses import dataclass

from preheat.api.constants import API_VERSION, COMPONENT_FRONT, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource. ``selector``: which of its objects concern us, empty for all."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True
    selector: str = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    watched: bool = True
    optional: bool = False
    """Whether a cluster may be without it: then there are none of it, and nothing fails."""

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the URL path of the collection, or of one object."""
        prefix = "/api" if "/" not in self.api_version else "/apis"
        parts = [prefix, self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name else [])]
        return "/".join(parts)

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The API version within the group."""
        return self.api_version.rpartition("/")[2]


_ALL = (
    Kind("LLMDeployment", API_VERSION, LLMDeployment.PLURAL, selector=""),
    Kind("ModelCache", API_VERSION, ModelCache.PLURAL, selector=""),
    Kind("Node", "v1", "nodes", namespaced=False, selector=""),
    Kind("PersistentVolume", "v1", "persistentvolumes", namespaced=False),
    Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
    Kind("Pod", "v1", "pods"),
    Kind("Deployment", "apps/v1", "deployments"),
    Kind("ControllerRevision", "apps/v1", "controllerrevisions"),
    Kind("Job", "batch/v1", "jobs"),
    Kind("Service", "v1", "services"),
    # Kubernetes gives its own slices the labels of their Service: those are not ours.
    Kind(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "endpointslices",
        selector=f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_COMPONENT}={COMPONENT_FRONT}",
    ),
    Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes", optional=True),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
EVENTS = Kind("Event", "events.k8s.io/v1", "events", watched=False)
