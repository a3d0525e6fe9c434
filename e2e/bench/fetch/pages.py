"""`make bench-pages`: how much sooner weights are read when they are in the page cache already."""

import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preheat_warmer.manifest import File, Manifest
from preheat_warmer.page import Wanted, resident_bytes
from preheat_warmer.publish import publish

from e2e.bench.fetch.report import machine
from e2e.cluster.provider import ROOT

MIB = 1 << 20
SIZE = 4096 * MIB
BLOCK_BYTES = 4 * MIB


def main(arguments: list[str]) -> int:
    """Measure; end with 1 when the weights were not where they should have been."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.fetch.pages", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1: 4 GiB [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts [%(default)s]")
    out = ROOT / "build" / "bench"
    parser.add_argument("--work", type=Path, default=out, help="the disk that holds the weights")
    asked = parser.parse_args(arguments)
    out.mkdir(parents=True, exist_ok=True)
    print(f"  {machine()}")
    with tempfile.TemporaryDirectory(dir=asked.work) as work, (out / "pages.jsonl").open("w") as results:
        weights = _weights(Path(work), int(SIZE * asked.scale))
        rounds = [_round(number, Path(work), weights) for number in range(asked.rounds)]
        results.writelines(json.dumps(one) + "\n" for one in rounds)
    cold, paging, warm = (
        statistics.median(one[name] for one in rounds)
        for name in ("coldSeconds", "pagingSeconds", "warmSeconds")
    )
    mib = rounds[0]["bytes"] / MIB
    print(f"  {mib:.0f} MiB, read through a mapping as engines do, median of {asked.rounds}:")
    print(f"  from the disk        {cold:7.2f} s   {mib / cold:7.0f} MiB/s")
    print(f"  from the page cache  {warm:7.2f} s   {mib / warm:7.0f} MiB/s   {cold / warm:.1f} times sooner")
    print(f"  the task `page`      {paging:7.2f} s   {mib / paging:7.0f} MiB/s   ahead of the load")
    print(f"\n{out / 'pages.jsonl'}")
    return (
        0
        if all(one["coldResidentBytes"] == 0 and one["warmResidentBytes"] == one["bytes"] for one in rounds)
        else 1
    )


def _weights(destination: Path, size: int) -> Path:
    """Publish one file of noise."""
    partial = destination / ".partial"
    partial.mkdir()
    with (partial / "a.gguf").open("wb") as file:
        for start in range(0, size, BLOCK_BYTES):
            file.write(os.urandom(min(BLOCK_BYTES, size - start)))
    publish(destination, Manifest((File("a.gguf", size, "0" * 64),)), "bench:", [])
    return destination / "model/a.gguf"


def _round(number: int, destination: Path, weights: Path) -> dict[str, float]:
    size = weights.stat().st_size
    _forget(weights)
    found: dict[str, float] = {"round": number, "bytes": size, "coldResidentBytes": _resident(weights)}
    found["coldSeconds"] = _load(weights)
    _forget(weights)
    words = _page(destination)
    found["pagingSeconds"] = words["seconds"]
    found["warmResidentBytes"] = _resident(weights)
    found["warmSeconds"] = _load(weights)
    return found


def _forget(weights: Path) -> None:
    with weights.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident(weights: Path) -> int:
    with weights.open("rb") as file:
        return resident_bytes(Wanted(file.fileno(), weights.stat().st_size)) or 0


def _load(weights: Path) -> float:
    """Copy everything out of a mapping, in order, as an engine copies tensors to where it computes."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    started = time.monotonic()
    with (
        weights.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
        memoryview(mapping) as view,
    ):
        for start in range(0, len(view), BLOCK_BYTES):
            with view[start : start + BLOCK_BYTES] as piece:
                buffer[: len(piece)] = piece
    return time.monotonic() - started


def _page(destination: Path) -> dict[str, float]:
    last_words = destination / "last-words"
    config = {"task": "page", "destination": str(destination), "listenPort": 0}
    subprocess.run(
        [sys.executable, "-m", "preheat_warmer.main"],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT / "runtime/warmer"),
            "PREHEAT_WARMER_CONFIG": json.dumps(config),
            "PREHEAT_TERMINATION_LOG": str(last_words),
        },
        stderr=subprocess.DEVNULL,
        check=True,
    )
    words: dict[str, float] = json.loads(last_words.read_text())
    return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
