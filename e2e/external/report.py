"""What the cases say: a table at the end, and one JSON object per case."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from e2e.external.judge import Outcome

HEADER = ("case", "written by", "slowest step", "seconds", "")


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write what is known so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**asdict(outcome), "passed": outcome.passed}) for outcome in outcomes]
    path.write_text("".join(f"{line}\n" for line in lines))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line per case, and below them what went wrong."""
    rows = [HEADER, *map(_row, outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"  {outcome.case}: {problem}" for outcome in outcomes for problem in outcome.problems]
    bad = sum(not outcome.passed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return "\n".join([*lines, f"cases run: {len(outcomes)}, failed: {bad}; {seconds / 60:.1f} minutes"])


def _row(outcome: Outcome) -> tuple[str, ...]:
    what, took = max(outcome.steps, key=lambda step: step[1], default=("-", 0.0))
    return (
        outcome.case,
        ", ".join(outcome.writers) or "-",
        f"{what}: {took:.1f} s" if outcome.steps else "-",
        f"{outcome.seconds:.0f}",
        "passed" if outcome.passed else "FAILED",
    )
