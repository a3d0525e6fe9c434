"""A route through gateways against a real API server with Gateway API's real definition, which comes late and goes in the middle."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.cluster.gateway_api import definition
from tests.integration.conftest import API, a_service, complete_warmers
from tests.integration.test_avoidance import run
from tests.integration.test_scaling import pods, take_away

NAME = "routed"
CRD = "httproutes.gateway.networking.k8s.io"
ROLLOUT = {
    "strategy": "Canary",
    "steps": [{"percent": 50, "pauseSeconds": 3600, "weight": 10}, {"percent": 100}],
    "gateway": {
        "parentRefs": [{"name": "public", "sectionName": "https"}],
        "hostnames": ["llama.example.com"],
    },
}
SOON = (
    sys.executable,
    "-c",
    "import dataclasses\n"
    "from preheat import config, main\n"
    "read = config.OperatorConfig.from_environment\n"
    "soon = lambda _, environment: dataclasses.replace(read(environment), resync_seconds=3.0)\n"
    "config.OperatorConfig.from_environment = classmethod(soon)\n"
    "main.main()\n",
)
"""The operator, with full lists every 3 s and not every 300 s."""


def install(api: API) -> None:
    """Install it. Others may have tried with older versions: what is stored is of no interest here."""
    api.kubectl("apply", "--server-side", "-f", str(definition("httproutes")))
    api.until("HTTPRoute is served", lambda: api.run("get", "httproutes", "-A").returncode == 0, 60)


COLLECTED_SECONDS = 180
"""After a definition went and came, Kubernetes' garbage collector looks at nothing until it has listed all kinds anew."""


@pytest.fixture
def gateway_api(api: API) -> Iterator[None]:
    install(api)
    yield
    api.kubectl("delete", "crd", CRD, "--ignore-not-found")


def route(api: API) -> dict[str, Any]:
    answer = api.run("get", "httproute", NAME, "-o", "json")
    return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {}


def weights(api: API) -> dict[str, int]:
    rules = route(api).get("spec", {}).get("rules") or [{"backendRefs": []}]
    return {b["name"].removeprefix(f"{NAME}-"): b["weight"] for b in rules[0]["backendRefs"]}


def routed(api: API) -> str:
    return str(api.condition("llmd", NAME, "Routed").get("reason", ""))


def services(api: API) -> list[str]:
    mine = ("-l", f"preheat.dev/llmdeployment={NAME},preheat.dev/revision", "-o", "name")
    return sorted(name.removeprefix("service/") for name in api.kubectl("get", "services", *mine).split())


def revision(api: API) -> str:
    return str((api.get("llmd", NAME) or {}).get("status", {}).get("revision", ""))


def told(api: API) -> dict[str, int]:
    status = (api.get("llmd", NAME) or {}).get("status", {})
    return {share["revision"]: share["weight"] for share in status.get("traffic", ())}


def bring_up(api: API, node: str, other_than: str = "") -> str:
    """Have the newest revision's pod run and be ready; return the revision."""

    def fresh() -> list[dict[str, Any]]:
        return [p for p in pods(api, NAME) if p["metadata"]["labels"]["preheat.dev/revision"] != other_than
                and not p["spec"].get("nodeName")]  # fmt: skip

    api.until("a pod", fresh, 60)
    complete_warmers(api)
    pod = fresh()[0]
    name = pod["metadata"]["name"]
    run(api, name, node, "10.1.2.3" if not other_than else "10.1.2.4", ready=False)
    # A step of a canary looks at how long its replicas have been ready.
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": datetime.now(UTC).isoformat()}
    patch = json.dumps({"status": {"conditions": [ready]}})
    api.kubectl("patch", "pod", name, "--subresource=status", "--type=strategic", "-p", patch)
    return str(pod["metadata"]["labels"]["preheat.dev/revision"])


