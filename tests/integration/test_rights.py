"""What the operator's account may do, and that it does all of it: every right is used, none is missing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.audit import OPERATOR
from e2e.rights import chart
from tests.integration.conftest import API, a_service, complete_warmers

NEVER = (
    ("get", "secrets"), ("list", "secrets"), ("watch", "secrets"), ("get", "configmaps"), ("create", "pods"),
    ("create", "pods/exec"), ("get", "pods/log"), ("create", "serviceaccounts/token"),
    ("update", "nodes"), ("patch", "nodes/status"), ("delete", "nodes"), ("create", "pods/eviction"),
    ("update", "llmdeployments.preheat.dev"), ("patch", "llmdeployments.preheat.dev"),
    ("delete", "llmdeployments.preheat.dev"), ("escalate", "clusterroles.rbac.authorization.k8s.io"),
    ("bind", "clusterroles.rbac.authorization.k8s.io"), ("impersonate", "users"), ("get", "namespaces"),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
)  # fmt: skip


@pytest.mark.parametrize(("verb", "resource"), NEVER)
def test_it_may_not(api: API, verb: str, resource: str) -> None:
    resource, _, subresource = resource.partition("/")
    question = ["auth", "can-i", verb, resource, f"--subresource={subresource}", "--all-namespaces"]
    answer = api.run(*question, "--as", OPERATOR)
    assert answer.stdout.strip() == "no", answer.stderr


def test_all_that_it_makes_it_takes_away_again(api: API, node: str) -> None:
    """A service scaled, changed beyond its history, on a node that leaves, and deleted: every right is used."""
    with api.operator():
        # Two replicas have a disruption budget; a budget of one replica more would never be deleted.
        api.apply(a_service("rights", replicas=2, rollout={"revisionHistoryLimit": 0}))
        api.until("budget", lambda: api.get("pdb", "rights"))
        api.until("warmer", lambda: _jobs(api))
        api.apply(a_service("rights", replicas=0, rollout={"revisionHistoryLimit": 0}))
        api.until("nothing runs", lambda: _replicas(api) == [0])
        assert api.get("pdb", "rights"), (
            "a budget stays: it lets a single replica be drained, as no budget would"
        )

        before = {kind: _names(api, kind) for kind in ("deployments", "controllerrevisions", "mc")}
        moved = {"uri": "http://store.example/another/", "format": "GGUF"}
        api.apply(a_service("rights", replicas=0, rollout={"revisionHistoryLimit": 0}, model=moved))
        for kind, names in before.items():
            (name,) = names
            api.until(
                f"{kind} {name} replaced",
                lambda k=kind, n=name: len(now := _names(api, k)) == 1 and n not in now,
            )

        # The old one's Job is for Kubernetes to take away, which takes its time after definitions came or went.
        api.until("only a warmer of the new cache", lambda: len(_jobs(api)) == 1, 60)
        complete_warmers(api)
        api.until("the node's label", lambda: _labels(api, node))

        # Another cache's warmer is at work when its node leaves the cluster.
        api.apply(
            {
                "apiVersion": "preheat.dev/v1alpha1",
                "kind": "ModelCache",
                "metadata": {"name": "leaving", "namespace": "default"},
                "spec": {"source": {"uri": "http://store.example/leaving/"}},
            }
        )
        api.until("its warmer", lambda: _jobs(api, "leaving"))
        api.kubectl("delete", "node", node)
        api.until("its warmer gone", lambda: not _jobs(api, "leaving"))

        api.kubectl("delete", "llmd/rights", "mc/leaving")
        api.until("no volume", lambda: not api.kubectl("get", "pv,pvc", "-A", "-o", "name").split(), 60)
        api.until(
            "no policy", lambda: not api.kubectl("get", "networkpolicies", "-A", "-o", "name").split(), 60
        )


def _names(api: API, kind: str) -> list[str]:
    return api.kubectl("get", kind, "-l", "preheat.dev/llmdeployment=rights", "-o", "name").split()


def _jobs(api: API, cache: str = "") -> list[str]:
    selector = (
        f"preheat.dev/modelcache={cache}"
        if cache
        else "preheat.dev/modelcache,preheat.dev/modelcache!=leaving"
    )
    return api.kubectl("get", "jobs", "-l", selector, "-o", "name").split()


def _replicas(api: API) -> list[int]:
    listed = json.loads(api.kubectl("get", "deploy", "-l", "preheat.dev/llmdeployment=rights", "-o", "json"))
    return [body["spec"]["replicas"] for body in listed["items"]]


def _labels(api: API, node: str) -> list[str]:
    labels = (api.get("node", node) or {})["metadata"]["labels"]
    return [label for label in labels if label.startswith("cache.preheat.dev/")]


# --- a right that is no call: being named as a blocking owner


@pytest.fixture
def without_finalizers(api: API) -> Iterator[str]:
    """A user with all the operator's rights but that on finalizers."""
    (role,) = [b for b in chart() if b["kind"] == "ClusterRole" and b["metadata"]["name"] == "preheat"]
    rules = [
        rule
        for rule in role["rules"]
        if not any(r.endswith("/finalizers") for r in rule.get("resources", ()))
    ]
    assert len(rules) == len(role["rules"]) - 1
    api.apply({**role, "metadata": {"name": "without-finalizers"}, "rules": rules})
    user = "without-finalizers"
    api.kubectl("create", "clusterrolebinding", user, f"--clusterrole={user}", f"--user={user}")
    api.until("known", lambda: api.run("auth", "can-i", "create", "services", "--as", user).returncode == 0)
    yield user
    api.kubectl("delete", f"clusterrole/{user}", f"clusterrolebinding/{user}")


@pytest.mark.parametrize("kind", ["LLMDeployment", "ModelCache"])
def test_a_blocking_owner_needs_the_right_to_its_finalizers(
    api: API, without_finalizers: str, kind: str
) -> None:
    if kind == "LLMDeployment":
        owner = a_service("owner")
    else:
        owner = {
            **a_service("owner"),
            "kind": kind,
            "spec": {"source": {"uri": "http://store.example/owner/"}},
        }
    api.apply(owner)
    uid = (api.get(kind, "owner") or {})["metadata"]["uid"]
    reference = {"apiVersion": "preheat.dev/v1alpha1", "kind": kind, "name": "owner", "uid": uid,
                 "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    child: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "owned", "namespace": "default", "ownerReferences": [reference]},
        "spec": {"ports": [{"port": 80}]},
    }
    try:
        refused = api.run("--as", without_finalizers, "create", "-f", "-", stdin=json.dumps(child))
        assert "cannot set blockOwnerDeletion" in refused.stderr
        api.kubectl("--as", OPERATOR, "create", "-f", "-", stdin=json.dumps(child))
    finally:
        api.kubectl("delete", kind, "owner")
        api.until("owned gone", lambda: not api.get("service", "owned"))
