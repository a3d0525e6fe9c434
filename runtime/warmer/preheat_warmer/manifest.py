"""Which files make up the model, and what each must be. Pure."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from preheat_warmer.errors import Hopeless, Reason

RESERVED = frozenset({".partial", ".preheat-manifest.json", ".lock"})
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".mar")
"""Formats that can run code when they are loaded."""
DEFAULT_INCLUDE = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.gguf", "*.pbtxt", "*.plan", "*.engine",
)  # fmt: skip
PATH_LIMIT = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class File:
    """One file. ``sha256`` is preferred; ``git_sha1`` is what a hub knows of small files."""

    path: str
    size: int | None
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of one revision. ``revision`` is what the asked one stood for, empty where there is none."""

    files: tuple[File, ...]
    revision: str = ""

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes that are known."""
        return sum(file.size or 0 for file in self.files)


def checked_path(path: str) -> str:
    """Return a path that stays inside the model's folder. Raises Hopeless for any other."""
    parts = path.split("/")
    bad = (
        not path
        or len(path) > PATH_LIMIT
        or _CONTROL.search(path) is not None
        or any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in parts)
        or parts[0] in RESERVED
    )
    if bad:
        raise Hopeless(
            Reason.PATH_REFUSED, f"the path {path[:100]!r} is refused: it must stay inside the model's folder"
        )
    return path


def is_pickle(path: str) -> bool:
    """Tell whether loading a file of this name may run code."""
    return path.lower().endswith(PICKLE_SUFFIXES)


def select(manifest: Manifest, include: Sequence[str], *, allow_pickle: bool) -> Manifest:
    """Return the files to fetch. Raises Hopeless when one is not allowed, has no digest, or none is left."""
    patterns = tuple(include) or DEFAULT_INCLUDE
    chosen = [file for file in manifest.files if any(fnmatch.fnmatch(file.path, p) for p in patterns)]
    pickles = [file.path for file in chosen if is_pickle(file.path)]
    if pickles and not allow_pickle:
        raise Hopeless(
            Reason.PICKLE_REFUSED,
            f"{pickles[0]} can run code when it is loaded. Use a safetensors version of the model, or set "
            "format: Pickle if you trust the source.",
        )
    if not chosen:
        raise Hopeless(
            Reason.NOT_FOUND,
            f"none of the {len(manifest.files)} files of the source matches {', '.join(patterns)}",
        )
    _check(chosen)
    return Manifest(tuple(sorted(chosen, key=lambda file: file.path)), manifest.revision)


def _check(files: Iterable[File]) -> None:
    seen: set[str] = set()
    folders: set[str] = set()
    for file in files:
        checked_path(file.path)
        if file.sha256 is None and file.git_sha1 is None:
            raise Hopeless(
                Reason.NO_DIGEST,
                f"{file.path} has no digest: list it in spec.model.files with its sha256, or put a SHA256SUMS "
                "file beside it",
            )
        if file.path in seen:
            raise Hopeless(Reason.PATH_REFUSED, f"{file.path} is listed twice")
        seen.add(file.path)
        parts = file.path.split("/")
        folders.update("/".join(parts[:end]) for end in range(1, len(parts)))
    both = seen & folders
    if both:
        raise Hopeless(Reason.PATH_REFUSED, f"{min(both)} is a file and a folder at once")


def parse_sums(text: str) -> list[File]:
    """Return the files of a SHA256SUMS text: `<digest> <space or *><path>` a line. Raises Hopeless."""
    files = []
    for line in text.splitlines():
        if not line.strip():
            continue
        digest, _, path = line.partition(" ")
        if not _SHA256.match(digest) or not path[1:]:
            raise Hopeless(
                Reason.NO_DIGEST,
                f"SHA256SUMS: {line[:80]!r} is not '<sha256>  <path>'; make it with sha256sum",
            )
        files.append(File(checked_path(path[1:].removeprefix("./")), None, digest))
    return files


def parse_hub_tree(entries: Sequence[dict[str, Any]]) -> list[File]:
    """Return the files of a hub's tree listing: LFS files by sha256, others by their git blob digest."""
    files = []
    for entry in entries:
        if entry.get("type") != "file":
            continue
        large = entry.get("lfs") or {}
        files.append(
            File(
                path=checked_path(str(entry["path"])),
                size=int(large.get("size", entry["size"])),
                sha256=large.get("oid") or None,
                git_sha1=None if large else str(entry["oid"]),
            )
        )
    return files


def render(manifest: Manifest, uri: str) -> dict[str, Any]:
    """Return what is written beside the weights."""
    files = [
        {"path": file.path, "sizeBytes": file.size, "sha256": file.sha256, "gitSHA1": file.git_sha1}
        for file in manifest.files
    ]
    return {
        "schema": 1,
        "source": uri,
        "revision": manifest.revision,
        "files": files,
        "totalBytes": manifest.total_bytes,
        "manifestSHA256": manifest_digest(manifest),
    }


def manifest_digest(manifest: Manifest) -> str:
    """Return one digest for all files: the same for the same bytes, wherever they came from."""
    lines = sorted([file.path, file.sha256 or f"git:{file.git_sha1}"] for file in manifest.files)
    return hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()
