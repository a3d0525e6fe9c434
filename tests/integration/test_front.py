"""A model at zero against a real API server, with a real front under its own account: slices, counts, rights."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from preheat.api.constants import PORT_FRONT, PORTS_OF_DEPLOYMENTS

from e2e.rights import SYSTEM
from tests.integration.conftest import API, a_service
from tests.integration.test_avoidance import run
from tests.integration.test_scaling import deployment, pods, replicas, take_away
from tests.runtime.front.conftest import Front, running

NAME = "sleeps"
ASLEEP = {"mode": "Predictive", "maxReplicas": 2, "scaleToZero": True}
ACCOUNT = f"system:serviceaccount:{SYSTEM}:preheat-front"


def own_address() -> str:
    """Return an address of this machine: no loopback address can be an endpoint. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))
        return str(one.getsockname()[0])


@pytest.fixture
def front(api: API, tmp_path: Path) -> Iterator[Front]:
    """The front's own process, with its ServiceAccount's token, and the pod that it would be."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(api.kubectl("-n", SYSTEM, "create", "token", "preheat-front"))
    (account / "ca.crt").write_bytes(api.plane.certificate.read_bytes())
    ports = {"firstPort": PORTS_OF_DEPLOYMENTS[0], "lastPort": PORTS_OF_DEPLOYMENTS[-1]}
    with running(api.plane.url, tmp_path, controlPort=PORT_FRONT, **ports) as made:
        made.until("ready", lambda: made.get("/readyz").status_code == 200)
        _be_a_pod(api, own_address())
        yield made
    api.kubectl("-n", SYSTEM, "delete", "pod", "front", "--ignore-not-found")


def _be_a_pod(api: API, address: str) -> None:
    labels = {"app.kubernetes.io/managed-by": "preheat", "preheat.dev/component": "front"}
    api.apply({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "front", "namespace": SYSTEM, "labels": labels},
        "spec": {"serviceAccountName": "preheat-front", "containers": [{"name": "front", "image": "front"}]},
    })  # fmt: skip
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
    patch = json.dumps({"status": status})
    api.kubectl(
        "-n", SYSTEM, "patch", "pod", "front", "--subresource=status", "--type=strategic", "-p", patch
    )


def the_slice(api: API) -> dict[str, Any]:
    return api.get("endpointslice", f"{NAME}-front") or {}


def addresses(api: API) -> list[str]:
    return [
        address for endpoint in the_slice(api).get("endpoints") or () for address in endpoint["addresses"]
    ]


def ask(port: int, path: str = "/v2/models/sleeps/infer") -> httpx.Response:
    method = "GET" if path.endswith("/ready") else "POST"
    return httpx.request(method, f"http://{own_address()}:{port}{path}", trust_env=False, timeout=5)


def test_a_model_at_zero_is_answered_for_woken_and_answers_itself(api: API, node: str, front: Front) -> None:
    with api.operator():
        api.apply(a_service(NAME, replicas=0, scaling=ASLEEP))
        api.until("clients are sent to the front", lambda: addresses(api) == [own_address()])
        found = the_slice(api)
        assert found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "preheat.dev"
        assert [port["name"] for port in found["ports"]] == ["http", "grpc"]
        port = found["ports"][0]["port"]
        assert port in PORTS_OF_DEPLOYMENTS
        front.until("it listens", lambda: ask(port, "/v2/health/ready").status_code == 503)

        api.until("it sleeps", lambda: replicas(api, NAME) == 0)
        answer = ask(port)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        api.until("it is woken", lambda: replicas(api, NAME) == 1, 10)
        api.until("when it is expected is told", lambda: _annotation(api, "ready-at"))
        front.until(
            "clients are told when", lambda: "waking up" in ask(port, "/v2/health/ready").json()["error"]
        )

        api.until("a pod", lambda: len(pods(api, NAME)) == 1)
        (pod,) = pods(api, NAME)
        run(api, pod["metadata"]["name"], node, "10.1.2.3", ready=True)
        api.until("nobody is sent to the front", lambda: the_slice(api) and not addresses(api))
        assert the_slice(api)["ports"][0]["port"] == port
        services = json.loads(
            api.kubectl("get", "endpointslices", "-l", f"kubernetes.io/service-name={NAME}", "-o", "json")
        )["items"]
        managers = {one["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] for one in services}
        assert managers == {"preheat.dev", "endpointslice-controller.k8s.io"}, "each looks after its own"

        api.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
        api.until("clients are sent there again", lambda: addresses(api) == [own_address()])

        api.kubectl("patch", "llmd", NAME, "--type=merge", "-p", '{"spec":{"scaling":{"scaleToZero":false}}}')
        api.until("the slice is gone", lambda: not the_slice(api))
        front.until("and the port", lambda: front.metric("preheat_front_ports") == 0)
        take_away(api, NAME, node)
        assert deployment(api, NAME) == {}


def _annotation(api: API, name: str) -> str:
    return str(the_slice(api)["metadata"]["annotations"].get(f"preheat.dev/{name}", ""))


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("get", "secrets"), ("list", "pods"), ("list", "services"), ("patch", "endpointslices"), ("create", "endpointslices"),
     ("delete", "endpointslices"), ("list", "llmdeployments.preheat.dev"), ("list", "nodes"), ("create", "events")],
)  # fmt: skip
def test_the_front_may_not(api: API, verb: str, resource: str) -> None:
    answer = api.run("auth", "can-i", verb, resource, "--all-namespaces", "--as", ACCOUNT)
    assert answer.stdout.strip() == "no", answer.stderr
