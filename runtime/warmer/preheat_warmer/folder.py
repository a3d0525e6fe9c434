"""Folders whose content somebody else may change at any moment: reached by open file descriptors, never by a path.

The node's keeper sees the folders of all namespaces. Who may write one of them can plant symbolic links, pipes and
folders without an end, and can exchange them while we look. So no link is followed, every step is taken from a folder
that is open already, nothing but regular files is read, and no memory grows with what somebody put there.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Without waiting: a pipe that nobody writes to must not hold us."""
BATCH = 1000
DEPTH_AT_MOST = 300
"""A path of a manifest has at most 256 parts; what lies deeper is not counted."""
BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the file system."""


def open_folder(name: str, at: int | None = None) -> int:
    """Open a folder in an open one. Raises OSError, also where there is a link."""
    return os.open(name, OPEN_FOLDER, dir_fd=at)


def open_file(path: str, at: int, flags: int = os.O_RDONLY) -> int:
    """Open a regular file below an open folder. Raises OSError where any step leads over a link."""
    *folders, name = PurePosixPath(path).parts
    here = at
    try:
        for folder in folders:
            there = open_folder(folder, here)
            _close_but(here, at)
            here = there
        file = os.open(name, flags | OPEN_FILE, 0o640, dir_fd=here)
    finally:
        _close_but(here, at)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "no regular file", path)
    return file


def _close_but(folder: int, top: int) -> None:
    if folder != top:
        os.close(folder)


def is_at(folder: int, name: str, at: int) -> bool:
    """Tell whether an open folder still has this name in another."""
    try:
        there = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(folder))


def used_bytes(top: int) -> int:
    """Return what lies below an open folder takes up on the disk. What cannot be read is left out."""
    total = 0
    open_ones = [top]
    levels: list[Iterator[os.DirEntry[str]]] = [_entries(top)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            _close_but(open_ones.pop(), top)
            continue
        with suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            # A file with several names would be counted once for each.
            total += (
                found.st_blocks
                * BLOCK_BYTES
                // (1 if entry.is_dir(follow_symlinks=False) else found.st_nlink)
            )
            if entry.is_dir(follow_symlinks=False) and len(levels) < DEPTH_AT_MOST:
                open_ones.append(open_folder(entry.name, open_ones[-1]))
                levels.append(_entries(open_ones[-1]))
    return total


def _entries(folder: int) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


class Emptying:
    """Deletes what is in open folders: at most so many entries, so that nobody can keep it busy for ever.

    Without recursion: of a folder the files are deleted, and its folders are moved up to the top first. So two
    open folders are enough, however deep they lie.
    """

    def __init__(self, entries_at_most: int) -> None:
        self.freed_bytes = 0
        self._left = entries_at_most

    def empty(self, top: int) -> bool:
        """Delete what is in an open folder; tell whether nothing is left."""
        while names := _names(top):
            done = [self._delete(name, top) for name in names]
            if not any(done):
                return False
        return True

    def _delete(self, name: str, top: int) -> bool:
        """Delete one entry of the top; tell whether that got any further."""
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            if self._unlink(name, top):
                return True
            folder = open_folder(name, top)
        except FileNotFoundError:
            return True  # another keeper was faster
        except OSError:
            return False
        try:
            return self._flatten(folder, top) | self._rmdir(name, top)
        finally:
            os.close(folder)

    def _flatten(self, folder: int, top: int) -> bool:
        """Delete the files of a folder and move its folders to the top; tell whether that got any further."""
        further = False
        while names := _names(folder):
            done = [self._unlink_or_move(name, folder, top) for name in names]
            further |= any(done)
            if not any(done):
                break
        return further

    def _unlink_or_move(self, name: str, folder: int, top: int) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            if not self._unlink(name, folder):
                os.rename(name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _unlink(self, name: str, folder: int) -> bool:
        """Delete a file or an empty folder; tell whether it was one."""
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return self._rmdir(name, folder)
        os.unlink(name, dir_fd=folder)
        self.freed_bytes += found.st_blocks * BLOCK_BYTES if found.st_nlink == 1 else 0
        return True

    def _rmdir(self, name: str, folder: int) -> bool:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError:
            return False
        return True


def _names(folder: int) -> list[str]:
    """Return some of the names in a folder, none when it is empty or cannot be read."""
    return [entry.name for entry in islice(_entries(folder), BATCH)]
