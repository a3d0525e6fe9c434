"""The weights that the engine is about to load: are they all there? And a lock that keeps them there.

The agent holds a shared lock on their manifest for as long as it lives. The node's keeper removes no weights on which
somebody holds one, whatever the API server says (runtime/warmer/preheat_warmer/keep.py). Digests were compared before the
weights were published; a volume may have been emptied or replaced since, and the kubelet makes an empty folder where it
finds none.
"""

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

MANIFEST = ".preheat-manifest.json"
MANIFEST_LIMIT_BYTES = 16 << 20
AGAIN = "Nothing is loaded. Delete this pod once the ModelCache is Ready: its mount stays what it is"

log = logging.getLogger(__name__)


class Weights:
    """A folder of verified weights. Blocking: for one thread at a time."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._file = -1
        self._sizes: dict[str, int] = {}

    @property
    def held(self) -> bool:
        """Tell whether the lock is held."""
        return self._file >= 0

    def problem(self) -> str:
        """Take the lock, and return what is missing of the weights, nothing when they are whole."""
        path = self._directory / MANIFEST
        try:
            found = path.stat()
            if not self.held or not os.path.samestat(found, os.fstat(self._file)):
                problem = self._hold(path)
                if problem:
                    return problem
        except FileNotFoundError:
            return f"{path} is not there: these are no published weights. {AGAIN}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return f"{path} cannot be read ({error}). {AGAIN}"
        return next(filter(None, map(self._missing, self._sizes)), "")

    def _hold(self, path: Path) -> str:
        """Lock this manifest instead of the last one, and read it; return why it is not to be had.

        Raises OSError for a manifest that cannot be read; ValueError, KeyError or TypeError for one that is none.
        """
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return f"the weights are being removed from this node. {AGAIN}"
        except OSError as error:
            log.warning("the weights cannot be locked", extra={"detail": str(error)})
        try:
            self._sizes = _sizes(os.pread(file, MANIFEST_LIMIT_BYTES, 0))
        except BaseException:
            os.close(file)
            raise
        self.close()
        self._file = file
        return ""

    def _missing(self, path: str) -> str:
        wanted = self._sizes[path]
        try:
            size = (self._directory / path).stat().st_size
        except FileNotFoundError:
            return f"{path} is not there, and should have {wanted:,} bytes. {AGAIN}"
        except OSError as error:
            return f"{path} cannot be looked at: {error.strerror}. {AGAIN}"
        return "" if size == wanted else f"{path} has {size:,} bytes, and should have {wanted:,}. {AGAIN}"

    def close(self) -> None:
        """Let go of the lock."""
        if self.held:
            os.close(self._file)
            self._file = -1


def _sizes(text: bytes) -> dict[str, int]:
    """Return the size of each file of a manifest. Raises ValueError, KeyError or TypeError for one that is none."""
    found: Any = json.loads(text)
    return {str(file["path"]): int(file["sizeBytes"]) for file in found["files"]}
