"""The operator's ClusterRole against the calls that it made in all sessions of tests, both ways.

The sessions leave their calls in build/calls; `make test` runs this after them.
"""

import ast
from typing import Any

import pytest

from e2e.cluster.audit import CALLS, Call, kept_calls
from e2e.cluster.provider import ROOT
from e2e.rights import chart

NEEDED = ("integration",)
"""Sessions that must have left their calls: their tests use every right. All others that did are looked at as well
(a cluster of somebody else, or of kind, shows no audit log)."""

NOT_CALLS = {
    # The admission plugin OwnerReferencesPermissionEnforcement asks whether the writer of a child may update the
    # finalizers of its owner. Nobody makes that call, so no log has it.
    Call("update", "preheat.dev", "llmdeployments", "finalizers"): (
        "tests/integration/test_rights.py",
        "test_a_blocking_owner_needs_the_right_to_its_finalizers",
    ),
    Call("update", "preheat.dev", "modelcaches", "finalizers"): (
        "tests/integration/test_rights.py",
        "test_a_blocking_owner_needs_the_right_to_its_finalizers",
    ),
    # The same plugin lets only those change the owners of an object who may delete it: needed to adopt.
    Call("delete", "", "services"): (
        "tests/integration/test_ownership.py",
        "test_what_a_forced_deletion_left_is_adopted_by_the_next_of_that_name",
    ),
    Call("delete", "policy", "poddisruptionbudgets"): (
        "tests/integration/test_ownership.py",
        "test_what_a_forced_deletion_left_is_adopted_by_the_next_of_that_name",
    ),
}
"""Rights that are needed though no call uses them, and the test that fails without them."""


@pytest.fixture(scope="module")
def made() -> dict[str, set[Call]]:
    sessions = kept_calls()
    for session in NEEDED:
        assert any(kept.split("-")[0] == session for kept in sessions), (
            f"{CALLS.relative_to(ROOT)} has no calls of {session}: run the whole of `make test-{session}` first, "
            "or `make test`, which runs everything"
        )
    return sessions


@pytest.fixture(scope="module")
def granted() -> set[Call]:
    (role,) = [b for b in chart() if b["kind"] == "ClusterRole" and b["metadata"]["name"] == "preheat"]
    return {call for rule in role["rules"] for call in _calls(rule)}


def _calls(rule: dict[str, Any]) -> set[Call]:
    if "nonResourceURLs" in rule:
        return {Call(verb, "", path) for verb in rule["verbs"] for path in rule["nonResourceURLs"]}
    return {
        Call(verb, group, *resource.split("/"))
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_no_call_without_a_right(made: dict[str, set[Call]], granted: set[Call]) -> None:
    for session, calls in made.items():
        beyond = [call.words for call in sorted(calls - granted)]
        assert not beyond, f"{session}: the operator asked for what its ClusterRole does not grant: {beyond}"


def test_no_right_without_a_call(made: dict[str, set[Call]], granted: set[Call]) -> None:
    used = set().union(*made.values()) | set(NOT_CALLS)
    unused = [call.words for call in sorted(granted - used)]
    assert not unused, (
        f"nobody used these rights in {', '.join(made)}: {unused}. Take them out of "
        "charts/preheat/templates/rbac.yaml, or add the test in which the operator needs them"
    )


def test_no_secret_was_read(made: dict[str, set[Call]]) -> None:
    private = {"secrets", "configmaps", "serviceaccounts", "tokenreviews", "tokenrequests"}
    for session, calls in made.items():
        assert calls, f"{session} left no call: nothing was looked at"
        assert not [call.words for call in sorted(calls) if call.resource in private], session
        assert not [call.words for call in sorted(calls) if call.resource == "pods" and call.subresource], (
            session
        )


def test_what_is_granted_without_a_call_is_proved_elsewhere(granted: set[Call]) -> None:
    for call, (path, name) in NOT_CALLS.items():
        assert call in granted, f"{call.words} is not granted any more: remove it here"
        names = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in names, f"{path} has no {name}"
