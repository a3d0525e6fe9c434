"""The folder on the node: one writer at a time, and weights that are there whole or not at all."""

import asyncio
import fcntl
import json
import os
import shutil
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from preheat_warmer.errors import Hopeless, Passing, Reason
from preheat_warmer.manifest import PART_SUFFIX, Manifest, manifest_digest, parse_rendered, render

PUBLISHED = "model"
PARTIAL = ".partial"
ASIDE = ".replaced"
LOCK = ".lock"
MANIFEST = ".preheat-manifest.json"
MANIFEST_LIMIT_BYTES = 8 << 20
"""Some thirty thousand files. Who reads a manifest of somebody else's reads no more."""
NOTES = ".preheat-parts"
"""Below .partial: what the fetcher notes down about unfinished files. Never published."""
SPARE_BYTES = 64 << 20
"""What must stay free on the disk besides the weights."""
FILE_MODE = 0o640
FOLDER_MODE = 0o750
LOCK_POLL_SECONDS = 0.2
HEADER_LIMIT_BYTES = 100_000_000
"""Longest safetensors header, as the format's own reader allows."""
INDEX_SUFFIX = ".safetensors.index.json"


def read_published(destination: Path) -> dict[str, Any] | None:
    """Return the manifest of what is published there, None when nothing whole is: every file has its size."""
    folder = destination / PUBLISHED
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = parse_rendered(found).files
        whole = all((folder / file.path).stat().st_size == file.size for file in files)
    except (OSError, ValueError, RecursionError):
        return None
    return found if whole else None


def published(destination: Path, manifest: Manifest) -> bool:
    """Tell whether these very weights are there already: same manifest, every file with its size."""
    there = read_published(destination)
    return there is not None and there.get("manifestSHA256") == manifest_digest(manifest)


async def lock(destination: Path, held: ExitStack) -> bool:
    """Wait until nobody else works here; tell whether somebody did. ``held`` releases the lock.

    It asks again and again rather than blocks, so that SIGTERM is heard. The folder may be removed while we wait
    (``keep.py``): then the lock that is left is of a folder that is gone, and it begins anew. Raises Passing when
    the folder cannot be written.
    """
    waited = False
    while True:
        file = _lock_file(destination)
        if file is not None and _locked(file) and _is_there(file, destination / LOCK):
            held.enter_context(file)
            return waited
        if file is not None:
            file.close()
        waited = True
        await asyncio.sleep(LOCK_POLL_SECONDS)


def _lock_file(destination: Path) -> IO[str] | None:
    """Open the lock; None when the folder was removed in between."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(destination, error) from error
    try:
        return (destination / LOCK).open("w", encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(destination, error) from error


def _unwritable(destination: Path, error: OSError) -> Passing:
    return Passing(
        Reason.DISK_ERROR,
        f"{destination} cannot be written: {error.strerror}. The folder must belong to uid or gid 1000",
    )


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(file: IO[str], path: Path) -> bool:
    """Tell whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def touch(destination: Path) -> None:
    """Make the folder young: the node's keeper leaves it alone for a while (``keep.py``)."""
    os.utime(destination)


def prepare(destination: Path, manifest: Manifest) -> Path:
    """Return the folder to fetch into. What an earlier list of files left there goes.

    So does a file with a second name: it is one of the quarantine's, and pods may still have it open. What is
    fetched would be written into it.
    """
    partial = destination / PARTIAL
    partial.mkdir(exist_ok=True)
    wanted = {name for file in manifest.files for name in (file.path, f"{file.path}{PART_SUFFIX}")}
    for path in sorted(partial.rglob("*"), reverse=True):  # what is in a folder comes before the folder
        name = path.relative_to(partial).as_posix()
        if path.is_dir() and not path.is_symlink():
            if name in wanted:  # it was a folder then and is a file now; it is empty by now
                path.rmdir()
        elif _is_no_part(path) or (name not in wanted and not name.startswith(f"{NOTES}/")):
            path.unlink()
    return partial


def _is_no_part(path: Path) -> bool:
    return path.is_symlink() or path.stat().st_nlink > 1


