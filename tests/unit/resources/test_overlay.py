"""spec.template over the model pod: merged as Kubernetes merges, and what is ours survives whatever is laid over it."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.api import template as t
from preheat.api.constants import PORT_AGENT
from preheat.api.gpu import GPUType
from preheat.api.modelcache import Toleration
from preheat.config import OperatorConfig
from preheat.errors import InvalidSpec
from preheat.resources import caching, serving
from preheat.resources.overlay import merge
from preheat.resources.pod import container_security
from preheat.resources.serving import render_revision, revision_id

from tests.builders import a_service
from tests.template import HARDWARE, NEWLY_REFUSED, REFUSED, engine, everything, extra, pod

CONFIG = OperatorConfig()


def rendered(template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """The pod template of a service."""
    more = {} if template is None else {"template": template}
    service = a_service(**more, **spec)
    found: dict[str, Any] = render_revision(service, GPUType.NVIDIA_L4, 1, "cache", CONFIG).template
    return found


def plain() -> dict[str, Any]:
    """The same without a template, but with the revision's label of the other."""
    return rendered()


def the(containers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(c for c in containers if c["name"] == name)


# --- merging


MERGES: dict[str, tuple[str, Any, Any, Any]] = {
    "maps are merged deeply": (
        "",
        {"a": {"b": 1, "c": 2}},
        {"a": {"c": 3, "d": 4}},
        {"a": {"b": 1, "c": 3, "d": 4}},
    ),
    "a plain list is replaced": ("args", [1, 2], [3], [3]),
    "variables by name, whole": (
        "env",
        [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        [{"name": "C", "value": "3"}, {"name": "A", "valueFrom": {"x": 1}}],
        [{"name": "A", "valueFrom": {"x": 1}}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
    ),
    "mounts by path": (
        "volumeMounts",
        [{"name": "a", "mountPath": "/a"}],
        [{"name": "b", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}],
        [{"name": "b", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}],
    ),
    "ports by number and protocol, TCP where nothing is said": (
        "ports",
        [{"containerPort": 80, "protocol": "TCP"}],
        [{"containerPort": 80, "name": "web"}, {"containerPort": 80, "protocol": "UDP"}],
        [{"containerPort": 80, "protocol": "TCP", "name": "web"}, {"containerPort": 80, "protocol": "UDP"}],
    ),
    "hosts by address": (
        "hostAliases",
        [{"ip": "1.1.1.1", "hostnames": ["a"]}],
        [{"ip": "1.1.1.1", "hostnames": ["b"]}],
        [{"ip": "1.1.1.1", "hostnames": ["b"]}],
    ),
    "spreading by topology and what to do": (
        "topologySpreadConstraints",
        [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}],
        [{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2}],
        [
            {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
            {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
        ],
    ),
    "another type wins": ("", {"a": 1}, [1], [1]),
}


@pytest.mark.parametrize("case", MERGES)
def test_merged_as_kubernetes_would(case: str) -> None:
    field, ours, theirs, want = MERGES[case]
    assert merge(ours, theirs, field) == want


def test_an_engine_gets_variables_resources_and_mounts() -> None:
    template = engine(
        env=[{"name": "NCCL_DEBUG", "value": "INFO"}],
        resources={"limits": {"cpu": 8, "rdma/hca": 1}},
        volumeMounts=[{"name": "own", "mountPath": "/own"}],
        ports=[{"containerPort": 6006}],
        imagePullPolicy="Always",
    )
    template["spec"]["volumes"] = [{"name": "own", "emptyDir": {}}]
    before, after = plain()["spec"], rendered(template)["spec"]
    ours, theirs = before["containers"][0], after["containers"][0]
    assert theirs["env"] == [*ours["env"], {"name": "NCCL_DEBUG", "value": "INFO"}]
    assert theirs["resources"]["limits"] == {**ours["resources"]["limits"], "cpu": "8", "rdma/hca": "1"}
    assert theirs["resources"]["requests"] == ours["resources"]["requests"]
    assert theirs["volumeMounts"] == [*ours["volumeMounts"], {"name": "own", "mountPath": "/own"}]
    assert theirs["ports"] == [*ours["ports"], {"containerPort": 6006}]
    assert theirs["imagePullPolicy"] == "Always"
    assert after["volumes"] == [*before["volumes"], {"name": "own", "emptyDir": {}}]


def test_a_value_of_ours_that_is_no_promise_can_be_replaced() -> None:
    service = {"model": {"uri": "http://s/m/", "format": "Safetensors"}, "runtime": {"backend": "VLLM"}}
    variables = rendered(engine(env=[{"name": "HOME", "value": "/own"}]), **service)["spec"]["containers"][0][
        "env"
    ]
    assert [v["value"] for v in variables if v["name"] == "HOME"] == ["/own"]


def test_own_containers_come_after_the_engine_and_before_the_agent_and_are_restricted() -> None:
    template = pod(
        containers=[
            {"name": "exporter", "image": "x"},
            {"name": "engine", "env": [{"name": "A", "value": "1"}]},
        ],
        initContainers=[
            {"name": "prepare", "image": "x"},
            {"name": "proxy", "image": "y", "restartPolicy": "Always"},
        ],
    )
    spec = rendered(template)["spec"]
    assert [c["name"] for c in spec["containers"]] == ["engine", "exporter"]
    assert [c["name"] for c in spec["initContainers"]] == ["prepare", "proxy", "agent"]
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["securityContext"] == container_security(), container["name"]


def test_the_users_security_context_wins_in_the_users_container() -> None:
    own = {"runAsUser": 2000, "readOnlyRootFilesystem": False, "capabilities": {"add": ["NET_BIND_SERVICE"]}}
    container = rendered(extra(securityContext=own))["spec"]["containers"][1]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": False,
        "runAsUser": 2000,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }


def test_tolerations_and_affinity_are_added_to_ours() -> None:
    taint = {"key": "team", "operator": "Exists"}
    spread = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}
    template = pod(tolerations=[taint], affinity={"nodeAffinity": spread, "podAntiAffinity": {"x": []}})
    before, after = plain()["spec"], rendered(template)["spec"]
    assert after["tolerations"] == [*before["tolerations"], taint]
    node = {**before["affinity"]["nodeAffinity"], **spread}
    assert after["affinity"] == {"nodeAffinity": node, "podAntiAffinity": {"x": []}}


def test_null_is_nothing() -> None:
    template = {"spec": {"nodeName": None, "containers": None, "volumes": [{"name": "x", "hostPath": None}]}}
    assert rendered(template)["spec"]["volumes"][-1] == {"name": "x"}


# --- revisions and placement


def test_a_template_is_a_revision_of_its_own_and_none_is_none() -> None:
    bare = revision_id(a_service())
    assert bare == revision_id(a_service(template=None))
    assert revision_id(a_service(template={})) == bare
    ids = [
        revision_id(a_service(template=template))
        for template in (
            {"metadata": {"labels": {"a": "b"}}},
            {"metadata": {"annotations": {"a": "b"}}},
            engine(env=[{"name": "A", "value": "1"}]),
            engine(env=[{"name": "A", "value": "2"}]),
            pod(nodeSelector={"zone": "a"}),
        )
    ]
    assert len({bare, *ids}) == 6


def test_ids_of_release_0_1_0_are_what_they_were() -> None:
    """A change of these restarts every model in every cluster."""
    assert revision_id(a_service()) == "26d1fccfbc"


def test_weights_are_placed_where_the_template_puts_the_pods() -> None:
    short = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}
    template = pod(nodeSelector={"disk": "nvme"}, tolerations=[{"key": "team", "value": "a"}, short])
    hardware = {**HARDWARE, "tolerations": [{"key": "old", "operator": "Exists"}]}
    service = a_service(template=template, hardware=hardware)
    placement = caching.wanted_placement(service)
    assert placement.node_selector == {"zone": "a", "disk": "nvme"}
    assert placement.tolerations == [
        Toleration(key="old", operator="Exists"),
        Toleration(key="team", value="a"),
    ]
    spec = caching.make_cache(service, "cache", 1)["spec"]["placement"]
    assert spec["nodeSelector"] == placement.node_selector
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        *(toleration.to_api() for toleration in placement.tolerations),
    ]
    # In the pod the selector is as it was written, and hardware's in the affinity, as without a template.
    rendered_pod = render_revision(service, GPUType.NVIDIA_L4, 1, "cache", CONFIG).template["spec"]
    assert rendered_pod["nodeSelector"] == {"disk": "nvme"}
    assert short in rendered_pod["tolerations"]


