"""A replay as a picture: replicas, demand and misses over time, in the terminal and as SVG. Pure: steps in, text out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from preheat.cli.replay import Step

WIDTH, HEIGHT = 72, 12
"""Columns and lines of the plot: with its scale, 80 columns."""
READY, LOADING, DEMAND, FEW_LATE, MANY_LATE = "█", "░", "o", "·", "!"
MANY = 0.1
"""This share of late requests is many."""
RED, YELLOW, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Bin:
    """A stretch of time: the most that were asked for; the means of those that were ready and wanted, in replicas; the share of late requests."""

    asked: int
    ready: float
    wanted: float
    late: float


def bins(steps: Sequence[Step], slots: float, width: int) -> list[Bin]:
    """Return the steps in at most ``width`` stretches of the same length."""
    per = -(-len(steps) // width)
    found = []
    for first in range(0, len(steps), per):
        some = steps[first : first + per]
        came = sum(step.came for step in some)
        found.append(
            Bin(
                asked=max(step.asked for step in some),
                ready=sum(step.ready for step in some) / len(some),
                wanted=sum(step.wanted for step in some) / len(some) / slots,
                late=sum(step.late for step in some) / came if came else 0.0,
            )
        )
    return found


def lines(steps: Sequence[Step], slots: float, *, colour: bool) -> list[str]:
    """Return the picture, 80 columns wide at most."""
    found = bins(steps, slots, WIDTH)
    top = max(1, *(one.asked for one in found), math.ceil(max(one.wanted for one in found)))
    height = min(HEIGHT, top)
    result = []
    for line in range(height, 0, -1):
        cells = "".join(_cell(one, line, top / height) for one in found)
        scale = f"{line * top / height:>6.3g}"
        result.append(f"{scale} |{_painted(cells, DEMAND, YELLOW) if colour else cells}".rstrip())
    late = "".join(" " if not one.late else FEW_LATE if one.late < MANY else MANY_LATE for one in found)
    result.append(f"  late |{_painted(late, MANY_LATE, RED) if colour else late}".rstrip())
    result.append(f"       +{'-' * len(found)}")
    begin, end = "0", clock(steps[-1].at)
    result.append(f"        {begin}{end.rjust(max(1, len(found) - len(begin)))}")
    result.append(
        f"        {READY} ready  {LOADING} asked for, not ready  {DEMAND} wanted  "
        f"{FEW_LATE} some late  {MANY_LATE} {MANY:.0%} and more"
    )
    return result


def _cell(one: Bin, line: int, per_line: float) -> str:
    if one.wanted > 0 and max(1, math.ceil(one.wanted / per_line - 1e-9)) == line:
        return DEMAND
    level = (line - 0.5) * per_line
    return READY if one.ready > level else LOADING if one.asked > level else " "


def _painted(text: str, letter: str, colour: str) -> str:
    return text.replace(letter, f"{colour}{letter}{PLAIN}")


def clock(seconds: float) -> str:
    """Return a time since the beginning.

    >>> clock(75), clock(90_000)
    ('0:01:15', '1d 1:00:00')
    """
    days, rest = divmod(round(seconds), 86_400)
    words = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {words}" if days else words


SVG_WIDTH, SVG_HEIGHT, LEFT, TOP, LATE_HEIGHT = 900, 320, 46, 44, 46
STYLE = """
  text { font: 12px sans-serif; fill: #333 } .title { font-size: 14px }
  .ready { fill: #3b6ea5; fill-opacity: .45 } .asked { fill: none; stroke: #3b6ea5; stroke-width: 1.5 }
  .wanted { fill: none; stroke: #b35c00; stroke-width: 1.5 } .late { fill: #c0281f } .axis { stroke: #888 }
  .asked-words { fill: #2f5f93 } .wanted-words { fill: #9a4f00 } .late-words { fill: #b0241c }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .ready { fill: #6ea8e0 } .asked { stroke: #8fc0f0 } .wanted { stroke: #f0a24a }
    .late { fill: #ff6b61 } .asked-words { fill: #8fc0f0 } .wanted-words { fill: #f0a24a } .late-words { fill: #ff8a82 }
  }"""


def svg(title: str, steps: Sequence[Step], slots: float) -> str:
    """Return the picture as SVG, for light and dark pages."""
    found = bins(steps, slots, SVG_WIDTH - LEFT - 20)
    top = max(1.0, *(float(max(one.asked, one.wanted)) for one in found))
    across = (SVG_WIDTH - LEFT - 20) / len(found)
    down = SVG_HEIGHT - TOP - LATE_HEIGHT - 30
    base = TOP + down

    def steps_of(values: Sequence[float]) -> str:
        points = []
        for place, value in enumerate(values):
            y = base - value / top * down
            points += [f"{LEFT + place * across:.1f},{y:.1f}", f"{LEFT + (place + 1) * across:.1f},{y:.1f}"]
        return " ".join(points)

    late = "".join(
        f'<rect class="late" x="{LEFT + place * across:.1f}" y="{base + 8 + LATE_HEIGHT * (1 - one.late):.1f}" '
        f'width="{max(across, 1):.1f}" height="{LATE_HEIGHT * one.late:.1f}"/>'
        for place, one in enumerate(found)
        if one.late
    )
    right = LEFT + across * len(found)
    ready = f"{LEFT},{base} {steps_of([one.ready for one in found])} {right:.1f},{base}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SVG_WIDTH} {SVG_HEIGHT}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}\n</style>",
            f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
            f'<text class="asked-words" x="{LEFT}" y="36">replicas: filled ready, line asked for</text>',
            f'<text class="wanted-words" x="{LEFT + 260}" y="36">wanted, in replicas</text>',
            f'<text class="late-words" x="{LEFT + 400}" y="36">below: share of requests that were late</text>',
            f'<polygon class="ready" points="{ready}"/>',
            f'<polyline class="asked" points="{steps_of([one.asked for one in found])}"/>',
            f'<polyline class="wanted" points="{steps_of([one.wanted for one in found])}"/>',
            late,
            f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{right:.1f}" y2="{base}"/>',
            f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{top:.3g}</text>',
            f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">0</text>',
            f'<text x="{LEFT - 6}" y="{base + 22}" text-anchor="end">100 %</text>',
            f'<text x="{LEFT}" y="{SVG_HEIGHT - 6}">0</text>',
            f'<text x="{right:.1f}" y="{SVG_HEIGHT - 6}" text-anchor="end">{clock(steps[-1].at)}</text>',
            "</svg>\n",
        ]
    )
