"""Which files make up the model, and what each must be. Pure."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from preheat_warmer.errors import Hopeless, Reason

RESERVED = frozenset({".partial", ".lock"})
RESERVED_PREFIX = ".preheat"
"""First parts of a path that are ours: the manifest's name and what a download notes down."""
PICKLE_SUFFIXES = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".dill", ".joblib", ".npy", ".npz", ".mar",
)  # fmt: skip
"""Formats that can run code when they are loaded."""
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".plan", ".engine", ".onnx")
"""Formats that hold numbers only. A model without one of these has its weights in a pickle, or nowhere."""
DEFAULT_INCLUDE = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.gguf", "*.pbtxt", "*.plan", "*.engine",
)  # fmt: skip
TRAINING = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.pt", "rng_state*.pth")
"""Names of pickles that training goes on from and no engine loads; taken only where a pattern names them."""
SUMS = "SHA256SUMS"
PATH_LIMIT_BYTES = 512
SIZE_LIMIT_BYTES = 1 << 50
"""No file is larger."""
PART_SUFFIX = ".part"
"""Of a file that is not whole yet."""
PART_LIMIT_BYTES = 255 - len(PART_SUFFIX)
"""Longest part of a path: what Linux allows, with room for the suffix."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


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

    @property
    def sizes_known(self) -> bool:
        """Tell whether that is the size of all files."""
        return all(file.size is not None for file in self.files)


def is_sha256(text: str) -> bool:
    """Tell whether a text is a SHA-256 in small hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def is_pickle(path: str) -> bool:
    """Tell whether loading a file of this name may run code."""
    return path.lower().endswith(PICKLE_SUFFIXES)


def checked_path(path: str) -> str:
    """Return a path that stays inside the model's folder. Raises Hopeless for any other."""
    problem = _problem_of_path(path)
    if problem is not None:
        raise Hopeless(
            Reason.PATH_REFUSED,
            f"the path {path[:100]!r} is refused: {problem}. Rename it at the source, or leave it out by "
            "spec.model.include",
        )
    return path


def _problem_of_path(path: str) -> str | None:
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "it is no Unicode text"
    parts = path.split("/")
    checks = (
        (path.startswith("/"), "it is absolute"),
        (not path or any(part in {"", ".", ".."} for part in parts), "it has an empty part, '.' or '..'"),
        (_CONTROL.search(path) is not None, "it holds a control character or a backslash"),
        (length > PATH_LIMIT_BYTES, f"it is longer than {PATH_LIMIT_BYTES} bytes"),
        (
            any(len(part.encode()) > PART_LIMIT_BYTES for part in parts),
            f"a part is over {PART_LIMIT_BYTES} bytes",
        ),
        (
            parts[0] in RESERVED or parts[0].startswith(RESERVED_PREFIX),
            f"{parts[0]} is a name of the warmer's own",
        ),
    )
    return next((words for wrong, words in checks if wrong), None)


def select(manifest: Manifest, include: Sequence[str], *, allow_pickle: bool) -> Manifest:
    """Return the files of a listing to fetch: those that match a pattern (``*`` crosses folders).

    Raises Hopeless when one is not allowed or has no digest, when none is left, and when the weights are
    there in a pickle only.
    """
    patterns = tuple(include) or (*DEFAULT_INCLUDE, *(f"*{s}" for s in PICKLE_SUFFIXES if allow_pickle))
    chosen = [
        file
        for file in manifest.files
        if any(fnmatch.fnmatchcase(file.path, p) for p in patterns)
        and (include or not _is_training(file.path))
    ]
    pickles = [file.path for file in manifest.files if is_pickle(file.path)]
    weightless = not any(file.path.lower().endswith(WEIGHT_SUFFIXES) for file in chosen)
    if pickles and not include and not allow_pickle and weightless:
        raise _pickle_refused(min(pickles))
    if not chosen:
        raise Hopeless(
            Reason.NOT_FOUND,
            f"none of the {len(manifest.files)} files of the source matches {', '.join(patterns)}: set "
            "spec.model.include or the format",
        )
    return approve(Manifest(tuple(chosen), manifest.revision), allow_pickle=allow_pickle)


def _is_training(path: str) -> bool:
    name = path.rpartition("/")[2]
    return is_pickle(name) and any(fnmatch.fnmatchcase(name, pattern) for pattern in TRAINING)


