"""What the watches tell, put together."""

import json
from pathlib import Path

import pytest

from e2e.rollout import eyes
from e2e.rollout.eyes import Eyes, documents, moments
from tests.unit.e2e.rollout.made import BAD, GOOD, a_glimpse, a_pod, a_service


def test_documents_that_are_cut_anywhere_come_whole() -> None:
    text = '{"a": "}{"}\n{\n "b": [1, 2]\n}\n{"c": {}}'
    for size in range(1, len(text)):
        blocks = (text[at : at + size] for at in range(0, len(text), size))
        assert list(documents(blocks)) == [{"a": "}{"}, {"b": [1, 2]}, {"c": {}}]


def test_replicas_come_become_ready_leave_and_go() -> None:
    glimpses = [
        a_glimpse(1, a_pod("old")),
        a_glimpse(2, a_service()),
        a_glimpse(3, a_pod("new", BAD, ready=False)),
        a_glimpse(4, a_pod("new", BAD)),
        a_glimpse(5, a_pod("old", leaving=True)),
        a_glimpse(6, a_pod("old"), gone=True),
    ]
    history = moments(glimpses)
    assert [m.at for m in history] == [1, 3, 4, 5, 6]
    assert [m.ready() for m in history] == [1, 1, 2, 1, 1]
    assert [m.ready(GOOD) for m in history] == [1, 1, 1, 0, 0], "who leaves takes no new request"
    assert [r.name for r in history[-1].others(GOOD)] == ["new"]
    assert history[-1].replicas["new"].restarts == 1


def test_what_is_watched_is_kept_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = {
        "llmd": [{"type": "ADDED", "object": a_service()}],
        "pods": [{"type": "ADDED", "object": a_pod()}, {"type": "DELETED", "object": a_pod()}],
        "events": [],
    }
    for what, told in events.items():
        (tmp_path / what).write_text("\n".join(json.dumps(event, indent=2) for event in told))
    kubectl = tmp_path / "kubectl"
    # kubectl --kubeconfig F -n N get WHAT ...: what there is, and then a watch that says nothing more.
    kubectl.write_text(f"#!/bin/sh\ncat {tmp_path}/$6\nexec sleep 60\n")
    kubectl.chmod(0o755)
    monkeypatch.setattr(eyes, "KUBECTL", str(kubectl))
    watching = Eyes(tmp_path / "kubeconfig", "n", "m")
    try:
        assert watching.until(lambda: len(watching.glimpses) == 3, 30)
        assert watching.service["metadata"]["name"] == "m"
        assert watching.now.replicas == {}
        assert not watching.until(lambda: len(watching.glimpses) > 3, 0.01)
    finally:
        watching.close()
