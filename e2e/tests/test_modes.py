"""Weights on a shared volume and in an image, on two real nodes: the same promises as on node disks."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.local.cluster import LocalProvider
from e2e.cluster.provider import ROOT
from e2e.images.once import cache_directory
from e2e.images.triton_tree import demo_model
from e2e.tests.cluster import EXAMPLE, Cluster
from e2e.tests.test_gpus import no_operator

CLAIM = "e2e-shared"
FOLDER = "/var/lib/preheat-e2e-shared"
"""Not one of a node's own folders: both nodes of the local cluster see the same, as they would a network file system."""
IMAGE = "preheat.local/smollm2"
A10G = {"gpu": {"types": ["nvidia-a10g"]}}
TOLD_SECONDS = 60
WARM_SECONDS = 120


@pytest.fixture(autouse=True)
def on_the_local_cluster(cluster: Cluster) -> None:
    if not isinstance(cluster.provider, LocalProvider):
        pytest.skip("needs a volume that two nodes share, and ctr on the nodes: the local cluster has both")
    cluster.clear()


# --- a shared volume


@pytest.fixture
def volume(cluster: Cluster) -> Iterator[str]:
    """A folder that both nodes see, with somebody else's file in it. The claim and the volume are not there yet."""
    on(cluster, f"mkdir -p {FOLDER}/theirs && echo theirs > {FOLDER}/theirs/file && chown 1000:1000 {FOLDER}")
    yield FOLDER
    cluster.kubectl("-n", cluster.namespace, "delete", "mc", CLAIM, "--ignore-not-found")
    cluster.kubectl(
        "-n", cluster.namespace, "delete", "pvc", CLAIM, "--ignore-not-found", "--timeout=60s", check=False
    )
    cluster.kubectl("delete", "pv", CLAIM, "--ignore-not-found", "--timeout=60s", check=False)
    on(cluster, f"rm -rf {FOLDER}")


def on(cluster: Cluster, script: str, number: int = 0) -> str:
    return cluster.provider.node_exec(cluster.provider.nodes()[number], ["sh", "-c", script])


def put(cluster: Cluster, body: dict[str, Any]) -> None:
    path = ROOT / "build" / "e2e" / f"{body['kind']}-{body['metadata']['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(body))
    cluster.kubectl("apply", "-f", str(path))


def a_claim(cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": cluster.namespace},
        "spec": {
            "storageClassName": "", "volumeName": CLAIM, "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }  # fmt: skip


A_VOLUME = {
    "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": CLAIM},
    "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": FOLDER, "type": "Directory"},
    },
}  # fmt: skip


def a_cache(cluster: Cluster, storage: dict[str, Any]) -> dict[str, Any]:
    """A cache made ahead of time, for whoever asks for the example's model in the same place."""
    model = yaml.safe_load(EXAMPLE.read_text())["spec"]["model"]
    return {
        "apiVersion": "preheat.dev/v1alpha1", "kind": "ModelCache",
        "metadata": {"name": CLAIM, "namespace": cluster.namespace},
        "spec": {"source": model, "storage": storage},
    }  # fmt: skip


def cache_said(cluster: Cluster, name: str = CLAIM) -> dict[str, Any]:
    status = (cluster.get("mc", name) or {}).get("status") or {}
    return next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})


def told(cluster: Cluster, service: str, reason: str) -> None:
    """The cache and who waits for it say the same, with the name of the claim; no pod is there meanwhile."""
    seconds = cluster.until(reason, lambda: cache_said(cluster).get("reason") == reason, TOLD_SECONDS)
    print(f"{reason}: told after {seconds:.1f} s: {cache_said(cluster)['message']}")
    assert CLAIM in cache_said(cluster)["message"]
    cluster.until("its service says so", lambda: cluster.ready(service).get("reason") == reason, TOLD_SECONDS)
    assert cluster.pods(service) == []


