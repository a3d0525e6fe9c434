"""The warmer's process: one run of one task, and how it ends (exit code, last words for the operator)."""

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from preheat_warmer import quarantine, siblings
from preheat_warmer.config import Config, KeepConfig, PageConfig, PullConfig, from_environment, task_of
from preheat_warmer.errors import Hopeless, Passing, Reason, WarmerError
from preheat_warmer.fetch import Fetcher, Pace, over_budget
from preheat_warmer.folder import open_folder
from preheat_warmer.image import check_pulled, resolve, verify_image
from preheat_warmer.keep import keep
from preheat_warmer.manifest import File, Manifest, approve, manifest_digest, parse_rendered, select
from preheat_warmer.page import page
from preheat_warmer.progress import Progress
from preheat_warmer.publish import (
    PUBLISHED,
    check_complete,
    check_space,
    lock,
    prepare,
    publish,
    published,
    read_published,
    touch,
)
from preheat_warmer.scan import check_pickles
from preheat_warmer.server import serve
from preheat_warmer.sources import source_for
from preheat_warmer.sources.base import Source
from preheat_warmer.sources.neighbours import Neighbours
from preheat_warmer.sources.web import Web
from preheat_warmer.telling import log, say_last
from preheat_warmer.threads import in_thread
from preheat_warmer.verified import forget_note, read_boot_id, read_note, write_note
from preheat_warmer.verify import Verifier

Result = TypeVar("Result")

IMAGE_TASKS = {"resolve": resolve, "verifyImage": verify_image}
LIST_BACKOFF_SECONDS = (0.5, 1.0, 3.0, 10.0)
SIZES_AT_ONCE = 8
THREADS_EACH = 3
"""Per connection: one that reads and writes, one that hashes, one that syncs."""
THREADS_BESIDE = 16
"""For names, lists, sizes and publishing."""


def main() -> None:
    """Do one task. Exit code 0: done; 1: try again; 2: somebody must change something."""
    started = time.monotonic()
    progress = Progress()
    try:
        if task_of(os.environ) == "serve":
            from preheat_warmer.seeder import seed  # noqa: PLC0415 - cryptography: a tenth of a second at each start

            seed(os.environ)
            return
        words = _run(progress)
    except WarmerError as error:
        sys.exit(_fail(error, progress))
    except Exception as error:  # noqa: BLE001 - the one place where a bug is caught, told and not hidden
        log("bug", trace=traceback.format_exc())
        problem = Passing(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}. See the log of the pod")
        sys.exit(_fail(problem, progress))
    words["seconds"] = round(time.monotonic() - started, 3)
    log(words["state"].lower(), **{name: value for name, value in words.items() if name != "state"})
    say_last(words)


def _run(progress: Progress) -> dict[str, Any]:
    """Do the task that the configuration names; return its last words."""
    config = from_environment(os.environ)
    if isinstance(config, KeepConfig):
        return keep(config, progress)
    if isinstance(config, PageConfig):
        return page(config, progress)
    if isinstance(config, PullConfig):
        return check_pulled(config)
    server = serve(config.listen_port, progress)
    log("started", uri=config.uri, node=config.node_name, port=server.server_address[1])
    # asyncio.run comes back when every thread that writes is done: only then the lock may go.
    with ExitStack() as held:
        manifest = asyncio.run(_interruptible(config, progress, held))
    return {
        "state": "Published",
        "bytesTotal": manifest.total_bytes,
        "bytesFetched": progress.bytes_fetched,
        "bytesFromPeers": progress.bytes_from_peers,
        "files": len(manifest.files),
        "manifestSHA256": manifest_digest(manifest) if manifest.files else None,
        "resolvedRevision": manifest.revision or None,
    }


