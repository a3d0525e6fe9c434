"""Finds the weights, and reads them at a set pace so that a small model loads like a large one."""

from collections.abc import Callable
from pathlib import Path

from .settings import InvalidSettingsError

BLOCK_BYTES = 1 << 20
MAGIC = b"GGUF"


def find_weights(path: Path) -> Path:
    """Return the GGUF file at ``path``, or the only one in that folder. Raises InvalidSettingsError."""
    if path.is_dir():
        path = _only_file(path)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError as error:
        raise InvalidSettingsError(
            f"no weights at {path}: check gguf_path, and that the cache of the model is mounted there"
        ) from error
    except PermissionError as error:
        raise InvalidSettingsError(f"may not read {path}: the files must be readable by this user") from error
    if magic != MAGIC:
        raise InvalidSettingsError(
            f"{path} is not a GGUF file (it begins with {magic!r}): give the model's GGUF form"
        )
    return path


def read_at_pace(
    path: Path,
    bytes_per_second: int,
    *,
    clock: Callable[[], float],
    wait: Callable[[float], object],
) -> int:
    """Read the file once from end to end at ``bytes_per_second``; return the bytes read.

    The blocks go through read(2), so they count in the `rchar` of this process, where an agent sees them.
    """
    started_seconds = clock()
    done_bytes = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            done_bytes += len(block)
            ahead_seconds = done_bytes / bytes_per_second - (clock() - started_seconds)
            if ahead_seconds > 0:
                wait(ahead_seconds)
    return done_bytes


def _only_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise InvalidSettingsError(f"no *.gguf file in {folder}: check gguf_path and the files of the model")
    names = ", ".join(file.name for file in found)
    raise InvalidSettingsError(
        f"{len(found)} GGUF files in {folder} ({names}): name one of them in gguf_path"
    )
