"""The node's keeper: removes what nobody asks for any more, and verifies what is asked for.

It runs once and ends. It sees the folders of all namespaces, and trusts what is in none of them (``folder.py``). What
it may remove is decided by the configuration, and then by who is there, whatever the API server believes:

    KEY is to stay                                          left alone
    a warmer works in it (lock KEY/.lock)                   in use
    a pod runs on it (lock on the manifest)                 in use
    it was touched since the configuration was thought of   young: the next run will know of it
    else                                                    renamed to .removed-KEY, and deleted

Each lock is held until the folder is gone. A warmer that waited for one finds that its folder is another, and begins
anew (``publish.lock``).
"""

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from preheat_warmer import quarantine
from preheat_warmer.config import KeepConfig, is_key, is_namespace
from preheat_warmer.errors import Passing, Reason
from preheat_warmer.fetch import Pace
from preheat_warmer.folder import Emptying, is_at, open_file, open_folder, used_bytes
from preheat_warmer.manifest import Manifest, manifest_digest, parse_rendered
from preheat_warmer.progress import Progress
from preheat_warmer.publish import LOCK, MANIFEST, MANIFEST_LIMIT_BYTES, PUBLISHED
from preheat_warmer.server import KeeperNumbers, serve
from preheat_warmer.tally import Tally
from preheat_warmer.telling import log, say_last
from preheat_warmer.verified import forget_note, read_boot_id, read_note, write_note
from preheat_warmer.verify import Verifier

CUT_SHORT = "CutShort"
"""The state of last words that are written on the way: they stand if the run is killed."""
REMOVED = ".removed-"
NAMES_AT_MOST = 10_000
"""Of one namespace in one run: nobody makes the others wait by making folders."""
LOCK_WAIT_SECONDS = 5.0
"""How long a warmer is waited for before weights are put aside. Publishing takes less."""
LOCK_POLL_SECONDS = 0.2


class _InUse(Exception):  # noqa: N818
    """Somebody holds a lock."""


def keep(config: KeepConfig, progress: Progress) -> dict[str, Any]:
    """Keep the node's disk right, once; return the last words. Raises Passing."""
    stop = threading.Event()
    tally = Tally(on_change=lambda words: say_last({"state": CUT_SHORT, **words}))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serve(config.listen_port, progress, KeeperNumbers(progress, tally))
    log("started", task="keep", node=config.node_name, port=server.server_address[1])
    try:
        with _opened(str(config.root)) as root:
            progress.state = "Sweeping"
            if config.removes:
                Sweep(config, tally, stop).run(root)
            Verification(config, tally, stop, progress).run(root)
            disk = os.fstatvfs(root)
            left = {"bytes": used_bytes(root), "free": disk.f_bavail * disk.f_frsize}
    except OSError as error:
        raise Passing(
            Reason.DISK_ERROR, f"{config.root} cannot be read: {error.strerror}: look at the node's disk"
        ) from error
    except Passing as error:
        error.beside = tally.words()
        raise
    progress.state = "Kept"
    return {"state": "Kept", **tally.words(), **left}


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Passing(Reason.STOPPED, "stopped; the next run goes on")


class Sweep:
    """Removes what nobody asks for any more."""

    def __init__(self, config: KeepConfig, tally: Tally, stop: threading.Event) -> None:
        self._config = config
        self._tally = tally
        self._stop = stop

    def run(self, root: int) -> None:
        """Look at every namespace. What cannot be removed is told, and keeps nothing else from going.

        A namespace's own folder stays, empty or not: a warmer's pod may have mounted it already.
        """
        for namespace in _names(root, is_namespace):
            try:
                with _opened(namespace, root) as folder:
                    self._sweep(folder, namespace)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it has gone, or it is a link or a file and so none of ours
            except OSError as error:
                self._stuck(namespace, error)

    def _sweep(self, folder: int, namespace: str) -> None:
        stay = self._config.keep.get(namespace, frozenset())
        for name in _names(folder, _is_ours):
            _check(self._stop)
            if name in stay:
                continue
            try:
                self._remove(name, folder)
            except _InUse:
                self._tally.add_in_use(name)
                log("in use", namespace=namespace, key=name)
            except OSError as error:
                self._stuck(f"{namespace}/{name}", error)

    def _stuck(self, name: str, error: OSError) -> None:
        why = error.strerror or str(error)
        self._tally.add_stuck(name, why)
        log("not removed", folder=name, detail=why)

    def _remove(self, name: str, namespace: int) -> None:
        """Remove a folder, or leave it alone. Raises _InUse or OSError."""
        try:
            folder = open_folder(name, namespace)
        except (FileNotFoundError, NotADirectoryError):
            return  # it has gone, or it is a link or a file and so none of ours
        with ExitStack() as held, suppress(FileNotFoundError):  # another keeper was faster
            held.callback(os.close, folder)
            if not name.startswith(REMOVED):
                since = _claim(folder, held)
                if not self._is_old(since) or not is_at(folder, name, namespace):
                    self._tally.add_young(name)
                    log("left alone: it was touched since", key=name)
                    return
                os.rename(name, REMOVED + name, src_dir_fd=namespace, dst_dir_fd=namespace)
                name = REMOVED + name
            self._delete(name, folder, namespace)

    def _delete(self, name: str, folder: int, namespace: int) -> None:
        emptying = Emptying(quarantine.ENTRIES_AT_MOST)
        try:
            empty = emptying.empty(folder)
        finally:
            self._tally.freed_bytes += emptying.freed_bytes
        if not empty:
            raise OSError(0, "something in it cannot be deleted: delete the folder by hand")
        os.rmdir(name, dir_fd=namespace)
        self._tally.add_removed()
        log("removed", folder=name, freed=emptying.freed_bytes)

    def _is_old(self, since: float) -> bool:
        return since < self._config.older_than.timestamp()


