"""Which requests came when more was wanted than anybody could have foreseen one load time before.

A forecaster that knows what is usual would hold, at each minute: the level of one load time ago times what it grows by in 199 of 200
cases of the last three days; and as much as at this time yesterday and a week ago. Where demand goes beyond all three, only replicas held
in reserve would have helped.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2e.bench.scaling.oracle import occupancy
from e2e.bench.scaling.trace import DAY, Floats, Trace

MINUTE = 60
QUANTILE = 0.995
TRAILING = 3 * 1440
"""Minutes."""
EVERY = 10
"""The quantile is taken anew after so many minutes."""
AROUND = 15
"""The same time of another day is this many minutes before and after."""


def unforeseen(trace: Trace, load_seconds: float) -> NDArray[np.bool_]:
    """Return which requests came in a minute that wanted more than could be foreseen."""
    demand = by_minute(trace)
    ahead = max(1, math.ceil(load_seconds / MINUTE))
    beyond = np.append(demand > np.maximum.reduce([grown(demand, ahead), *usual(demand)]), False)
    return np.asarray(beyond[np.minimum((trace.arrivals / MINUTE).astype(np.int64), demand.size)])


def by_minute(trace: Trace) -> Floats:
    """Return the most slots that each minute wants."""
    demand = occupancy(trace)
    whole = demand[: demand.size // MINUTE * MINUTE]
    return np.asarray(whole.reshape(-1, MINUTE).max(axis=1))


def grown(demand: Floats, ahead: int) -> Floats:
    """Return for each minute the level of ``ahead`` minutes before times what it usually grows by at most until then."""
    before = np.concatenate([np.full(ahead, demand[0]), demand[:-ahead]])
    growth = demand / np.maximum(before, 1.0)
    # What is known at a minute ends `ahead` minutes before it; before the start nothing grew.
    known = np.concatenate([np.ones(TRAILING + ahead), growth])[: demand.size + TRAILING]
    windows = sliding_window_view(known, TRAILING)[: demand.size : EVERY]
    usual_growth = np.repeat(np.quantile(windows, QUANTILE, axis=1), EVERY)[: demand.size]
    return np.asarray(np.maximum(before, 1.0) * np.maximum(usual_growth, 1.0))


def usual(demand: Floats) -> list[Floats]:
    """Return the most that was wanted at about the same time yesterday and a week ago."""
    padded = np.concatenate([np.zeros(AROUND), demand, np.zeros(AROUND)])
    around = sliding_window_view(padded, 2 * AROUND + 1).max(axis=1)
    found = []
    for days in (1, 7):
        back = days * round(DAY / MINUTE)
        found.append(np.concatenate([np.zeros(back), around])[: demand.size])
    return found