async def _interruptible(config: Config, progress: Progress, held: ExitStack) -> Manifest:
    """Warm up; end cleanly on SIGTERM, keeping what is there for the next run."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        if config.task == "warm":
            return await warm(config, progress, held)
        return await IMAGE_TASKS[config.task](config, progress)
    except asyncio.CancelledError:
        raise Passing(Reason.STOPPED, "stopped; what was fetched is kept for the next run") from None


async def warm(config: Config, progress: Progress, held: ExitStack) -> Manifest:
    """Put the weights there; return their manifest, sizes filled in. Raises Hopeless or Passing.

    ``held`` keeps the folder's lock; the caller lets go of it when no thread of this run writes any more. What is
    there is looked at under the lock only: else the node's keeper could remove what was just found.
    """
    threads = ThreadPoolExecutor(THREADS_EACH * config.parallelism + THREADS_BESIDE)
    asyncio.get_running_loop().set_default_executor(threads)
    progress.message = "waiting for another warmer that works here, or for the node's keeper"
    await lock(config.destination, held)
    progress.message = ""
    with _disk_trouble(config):
        touch(config.destination)
        cache = open_folder(str(config.destination))
    held.callback(os.close, cache)
    there = _pinned_and_published(config)
    if there is not None and await _still_right(config, cache, there, progress):
        return _done(config, there, progress)
    if config.peers and (near := await _from_neighbours(config, cache, progress)) is not None:
        return near
    web = Web(config.token)
    try:
        source = source_for(config, web)
        manifest = await _list(config, source, progress)
        return await _put_there(config, cache, source, manifest, progress)
    finally:
        await web.close()


async def _from_neighbours(config: Config, cache: int, progress: Progress) -> Manifest | None:
    """Put the weights there from the neighbours alone. None: they could not, and what came of them stays.

    Whatever is wrong with them is no reason to fail: then it is as if there were none. Even a full disk may be
    one that a lie about sizes fills.
    """
    neighbours = Neighbours(config.peers, config.peer_token, config.manifest_sha256)
    try:
        manifest = approve(await neighbours.list(), allow_pickle=config.allow_pickle)
        return await _put_there(config, cache, neighbours, manifest, progress)
    except WarmerError as error:
        log("going on with the source", detail=str(error), from_peers=progress.bytes_from_peers)
        progress.look_anew()
        return None
    finally:
        await neighbours.close()


async def _put_there(
    config: Config, cache: int, source: Source, manifest: Manifest, progress: Progress
) -> Manifest:
    """Fetch and publish these files, unless they are there already."""
    if published(config.destination, manifest):
        there = _published(config, manifest.revision)
        if await _still_right(config, cache, there, progress):
            log("already published")
            return _done(config, there, progress)
    manifest = await _with_sizes(source, manifest)
    progress.begin("Listing", len(manifest.files), manifest.total_bytes)
    with _disk_trouble(config), _size_or_none(manifest, progress):
        return await _fetch_and_publish(config, cache, source, manifest, progress)


@contextmanager
def _disk_trouble(config: Config) -> Iterator[None]:
    """Tell of the disk what it says."""
    try:
        yield
    except OSError as error:
        raise Passing(
            Reason.DISK_ERROR,
            f"{error.filename or config.destination}: {error.strerror}: look at the node's disk and the "
            "volume's rights",
        ) from error


@contextmanager
def _size_or_none(manifest: Manifest, progress: Progress) -> Iterator[None]:
    """Tell no size of weights over budget that is the size of a part: the operator looks for that much room."""
    try:
        yield
    except Hopeless as error:
        if error.reason is Reason.OVER_BUDGET and not manifest.sizes_known:
            progress.bytes_total = 0
        raise


async def _still_right(config: Config, cache: int, there: Manifest, progress: Progress) -> bool:
    """Tell whether what is published is what its manifest says. If not it goes to the quarantine."""
    note = read_note(cache)
    if note is not None and note.holds(read_boot_id(), datetime.now(UTC), manifest_digest(there)):
        return True
    progress.begin("Verifying", len(there.files), there.total_bytes)
    log("verifying", files=len(there.files), bytes=there.total_bytes)

    def look(verifier: Verifier) -> str:
        model = open_folder(PUBLISHED, cache)
        try:
            return verifier.problem(model, there.files)
        finally:
            os.close(model)

    with _disk_trouble(config):
        wrong = await _verifying(look, progress)
        if not wrong:
            _vouch(cache, there)
            return True
        log("quarantined", detail=wrong)
        forget_note(cache)
        await asyncio.to_thread(quarantine.set_aside, cache)
    progress.begin("Listing", 0, 0)
    return False


async def _verifying(work: Callable[[Verifier], Result], progress: Progress) -> Result:
    """Hash in threads, until it is done or we are told to stop."""
    stop = threading.Event()
    verifier = Verifier(progress, Pace(None), stop)
    return await in_thread(lambda: work(verifier), stop.set)


def _vouch(cache: int, manifest: Manifest, verified: datetime | None = None) -> None:
    """Note that the weights were verified, now or then. Without the note they are hashed once more, and that is all."""
    try:
        write_note(cache, manifest_digest(manifest), verified)
    except OSError as error:
        log("note not written", detail=str(error))


def _pinned_and_published(config: Config) -> Manifest | None:
    """Return what is published if the configuration alone says that it is what is asked for.

    That needs no source: a node that has the exact weights starts while the hub is down.
    """
    there = read_published(config.destination)
    if there is None or there.get("source") != config.uri:
        return None
    if config.files and config.scheme != "hf":
        asked = approve(Manifest(config.files), allow_pickle=config.allow_pickle)
        return _published(config, "") if published(config.destination, asked) else None
    is_commit = len(config.revision) == 40 and config.revision == there.get("revision")
    same_choice = not config.files and there.get("include") == _choice(config)
    return _published(config, config.revision) if is_commit and same_choice else None


def _choice(config: Config) -> list[str]:
    """Return what, besides the source, decides which files are taken; it is noted in the manifest."""
    return [*config.include, *(["pickle"] if config.allow_pickle else [])]


def _published(config: Config, revision: str) -> Manifest:
    there = read_published(config.destination)
    return replace(parse_rendered(there), revision=revision) if there else Manifest((), revision)


def _done(config: Config, manifest: Manifest, progress: Progress) -> Manifest:
    with _disk_trouble(config):
        touch(config.destination)
    progress.files_total = progress.files_done = len(manifest.files)
    progress.bytes_total = progress.bytes_done = manifest.total_bytes
    progress.state = "Published"
    return manifest


async def _list(config: Config, source: Source, progress: Progress) -> Manifest:
    """Return the files to fetch: the given ones as they are, or a choice of the source's."""
    if config.files and config.scheme != "hf":
        return approve(Manifest(config.files), allow_pickle=config.allow_pickle)
    listed = await _list_patiently(source, progress)
    if config.files:
        return approve(replace(listed, files=config.files), allow_pickle=config.allow_pickle)
    return select(listed, config.include, allow_pickle=config.allow_pickle)


