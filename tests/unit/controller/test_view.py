"""The view holds the newest version of everything, whoever told of it and in whatever order."""

import json
from typing import Any

import pytest
from preheat.controller.view import Key, View, parents, slim
from preheat.decide.observed import PodView

POD: Key = ("Pod", "ns", "p")


def an_object(
    version: int | str, uid: str = "u", name: str = "p", kind: str = "Pod", namespace: str = "ns",
    **labels: str,
) -> dict[str, Any]:  # fmt: skip
    keys = {"service": "preheat.dev/llmdeployment", "cache": "preheat.dev/modelcache"}
    return {
        "kind": kind,
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version),
            "labels": {keys[key]: value for key, value in labels.items()},
        },
    }  # fmt: skip


def version(view: View, key: Key = POD) -> str | None:
    body = view.get(*key)
    return None if body is None else str(body["metadata"]["resourceVersion"])


@pytest.fixture
def view() -> View:
    made = View()
    made.put(an_object(5))
    return made


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (an_object(6), True),
        (an_object(5), False),
        (an_object(4), False),
        (an_object(10), True),
        (an_object(6, uid="again"), True),
        (an_object(4, uid="before"), False),
    ],
    ids=["newer", "the same", "older", "10 is more than 5", "made again", "what was there before"],
)
def test_only_a_newer_version_is_taken_in(view: View, body: dict[str, Any], want: bool) -> None:
    assert view.put(body) is want
    assert version(view) == (body["metadata"]["resourceVersion"] if want else "5")


def test_what_was_deleted_does_not_come_back_from_an_older_message(view: View) -> None:
    assert view.remove(an_object(7))
    assert view.get(*POD) is None
    assert not view.put(an_object(6)), "the answer to a write that came before the deletion"
    assert not view.put(an_object(7))
    assert view.put(an_object(8, uid="again"))


def told(view: View) -> list[tuple[str | None, str | None]]:
    """The names before and after of every change from now on."""
    changes: list[tuple[str | None, str | None]] = []

    def note(before: dict[str, Any] | None, after: dict[str, Any] | None, _author: Key | None) -> None:
        changes.append((before and before["metadata"]["name"], after and after["metadata"]["name"]))

    view.on_change = note
    return changes


def test_what_is_computed_from_an_object_is_computed_once_per_version(view: View) -> None:
    made: list[str] = []

    def note(body: dict[str, Any]) -> str:
        made.append(body["metadata"]["resourceVersion"])
        return made[-1]

    assert [view.derived(POD, note), view.derived(POD, note)] == ["5", "5"]
    view.put(an_object(6))
    assert view.derived(POD, note) == "6"
    assert made == ["5", "6"]


def test_a_deletion_is_told_once(view: View) -> None:
    assert view.remove(an_object(7))
    assert not view.remove(an_object(7))


def test_the_deletion_of_a_predecessor_does_not_remove_what_was_made_since(view: View) -> None:
    assert view.put(an_object(9, uid="again"))
    assert not view.remove(an_object(7))
    assert version(view) == "9"


def test_a_list_finds_what_no_watch_told_of(view: View) -> None:
    known = view.keys("Pod")
    changes = told(view)
    view.replace("Pod", [an_object(6, name="new")], known)
    assert changes == [(None, "new"), ("p", None)]
    assert view.keys("Pod") == {("Pod", "ns", "new")}


def test_a_list_that_tells_nothing_new_changes_nothing(view: View) -> None:
    changes = told(view)
    view.replace("Pod", [an_object(5)], view.keys("Pod"))
    assert changes == []


def test_what_came_while_the_list_was_made_is_no_ghost(view: View) -> None:
    known = view.keys("Pod")
    view.put(an_object(9, name="late"))
    changes = told(view)
    view.replace("Pod", [an_object(5)], known)
    assert changes == []
    assert view.get("Pod", "ns", "late") is not None


def test_what_was_deleted_while_the_list_was_made_stays_deleted(view: View) -> None:
    known = view.keys("Pod")
    view.remove(an_object(7))
    changes = told(view)
    view.replace("Pod", [an_object(5)], known)
    assert changes == []
    assert view.get(*POD) is None


def test_a_list_of_one_kind_leaves_the_others_alone(view: View) -> None:
    view.put(an_object(6, kind="Job"))
    view.replace("Pod", [], view.keys("Pod"))
    assert view.get("Job", "ns", "p") is not None


def test_children_are_found_by_the_label_that_names_their_parent() -> None:
    view = View()
    view.put(an_object(1, name="b", service="llama"))
    view.put(an_object(2, name="a", service="llama"))
    view.put(an_object(3, name="c", service="other"))
    view.put(an_object(4, name="d", service="llama", namespace="elsewhere"))
    view.put(an_object(5, name="e", kind="Job", service="llama"))
    view.put(an_object(6, name="f", cache="llama"))
    parent = ("LLMDeployment", "ns", "llama")
    assert [body["metadata"]["name"] for body in view.children(parent, "Pod")] == ["a", "b"]
    assert [body["metadata"]["name"] for body in view.children(("ModelCache", "ns", "llama"), "Pod")] == ["f"]


def test_a_child_whose_label_changes_changes_its_parent() -> None:
    view = View()
    view.put(an_object(1, service="old"))
    view.put(an_object(2, service="new"))
    assert view.children(("LLMDeployment", "ns", "old"), "Pod") == []
    assert len(view.children(("LLMDeployment", "ns", "new"), "Pod")) == 1
    view.remove(an_object(3, service="new"))
    assert view.children(("LLMDeployment", "ns", "new"), "Pod") == []


def test_one_object_may_concern_two_parents() -> None:
    both = an_object(1, service="llama", cache="weights")
    assert parents(both) == [("LLMDeployment", "ns", "llama"), ("ModelCache", "ns", "weights")]


def test_all_is_in_a_stable_order_in_one_namespace_or_in_all() -> None:
    view = View()
    for number, (namespace, name) in enumerate([("b", "x"), ("a", "y"), ("a", "x")]):
        view.put(an_object(number, name=name, namespace=namespace))
    assert [(b["metadata"]["namespace"], b["metadata"]["name"]) for b in view.all("Pod")] == [
        ("a", "x"), ("a", "y"), ("b", "x"),
    ]  # fmt: skip
    assert [b["metadata"]["name"] for b in view.all("Pod", "a")] == ["x", "y"]
    assert view.all("Job") == []


def test_what_no_decision_looks_at_is_not_kept() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "default",
            "resourceVersion": "7",
            "managedFields": [{"manager": "kubelet"}],
            "annotations": {"preheat.dev/node": "n1", "repository.preheat.dev/config": "x" * 9000},
        },
        "spec": {
            "nodeName": "n1",
            "readinessGates": [{"conditionType": "a"}],
            "containers": [{"name": "engine", "env": ["x" * 9000]}],
        },
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "ContainersReady", "status": "True"}]},
    }
    view = View()
    view.put(pod)
    kept = view.get("Pod", "default", "p")
    assert kept is not None
    assert len(json.dumps(kept)) < 500
    assert PodView.from_body(kept, main="engine") == PodView.from_body(pod, main="engine")
    assert "managedFields" in pod["metadata"]
    assert PodView.from_body(kept, main="engine").lagging == "a readiness gate"
    metadata = {"name": "d", "managedFields": [{"manager": "preheat", "fieldsV1": {"f:spec": {}}}]}
    deployment = slim({"kind": "Deployment", "metadata": metadata, "spec": {"replicas": 2}})
    assert deployment["spec"] == {"replicas": 2}
    assert deployment["metadata"]["managedFields"] == [{"manager": "preheat"}]
