"""What decisions cost: many deployments in mode Predictive, as many decisions each. ``make bench-decisions``.

A table, and a line in build/bench/decisions.jsonl; ends with 1 when a target is missed. In a round each deployment decides
once; the dear ones, where a minute ends, fall together. Memory is the process's own, after
the first decisions, at half time and at the end. It is flat when the second half adds next to nothing.
"""

import argparse
import gc
import json
import math
import resource
import sys
import time
from pathlib import Path

from preheat.decide.scaling import LoadTime, Memory, Policy, Sample, recommend

from e2e.cluster.provider import ROOT

START = 1_767_571_200.0
WINDOW_SECONDS, SERVICE_SECONDS = 15.0, 6.0
MOST_MS = 5.0
MOST_GROWTH = 1.05
"""In the second half."""


def main() -> int:
    """Decide, print, and write down."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.decisions", description=__doc__)
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--decisions", type=int, default=1000, help="of each")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench")
    asked = parser.parse_args()
    found = measured(asked.deployments, asked.decisions)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "decisions.jsonl").write_text(json.dumps(found) + "\n")
    cheap, flat = found["mean_ms"] <= MOST_MS, found["growth"] <= MOST_GROWTH
    print(f"{asked.deployments:,} deployments in Predictive, {asked.decisions:,} decisions each")
    print(f"  ms per decision    mean {found['mean_ms']:.3f}   99 % of rounds {found['p99_ms']:.3f}   dearest round {found['most_ms']:.3f}"
          f"   target {MOST_MS:g}: {'met' if cheap else 'missed'}")  # fmt: skip
    print(f"  memory in MB       first {found['first_mb']:.1f}   half {found['half_mb']:.1f}   end {found['end_mb']:.1f}"
          f"   target flat: {'met' if flat else 'missed'} ({found['growth']:.3f}x)")  # fmt: skip
    return 0 if cheap and flat else 1


def measured(deployments: int, decisions: int) -> dict[str, float]:
    """Return milliseconds of processor time a decision, and megabytes."""
    policy = Policy(1, 200, 8.0, LoadTime(300.0, 342.0))
    memories = [Memory() for _ in range(deployments)]
    took: list[float] = []
    held: dict[int, float] = {}
    marks = (min(10, decisions), decisions // 2, decisions)
    for step in range(1, decisions + 1):
        at = START + WINDOW_SECONDS * step
        began = time.thread_time_ns()
        for place in range(deployments):
            _, memories[place] = recommend(policy, [seen(at, place)], memories[place], at)
        took.append((time.thread_time_ns() - began) / 1e6 / deployments)
        if step in marks:
            gc.collect()
            held[step] = resident_mb()
    ordered = sorted(took)
    first, half, end = (held[mark] for mark in marks)
    return {
        "deployments": deployments, "decisions": decisions, "mean_ms": sum(took) / len(took),
        "p99_ms": ordered[int(0.99 * (len(ordered) - 1))], "most_ms": ordered[-1],
        "first_mb": first, "half_mb": half, "end_mb": end, "growth": end / half,
    }  # fmt: skip


def seen(at: float, place: int) -> Sample:
    """Return a window of a demand that goes up and down, another one for each deployment."""
    slots = 40 + 30 * math.sin(at / 2000 + place) + place % 7
    ready = 10
    return Sample(
        at, WINDOW_SECONDS, slots * WINDOW_SECONDS / SERVICE_SECONDS, slots, 0.0, SERVICE_SECONDS, ready
    )


def resident_mb() -> float:
    """Return what the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    sys.exit(main())