async def _list_patiently(source: Source, progress: Progress) -> Manifest:
    for wait in LIST_BACKOFF_SECONDS:
        try:
            return await source.list()
        except Passing as error:
            log("listing failed; trying again", detail=str(error))
            progress.retries += 1
            await asyncio.sleep(wait if error.retry_after_seconds is None else error.retry_after_seconds)
    return await source.list()


async def _with_sizes(source: Source, manifest: Manifest) -> Manifest:
    """Fill in sizes that the manifest does not tell: progress and the disk check want them."""
    gate = asyncio.Semaphore(SIZES_AT_ONCE)

    async def sized(file: File) -> File:
        if file.size is not None:
            return file
        async with gate:
            try:
                return replace(file, size=await source.size(file))
            except Passing:
                return file  # the fetch will say what is wrong, after its own tries

    tasks = [asyncio.create_task(sized(file)) for file in manifest.files]
    try:
        return replace(manifest, files=tuple(await asyncio.gather(*tasks)))
    finally:
        for task in tasks:
            task.cancel()


async def _fetch_and_publish(
    config: Config, cache: int, source: Source, manifest: Manifest, progress: Progress
) -> Manifest:
    if config.room_bytes is not None and manifest.total_bytes > config.room_bytes:
        least = "" if manifest.sizes_known else "at least "
        raise over_budget(f"{least}{manifest.total_bytes:,}", config.room_bytes)
    partial = prepare(config.destination, manifest)
    progress.begin("Verifying", len(manifest.files), manifest.total_bytes)
    again = await _verifying(
        lambda verifier: quarantine.take_over(cache, partial, manifest.files, verifier), progress
    )
    shared = await _verifying(
        lambda verifier: siblings.take_over(config.destination, partial, manifest.files, verifier), progress
    )
    progress.begin("Fetching", len(manifest.files), manifest.total_bytes)
    _make_room(config, cache, partial, manifest)
    log(
        "fetching",
        files=len(manifest.files),
        bytes=manifest.total_bytes,
        revision=manifest.revision or None,
        from_quarantine=len(again),
        from_siblings=len(shared.paths),
    )
    pace = Pace(config.max_bytes_per_second)
    fetcher = Fetcher(source, partial, progress, pace, config.parallelism, room_bytes=config.room_bytes)
    if isinstance(source, Neighbours):
        fetcher.comes_from_another = source.would_send_other
    try:
        await _fetch_all(fetcher, manifest, again | shared.paths)
    except Passing as error:
        if error.reason is Reason.DISK_FULL and quarantine.drop(cache):
            log("quarantine deleted: the next run has more room")
        raise
    progress.state = "Verifying"
    sizes = tuple(replace(file, size=(partial / file.path).stat().st_size) for file in manifest.files)
    manifest = replace(manifest, files=sizes)
    progress.bytes_total = manifest.total_bytes
    await asyncio.to_thread(check_complete, partial, manifest)
    await asyncio.to_thread(check_pickles, partial, manifest, allow_pickle=config.allow_pickle)
    await asyncio.to_thread(publish, config.destination, manifest, config.uri, _choice(config))
    _vouch(cache, manifest, shared.verified)
    return _done(config, manifest, progress)


