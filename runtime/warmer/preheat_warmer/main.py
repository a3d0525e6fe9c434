"""The warmer's process: one run, and how it ends (exit code, last words for the operator)."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preheat_warmer.config import Config, from_environment
from preheat_warmer.errors import Passing, Reason, WarmerError
from preheat_warmer.fetch import Fetcher, Pace
from preheat_warmer.manifest import Manifest, manifest_digest, select
from preheat_warmer.progress import Progress
from preheat_warmer.publish import PARTIAL, check_complete, publish, published
from preheat_warmer.server import serve
from preheat_warmer.sources import source_for
from preheat_warmer.sources.web import Web

LAST_WORDS = "/dev/termination-log"
SPARE_BYTES = 64 << 20
"""What must stay free on the disk besides the weights."""
LIST_TRIES_SECONDS = (1.0, 3.0, 10.0)


def main() -> None:
    """Warm up once. Exit code 0: published; 1: try again; 2: somebody must change something."""
    started = time.monotonic()
    progress = Progress()
    try:
        config = from_environment(os.environ)
        serve(config.listen_port, progress)
        manifest = asyncio.run(_interruptible(config, progress))
    except WarmerError as error:
        progress.state, progress.reason, progress.message = "Failed", error.reason, str(error)
        _log("failed", reason=error.reason, detail=str(error))
        _last_words({"state": "Failed", "reason": error.reason, "message": str(error)[:2000],
                     "bytesDone": progress.bytes_done, "bytesTotal": progress.bytes_total})  # fmt: skip
        sys.exit(error.exit_code)
    seconds = round(time.monotonic() - started, 3)
    _log("published", bytes=manifest.total_bytes, fetched=progress.bytes_fetched, seconds=seconds)
    _last_words(
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


async def _interruptible(config: Config, progress: Progress) -> Manifest:
    """Warm up; end cleanly on SIGTERM, keeping what is there for the next run."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await warm(config, progress)
    except asyncio.CancelledError:
        raise Passing(
            Reason.SOURCE_UNAVAILABLE, "stopped; what was fetched is kept for the next run"
        ) from None


async def warm(config: Config, progress: Progress) -> Manifest:
    """Put the weights there; return their manifest, sizes filled in. Raises Hopeless or Passing."""
    web = Web(config.token)
    try:
        source = source_for(config, web)
        manifest = await _listed(config, source.list)
        manifest = select(manifest, config.include, allow_pickle=config.allow_pickle)
        progress.files_total, progress.bytes_total = len(manifest.files), manifest.total_bytes
        _log("fetching", files=len(manifest.files), bytes=manifest.total_bytes or None, uri=config.uri)
        with _only_one(config.destination):
            if published(config.destination, manifest, config.uri):
                return _with_sizes(manifest, config.destination / "model")
            folder = config.destination / PARTIAL
            folder.mkdir(exist_ok=True)
            manifest = await _sized(manifest, source.open)
            progress.bytes_total = manifest.total_bytes
            _check_space(folder, manifest)
            progress.state = "Fetching"
            fetcher = Fetcher(source, folder, progress, Pace(config.max_bytes_per_second))
            await _fetch_all(fetcher, manifest, progress, config.parallelism)
            progress.state = "Verifying"
            manifest = _with_sizes(manifest, folder)
            await asyncio.to_thread(check_complete, folder, manifest)
            await asyncio.to_thread(publish, config.destination, manifest, config.uri)
        progress.state = "Published"
        return manifest
    finally:
        await web.close()


async def _listed(config: Config, list_source: Any) -> Manifest:
    """Return the manifest: the given one, or the source's after a few tries."""
    if config.files and not config.uri.startswith("hf://"):
        return Manifest(config.files)
    for wait in (*LIST_TRIES_SECONDS, None):
        try:
            listed: Manifest = await list_source()
        except Passing as error:
            if wait is None:
                raise
            _log("listing failed; trying again", detail=str(error))
            await asyncio.sleep(getattr(error, "retry_after", None) or wait)
        else:
            return replace(listed, files=config.files) if config.files else listed
    raise AssertionError("unreachable")


async def _sized(manifest: Manifest, open_source: Any) -> Manifest:
    """Fill in sizes that the manifest does not tell: progress and the disk check need them."""
    files = []
    for file in manifest.files:
        size = file.size
        if size is None:
            try:
                async with open_source(file, 0, "") as transfer:
                    size = transfer.total
            except Passing:
                size = None
        files.append(replace(file, size=size))
    return replace(manifest, files=tuple(files))


def _with_sizes(manifest: Manifest, folder: Path) -> Manifest:
    files = tuple(replace(file, size=(folder / file.path).stat().st_size) for file in manifest.files)
    return replace(manifest, files=files)


def _check_space(folder: Path, manifest: Manifest) -> None:
    """Refuse to begin what cannot end. Raises Passing with both numbers."""
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = manifest.total_bytes - have + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Passing(
            Reason.DISK_FULL,
            f"the node's disk has {free:,} bytes free, {needed:,} are needed: free space or take another node",
        )


async def _fetch_all(fetcher: Fetcher, manifest: Manifest, progress: Progress, parallelism: int) -> None:
    gate = asyncio.Semaphore(parallelism)

    async def one(file: Any) -> None:
        async with gate:
            await fetcher.fetch(file)
            progress.files_done += 1

    watcher = asyncio.create_task(_log_tenths(progress))
    try:
        async with asyncio.TaskGroup() as group:
            for file in sorted(manifest.files, key=lambda f: -(f.size or 0)):
                group.create_task(one(file))
    except ExceptionGroup as problems:
        raise _worst(problems) from problems
    finally:
        watcher.cancel()


def _worst(problems: ExceptionGroup[Exception]) -> Exception:
    """Return the problem to tell of: one that nobody but a person can mend comes first."""
    found = sorted((p for p in problems.exceptions if isinstance(p, WarmerError)), key=lambda p: -p.exit_code)
    return found[0] if found else problems.exceptions[0]


async def _log_tenths(progress: Progress) -> None:
    told = 0
    while True:
        await asyncio.sleep(0.5)
        percent = 100 * progress.bytes_done // progress.bytes_total if progress.bytes_total else 0
        if percent // 10 > told:
            told = percent // 10
            _log(
                "progress", percent=percent, bytes=progress.bytes_done, speed=round(progress.bytes_per_second)
            )


@contextmanager
def _only_one(destination: Path) -> Iterator[None]:
    """Let one warmer at a time write: a second waits, and finds the work done."""
    with (destination / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last_words(words: dict[str, Any]) -> None:
    path = Path(os.environ.get("PREHEAT_TERMINATION_LOG", LAST_WORDS))
    try:
        path.write_text(json.dumps(words))
    except OSError as error:
        _log("last words not written", detail=str(error))


def _log(message: str, **fields: Any) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": message, **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
