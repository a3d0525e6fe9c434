"""`kubectl preheat plan` shows what applying the file will do, for what is there already, however it was applied."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import API, a_service

NAME = "planned"
WAYS = {
    "kubectl apply": ("apply",),
    "kubectl apply --server-side": ("apply", "--server-side"),
    "argo cd on the server's side": ("apply", "--server-side", "--field-manager=argocd-controller"),
}


def body(**spec: Any) -> dict[str, Any]:
    return a_service(NAME, **{"replicas": 0, **spec})


H100: dict[str, Any] = {"gpu": {"types": ["nvidia-h100-80gb"]}}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, api: API, node: str) -> Iterator[tuple[str, ...]]:
    """It is there, and the operator has looked at it."""
    found = WAYS[request.param]
    options = {"backend": "LlamaCpp", "options": {"n_ctx": "512"}}
    put(api, found, body(runtime=options))
    with api.operator():
        api.until("it is looked at", lambda: api.condition("llmd", NAME, "Ready"), 60)
    yield found
    api.kubectl("delete", "llmd", NAME)


def put(api: API, how: tuple[str, ...], wanted: dict[str, Any], *options: str) -> dict[str, Any]:
    done = api.run(*how, *options, "-o", "json", "-f", "-", stdin=json.dumps(wanted))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plan(api: API, wanted: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "preheat.cli.main", "plan", "-f", "-"],
        input=json.dumps(wanted),
        env={**os.environ, "KUBECONFIG": str(api.plane.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_left_out_goes_and_a_list_is_as_the_file_says(api: API, way: tuple[str, ...]) -> None:
    same = plan(api, body(runtime={"backend": "LlamaCpp", "options": {"n_ctx": "512"}}))
    assert "as it is: no replica moves" in same.stdout, same.stdout + same.stderr
    assert "objects stay as they are" in same.stdout
    assert "  apply   " not in same.stdout, same.stdout
    assert put(api, way, body(hardware=H100), "--dry-run=server")["spec"]["hardware"]["gpu"]["types"] == [
        "nvidia-h100-80gb"
    ]
    other = plan(api, body(hardware=H100))
    assert "as it is: no replica moves" not in other.stdout, other.stdout + other.stderr
    assert "nvidia-h100-80gb" in other.stdout
    assert "PreflightFailed" in other.stdout, other.stdout
    fewer = plan(api, body())
    assert "as it is: no replica moves" not in fewer.stdout, fewer.stdout + fewer.stderr


def test_what_is_refused_is_told_in_the_api_servers_words_alone(api: API, way: tuple[str, ...]) -> None:
    for wrong, words in (
        ({"hardware": {"gpu": {"types": ["a100"]}}}, "spec.hardware.gpu.types[0]"),
        ({"replica": 3}, "replica"),
    ):
        refused = plan(api, body(**wrong))
        assert refused.returncode == 1
        assert words in refused.stderr, refused.stderr
        assert "/apis/" not in refused.stderr.split(" ")[1], refused.stderr


def test_of_a_new_one_an_unknown_field_is_named(api: API) -> None:
    refused = plan(api, body(replica=3))
    assert refused.returncode == 1
    assert 'unknown field "spec.replica"' in refused.stderr, refused.stderr


def test_a_namespace_that_is_not_there_yet_holds_up_no_plan(api: API) -> None:
    wanted = body()
    wanted["metadata"]["namespace"] = "not-there-yet"
    assert plan(api, wanted).returncode == 0
    wanted["metadata"]["name"] = 5
    assert "put it in quotes" in plan(api, wanted).stderr
