"""Attainment against cost, in the terminal and as a picture: up and left is better, and nobody wins by one alone."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from e2e.bench.scaling.board import FAMILIES, Standing, standings
from e2e.bench.scaling.contenders import OURS
from e2e.bench.scaling.targets import words
from e2e.bench.scaling.work import Row

COLUMNS, LINES = 72, 16
WIDTH, HEIGHT = 480, 340
LABEL = 11
"""How far names are apart."""
COSTS = (0.4, 8.0)
LEAST_ATTAINED = 0.5
"""What is beyond is drawn at the edge."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def plot(title: str, rows: Sequence[Row]) -> str:
    """Draw the scalers as letters; ours is #. Where two fall together the better score is seen."""
    found = standings(rows)
    left, right, bottom = frame(found)
    field = [[" "] * COLUMNS for _ in range(LINES)]
    legend = []
    letters = iter(LETTERS)
    for one in reversed(found):
        letter = "#" if is_ours(one) else next(letters, "?")
        column = round((math.log(clipped(one.cost)) - left) / (right - left) * (COLUMNS - 1))
        line = min(round((1 - one.attained) / (1 - bottom) * (LINES - 1)), LINES - 1)
        field[line][column] = letter
        legend.append(f"{letter} {one.who}")
    lines = [title]
    for number, letters_of in enumerate(field):
        at = 1 - number / (LINES - 1) * (1 - bottom)
        lines.append(f"{at:>7.1%} |{''.join(letters_of)}".rstrip())
    lines.append(f"{'':>7} +{'-' * COLUMNS}")
    lines.append(
        f"{'':>9}{math.exp(left):<.2f}x{'GPU-hours over the clairvoyant, logarithmic':^{COLUMNS - 12}}{math.exp(right):>.2f}x"
    )
    legend.reverse()
    lines += ["         " + ", ".join(legend[at : at + 4]) for at in range(0, len(legend), 4)]
    return "\n".join(lines)


def frame(found: Sequence[Standing]) -> tuple[float, float, float]:
    """Return the logarithms of the least and the greatest cost, and the least attainment, with a little room."""
    costs = [math.log(clipped(one.cost)) for one in found]
    least = max(min(one.attained for one in found), LEAST_ATTAINED)
    return min([*costs, 0.0]) - 0.05, max([*costs, 0.1]) + 0.05, min(least, 0.99) - 0.005


def clipped(cost: float) -> float:
    """Return a cost within what is drawn."""
    return min(max(cost, COSTS[0]), COSTS[1])


def is_ours(one: Standing) -> bool:
    """Whether it is Preheat."""
    return one.who.startswith(OURS + "/")


def look(one: Standing) -> tuple[str, int]:
    """Return the colour and the radius of a scaler's point."""
    if is_ours(one):
        return "#c0562f", 5
    return ("#3b6ea5", 4) if "/default" in one.who else ("#bbb", 3)


def write_svg(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel for each family of cells (below each other) and load time (beside each other)."""
    loads = sorted({row.load_seconds for row in rows})
    families = [name for name, groups in FAMILIES.items() if any(row.group in groups for row in rows)]
    parts = []
    for down, family in enumerate(families):
        for across, load in enumerate(loads):
            these = [row for row in rows if row.load_seconds == load and row.group in FAMILIES[family]]
            at = f"translate({across * WIDTH},{down * (HEIGHT + 20)})"
            parts.append(f'<g transform="{at}">{panel(f"{family}, load {words(load)}", these)}</g>')
    width, height = WIDTH * len(loads), (HEIGHT + 20) * len(families)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def panel(title: str, rows: Sequence[Row]) -> str:
    """Draw one panel: ours, the default peers with their names, all others grey."""
    found = standings(rows)
    left, right, bottom = frame(found)
    x0, x1, y0, y1 = 50, WIDTH - 110, 30, HEIGHT - 30

    def x(cost: float) -> float:
        return x0 + (math.log(clipped(cost)) - left) / (right - left) * (x1 - x0)

    def y(attained: float) -> float:
        return y0 + min((1 - attained) / (1 - bottom), 1.0) * (y1 - y0)

    parts = [
        f'<text x="{x0}" y="16" font-size="13" font-weight="bold">{escape(title)}: {len({row.trace for row in rows})} cells</text>'
    ]
    parts += [
        f'<line x1="{x0}" x2="{x1}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#ddd"/>'
        f'<text x="{x0 - 4}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (1.0, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
        if share >= bottom
    ]
    parts += [
        f'<line x1="{x(cost):.1f}" x2="{x(cost):.1f}" y1="{y0}" y2="{y1}" stroke="#ddd"/>'
        f'<text x="{x(cost):.1f}" y="{y1 + 14}" text-anchor="middle">{cost:g}x</text>'
        for cost in (0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
        if left <= math.log(cost) <= right
    ]
    below = 0.0
    for one in sorted(found, key=lambda one: y(one.attained)):
        colour, radius = look(one)
        at = (x(one.cost), y(one.attained))
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{colour}"/>')
        if radius > 3:
            below = max(at[1] + 4, below + LABEL)
            parts.append(
                f'<text x="{at[0] + 7:.1f}" y="{below:.1f}" fill="{colour}">{escape(one.who)}</text>'
            )
    parts.append(
        f'<text x="{(x0 + x1) / 2}" y="{HEIGHT}" text-anchor="middle">GPU-hours over the clairvoyant</text>'
    )
    return "".join(parts)
