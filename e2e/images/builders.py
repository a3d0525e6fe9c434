"""Turns a Containerfile and its context into an image file: with Docker where it runs, else with buildah."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from e2e.images.base import make_base

BASE = "docker.io/library/python:3.11-slim-bookworm"
"""What the Containerfiles begin with. Docker fetches it; for buildah a stand-in of that name is made from Debian."""
LAST_LINES = 12


class BuildError(Exception):
    """The image could not be built; the message has the last lines of the builder."""


class Builder(Protocol):
    """Builds one image."""

    def build(self, containerfile: Path, context: Path, reference: str, archive: Path) -> str:
        """Write ``archive`` (docker-archive) and return the image's id, `sha256:…`. Raises BuildError."""
        ...


class Docker:
    """A running Docker daemon."""

    def build(self, containerfile: Path, context: Path, reference: str, archive: Path) -> str:
        """See Builder."""
        with tempfile.TemporaryDirectory() as folder:
            image_id = Path(folder) / "id"
            run("docker", "build", "-t", reference, "-f", containerfile, "--iidfile", image_id, context)
            run("docker", "save", "-o", archive, reference)
            return image_id.read_text().strip()


class Buildah:
    """Debian's buildah with a storage of its own in the cache: no daemon, no registry."""

    def __init__(self, cache: Path, say: Callable[[str], None]) -> None:
        self._cache = cache
        self._say = say
        storage = cache / "images/storage"
        storage.mkdir(parents=True, exist_ok=True)
        driver = "overlay" if _overlay_works(storage) else "vfs"  # vfs copies every layer: ten times slower
        self._buildah: tuple[str | Path, ...] = (
            *("buildah", "--root", storage, "--runroot", cache / "images/run", "--storage-driver", driver),
        )

    def build(self, containerfile: Path, context: Path, reference: str, archive: Path) -> str:
        """See Builder."""
        self._need_base()
        archive.unlink(missing_ok=True)  # buildah refuses to write over an archive
        with tempfile.TemporaryDirectory() as folder:
            image_id = Path(folder) / "id"
            run(
                *(
                    *self._buildah,
                    "bud",
                    "--layers",
                    "--timestamp",
                    "0",
                    "--isolation",
                    "chroot",
                    "--pull-never",
                ),
                *(
                    "--format",
                    "docker",
                    "--tag",
                    reference,
                    "--iidfile",
                    image_id,
                    "--file",
                    containerfile,
                    context,
                ),
            )
            run(*self._buildah, "push", reference, f"docker-archive:{archive}:{reference}")
            run(*self._buildah, "rmi", "--prune")
            return image_id.read_text().strip()

    def _need_base(self) -> None:
        found = subprocess.run(
            [*self._buildah, "inspect", "--type", "image", BASE], check=False, capture_output=True
        )
        if found.returncode == 0:
            return
        self._say("base: from Debian, about a minute, once")
        archive = make_base(self._cache)
        container = run(*self._buildah, "from", "scratch").strip()
        run(*self._buildah, "add", container, archive, "/")
        run(*self._buildah, "config", "--env", "LANG=C.UTF-8", "--cmd", "python3", container)
        run(*self._buildah, "commit", "--timestamp", "0", "--format", "docker", "--rm", container, BASE)


def find_builder(cache: Path, say: Callable[[str], None]) -> Builder:
    """Return Docker if its daemon answers, else buildah, which is installed if it is not there.

    Raises BuildError when neither can work.
    """
    if shutil.which("docker") and _succeeds("docker", "version", "--format", "{{.Server.Version}}"):
        return Docker()
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    if os.geteuid() or (missing and not shutil.which("apt-get")):
        raise BuildError(
            "no Docker daemon answers; without one, building needs root and buildah and debootstrap"
        )
    if missing:
        say(f"installing {' and '.join(missing)}")
        install = ("apt-get", "install", "-y", "--no-install-recommends", *missing)
        if not _succeeds(*install):
            run("apt-get", "update")
            run(*install)
    return Buildah(cache, say)


def run(*command: str | Path) -> str:
    """Run a program to its end and return what it printed. Raises BuildError with its last lines."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
        raise BuildError(f"{command[0]} ended with {done.returncode}:\n{lines}")
    return done.stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _overlay_works(storage: Path) -> bool:
    """Try it: an overlay on an overlay, as in a container, is refused by the kernel."""
    with tempfile.TemporaryDirectory(dir=storage) as folder:
        layers = {name: Path(folder) / name for name in ("lower", "upper", "work", "merged")}
        for layer in layers.values():
            layer.mkdir()
        options = f"lowerdir={layers['lower']},upperdir={layers['upper']},workdir={layers['work']}"
        if not _succeeds("mount", "-t", "overlay", "overlay", "-o", options, str(layers["merged"])):
            return False
        run("umount", layers["merged"])
        return True
