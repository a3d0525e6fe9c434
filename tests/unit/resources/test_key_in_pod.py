"""Which cache's weights a pod reaches."""

from typing import Any

from preheat.api.constants import NODE_LABEL_PREFIX
from preheat.resources.weights import key_in_pod

MINE, OTHER = "0123456789abcdef", "fedcba9876543210"


def test_weights_in_an_image_are_told_from_another_caches_folder_beside_them() -> None:
    needed = {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": NODE_LABEL_PREFIX + MINE, "operator": "Exists"}]}]
    }
    mount = {"name": "draft", "mountPath": "/draft", "subPath": f".preheat/ns/{OTHER}/model"}
    pod: dict[str, Any] = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": needed}},
        "containers": [{"name": "engine", "volumeMounts": [mount]}],
    }
    assert key_in_pod(pod) == MINE
    del pod["affinity"]
    assert key_in_pod(pod) == OTHER
