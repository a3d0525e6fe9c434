"""Who owns what, on a real API server with its controllers: each rule of docs/failure-modes.md, and how long it takes.

The times are printed, and written to build/bench/ownership.jsonl.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster.provider import ROOT
from tests.integration.conftest import API, a_service, complete_keepers, complete_warmers

TABLE = ROOT / "build" / "bench" / "ownership.jsonl"
OWN = "preheat.dev/llmdeployment"
KINDS = ("service", "networkpolicy", "poddisruptionbudget", "deployment", "controllerrevision", "modelcache",
         "job", "persistentvolumeclaim")  # fmt: skip


class Owned:
    """One LLMDeployment with all its children, in a namespace of its own."""

    def __init__(self, api: API, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def kubectl(self, *arguments: str) -> str:
        return self.api.kubectl("-n", self.namespace, *arguments)

    def apply(self, **spec: Any) -> None:
        body = a_service("llama", replicas=2, **spec)
        body["metadata"]["namespace"] = self.namespace
        self.api.apply(body)

    def ready(self) -> dict[str, Any]:
        return self.condition("Ready")

    def condition(self, kind: str) -> dict[str, Any]:
        body = self.api.get("llmd", "llama", self.namespace) or {}
        conditions = (body.get("status") or {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == kind), {})

    def all(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return [
            b
            for b in found
            if b["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "preheat"
        ]

    def one(self, kind: str) -> dict[str, Any]:
        return self.all(kind)[0]

    def key(self) -> str:
        """The cache's key, once it is told."""
        self.until("the cache's key", lambda: (self.one("modelcache").get("status") or {}).get("key"))
        return str(self.one("modelcache")["status"]["key"])

    def is_complete(self) -> bool:
        return all(self.all(kind) for kind in KINDS)

    def until(self, what: str, holds: Callable[[], object], seconds: float = 60) -> None:
        self.api.until(what, holds, seconds)


