"""Where weights go that are not what they must be: KEY/.quarantine, the newest of them alone.

They are kept to be looked at, and because most of their files are right. A file is taken over by a second name
(a hard link): it costs no copy, and pods that still run on these weights keep their files.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from preheat_warmer.folder import Emptying, open_folder, used_bytes
from preheat_warmer.links import link_all, missing
from preheat_warmer.manifest import File
from preheat_warmer.publish import PUBLISHED
from preheat_warmer.verify import Verifier

QUARANTINE = ".quarantine"
ENTRIES_AT_MOST = 1_000_000
"""What is deleted in one go. Weights have some hundred files."""


def set_aside(cache: int) -> None:
    """Move what is published in an open folder of a cache to the quarantine. Under the cache's lock. Raises OSError."""
    drop(cache)
    os.rename(PUBLISHED, QUARANTINE, src_dir_fd=cache, dst_dir_fd=cache)
    os.fsync(cache)


def drop(cache: int) -> int:
    """Delete the quarantine in an open folder of a cache; return the bytes that this frees."""
    try:
        folder = open_folder(QUARANTINE, cache)
    except OSError:
        return 0
    emptying = Emptying(ENTRIES_AT_MOST)
    try:
        emptying.empty(folder)
    finally:
        os.close(folder)
    with suppress(OSError):
        os.rmdir(QUARANTINE, dir_fd=cache)
    return emptying.freed_bytes


def size(cache: int) -> int:
    """Return what the quarantine takes up."""
    try:
        folder = open_folder(QUARANTINE, cache)
    except OSError:
        return 0
    try:
        return used_bytes(folder)
    finally:
        os.close(folder)


def take_over(cache: int, partial: Path, files: Sequence[File], verifier: Verifier) -> frozenset[str]:
    """Give those files of the quarantine that are right a name in ``partial``; return their paths."""
    try:
        folder = open_folder(QUARANTINE, cache)
    except OSError:
        return frozenset()
    try:
        right = [file for file, wrong in verifier.verdicts(folder, missing(partial, files)) if not wrong]
        return link_all(right, folder, partial)
    finally:
        os.close(folder)
