"""Objects of strangers that carry our marks: they are somebody's own, and stop nobody else's loop."""

import json
import random
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from preheat import handlers, main
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.controller.concern import concerned
from preheat.controller.disks import mounted_on, observe_node
from preheat.controller.keys import running_keys, used_keys
from preheat.controller.observe import observe_orphans
from preheat.controller.view import DEEPEST, View
from preheat.decide.nodes import decide_node
from preheat.decide.orphans import decide_orphans
from preheat.resources.caching import cache_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODE = ("Node", "", "n1")
CACHE: dict[str, Any] = {
    "kind": "ModelCache",
    "metadata": {"name": "weights", "namespace": "team", "uid": "c", "generation": 1, "resourceVersion": "2"},
    "spec": {"source": {"uri": "http://store/model/"}},
}
KEY = cache_key(parse(ModelCache, CACHE))
CLAIM = f"preheat-{KEY}-serve"


def a_body(kind: str, name: str, namespace: str = "stranger", **fields: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "preheat"}
    metadata = {"name": name, "namespace": namespace, "uid": f"{kind}-{name}", "resourceVersion": "9",
                "labels": labels, **fields.pop("metadata", {})}  # fmt: skip
    return {"kind": kind, "metadata": metadata, **fields}


@pytest.fixture
def view() -> View:
    made = View()
    made.put({"kind": "Node", "metadata": {"name": "n1", "uid": "n", "resourceVersion": "1"}})
    made.put(CACHE)
    made.put(
        {
            "kind": "PersistentVolume",
            "metadata": {"name": CLAIM, "uid": "v", "resourceVersion": "3"},
            "spec": {"claimRef": {"namespace": "team", "name": CLAIM}},
        }
    )
    return made


@pytest.mark.parametrize("amount", ["\u00b2", "9" * 5000, "\u0663", "1.5", "-1", ""])
def test_an_amount_that_is_none_stops_no_node(view: View, amount: str) -> None:
    marks = {"preheat.dev/node": "n1", "preheat.dev/room-bytes": amount}
    job = a_body("Job", "x", metadata={"annotations": marks}, spec={"suspend": True})
    view.put(job)
    assert concerned(None, job, view)
    decide_node(observe_node(NODE, view, OperatorConfig(), NOW), OperatorConfig(), NOW)


def a_pod(namespace: str) -> dict[str, Any]:
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": CLAIM}}]
    return a_body("Pod", "x", namespace, spec={"nodeName": "n1", "containers": [], "volumes": volumes})


@pytest.mark.parametrize(("namespace", "there", "mounts"), [
    ("team", True, True), ("stranger", True, False), ("stranger", False, False),
])  # fmt: skip
def test_only_a_pod_of_the_volumes_namespace_mounts_it(
    view: View, namespace: str, there: bool, mounts: bool
) -> None:
    if not there:
        view.remove(view.get("PersistentVolume", "", CLAIM) or {})
    view.put(a_pod(namespace))
    assert mounted_on(view, "n1") == ({KEY} if mounts else set())


@pytest.mark.parametrize(("namespace", "counts"), [("team", True), ("stranger", False)])
def test_only_a_deployment_of_the_weights_namespace_uses_them(
    view: View, namespace: str, counts: bool
) -> None:
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": CLAIM}}]
    view.put(a_body("Deployment", "x", namespace, spec={"template": {"spec": {"volumes": volumes}}}))
    assert (KEY in used_keys(view)) is counts
    assert ((KEY, "team") in running_keys(view)) is counts


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [DEEPEST + 1, 800])
def test_an_object_that_is_nested_too_deep_is_left_out_and_the_others_are_not(
    view: View, levels: int, caplog: pytest.LogCaptureFixture
) -> None:
    deep = a_body("ControllerRevision", "deep", data=nested(levels), revision=1)
    good = a_body("ControllerRevision", "good", data=nested(20), revision=1)
    view.replace("ControllerRevision", [deep, good], frozenset())
    assert view.keys("ControllerRevision") == {("ControllerRevision", "stranger", "good")}
    assert "ControllerRevision/stranger/deep cannot be taken in" in caplog.text
    with pytest.raises(ValueError, match="nested deeper"):
        view.put(deep)


def test_a_newer_version_that_cannot_be_taken_in_leaves_the_older_one_whole(view: View) -> None:
    body = a_body("ControllerRevision", "r", metadata={"labels": {"preheat.dev/llmdeployment": "s"}}, data={})
    view.put(body)
    newer = {**body, "metadata": {**body["metadata"], "resourceVersion": "10"}, "data": nested(DEEPEST)}
    view.take_in(newer)
    (kept,) = view.children(("LLMDeployment", "stranger", "s"), "ControllerRevision")
    assert kept["metadata"]["resourceVersion"] == "9"


def test_the_operator_reads_all_levels_that_the_api_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    monkeypatch.setattr(main, "serve", lambda *_: lambda: None)
    monkeypatch.setattr(main, "Kube", lambda _: None)
    monkeypatch.setattr(main, "Controller", lambda *_, **__: None)
    text = '{"a":' * 9_990 + "1" + "}" * 9_990
    monkeypatch.setattr(handlers, "run", lambda _: read.append(json.loads(text)))
    before = sys.getrecursionlimit()
    try:
        main.main()
    finally:
        sys.setrecursionlimit(before)
    assert read


KINDS = (
    "ControllerRevision",
    "Deployment",
    "Job",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "Pod",
    "Service",
)
MARKS = (
    "preheat.dev/applied", "preheat.dev/boot-id", "preheat.dev/node", "preheat.dev/peers", "preheat.dev/removes",
    "preheat.dev/room-bytes", "preheat.dev/scaling-memory", "preheat.dev/verifies", "preheat.dev/verify-requested-at",
    "controller.kubernetes.io/pod-deletion-cost",
)  # fmt: skip
ODD = ("", "n1", "\u00b2", "9" * 5000, "-1", "nan", "[" * 2000, "{}", "null", ",,,", KEY, "0001-01-01T00:00:00+14:00",
       "../..", "\U0001f525", "weights", "ready")  # fmt: skip
LABELS = (
    "preheat.dev/component", "preheat.dev/gpu-type", "preheat.dev/llmdeployment", "preheat.dev/modelcache",
    "preheat.dev/modelcache-namespace", "preheat.dev/revision",
)  # fmt: skip
COMPONENTS = ("engine", "keeper", "scaler", "seeder", "warmer", "weights", "nvidia-l4", "")


@pytest.mark.parametrize("seed", range(100))
def test_whatever_a_stranger_marks_as_ours_stops_nobody(view: View, seed: int) -> None:
    dice, config = random.Random(seed), OperatorConfig()
    for number in range(20):
        kind = dice.choice(KINDS)
        namespace = dice.choice(("stranger", "team", config.namespace))
        labels = {key: dice.choice(COMPONENTS) for key in dice.sample(LABELS, 3)}
        marks = {key: dice.choice(ODD) for key in dice.sample(MARKS, 6)}
        body = a_body(kind, f"x{number}", namespace, metadata={"annotations": marks, "labels": labels},
                      spec=a_pod("x")["spec"] if kind == "Pod" else {})  # fmt: skip
        if kind == "ControllerRevision":
            body |= {"data": dice.choice(({}, [], "[" * 2000, {"template": []}, None)), "revision": 1}
        view.put(body)
        concerned(None, body, view)
        concerned(body, None, view)
    decide_node(observe_node(NODE, view, config, NOW), config, NOW)
    decide_orphans(observe_orphans(view))