def test_as_many_selectors_and_tolerations_as_both_may_have_fit_into_a_cache() -> None:
    many = [{"key": f"k{n}", "operator": "Exists"} for n in range(32)]
    labels = {f"l{n}": "x" for n in range(64)}
    service = a_service(
        hardware={"tolerations": many[:16], "nodeSelector": dict(list(labels.items())[:32])},
        template=pod(tolerations=many[16:], nodeSelector=dict(list(labels.items())[32:])),
    )
    placement = caching.wanted_placement(service)
    assert len(placement.tolerations) == 32
    assert len(placement.node_selector) == 64


# --- what is refused


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_break_a_promise_makes_no_pod(case: str) -> None:
    template, words = REFUSED[case]
    with pytest.raises(InvalidSpec) as refused:
        rendered(template, hardware=HARDWARE)
    assert words in str(refused.value)
    assert "spec.template." in str(refused.value)


@pytest.mark.parametrize("case", NEWLY_REFUSED)
def test_what_an_object_may_keep_the_operator_takes(case: str) -> None:
    rendered(NEWLY_REFUSED[case][0], hardware=HARDWARE)


def test_a_privileged_container_beside_the_model_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(
        InvalidSpec, match=r"containers\[extra\].securityContext.privileged: .* leave `privileged` out"
    ):
        rendered(pod(containers=[{"name": "extra", "image": "x", "securityContext": {"privileged": True}}]))


