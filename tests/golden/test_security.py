"""Every pod that we make passes Pod Security `restricted`; the chart asks for no more rights than it needs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from preheat.api.constants import (
    AGENT_METRICS,
    COMPONENT_ENGINE,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    PORT_FRONT,
    PORTS_OF_DEPLOYMENTS,
    PROMETHEUS_LABEL_DEPLOYMENT,
)
from preheat.api.gpu import GPUType
from preheat.config import OperatorConfig
from preheat.controller.concern import is_of_front
from preheat.resources.caching import cache_key, make_warmer, place_of, tolerations
from preheat.resources.neighbours import Near, Peer, audience, make_seeder
from preheat.resources.paging import make_pager
from preheat.resources.places import places_for
from preheat.resources.pulling import images_of, make_puller
from preheat.resources.serving import make_deployment, make_service, render_revision
from preheat_front.config import from_environment as front_config

from e2e.rights import chart as render
from tests.builders import a_cache, a_service

CONFIG = OperatorConfig()
DIGEST = f"sha256:{'0' * 64}"
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def breaches(pod: dict[str, Any]) -> list[str]:
    """Return what the Pod Security standard `restricted` forbids of a pod's spec."""
    found = []
    top = pod.get("securityContext", {})
    if not top.get("runAsNonRoot") or top.get("runAsUser") == 0:
        found.append("runs as root")
    if top.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        found.append("no seccomp profile")
    found += [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    for volume in pod.get("volumes", []):
        found += [f"volume {key}" for key in volume if key != "name" and key not in VOLUMES]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{container['name']}: privilege escalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            found.append(f"{container['name']}: capabilities")
        if own.get("privileged"):
            found.append(f"{container['name']}: privileged")
        if not own.get("readOnlyRootFilesystem"):
            found.append(f"{container['name']}: writable root")
    return found


def a_model_pod(**spec: Any) -> dict[str, Any]:
    service = a_service(**spec)
    revision = render_revision(service, GPUType.NVIDIA_L4, 1, "cache", CONFIG, DIGEST)
    pod: dict[str, Any] = make_deployment(service, revision, 1)["spec"]["template"]["spec"]
    return pod


def test_pullers_are_restricted() -> None:
    service = a_service()
    template = make_deployment(service, render_revision(service, GPUType.NVIDIA_L4, 1, "cache", CONFIG), 1)[
        "spec"
    ]["template"]
    puller = make_puller(service, template, images_of(template), "n1", CONFIG)
    assert breaches(puller["spec"]["template"]["spec"]) == []


def test_pagers_are_restricted() -> None:
    service = a_service()
    revision = render_revision(service, GPUType.NVIDIA_L4, 1, "cache", CONFIG)
    pager = make_pager(service, revision, "n1", 16 << 30, CONFIG)
    assert breaches(pager["spec"]["template"]["spec"]) == []


def test_model_pods_are_restricted() -> None:
    assert breaches(a_model_pod()) == []


PEER = Peer("n2", "10.1.0.2")


@pytest.mark.parametrize(
    ("uri", "storage", "site"),
    [
        ("http://store/m/", {"mode": "Shared", "claimName": "weights"}, "Shared"),
        (f"oci://r.example/m@{DIGEST}", {"mode": "Image"}, "n1"),
        ("oci://r.example/m:v1", {"mode": "Image"}, "Registry"),
    ],
)
def test_pods_are_restricted_wherever_weights_wait(uri: str, storage: dict[str, str], site: str) -> None:
    cache = a_cache(source={"uri": uri, "credentials": {"secretName": "s"}}, storage=storage)
    warmer = places_for(cache, {}, DIGEST, CONFIG).warmer(site)["spec"]["template"]["spec"]
    model = a_model_pod(model={"uri": uri}, cache=storage)
    for pod in (warmer, model):
        assert breaches(pod) == []
        assert pod["automountServiceAccountToken"] is False


def a_warmer_pod(*peers: Peer, **spec: Any) -> dict[str, Any]:
    cache = a_cache(**spec)
    near = Near(audience("default", cache_key(cache)), peers, "d" * 64)
    job = near.told_to(make_warmer(cache, "n1", place_of(cache, {}, CONFIG), CONFIG))
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def a_seeder_pod() -> dict[str, Any]:
    cache = a_cache()
    job = make_seeder(cache, "n1", cache_key(cache), tolerations(cache), CONFIG, {"keys": []})
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def test_warmers_and_seeders_are_restricted() -> None:
    source = {"uri": "pvc://claim/x", "credentials": {"secretName": "s"}}
    for pod in (a_warmer_pod(source=source), a_warmer_pod(PEER), a_seeder_pod()):
        assert breaches(pod) == []


def test_no_pod_has_a_token_for_the_api_server() -> None:
    """The one of a warmer is for its neighbours: its audience is no API server's."""
    for pod in (a_model_pod(), a_warmer_pod(), a_warmer_pod(PEER), a_seeder_pod()):
        assert pod["automountServiceAccountToken"] is False
    projected = [v for v in a_warmer_pod(PEER)["volumes"] if "projected" in v]
    (token,) = [s["serviceAccountToken"] for v in projected for s in v["projected"]["sources"]]
    assert token["audience"] == f"preheat.dev/default/{cache_key(a_cache())}"
    assert token["expirationSeconds"] == 600


def test_a_seeder_can_write_nothing() -> None:
    pod = a_seeder_pod()
    assert [volume["persistentVolumeClaim"]["readOnly"] for volume in pod["volumes"]] == [True]
    assert [mount["readOnly"] for c in pod["containers"] for mount in c["volumeMounts"]] == [True]


def test_what_a_user_wrote_is_not_expanded() -> None:
    pod = a_model_pod(health={"canary": {"prompt": "$(POD_UID) is"}})
    agent = pod["initContainers"][0]
    config = next(e["value"] for e in agent["env"] if e["name"] == "PREHEAT_AGENT_CONFIG")
    assert "$$(POD_UID) is" in config


def test_user_labels_reach_children_only_through_the_allow_list() -> None:
    service = a_service().model_copy(
        update={"labels": {"app.kubernetes.io/instance": "argo", "team.preheat.dev/name": "search"}}
    )
    labels = make_service(service)["metadata"]["labels"]
    assert labels["team.preheat.dev/name"] == "search"
    assert "app.kubernetes.io/instance" not in labels


@pytest.fixture(scope="module")
def chart() -> list[dict[str, Any]]:
    return render()


def deployments(chart: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {body["metadata"]["name"]: body for body in chart if body["kind"] == "Deployment"}


def test_operator_and_front_are_restricted(chart: list[dict[str, Any]]) -> None:
    found = deployments(chart)
    assert sorted(found) == ["preheat", "preheat-front"]
    for deployment in found.values():
        assert breaches(deployment["spec"]["template"]["spec"]) == []
    assert found["preheat"]["spec"]["strategy"] == {"type": "Recreate"}


def test_the_front_may_list_and_watch_slices_and_nothing_else(chart: list[dict[str, Any]]) -> None:
    (role,) = [b for b in chart if b["kind"] == "ClusterRole" and b["metadata"]["name"] == "preheat-front"]
    assert role["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    ]
    accounts = [b["subjects"] for b in chart if b["kind"] == "ClusterRoleBinding"
                and b["roleRef"]["name"] == "preheat-front"]  # fmt: skip
    assert [subject["name"] for subjects in accounts for subject in subjects] == ["preheat-front"]
    assert not [b for b in chart if b["kind"] in {"Role", "RoleBinding"}]


def test_the_operator_finds_the_pods_of_the_front_and_both_know_the_same_ports(
    chart: list[dict[str, Any]],
) -> None:
    operator, deployment = deployments(chart)["preheat"], deployments(chart)["preheat-front"]
    front = deployment["spec"]["template"]
    home = operator["metadata"]["namespace"]  # its own, by the downward API
    assert deployment["metadata"]["namespace"] == home
    assert is_of_front({**front, "metadata": {**front["metadata"], "namespace": home}}, home)
    assert front["metadata"]["labels"][LABEL_MANAGED_BY] == MANAGED_BY, "else it is not watched"
    (container,) = front["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [PORT_FRONT]
    there = front_config({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"})
    assert there.control_port == PORT_FRONT
    assert range(there.first_port, there.last_port + 1) == PORTS_OF_DEPLOYMENTS
    (policy,) = [
        b for b in chart if b["kind"] == "NetworkPolicy" and b["metadata"]["name"] == "preheat-front"
    ]
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [
        {"port": PORT_FRONT, "protocol": "TCP"},
        {"port": there.first_port, "endPort": there.last_port, "protocol": "TCP"},
    ]


def test_without_a_front_nothing_of_it_is_there_and_the_operator_knows(chart: list[dict[str, Any]]) -> None:
    without = render("--set", "front.enabled=false")
    assert not [b for b in without if b["metadata"]["name"].endswith("-front")]
    for body, said in ((chart, "true"), (without, "false")):
        (container,) = deployments(body)["preheat"]["spec"]["template"]["spec"]["containers"]
        assert [e["value"] for e in container["env"] if e["name"] == "PREHEAT_FRONT"] == [said]


def test_a_prometheus_is_asked_where_one_is_named_alone(chart: list[dict[str, Any]]) -> None:
    def settings(body: list[dict[str, Any]]) -> dict[str, str]:
        (container,) = deployments(body)["preheat"]["spec"]["template"]["spec"]["containers"]
        given = {e["name"]: e.get("value", "") for e in container["env"]}
        return {name: value for name, value in given.items() if "PROMETHEUS" in name}

    assert settings(chart) == {}
    assert not [b for b in chart if b["kind"] == "PodMonitor"]
    named = render(
        "--set", "prometheus.url=https://p:9090,prometheus.labels.cluster=eu,prometheus.labels.tenant=a",
        "--set", "prometheus.secret.name=access,prometheus.secret.tokenKey=token,prometheus.secret.caKey=ca.crt",
        "--set", "metrics.podMonitor.enabled=true",
    )  # fmt: skip
    config = OperatorConfig.from_environment(settings(named))
    assert config.prometheus_url == "https://p:9090"
    assert config.prometheus_matchers == {"cluster": "eu", "tenant": "a"}
    pod = deployments(named)["preheat"]["spec"]["template"]["spec"]
    assert breaches(pod) == []
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "prometheus"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "prometheus"]
    assert volume["secret"]["secretName"] == "access"
    assert config.prometheus_token_file == mount["mountPath"] + "/token"
    assert config.prometheus_ca_file == mount["mountPath"] + "/ca.crt"
    (monitor,) = [b for b in named if b["kind"] == "PodMonitor"]
    assert monitor["spec"]["selector"]["matchLabels"] == {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_COMPONENT: COMPONENT_ENGINE,
    }
    assert monitor["spec"]["podTargetLabels"] == [LABEL_DEPLOYMENT]
    assert re.sub("[^a-z]", "_", LABEL_DEPLOYMENT) == PROMETHEUS_LABEL_DEPLOYMENT, "as Prometheus spells it"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["honorLabels"]) == (AGENT_METRICS, False)


@pytest.mark.parametrize(
    "value",
    [
        "prometheus.url=p:9090",
        "prometheus.url=http://me:secret@p",
        *[f"prometheus.labels.{name}=c" for name in ("a-b", "__name__", "namespace")],
        "prometheus.secret.tokenKey=in-no-secret",
    ],
)
def test_a_prometheus_that_cannot_be_asked_is_refused(value: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        render("--set", value)


def test_rights_name_everything_and_no_secret(chart: list[dict[str, Any]]) -> None:
    for role in [body for body in chart if body["kind"] in {"ClusterRole", "Role"}]:
        for rule in role["rules"]:
            named = [name for names in rule.values() for name in names]
            assert not any("*" in name or name == "secrets" or name.startswith("pods/") for name in named)


def test_a_typo_in_values_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("--set", "imagess.tag=x")
    assert "imagess" in refused.value.stderr


def test_every_variable_that_the_chart_sets_is_read(chart: list[dict[str, Any]]) -> None:
    (container,) = deployments(chart)["preheat"]["spec"]["template"]["spec"]["containers"]
    known = {f"PREHEAT_{name.upper()}" for name in OperatorConfig.__dataclass_fields__}
    known |= {"PREHEAT_LOG_FORMAT", "PREHEAT_PORT", "PREHEAT_DEBUG"}
    assert {entry["name"] for entry in container["env"]} <= known


def test_the_crds_stay_when_the_chart_goes(chart: list[dict[str, Any]]) -> None:
    crds = [body for body in chart if body["kind"] == "CustomResourceDefinition"]
    assert len(crds) == 2
    assert all(c["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for c in crds)
    assert not [b for b in render("--set", "crds.enabled=false") if b["kind"] == "CustomResourceDefinition"]


def test_the_page_on_security_lists_the_rights_as_they_are(chart: list[dict[str, Any]]) -> None:
    (role,) = [b for b in chart if b["kind"] == "ClusterRole" and b["metadata"]["name"] == "preheat"]
    rows = [f"| {_what(rule)} | {', '.join(rule['verbs'])} |" for rule in role["rules"]]
    table = "\n".join(["| resource | verbs |", "|---|---|", *rows])
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    said = page.split("tests/golden/test_security.py -->\n")[1].split("\n<!-- end of rights -->")[0]
    assert said == table, f"docs/security.md must list the rights of the chart:\n\n{table}"


def _what(rule: dict[str, Any]) -> str:
    if "nonResourceURLs" in rule:
        return f"{', '.join(f'`{path}`' for path in rule['nonResourceURLs'])} (no object)"
    return f"{', '.join(f'`{r}`' for r in rule['resources'])} ({rule['apiGroups'][0] or 'core'})"
