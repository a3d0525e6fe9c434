"""The table at the end: a line per case."""

from collections.abc import Sequence

from e2e import campaign
from e2e.external.judge import Outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line per case, in the order in which they ran."""
    return campaign.table(("case", "written by", "slowest step", "seconds"), _row, outcomes)


def _row(outcome: Outcome) -> tuple[str, ...]:
    what, took = max(outcome.steps, key=lambda step: step[1], default=("-", 0.0))
    return (
        outcome.case,
        ", ".join(outcome.writers) or "-",
        f"{what}: {took:.1f} s" if outcome.steps else "-",
        f"{outcome.seconds:.0f}",
    )
