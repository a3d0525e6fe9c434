"""The local cluster's parts that decide what is ended, and who gets which addresses."""

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from e2e.cluster.local import cluster as local
from e2e.cluster.local import processes
from e2e.cluster.local.archive import read_image, write_image
from e2e.cluster.local.cluster import LocalProvider
from e2e.cluster.local.processes import end_all, is_in_cgroup, marked

CGROUPS = ("preheat-demo-a", "preheat-demo-b")


@pytest.mark.parametrize(
    ("membership", "is_ours"),
    [
        pytest.param("4:memory:/preheat-demo-a/kubepods/pod1/c1\n", True, id="a container of a pod"),
        pytest.param("4:memory:/preheat-demo-b\n", True, id="the node itself"),
        pytest.param("0::/preheat-demo-a/kubepods/c1\n", True, id="cgroup v2"),
        pytest.param(
            "4:cpu:/\n3:memory:/outer/preheat-demo-a/c1\n",
            True,
            id="below an outer cgroup, in one of several",
        ),
        pytest.param(
            "4:memory:/preheat-demo-a-a/kubepods/c1\n", False, id="a cluster whose name begins like ours"
        ),
        pytest.param("4:memory:/preheat-demo\n", False, id="a name that ours begins like"),
        pytest.param("4:memory:/\n", False, id="none"),
    ],
)
def test_a_process_belongs_to_a_cluster_by_the_whole_name_of_its_cgroup(
    membership: str, is_ours: bool
) -> None:
    assert is_in_cgroup(membership, CGROUPS) == is_ours


def test_ending_one_mark_leaves_the_other_and_strangers_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sh", "-c", "exit 7"])
    os.waitid(os.P_PID, stranger.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not collected yet
    one = processes.start(f"{tmp_path}-one", ["sleep", "60"], tmp_path / "one.log")
    other = processes.start(f"{tmp_path}-other", ["sleep", "60"], tmp_path / "other.log")
    try:
        end_all(f"{tmp_path}-one")
        assert not Path(f"/proc/{one}").exists(), "ended, and collected"
        assert list(marked(f"{tmp_path}-other")) == [other]
        assert stranger.wait(timeout=10) == 7, "its exit status is its parent's to read"
    finally:
        end_all(f"{tmp_path}-other")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the state of clusters, on a machine without routes into their ranges."""
    monkeypatch.setattr(local, "STATE", tmp_path / "clusters")
    monkeypatch.setattr(local, "routes_in", lambda network: "")
    monkeypatch.setenv("PREHEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "clusters"


def _claim(name: str) -> int:
    provider = LocalProvider(name)
    provider.claim_network()
    return provider.network.index


@pytest.mark.usefixtures("state")
def test_clusters_never_share_a_network() -> None:
    """More clusters than a birthday needs: names that point at the same range get others."""
    networks = [_claim(f"cluster-{number}") for number in range(40)]
    assert len(set(networks)) == len(networks)


@pytest.mark.usefixtures("state")
def test_a_cluster_finds_its_network_again() -> None:
    claimed = [_claim(f"cluster-{number}") for number in range(20)]
    assert [LocalProvider(f"cluster-{number}").network.index for number in range(20)] == claimed


@pytest.mark.usefixtures("state")
def test_a_range_that_the_machine_routes_elsewhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LocalProvider("preheat").network
    monkeypatch.setattr(local, "routes_in", lambda network: "a VPN" if network == own else "")
    assert _claim("preheat") != own.index


@pytest.mark.usefixtures("state")
def test_no_free_range_is_said() -> None:
    for number in range(local.NETWORKS):
        _claim(f"cluster-{number}")
    with pytest.raises(RuntimeError, match="no free network"):
        _claim("one-too-many")


def test_taking_down_what_never_was_up_touches_no_neighbour(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name points at a range that the neighbour has: the neighbour's cables stay."""
    monkeypatch.setattr(local, "FIRST_NETWORK", 140)
    monkeypatch.setattr(local, "NETWORKS", 1)
    monkeypatch.setattr(local, "OWN_FOLDERS", ())
    monkeypatch.setattr(local, "kubeconfig_path", lambda name: tmp_path / "build" / name / "kubeconfig")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    changes: list[str] = []
    monkeypatch.setattr(local, "ip", lambda command, check=True: changes.append(command))
    _claim("neighbour")
    LocalProvider("never-was-up").down()
    assert changes == []
    LocalProvider("neighbour").down()
    assert changes == ["link delete ph140n0", "link delete ph140n1", "link delete preheat140"]
    assert not state.exists(), "the last one leaves nothing"


def test_an_archive_tells_its_names_and_its_digest(tmp_path: Path) -> None:
    program, archive = tmp_path / "program", tmp_path / "image.tar"
    program.write_bytes(b"one")
    write_image(archive, "preheat.local/pause:1", program, "/pause")
    image = read_image(archive)
    assert image.names == ("preheat.local/pause:1",)
    program.write_bytes(b"two")
    write_image(archive, "preheat.local/pause:1", program, "/pause")
    assert read_image(archive).id != image.id, "another program, another image"


def test_an_archive_of_several_images_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "two.tar"
    content = json.dumps([{"Config": "a", "RepoTags": []}, {"Config": "b", "RepoTags": []}]).encode()
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match="2 images"):
        read_image(archive)
