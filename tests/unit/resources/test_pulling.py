"""The puller's Job: what it mounts, on whose word, and where."""

from typing import Any

import pytest
from preheat.api.gpu import GPUType
from preheat.config import OperatorConfig
from preheat.resources.pulling import Image, Named, PodImages, images_of, make_puller, puller_name
from preheat.resources.serving import render_revision

from tests.builders import a_service

CONFIG = OperatorConfig(agent_image="agent:1", warmer_image="warmer:1")


def template_of(**spec: Any) -> dict[str, Any]:
    return render_revision(a_service(**spec), GPUType.NVIDIA_L4, 1, "weights", CONFIG).template


def puller(**spec: Any) -> dict[str, Any]:
    template = template_of(**spec)
    return make_puller(a_service(**spec), template, images_of(template), "n1", CONFIG)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def test_every_image_of_the_pods_is_a_volume_with_the_policy_of_its_container() -> None:
    containers = [
        {"name": "engine", "imagePullPolicy": "Always"},
        {"name": "exporter", "image": "r.example/exporter:1"},
        {"name": "again", "image": "r.example/exporter:1"},
        {"name": "moving", "image": "r.example/exporter"},
    ]
    pod = pod_of(
        puller(runtime={"image": "r.example/engine:2"}, template={"spec": {"containers": containers}})
    )
    assert [volume["image"] for volume in pod["volumes"]] == [
        {"reference": "r.example/engine:2", "pullPolicy": "Always"},
        {"reference": "r.example/exporter:1", "pullPolicy": "IfNotPresent"},
        {"reference": "r.example/exporter", "pullPolicy": "Always"},
        {"reference": "agent:1", "pullPolicy": "IfNotPresent"},
    ]
    (container,) = pod["containers"]
    assert container["image"] == "warmer:1"
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [f"/images/{n}" for n in range(4)]
    assert '"images": ["/images/0", "/images/1", "/images/2", "/images/3"]' in container["env"][0]["value"]


def test_it_asks_for_no_gpu_and_for_one_node() -> None:
    pod = pod_of(puller())
    assert list(pod["containers"][0]["resources"]["requests"]) == ["cpu", "memory"]
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}


def test_it_pulls_on_the_word_of_the_pods() -> None:
    spec = {"imagePullSecrets": [{"name": "registry"}], "serviceAccountName": "puller"}
    pod = pod_of(puller(template={"spec": spec}))
    assert (pod["imagePullSecrets"], pod["serviceAccountName"]) == ([{"name": "registry"}], "puller")
    assert pod["automountServiceAccountToken"] is False
    assert not {"imagePullSecrets", "serviceAccountName"} & pod_of(puller()).keys()


def test_it_tolerates_what_the_pods_tolerate() -> None:
    asked = {"key": "team", "operator": "Equal", "value": "search", "effect": "NoSchedule"}
    pod = pod_of(puller(hardware={"tolerations": [asked]}))
    assert asked in pod["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["tolerations"]
    keys = [toleration["key"] for toleration in pod["tolerations"]]
    assert len(keys) == len(set(keys))


def test_a_name_tells_images_and_node_and_is_short_enough() -> None:
    service, images = a_service("x" * 40), images_of(template_of())
    others = [
        puller_name(service, images, "n2"),
        puller_name(service, images_of(template_of(runtime={"image": "other:1"})), "n1"),
        puller_name(service, images_of(template_of(template={"spec": {"imagePullSecrets": [{"name": "a"}]}})), "n1"),
    ]  # fmt: skip
    name = puller_name(service, images, "n1")
    assert name not in others
    assert len(set(others)) == 3
    assert all(len(one) <= 52 for one in [name, *others])


ENGINE = {
    "name": "engine",
    "env": [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "a"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "maybe", "key": "c", "optional": True}}},
        {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ],
    "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "perhaps", "optional": True}}],
    "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("one", "two", "three")],
}
VOLUMES = [
    {"name": "one", "secret": {"secretName": "files", "items": [{"key": "k", "path": "x/k"}]}},
    {"name": "two", "configMap": {"name": "settings"}},
    {"name": "three", "projected": {"sources": [{"secret": {"name": "keys", "items": [{"key": "b", "path": "b"}]}}]}},
    {"name": "not-mounted", "secret": {"secretName": "nobody"}},
]  # fmt: skip


def test_what_pods_name_and_cannot_do_without_is_one_volume_of_which_the_process_can_read_nothing() -> None:
    spec = {"template": {"spec": {"containers": [ENGINE], "volumes": VOLUMES}}}
    assert images_of(template_of(**spec)).named == (
        Named("configMap", "settings"),
        Named("configMap", "settings", "a"),
        Named("secret", "all"),
        Named("secret", "files", "k"),
        Named("secret", "keys", "a"),
        Named("secret", "keys", "b"),
    )
    pod = pod_of(puller(**spec))
    volume = pod["volumes"][-1]["projected"]
    assert volume["defaultMode"] == 0
    assert volume["sources"][0] == {"configMap": {"name": "settings"}}
    assert volume["sources"][4]["secret"] == {"name": "keys", "items": [{"key": "a", "path": "+4/a"}]}
    paths = [
        item["path"]
        for one in volume["sources"]
        for source in one.values()
        for item in source.get("items", ())
    ]
    assert len(paths) == len(set(paths)) == 4
    assert "fsGroup" not in pod["securityContext"]
    assert pod["containers"][0]["volumeMounts"][-1] == {
        "name": "named",
        "mountPath": "/named",
        "readOnly": True,
    }
    assert [variable["name"] for variable in pod["containers"][0]["env"]] == ["PREHEAT_WARMER_CONFIG"]
    assert "/named" not in pod["containers"][0]["env"][0]["value"]


def test_a_pod_that_names_nothing_has_no_such_volume() -> None:
    assert images_of(template_of()).named == ()
    assert all("image" in volume for volume in pod_of(puller())["volumes"])


def test_a_key_that_is_not_there_is_told_with_its_object() -> None:
    named = (Named("secret", "keys", "a"), Named("secret", "more", "a"), Named("configMap", "settings", "a"))
    told = PodImages((), named=named).told
    assert told("references non-existent secret key: a") == (
        'references non-existent secret key: a (in secret "keys" or "more")'
    )
    words = "[configmap references non-existent config key: a, references non-existent secret key: z]"
    assert told(words) == words.replace("config key: a", 'config key: a (in configMap "settings")')
    assert told('secret "keys" not found') == 'secret "keys" not found'


COVERED = {
    "the same": (PodImages((Image("a", "Always"),)), True),
    "more": (PodImages((Image("b", "Always"), Image("a", "Always"))), True),
    "another image": (PodImages((Image("b", "Always"),)), False),
    "another policy": (PodImages((Image("a", "Never"),)), False),
    "another Secret": (PodImages((Image("a", "Always"),), ("registry",)), False),
    "more that is named": (PodImages((Image("a", "Always"),), named=(Named("secret", "x"),)), True),
    "another account": (PodImages((Image("a", "Always"),), (), "team"), False),
}


@pytest.mark.parametrize("case", COVERED)
def test_pods_that_run_show_that_images_are_to_be_had(case: str) -> None:
    running, want = COVERED[case]
    assert running.covers(PodImages((Image("a", "Always"),))) is want


def test_pods_that_name_no_secret_show_nothing_of_one() -> None:
    running, wanted = PodImages(()), PodImages((), named=(Named("secret", "x", "k"),))
    assert not running.covers(wanted)
    assert running.key != wanted.key