def _is_ours(name: str) -> bool:
    return is_key(name.removeprefix(REMOVED))


def _claim(folder: int, locks: ExitStack) -> float:
    """Make sure that nobody uses an open folder of a cache; return when it was touched last. Raises _InUse."""
    made, since = _lock_cache(folder, locks)
    for name in (PUBLISHED, quarantine.QUARANTINE):
        try:
            with _opened(name, folder) as weights:
                manifest = open_file(MANIFEST, weights)
        except (FileNotFoundError, NotADirectoryError):
            continue
        locks.callback(os.close, manifest)
        _lock(manifest)
    # A lock file of our own making made the folder young: then it is as old as it was before.
    return since if made else os.fstat(folder).st_mtime


def _lock_cache(folder: int, locks: ExitStack) -> tuple[bool, float]:
    """Take a cache's lock; tell whether there was none, and how old the folder was before. Raises _InUse."""
    since = os.fstat(folder).st_mtime
    try:
        file, made = open_file(LOCK, folder, os.O_RDWR), False
    except FileNotFoundError:
        file, made = open_file(LOCK, folder, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
    locks.callback(os.close, file)
    after = os.fstat(folder).st_mtime
    _lock(file)
    if made and os.fstat(folder).st_mtime != after:
        raise _InUse  # a warmer has come and gone in between
    return made, since


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _InUse from None


class Verification:
    """Hashes what should be there, and puts aside what is not what it should be."""

    def __init__(self, config: KeepConfig, tally: Tally, stop: threading.Event, progress: Progress) -> None:
        self._verify = config.verify
        self._fresh_since = config.fresh_since
        self._tally = tally
        self._stop = stop
        self._progress = progress
        self._verifier = Verifier(progress, Pace(config.max_bytes_per_second), stop)

    def run(self, root: int) -> None:
        """Verify; tell of what is corrupt. Raises Passing when it was stopped.

        Once something is corrupt nothing more is hashed: until the operator has the last words it sends pods to these
        weights. What is seen without hashing is still told of all.
        """
        caches = self._oldest_first(root)
        expected = [self._expected(root, namespace, key) for namespace, key in caches]
        self._progress.begin("Verifying", sum(f for f, _ in expected), sum(size for _, size in expected))
        for namespace, key in caches:
            _check(self._stop)
            try:
                with _opened(namespace, root) as home, _opened(key, home) as cache:
                    why = self._look(cache, key)
            except OSError as error:
                why = f"missing: its folder cannot be opened: {error.strerror}"
            if why is None:
                continue
            if not why:
                self._tally.add_verified()
                log("verified", namespace=namespace, key=key)
                continue
            self._tally.add_corrupt(key, why)
            log("corrupt", namespace=namespace, key=key, detail=why)
        if self._tally.cut_short:
            log("cut short: the next run hashes the rest")

    def _oldest_first(self, root: int) -> list[tuple[str, str]]:
        """Return what is to be verified, in the order of when it was last: runs that are cut short come round to all."""
        found = [
            (_verified_at(root, namespace, key), namespace, key)
            for namespace, keys in self._verify.items()
            for key in keys
        ]
        return [(namespace, key) for _, namespace, key in sorted(found)]

    def _look(self, cache: int, key: str) -> str | None:
        """Return what is wrong with a cache, nothing when it is right, None when that is not known: the next run looks again."""
        with ExitStack() as held:
            try:
                model = open_folder(PUBLISHED, cache)
                held.callback(os.close, model)
            except OSError:
                return self._put_aside(cache, None, "missing: there is no folder model/")
            try:
                manifest = read_manifest(model)
            except (OSError, ValueError) as error:
                return self._put_aside(cache, model, f"{MANIFEST} cannot be read: {error}")
            disk = os.fstatvfs(model)
            if manifest.total_bytes > disk.f_blocks * disk.f_frsize:
                why = f"{MANIFEST} names {manifest.total_bytes:,} bytes, more than the disk holds"
            elif self._is_fresh(cache, key, manifest):
                return ""
            elif self._tally.corrupt_count:
                self._tally.cut_short = True
                return None
            else:
                why = self._verifier.problem(model, manifest.files)
            if why:
                return self._put_aside(cache, model, why)
            with suppress(OSError):  # without it a warmer hashes once more, and that is all
                write_note(cache, manifest_digest(manifest))
            return ""

    def _is_fresh(self, cache: int, key: str, manifest: Manifest) -> bool:
        """Tell whether the weights were verified so lately that they need not be hashed again."""
        since, note = self._fresh_since.get(key), read_note(cache)
        if since is None or note is None:
            return False
        return note.holds_since(since, read_boot_id(), datetime.now(UTC), manifest_digest(manifest))

    def _expected(self, root: int, namespace: str, key: str) -> tuple[int, int]:
        """Return how many files and bytes there are to hash, nothing where that cannot be said."""
        try:
            with (
                _opened(namespace, root) as home,
                _opened(key, home) as cache,
                _opened(PUBLISHED, cache) as model,
            ):
                manifest = read_manifest(model)
                fresh = self._is_fresh(cache, key, manifest)
        except (OSError, ValueError):
            return 0, 0
        return (0, 0) if fresh else (len(manifest.files), manifest.total_bytes)

    def _put_aside(self, cache: int, model: int | None, why: str) -> str | None:
        """Move weights to the quarantine; return what to tell. None: they are others by now, or there after all."""
        try:
            forget_note(cache)
            with self._locked(cache) as alone:
                same = is_at(model, PUBLISHED, cache) if model is not None else not _exists(PUBLISHED, cache)
                if not same:
                    return None
                if not alone:
                    return f"{why}; a warmer is at work there, so nothing was moved"
                if model is not None:
                    quarantine.set_aside(cache)
        except OSError as error:
            return f"{why}; it cannot be moved aside: {error.strerror}"
        return why

    @contextmanager
    def _locked(self, cache: int) -> Iterator[bool]:
        """Hold a cache's lock; tell whether it was to be had in time."""
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        with ExitStack() as locks:
            while True:
                try:
                    _lock_cache(cache, locks)
                except _InUse:
                    if time.monotonic() < deadline and not self._stop.wait(LOCK_POLL_SECONDS):
                        continue
                    yield False
                else:
                    yield True
                return


def _verified_at(root: int, namespace: str, key: str) -> datetime:
    """Return when weights were last verified, as their note says; long ago where none can be read, or lies ahead.

    What is not there at all needs no hashing, and comes last: it is told, and then nothing more is hashed.
    """
    try:
        with _opened(namespace, root) as home, _opened(key, home) as cache:
            note = read_note(cache)
    except OSError:
        return datetime.max.replace(tzinfo=UTC)
    return note.time if note and note.time <= datetime.now(UTC) else datetime.min.replace(tzinfo=UTC)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def read_manifest(model: int) -> Manifest:
    """Return the manifest in an open folder. Raises OSError or ValueError, and takes no more than it may."""
    with os.fdopen(open_file(MANIFEST, model), "rb") as stream:
        text = stream.read(MANIFEST_LIMIT_BYTES + 1)
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise ValueError(f"it is longer than {MANIFEST_LIMIT_BYTES:,} bytes")
    try:
        return parse_rendered(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is no JSON") from error


@contextmanager
def _opened(name: str, at: int | None = None) -> Iterator[int]:
    folder = open_folder(name, at)
    try:
        yield folder
    finally:
        os.close(folder)


def _names(folder: int, wanted: Callable[[str], bool]) -> list[str]:
    """Return those names in a folder that are wanted: so many that no memory grows without end."""
    with os.scandir(folder) as entries:
        return sorted(islice((entry.name for entry in entries if wanted(entry.name)), NAMES_AT_MOST))
