"""The images: what goes into each of them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.images.once import digest, made_once
from e2e.images.packages import install_packages, precompile
from e2e.images.triton_tree import MODEL_FILE, REPOSITORY, demo_model, triton_tree

REGISTRY = "ghcr.io/preheat-dev"


@dataclass(frozen=True, slots=True)
class Image:
    """One image. Paths are relative to the repository; a build context has the same paths.

    ``sources``: what is copied from the repository into the context. ``lock``: what ``generate`` is made from.
    ``generate(lock, cache, context)``: adds what is not in the repository.
    """

    name: str
    containerfile: str
    sources: tuple[str, ...]
    lock: str
    generate: Callable[[Path, Path, Path], None]

    def reference(self, tag: str) -> str:
        """Return the name that manifests use."""
        return f"{REGISTRY}/{self.name}:{tag}"

    def key(self, tag: str) -> str:
        """Return a name for the whole of the inputs, our own recipe among them."""
        files = [REPOSITORY / self.containerfile, REPOSITORY / self.lock, *Path(__file__).parent.glob("*.py")]
        files += [file for source in self.sources for file in _files(REPOSITORY / source)]
        parts = [
            f"{file.relative_to(REPOSITORY)}".encode() + b"\0" + file.read_bytes() for file in sorted(files)
        ]
        return digest(self.reference(tag).encode(), *parts)

    def lay_out(self, cache: Path, context: Path) -> None:
        """Fill an empty build context. Raises packages.FetchError."""
        for source in self.sources:
            for file in _files(REPOSITORY / source):
                target = context / file.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        precompile(context)
        self.generate(REPOSITORY / self.lock, cache, context)


def _site_packages(lock: Path, cache: Path, context: Path) -> None:
    folder = cache / "site-packages" / f"{lock.stem}-{digest(lock.read_bytes())}"
    made_once(folder, lambda made: install_packages(lock, made))
    link_tree(folder, context / "site-packages")


def _triton(_lock: Path, cache: Path, context: Path) -> None:
    link_tree(triton_tree(cache) / "opt/tritonserver", context / "tritonserver")


def _weights(_lock: Path, cache: Path, context: Path) -> None:
    folder = context / "weights/smollm2"
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).hardlink_to(demo_model(cache))


def link_tree(source: Path, target: Path) -> None:
    """Put the folder at a second place without a second copy of the bytes."""
    shutil.copytree(source, target, copy_function=lambda old, new: Path(new).hardlink_to(old))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc"]


IMAGES = {
    image.name: image
    for image in (
        Image(
            name="operator",
            containerfile="operator/Containerfile",
            sources=("operator/preheat",),
            lock="requirements/operator.lock",
            generate=_site_packages,
        ),
        Image(
            name="agent",
            containerfile="runtime/agent/Containerfile",
            sources=("runtime/agent/preheat_agent",),
            lock="requirements/agent.lock",
            generate=_site_packages,
        ),
        Image(
            name="front",
            containerfile="runtime/front/Containerfile",
            sources=("runtime/front/preheat_front",),
            lock="requirements/front.lock",
            generate=_site_packages,
        ),
        Image(
            name="warmer",
            containerfile="runtime/warmer/Containerfile",
            sources=("runtime/warmer/preheat_warmer",),
            lock="requirements/warmer.lock",
            generate=_site_packages,
        ),
        Image(
            name="triton-cpu",
            containerfile="runtime/engines/triton/Containerfile.cpu",
            sources=("runtime/engines/triton/models", "runtime/engines/triton/preheat_llamacpp.py"),
            lock="requirements/triton-cpu.lock",
            generate=_triton,
        ),
        Image(
            name="model-store",
            containerfile="runtime/model-store/Containerfile",
            sources=("runtime/model-store/server.py",),
            lock="requirements/model-store.lock",
            generate=_weights,
        ),
    )
}
