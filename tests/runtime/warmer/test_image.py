"""Weights in a mounted image: verified to the last byte before the node says that it has them, or refused with why."""

import base64
import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from preheat_warmer.errors import Hopeless
from preheat_warmer.image import files_in

from tests.runtime.warmer.origin import sha256
from tests.runtime.warmer.run import Run, Start
from tests.runtime.warmer.test_registry import HTPASSWD, MANIFEST, USER, push, registry
from tests.runtime.warmer.test_sources import some_bytes
from tests.unit.warmer.pickled import Evil, archive, state

URI = "oci://registry.example:5000/models/llama:v1"
DIGEST = f"sha256:{'4f' * 32}"
INDEX = "application/vnd.oci.image.index.v1+json"


def safetensors(content: bytes) -> bytes:
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + content


FILES = {
    "model-00001.safetensors": safetensors(some_bytes(100_000)),
    "model.safetensors.index.json": json.dumps({"weight_map": {"w": "model-00001.safetensors"}}).encode(),
    "deep/config.json": b"{}",
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What a container runtime would mount: the files, and their digests."""
    folder = tmp_path / "image"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    write_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    lines = [
        f"{sha256(path.read_bytes())}  {path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def verify(start: Start, image: Path) -> Callable[..., Run]:
    def run(**more: Any) -> Run:
        given = {"task": "verifyImage", "destination": str(image), "resolvedRevision": DIGEST}
        return start(URI, **{**given, **more})

    return run


def test_an_image_that_is_right_is_read_once_and_nothing_is_written(
    verify: Callable[..., Run], image: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    words = verify().published()
    total = sum(map(len, FILES.values()))
    assert (words["resolvedRevision"], words["bytesTotal"], words["files"]) == (DIGEST, total, len(FILES))
    assert words["bytesFetched"] == 0
    assert words["manifestSHA256"]
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == before


def test_files_listed_in_the_spec_need_no_sums(verify: Callable[..., Run], image: Path) -> None:
    (image / "SHA256SUMS").unlink()
    files = [{"path": p, "sha256": sha256(c), "sizeBytes": len(c)} for p, c in FILES.items()]
    listed = verify(files=files).published()
    assert "has no digest" in verify(files=files[:-1]).failed(2, "NoDigest")
    write_sums(image)
    assert verify().published()["manifestSHA256"] == listed["manifestSHA256"]


def test_a_pickle_in_an_image_is_looked_into(verify: Callable[..., Run], image: Path) -> None:
    broken(image, "model.bin", archive(state(2)))
    write_sums(image)
    assert verify(allowPickle=True).published()["files"] == len(FILES) + 1
    broken(image, "model.bin", archive(state(2, planted=Evil())))
    write_sums(image)
    assert "model.bin imports" in verify(allowPickle=True).failed(2, "PickleRefused")


def broken(image: Path, path: str, content: bytes) -> None:
    (image / path).write_bytes(content)


WRONG: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "another byte": (
        lambda i: broken(i, "deep/config.json", b"[]"), "DigestMismatch", "deep/config.json",
    ),
    "a file without a digest": (lambda i: broken(i, "more.json", b"{}"), "NoDigest", "more.json has no digest"),
    "no digests at all": (lambda i: (i / "SHA256SUMS").unlink(), "NoDigest", "no SHA256SUMS in the image"),
    "a file that is missing": (
        lambda i: (i / "deep/config.json").unlink(), "IncompleteModel", "deep/config.json is not in the image",
    ),
    "a link": (lambda i: (i / "link").symlink_to("/etc/passwd"), "PathRefused", "link in the image"),
    "a pickle": (
        lambda i: (broken(i, "model.bin", b"x"), write_sums(i)), "PickleRefused", "model.bin can run code",
    ),
    "a pickle by another name": (
        lambda i: (broken(i, "deep/vocab.dat", state(4)), write_sums(i)), "PickleRefused", "deep/vocab.dat is a pickle",
    ),
    "weights that are cut off, with the right digest": (
        lambda i: (broken(i, "model-00001.safetensors", FILES["model-00001.safetensors"][:-7]), write_sums(i)),
        "IncompleteModel", "it is cut off",
    ),
    "a shard that the index names": (
        lambda i: ((i / "model-00001.safetensors").unlink(), write_sums(i)), "IncompleteModel", "shards are missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_image_that_is_wrong_is_refused(case: str, verify: Callable[..., Run], image: Path) -> None:
    spoil, reason, words = WRONG[case]
    spoil(image)
    assert words in verify().failed(2, reason)


def test_pickle_by_opt_in(verify: Callable[..., Run], image: Path) -> None:
    broken(image, "model.bin", b"x")
    write_sums(image)
    verify(allowPickle=True).published()


@pytest.mark.parametrize("there", [False, True])
def test_a_cluster_without_image_volumes_is_told_which_version_is_needed(
    there: bool, verify: Callable[..., Run], tmp_path: Path
) -> None:
    """An API server without them drops the volume and its mount; a kubelet without them mounts nothing."""
    folder = tmp_path / "nothing"
    if there:
        folder.mkdir()
    message = verify(destination=str(folder)).failed(2, "NoImageVolume")
    assert "Kubernetes 1.35, or 1.33 with the feature gate ImageVolume" in message


def test_files_that_only_root_may_read_are_told(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may read everything; a warmer is uid 1000."""

    def refuse(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Hopeless, match="readable for uid 1000"):
        files_in(image)


# --- what a tag stands for


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("private")
    (folder / "htpasswd").write_text(f"{HTPASSWD}\n")
    with registry(
        folder / "registry", f"auth: {{htpasswd: {{realm: r, path: {folder / 'htpasswd'}}}}}"
    ) as url:
        yield url


def login() -> dict[str, str]:
    both = base64.b64encode(f"{USER['username']}:{USER['password']}".encode()).decode()
    return {"Authorization": f"Basic {both}"}


def pull_secret(host: str, **entry: str) -> dict[str, str]:
    return {".dockerconfigjson": json.dumps({"auths": {host: entry}})}


def test_a_tag_is_resolved_with_the_pull_secret_of_the_cluster(
    private: str, start: Start, secret: Callable[[dict[str, str]], str]
) -> None:
    digest = push(private, "models/llama", "v1", {"a.gguf": b"weights"}, login())
    auth = login()["Authorization"].removeprefix("Basic ")
    for entry in ({"auth": auth}, USER):
        mounted = secret(pull_secret("registry.example:5000", **entry))
        words = start(URI, task="resolve", endpoint=private, credentialsDirectory=mounted).published()
        assert words["resolvedRevision"] == digest
        assert words["manifestSHA256"] is None


def test_an_image_for_several_platforms_is_its_index(
    private: str, start: Start, secret: Callable[[dict[str, str]], str]
) -> None:
    one = push(private, "models/many", "one", {"a.gguf": b"weights"}, login())
    entry = {"mediaType": MANIFEST, "digest": one, "size": 1}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    url = f"{private}/v2/models/many/manifests/v1"
    httpx.put(
        url, content=index, headers={"Content-Type": INDEX, **login()}, trust_env=False
    ).raise_for_status()
    words = start(
        "oci://registry.example:5000/models/many:v1", task="resolve", endpoint=private,
        credentialsDirectory=secret(pull_secret("https://registry.example:5000/v1/", **USER)),
    ).published()  # fmt: skip
    assert words["resolvedRevision"] == f"sha256:{sha256(index)}"


def test_a_pull_secret_for_another_registry_is_told(
    private: str, start: Start, secret: Callable[[dict[str, str]], str]
) -> None:
    mounted = secret(pull_secret("elsewhere.example", **USER))
    run = start(URI, task="resolve", endpoint=private, credentialsDirectory=mounted)
    assert "--docker-server=registry.example:5000" in run.failed(2, "InvalidConfig")


def test_a_tag_that_is_not_there_is_told(
    private: str, start: Start, secret: Callable[[dict[str, str]], str]
) -> None:
    mounted = secret(pull_secret("registry.example:5000", **USER))
    start(
        "oci://registry.example:5000/models/llama:none", task="resolve", endpoint=private,
        credentialsDirectory=mounted,
    ).failed(2, "NotFound")  # fmt: skip