def _make_room(config: Config, cache: int, partial: Path, manifest: Manifest) -> None:
    """Make sure that what is fetched fits. The quarantine goes where it is in the way. Raises Passing."""
    room = config.room_bytes
    if room is not None and manifest.total_bytes + quarantine.size(cache) > room and quarantine.drop(cache):
        log("quarantine deleted: the budget leaves no room for it")
    try:
        check_space(partial, manifest)
    except Passing:
        if not quarantine.drop(cache):
            raise
        log("quarantine deleted: the disk has no room for it")
        check_space(partial, manifest)


async def _fetch_all(fetcher: Fetcher, manifest: Manifest, taken: frozenset[str]) -> None:
    """Fetch all files but those that were on this disk already, and are right."""
    gate = asyncio.Semaphore(fetcher.connections)
    progress = fetcher.progress

    async def one(file: File) -> None:
        async with gate:
            if file.path in taken:
                progress.add((fetcher.folder / file.path).stat().st_size, fetched=False)
            else:
                await fetcher.fetch(file)
            progress.files_done += 1

    watcher = asyncio.create_task(_log_tenths(progress))
    try:
        async with asyncio.TaskGroup() as group:
            for file in sorted(manifest.files, key=lambda f: -(f.size or 0)):  # the longest first
                group.create_task(one(file))
    except ExceptionGroup as problems:
        raise _worst(problems) from problems
    finally:
        watcher.cancel()


def _worst(problems: ExceptionGroup[Exception]) -> Exception:
    """Return the problem to tell of: a bug, then one that only a person can mend, then the others."""

    def rank(problem: Exception) -> int:
        return -problem.exit_code if isinstance(problem, WarmerError) else -3

    return min(problems.exceptions, key=rank)


async def _log_tenths(progress: Progress) -> None:
    told = 0
    while True:
        await asyncio.sleep(0.5)
        tenths = 10 * progress.bytes_done // progress.bytes_total if progress.bytes_total else 0
        if tenths > told:
            told = tenths
            numbers: dict[str, Any] = {"percent": 10 * tenths, "bytes": progress.bytes_done}
            log("progress", **numbers, bytes_per_second=round(progress.bytes_per_second))


def _fail(error: WarmerError, progress: Progress) -> int:
    progress.state, progress.reason, progress.message = "Failed", error.reason, str(error)
    log("failed", reason=error.reason, detail=str(error), exit_code=error.exit_code)
    say_last(
        {
            "state": "Failed",
            "reason": error.reason,
            "message": str(error),
            "bytesDone": progress.bytes_done,
            "bytesTotal": progress.bytes_total,
            **error.beside,
        }
    )
    return error.exit_code


if __name__ == "__main__":
    main()
