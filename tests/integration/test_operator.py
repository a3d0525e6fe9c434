"""The operator's real process against a real API server: children, ownership, drift, crash, deletion."""

import json
import os
import signal
import time

from tests.integration.conftest import API, a_service

CHILDREN = ("deployment", "service", "controllerrevision", "modelcache")

OF_CACHES = ("-l", "preheat.dev/modelcache-namespace")
"""Those of a keeper stay."""


def _children(api: API, name: str) -> dict[str, list[str]]:
    found = {}
    for kind in CHILDREN:
        text = api.kubectl("get", kind, "-l", f"preheat.dev/llmdeployment={name}", "-o", "name")
        found[kind] = text.split()
    return found


def _deployment(api: API, name: str) -> str:
    (found,) = _children(api, name)["deployment"]
    return found.split("/")[1]


def test_children_are_made_by_one_field_manager_and_owned(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("made"))
        api.until("children", lambda: all(_children(api, "made").values()))
        api.until("status", lambda: api.condition("llmd", "made"))
        for kind, names in _children(api, "made").items():
            (name,) = names
            body = api.get(kind, name.split("/")[1])
            assert body is not None
            shown = json.loads(api.kubectl("get", name, "-o", "json", "--show-managed-fields"))
            applied = {m["manager"] for m in shown["metadata"]["managedFields"] if m["operation"] == "Apply"}
            assert applied == {"preheat"}, kind
            (owner,) = body["metadata"]["ownerReferences"]
            assert owner["kind"] == "LLMDeployment"
            assert owner["controller"] is True
        body = api.get("llmd", "made")
        assert body is not None
        assert "finalizers" not in body["metadata"]
        assert "kopf" not in json.dumps(body["metadata"].get("annotations", {}))
        api.kubectl("delete", "llmd", "made")
        api.until("all gone", lambda: not any(_children(api, "made").values()))


def test_drift_is_put_back(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("drift"))
        api.until("children", lambda: all(_children(api, "drift").values()))
        deployment = _deployment(api, "drift")
        api.kubectl("scale", "deploy", deployment, "--replicas=7")
        api.until("replicas", lambda: (api.get("deploy", deployment) or {})["spec"]["replicas"] == 1)
        api.kubectl("delete", "service", "drift")
        api.until("service", lambda: api.get("service", "drift"))
        api.kubectl("delete", "llmd", "drift")


def test_a_strangers_object_is_never_written_over(api: API, node: str) -> None:
    api.kubectl("create", "service", "clusterip", "taken", "--tcp=80:80")
    before = api.get("service", "taken")
    with api.operator():
        api.apply(a_service("taken"))
        api.until("it says so", lambda: api.condition("llmd", "taken").get("reason") == "NameTaken")
        assert "Service taken" in api.condition("llmd", "taken")["message"]
        assert api.condition("llmd", "taken", "Stalled")["status"] == "True"
        assert api.get("service", "taken") == before
        # It clears itself when the name becomes free: at the latest at the next look, at once when poked.
        api.kubectl("delete", "service", "taken")
        api.kubectl("annotate", "llmd", "taken", "poke=1")
        api.until("made", lambda: api.condition("llmd", "taken").get("reason") == "WeightsFetching")
        api.kubectl("delete", "llmd", "taken")


def test_killed_at_any_moment_it_goes_on_where_it_was(api: API, node: str) -> None:
    for after_seconds in (0.8, 1.1, 1.4):
        with api.operator() as process:
            api.apply(a_service("crash"))
            time.sleep(after_seconds)  # a moment in the middle of its first writes, different every time
            os.kill(process.pid, signal.SIGKILL)
        with api.operator():
            api.until("children", lambda: all(_children(api, "crash").values()))
            api.until("status", lambda: api.condition("llmd", "crash").get("reason") == "WeightsFetching")
            for names in _children(api, "crash").values():
                assert len(names) == 1
            api.kubectl("delete", "llmd", "crash")
            api.until("gone", lambda: not any(_children(api, "crash").values()))


def test_deleting_works_with_the_operator_gone(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("alone"))
        api.until("children", lambda: all(_children(api, "alone").values()))
    api.kubectl("delete", "llmd", "alone", "--timeout=10s")
    api.until("all gone", lambda: not any(_children(api, "alone").values()))
    with api.operator():
        # What no owner can delete, the next operator takes away.
        api.until("volumes gone", lambda: not api.kubectl("get", "pv", *OF_CACHES, "-o", "name").split())


def test_no_node_is_a_condition_with_numbers_that_clears_itself(api: API) -> None:
    with api.operator():
        api.apply(a_service("lonely"))
        api.until("it says so", lambda: api.condition("llmd", "lonely").get("reason") == "NoMatchingNode")
        assert "0 of 0 nodes" in api.condition("llmd", "lonely")["message"]
        api.kubectl("delete", "llmd", "lonely")


def test_a_spec_that_the_engine_cannot_do_stops_nothing(api: API, node: str) -> None:
    with api.operator():
        api.apply(a_service("sure"))
        api.until("children", lambda: all(_children(api, "sure").values()))
        before = _children(api, "sure")
        # A regular expression of Python's own kind, with a mistake in it: the schema cannot tell.
        api.apply(a_service("sure", health={"canary": {"expect": "(?P<city"}}))
        api.until("it says so", lambda: api.condition("llmd", "sure", "Accepted").get("status") == "False")
        assert _children(api, "sure") == before
        api.apply(a_service("sure"))
        api.until("accepted", lambda: api.condition("llmd", "sure", "Accepted").get("status") == "True")
        api.kubectl("delete", "llmd", "sure")
