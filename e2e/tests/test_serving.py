"""The main job: one apply, and a real model answers over KServe v2."""

import time

from e2e.demo.ask import ask_grpc, ask_rest
from e2e.tests.cluster import Cluster

PROMPT = "The capital of France is"


def test_a_model_is_warmed_loaded_probed_and_answers(cluster: Cluster, service: str) -> None:
    name = service
    cluster.empty_disks()
    cluster.apply(name, slowly=True, cache={"maxBytesPerSecond": 12_000_000})
    seen: list[tuple[str, int, str | None]] = []

    def is_ready() -> bool:
        status = (cluster.get("llmd", name) or {}).get("status") or {}
        conditions: dict[str, dict[str, str]] = {c["type"]: c for c in status.get("conditions", ())}
        ready = conditions.get("Ready", {})
        if "loading" in status:
            loading = status["loading"]
            seen.append((ready.get("reason", ""), loading["percent"], loading.get("eta")))
        return ready.get("status") == "True"

    cluster.until("Ready", is_ready, 120)
    for stage in ("WeightsFetching", "ModelLoading"):
        percents = [percent for reason, percent, _ in seen if reason == stage]
        assert len(set(percents)) >= 3, f"{stage}: the percentage was seen to move: {seen}"
        assert percents == sorted(percents), f"{stage}: never back: {percents}"
        assert any(eta for reason, _, eta in seen if reason == stage), f"{stage}: an ETA was seen"

    cluster.kubectl("-n", cluster.namespace, "wait", "--for=condition=Ready", f"llmd/{name}", "--timeout=10s")
    assert "Paris" in ask_rest(cluster.kubeconfig, cluster.namespace, name, PROMPT).text
    assert "Paris" in ask_grpc(cluster.kubeconfig, cluster.namespace, name, PROMPT).text


def test_the_pod_is_on_the_gpu_type_asked_for_and_came_after_the_weights(cluster: Cluster) -> None:
    cluster.apply("smollm2")
    cluster.wait_ready("smollm2")
    (pod,) = cluster.pods("smollm2")
    first, _ = cluster.provider.nodes()
    assert pod["spec"]["nodeName"] == first
    node = cluster.get("node", first)
    assert node is not None
    cache = cluster.get("llmd", "smollm2")
    assert cache is not None
    used = cluster.get("mc", cache["status"]["cache"]["name"])
    assert used is not None
    assert node["metadata"]["labels"][f"cache.preheat.dev/{used['status']['key']}"] == "ready"
    job = cluster.items("jobs", f"preheat.dev/modelcache={used['metadata']['name']}")[0]
    scheduled = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    assert job["status"]["completionTime"] <= scheduled["lastTransitionTime"]


def test_idle_means_no_write(cluster: Cluster) -> None:
    def versions() -> dict[str, str]:
        found = {}
        for kind in ("llmd", "mc", "deployments", "services", "controllerrevisions", "jobs"):
            for body in cluster.items(kind):
                found[f"{kind}/{body['metadata']['name']}"] = body["metadata"]["resourceVersion"]
        return found

    cluster.wait_ready("smollm2")
    before = versions()
    time.sleep(15)
    assert versions() == before


def test_scale_to_zero_and_back_keeps_the_weights(cluster: Cluster) -> None:
    cluster.kubectl("-n", cluster.namespace, "scale", "llmd/smollm2", "--replicas=0")
    cluster.until("no pods", lambda: not cluster.pods("smollm2"), 60)
    cluster.wait_ready("smollm2")
    assert cluster.ready("smollm2")["reason"] == "ScaledToZero"
    cluster.kubectl("-n", cluster.namespace, "scale", "llmd/smollm2", "--replicas=1")
    cluster.until("a pod", lambda: cluster.pods("smollm2"), 30)
    cluster.wait_ready("smollm2")
    cache = (cluster.get("llmd", "smollm2") or {})["status"]["cache"]["name"]
    assert len(cluster.items("jobs", f"preheat.dev/modelcache={cache}")) == 1, "nothing was fetched again"
