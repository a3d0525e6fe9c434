"""What a real API server makes of good objects. What it says to bad ones is in test_bad_input.py."""

import json
from typing import Any

from e2e.cluster.provider import ROOT
from tests.integration.conftest import API, a_service


def test_defaults_are_filled_in_and_scale_works(api: API) -> None:
    api.apply(a_service("defaults"))
    body = api.get("llmd", "defaults")
    assert body is not None
    assert body["spec"]["replicas"] == 1
    assert body["spec"]["health"]["canary"]["failureThreshold"] == 2
    assert body["spec"]["scaling"] == {
        "minReplicas": 0, "maxReplicas": 1000, "mode": "External", "scaleToZero": False, "schedules": []
    }  # fmt: skip
    api.kubectl("scale", "llmd/defaults", "--replicas=3")
    assert (api.get("llmd", "defaults") or {})["spec"]["replicas"] == 3
    api.kubectl("delete", "llmd", "defaults")


def test_explain_reads_like_documentation(api: API) -> None:
    text = api.kubectl("explain", "llmdeployment.spec.scaling")
    assert "Who decides the number of replicas" in " ".join(text.split())
    for field in ("minReplicas", "maxReplicas", "mode"):
        assert field in text


def test_an_object_from_before_a_rule_can_still_be_scaled(api: API) -> None:
    """0.1.0 let in what the backend does not read, and ignored it."""
    try:
        api.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "tests/releases/0.1.0/crds")
        )
        old = a_service(
            "old", model={"uri": "http://store.example/m/", "format": "GGUF", "precision": "INT4"}
        )
        api.apply(old)
    finally:
        api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    api.until("the new rules hold", lambda: _refused(api, {**old, "metadata": {"name": "new"}}))
    api.kubectl("scale", "llmd/old", "--replicas=3")
    assert (api.get("llmd", "old") or {})["spec"]["replicas"] == 3
    api.kubectl("delete", "llmd", "old")


def _refused(api: API, body: dict[str, Any]) -> bool:
    return api.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(body)).returncode != 0
