"""The pager's Job: what it mounts, where, and that it tries once."""

from typing import Any

import pytest
from preheat.api.gpu import GPUType
from preheat.config import OperatorConfig
from preheat.resources.names import pager_name
from preheat.resources.paging import FOLDER, make_pager
from preheat.resources.serving import render_revision
from preheat_warmer.config import PageConfig, from_environment

from tests.builders import a_service

CONFIG = OperatorConfig(agent_image="agent:1", warmer_image="warmer:1")
KEY = "0123456789abcdef"


def pager(narrow: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    service = a_service(**spec)
    revision = render_revision(service, GPUType.NVIDIA_L4, 1, "weights", CONFIG, narrow=narrow)
    return make_pager(service, revision, "n1", 16 << 30, CONFIG)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def key_of(pod: dict[str, Any]) -> str:
    (volume,) = pod["volumes"]
    return str(volume["persistentVolumeClaim"]["claimName"]).split("-")[1]


@pytest.mark.parametrize("narrow", [False, True])
def test_it_reads_the_folder_of_the_cache_as_the_engine_does(narrow: bool) -> None:
    key = key_of(pod_of(pager()))
    pod = pod_of(pager((key,) if narrow else ()))
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": f"preheat-{key}-serve", "readOnly": True}
    (mount,) = pod["containers"][0]["volumeMounts"]
    below = {} if narrow else {"subPath": key}
    assert mount == {"name": "weights", "mountPath": FOLDER, "readOnly": True, **below}


def test_the_warmer_takes_its_configuration() -> None:
    (variable,) = pod_of(pager())["containers"][0]["env"]
    config = from_environment({variable["name"]: variable["value"]})
    assert isinstance(config, PageConfig)
    assert (str(config.destination), config.room_bytes, config.node_name) == (FOLDER, None, "n1")


def test_it_tries_once_on_one_node_and_asks_for_no_gpu() -> None:
    job = pager()
    assert job["spec"]["backoffLimit"] == 0
    assert "podFailurePolicy" not in job["spec"], "what was evicted for its memory would be made again"
    pod = pod_of(job)
    assert list(pod["containers"][0]["resources"]["limits"]) == ["memory"]
    assert pod["restartPolicy"] == "Never"
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}


def test_it_tolerates_what_the_pods_tolerate_and_runs_nothing_of_the_users_own() -> None:
    asked = {"key": "team", "operator": "Equal", "value": "search", "effect": "NoSchedule"}
    own = {"name": "exporter", "image": "r.example/exporter:1"}
    pod = pod_of(
        pager(hardware={"tolerations": [asked]}, template={"spec": {"containers": [{"name": "engine"}, own]}})
    )
    assert asked in pod["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["tolerations"]
    assert [container["name"] for container in pod["containers"]] == ["pager"]


def test_a_name_tells_revision_and_node_and_is_short_enough() -> None:
    mine = {pager_name("x" * 40, revision, node) for revision in ("a", "b") for node in ("n1", "n2")}
    assert len(mine) == 4
    assert all(len(name) <= 52 for name in mine)
