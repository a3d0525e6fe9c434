"""Whose an object is: what is written over, what is adopted, what is refused, and who changed it."""

from typing import Any

import pytest
from preheat.decide.ownership import adoption, is_drift, is_orphan, words_of_drift
from preheat.errors import NotOwned, Unavailable


def owned(
    uid: str | None, kind: str = "LLMDeployment", name: str = "llama", *, controller: bool = True
) -> dict[str, Any]:
    reference = {"kind": kind, "name": name, "uid": uid, "controller": controller}
    references = [reference] if uid is not None else []
    return {
        "kind": "Service",
        "metadata": {"name": "llama", "namespace": "ns", "ownerReferences": references},
    }


def volume(**labels: str) -> dict[str, Any]:
    return {"kind": "PersistentVolume", "metadata": {"name": "v", "labels": labels}}


@pytest.mark.parametrize(
    ("desired", "live", "refusal"),
    [
        (owned("me"), owned("me"), None),
        (owned("me"), owned("else", name="other"), NotOwned),
        (owned("me"), owned(None), NotOwned),
        (owned("me"), owned("me", controller=False), NotOwned),
        (owned("me"), owned("before"), Unavailable),
        (owned("me"), owned("x", kind="StatefulSet"), NotOwned),
        (volume(a="1"), volume(a="1", b="2"), None),
        (volume(a="1"), volume(a="2"), NotOwned),
        (volume(a="1"), volume(), NotOwned),
    ],
    ids=[
        "ours", "another owner", "no owner", "an owner that does not control", "left by a namesake",
        "a namesake of another kind", "a volume of ours", "a volume of another cache", "a stranger's volume",
    ],
)  # fmt: skip
def test_only_what_is_ours_is_written_over(
    desired: dict[str, Any], live: dict[str, Any], refusal: type[Exception] | None
) -> None:
    if refusal is None:
        assert adoption(desired, live) is None
        return
    with pytest.raises(refusal, match=desired["metadata"]["name"]):
        adoption(desired, live)


def left_behind(**changes: Any) -> dict[str, Any]:
    """A Service as we made it, whose owner was deleted with --cascade=orphan."""
    metadata = {
        "name": "llama",
        "namespace": "ns",
        "labels": {"app.kubernetes.io/managed-by": "preheat", "preheat.dev/llmdeployment": "llama"},
        "annotations": {"preheat.dev/applied": "0123"},
        "managedFields": [{"manager": "preheat", "operation": "Apply"}],
        **changes,
    }
    return {"kind": "Service", "metadata": metadata}


def wanted() -> dict[str, Any]:
    body = owned("me")
    body["metadata"]["labels"] = left_behind()["metadata"]["labels"]
    return body


def test_what_was_left_behind_is_adopted() -> None:
    created = [{"manager": "preheat", "operation": "Update"}]
    for live in (left_behind(), left_behind(managedFields=created)):
        found = adoption(wanted(), live)
        assert found is not None
        assert found.owner["uid"] == "me"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"app.kubernetes.io/managed-by": "Helm", "preheat.dev/llmdeployment": "llama"}},
        {"labels": {"app.kubernetes.io/managed-by": "preheat", "preheat.dev/llmdeployment": "other"}},
        {"annotations": {}},
        {"managedFields": [{"manager": "kubectl", "operation": "Apply"}]},
        {"managedFields": []},
        {"ownerReferences": [{"kind": "StatefulSet", "name": "x", "uid": "x", "controller": True}]},
    ],
    ids=["managed by Helm", "of another service", "not stamped", "applied by kubectl", "not written by us",
         "controlled"],
)  # fmt: skip
def test_what_only_looks_like_ours_is_not_adopted(change: dict[str, Any]) -> None:
    with pytest.raises(NotOwned, match="Service llama in namespace ns"):
        adoption(wanted(), left_behind(**change))


def policy(**changes: Any) -> dict[str, Any]:
    """What all models of a namespace share: it has no owner."""
    return {
        "kind": "NetworkPolicy",
        "metadata": {**left_behind()["metadata"], "labels": {"app": "a"}, **changes},
    }


@pytest.mark.parametrize("labels", [{}, {"app": "b"}, {"app.kubernetes.io/managed-by": "Helm"}])
def test_what_has_no_owner_stays_ours_when_somebody_changes_its_labels(labels: dict[str, str]) -> None:
    assert adoption(policy(), policy(labels=labels)) is None
    claim = {**policy(), "kind": "PersistentVolumeClaim"}
    with pytest.raises(NotOwned, match="PersistentVolumeClaim llama"):
        adoption(claim, {**policy(labels=labels), "kind": "PersistentVolumeClaim"})
    for change in ({"annotations": {}}, {"managedFields": [{"manager": "kubectl", "operation": "Apply"}]}):
        with pytest.raises(NotOwned, match="NetworkPolicy llama"):
            adoption(policy(), policy(labels=labels, **change))


def test_what_was_left_behind_and_is_being_deleted_is_waited_for() -> None:
    with pytest.raises(Unavailable, match="is being deleted"):
        adoption(wanted(), left_behind(deletionTimestamp="2026-01-01T00:00:00Z"))


def test_an_owner_that_does_not_control_does_not_hinder_adoption() -> None:
    assert is_orphan(left_behind(ownerReferences=[{"kind": "Team", "name": "x", "uid": "x"}]))


def test_drift_is_what_differs_though_our_wish_did_not_change() -> None:
    stamp = {"annotations": {"preheat.dev/applied": "1"}}
    assert is_drift({"metadata": stamp}, {"metadata": stamp})
    assert not is_drift({"metadata": stamp}, {"metadata": {"annotations": {"preheat.dev/applied": "0"}}})
    assert not is_drift({"metadata": {}}, {"metadata": {}})


def test_drift_names_the_fields_and_who_changed_them() -> None:
    live = {
        "kind": "Deployment",
        "metadata": {
            "name": "llama-1",
            "managedFields": [
                {"manager": "preheat", "time": "2026-01-03T00:00:00Z"},
                {
                    "manager": "kube-controller-manager",
                    "time": "2026-01-04T00:00:00Z",
                    "subresource": "status",
                },
                {"manager": "hpa", "time": "2026-01-02T00:00:00Z", "subresource": "scale"},
                {"manager": "kubectl", "time": "2026-01-01T00:00:00Z"},
            ],
        },
        "spec": {"replicas": 3, "a": 0, "b": 0, "c": 0},
    }
    desired = {"spec": {"replicas": 1}}
    assert words_of_drift(desired, live) == "hpa changes spec.replicas of Deployment llama-1"
    desired = {"spec": {"replicas": 1, "a": 1, "b": 1, "c": 1}}
    assert "spec.replicas, spec.a, spec.b and 1 more" in words_of_drift(desired, live)


@pytest.mark.parametrize(("bound", "refusal"), [("v", None), ("elsewhere", NotOwned), (None, NotOwned)])
def test_a_claim_of_our_name_and_labels_is_ours_only_with_our_volume(
    bound: str | None, refusal: type[Exception] | None
) -> None:
    desired = {**volume(a="1"), "kind": "PersistentVolumeClaim", "spec": {"volumeName": "v"}}
    live = {**desired, "spec": {"volumeName": bound} if bound else {}}
    if refusal is None:
        assert adoption(desired, live) is None
    else:
        with pytest.raises(refusal):
            adoption(desired, live)
