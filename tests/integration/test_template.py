"""spec.template on a real API server: refused with a sentence, or there unchanged and in the Deployment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.provider import ROOT
from tests.integration.conftest import API, a_service
from tests.template import HARDWARE, NEWLY_REFUSED, everything
from tests.template import REFUSED as ALWAYS_REFUSED

REFUSED = {**ALWAYS_REFUSED, **NEWLY_REFUSED}


@pytest.fixture(scope="module")
def answers(api: API) -> dict[str, str]:
    """What the API server says to each case, all asked at once."""
    numbered = {f"bad-{number}": case for number, case in enumerate(REFUSED)}
    items = [a_service(name, template=REFUSED[case][0], hardware=HARDWARE) for name, case in numbered.items()]
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    result = api.run("create", "--dry-run=server", "-f", "-", stdin=body)
    assert not result.stdout, f"the API server took {result.stdout}"
    said = re.split(r'LLMDeployment[a-z.]* "(bad-[0-9]+)" is invalid: ', result.stderr)
    return {numbered[name]: words for name, words in zip(said[1::2], said[2::2], strict=True)}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_break_a_promise_is_refused_with_what_to_do(answers: dict[str, str], case: str) -> None:
    assert REFUSED[case][1] in answers[case]


@pytest.mark.parametrize("example", ["smollm2", "pod-template"])
def test_an_example_is_taken_and_plan_shows_it(api: API, tmp_path: Path, example: str) -> None:
    path = ROOT / "examples" / f"{example}.yaml"
    body = {**yaml.safe_load(path.read_text())}
    body["metadata"] = {**body["metadata"], "namespace": "default"}
    taken = api.run("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(body))
    assert taken.returncode == 0, taken.stderr
    shown = plan(api, path)
    assert shown.returncode == 0, shown.stderr
    assert ("of the template: containers keeper; volumes adapters" in shown.stdout) is (
        example == "pod-template"
    )
    body["spec"]["template"] = {"spec": {"nodeName": "n1"}}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(json.dumps(body))
    refused = plan(api, wrong)
    assert refused.returncode == 1
    assert "refused: " in refused.stderr
    assert "it goes past the scheduler" in refused.stderr


def plan(api: API, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "preheat.cli.main", "plan", "-f", str(path)],
        env={**os.environ, "KUBECONFIG": str(api.plane.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "path", ["spec.image", "spec.containers[0].imagePullPolic", "spec.volumes[0].configmap"]
)
def test_a_typo_is_reported_when_it_is_applied(api: API, path: str) -> None:
    template: dict[str, Any] = {
        "spec.image": {"spec": {"image": "x"}},
        "spec.containers[0].imagePullPolic": {"spec": {"containers": [{"name": "engine", "imagePullPolic": "Always"}]}},
        "spec.volumes[0].configmap": {"spec": {"volumes": [{"name": "x", "configmap": {"name": "y"}}]}},
    }[path]  # fmt: skip
    result = api.run("apply", "-f", "-", stdin=json.dumps(a_service("typo", template=template)))
    assert f'unknown field "spec.template.{path}"' in result.stderr


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"metadata": {"labels": {"two words": "x"}}}, "keys must be label names"),
        ({"metadata": {"annotations": {"two words": "x"}}}, "keys must be label names"),
        ({"metadata": {"labels": {"a": "two words"}}}, "must be a label's value"),
        ({"spec": {"nodeSelector": {"two words": "x"}}}, "keys must be label names"),
        ({"spec": {"nodeSelector": {"a": "two words"}}}, "must be a label's value"),
        (
            {"spec": {"tolerations": [{"key": "two words", "operator": "Exists"}]}},
            "must be the key of a taint",
        ),
        ({"spec": {"tolerations": [{"key": "a", "value": "two words"}]}}, "must be a label's value"),
        (
            {"spec": {"containers": [{"name": "engine", "env": [{"name": "A"}, {"name": "A"}]}]}},
            "Duplicate value",
        ),
        ({"spec": {"dnsPolicy": "ClusterFrist"}}, 'Unsupported value: "ClusterFrist"'),
        (
            {"spec": {"containers": [{"name": "Mine", "image": "x"}]}},
            "must be a name of at most 63 characters",
        ),
        (
            {"spec": {"volumes": [{"name": "My_Volume", "emptyDir": {}}]}},
            "must be a name of at most 63 characters",
        ),
        (
            {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"cpu": "two"}}}]}},
            "must be an amount as Kubernetes has them",
        ),
        # The API server computes for minutes on this one when it is let through to a pod.
        (
            {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"cpu": "1e9999999999"}}}]}},
            "must be an amount as Kubernetes has them",
        ),
        ({"spec": {"volumes": [{"name": "x", "secret": {"secretName": 5}}]}}, "must be of type string"),
    ],
)
def test_a_slip_is_refused_at_its_place(api: API, template: dict[str, Any], words: str) -> None:
    result = api.run("apply", "-f", "-", stdin=json.dumps(a_service("slip", template=template)))
    assert result.returncode != 0
    assert words in result.stderr


def test_everything_that_is_taken_is_there_unchanged_and_in_the_pods(api: API, node: str) -> None:
    """No field is pruned, by the schema or on the way into the Deployment."""
    template = everything()
    body = a_service("everything", template=template)
    result = api.run("apply", "--validate=strict", "-f", "-", stdin=json.dumps(body))
    assert result.returncode == 0, result.stderr
    try:
        stored = api.get("llmd", "everything")
        assert stored is not None
        assert stored["spec"]["template"] == template
        with api.operator():
            api.until("a Deployment", lambda: _deployment(api, "everything"))
        pod = (_deployment(api, "everything") or {})["spec"]["template"]
        assert _missing(template, pod) == []
        # Ours is there as well: the user's containers are beside the engine, before the agent.
        assert [c["name"] for c in pod["spec"]["containers"]] == ["engine", "exporter", "b", "c", "d"]
        assert [c["name"] for c in pod["spec"]["initContainers"]][-1] == "agent"
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["metadata"]["labels"]["preheat.dev/llmdeployment"] == "everything"
        cache = api.get("mc", stored_cache(api, "everything"))
        assert cache is not None
        placement = cache["spec"]["placement"]
        assert placement["nodeSelector"] == template["spec"]["nodeSelector"]
        wanted = {"key": "team", "operator": "Equal", "value": "search", "effect": "NoSchedule"}
        assert wanted in placement["tolerations"]
        assert not [t for t in placement["tolerations"] if t["key"].startswith("node.kubernetes.io")]
    finally:
        api.kubectl("delete", "llmd", "everything")


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "a mount without its volume": (
        {"containers": [{"name": "engine", "volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}]},
        'Not found: "nowhere"',
    ),
    # Server-side apply answers 500 to this one, and it is the user's to mend all the same.
    "a port that is none": (
        {
            "containers": [
                {"name": "mine", "image": "x", "livenessProbe": {"tcpSocket": {"port": 3_000_000_000}}}
            ]
        },
        "cannot unmarshal number 3000000000",
    ),
}


@pytest.mark.parametrize("case", LATE)
def test_what_the_schema_cannot_know_is_told_and_the_last_revision_stays(
    api: API, node: str, case: str
) -> None:
    wrong, words = LATE[case]
    name = f"late-{case.split()[1]}"
    with api.operator():
        api.apply(a_service(name))
        api.until("a Deployment", lambda: _deployment(api, name))
        before = _deployment(api, name)
        assert before is not None
        api.apply(a_service(name, template={"spec": wrong}))
        api.until("it says so", lambda: api.condition("llmd", name).get("reason") == "ChildRefused")
        assert words in api.condition("llmd", name)["message"]
        assert api.condition("llmd", name, "Stalled")["status"] == "True"
        still = _deployment(api, name)
        assert still is not None
        assert still["metadata"]["uid"] == before["metadata"]["uid"]
        assert still["spec"] == before["spec"], "replicas and template are as they were"
        right = {
            "containers": [{"name": "mine", "image": "x", "livenessProbe": {"tcpSocket": {"port": 3000}}}]
        }
        api.apply(a_service(name, template={"spec": right}))
        api.until("it clears itself", lambda: api.condition("llmd", name).get("reason") == "WeightsFetching")
        api.kubectl("delete", "llmd", name)


def test_the_same_template_is_written_once(api: API, node: str) -> None:
    """Numbers, other spellings and values that are the default must not be written again and again."""
    template = {
        "spec": {
            "volumes": [{"name": "x", "emptyDir": {"sizeLimit": "1024Mi"}}],
            "containers": [
                {
                    "name": "engine",
                    "resources": {"limits": {"cpu": 2}, "requests": {"cpu": "1000m"}},
                    "volumeMounts": [{"name": "x", "mountPath": "/x", "readOnly": False}],
                }
            ],
        }
    }
    with api.operator():
        api.apply(a_service("once", template=template))
        api.until("a Deployment", lambda: _deployment(api, "once"))
        before = _at_rest(api, "once")
        for poke in range(3):
            api.kubectl("annotate", "--overwrite", "llmd", "once", f"poke={poke}")
            seen = (api.get("llmd", "once") or {})["metadata"]["generation"]
            api.until(
                "a pass", lambda seen=seen: api.condition("llmd", "once").get("observedGeneration") == seen
            )
        assert _at_rest(api, "once") == before
        api.kubectl("delete", "llmd", "once")


def test_explain_tells_what_is_merged_and_what_is_refused(api: API) -> None:
    text = " ".join(api.kubectl("explain", "llmdeployment.spec.template.spec").split())
    assert "merged by name" in text
    assert "Refused: it follows from how long a drain may take: use spec.runtime.drainSeconds" in text
    deep = api.kubectl("explain", "llmdeployment.spec.template.spec.containers.env.valueFrom.secretKeyRef")
    assert "optional" in deep


def _at_rest(api: API, name: str) -> str:
    """Return a Deployment's version once Kubernetes' own controller has nothing more to write to its status."""
    seen: list[str] = []

    def rests() -> bool:
        seen.append((_deployment(api, name) or {})["metadata"]["resourceVersion"])
        return len(seen) >= 20 and len(set(seen[-20:])) == 1

    api.until("a Deployment at rest", rests, 60)
    return seen[-1]


def _deployment(api: API, name: str) -> dict[str, Any] | None:
    text = api.kubectl("get", "deploy", "-l", f"preheat.dev/llmdeployment={name}", "-o", "json")
    found: list[dict[str, Any]] = json.loads(text)["items"]
    return found[0] if len(found) == 1 else None


def stored_cache(api: API, name: str) -> str:
    return (
        api.kubectl("get", "mc", "-l", f"preheat.dev/llmdeployment={name}", "-o", "name")
        .strip()
        .split("/")[1]
    )


def _missing(wanted: Any, there: Any, path: str = "") -> list[str]:
    """Return what of a value is not in another. A list's items may be among others, in the same order or not."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        return [
            problem
            for name, value in wanted.items()
            for problem in (
                _missing(value, there[name], f"{path}.{name}") if name in there else [f"{path}.{name}"]
            )
        ]
    if isinstance(wanted, list) and isinstance(there, list):
        return [
            problem
            for number, item in enumerate(wanted)
            if not any(not _missing(item, other) for other in there)
            for problem in min(
                (_missing(item, o, f"{path}[{number}]") for o in there), key=len, default=[path]
            )
        ]
    return [] if str(wanted) == str(there) else [f"{path}: {there!r}, not {wanted!r}"]


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [
        ("a: [", "is no YAML", 2),
        ("kind: Pod", "holds no LLMDeployment", 1),
        (None, "cannot be read", 2),
        ("kind: LLMDeployment", "metadata.name is missing", 1),
    ],
)
def test_plan_says_what_is_wrong_with_a_file(
    api: API, tmp_path: Path, text: str | None, words: str, code: int
) -> None:
    path = tmp_path / "file.yaml"
    if text is not None:
        path.write_text(text)
    shown = plan(api, path)
    assert (shown.returncode, words in shown.stderr) == (code, True), shown.stderr
    assert "Traceback" not in shown.stderr


def test_plan_refuses_what_the_api_server_refuses(api: API, tmp_path: Path) -> None:
    body = a_service("mistyped")
    body["spec"]["model"]["revison"] = "main"
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(body))
    shown = plan(api, path)
    assert shown.returncode == 1
    assert "refused: " in shown.stderr
    assert "revison" in shown.stderr
    assert api.get("llmd", "mistyped", "default") is None