def test_many_problems_are_told_at_once_but_not_too_many() -> None:
    template = pod(hostname="a", subdomain="b", nodeName="c", priority=1, os={}, restartPolicy="Never")
    with pytest.raises(InvalidSpec) as refused:
        rendered(template)
    assert str(refused.value).count("spec.template.spec.") == 5
    assert str(refused.value).endswith("; and 1 more")


ODD: dict[str, dict[str, Any]] = {
    "containers that are no list": pod(containers="x"),
    "a container that is no object": pod(containers=["x"]),
    "a container without a name": pod(containers=[{"image": "x"}]),
    "a name that is a number": pod(containers=[{"name": 5}]),
    "the same container twice": pod(containers=[{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]),
    "the same variable twice": engine(env=[{"name": "A"}, {"name": "A"}]),
    "the same port twice": engine(ports=[{"containerPort": 1}, {"containerPort": 1, "protocol": "TCP"}]),
    "a protocol that is none": engine(ports=[{"containerPort": 1, "protocol": {}}]),
    "a variable without a name": engine(env=[{"value": "x"}]),
    "a mount without a path": engine(volumeMounts=[{"name": "x"}]),
    "volumes that are an object": pod(volumes={}),
    "a claim that is text": pod(volumes=[{"name": "x", "persistentVolumeClaim": "y"}]),
    "a security context that is text": pod(securityContext="x"),
    "an affinity that is a list": pod(affinity=[]),
    "an affinity to nodes that is text": pod(affinity={"nodeAffinity": "x"}),
    "a selector that is a number": pod(nodeSelector={"a": 5}),
    "a toleration that is text": pod(tolerations=["x"]),
    "a toleration that knows another word": pod(tolerations=[{"operator": "Gt"}]),
    "a flag that is text": pod(hostNetwork="no"),
    "resources that are text": engine(resources="x"),
    "limits that are a list": engine(resources={"limits": []}),
    "a field that no pod has": pod(image="x"),
    "a field that no container has": engine(imagePulPolicy="x"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_no_schema_lets_in_is_refused_and_breaks_nothing(case: str) -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.template\."):
        rendered(ODD[case])


# --- whatever is laid over it

NAMES = st.sampled_from(["engine", "agent", "a", "b", "weights", "shm", "POD_UID", "PREHEAT_X", "HOME"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 9000) | NAMES | st.sampled_from(["/tmp", "/x", "Always", "1"])
)
JSON = st.recursive(
    SCALARS, lambda c: st.lists(c, max_size=3) | st.dictionaries(NAMES, c, max_size=3), max_leaves=6
)
FIELDS = [*t.POD_FIELDS, *t.REFUSED_POD_VALUES, *t.REFUSED_POD_FIELDS]


def mostly(*usual: Any, rare: Any = ()) -> st.SearchStrategy[Any]:
    """Values of which most are harmless: else hardly any template would be let through."""
    return st.sampled_from([*usual * 12, *rare])


def items(*keys: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(
        st.fixed_dictionaries(fields), max_size=3, unique_by=lambda item: tuple(item[key] for key in keys)
    )


ENV = items("name", name=mostly("A", "B", "HOME", rare=("POD_UID", "PREHEAT_X")), value=st.sampled_from("12"))
MOUNTS = items(
    "mountPath",
    name=mostly("own", "shm", rare=("weights",)),
    mountPath=mostly("/a", "/b", "/c", rare=("/tmp", "/")),
)
PORTS = items("containerPort", containerPort=mostly(1, 2, rare=(8000, 9080)))
AMOUNTS = st.dictionaries(
    mostly("cpu", "rdma/hca", "memory", rare=("nvidia.com/gpu",)), st.integers(1, 4), max_size=2
)
RESOURCES = st.fixed_dictionaries({"limits": AMOUNTS, "requests": AMOUNTS})
OVER_ENGINE = {"env": ENV, "volumeMounts": MOUNTS, "ports": PORTS, "resources": RESOURCES}
OWN = {
    **OVER_ENGINE,
    "image": st.just("x"),
    "securityContext": st.just({"runAsUser": 7}),
    "command": st.just(["x"]),
}


def containers(ours: str, over: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    one = st.fixed_dictionaries({"name": st.just(ours)}, optional=over)
    others = items("name", name=mostly(f"{ours}-a", f"{ours}-b", rare=("engine", "agent")), **OWN)
    return st.tuples(one, others).map(lambda both: [both[0], *both[1]])


PLAUSIBLE = st.fixed_dictionaries(
    {},
    optional={
        "containers": containers("engine", OVER_ENGINE),
        "initContainers": containers("agent", {"env": ENV, "resources": RESOURCES}),
        "volumes": items("name", name=mostly("own", "data", rare=t.OWN_VOLUMES), emptyDir=st.just({})),
        "tolerations": items(
            "key", key=st.sampled_from(["nvidia.com/gpu", "a", "b"]), operator=st.just("Exists")
        ),
        "affinity": st.dictionaries(
            st.sampled_from(["nodeAffinity", "podAffinity"]),
            st.dictionaries(
                mostly(
                    "preferredDuringSchedulingIgnoredDuringExecution",
                    rare=("requiredDuringSchedulingIgnoredDuringExecution",),
                ),
                st.lists(st.fixed_dictionaries({"weight": st.integers(1, 9)}), max_size=2),
            ),
        ),
        "nodeSelector": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2),
        "securityContext": st.dictionaries(
            mostly("fsGroupChangePolicy", "supplementalGroups", rare=t.REFUSED_POD_SECURITY),
            st.just("Always"),
        ),
        "enableServiceLinks": st.booleans(),
        "hostAliases": items("ip", ip=st.sampled_from("12")),
    },
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_junk_is_laid_over_or_refused_and_nothing_else_happens(spec: dict[str, Any]) -> None:
    with suppress(InvalidSpec):
        rendered({"spec": spec})


def test_what_is_tried_is_mostly_let_through() -> None:
    """Else the invariants below would be of nothing."""
    passed: list[bool] = []

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(PLAUSIBLE)
    def tried(spec: dict[str, Any]) -> None:
        try:
            rendered({"spec": spec})
        except InvalidSpec:
            passed.append(False)
        else:
            passed.append(bool(spec))

    tried()
    assert sum(passed) > len(passed) / 3


@settings(max_examples=200, deadline=None)
@given(PLAUSIBLE, st.dictionaries(mostly("a", "b/c", rare=("preheat.dev/revision",)), st.sampled_from("xy")))
def test_ours_survives_whatever_is_laid_over_it(spec: dict[str, Any], labels: dict[str, str]) -> None:
    template = {"metadata": {"labels": labels, "annotations": labels}, "spec": spec}
    try:
        found = rendered(template)
    except InvalidSpec:
        return
    before, after = plain(), found
    ours, theirs = before["spec"], after["spec"]
    for name, value in before["metadata"]["labels"].items():
        if name != "preheat.dev/revision":
            assert after["metadata"]["labels"][name] == value
    assert before["metadata"]["annotations"].items() <= after["metadata"]["annotations"].items()
    for name in (
        "automountServiceAccountToken", "shareProcessNamespace", "terminationGracePeriodSeconds",
    ):  # fmt: skip
        assert theirs[name] == ours[name]
    assert not theirs.get("hostNetwork")
    changed = {k for k, v in ours["securityContext"].items() if theirs["securityContext"][k] != v}
    assert changed <= {"fsGroupChangePolicy"}
    assert theirs["tolerations"][: len(ours["tolerations"])] == ours["tolerations"]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    assert theirs["affinity"]["nodeAffinity"][required] == ours["affinity"]["nodeAffinity"][required]
    assert theirs["volumes"][: len(ours["volumes"])] == ours["volumes"]
    assert theirs["containers"][0]["name"] == "engine"
    assert theirs["initContainers"][-1]["name"] == "agent"
    for place, number in (("containers", 0), ("initContainers", -1)):
        mine, now = ours[place][0], theirs[place][number]
        assert {v["name"]: v for v in mine["env"]}.items() <= {v["name"]: v for v in now["env"]}.items() or (
            "POD_UID" in {v["name"] for v in now["env"]}
        )
        for field in mine.keys() - {"env", "resources", "volumeMounts", "ports", "imagePullPolicy"}:
            assert now[field] == mine[field], field
        assert now["volumeMounts"][: len(mine["volumeMounts"])] == mine["volumeMounts"]
        assert now["ports"][: len(mine["ports"])] == mine["ports"]
        gpu = mine["resources"].get("limits", {}).get("nvidia.com/gpu")
        assert now["resources"].get("limits", {}).get("nvidia.com/gpu") == gpu
    assert PORT_AGENT in [p["containerPort"] for p in theirs["initContainers"][-1]["ports"]]


def test_the_sample_of_everything_is_laid_over_whole() -> None:
    found = rendered(everything())
    assert found["metadata"]["labels"]["example.com/team"] == "search"
    assert {v["name"] for v in found["spec"]["volumes"]} >= {
        v["name"] for v in everything()["spec"]["volumes"]
    }
    assert serving.revision_id(a_service(template=everything())) != revision_id(a_service())
