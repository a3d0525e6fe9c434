"""One poisonous object never delays another by more than a second, and its own condition says why it does not serve.

`make fuzz` runs the first test with many more objects (N=2000) and another seed (SEED=7).
"""

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.provider import ROOT
from tests.integration.conftest import API, a_service
from tests.isolation.campaign import COUNT, SEED, Campaign, Client, operator_is_alive
from tests.isolation.poison import Poison

RESULTS = ROOT / "build" / "bench" / "isolation.jsonl"
NAMESPACES = ("poison-0", "poison-1", "poison-2", "poison-3")
HEALTHY = "healthy"
DELAY_SECONDS = 1.0
MEMORY_MIB = 300
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "few"},
    "spec": {"hard": {"pods": "5"}},
}


@pytest.fixture
def client(api: API) -> Iterator[Client]:
    made = Client(api.plane)
    for namespace in (*NAMESPACES, HEALTHY):
        api.kubectl("create", "namespace", namespace)
    for namespace in NAMESPACES:
        # Pods that are asked for by thousands: a quota keeps the machine alive, and is one more thing to tell.
        api.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(QUOTA))
    yield made
    made.close()
    for namespace in (*NAMESPACES, HEALTHY):
        for kind in ("llmdeployments", "modelcaches"):
            release(api, namespace, kind)
        api.kubectl("delete", "namespace", namespace, "--wait=false")
    api.until("namespaces gone", lambda: not {*NAMESPACES, HEALTHY} & set(names(api, "namespaces")), 300)


def names(api: API, kind: str, *more: str) -> list[str]:
    return [line.split("/")[1] for line in api.kubectl("get", kind, "-o", "name", *more).split()]


def release(api: API, namespace: str, kind: str) -> None:
    """Take strangers' finalizers away."""
    for body in json.loads(api.kubectl("-n", namespace, "get", kind, "-o", "json"))["items"]:
        if body["metadata"].get("finalizers"):
            patch = '{"metadata":{"finalizers":null}}'
            api.kubectl("-n", namespace, "patch", kind, body["metadata"]["name"], "--type=merge", "-p", patch)


