"""The task ``pull``: whether the kubelet has mounted what it was to pull."""

import json
from pathlib import Path

import pytest
from preheat_warmer.config import PullConfig, from_environment
from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.image import check_pulled


def config(**fields: object) -> PullConfig:
    found = from_environment({"PREHEAT_WARMER_CONFIG": json.dumps({"task": "pull", **fields})})
    assert isinstance(found, PullConfig)
    return found


def test_images_that_are_mounted_are_told(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bin").mkdir()
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert check_pulled(config(images=folders, nodeName="n1")) == {"state": "Pulled", "images": 2}


@pytest.mark.parametrize("made", [True, False])
def test_a_kubelet_that_mounts_nothing_has_pulled_nothing(tmp_path: Path, *, made: bool) -> None:
    folder = tmp_path / "0"
    if made:
        folder.mkdir()
    with pytest.raises(Hopeless, match=r"Kubernetes 1\.35") as problem:
        check_pulled(config(images=[str(folder)]))
    assert problem.value.reason is Reason.NO_IMAGE_VOLUME


@pytest.mark.parametrize("images", [None, [], "/images/0", [1], [""]])
def test_without_folders_it_is_refused(images: object) -> None:
    with pytest.raises(Hopeless) as problem:
        config(images=images)
    assert problem.value.reason is Reason.INVALID_CONFIG