@pytest.fixture
def owned(api: API, node: str, request: pytest.FixtureRequest) -> Iterator[Owned]:
    namespace = request.node.name.removeprefix("test_").split("[")[0].replace("_", "-")[:40].rstrip("-")
    namespace = f"{namespace}-{abs(hash(request.node.name)) % 10_000}"
    api.kubectl("create", "namespace", namespace)
    yield Owned(api, namespace)
    api.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Note how long something took."""
    started = time.monotonic()
    yield
    seconds = round(time.monotonic() - started, 2)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    with TABLE.open("a") as table:
        table.write(json.dumps({"what": what, "seconds": seconds}) + "\n")
    print(f"  {what:<60} {seconds:6.2f} s")


@pytest.fixture(scope="module", autouse=True)
def _table() -> None:
    TABLE.unlink(missing_ok=True)


# --- children edited and deleted by hand


def spec(field: str) -> Callable[[dict[str, Any]], Any]:
    def read(body: dict[str, Any]) -> Any:
        value: Any = body
        for part in field.split("/"):
            value = value[int(part)] if isinstance(value, list) else value.get(part)
        return value

    return read


EDITS: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], Any]]] = {
    "a Deployment scaled": ("deployment", {"spec": {"replicas": 7}}, spec("spec/replicas")),
    "a Deployment's image set": (
        "deployment",
        {"spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "example.com/other"}]}}}},
        spec("spec/template/spec/containers/0/image"),
    ),
    "a Deployment's label taken away": ("deployment", {"metadata": {"labels": {OWN: None}}}, spec("metadata/labels")),
    "a Service's selector": ("service", {"spec": {"selector": {OWN: "other"}}}, spec("spec/selector")),
    "a Service's owner taken away": ("service", {"metadata": {"ownerReferences": None}}, spec("metadata/ownerReferences")),
    "a NetworkPolicy opened": ("networkpolicy", {"spec": {"ingress": [{}]}}, spec("spec/ingress")),
    "a budget": ("poddisruptionbudget", {"spec": {"maxUnavailable": 2}}, spec("spec/maxUnavailable")),
    "a ModelCache's nodes": ("modelcache", {"spec": {"placement": {"nodes": 9}}}, spec("spec/placement/nodes")),
    "a ControllerRevision's label": (
        "controllerrevision", {"metadata": {"labels": {"preheat.dev/revision": "x"}}}, spec("metadata/labels")
    ),
}  # fmt: skip


def test_what_is_changed_by_hand_is_put_back_and_what_is_added_stays(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        names = {kind: owned.one(kind)["metadata"]["name"] for kind in KINDS}
        for what, (kind, patch, read) in EDITS.items():
            before = read(owned.one(kind))
            extra = {
                "metadata": {"annotations": {"example.com/note": "mine"}, "labels": {"example.com/l": "mine"}}
            }
            owned.kubectl("patch", kind, names[kind], "--type=merge", "-p", json.dumps(extra))
            before = read(owned.api.get(kind, names[kind], owned.namespace) or {})
            how = "strategic" if kind == "deployment" else "merge"
            with measured(f"{what}: put back"):
                owned.kubectl("patch", kind, names[kind], f"--type={how}", "-p", json.dumps(patch))
                owned.until(
                    what,
                    lambda k=kind, r=read, b=before: (
                        r(owned.api.get(k, names[k], owned.namespace) or {}) == b
                    ),
                )
            body = owned.api.get(kind, names[kind], owned.namespace) or {}
            assert body["metadata"]["annotations"]["example.com/note"] == "mine", what
            assert body["metadata"]["labels"]["example.com/l"] == "mine", what


def test_what_is_deleted_by_hand_is_made_again(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        for kind in KINDS:
            owned.until("children", owned.is_complete)
            before = {b["metadata"]["name"]: b["metadata"]["uid"] for b in owned.all(kind)}
            name, uid = next(iter(before.items()))
            with measured(f"{kind} deleted: made again"):
                owned.kubectl("delete", kind, name, "--wait=false")
                owned.until(
                    f"{kind} made again",
                    lambda k=kind, n=name, u=uid: any(
                        b["metadata"]["name"] == n and b["metadata"]["uid"] != u for b in owned.all(k)
                    ),
                )
        complete_warmers(owned.api, owned.namespace)
        key = owned.key()
        label = f"cache.preheat.dev/{key}"
        owned.until("label", lambda: label in (owned.api.get("node", "gpu-1") or {})["metadata"]["labels"])
        with measured("node label removed: set again"):
            owned.api.kubectl("label", "node", "gpu-1", f"{label}-")
            owned.until(
                "label", lambda: label in (owned.api.get("node", "gpu-1") or {})["metadata"]["labels"]
            )


# --- names and fields of others


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "PodDisruptionBudget", "ModelCache", "ControllerRevision",
                                  "Deployment"])  # fmt: skip
def test_a_taken_name_is_told_and_used_when_it_is_free(owned: Owned, kind: str) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        body = owned.one(kind)
        owned.kubectl("delete", "llmd", "llama")
        owned.until("gone", lambda: not any(owned.all(k) for k in KINDS if k != "persistentvolumeclaim"))
        fields = {
            key: value
            for key, value in body.items()
            if key in {"spec", "data", "revision", "apiVersion", "kind"}
        }
        for assigned in ("clusterIP", "clusterIPs"):
            fields.get("spec", {}).pop(assigned, None)
        owned.api.apply(
            {**fields, "metadata": {"name": body["metadata"]["name"], "namespace": owned.namespace}}
        )
        taken = owned.api.get(kind, body["metadata"]["name"], owned.namespace)
        owned.apply()
        owned.until("told", lambda: owned.ready().get("reason") == "NameTaken")
        assert f"{kind} {body['metadata']['name']}" in owned.ready()["message"]
        assert owned.condition("Stalled")["status"] == "True"
        now = owned.api.get(kind, body["metadata"]["name"], owned.namespace) or {}
        assert now["metadata"]["uid"] == (taken or {})["metadata"]["uid"]
        assert now.get("spec") == (taken or {}).get("spec")
        with measured(f"{kind} of a stranger deleted: taken"):
            owned.kubectl("delete", kind, body["metadata"]["name"], "--wait=false")
            owned.until("free", lambda: owned.ready().get("reason") not in {"NameTaken", None})


STRANGERS: dict[str, dict[str, Any]] = {
    "PersistentVolumeClaim": {
        "apiVersion": "v1",
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    },
    "PersistentVolume": {
        "apiVersion": "v1",
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"namespace": "somewhere", "name": "else"},
        },
    },
    "Job": {
        "apiVersion": "batch/v1",
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}},
        },
    },
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_taken_name_of_what_is_created_once_is_told_and_used_when_it_is_free(
    owned: Owned, kind: str
) -> None:
    """No watch tells of a stranger, so nothing of one may be remembered."""
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        name = owned.one("job")["metadata"]["name"] if kind == "Job" else f"preheat-{owned.key()}-serve"
        owned.kubectl("delete", "llmd", "llama")
        owned.until("gone", lambda: not any(owned.all(k) for k in KINDS))
        owned.until("its volume gone", lambda: f"/{name}" not in owned.kubectl("get", "pv", "-o", "name"))
        owned.api.apply(
            {**STRANGERS[kind], "kind": kind, "metadata": {"name": name, "namespace": owned.namespace}}
        )
        owned.apply()
        owned.until("told", lambda: _reason_of_the_cache(owned) == "NameTaken")
        assert f"{kind} {name}" in owned.one("modelcache")["status"]["conditions"][0]["message"]
        with measured(f"{kind} of a stranger deleted: taken"):
            owned.kubectl("delete", kind, name, "--wait=false")
            owned.until("free", lambda: _reason_of_the_cache(owned) not in {"NameTaken", None})


def _reason_of_the_cache(owned: Owned) -> str | None:
    conditions = [c for b in owned.all("modelcache") for c in (b.get("status") or {}).get("conditions", ())]
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), None)


def test_an_autoscaler_of_the_child_is_a_contest_that_is_told_and_ends(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        name = owned.one("deployment")["metadata"]["name"]

        def fight() -> bool:
            """Scale as an autoscaler does, through the Deployment's own /scale."""
            owned.kubectl("scale", "deployment", name, "--replicas=5")
            return owned.condition("Contested").get("status") == "True"

        with measured("a fight over a field: told"):
            owned.until("contest told", fight)
        told = owned.condition("Contested")["message"]
        assert "spec.replicas" in told
        assert f"Deployment {name}" in told
        assert "kubectl" in told
        assert owned.ready()["reason"] != "ChildRefused"
        owned.until("put back in the end", lambda: owned.one("deployment")["spec"]["replicas"] == 2)


