"""What Preheat is to reach, and whether it did, with the numbers."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from e2e.bench.scaling.board import KAPPAS, geometric, is_default_peer, score
from e2e.bench.scaling.cells import Group
from e2e.bench.scaling.contenders import OURS
from e2e.bench.scaling.work import Row

MINUTE, FIVE, FORTY_FIVE = 60.0, 300.0, 2700.0
EXACT = 1e-9
"""Sums and means are not exact: who is at the edge has met it."""
BETTER = 0.002
"""A peer is better when it attains this much more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what came out, and whether that is enough; None where the cells for it were not run."""

    target: str
    met: bool | None
    found: str


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge everything."""
    return [
        traffic(rows, FORTY_FIVE, 0.97, 1.5),
        traffic(rows, FIVE, 0.99, 1.25),
        parity(rows),
        *(jumps(rows, load) for load in (FIVE, FORTY_FIVE)),
        to_zero(rows),
        aborted(rows),
        dominated(rows),
    ]


def traffic(rows: Sequence[Row], load: float, attained: float, cost: float) -> Verdict:
    """Judge mean attainment and cost over days of real traffic, or of synthetic traffic where no file was given."""
    target = f"load {words(load)}: attainment at least {attained:.0%} at most {cost:g}x the clairvoyant"
    mine, which = days(rows, load)
    if not mine:
        return Verdict(target, None, "no such cell was run")
    mean = statistics.mean(row.measured.attained for row in mine)
    paid = geometric(row.cost for row in mine)
    worst = min(mine, key=lambda row: row.measured.attained)
    return Verdict(
        target,
        mean >= attained - EXACT and paid <= cost + EXACT,
        f"{mean:.2%} at {paid:.2f}x over {len(mine)} cells of {which}; "
        f"worst {worst.measured.attained:.2%} at {worst.cost:.2f}x ({worst.trace})",
    )


def parity(rows: Sequence[Row]) -> Verdict:
    """Judge the score at a minute against the best default peer's."""
    target = f"load {words(MINUTE)}: parity with the best (score at most 0.05 above)"
    kappa = KAPPAS[-1]
    mine, which = days(rows, MINUTE)
    traces = {row.trace for row in mine}
    others: dict[str, list[float]] = {}
    for row in rows:
        if is_default_peer(row) and row.load_seconds == MINUTE and row.trace in traces:
            others.setdefault(row.who, []).append(score(row, kappa))
    if not mine or not others:
        return Verdict(target, None, "no such cell or no peer was run")
    best = min(others, key=lambda who: statistics.mean(others[who]))
    ours, theirs = statistics.mean(score(row, kappa) for row in mine), statistics.mean(others[best])
    return Verdict(
        target,
        ours <= theirs + 0.05 + EXACT,
        f"{ours:.2f}, the best is {best} with {theirs:.2f}, over {which}",
    )


def jumps(rows: Sequence[Row], load: float) -> Verdict:
    """Judge steps, flashes and surges, each against the peer that attained most in it."""
    target = f"load {words(load)}, jumps: within a point of the best peer, at most 0.6x its GPU-hours, 1/5 its cold starts"
    found, met = [], []
    for row in ours_of([row for row in rows if row.group is Group.JUMP and row.load_seconds == load]):
        best = max(
            peers_beside(row, rows), key=lambda peer: (peer.measured.attained, -peer.cost), default=None
        )
        if best is None:
            continue
        mine, its = row.measured, best.measured
        met.append(
            mine.attained >= its.attained - 0.01 - EXACT
            and mine.gpu_hours <= 0.6 * its.gpu_hours + EXACT
            and mine.cold_starts <= its.cold_starts / 5
        )
        found.append(
            f"{row.trace} {mine.attained:.2%} against {its.attained:.2%} of {best.scaler}, "
            f"{mine.gpu_hours / its.gpu_hours:.2f}x, {mine.cold_starts} cold starts against {its.cold_starts}"
        )
    return Verdict(target, all(met) if met else None, "; ".join(found) or "no such cell or no peer was run")


def to_zero(rows: Sequence[Row]) -> Verdict:
    """Judge scale to zero at 45 minutes."""
    target = f"load {words(FORTY_FIVE)}, scale to zero: at most 0.5 % late at most 1.1x the clairvoyant"
    mine = ours_of([row for row in rows if row.group is Group.ZERO and row.load_seconds == FORTY_FIVE])
    if not mine:
        return Verdict(target, None, "no such cell was run")
    late = 1 - statistics.mean(row.measured.attained for row in mine)
    paid = geometric(row.cost for row in mine)
    each = ", ".join(f"{row.trace} {1 - row.measured.attained:.2%} at {row.cost:.2f}x" for row in mine)
    return Verdict(
        target, late <= 0.005 + EXACT and paid <= 1.1 + EXACT, f"{late:.2%} at {paid:.2f}x: {each}"
    )


def aborted(rows: Sequence[Row]) -> Verdict:
    """Judge what was spent on loads that were never finished, at each load time."""
    target = "aborted loads under 1 % of GPU-hours at every load time"
    found, met = [], []
    for load in sorted({row.load_seconds for row in rows}):
        mine = ours_of([row for row in rows if row.load_seconds == load])
        if not mine:
            continue
        share = sum(row.measured.aborted_gpu_hours for row in mine) / sum(
            row.measured.gpu_hours for row in mine
        )
        worst = max(mine, key=lambda row: row.measured.aborted_share)
        met.append(share < 0.01)
        found.append(f"{words(load)} {share:.2%} (worst {worst.measured.aborted_share:.2%}, {worst.trace})")
    return Verdict(target, all(met) if met else None, "; ".join(found) or "nothing was run")


def dominated(rows: Sequence[Row]) -> Verdict:
    """Judge whether a default peer was cheaper and better in any cell."""
    target = "no default peer is both cheaper and better, by 0.2 points, in any cell"
    compared, found = 0, []
    for row in ours_of(rows):
        for peer in peers_beside(row, rows):
            compared += 1
            if (
                peer.measured.gpu_hours < row.measured.gpu_hours
                and peer.measured.attained > row.measured.attained + BETTER + EXACT
            ):
                found.append(
                    f"{row.trace} at {words(row.load_seconds)} by {peer.scaler} "
                    f"({peer.measured.attained:.2%} at {peer.cost:.2f}x, ours {row.measured.attained:.2%} at {row.cost:.2f}x)"
                )
    if not compared:
        return Verdict(target, None, "no peer was run")
    return Verdict(target, not found, f"{len(found)} of {compared}" + "".join(f"; {each}" for each in found))


def days(rows: Sequence[Row], load: float) -> tuple[list[Row], str]:
    """Return our rows over days of traffic, and which kind of traffic that is."""
    for group, name in ((Group.RATES, "real traffic"), (Group.STEADY, "synthetic traffic")):
        mine = ours_of([row for row in rows if row.group is group and row.load_seconds == load])
        if mine:
            return mine, name
    return [], ""


def ours_of(rows: Iterable[Row]) -> list[Row]:
    """Return our own rows."""
    return [row for row in rows if row.scaler == OURS]


def peers_beside(row: Row, rows: Iterable[Row]) -> list[Row]:
    """Return what the default peers did in the same unit."""
    unit = (row.trace, row.load_seconds, row.seed)
    return [
        other
        for other in rows
        if is_default_peer(other) and (other.trace, other.load_seconds, other.seed) == unit
    ]


def words(seconds: float) -> str:
    """Return a load time as people say it."""
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
