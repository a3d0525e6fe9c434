"""Images that a node's runtime has pulled: whether they are there; of weights, whether they are right; what a tag stands for.

Nothing is fetched here and nothing is written. The container runtime pulls the image and mounts it, read-only; a warmer
reads all of it once on each node, before any pod may start there.
"""

import asyncio
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from preheat_warmer.config import Config, PullConfig
from preheat_warmer.errors import Hopeless, Passing, Reason
from preheat_warmer.manifest import SUMS, File, Manifest, approve, parse_sums
from preheat_warmer.progress import Progress
from preheat_warmer.publish import check_complete
from preheat_warmer.scan import check_pickles
from preheat_warmer.sources.registry import RegistrySource
from preheat_warmer.sources.web import Web

BLOCK_BYTES = 4 << 20
_VOLUMES = (
    "image volumes need Kubernetes 1.35, or 1.33 with the feature gate ImageVolume on the API server and on the "
    "kubelets, and containerd 2.1 or CRI-O 1.31"
)
NEEDED = f"{_VOLUMES}; without them use cache mode Node or Shared"
PULLED_LATER = f"{_VOLUMES}; without them each pod has its images pulled when it starts"


async def resolve(config: Config, progress: Progress) -> Manifest:
    """Return no files, and as ``revision`` the digest that the URI's tag stands for now. Raises Hopeless or Passing."""
    web = Web(None)
    try:
        digest = await RegistrySource(config.uri, config.endpoint, config.secret, web).digest()
    finally:
        await web.close()
    progress.state = "Published"
    return Manifest((), digest)


async def verify_image(config: Config, progress: Progress) -> Manifest:
    """Return what is in the mounted image, when all of it is what it should be. Raises Hopeless or Passing."""
    manifest = await asyncio.to_thread(_expected, config)
    progress.files_total, progress.bytes_total = len(manifest.files), manifest.total_bytes
    progress.state = "Verifying"
    gate = asyncio.Semaphore(config.parallelism)

    async def one(file: File) -> None:
        async with gate:
            await asyncio.to_thread(_check, config.destination, file, progress)
            progress.files_done += 1

    try:
        async with asyncio.TaskGroup() as group:
            for file in manifest.files:
                group.create_task(one(file))
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from problems
    await asyncio.to_thread(check_complete, config.destination, manifest)
    await asyncio.to_thread(check_pickles, config.destination, manifest, allow_pickle=config.allow_pickle)
    progress.state = "Published"
    return manifest


def check_pulled(config: PullConfig) -> dict[str, Any]:
    """Return the last words when every image is mounted. Raises Hopeless where one is not: then the kubelet pulled none.

    What is in them is not looked at, nor need it be readable: they are for containers.
    """
    for folder in config.images:
        if not _is_mounted(folder):
            raise Hopeless(Reason.NO_IMAGE_VOLUME, f"nothing is mounted at {folder}: {PULLED_LATER}")
    return {"state": "Pulled", "images": len(config.images)}


def _is_mounted(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except PermissionError:
        return True


def _expected(config: Config) -> Manifest:
    """Return the files of the image with the digests that they must have. Every file must have one."""
    there = files_in(config.destination)
    listed = {file.path: file for file in config.files or _sums(config.destination, there)}
    missing = sorted(listed.keys() - there.keys())
    if missing:
        raise Hopeless(
            Reason.INCOMPLETE_MODEL,
            f"{missing[0]} is not in the image ({len(missing)} of {len(listed)} listed files are missing): the files "
            "must lie in the image's root",
        )
    files = [
        replace(listed.get(path, File(path, None)), size=size) for path, size in there.items() if path != SUMS
    ]
    for file in files:
        told = listed[file.path].size if file.path in listed else None
        if told is not None and told != file.size:
            raise Hopeless(
                Reason.DIGEST_MISMATCH,
                f"{file.path} has {file.size:,} bytes in the image, and should have {told:,}",
            )
    approved = approve(Manifest(tuple(files)), allow_pickle=config.allow_pickle)
    return replace(approved, revision=config.resolved)


def _sums(folder: Path, there: dict[str, int]) -> list[File]:
    if SUMS not in there:
        raise Hopeless(
            Reason.NO_DIGEST,
            f"there is no {SUMS} in the image's root, and `files` lists nothing: put one there (sha256sum * > {SUMS}) "
            "or list the files with their digests",
        )
    return parse_sums((folder / SUMS).read_text("utf-8", "replace"))


def files_in(folder: Path) -> dict[str, int]:
    """Return the sizes of all files, by path. Raises Hopeless where nothing is mounted, or what is no file."""
    try:
        found = dict(_walk(folder, folder))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.exists():
            raise Hopeless(Reason.NO_IMAGE_VOLUME, f"nothing is mounted at {folder}: {NEEDED}") from error
        raise Hopeless(
            Reason.UNREADABLE_IMAGE,
            f"{error.filename}: {error.strerror}: files in the image must be readable for uid 1000 (chmod -R a+rX)",
        ) from error
    if not found:
        raise Hopeless(
            Reason.NO_IMAGE_VOLUME,
            f"{folder} is empty: the image holds no file, or it is not mounted; {NEEDED}",
        )
    return found


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            mode = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(mode.st_mode):
                yield from _walk(path, root)
            elif stat.S_ISREG(mode.st_mode):
                yield path.relative_to(root).as_posix(), mode.st_size
            else:
                raise Hopeless(
                    Reason.PATH_REFUSED,
                    f"{path.relative_to(root).as_posix()} in the image is a link or a device: only files and folders "
                    "may be there",
                )


def _check(folder: Path, file: File, progress: Progress) -> None:
    """Read a file and compare. It is read-only and by digest: what is wrong stays wrong until the image is pulled anew."""
    digest = hashlib.sha256()
    try:
        with (folder / file.path).open("rb", buffering=0) as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
                progress.add(len(block), fetched=False)
    except PermissionError as error:
        raise Hopeless(
            Reason.UNREADABLE_IMAGE,
            f"{file.path} cannot be read by uid 1000: make it readable for all in the image (chmod -R a+rX)",
        ) from error
    except OSError as error:
        raise Passing(Reason.DISK_ERROR, f"{file.path}: {error.strerror}: look at the node's disk") from error
    if digest.hexdigest() != file.sha256:
        raise Hopeless(
            Reason.DIGEST_MISMATCH,
            f"{file.path} in the image is not what its digest says: build the image again from the right files; if it "
            "is right elsewhere, remove the image from this node",
        )
