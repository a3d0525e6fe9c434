"""Other caches of the same namespace on this disk: what they hold already is not fetched again.

Two models may need the same weights, and two revisions often share most of theirs. Only the namespace's own folder is
looked at: nobody gets another namespace's weights by naming their digests.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from preheat_warmer.config import is_key
from preheat_warmer.folder import open_file, open_folder
from preheat_warmer.links import link_all, missing
from preheat_warmer.manifest import File, Manifest, manifest_digest, parse_rendered
from preheat_warmer.publish import MANIFEST, MANIFEST_LIMIT_BYTES, PUBLISHED
from preheat_warmer.verified import read_boot_id, read_note
from preheat_warmer.verify import Verifier

SIBLINGS_AT_MOST = 1000


class Taken(NamedTuple):
    """What was taken over: paths, and since when nobody has hashed all of it. None: all was hashed just now."""

    paths: frozenset[str] = frozenset()
    verified: datetime | None = None

    def __or__(self, other: "Taken") -> "Taken":
        times = [time for time in (self.verified, other.verified) if time is not None]
        return Taken(self.paths | other.paths, min(times, default=None))


def take_over(destination: Path, partial: Path, files: Sequence[File], verifier: Verifier) -> Taken:
    """Give files of siblings with the same path and digest a name in ``partial``; return which.

    What a sibling has not verified lately is hashed first.
    """
    taken = Taken()
    for name in _names(destination):
        wanted = missing(partial, files)
        if not wanted:
            break
        try:
            taken |= _from_one(destination.parent / name, partial, wanted, verifier)
        except (OSError, ValueError, RecursionError):
            continue  # it is being removed, or was never whole
    return taken


def _names(destination: Path) -> Iterator[str]:
    """Return the siblings' folders. A cache that has a folder all of its own has none."""
    if not is_key(destination.name):
        return
    with os.scandir(destination.parent) as entries:
        others = (entry.name for entry in entries if is_key(entry.name) and entry.name != destination.name)
        yield from islice(others, SIBLINGS_AT_MOST)


def _from_one(sibling: Path, partial: Path, wanted: Sequence[File], verifier: Verifier) -> Taken:
    with ExitStack() as held:
        cache = open_folder(str(sibling))
        held.callback(os.close, cache)
        model = open_folder(PUBLISHED, cache)
        held.callback(os.close, model)
        theirs = _manifest(model)
        there = {(file.path, file.sha256, file.git_sha1): file for file in theirs.files}
        same = [
            there[file.path, file.sha256, file.git_sha1]
            for file in wanted
            if (file.path, file.sha256, file.git_sha1) in there
        ]
        note = read_note(cache)
        if note is None or not note.holds(read_boot_id(), datetime.now(UTC), manifest_digest(theirs)):
            right = [file for file, wrong in verifier.verdicts(model, same) if not wrong]
            return Taken(link_all(right, model, partial))
        paths = link_all(same, model, partial)
        return Taken(paths, note.time if paths else None)


def _manifest(model: int) -> Manifest:
    """Return what is published in an open folder. Raises OSError or ValueError."""
    with os.fdopen(open_file(MANIFEST, model), "rb") as stream:
        return parse_rendered(json.loads(stream.read(MANIFEST_LIMIT_BYTES)))