def check_space(partial: Path, manifest: Manifest) -> None:
    """Refuse to begin what cannot end. Raises Passing with both numbers."""
    needed = SPARE_BYTES
    for file in manifest.files:
        there = (partial / file.path, partial / f"{file.path}{PART_SUFFIX}")
        have = sum(_bytes_on_disk(path) for path in there if path.is_file())
        needed += max(0, (file.size or 0) - have)
    free = free_bytes(partial)
    if needed > free:
        raise Passing(
            Reason.DISK_FULL,
            f"the node's disk has {free:,} bytes free, {needed:,} are needed: free space or take another node",
        )


def _bytes_on_disk(path: Path) -> int:
    """Return what a file takes up: one that is being fetched has holes."""
    stat = path.stat()
    return min(stat.st_size, stat.st_blocks * 512)


def free_bytes(folder: Path) -> int:
    """Return how many bytes a user without privileges may still write there."""
    return shutil.disk_usage(folder).free


def publish(destination: Path, manifest: Manifest, uri: str, include: Sequence[str]) -> None:
    """Write the manifest, make everything durable, and rename. What was published before is moved aside."""
    partial, target, aside = destination / PARTIAL, destination / PUBLISHED, destination / ASIDE
    shutil.rmtree(partial / NOTES, ignore_errors=True)
    text = json.dumps(render(manifest, uri, include), indent=1, sort_keys=True)
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise _incomplete(
            f"{len(manifest.files):,} files are more than a model has: narrow spec.model.include"
        )
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    for folder, _, files in os.walk(partial, topdown=False):
        for name in files:
            _set_mode(Path(folder, name), FILE_MODE)
            _sync(Path(folder, name))
        _set_mode(Path(folder), FOLDER_MODE)
        _sync(Path(folder))
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    partial.rename(target)
    _sync(destination)
    shutil.rmtree(aside, ignore_errors=True)


def check_complete(folder: Path, manifest: Manifest) -> None:
    """Look at what a digest cannot tell: that the weights make up one whole model. Raises Hopeless.

    Every safetensors file must hold what its header says, and every file that an index names must be there.
    """
    paths = {file.path for file in manifest.files}
    for path in sorted(paths):
        if path.endswith(".safetensors"):
            with (folder / path).open("rb") as stream:
                _check_safetensors(stream, (folder / path).stat().st_size, path)
        elif path.endswith(INDEX_SUFFIX):
            _check_index((folder / path).read_bytes(), path, paths)


def _check_safetensors(stream: BinaryIO, size: int, name: str) -> None:
    """Compare 8 bytes of header length, a JSON header with data offsets, and the data behind it."""
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise _incomplete(f"{name} is no safetensors file: it has {size} bytes")
    length: int = struct.unpack("<Q", prefix)[0]
    if length > min(HEADER_LIMIT_BYTES, size - 8):
        raise _incomplete(
            f"{name} is no safetensors file: its header is longer than the file, or than 100 MB"
        )
    data = size - 8 - length
    try:
        header = json.loads(stream.read(length))
        spans = [_span(entry["data_offsets"]) for key, entry in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _incomplete(f"{name} is no safetensors file: its header cannot be read") from error
    if any(not 0 <= begin <= end <= data for begin, end in spans):
        raise _incomplete(f"{name}: the header names bytes beyond the {data:,} that are there: it is cut off")
    if max((end for _, end in spans), default=0) != data:
        raise _incomplete(f"{name}: {data:,} bytes of data are there, the header speaks of fewer")


def _span(offsets: Any) -> tuple[int, int]:
    begin, end = offsets
    if type(begin) is not int or type(end) is not int:
        raise TypeError("offsets must be whole numbers")
    return begin, end


def _check_index(content: bytes, name: str, paths: set[str]) -> None:
    try:
        shards = {str(shard) for shard in json.loads(content)["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _incomplete(f"{name} is no index of shards: it cannot be read") from error
    base = PurePosixPath(name).parent
    missing = sorted(shard for shard in shards if str(base / shard) not in paths)
    if missing:
        raise _incomplete(
            f"{name} names {missing[0]} ({len(missing)} of {len(shards)} shards are missing): widen "
            "spec.model.include, or complete the source"
        )


def _incomplete(message: str) -> Hopeless:
    return Hopeless(Reason.INCOMPLETE_MODEL, message)


def _set_mode(path: Path, mode: int) -> None:
    """Change the mode where it is another: a change makes the next fsync wait for the file system's journal."""
    if path.stat().st_mode & 0o7777 != mode:
        path.chmod(mode)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
