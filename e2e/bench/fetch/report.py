"""What the benchmark says: a table for each case, a picture, and one JSON object per run."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.bench.fetch.measure import TOGETHER, Run
from e2e.bench.fetch.tools import WARMER

TARGET = 0.9
"""Of the machine's own limit, with the digest computed and everything on the disk."""


@dataclass(frozen=True, slots=True)
class Row:
    """A tool in a case: the medians of its rounds. ``ratio``, ``of_together``: its speed, of the limit's and of all three at once."""

    tool: str
    seconds: float
    durable_seconds: float
    speed: float
    cpu_seconds: float
    peak_mib: float
    ratio: float
    of_together: float
    problem: str


def rows(runs: Sequence[Run], case: str) -> list[Row]:
    """Return the rows of a case, the limits first, then from the fastest on."""
    these = [run for run in runs if run.case == case]
    limit = limit_seconds(these)
    together = statistics.median([run.seconds for run in these if run.tool == TOGETHER] or [limit])
    found = []
    for tool in dict.fromkeys(run.tool for run in these):
        of_tool = [run for run in these if run.tool == tool]
        durable = statistics.median(run.durable_seconds for run in of_tool)
        found.append(
            Row(
                tool,
                statistics.median(run.seconds for run in of_tool),
                durable,
                of_tool[0].bytes / durable,
                statistics.median(run.cpu_seconds for run in of_tool),
                max(run.peak_memory_bytes for run in of_tool) / 2**20,
                limit / durable,
                together / durable,
                next((run.problem for run in of_tool if run.problem), ""),
            )
        )
    return sorted(found, key=lambda row: (not row.tool.startswith("limit"), row.durable_seconds))


def limit_seconds(runs: Sequence[Run]) -> float:
    """Return what the slowest of loopback, disk and sha256 takes alone: nobody can be faster.

    The disk's own limit is the faster of both ways to write.
    """
    medians = {
        tool: statistics.median(run.seconds for run in runs if run.tool == tool)
        for tool in {run.tool for run in runs if run.tool.startswith("limit")}
    }
    disk = min(medians["limit: disk"], medians["limit: disk, page cache"])
    return max(medians["limit: loopback"], medians["limit: sha256"], disk)


def missed(table: Sequence[Row]) -> list[str]:
    """Return which targets a case misses, in words."""
    ours = next((row for row in table if row.tool == WARMER.name), None)
    if ours is None:
        return []
    words = [] if ours.ratio >= TARGET else [f"{ours.ratio:.2f} of the limit, the target is {TARGET}"]
    words += [
        f"{row.tool} is faster: {row.durable_seconds:.2f} s, the warmer {ours.durable_seconds:.2f} s"
        for row in table
        if not row.tool.startswith("limit") and not row.problem and row.durable_seconds < ours.durable_seconds
    ]
    return [f"{ours.tool} failed: {ours.problem}"] if ours.problem else words


def text(case: str, table: Sequence[Row]) -> str:
    """Return a case as text."""
    lines = [
        case,
        f"  {'':<26} {'on disk':>8} {'ended':>8} {'MB/s':>7} {'of limit':>8} {'of all 3':>8} {'vs ours':>8} {'CPU':>7} {'memory':>8}",
    ]
    ours = next((row.durable_seconds for row in table if row.tool == WARMER.name), 0.0)
    for row in table:
        versus = "" if row.tool.startswith("limit") else f"{row.durable_seconds / ours:.2f}x" if ours else ""
        memory = f"{row.peak_mib:.0f} MiB" if row.peak_mib else ""
        lines.append(
            f"  {row.tool:<26} {row.durable_seconds:>6.2f} s {row.seconds:>6.2f} s {row.speed / 1e6:>7.0f} "
            f"{row.ratio:>8.2f} {row.of_together:>8.2f} {versus:>8} {row.cpu_seconds:>5.1f} s {memory:>8} {row.problem}".rstrip()
        )
    return "\n".join([*lines, *(f"  MISSED: {words}" for words in missed(table))])


def machine() -> str:
    """Return what it was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release().partition('-')[0]}, load {os.getloadavg()[0]:.1f}"


def write_json(run: Run, scale: float, path: Path) -> None:
    """Append a run as one line."""
    with path.open("a") as out:
        out.write(json.dumps({**asdict(run), "scale": scale}) + "\n")


def write_svg(cases: dict[str, list[Row]], path: Path) -> None:
    """Draw the speeds as bars."""
    left, width, line = 190, 760, 20
    height = sum(len(table) * line + 40 for table in cases.values()) + 10
    style = 'font-family="sans-serif" font-size="12"'
    parts, y = [f'<rect width="{width}" height="{height}" fill="#fff"/>'], 24
    for case, table in cases.items():
        top = max(row.speed for row in table)
        parts.append(f'<text x="8" y="{y}" {style} font-weight="bold">{case}: MB/s, on the disk</text>')
        for row in table:
            y += line
            length = (width - left - 80) * row.speed / top
            colour = (
                "#bbb"
                if row.tool.startswith("limit")
                else "#c0562f"
                if row.tool == WARMER.name
                else "#3b6ea5"
            )
            parts += [
                f'<text x="{left - 6}" y="{y}" {style} text-anchor="end">{row.tool}</text>',
                f'<rect x="{left}" y="{y - 11}" width="{length:.1f}" height="14" fill="{colour}"/>',
                f'<text x="{left + length + 5:.1f}" y="{y}" {style}>{row.speed / 1e6:.0f}</text>',
            ]
        y += 40
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{"".join(parts)}</svg>\n'
    )
