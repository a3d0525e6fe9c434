"""How a warm-up can fail, and whether trying again helps.

WarmerError(reason, message)
├─ Hopeless   somebody must change something       -> exit code 2: the Job fails at once
└─ Passing    a peer failed, the disk is full, ... -> exit code 1: the Job tries again
"""

from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a warm-up failed, for programs (table: ../README.md)."""

    INVALID_CONFIG = "InvalidConfig"
    NOT_FOUND = "NotFound"
    UNAUTHORIZED = "Unauthorized"
    NO_DIGEST = "NoDigest"
    DIGEST_MISMATCH = "DigestMismatch"
    PICKLE_REFUSED = "PickleRefused"
    PATH_REFUSED = "PathRefused"
    ADDRESS_REFUSED = "AddressRefused"
    INCOMPLETE_MODEL = "IncompleteModel"
    NO_IMAGE_VOLUME = "NoImageVolume"
    UNREADABLE_IMAGE = "UnreadableImage"
    OVER_BUDGET = "OverBudget"
    NO_MEMORY = "NoMemory"
    DISK_FULL = "DiskFull"
    DISK_ERROR = "DiskError"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    NO_NEIGHBOUR = "NoNeighbour"
    STOPPED = "Stopped"
    INTERNAL_ERROR = "InternalError"


class WarmerError(Exception):
    """Base of both. The message says what to do. ``beside``: what else the last words tell of what was done."""

    exit_code = 1

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.beside: dict[str, Any] = {}


class Hopeless(WarmerError):  # noqa: N818 - it says what it is
    """It will not get better by itself."""

    exit_code = 2


class Passing(WarmerError):  # noqa: N818
    """Trying again may help, after ``retry_after_seconds`` when the peer named a time."""

    def __init__(self, reason: Reason, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after_seconds = retry_after_seconds


class Changed(Exception):  # noqa: N818
    """The source has another version of a file than when its download began: begin it again."""
