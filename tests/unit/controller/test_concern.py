"""A change wakes the loops that it concerns, and no more than those."""

from typing import Any

import pytest
from preheat.controller.concern import ORPHANS, concerned
from preheat.controller.view import Key, View

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def an_object(kind: str, name: str, status: dict[str, Any] | None = None, namespace: str = "ns",
              **labels: str) -> dict[str, Any]:  # fmt: skip
    metadata = {"name": name, "namespace": namespace, "resourceVersion": "1", "labels": labels}
    return {"kind": kind, "metadata": metadata, "status": status or {}}


def service(name: str) -> Key:
    return ("LLMDeployment", "ns", name)


WEIGHTS: Key = ("ModelCache", "ns", "weights")


@pytest.fixture
def view() -> View:
    made = View()
    uses = {"cache": {"name": "weights"}, **READY}
    for body in (
        an_object("LLMDeployment", "uses", uses),
        an_object("LLMDeployment", "other", {"cache": {"name": "else"}, **READY}),
        an_object("LLMDeployment", "new"),
        an_object("LLMDeployment", "away", namespace="elsewhere"),
        an_object("ModelCache", "weights", READY),
        an_object("ModelCache", "coming"),
    ):
        made.put(body)
    return made


def woken(after: dict[str, Any] | None, view: View, before: dict[str, Any] | None = None) -> set[Key]:
    return set(concerned(before, after, view))


def test_an_object_concerns_itself(view: View) -> None:
    assert woken(an_object("LLMDeployment", "uses"), view) == {service("uses")}


def test_the_last_of_a_namespace_may_leave_something_behind(view: View) -> None:
    assert woken(None, view, an_object("LLMDeployment", "uses")) == {service("uses"), ORPHANS}


def test_a_cache_that_a_person_made_concerns_those_who_use_it_or_may_come_to(view: View) -> None:
    assert woken(an_object("ModelCache", "weights"), view) == {WEIGHTS, service("uses"), service("new")}


def test_a_pod_of_the_front_concerns_all_whose_clients_may_be_sent_there_and_only_when_it_can_be_reached(
    view: View,
) -> None:
    view.put(an_object("EndpointSlice", "other-front", **{"preheat.dev/llmdeployment": "other"}))
    asks = an_object("LLMDeployment", "new")
    view.put({**asks, "metadata": {**asks["metadata"], "resourceVersion": "2"},
              "spec": {"scaling": {"scaleToZero": True}}})  # fmt: skip

    def pod(ip: str | None, ready: str = "True") -> dict[str, Any]:
        status = {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}
        return an_object("Pod", "f", status, "preheat-system", **{"preheat.dev/component": "front"})

    fronted = {service("other"), service("new")}
    assert woken(pod("10.0.0.1"), view) == fronted
    assert woken(pod("10.0.0.1"), view, pod(None, "False")) == fronted
    assert woken(None, view, pod("10.0.0.1")) == fronted
    assert woken(pod("10.0.0.1"), view, pod("10.0.0.1")) == set()
    assert woken(pod(None, "False"), view) == set()
    theirs = pod("10.0.0.1")
    theirs["metadata"] |= {
        "namespace": "ns",
        "labels": {**theirs["metadata"]["labels"], "preheat.dev/llmdeployment": "new"},
    }
    assert woken(theirs, view) == {service("new")}, (
        "whoever labels a pod so in another namespace wakes nobody else"
    )


def test_a_cache_that_a_service_made_concerns_that_service_only(view: View) -> None:
    mine = an_object("ModelCache", "mine", **{"preheat.dev/llmdeployment": "new"})
    assert woken(mine, view) == {("ModelCache", "ns", "mine"), service("new")}


def test_a_cache_that_goes_concerns_the_nodes_that_hold_it(view: View) -> None:
    view.put(a_node("holds", **{"cache.preheat.dev/aa": "ready"}))
    view.put(a_node("empty"))
    gone = an_object("ModelCache", "weights", {"key": "aa", **READY})
    assert woken(None, view, gone) >= {("Node", "", "holds"), ORPHANS}
    assert ("Node", "", "empty") not in woken(None, view, gone)


def test_a_child_concerns_its_parents(view: View) -> None:
    labels = {"preheat.dev/llmdeployment": "uses", "preheat.dev/modelcache": "weights"}
    for kind in ("Pod", "Deployment", "Job", "Service"):
        assert woken(an_object(kind, "child", **labels), view) == {service("uses"), WEIGHTS}
        assert woken(an_object(kind, "stranger"), view) == set()


def a_warmer(**status: Any) -> dict[str, Any]:
    job = an_object("Job", "warmer", status, **{"preheat.dev/modelcache": "weights"})
    job["metadata"]["annotations"] = {"preheat.dev/node": "n1"}
    return job


DONE = a_warmer(conditions=[{"type": "Complete", "status": "True"}])


def test_a_warmer_concerns_its_node_when_it_has_ended_well_or_is_gone(view: View) -> None:
    assert woken(a_warmer(), view) == {WEIGHTS}
    assert woken(DONE, view, a_warmer(active=1)) == {WEIGHTS, ("Node", "", "n1")}
    leaving = {**DONE, "metadata": {**DONE["metadata"], "deletionTimestamp": "2026-11-25T10:00:00Z"}}
    assert woken(leaving, view, DONE) == {WEIGHTS, ("Node", "", "n1")}
    assert woken(None, view, DONE) == {WEIGHTS, ("Node", "", "n1")}