def test_poisonous_objects_delay_no_other_and_say_why(api: API, node: str, client: Client) -> None:
    # Before the operator: a new definition ends every watch, and that is another test's business.
    with loose_schema(api):
        odd = [client.create(body) for body in unreadable()]
    assert set(odd) == {201}
    with api.operator() as operator:
        campaign = Campaign(client, operator, HEALTHY)
        report = campaign.report
        campaign.first_child_seconds()  # the operator has started
        campaign.measure(report.alone_seconds, 7)

        poison = Poison(SEED)
        bodies = [
            body
            for number, namespace in enumerate(NAMESPACES)
            for body in poison.objects(COUNT // len(NAMESPACES), namespace)
            if body["metadata"].update(name=f"{body['metadata']['name'][:36]}-{number}") is None
        ]
        bodies += special(api)
        accepted = campaign.poison(bodies, lambda: campaign.measure(report.arriving_seconds, 1))
        assert len(accepted) > len(bodies) // 2, "the generator has to make objects that are accepted"
        campaign.scribble(poison, accepted[::3])
        held = [body for body in accepted if body["metadata"].get("finalizers")]
        for body in held:
            metadata = body["metadata"]
            api.kubectl("-n", metadata["namespace"], "delete", body["kind"], metadata["name"], "--wait=false")

        campaign.measure(report.among_seconds, 9, pause_seconds=0.5)
        campaign.wait_told(NAMESPACES)
        print("\n" + report.table())
        report.write(RESULTS, f"poison, seed {SEED}")
        operator_is_alive(operator, api.whole_log())
        assert report.untold == []
        assert report.delay_seconds <= DELAY_SECONDS
        assert report.memory_mib < MEMORY_MIB


def special(api: API) -> list[dict[str, Any]]:
    """What a generator does not think of."""
    stranger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "stranger", "namespace": NAMESPACES[0]},
    }
    api.apply(stranger)
    uid = (api.get("configmap", "stranger", NAMESPACES[0]) or {})["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "stranger", "uid": uid, "controller": True}
    endless = {"canary": {"expect": "(?i)" + "[\x01-\uffff]" * 50}}
    many = [
        a_service("owned-by-a-stranger"),
        a_service("a-thousand", replicas=1000, cache={"warmNodes": 1000}),
        *(a_service(f"endless-{number}", health=endless) for number in range(5)),
        a_service("large", runtime={"backend": "LlamaCpp", "args": ["\U0001f525" * 1024] * 64}),
    ]
    many[0]["metadata"]["ownerReferences"] = [owner]
    many[-1]["metadata"]["annotations"] = {"example.com/large": "x" * 200_000}
    for body in many:
        body["metadata"]["namespace"] = NAMESPACES[0]
    return many


def unreadable() -> list[dict[str, Any]]:
    """Objects that only a looser schema lets in."""
    odd: list[Any] = [
        "text",
        7,
        [1],
        {"model": 1},
        {"model": {"uri": "x"}, "hardware": {"gpu": {"types": ["other"]}}},
    ]
    bodies = []
    for number, spec in enumerate(odd):
        body = {**a_service(f"odd-{number}"), "spec": spec}
        body["status"] = {"conditions": ["text"], "cache": "text", "key": ["text"]}
        bodies.append(body)
    bodies.append(
        {**a_service("no-cache"), "kind": "ModelCache", "spec": {"source": []}, "status": {"key": 7}}
    )
    for body in bodies:
        body["metadata"]["namespace"] = NAMESPACES[1]
    return bodies


@contextlib.contextmanager
def loose_schema(api: API) -> Iterator[None]:
    """Install definitions that take anything, for a while."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    loose = {"type": "object", "properties": {"spec": {"x-kubernetes-preserve-unknown-fields": True},
             "status": {"x-kubernetes-preserve-unknown-fields": True}}, **anything}  # fmt: skip
    files = sorted((ROOT / "crds").glob("*.yaml"))
    try:
        for path in files:
            body = yaml.safe_load(path.read_text())
            version = body["spec"]["versions"][0]
            version["schema"]["openAPIV3Schema"] = loose
            version["subresources"] = {}
            version.pop("selectableFields", None)
            api.kubectl("replace", "-f", "-", stdin=json.dumps(with_version(api, body)))
        api.until("the loose schema holds", lambda: _is_loose(api))
        yield
    finally:
        for path in files:
            api.kubectl(
                "replace", "-f", "-", stdin=json.dumps(with_version(api, yaml.safe_load(path.read_text())))
            )
        api.until("the strict schema holds", lambda: not _is_loose(api))


def with_version(api: API, body: dict[str, Any]) -> dict[str, Any]:
    live = api.get("crd", body["metadata"]["name"]) or {}
    return {**body, "metadata": {**body["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}}


def _is_loose(api: API) -> bool:
    """Ask the API server itself: it takes a new schema in after a moment."""
    answers = []
    for kind in ("LLMDeployment", "ModelCache"):
        body = {**a_service("try"), "kind": kind, "spec": {"model": 1, "source": 1}}
        answers.append(
            api.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body)).returncode == 0
        )
    return any(answers)


def test_a_hanging_webhook_delays_no_other(api: API, node: str, client: Client) -> None:
    with hanging() as port, api.operator() as operator:
        campaign = Campaign(client, operator, HEALTHY)
        report = campaign.report
        campaign.first_child_seconds()
        campaign.measure(report.alone_seconds, 7)
        api.apply(webhook(port))
        try:
            bodies = [a_service(f"hangs-{number}") for number in range(40)]
            for number, body in enumerate(bodies):
                body["metadata"]["namespace"] = NAMESPACES[number % len(NAMESPACES)]
            campaign.poison(bodies, lambda: campaign.measure(report.arriving_seconds, 1))
            campaign.measure(report.among_seconds, 9)
        finally:
            api.kubectl("delete", "validatingwebhookconfiguration", "hangs")
        report.told = report.accepted
        print("\n" + report.table())
        report.write(RESULTS, "hanging webhook")
        assert report.accepted == len(bodies)
        assert report.delay_seconds <= DELAY_SECONDS
        operator_is_alive(operator, api.whole_log())


@contextlib.contextmanager
def hanging() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in kept:
            connection.close()


def webhook(port: int) -> dict[str, Any]:
    """A stranger's webhook for the poisonous namespaces, which hangs for everything that is made there."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "hangs"},
        "webhooks": [
            {
                "name": "hangs.example.com",
                "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
                "timeoutSeconds": 30,
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(NAMESPACES)}
                    ]
                },
                "rules": [
                    {
                        "apiGroups": ["", "apps", "networking.k8s.io", "policy"],
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["services", "deployments", "networkpolicies", "poddisruptionbudgets"],
                    }
                ],
            }
        ],
    }


def test_the_measurement_sees_an_object_that_blocks_the_others(api: API, node: str, client: Client) -> None:
    """The test of the tests: with an operator that thinks for two seconds over one object, they fail."""
    program = str(Path(__file__).parents[1] / "isolation" / "slow_operator.py")
    with api.operator(command=(sys.executable, program)) as operator:
        campaign = Campaign(client, operator, HEALTHY)
        report = campaign.report
        campaign.first_child_seconds()
        campaign.measure(report.alone_seconds, 3)
        slow = [f"slow-{number}" for number in range(4)]
        for name in slow:
            body = a_service(name)
            body["metadata"]["namespace"] = NAMESPACES[0]
            assert client.create(body) == 201
        over = threading.Event()

        def poke() -> None:
            path = f"/apis/preheat.dev/v1alpha1/namespaces/{NAMESPACES[0]}/llmdeployments"
            number = 0
            while not over.is_set():
                number += 1
                patch = {"metadata": {"annotations": {"poke": str(number)}}}
                for name in slow:
                    client.send("PATCH", f"{path}/{name}", patch, "application/merge-patch+json")
                over.wait(0.1)

        thread = threading.Thread(target=poke)
        thread.start()
        try:
            # Four of two seconds each, poked again and again: the others may wait for ever.
            report.among_seconds.append(campaign.first_child_seconds(most=10))
        finally:
            over.set()
            thread.join()
        print("\n" + report.table())
        assert report.delay_seconds > DELAY_SECONDS
