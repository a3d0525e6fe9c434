"""The operator itself: it may go, come back, be upgraded and be overruled, and no model notices."""

from e2e.install import SYSTEM
from e2e.tests.cluster import Cluster

NAME = "smollm2"


def _pods(cluster: Cluster) -> list[str]:
    return sorted(pod["metadata"]["uid"] for pod in cluster.pods(NAME))


def test_an_operator_with_other_images_restarts_no_model(cluster: Cluster) -> None:
    cluster.apply(NAME)
    cluster.wait_ready(NAME)
    before = _pods(cluster)
    cluster.kubectl(
        "-n", SYSTEM, "set", "env", "deploy/preheat", "PREHEAT_AGENT_IMAGE=example.com/agent:next"
    )
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", "--timeout=60s")
    # Give it something to do, so that it surely has looked at the service.
    cluster.kubectl("-n", cluster.namespace, "delete", "service", NAME)
    cluster.until("Service back", lambda: cluster.get("service", NAME), 30)
    cluster.wait_ready(NAME)
    assert _pods(cluster) == before
    cluster.kubectl("-n", SYSTEM, "set", "env", "deploy/preheat", "PREHEAT_AGENT_IMAGE-")
    cluster.kubectl(
        "-n", SYSTEM, "set", "env", "deploy/preheat", "PREHEAT_AGENT_IMAGE=ghcr.io/preheat-dev/agent:dev"
    )
    cluster.kubectl("-n", SYSTEM, "rollout", "status", "deploy/preheat", "--timeout=60s")


def test_what_is_changed_by_hand_is_put_back(cluster: Cluster) -> None:
    cluster.wait_ready(NAME)
    (child,) = (cluster.get("llmd", NAME) or {})["status"]["children"]
    cluster.kubectl("-n", cluster.namespace, "scale", "deploy", child["name"], "--replicas=0")
    cluster.until(
        "replicas put back",
        lambda: (cluster.get("deploy", child["name"]) or {})["spec"]["replicas"] == 1,
        20,
    )
    cluster.wait_ready(NAME)


def test_a_new_revision_goes_out_where_no_gpu_is_free(cluster: Cluster, service: str) -> None:
    """Two GPUs a replica on a node of two: the old one makes room, and only when the weights are there."""
    hardware = {"gpu": {"types": ["nvidia-a10g"], "count": 2}}
    cluster.apply(service, hardware=hardware, runtime={"options": None})
    cluster.wait_ready(service)
    (old,) = cluster.pods(service)
    cluster.apply(service, hardware=hardware, runtime={"options": {"n_ctx": "1024"}})
    cluster.until(
        "the new revision serves",
        lambda: (
            [p for p in cluster.pods(service) if p["metadata"]["name"] != old["metadata"]["name"]]
            and len(cluster.pods(service)) == 1
        ),
        180,
    )
    cluster.wait_ready(service)
    status = (cluster.get("llmd", service) or {})["status"]
    assert status["servingRevision"] == status["revision"]


def test_deleting_leaves_nothing(cluster: Cluster) -> None:
    cluster.wait_ready(NAME)
    cache = (cluster.get("llmd", NAME) or {})["status"]["cache"]["name"]
    key = (cluster.get("mc", cache) or {})["status"]["key"]
    cluster.kubectl("-n", cluster.namespace, "delete", "llmd", NAME)
    for kind in ("deployments", "services", "controllerrevisions", "poddisruptionbudgets",
                 "networkpolicies", "modelcaches", "pods"):  # fmt: skip
        _gone(cluster, kind)
    cluster.until("no volumes", lambda: key not in cluster.kubectl("get", "pv", "-o", "name"), 30)
    cluster.until(
        "no node label",
        lambda: key not in cluster.kubectl("get", "nodes", "--show-labels"),
        30,
    )


def _gone(cluster: Cluster, kind: str) -> None:
    cluster.until(f"no {kind}", lambda: not cluster.items(kind, f"preheat.dev/llmdeployment={NAME}"), 60)
