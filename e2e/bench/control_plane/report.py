"""What a case says: a table with targets, a curve in the terminal, an SVG, and one JSON object per case."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.bench.control_plane.measure import STATES, Case

TARGETED = 500
"""The number of LLMDeployments for which the targets are set."""
BARS = " ▁▂▃▄▅▆▇█"
COLUMNS = 72


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. ``most``: the target, None where there is none."""

    what: str
    value: float | None
    unit: str = ""
    most: float | None = None

    @property
    def missed(self) -> bool:
        return self.most is not None and self.value is not None and self.value > self.most

    def row(self) -> str:
        """Return the line."""
        value = "" if self.value is None else f"{self.value:,.2f}".rstrip("0").rstrip(".")
        target = "" if self.most is None else f"<= {self.most:g}"
        verdict = "" if self.most is None else "MISSED" if self.missed else "OK"
        return f"  {self.what:<58} {value:>10} {self.unit:<3} {target:>8}  {verdict}".rstrip()


def figures(case: Case) -> Iterator[Figure]:
    """Return the figures of a case, with the targets of issue and design beside those that have one."""
    if case.state == "settled":
        yield Figure("created -> first child written, p50", case.first_child_p50, "s")
        yield Figure("created -> first child written, p99", case.first_child_p99, "s", 20)
        yield Figure("all LLMDeployments created by the load's own client", case.created_seconds, "s")
        yield Figure("all told to be Ready", case.told_seconds, "s")
        yield Figure("the operator's last write", case.last_write_seconds, "s")
        if case.bare is not None:
            yield Figure("a bare client: the same writes", case.bare.seconds, "s")
            yield Figure("  of them not taken", case.bare.failed)
            yield Figure("all told to be Ready / bare client's writes", case.ratio, "x")
            yield Figure("a bare client: until its last pod was Ready", case.bare.ready_seconds, "s")
            yield Figure("all told to be Ready / bare client's pods Ready", case.ready_ratio, "x", 1.5)
        yield Figure("writes per LLMDeployment, Events and what is shared included", case.writes_each, "", 12)
        yield Figure("  the most for any single one", case.most_of_one)
        yield Figure("  not taken by the API server", case.refused)
        yield Figure("reads per LLMDeployment", case.reads / case.objects)
        yield Figure("CPU until settled", case.cpu_seconds, "s")
    else:
        yield Figure("all told to be so", case.told_seconds, "s")
        yield Figure("writes per LLMDeployment until then", case.writes_each)
    minutes = case.idle.seconds / 60
    yield Figure("then, in a minute in which nothing changes: writes", case.idle.writes / minutes, "", 0)
    yield Figure("  reads, without whole lists every five minutes", case.idle.reads / minutes, "", 0)
    cpu = 1 if case.state != "weights" else None
    yield Figure("  CPU", case.idle.cpu_seconds_per_minute, "s", cpu)
    yield Figure("peak memory (VmHWM)", case.peak_mb, "MB", 250 if case.state == "settled" else None)
    yield Figure("memory at the end (VmRSS)", case.rss_mb, "MB")
    yield Figure("load average of the machine at the end", case.load_average)


def table(case: Case) -> str:
    """Return everything about a case as text."""
    lines = [f"{case.objects} LLMDeployments, {case.nodes} nodes: {STATES[case.state]}", ""]
    lines += [figure.row() for figure in figures(case)]
    for what, counted in (("writes", case.writes_by_resource), ("reads", case.reads_by_resource)):
        lines += ["", f"  {what} per LLMDeployment until then:"]
        lines += [f"    {name:<40} {number:>7.3f}" for name, number in counted.items()]
    if case.idle.calls:
        lines += ["", "  calls while nothing changed:"]
        lines += [f"    {name:<40} {number:>7}" for name, number in sorted(case.idle.calls.items())]
    return "\n".join([*lines, "", *curve(case.timeline)])


def curve(timeline: Sequence[int]) -> list[str]:
    """Return the writes per second as a line of bars: a column is one second, or several."""
    step = -(-len(timeline) // COLUMNS)
    columns = [max(timeline[i : i + step]) for i in range(0, len(timeline), step)]
    top = max([*columns, 1])
    bars = "".join(BARS[-(-column * (len(BARS) - 1) // top)] for column in columns)
    return [f"  writes per second, {top} at most, {step} s per column:", f"  |{bars}| {len(timeline)} s"]


def missed(case: Case) -> list[Figure]:
    """Return the targets that a case misses, for the number of objects that they are set for."""
    return [figure for figure in figures(case) if figure.missed] if case.objects == TARGETED else []


def write_json(case: Case, path: Path) -> None:
    """Append a case as one line."""
    with path.open("a") as out:
        print(
            json.dumps(
                {
                    **asdict(case),
                    "writes_each": case.writes_each,
                    "ratio": case.ratio,
                    "ready_ratio": case.ready_ratio,
                }
            ),
            file=out,
        )


def write_svg(case: Case, path: Path) -> None:
    """Draw the writes per second."""
    width, height, left, bottom = 720, 240, 48, 28
    top = max([*case.timeline, 1])
    across = (width - left - 8) / max(len(case.timeline), 1)
    up = (height - bottom - 24) / top
    bars = "".join(
        f'<rect x="{left + second * across:.1f}" y="{height - bottom - count * up:.1f}" '
        f'width="{max(across - 0.5, 0.5):.1f}" height="{count * up:.1f}"/>'
        for second, count in enumerate(case.timeline)
    )
    text = 'font-family="sans-serif" font-size="12"'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect width="{width}" height="{height}" fill="#fff"/><g fill="#3b6ea5">{bars}</g>'
        f'<path d="M{left} 24V{height - bottom}H{width - 8}" fill="none" stroke="#555"/>'
        f'<text x="{left}" y="16" {text}>writes per second: {case.objects} LLMDeployments, {STATES[case.state]}</text>'
        f'<text x="{left - 6}" y="34" {text} text-anchor="end">{top}</text>'
        f'<text x="{left - 6}" y="{height - bottom}" {text} text-anchor="end">0</text>'
        f'<text x="{width - 8}" y="{height - 8}" {text} text-anchor="end">{len(case.timeline)} s</text>'
        f'<text x="{left}" y="{height - 8}" {text}>0 s</text></svg>\n'
    )
