"""Writes and looks into docker-archives: the smallest container image is one file in one layer."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """What an archive holds: one image, under one or more names."""

    id: str
    """The digest of its config, as `sha256:…`: it names every layer, so it stands for the whole image."""
    names: tuple[str, ...]


def read_image(archive: Path) -> Image:
    """Say what a docker-archive holds. Raises ValueError when it holds several images."""
    with tarfile.open(archive) as tar:
        entries = json.loads(_member(tar, "manifest.json"))
        if len(entries) != 1:
            raise ValueError(f"{archive}: {len(entries)} images in it, expected one")
        config = _member(tar, entries[0]["Config"])
        return Image(f"sha256:{hashlib.sha256(config).hexdigest()}", tuple(entries[0]["RepoTags"]))


def read_files(archive: Path) -> dict[str, tarfile.TarInfo]:
    """Return every file of an image as a container sees it: later layers over earlier ones, without what they hide."""
    files: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(archive) as tar:
        for name in json.loads(_member(tar, "manifest.json"))[0]["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                for member in layer:
                    path = member.name.removeprefix("./")
                    folder, _, last = path.rpartition("/")
                    if last.startswith(".wh."):
                        hidden = (
                            folder
                            if last == ".wh..wh..opq"
                            else f"{folder}/{last.removeprefix('.wh.')}".lstrip("/")
                        )
                        files = {
                            k: v for k, v in files.items() if k != hidden and not k.startswith(f"{hidden}/")
                        }
                    else:
                        files[path] = member
    return files


def read_user(archive: Path) -> str:
    """Return the user that an image's programs run as, as its config says it."""
    with tarfile.open(archive) as tar:
        config = json.loads(_member(tar, json.loads(_member(tar, "manifest.json"))[0]["Config"]))
        return str(config.get("config", {}).get("User", ""))


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{tar.name!s}: {name} is no file")
    return file.read()


def write_image(archive: Path, name: str, program: Path, entrypoint: str) -> None:
    """Write an image that holds one static program."""
    layer = _tar({entrypoint.lstrip("/"): program.read_bytes()}, mode=0o755)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [entrypoint], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    archive.write_bytes(_tar({config_name: config, "layer.tar": layer, "manifest.json": manifest}))


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