def test_what_no_decision_looks_at_concerns_nobody(view: View) -> None:
    assert woken(a_warmer(active=1, ready=1), view, a_warmer(active=1)) == set()
    mine = {"preheat.dev/llmdeployment": "uses"}
    before = an_object("Deployment", "d", {"observedGeneration": 1}, **mine)
    after = an_object("Deployment", "d", {"observedGeneration": 2, "replicas": 1}, **mine)
    assert woken(after, view, before) == set()
    refused = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]}
    assert woken(an_object("Deployment", "d", refused, **mine), view, before) == {service("uses")}
    scaled = {**before, "spec": {"replicas": 0}}
    assert woken(scaled, view, before) == {service("uses")}


KEY = "0123456789abcdef"
BY_CLAIM = {"volumes": [{"persistentVolumeClaim": {"claimName": f"preheat-{KEY}-serve"}}]}
BY_FOLDER = {"containers": [{"volumeMounts": [{"subPath": f".preheat/ns/{KEY}/model"}]}]}


@pytest.mark.parametrize(("pod", "mode"), [(BY_CLAIM, "NodeLocal"), (BY_FOLDER, "Shared")])
def test_a_deployment_concerns_its_cache_when_its_replicas_come_or_go(
    view: View, pod: dict[str, Any], mode: str
) -> None:
    """The cache tells whether it is in use, and may have been Ready long before."""
    if mode == "NodeLocal":
        labels = {"preheat.dev/modelcache": "weights"}
        view.put(an_object("PersistentVolumeClaim", f"preheat-{KEY}-serve", **labels))
    else:
        # It cannot be read, so the key is the one that its status tells.
        view.put(an_object("ModelCache", "there", {"key": KEY, **READY}))
    used = WEIGHTS if mode == "NodeLocal" else ("ModelCache", "ns", "there")
    running = {**an_object("Deployment", "d"), "spec": {"replicas": 1, "template": {"spec": pod}}}
    asleep = {**running, "spec": {**running["spec"], "replicas": 0}}
    assert used in woken(running, view), "made with replicas"
    assert used not in woken(asleep, view), "made without"
    assert used in woken(running, view, asleep)
    assert used in woken(asleep, view, running)
    assert used in woken(None, view, asleep), "it kept the volumes"


def a_node(name: str, allocatable: str = "1", **labels: str) -> dict[str, Any]:
    return an_object("Node", name, {"allocatable": {"nvidia.com/gpu": allocatable}}, namespace="", **labels)


NODE: Key = ("Node", "", "n")
UNSETTLED: set[Key] = {service("new"), ("LLMDeployment", "elsewhere", "away"), ("ModelCache", "ns", "coming")}


def test_a_node_concerns_what_is_not_settled(view: View) -> None:
    assert woken(a_node("n"), view) == {NODE, *UNSETTLED}
    assert woken(a_node("n", "2"), view, a_node("n")) == {NODE, *UNSETTLED}
    assert woken(None, view, a_node("n")) == {NODE, ORPHANS, *UNSETTLED}


def test_a_heartbeat_concerns_nobody(view: View) -> None:
    assert woken(a_node("n"), view, a_node("n")) == set()


def test_weights_that_came_or_went_concern_their_cache_only(view: View) -> None:
    view.put({**an_object("ModelCache", "weights", {"key": "aa", **READY}), "metadata": {
        **an_object("ModelCache", "weights")["metadata"], "resourceVersion": "2"}})  # fmt: skip
    marked = a_node("n", **{"cache.preheat.dev/aa": "ready"})
    assert woken(marked, view, a_node("n")) == {NODE, WEIGHTS}
    assert woken(a_node("n"), view, marked) == {NODE, WEIGHTS}


def test_a_volume_concerns_somebody_when_it_is_spent_and_nobody_when_it_is_bound(view: View) -> None:
    labels = {"preheat.dev/modelcache": "weights", "preheat.dev/modelcache-namespace": "ns"}
    kind, new = "PersistentVolume", {"phase": "Available"}
    made = an_object(kind, "v", new, namespace="", **labels)
    assert woken(an_object(kind, "v", {"phase": "Bound"}, namespace="", **labels), view, made) == set()
    spent = an_object(kind, "v", {"phase": "Released"}, namespace="", **labels)
    assert woken(spent, view, made) == {WEIGHTS, ORPHANS}


def test_a_volume_concerns_its_cache_and_the_loop_over_leftovers(view: View) -> None:
    labels = {"preheat.dev/modelcache": "weights", "preheat.dev/modelcache-namespace": "ns"}
    assert woken(an_object("PersistentVolume", "v", namespace="", **labels), view) == {WEIGHTS, ORPHANS}
    assert woken(an_object("PersistentVolume", "v", namespace=""), view) == {ORPHANS}


def test_what_a_namespace_shares_concerns_one_who_will_make_it_again(view: View) -> None:
    shared = {"preheat.dev/modelcache-namespace": "ns"}
    claim = an_object("PersistentVolumeClaim", "c", **shared)
    assert woken(None, view, claim) == {("ModelCache", "ns", "coming"), ORPHANS}
    policy = an_object("NetworkPolicy", "preheat-model-pods")
    assert woken(None, view, policy) == {service("new"), ORPHANS}
