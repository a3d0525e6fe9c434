"""Makes verified weights visible with one rename: they are there whole, or not at all."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import Manifest, render

PUBLISHED = "model"
PARTIAL = ".partial"
MANIFEST = ".preheat-manifest.json"
HEADER_LIMIT_BYTES = 100_000_000
"""Longest safetensors header, as the format's own reader allows."""


def published(destination: Path, manifest: Manifest, uri: str) -> bool:
    """Tell whether these very weights are there already: same manifest, every file with its size."""
    folder = destination / PUBLISHED
    there = _read_manifest(folder)
    if there is None or there.get("manifestSHA256") != render(manifest, uri)["manifestSHA256"]:
        return False
    return all(
        (folder / entry["path"]).is_file() and (folder / entry["path"]).stat().st_size == entry["sizeBytes"]
        for entry in there["files"]
    )


def publish(destination: Path, manifest: Manifest, uri: str) -> None:
    """Write the manifest, make everything durable, and rename. What was published before is moved aside."""
    partial, target = destination / PARTIAL, destination / PUBLISHED
    for leftover in [*partial.rglob("*.part"), *partial.rglob("*.part.version")]:
        leftover.unlink()
    wanted = {file.path for file in manifest.files}
    for path in [p for p in partial.rglob("*") if p.is_file()]:
        if path.relative_to(partial).as_posix() not in wanted:
            path.unlink()  # of an earlier list of files
    text = json.dumps(render(manifest, uri), indent=1, sort_keys=True)
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    for folder, _, files in os.walk(partial, topdown=False):
        for name in files:
            path = Path(folder, name)
            path.chmod(0o640)
            _sync(path)
        Path(folder).chmod(0o750)
        _sync(Path(folder))
    aside = destination / ".replaced"
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
            _check_safetensors(folder / path, path)
        if path.endswith(".safetensors.index.json"):
            base = Path(path).parent
            shards = set(_json(folder / path, path).get("weight_map", {}).values())
            missing = sorted(s for s in shards if (base / s).as_posix() not in paths)
            if missing:
                raise Hopeless(
                    Reason.INCOMPLETE_MODEL,
                    f"{path} names {missing[0]}, which is not among the files: widen spec.model.include, or fix the source",
                )


def _check_safetensors(path: Path, name: str) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(HEADER_LIMIT_BYTES, size - 8):
            raise Hopeless(
                Reason.INCOMPLETE_MODEL, f"{name} is no safetensors file: its header is longer than the file"
            )
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise Hopeless(
                Reason.INCOMPLETE_MODEL, f"{name} is no safetensors file: its header cannot be read"
            ) from error
    if max(ends, default=0) != size - 8 - length:
        raise Hopeless(
            Reason.INCOMPLETE_MODEL, f"{name}: the header speaks of other data than the file holds"
        )


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Hopeless(Reason.INCOMPLETE_MODEL, f"{name} is no JSON") from error
    return found if isinstance(found, dict) else {}


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
