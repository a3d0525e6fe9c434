"""Files that are on this disk already get a second name, where the file system has such a thing: no copy, no download.

A file with two names is never written to: what is being fetched would be written into the other one as well
(``publish.prepare`` removes what a killed run left of that kind).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from preheat_warmer.manifest import File


def missing(partial: Path, files: Sequence[File]) -> list[File]:
    """Return the files of which nothing is there yet."""
    return [file for file in files if not (partial / file.path).exists()]


def link_all(files: Iterable[File], folder: int, partial: Path) -> frozenset[str]:
    """Give files of an open folder a name in ``partial``; return the paths of those that have one now."""
    return frozenset(file.path for file in files if _link(file.path, folder, partial))


def _link(path: str, folder: int, partial: Path) -> bool:
    target = partial / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target, src_dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True
