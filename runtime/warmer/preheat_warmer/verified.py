"""The note that weights were verified: KEY/.preheat-verified. It counts for a while, on the machine that has not restarted.

Hashing a large model again takes minutes, and a warmer may come several times a day. After a restart of the node the
disk may be another one, or have lost what the kernel had promised to write.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from preheat_warmer.folder import open_file

NOTE = ".preheat-verified"
TRUSTED_FOR = timedelta(hours=24)
NOTE_LIMIT_BYTES = 1000
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Verified:
    """What was verified, when, and since which start of the machine."""

    boot_id: str
    time: datetime
    manifest_sha256: str

    def holds(self, boot_id: str, now: datetime, manifest_sha256: str) -> bool:
        """Tell whether it still says something about these weights."""
        return self.holds_since(self.time, boot_id, now, manifest_sha256) and now - self.time < TRUSTED_FOR

    def holds_since(self, since: datetime, boot_id: str, now: datetime, manifest_sha256: str) -> bool:
        """Tell whether these weights were verified then or later, however long ago that is. A time to come says nothing."""
        same = boot_id and (self.boot_id, self.manifest_sha256) == (boot_id, manifest_sha256)
        return bool(same) and since <= self.time <= now


def read_boot_id() -> str:
    """Return what tells this start of the machine from others, empty where nothing does: then nothing is trusted."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def parse_note(text: str) -> Verified | None:
    """Return what a note says, None for one that is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        time = datetime.fromisoformat(found["time"])
        if time.tzinfo is None:
            return None
        return Verified(str(found["bootID"]), time, str(found["manifestSHA256"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def read_note(folder: int) -> Verified | None:
    """Return the note in an open folder of a cache."""
    try:
        file = open_file(NOTE, folder)
    except OSError:
        return None
    with os.fdopen(file, "rb") as stream:
        return parse_note(stream.read(NOTE_LIMIT_BYTES).decode("utf-8", "replace"))


def write_note(folder: int, manifest_sha256: str, verified: datetime | None = None) -> None:
    """Note in an open folder that these weights were verified, now or then. Raises OSError."""
    note = {
        "bootID": read_boot_id(),
        "time": (verified or datetime.now(UTC)).isoformat(timespec="seconds"),
        "manifestSHA256": manifest_sha256,
    }
    fresh = f"{NOTE}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    with os.fdopen(
        open_file(fresh, folder, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8"
    ) as file:
        json.dump(note, file)
    os.rename(fresh, NOTE, src_dir_fd=folder, dst_dir_fd=folder)


def forget_note(folder: int) -> None:
    """Take the note away: nobody may trust these weights. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(NOTE, dir_fd=folder)