# --- orphans and deletions


def test_what_a_forced_deletion_left_is_adopted_by_the_next_of_that_name(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        owned.apply(health={"stallSeconds": 61})
        owned.until("two revisions", lambda: len(owned.all("controllerrevision")) == 2)
        _comes_to_rest(owned)
        before = _there(owned)
        owned.kubectl("delete", "llmd", "llama", "--cascade=orphan")
        owned.until("left", lambda: not owned.one("service")["metadata"].get("ownerReferences"))
        assert _there(owned) == before
        with measured("left behind: adopted"):
            owned.apply(health={"stallSeconds": 61})
            owned.until("adopted", lambda: _are_owned(owned))
        assert _there(owned) == before
        owned.until("told", lambda: owned.ready().get("reason") not in {"NameTaken", "ChildRefused", None})


def _there(owned: Owned) -> dict[str, dict[str, str]]:
    """The children by kind and name, with their uids. No pullers: there is one where a pass met the rollout under way, and
    what a namesake left of those goes."""
    return {
        kind: {
            b["metadata"]["name"]: b["metadata"]["uid"]
            for b in owned.all(kind)
            if b["metadata"]["labels"].get("preheat.dev/component") != "puller"
        }
        for kind in KINDS
    }


def _comes_to_rest(owned: Owned) -> None:
    """Wait until the operator writes nothing: a write under way gives a child back to the owner that is about to go."""
    last: list[Any] = []

    def rests() -> bool:
        last.append([body["metadata"]["resourceVersion"] for kind in KINDS for body in owned.all(kind)])
        time.sleep(1)
        return len(last) > 2 and last[-1] == last[-2] == last[-3]

    owned.until("at rest", rests)


def _are_owned(owned: Owned) -> bool:
    uid = (owned.api.get("llmd", "llama", owned.namespace) or {})["metadata"]["uid"]
    return all(
        [r["uid"] for r in body["metadata"].get("ownerReferences", ())] == [uid]
        for kind in ("service", "poddisruptionbudget", "deployment", "controllerrevision", "modelcache")
        for body in owned.all(kind)
    )


def test_warmers_that_a_forced_deletion_of_their_cache_left_are_made_anew(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        (job,) = {b["metadata"]["uid"] for b in owned.all("job")}
        name = owned.one("modelcache")["metadata"]["name"]
        with measured("a cache deleted without its warmers: new warmers"):
            owned.kubectl("delete", "mc", name, "--cascade=orphan")
            owned.until("a new warmer of the new cache", lambda: _warms_the_cache_that_is(owned, job))


def _warms_the_cache_that_is(owned: Owned, old: str) -> bool:
    caches, jobs = owned.all("modelcache"), owned.all("job")
    return [
        (job["metadata"]["uid"] != old, [r["uid"] for r in job["metadata"].get("ownerReferences", ())])
        for job in jobs
    ] == [(True, [cache["metadata"]["uid"]]) for cache in caches]


def test_deleted_and_made_again_at_once(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        with measured("deleted and made again at once: all new"):
            owned.kubectl("delete", "llmd", "llama", "--wait=false")
            owned.apply()
            owned.until("made anew", lambda: owned.is_complete() and _are_owned(owned))


def test_a_deletion_in_the_foreground_is_not_fought(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        with measured("deleted in the foreground: gone"):
            owned.kubectl("delete", "llmd", "llama", "--cascade=foreground", "--timeout=60s")
        owned.until("nothing left", lambda: not any(owned.all(kind) for kind in KINDS))
        assert owned.api.get("llmd", "llama", owned.namespace) is None


def test_a_strangers_finalizer_holds_the_object_and_nothing_is_made_again(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        held = json.dumps({"metadata": {"finalizers": ["example.com/hold"]}})
        owned.kubectl("patch", "llmd", "llama", "--type=merge", "-p", held)
        owned.kubectl("delete", "llmd", "llama", "--wait=false")
        owned.kubectl("delete", "service", "llama")
        other = a_service("other")
        other["metadata"]["namespace"] = owned.namespace
        owned.api.apply(other)
        owned.until("another is served meanwhile", lambda: owned.api.get("service", "other", owned.namespace))
        assert owned.api.get("service", "llama", owned.namespace) is None
        owned.kubectl("patch", "llmd", "llama", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        owned.until("gone", lambda: not owned.api.get("llmd", "llama", owned.namespace))


def test_a_cache_deleted_under_its_pods_comes_back_to_its_volumes_and_labels(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        complete_warmers(owned.api, owned.namespace)
        label = f"cache.preheat.dev/{owned.key()}"
        cache = owned.one("modelcache")
        owned.until("label", lambda: label in (owned.api.get("node", "gpu-1") or {})["metadata"]["labels"])
        claims = {b["metadata"]["uid"] for b in owned.all("pvc")}
        with measured("a ModelCache deleted under its pods: back"):
            owned.kubectl("delete", "modelcache", cache["metadata"]["name"])
            owned.until(
                "back",
                lambda: (
                    [b["metadata"]["uid"] != cache["metadata"]["uid"] for b in owned.all("modelcache")]
                    == [True]
                ),
            )
            owned.until(
                "complete again",
                lambda: (owned.one("modelcache").get("status") or {}).get("readyNodes") == 1,
            )
        assert {b["metadata"]["uid"] for b in owned.all("pvc")} == claims
        assert not any("deletionTimestamp" in b["metadata"] for b in owned.all("pvc"))
        assert label in (owned.api.get("node", "gpu-1") or {})["metadata"]["labels"]


@pytest.mark.parametrize("what", ["the object", "its namespace"])
def test_deleted_while_the_operator_is_down(owned: Owned, what: str) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        complete_warmers(owned.api, owned.namespace)
        key = owned.key()
        owned.until("label", lambda: key in owned.api.kubectl("get", "node", "gpu-1", "--show-labels"))
        owned.until("pods", lambda: _gpus(owned) == 2)
    with measured(f"operator down, {what} deleted: no GPU asked for"):
        if what == "the object":
            owned.kubectl("delete", "llmd", "llama")
        else:
            owned.api.kubectl("delete", "namespace", owned.namespace, "--wait=false")
        owned.until("no GPU asked for", lambda: _gpus(owned) == 0)
    assert key in owned.api.kubectl("get", "pv", "-o", "name")
    with owned.api.operator(), measured(f"operator down, {what} deleted: nothing left after its start"):
        owned.until("volumes", lambda: key not in owned.api.kubectl("get", "pv", "-o", "name"))

        def label_gone() -> bool:
            complete_keepers(owned.api)
            return key not in owned.api.kubectl("get", "node", "gpu-1", "--show-labels")

        owned.until("labels", label_gone)
        owned.until("claims and policies", lambda: not owned.all("pvc") and not owned.all("networkpolicy"))


def _gpus(owned: Owned) -> int:
    """Return how many GPUs the pods of the namespace ask for."""
    pods = json.loads(owned.kubectl("get", "pods", "-o", "json"))["items"]
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    return sum(int(c.get("resources", {}).get("requests", {}).get("nvidia.com/gpu", 0)) for c in containers)


def test_a_namespace_deleted_under_the_operator_makes_no_noise(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        owned.until("settled", lambda: "0 of 1 nodes" in owned.ready().get("message", ""))
        # Held, so that the operator has time to make mistakes.
        held = json.dumps({"metadata": {"finalizers": ["example.com/hold"]}})
        owned.kubectl("patch", "llmd", "llama", "--type=merge", "-p", held)
        owned.kubectl("patch", "service", "llama", "--type=merge", "-p", '{"metadata":{"labels":{"x":"y"}}}')
        before = owned.ready()
        owned.api.kubectl("delete", "namespace", owned.namespace, "--wait=false")
        owned.until("its children gone", lambda: not owned.all("service") and not owned.all("deployment"))
        assert owned.ready() == before
        owned.kubectl("patch", "llmd", "llama", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        with measured("a namespace deleted under the operator: nothing left"):
            owned.until("gone", lambda: owned.api.get("namespace", owned.namespace) is None)
            owned.until(
                "volumes", lambda: owned.namespace not in owned.api.kubectl("get", "pv", "-o", "json")
            )
        noise = [
            line for line in owned.api.log().splitlines()
            if owned.namespace in line and any(word in line.lower() for word in ("warning", "error", "traceback"))
        ]  # fmt: skip
        assert noise == []


def test_a_status_written_by_hand_is_put_right(owned: Owned) -> None:
    with owned.api.operator():
        owned.apply()
        owned.until("children", owned.is_complete)
        cache = owned.one("modelcache")
        owned.until("settled", lambda: owned.one("modelcache").get("status", {}).get("nodes"))
        mine = (owned.one("modelcache")["status"])["nodes"]
        nodes = [{"name": f"ghost-{n}", "state": "Ready", "percent": 100} for n in range(1000)]
        theirs = [
            {"type": f"Theirs{n}", "status": "True", "reason": "X", "message": "", "observedGeneration": 1,
             "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for n in range(16)
        ]  # fmt: skip
        patch = json.dumps({"status": {"nodes": nodes, "conditions": theirs, "percent": 100, "eta": "1s"}})
        with measured("a status of a thousand nodes by hand: put right"):
            owned.kubectl("patch", "modelcache", cache["metadata"]["name"], "--subresource=status", "--type=merge",
                          "-p", patch)  # fmt: skip
            owned.until("put right", lambda: owned.one("modelcache")["status"]["nodes"] == mine)
            owned.until(
                "told again",
                lambda: (
                    {c["type"] for c in owned.one("modelcache")["status"]["conditions"]}
                    >= {"Ready", "Stalled"}
                ),
            )
        assert "eta" not in owned.one("modelcache")["status"]
