"""What the campaign says: a line as each case ends, a table at the end, and one JSON object per case."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from e2e.rollout.judge import Outcome

HEADER = (
    *("case", "verdict", "reason", "sent", "failed", "lost", "to verdict, s", "to recovery, s"),
    *("asked, %", "measured, %", ""),
)


def line(outcome: Outcome) -> str:
    """Return the line of the results."""
    return json.dumps({**asdict(outcome), "passed": outcome.passed})


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line(outcome) + "\n" for outcome in outcomes))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line per case, by name, and below it what went wrong."""
    ranked = sorted(outcomes, key=lambda outcome: outcome.case)
    rows = [HEADER, *(_row(outcome) for outcome in ranked)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for outcome in ranked:
        lines += [f"  {outcome.case}: {problem}" for problem in outcome.problems]
    bad = sum(not outcome.passed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return "\n".join([*lines, f"cases run: {len(outcomes)}, failed: {bad}; {seconds / 60:.1f} minutes"])


def _row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.case,
        outcome.verdict or "-",
        outcome.reason or "-",
        str(outcome.sent),
        str(outcome.failed),
        str(outcome.lost),
        _figure(outcome.seconds_to_verdict),
        _figure(outcome.seconds_to_recovery),
        _figure(outcome.percent_asked),
        _figure(outcome.percent_measured),
        "passed" if outcome.passed else "FAILED",
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
