"""Are the weights on a disk still what they must be? Read at the speed of the disk, without harm to who uses them.

Several files at once, each in a thread, a window at a time. While a window is hashed the disk is already asked for the
next one. A serving model has its weights in the page cache, and so may the next one that is about to load: what was
not there before we read it is let go of again. What was there is told by a read that does not wait (RWF_NOWAIT): it
ends at the first byte that is not in memory. Of a window that is there in part only the beginning is known
to be; the kernel itself spares what a process has mapped.
"""

import errno
import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass

from preheat_warmer.errors import Passing, Reason
from preheat_warmer.fetch import Pace
from preheat_warmer.folder import open_file, open_folder
from preheat_warmer.manifest import File
from preheat_warmer.part import new_digest
from preheat_warmer.progress import Progress
from preheat_warmer.publish import MANIFEST

WINDOW_BYTES = 4 << 20
PAGE_BYTES = 64 << 10
"""The largest page that Linux is built with: windows begin where pages do."""
FILES_AT_ONCE = 4
FOLDERS_BESIDE = 1000
"""Empty folders are no harm. So many more than the manifest needs, and it is no model."""
OUR_OWN_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What a file is not to blame for."""


@dataclass(slots=True)
class _Window:
    """Bytes of a file. ``resident``: how many of its first ones were in the page cache already."""

    buffer: memoryview
    offset: int = 0
    size: int = 0
    resident: int = 0


class Verifier:
    """Hashes files of open folders. ``stop`` ends it from another thread."""

    def __init__(
        self, progress: Progress, pace: Pace, stop: threading.Event, files_at_once: int = FILES_AT_ONCE
    ) -> None:
        self._progress = progress
        self._pace = pace
        self._stop = stop
        self._files_at_once = files_at_once
        self._counting = threading.Lock()
        self._window_bytes = max(PAGE_BYTES, min(WINDOW_BYTES, pace.turn_bytes) // PAGE_BYTES * PAGE_BYTES)

    def problem(self, folder: int, files: Sequence[File]) -> str:
        """Return the first thing that is found wrong with the weights in an open folder, nothing when all is right."""
        try:
            strange = stranger(folder, files)
        except OSError as error:
            return f"the folder cannot be read: {error.strerror}"
        if strange:
            return f"{strange} is not in the manifest"
        verdicts = self.verdicts(folder, files)
        with closing(verdicts):
            return next((wrong for _, wrong in verdicts if wrong), "")

    def verdicts(self, folder: int, files: Sequence[File]) -> Generator[tuple[File, str], None, None]:
        """Yield each file with what is wrong with it, nothing when it is right, in any order.

        Who needs no more verdicts closes the iterator. Raises Passing when it was stopped, or cannot go on.
        """
        enough = threading.Event()
        threads = ThreadPoolExecutor(self._files_at_once, "verify")
        try:
            longest_first = sorted(files, key=lambda file: -(file.size or 0))
            work = {threads.submit(self._look, folder, file, enough): file for file in longest_first}
            for done in as_completed(work):
                yield work[done], done.result()
                self._progress.files_done += 1
        finally:
            enough.set()
            threads.shutdown(cancel_futures=True)

    def _look(self, folder: int, file: File, enough: threading.Event) -> str:
        try:
            descriptor = open_file(file.path, folder)
            try:
                size = os.fstat(descriptor).st_size
                if file.size not in {None, size}:
                    return f"{file.path} has {size:,} bytes, not {file.size:,}"
                found = self._hash(descriptor, size, file, enough)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return f"{file.path} is missing"
        except OSError as error:
            if error.errno in OUR_OWN_TROUBLE:
                raise Passing(Reason.DISK_ERROR, f"{file.path}: {error.strerror}") from error
            return f"{file.path} cannot be read: {error.strerror}"
        return "" if found == (file.sha256 or file.git_sha1) else f"{file.path} is not what its digest says"

    def _hash(self, descriptor: int, size: int, file: File, enough: threading.Event) -> str:
        digest = new_digest(file)
        # The kernel's own readahead would make resident what was not, before it is looked at.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        now, ahead = (_Window(memoryview(bytearray(self._window_bytes))) for _ in range(2))
        self._peek(descriptor, ahead, 0, size)
        while ahead.size:
            now, ahead = ahead, now
            self._peek(descriptor, ahead, now.offset + now.size, size)
            self._read(descriptor, now)
            digest.update(now.buffer[: now.size])
            self._let_go(descriptor, now)
            self._took(now.size, enough)
        return digest.hexdigest()

    @staticmethod
    def _peek(descriptor: int, window: _Window, offset: int, size: int) -> None:
        """Take what is in memory of the next window, and have the disk bring the rest."""
        window.offset, window.size = offset, min(len(window.buffer), size - offset)
        window.resident = 0
        if not window.size:
            return
        with suppress(OSError):  # nothing of it is there, or the file system cannot tell
            window.resident = os.preadv(descriptor, [window.buffer[: window.size]], offset, os.RWF_NOWAIT)
        if window.resident < window.size:
            os.posix_fadvise(descriptor, offset, window.size, os.POSIX_FADV_WILLNEED)

    @staticmethod
    def _read(descriptor: int, window: _Window) -> None:
        """Read the rest of a window. Raises OSError where the file ends before."""
        at = window.resident
        while at < window.size:
            count = os.preadv(descriptor, [window.buffer[at : window.size]], window.offset + at)
            if count == 0:
                raise OSError(errno.EIO, "it became shorter")
            at += count

    @staticmethod
    def _let_go(descriptor: int, window: _Window) -> None:
        if window.resident < window.size:
            os.posix_fadvise(
                descriptor,
                window.offset + window.resident,
                window.size - window.resident,
                os.POSIX_FADV_DONTNEED,
            )

    def _took(self, count: int, enough: threading.Event) -> None:
        """Count, keep the speed limit, and end when told to."""
        with self._counting:
            self._progress.add_verified(count)
            wait = self._pace.owed_seconds(count)
        if self._stop.wait(wait) or enough.is_set():
            raise Passing(Reason.STOPPED, "stopped; what was verified is not noted")


def stranger(folder: int, files: Sequence[File]) -> str:
    """Return the name of what lies in an open folder of weights and is not of them, nothing when all is.

    An engine may load whatever lies beside its weights, or run it.
    """
    known = {MANIFEST, *(file.path for file in files)}
    folders = [""]
    for number, path in enumerate(folders):
        if number > len(known) + FOLDERS_BESIDE:
            return f"{path}/"
        found = _stranger_in(folder, path, known, folders)
        if found:
            return found
    return ""


def _stranger_in(top: int, path: str, known: set[str], folders: list[str]) -> str:
    """Look at one folder, and note which folders it holds."""
    here = _open_below(top, path)
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                name = f"{path}/{entry.name}" if path else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif name not in known or not entry.is_file(follow_symlinks=False):
                    return name
                if len(folders) > len(known) + FOLDERS_BESIDE:
                    return f"{name}/"
    finally:
        os.close(here)
    return ""


def _open_below(top: int, path: str) -> int:
    here = os.dup(top)
    for part in filter(None, path.split("/")):
        try:
            there = open_folder(part, here)
        finally:
            os.close(here)
        here = there
    return here
