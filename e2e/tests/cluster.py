"""What the tests ask of a cluster, in their own words."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import Provider
from e2e.cluster.provider import ROOT, kubectl

EXAMPLE = ROOT / "examples" / "smollm2.yaml"
STORE = ROOT / "e2e" / "demo" / "model-store.yaml"
READY_SECONDS = 120


class Cluster:
    """A cluster with the operator in it."""

    namespace = "preheat-demo"

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    @property
    def kubeconfig(self) -> Path:
        return self.provider.kubeconfig

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        return kubectl(self.kubeconfig, *arguments, check=check)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        text = self.kubectl(
            "-n", namespace or self.namespace, "get", kind, name, "-o", "json", "--ignore-not-found"
        )
        return json.loads(text) if text else None

    def items(self, kind: str, selector: str = "", namespace: str | None = None) -> list[dict[str, Any]]:
        text = self.kubectl("-n", namespace or self.namespace, "get", kind, "-l", selector, "-o", "json")
        found: list[dict[str, Any]] = json.loads(text)["items"]
        return found

    def apply(self, name: str, *, slowly: bool = False, **spec: Any) -> None:
        """Apply the example under another name, with parts of its spec replaced: `hardware=…, replicas=…`.

        The example loads at a pace that can be watched, and drains for ten seconds: so only where that is asked for.
        """
        body = yaml.safe_load(EXAMPLE.read_text())
        body["metadata"]["name"] = name
        if not slowly:
            del body["spec"]["runtime"]["options"]
            body["spec"]["runtime"]["drainSeconds"] = 2
        body["spec"] = merged(body["spec"], spec)
        path = ROOT / "build" / "e2e" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(body))
        self.kubectl("apply", "-f", str(path))

    def clear(self) -> None:
        """Delete what other tests left serving: every GPU is free afterwards, and each test applies what it needs."""
        self.kubectl("-n", self.namespace, "delete", "llmd", "--all")
        self.until(
            "no engine left", lambda: not self.items("pods", "preheat.dev/component=engine"), READY_SECONDS
        )

    def weights_on(self, node: str) -> list[str]:
        """The keys whose weights lie on a node's disk."""
        folder = f"/var/lib/preheat/{self.namespace}"
        return self.provider.node_exec(node, ["sh", "-c", f"ls {folder} 2>/dev/null || true"]).split()

    def empty_disks(self) -> None:
        """Have nothing serve and no weights lie on any node: what another cache holds there is not fetched again."""
        self.clear()
        self.kubectl("-n", self.namespace, "delete", "mc", "--all")
        # No pod may start with what lies there. The keepers may take their time: tests/test_disks.py looks at them.
        self.until("no node ready", lambda: '":"ready"' not in self._labels_of_nodes(), 60)
        for node in self.provider.nodes():
            self.provider.node_exec(node, ["sh", "-c", f"rm -rf /var/lib/preheat/{self.namespace}/*"])

    def _labels_of_nodes(self) -> str:
        return self.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.labels}")

    def pods(self, service: str) -> list[dict[str, Any]]:
        return self.items("pods", f"preheat.dev/llmdeployment={service},preheat.dev/component=engine")

    def ready(self, service: str) -> dict[str, Any]:
        """Return the Ready condition, for the generation that is asked for now; empty while there is none."""
        body = self.get("llmd", service) or {}
        for condition in (body.get("status") or {}).get("conditions", ()):
            current = condition["observedGeneration"] == body["metadata"]["generation"]
            if condition["type"] == "Ready" and current:
                found: dict[str, Any] = condition
                return found
        return {}

    def wait_ready(self, service: str, seconds: float = READY_SECONDS) -> None:
        self.until(f"{service} Ready", lambda: self.ready(service).get("status") == "True", seconds)

    def ready_endpoints(self, service: str) -> int:
        slices = self.items("endpointslices", f"kubernetes.io/service-name={service}")
        return sum(e["conditions"].get("ready", False) for s in slices for e in s.get("endpoints") or ())

    def until(self, what: str, holds: Callable[[], object], seconds: float, every: float = 0.3) -> float:
        """Wait until something holds; return how long it took. Fails with the state of things."""
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > seconds:
                state = self.kubectl(
                    "-n", self.namespace, "get", "llmd,mc,pods,jobs", "-o", "wide", check=False
                )
                log = self.kubectl("-n", "preheat-system", "logs", "deploy/preheat", "--tail=20", check=False)
                raise AssertionError(f"{what}: not within {seconds:g} s\n{state}\n{log}")
            time.sleep(every)
        return time.monotonic() - started


def fast_store(name: str) -> Path:
    """Return the demo's model store without its pace, in a file of this name: what shall arrive slowly says so itself."""
    bodies = list(yaml.safe_load_all(STORE.read_text()))
    for body in bodies:
        if body["kind"] == "Deployment":
            (container,) = body["spec"]["template"]["spec"]["containers"]
            assert container["args"][0] == "--bytes-per-second"
            container["args"] = ["--bytes-per-second", "0"]
    path = ROOT / "build" / "e2e" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(bodies))
    return path


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a deep merge; None removes a key."""
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