def approve(manifest: Manifest, *, allow_pickle: bool) -> Manifest:
    """Return the files in order. Raises Hopeless for one that is not allowed or cannot be verified."""
    seen: set[str] = set()
    folders: set[str] = set()
    for file in manifest.files:
        checked_path(file.path)
        if is_pickle(file.path) and not allow_pickle:
            raise _pickle_refused(file.path)
        if file.sha256 is None and (file.git_sha1 is None or file.size is None):
            raise Hopeless(
                Reason.NO_DIGEST,
                f"{file.path} has no digest: list it in spec.model.files with its sha256, or put a {SUMS} "
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
    clash = {f"{path}{PART_SUFFIX}" for path in seen} & (seen | folders)
    if clash:
        raise Hopeless(
            Reason.PATH_REFUSED, f"{min(clash)} is the name that the other file has while it is fetched"
        )
    return Manifest(tuple(sorted(manifest.files, key=lambda file: file.path)), manifest.revision)


def _pickle_refused(path: str) -> Hopeless:
    return Hopeless(
        Reason.PICKLE_REFUSED,
        f"{path} can run code when it is loaded. Use a safetensors version of the model, leave the file out by "
        "spec.model.include, or set format: Pickle if you trust the source.",
    )


def parse_sums(text: str) -> list[File]:
    """Return the files of a SHA256SUMS text: `<digest> <space or *><path>` a line. Raises Hopeless."""
    files = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")  # noqa: PLW2901 - as Windows ends it
        if not line.strip():
            continue
        digest, _, path = line.partition(" ")
        if not is_sha256(digest.lower()) or path[:1] not in {" ", "*"} or not path[1:]:
            raise Hopeless(
                Reason.NO_DIGEST,
                f"{SUMS}: {line[:80]!r} is not '<sha256>  <path>'; make it with sha256sum",
            )
        name = checked_path(path[1:].removeprefix("./"))
        if name != SUMS:  # `sha256sum * > SHA256SUMS` lists the empty file that it is about to fill
            files.append(File(name, None, digest.lower()))
    return files


def parse_hub_tree(entries: Sequence[Any]) -> list[File]:
    """Return the files of a hub's tree listing: LFS files by sha256, others by their git blob digest.

    Paths are not checked yet: a file that nobody asks for must not spoil the rest. Raises Hopeless for an
    entry that is none.
    """
    try:
        return [_hub_file(entry) for entry in entries if entry["type"] == "file"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Hopeless(
            Reason.NOT_FOUND, f"the hub's listing cannot be read ({error!r}): is it a hub?"
        ) from error


def _hub_file(entry: Any) -> File:
    large = entry.get("lfs") or {}
    sha256 = str(large.get("oid") or "").removeprefix("sha256:")
    sha1 = "" if large else str(entry["oid"])
    return File(
        path=str(entry["path"]),
        size=int(large.get("size", entry["size"])),
        sha256=sha256 if is_sha256(sha256) else None,
        git_sha1=sha1 if _SHA1.fullmatch(sha1) else None,
    )


def render(manifest: Manifest, uri: str, include: Sequence[str]) -> dict[str, Any]:
    """Return what is written beside the weights."""
    files = [
        {"path": file.path, "sizeBytes": file.size, "sha256": file.sha256, "gitSHA1": file.git_sha1}
        for file in manifest.files
    ]
    return {
        "schema": 1,
        "source": uri,
        "revision": manifest.revision,
        "include": list(include),
        "files": files,
        "totalBytes": manifest.total_bytes,
        "manifestSHA256": manifest_digest(manifest),
    }


def parse_published(text: str) -> Manifest:
    """Return what ``render`` wrote. Raises Hopeless for anything else."""
    try:
        return parse_rendered(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise Hopeless(Reason.NOT_FOUND, f"what is published has no manifest ({error})") from error


def parse_rendered(found: Any) -> Manifest:
    """Return what ``render`` wrote. Raises ValueError for anything else: it may be anybody's."""
    try:
        files = tuple(_rendered_file(entry) for entry in found["files"])
        manifest, digest = Manifest(files, str(found["revision"])), found["manifestSHA256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no manifest ({error!r})") from error
    if len({file.path for file in files}) < len(files):
        raise ValueError("it names a file twice")
    if manifest_digest(manifest) != digest:
        raise ValueError("its own digest is not what its files say")
    return manifest


def _rendered_file(entry: Any) -> File:
    path, size, sha256, git_sha1 = (entry[name] for name in ("path", "sizeBytes", "sha256", "gitSHA1"))
    problem = _problem_of_path(path)
    if problem is not None:
        raise ValueError(f"the path {path[:100]!r}: {problem}")
    if type(size) is not int or not 0 <= size <= SIZE_LIMIT_BYTES:
        raise ValueError(f"{path} has no size")
    if not (is_sha256(sha256) if sha256 is not None else _SHA1.fullmatch(git_sha1)):
        raise ValueError(f"{path} has no digest")
    return File(path, size, sha256, git_sha1)


def manifest_digest(manifest: Manifest) -> str:
    """Return one digest for all files: of their paths and digests, whatever order they are listed in.

    A small file of a hub is known by its git digest, so a hub and a SHA256SUMS of the same bytes differ.
    """
    lines = sorted([file.path, file.sha256 or f"git:{file.git_sha1}"] for file in manifest.files)
    return hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()
