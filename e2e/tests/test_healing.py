"""Health is proved by real inference: what the engine's own endpoints hide is found, and mended."""

from e2e.demo.ask import ask_rest
from e2e.tests.cluster import Cluster

KILL_STUB = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open(f"/proc/{pid}/comm").read()
    except OSError:
        continue
    if name.startswith("triton_python_b"):
        os.kill(int(pid), signal.SIGKILL)
        print("killed", pid)
"""


def test_a_dead_stub_leaves_the_service_and_comes_back(cluster: Cluster) -> None:
    name = "smollm2"
    cluster.apply(name)
    cluster.wait_ready(name)
    cluster.until("in the Service", lambda: cluster.ready_endpoints(name) == 1, 10)
    (pod,) = cluster.pods(name)
    pod_name = pod["metadata"]["name"]
    killed = cluster.kubectl(
        "-n", cluster.namespace, "exec", pod_name, "-c", "agent", "--", "python3", "-c", KILL_STUB
    )
    assert "killed" in killed
    gone = cluster.until("out of the Service", lambda: cluster.ready_endpoints(name) == 0, 30)
    back = cluster.until("in the Service again", lambda: cluster.ready_endpoints(name) == 1, 90)
    print(f"out of the Service after {gone:.0f} s, back after {gone + back:.0f} s")
    assert cluster.pods(name)[0]["metadata"]["name"] == pod_name, (
        "healed in place: the GPU was not given away"
    )
    cluster.wait_ready(name)
    assert "Paris" in ask_rest(cluster.kubeconfig, cluster.namespace, name, "The capital of France is").text
