"""The rows of many cells put together: means, worst cells, a score, and who is ahead."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from e2e.bench.scaling.cells import Group
from e2e.bench.scaling.contenders import OURS
from e2e.bench.scaling.work import Row

FAMILIES = {
    "days of traffic": (Group.RATES, Group.STEADY),
    "logs of an hour": (Group.LOG,),
    "jumps": (Group.JUMP, Group.RAMP, Group.STOCK_OUT),
    "scale to zero": (Group.ZERO,),
}
TUNED = "tuned"
KAPPAS = (0.05, 0.2)
"""What a point of attainment below 99 % costs in the score."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A scaler over several cells."""

    who: str
    cells: int
    attained: float
    worst: float
    attained_2s: float
    attained_30s: float
    cost: float
    """The geometric mean over the cells."""
    dearest: float
    over_work: float
    """GPU-hours over the work bound, the geometric mean."""
    gpu_hours: float
    cold_starts: int
    aborted_share: float
    """Of all GPU-hours."""
    regret: int
    lost: int
    decision_us: float
    scores: tuple[float, ...]
    """For each kappa: cost + kappa * points below 99 %, the mean over the cells."""


def standings(rows: Iterable[Row]) -> list[Standing]:
    """Return all scalers, those with the best score first."""
    by_who: dict[str, list[Row]] = {}
    for row in rows:
        by_who.setdefault(row.who, []).append(row)
    return sorted((standing(who, mine) for who, mine in by_who.items()), key=lambda one: one.scores[-1])


def standing(who: str, rows: Sequence[Row]) -> Standing:
    """Put the cells of one scaler together."""
    measured = [row.measured for row in rows]
    hours = sum(one.gpu_hours for one in measured)
    return Standing(
        who=who,
        cells=len(rows),
        attained=statistics.mean(one.attained for one in measured),
        worst=min(one.attained for one in measured),
        attained_2s=statistics.mean(one.attained_2s for one in measured),
        attained_30s=statistics.mean(one.attained_30s for one in measured),
        cost=geometric(row.cost for row in rows),
        dearest=max(row.cost for row in rows),
        over_work=geometric(row.measured.gpu_hours * 3600 / row.bounds.work for row in rows),
        gpu_hours=hours,
        cold_starts=sum(one.cold_starts for one in measured),
        aborted_share=sum(one.aborted_gpu_hours for one in measured) / hours if hours else 0.0,
        regret=sum(one.regret for one in measured),
        lost=sum(one.lost for one in measured),
        decision_us=statistics.mean(one.decision_us for one in measured),
        scores=tuple(statistics.mean(score(row, kappa) for row in rows) for kappa in KAPPAS),
    )


def score(row: Row, kappa: float) -> float:
    """Return cost + kappa * points below 99 %; the less, the better."""
    return row.cost + kappa * max(0.0, 99.0 - 100 * row.measured.attained)


def geometric(values: Iterable[float]) -> float:
    """Return the geometric mean; 0 where one of them is 0."""
    found = list(values)
    return statistics.geometric_mean(found) if all(value > 0 for value in found) else 0.0


def is_default_peer(row: Row) -> bool:
    """Whether a row is of somebody else's scaler with its defaults."""
    return row.scaler != OURS and row.config == "default"


def without_worse_tuned(rows: Sequence[Row]) -> list[Row]:
    """Keep of what was searched, for each peer and load time, the one that did best over all cells: hindsight."""
    by_search: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if row.config == TUNED:
            by_search.setdefault((row.scaler, row.load_seconds), []).append(row)
    best = {unit: standings(tried)[0].who for unit, tried in by_search.items()}
    return [row for row in rows if row.config != TUNED or row.who == best[(row.scaler, row.load_seconds)]]


def cheapest(rows: Sequence[Row], attained: float) -> dict[str, Standing | None]:
    """Return for each scaler its cheapest setting whose mean attainment is enough; None where none is."""
    found: dict[str, Standing | None] = {}
    scaler_of = {row.who: row.scaler for row in rows}
    for one in sorted(standings(rows), key=lambda one: one.cost):
        name = scaler_of[one.who]
        if found.get(name) is None:
            found[name] = one if one.attained >= attained else None
    return found