def test_a_shared_volume_is_filled_once_and_serves_both_nodes(
    cluster: Cluster, volume: str, service: str
) -> None:
    shared = {"mode": "Shared", "claimName": CLAIM}
    put(cluster, a_cache(cluster, shared))
    cluster.apply(service, cache=shared)
    told(cluster, service, "ReferenceMissing")
    put(cluster, a_claim(cluster))
    told(cluster, service, "ClaimNotBound")
    put(cluster, A_VOLUME)

    def is_warm() -> bool:
        pods = cluster.pods(
            service
        )  # before the cache: it may be ready, and a pod there, between two questions
        ready = cache_said(cluster).get("status") == "True"
        assert ready or not pods, "no pod before the weights are published"
        return ready

    seconds = cluster.until("the volume holds the weights", is_warm, WARM_SECONDS)
    status = (cluster.get("mc", CLAIM) or {})["status"]
    print(f"bound and warmed in {seconds:.1f} s")
    assert (status["nodeSummary"], status["readyNodes"]) == ("shared", 1)
    key = status["key"]
    assert key not in cluster.kubectl("get", "nodes", "--show-labels"), "no node is better than another"
    cluster.wait_ready(service)

    other = f"{service}-2"[-40:].lstrip("-")
    try:
        cluster.apply(other, cache=shared, hardware=A10G)
        cluster.wait_ready(other)
        (one,), (two,) = cluster.pods(service), cluster.pods(other)
        assert {p["spec"]["nodeName"] for p in (one, two)} == set(cluster.provider.nodes())
        jobs = cluster.items("jobs", f"preheat.dev/modelcache={CLAIM}")
        assert len(jobs) == 1, "the second one fetches nothing"
        assert on(cluster, f"ls {volume}/.preheat/{cluster.namespace}") == f"{key}\n"
        assert on(cluster, f"cat {volume}/theirs/file") == "theirs\n", "what is not ours is left alone"
    finally:
        cluster.kubectl("-n", cluster.namespace, "delete", "llmd", other, "--ignore-not-found")
        cluster.until("the second one is gone", lambda: not cluster.pods(other), 120)


def test_a_volume_that_was_emptied_serves_nobody_also_without_an_operator(
    cluster: Cluster, volume: str, service: str
) -> None:
    shared = {"mode": "Shared", "claimName": CLAIM}
    put(cluster, A_VOLUME)
    put(cluster, a_claim(cluster))
    put(cluster, a_cache(cluster, shared))
    cluster.apply(service, cache=shared)
    cluster.wait_ready(service, WARM_SECONDS)
    folder = f"{volume}/.preheat/{cluster.namespace}/{(cluster.get('mc', CLAIM) or {})['status']['key']}"
    (before,) = cluster.pods(service)
    with no_operator(cluster):
        on(cluster, f"mv {folder}/model {folder}/aside")
        cluster.kubectl("-n", cluster.namespace, "delete", "pod", before["metadata"]["name"])
        cluster.until("a new pod runs", lambda: _runs(cluster, service, before), 120)
        for _ in range(15):
            assert cluster.ready_endpoints(service) == 0, "no engine serves what nobody published"
            cluster.until("a second", lambda: True, 1, every=1)
    cluster.until("it says so", lambda: cluster.ready(service).get("reason") == "LoadFailed", TOLD_SECONDS)
    assert ".preheat-manifest.json" in cluster.ready(service)["message"]
    on(cluster, f"rmdir {folder}/model && mv {folder}/aside {folder}/model")
    (empty,) = cluster.pods(service)
    cluster.kubectl("-n", cluster.namespace, "delete", "pod", empty["metadata"]["name"])
    cluster.until("another pod", lambda: _runs(cluster, service, empty), 120)
    cluster.wait_ready(service)


def _runs(cluster: Cluster, service: str, not_this: dict[str, Any]) -> bool:
    return any(
        pod["metadata"]["uid"] != not_this["metadata"]["uid"] and pod["status"]["phase"] == "Running"
        for pod in cluster.pods(service)
    )


# --- an image


@pytest.fixture(scope="module")
def archive() -> tuple[Path, str]:
    """The demo's model as an image; its archive and its digest."""
    model = demo_model(cache_directory())
    content = model.read_bytes()
    sums = f"{hashlib.sha256(content).hexdigest()}  {model.name}\n".encode()
    path = ROOT / "build" / "e2e" / "weights-image.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, write_image(path, {model.name: content, "SHA256SUMS": sums})


def write_image(path: Path, files: dict[str, bytes]) -> str:
    """Write an OCI archive of an image with these files in its root; return the digest of its manifest."""
    layer = _tar(files)
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }  # fmt: skip
    kind = "application/vnd.oci.image"
    blobs = [layer, json.dumps(config).encode()]
    layer_entry, config_entry = (
        {"mediaType": f"{kind}.{name}", "digest": _digest(blob), "size": len(blob)}
        for name, blob in zip(("layer.v1.tar", "config.v1+json"), blobs, strict=True)
    )
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": config_entry,
            "layers": [layer_entry],
        }
    ).encode()
    entry = {"mediaType": f"{kind}.manifest.v1+json", "digest": _digest(manifest), "size": len(manifest)}
    index = {"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [entry]}
    members = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{f"blobs/{_digest(blob).replace(':', '/')}": blob for blob in (*blobs, manifest)},
    }
    path.write_bytes(_tar(members))
    return _digest(manifest)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def load(cluster: Cluster, path: Path, number: int) -> None:
    """Do what pulling would: have a node's runtime know the image by its digest."""
    command = [
        "ctr",
        "-n",
        "k8s.io",
        "images",
        "import",
        "--local",
        "--digests",
        "--base-name",
        IMAGE,
        str(path),
    ]
    cluster.provider.node_exec(cluster.provider.nodes()[number], command)


