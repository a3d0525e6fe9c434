"""Preheat's own scaling against a real API server: what is stored, what is told, who goes, and who may still scale."""

import json
import os
import subprocess
import sys
from typing import Any

from e2e.external.judge import writers
from tests.integration.conftest import API, a_service, complete_warmers

SCALED = {"mode": "Predictive", "maxReplicas": 4}
COST = "controller.kubernetes.io/pod-deletion-cost"


def deployment(api: API, name: str) -> dict[str, Any]:
    """Return the one Deployment of a service, empty while there is none."""
    found = json.loads(api.kubectl("get", "deploy", "-l", f"preheat.dev/llmdeployment={name}", "-o", "json"))[
        "items"
    ]
    return dict(found[0]) if found else {}


def replicas(api: API, name: str) -> int | None:
    return (deployment(api, name).get("spec") or {}).get("replicas")


def pods(api: API, name: str) -> list[dict[str, Any]]:
    found = json.loads(api.kubectl("get", "pods", "-l", f"preheat.dev/llmdeployment={name}", "-o", "json"))[
        "items"
    ]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def events(api: API, reason: str) -> list[str]:
    """Return what the Events of a reason say."""
    found = json.loads(api.kubectl("get", "events", "--field-selector", f"reason={reason}", "-o", "json"))[
        "items"
    ]
    return [event["message"] for event in found]


def asked_replicas(api: API, name: str) -> int | None:
    """Return which spec.replicas the status tells of."""
    status = (api.get("llmd", name) or {}).get("status") or {}
    found: int | None = (status.get("scaling") or {}).get("askedReplicas")
    return found


def take_away(api: API, name: str, node: str, seconds: float = 60) -> None:
    """Delete a service and its node, and see all of it go: the next test finds nothing of it."""
    complete_warmers(api)  # a pod that nobody runs would hold its volumes
    api.kubectl("delete", "llmd", name)
    # A keeper would look after what its warmer may have left on the node's disk, and needs a volume for that.
    api.kubectl("delete", "node", node)
    kinds, mine = "deploy,pods,mc,controllerrevisions", f"preheat.dev/llmdeployment={name}"
    api.until(
        "children gone", lambda: not api.kubectl("get", kinds, "-l", mine, "-o", "name").split(), seconds
    )
    api.until("volumes gone", lambda: not [v for v in volumes(api) if v.startswith(f"{name}-")], seconds)


def volumes(api: API) -> list[str]:
    """Return of which caches there are volumes and claims."""
    found = json.loads(api.kubectl("get", "pv,pvc", "-A", "-o", "json"))["items"]
    return [body["metadata"].get("labels", {}).get("preheat.dev/modelcache", "") for body in found]


def test_it_begins_with_the_specs_number_keeps_its_memory_and_says_why(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("decides", replicas=2, scaling=SCALED))
        api.until("two replicas", lambda: replicas(api, "decides") == 2)
        api.until("a decision", lambda: (api.get("llmd", "decides") or {}).get("status", {}).get("scaling"))
        body = api.get("llmd", "decides") or {}
        assert body["status"]["scaling"]["wantedReplicas"] == 2
        assert api.condition("llmd", "decides", "ScalingActive")["status"] == "True"
        api.until("a memory", lambda: api.get("controllerrevision", "decides-scaler"))
        memory = api.get("controllerrevision", "decides-scaler") or {}
        assert json.loads(memory["metadata"]["annotations"]["preheat.dev/scaling-memory"])
        why = subprocess.run(
            [sys.executable, "-m", "preheat.cli.main", "why", "decides"],
            env={**os.environ, "KUBECONFIG": str(api.plane.kubeconfig)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "mode Predictive" in why.stdout
        assert "  2 wanted   " in why.stdout
        take_away(api, "decides", node)
        assert api.get("controllerrevision", "decides-scaler") is None


def test_who_scales_it_moves_nothing_and_is_told_so(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("mine", replicas=2, scaling=SCALED))
        api.until("two replicas", lambda: replicas(api, "mine") == 2)
        # A number that is changed before the first was told of is the first.
        api.until("its number is told of", lambda: asked_replicas(api, "mine") == 2)
        api.kubectl("scale", "llmd/mine", "--replicas=4")
        api.until(
            "it was seen",
            lambda: (api.get("llmd", "mine") or {}).get("status", {}).get("observedGeneration") == 2,
        )
        assert replicas(api, "mine") == 2
        words = "spec.replicas is only the number to begin with: spec.scaling.mode is Predictive."
        assert words in api.condition("llmd", "mine", "Accepted")["message"]
        who = "kubectl set it to 4 through /scale"
        assert who in api.condition("llmd", "mine", "Accepted")["message"]
        told = "kubectl set spec.replicas to 4, and nothing follows from that"
        api.until("an Event tells", lambda: [m for m in events(api, "ScalingIgnored") if m.startswith(told)])
        takeover = {"spec": {"replicas": 3, "scaling": {"mode": "External"}}}
        api.kubectl("patch", "llmd", "mine", "--type=merge", "-p", json.dumps(takeover))
        api.until("taken over", lambda: replicas(api, "mine") == 3)
        assert "scaling" not in (api.get("llmd", "mine") or {})["status"]
        take_away(api, "mine", node)


def test_a_number_beyond_a_bound_is_an_event_and_the_spec_stays_who_scaled_its(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("bound", scaling={"maxReplicas": 2}))
        api.until("one replica", lambda: replicas(api, "bound") == 1)
        api.kubectl("scale", "llmd/bound", "--replicas=5")
        api.until("two replicas", lambda: replicas(api, "bound") == 2)
        words = "spec.replicas is 5; spec.scaling.maxReplicas allows 2."
        api.until("an Event tells", lambda: events(api, "ScalingLimited") == [words])
        assert words in api.condition("llmd", "bound", "Accepted")["message"]
        body = json.loads(api.kubectl("get", "llmd", "bound", "-o", "json", "--show-managed-fields"))
        assert writers(body) == {"kubectl/scale"}
        assert body["spec"]["replicas"] == 5
        take_away(api, "bound", node)


def test_those_that_go_are_priced_before_there_are_fewer(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("fewer", replicas=3, scaling=SCALED))
        api.until("three pods", lambda: len(pods(api, "fewer")) == 3)
        priced: set[str] = set()
        api.kubectl("patch", "llmd", "fewer", "--type=merge", "-p", '{"spec":{"scaling":{"maxReplicas":1}}}')

        def is_one() -> bool:
            # What was priced is seen on those that are on their way out as well, for the moment that they take.
            found = json.loads(
                api.kubectl("get", "pods", "-l", "preheat.dev/llmdeployment=fewer", "-o", "json")
            )
            priced.update(
                pod["metadata"]["name"]
                for pod in found["items"]
                if pod["metadata"].get("annotations", {}).get(COST) == "-1"
            )
            return len(pods(api, "fewer")) == 1

        api.until("one pod", is_one)
        (left,) = pods(api, "fewer")
        assert COST not in left["metadata"].get("annotations", {})
        assert left["metadata"]["name"] not in priced
        take_away(api, "fewer", node)
