"""Small traces and scalers that do as they are told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from e2e.bench.scaling.scaler import ClusterView, Workload
from e2e.bench.scaling.simulate import Setting
from e2e.bench.scaling.trace import Trace


def a_trace(
    arrivals: Sequence[float],
    services: Sequence[float] | float = 5.0,
    *,
    end: float = 1000.0,
    history: float = 0.0,
    gpus: tuple[tuple[float, int], ...] = (),
) -> Trace:
    lasts = [services] * len(arrivals) if isinstance(services, float) else services
    return Trace("a trace", np.array(arrivals, dtype=float), np.array(lasts, dtype=float), history, end, gpus)


def nothing_jumped(trace: Trace) -> NDArray[np.bool_]:
    return np.zeros(trace.arrivals.size, dtype=bool)


def a_setting(load: float = 60.0, *, slots: int = 1, sigma: float = 0.0, **others: float) -> Setting:
    return Setting(load, slots=slots, load_sigma=sigma, **others)  # type: ignore[arg-type]


@dataclass
class Told:
    """Wants what it was told for each moment, and keeps what it saw."""

    wanted: Mapping[float, int]
    """From when on how many; before the first: as many as there are."""
    name: str = "told"
    config: str = "default"
    interval_seconds: float = 15.0
    wakes_at_once: bool = False
    prefers_idle: bool = False
    views: list[ClusterView] = field(default_factory=list)
    workload: Workload | None = None

    def start(self, workload: Workload) -> None:
        self.workload = workload

    def decide(self, view: ClusterView) -> int:
        list(view.pods), list(view.eta_seconds)
        self.views.append(view)
        said = [many for since, many in sorted(self.wanted.items()) if since <= view.now]
        return said[-1] if said else view.spec


@dataclass
class Wild:
    """Wants anything at any time."""

    seed: int
    most: int
    name: str = "wild"
    config: str = "default"
    interval_seconds: float = 7.0
    prefers_idle: bool = False
    seen: float = 0.0

    def start(self, workload: Workload) -> None:
        self.rng = np.random.default_rng(self.seed)

    def decide(self, view: ClusterView) -> int:
        self.seen += view.arrivals
        return int(self.rng.integers(0, self.most + 1)) if self.rng.random() < 0.3 else view.spec


def erlang_c(servers: int, offered: float) -> float:
    """The probability that a request waits in M/M/c (Erlang 1917); ``offered``: arrival rate times service time."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - offered / servers)
    return last / (sum(terms) + last)
