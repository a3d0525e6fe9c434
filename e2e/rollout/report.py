"""The table at the end: a line per case."""

from collections.abc import Sequence

from e2e import campaign
from e2e.rollout.judge import Outcome

HEADER = (
    *("case", "verdict", "reason", "sent", "failed", "lost", "to verdict, s", "to recovery, s"),
    *("asked, %", "measured, %"),
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line per case, by name, and below it what went wrong."""
    return campaign.table(HEADER, _row, sorted(outcomes, key=lambda outcome: outcome.case))


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
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