def test_a_route_of_its_own_with_weights_and_hands_of_others(api: API, node: str, gateway_api: None) -> None:
    with api.operator():
        api.apply(a_service(NAME, replicas=1, rollout=ROLLOUT))
        api.until("a route, to everybody who may come up", lambda: weights(api) == {NAME: 100}, 60)
        spec = route(api)["spec"]
        assert spec["hostnames"] == ["llama.example.com"]
        assert (spec["parentRefs"][0]["name"], spec["parentRefs"][0]["sectionName"]) == ("public", "https")
        assert route(api)["metadata"]["ownerReferences"][0]["kind"] == "LLMDeployment"
        before = bring_up(api, node)
        api.until("all of it to the only one", lambda: weights(api) == {before: 100}, 60)
        assert services(api) == [f"{NAME}-{before}"]
        assert routed(api) == "RoutePending"

        parents = [{
            "parentRef": {"name": "public"}, "controllerName": "example.com/gateway",
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                            "lastTransitionTime": "2026-01-01T00:00:00Z",
                            "observedGeneration": route(api)["metadata"]["generation"]}],
        }]  # fmt: skip
        patch = json.dumps({"status": {"parents": parents}})
        api.kubectl("patch", "httproute", NAME, "--subresource=status", "--type=merge", "-p", patch)
        api.until("a gateway has taken it, and that is told", lambda: routed(api) == "Routed", 30)

        changed = json.dumps([{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 1}])
        api.kubectl("patch", "httproute", NAME, "--type=json", "-p", changed)
        api.until("put back, as it is watched", lambda: weights(api) == {before: 100}, 30)
        api.kubectl("delete", "httproute", NAME)
        api.until("made again", lambda: weights(api) == {before: 100}, 30)

        moved = {"model": {"uri": "http://store.example/other/", "format": "GGUF"}}
        api.kubectl("patch", "llmd", NAME, "--type=merge", "-p", json.dumps({"spec": moved}))
        after = bring_up(api, node, before)
        api.until("the step's weight", lambda: weights(api) == {after: 10, before: 90}, 60)
        api.until("the status tells it", lambda: told(api) == {after: 10, before: 90})

        generation = route(api)["metadata"]["resourceVersion"]
        api.kubectl("annotate", "llmd", NAME, "test=looks-again")
        api.until("it looked again", lambda: revision(api) == after)
        assert route(api)["metadata"]["resourceVersion"] == generation, "at rest nothing is written"

        api.kubectl("delete", "crd", CRD)
        api.until("without Gateway API it says so", lambda: routed(api) == "GatewayAPIMissing", 90)
        api.until("no Service of one revision is left", lambda: services(api) == [], 30)
        assert len(pods(api, NAME)) == 2, "replicas are as they were"
        assert api.condition("llmd", NAME, "Available")["status"] == "True"
    with api.operator(command=SOON):
        started = "Initial authentication has finished"
        api.until("the operator has started without it", lambda: started in api.whole_log(), 30)
        install(api)
        api.until("it is back with the next full list", lambda: weights(api) == {after: 10, before: 90}, 60)
        assert "HTTPRoute is installed now" in api.whole_log()
        changed = json.dumps({"spec": {"rollout": {"gateway": None, "strategy": None, "steps": None}}})
        api.kubectl("patch", "llmd", NAME, "--type=merge", "-p", changed)
        api.until("the route is gone with the field", lambda: not route(api), 30)
        api.until("and the Services", lambda: services(api) == [], 30)
        take_away(api, NAME, node, COLLECTED_SECONDS)


def test_a_route_of_a_stranger_is_left_alone(api: API, node: str, gateway_api: None) -> None:
    theirs = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
              "metadata": {"name": NAME, "namespace": "default"},
              "spec": {"hostnames": ["theirs.example.com"]}}  # fmt: skip
    api.apply(theirs)
    with api.operator():
        api.apply(a_service(NAME, replicas=1, rollout={"gateway": ROLLOUT["gateway"]}))
        api.until("it says so", lambda: api.condition("llmd", NAME).get("reason") == "NameTaken", 60)
        assert "HTTPRoute routed" in api.condition("llmd", NAME)["message"]
        assert route(api)["spec"]["hostnames"] == ["theirs.example.com"]
        api.until("its pods come all the same", lambda: len(pods(api, NAME)) == 1, 30)
        api.kubectl("delete", "httproute", NAME)
        api.until("then it is ours", lambda: weights(api) == {NAME: 100}, 60)
        take_away(api, NAME, node, COLLECTED_SECONDS)
        api.until("it goes with its owner", lambda: not route(api), 60)
