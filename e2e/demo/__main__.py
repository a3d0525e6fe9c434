"""``python -m e2e.demo up|down``: bring up, install, apply, watch, ask."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from e2e.cluster import PROVIDERS, Provider, provider_for
from e2e.cluster.provider import KUBECTL, ROOT, kubectl
from e2e.demo.ask import ask_grpc, ask_rest
from e2e.demo.times import Times
from e2e.install import NAMES, image_archives, install_operator

EXAMPLE = ROOT / "examples" / "smollm2.yaml"
STORE = ROOT / "e2e" / "demo" / "model-store.yaml"
NAMESPACE, NAME = "preheat-demo", "smollm2"
PROMPT = "The capital of France is"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("--provider", choices=("auto", *PROVIDERS), default="auto")
    parser.add_argument("--name", default="preheat-demo", help="name of the cluster")
    arguments = parser.parse_args()
    cluster = provider_for(arguments.provider, arguments.name)
    if arguments.command == "down":
        cluster.down()
        print(f"cluster {cluster.name} is gone")
        return 0
    up(cluster)
    return 0


def up(cluster: Provider) -> None:
    times = Times()
    print("1. Images and a Kubernetes of two nodes with two GPU types")
    with times.measure("images built"):
        archives = image_archives()
    with times.measure("control plane and nodes"):
        cluster.up()
    with times.measure("images on the nodes"):
        cluster.load_images([archives[name] for name in NAMES])

    print("\n2. The operator, with Helm")
    with times.measure("helm install"):
        install_operator(cluster.kubeconfig)
        kubectl(cluster.kubeconfig, "apply", "-f", str(STORE))
        kubectl(
            cluster.kubeconfig, "-n", NAMESPACE, "rollout", "status", "deploy/model-store", "--timeout=120s"
        )

    print(f"\n3. kubectl apply -f {EXAMPLE.relative_to(ROOT)}\n")
    kubectl(cluster.kubeconfig, "apply", "-f", str(EXAMPLE))
    with times.measure("kubectl apply -> Ready", quiet=True):
        watch(cluster.kubeconfig)
    times.take_from_cluster(cluster.kubeconfig, NAMESPACE, NAME)
    subprocess.run(
        [KUBECTL, "--kubeconfig", str(cluster.kubeconfig), "-n", NAMESPACE, "get", "llmd,mc"], check=True
    )

    print(f"\n4. A question: {PROMPT!r}\n")
    rest = ask_rest(cluster.kubeconfig, NAMESPACE, NAME, PROMPT)
    print(f"  REST: {rest.text.strip()!r}   {rest.seconds:.2f} s")
    grpc = ask_grpc(cluster.kubeconfig, NAMESPACE, NAME, PROMPT)
    print(
        f"  gRPC: {grpc.text.strip()!r}   first token after {grpc.first_seconds:.2f} s, {grpc.seconds:.2f} s"
    )
    times.add("first token (gRPC stream)", grpc.first_seconds)
    if "Paris" not in rest.text or "Paris" not in grpc.text:
        raise SystemExit("the model did not say Paris")

    print("\n5. What it took\n")
    times.print()
    times.write(ROOT / "build" / "bench" / "demo.jsonl")
    print(f"\nTry more:  export KUBECONFIG={cluster.kubeconfig} PATH={ROOT / '.venv' / 'bin'}:$PATH")
    print(f"           kubectl get llmd -A;  kubectl -n {NAMESPACE} describe llmd {NAME}")
    print(f"           kubectl preheat status {NAME} -n {NAMESPACE};  kubectl explain llmdeployment.spec")
    print("Take it away with:  make demo-down")


def watch(kubeconfig: Path) -> None:
    """Show what `kubectl preheat status -w` shows until it is Ready. Raises SystemExit when it does not become so."""
    command = [
        sys.executable, "-m", "preheat.cli.main", "status", NAME, "-n", NAMESPACE, "-w", "--timeout", "600",
    ]  # fmt: skip
    environment = {"KUBECONFIG": str(kubeconfig), "PATH": "/usr/bin:/bin"}
    started = time.monotonic()
    if subprocess.run(command, env=environment, check=False).returncode:
        events = kubectl(
            kubeconfig, "-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp", check=False
        )
        raise SystemExit(f"not Ready after {time.monotonic() - started:.0f} s:\n{events}")


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else json.dumps(str(path))


if __name__ == "__main__":
    sys.exit(main())