def remove(cluster: Cluster, digest: str, number: int) -> None:
    command = ["ctr", "-n", "k8s.io", "images", "rm", "--sync", f"{IMAGE}@{digest}"]
    cluster.provider.node_exec(cluster.provider.nodes()[number], command)


def the_cache(cluster: Cluster, service: str) -> dict[str, Any]:
    found = cluster.items("mc", f"preheat.dev/llmdeployment={service}")
    return found[0] if found else {}


def labelled(cluster: Cluster, key: str) -> set[str]:
    names = cluster.kubectl("get", "nodes", "-l", f"cache.preheat.dev/{key}=ready", "-o", "name").split()
    return {name.removeprefix("node/") for name in names}


def test_an_image_is_verified_labelled_and_served(
    cluster: Cluster, service: str, archive: tuple[Path, str]
) -> None:
    path, digest = archive
    image = {"uri": f"oci://{IMAGE}@{digest}"}
    cluster.apply(service, model=image, cache={"mode": "Image"})
    cluster.until("a cache with a status", lambda: the_cache(cluster, service).get("status"), 60)
    key, node = the_cache(cluster, service)["status"]["key"], cluster.provider.nodes()[0]
    # Nobody can pull from preheat.local: the warmer waits, and with it the pod.
    name = the_cache(cluster, service)["metadata"]["name"]
    cluster.until("it says so", lambda: "Pull" in cache_said(cluster, name).get("message", ""), TOLD_SECONDS)
    assert labelled(cluster, key) == set()
    assert all("nodeName" not in pod["spec"] for pod in cluster.pods(service))

    load(cluster, path, 0)
    cluster.until("the node is labelled", lambda: labelled(cluster, key) == {node}, 240)
    cluster.wait_ready(service)
    (pod,) = cluster.pods(service)
    assert pod["spec"]["nodeName"] == node
    (weights,) = [v for v in pod["spec"]["volumes"] if v["name"] == "weights"]
    assert weights["image"] == {"reference": f"{IMAGE}@{digest}", "pullPolicy": "Never"}
    assert the_cache(cluster, service)["status"]["resolvedRevision"] == digest

    # The image goes, as a kubelet may have it, and so has the Job that pulled it: the next pod is not let to pull.
    cluster.kubectl("-n", cluster.namespace, "delete", "jobs", "-l", f"preheat.dev/modelcache={name}")
    remove(cluster, digest, 0)
    cluster.kubectl("-n", cluster.namespace, "delete", "pod", pod["metadata"]["name"])
    seconds = cluster.until("the label goes", lambda: labelled(cluster, key) == set(), 120)
    print(f"an image that is gone: the label went after {seconds:.1f} s: {cluster.ready(service)['message']}")
    load(cluster, path, 0)
    seconds = cluster.until("labelled again", lambda: labelled(cluster, key) == {node}, 400)
    print(f"labelled again after {seconds:.1f} s")
    cluster.wait_ready(service, 400)


def test_an_image_with_a_wrong_byte_labels_no_node(cluster: Cluster, service: str, tmp_path: Path) -> None:
    sums = f"{hashlib.sha256(b'weights').hexdigest()}  a.gguf\n".encode()
    path = tmp_path / "wrong.tar"
    digest = write_image(path, {"a.gguf": b"Weights", "SHA256SUMS": sums})
    load(cluster, path, 0)
    cluster.apply(service, model={"uri": f"oci://{IMAGE}@{digest}"}, cache={"mode": "Image"})
    cluster.until("it says so", lambda: cluster.ready(service).get("reason") == "WeightsFailed", 120)
    assert "DigestMismatch: a.gguf" in cluster.ready(service)["message"]
    assert labelled(cluster, the_cache(cluster, service)["status"]["key"]) == set()
    assert all("nodeName" not in pod["spec"] for pod in cluster.pods(service))
