"""The warmer's process: one run, and how it ends (exit code, last words for the operator)."""

import asyncio
import json
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preheat_warmer.config import Config, from_environment
from preheat_warmer.errors import Passing, Reason, WarmerError
from preheat_warmer.fetch import Fetcher, Pace
from preheat_warmer.manifest import File, Manifest, approve, manifest_digest, select
from preheat_warmer.progress import Progress
from preheat_warmer.publish import (
    check_complete,
    check_space,
    lock,
    prepare,
    publish,
    published,
    read_published,
)
from preheat_warmer.server import serve
from preheat_warmer.sources import source_for
from preheat_warmer.sources.base import Source
from preheat_warmer.sources.web import Web

LAST_WORDS = "/dev/termination-log"
LAST_WORDS_LIMIT_BYTES = 4000
"""The kubelet cuts at 4096 bytes, and half a JSON says nothing."""
LIST_BACKOFF_SECONDS = (0.5, 1.0, 3.0, 10.0)
SIZES_AT_ONCE = 8
THREADS_EACH = 3
"""Per connection: one that reads and writes, one that hashes, one that syncs."""
THREADS_BESIDE = 16
"""For names, lists, sizes and publishing."""


def main() -> None:
    """Warm up once. Exit code 0: published; 1: try again; 2: somebody must change something."""
    started = time.monotonic()
    progress = Progress()
    try:
        manifest = _run(progress)
    except WarmerError as error:
        sys.exit(_fail(error, progress))
    except Exception as error:  # noqa: BLE001 - the one place where a bug is caught, told and not hidden
        _log("bug", trace=traceback.format_exc())
        problem = Passing(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}. See the log of the pod")
        sys.exit(_fail(problem, progress))
    seconds = round(time.monotonic() - started, 3)
    _log("published", bytes=manifest.total_bytes, fetched=progress.bytes_fetched, seconds=seconds)
    _say_last(
        {
            "state": "Published",
            "bytesTotal": manifest.total_bytes,
            "bytesFetched": progress.bytes_fetched,
            "files": len(manifest.files),
            "manifestSHA256": manifest_digest(manifest),
            "resolvedRevision": manifest.revision or None,
            "seconds": seconds,
        }
    )


def _run(progress: Progress) -> Manifest:
    config = from_environment(os.environ)
    server = serve(config.listen_port, progress)
    _log("started", uri=config.uri, node=config.node_name, port=server.server_address[1])
    # asyncio.run comes back when every thread that writes is done: only then the lock may go.
    with ExitStack() as held:
        return asyncio.run(_interruptible(config, progress, held))


async def _interruptible(config: Config, progress: Progress, held: ExitStack) -> Manifest:
    """Warm up; end cleanly on SIGTERM, keeping what is there for the next run."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await warm(config, progress, held)
    except asyncio.CancelledError:
        raise Passing(Reason.STOPPED, "stopped; what was fetched is kept for the next run") from None


async def warm(config: Config, progress: Progress, held: ExitStack) -> Manifest:
    """Put the weights there; return their manifest, sizes filled in. Raises Hopeless or Passing.

    ``held`` keeps the folder's lock; the caller lets go of it when no thread of this run writes any more.
    """
    there = _pinned_and_published(config)
    if there is not None:
        return _done(there, progress)
    threads = ThreadPoolExecutor(THREADS_EACH * config.parallelism + THREADS_BESIDE)
    asyncio.get_running_loop().set_default_executor(threads)
    web = Web(config.token)
    try:
        source = source_for(config, web)
        manifest = await _list(config, source, progress)
        progress.files_total, progress.bytes_total = len(manifest.files), manifest.total_bytes
        progress.message = "waiting for another warmer that writes here"
        waited = await lock(config.destination, held)
        progress.message = ""
        if published(config.destination, manifest):
            _log("already published", waited=waited)
            return _done(_published(config, manifest.revision), progress)
        manifest = await _with_sizes(source, manifest)
        progress.bytes_total = manifest.total_bytes
        try:
            return await _fetch_and_publish(config, source, manifest, progress)
        except OSError as error:
            raise Passing(
                Reason.DISK_ERROR,
                f"{error.filename or config.destination}: {error.strerror}: look at the node's disk and the "
                "volume's rights",
            ) from error
    finally:
        await web.close()


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
    there = read_published(config.destination) or {"files": []}
    files = (File(f["path"], f["sizeBytes"], f["sha256"], f["gitSHA1"]) for f in there["files"])
    return Manifest(tuple(files), revision)


def _done(manifest: Manifest, progress: Progress) -> Manifest:
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
            _log("listing failed; trying again", detail=str(error))
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
    config: Config, source: Source, manifest: Manifest, progress: Progress
) -> Manifest:
    partial = prepare(config.destination, manifest)
    check_space(partial, manifest)
    _log(
        "fetching", files=len(manifest.files), bytes=manifest.total_bytes, revision=manifest.revision or None
    )
    progress.state = "Fetching"
    pace = Pace(config.max_bytes_per_second)
    fetcher = Fetcher(source, partial, progress, pace, config.parallelism)
    await _fetch_all(fetcher, manifest, progress, config.parallelism)
    progress.state = "Verifying"
    sizes = tuple(replace(file, size=(partial / file.path).stat().st_size) for file in manifest.files)
    manifest = replace(manifest, files=sizes)
    progress.bytes_total = manifest.total_bytes
    await asyncio.to_thread(check_complete, partial, manifest)
    await asyncio.to_thread(publish, config.destination, manifest, config.uri, _choice(config))
    return _done(manifest, progress)


async def _fetch_all(fetcher: Fetcher, manifest: Manifest, progress: Progress, parallelism: int) -> None:
    gate = asyncio.Semaphore(parallelism)

    async def one(file: File) -> None:
        async with gate:
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
            _log("progress", **numbers, bytes_per_second=round(progress.bytes_per_second))


def _fail(error: WarmerError, progress: Progress) -> int:
    progress.state, progress.reason, progress.message = "Failed", error.reason, str(error)
    _log("failed", reason=error.reason, detail=str(error), exit_code=error.exit_code)
    _say_last(
        {
            "state": "Failed",
            "reason": error.reason,
            "message": str(error),
            "bytesDone": progress.bytes_done,
            "bytesTotal": progress.bytes_total,
        }
    )
    return error.exit_code


def last_words(words: dict[str, Any]) -> str:
    """Return them as JSON that fits; the message is shortened for it."""
    text = json.dumps(words)
    while len(text) > LAST_WORDS_LIMIT_BYTES:
        message = str(words["message"])
        words = {**words, "message": message[: len(message) * 3 // 4]}
        text = json.dumps(words)
    return text


def _say_last(words: dict[str, Any]) -> None:
    path = Path(os.environ.get("PREHEAT_TERMINATION_LOG", LAST_WORDS))
    try:
        path.write_text(last_words(words))
    except OSError as error:
        _log("last words not written", detail=str(error))


def _log(message: str, **fields: Any) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": message, **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
