"""NVIDIA Dynamo's planner, for aggregated engines.

Read: ai-dynamo/dynamo, components/src/dynamo/planner: config/defaults.py @ 1ca60155, config/planner_config.py @
1366ebb2, core/throughput_scaling.py @ 0c9050c9, core/load_scaling.py @ 0c6da1ec, core/state_machine.py @
0272cbdd, core/load/predictors.py @ 260b6ae9, connectors/kubernetes.py @ 05923725.

What it aims for decides how it works, and the default has no forecast:

- ``throughput`` (the default; "easy mode"): every 5 s, one more when *any* engine's KV cache, with what is
  queued for it, is above 100 %, one fewer when *all* are below 60 %. ``latency``: 40 % and 10 %.
- ``sla``: every 180 s, one interval ahead: ceil(predicted requests a second / what one engine does within the
  SLA). Predictors constant, arima (default), kalman, prophet. No headroom for what the forecast misses.

Whatever is wanted is dropped while the deployment is not wholly ready, and easy mode does not even decide then:
one change a load, in either mode.

Our choices: slots in use stand for the KV cache (an engine whose cache holds as many requests as it has slots),
what waits is shared by the ready engines. What an engine does within the SLA is slots / service time, with the
service time predicted like the requests; 30 ms a token is within the SLA of 50 ms. max_gpu_budget (8) is the
workload's maximum, min_endpoint its minimum, at least 1.

``arima``: the planner fits auto_arima at its first prediction, from five points, and never chooses an order
again. Five points say next to nothing. Here a user has warmed it up on the history: autoregression on the
values or their differences, order by AIC, chosen again each hour. That is more than the planner does. Prophet,
which needs seconds of CPU for each of thousands of intervals, is left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Protocol

from e2e.bench.scaling.peers.common import Ticks, at_least_one, ready_of
from e2e.bench.scaling.scaler import ClusterView, Workload

LOAD_SECONDS = 5.0
THROUGHPUT_SECONDS = 180.0


class Predictor(Protocol):
    """Sees one value an interval and says the next one."""

    def add(self, value: float) -> None:
        """Record a value. Zeros before the first other value are no load yet and are passed over."""

    def predict(self) -> float:
        """Return the next value; 0 before there was any."""


@dataclass(slots=True)
class Constant:
    """The next value is the last one."""

    last: float = 0.0

    def add(self, value: float) -> None:
        """Record a value."""
        self.last = value

    def predict(self) -> float:
        """Return the last value."""
        return self.last


@dataclass(slots=True)
class Kalman:
    """A local linear trend: level and slope, with the planner's variances."""

    q_level: float = 1.0
    q_trend: float = 0.1
    r: float = 10.0
    level: float = 0.0
    trend: float = 0.0
    covariance: tuple[float, float, float] = (1000.0, 0.0, 1000.0)
    """Of level and level, level and trend, trend and trend."""
    begun: bool = False
    ahead: bool = False
    """Whether the filter already stands at the interval to come."""

    def add(self, value: float) -> None:
        """Correct the filter by a value."""
        if value == 0.0 and not self.begun:
            return
        if not self.begun:
            self.level, self.begun, self.ahead = value, True, False
            return
        if not self.ahead:
            self._step()
        a, b, c = self.covariance
        gain_level, gain_trend = a / (a + self.r), b / (a + self.r)
        miss = value - self.level
        self.level += gain_level * miss
        self.trend += gain_trend * miss
        self.covariance = ((1 - gain_level) * a, (1 - gain_level) * b, c - gain_trend * b)
        self.ahead = False

    def predict(self) -> float:
        """Return the level one interval ahead."""
        if self.begun and not self.ahead:
            self._step()
            self.ahead = True
        return self.level

    def _step(self) -> None:
        a, b, c = self.covariance
        self.level += self.trend
        self.covariance = (a + 2 * b + c + self.q_level, b + c, c + self.q_trend)


@dataclass(slots=True)
class Arima:
    """Autoregression on the values or their differences; see the module for what it leaves out."""

    longest: int = 480
    """Values to fit to: a day of intervals."""
    values: list[float] = field(default_factory=list)
    lags: int = 0
    times: int = 1
    """How often differences are taken: 0 or 1."""
    weights: list[float] = field(default_factory=list)
    seen: int = 0

    def add(self, value: float) -> None:
        """Record a value; every twentieth time the order is chosen again, every fifth the weights."""
        if value == 0.0 and not self.values:
            return
        self.values.append(value)
        del self.values[: -self.longest]
        self.seen += 1
        if self.seen < 20 or len(set(self.values)) == 1:
            self.weights = []
        elif not self.weights or self.seen % 20 == 0:
            self.lags, self.times, self.weights = chosen(self.values)
        elif self.seen % 5 == 0:
            self.weights = fitted(differences(self.values, self.times), self.lags)[0]

    def predict(self) -> float:
        """Return the next value, at least 0; the last one as long as there is nothing to fit to."""
        if not self.weights:
            return self.values[-1] if self.values else 0.0
        series = differences(self.values[-self.lags - 1 :], self.times) if self.lags else []
        step = self.weights[0] + sum(w * series[-1 - i] for i, w in enumerate(self.weights[1:]))
        return max(0.0, step + (self.values[-1] if self.times else 0.0))


def differences(values: Sequence[float], times: int) -> list[float]:
    """Return the values, or (once) what they differ by."""
    return list(values) if not times else [b - a for a, b in pairwise(values)]


def chosen(values: Sequence[float]) -> tuple[int, int, list[float]]:
    """Return the lags and differences with the least AIC a value, and their weights.

    The error is that of the next value for either number of differences; so they are compared on one footing.
    """

    def aic(order: tuple[int, int]) -> float:
        weights, error = fits[order]
        rows = len(values) - order[1] - order[0]
        return math.log(max(error, 1e-9) / rows) + 2 * len(weights) / rows

    fits = {(lags, times): fitted(differences(values, times), lags) for times in (0, 1) for lags in range(4)}
    lags, times = min(fits, key=aic)
    return lags, times, fits[lags, times][0]


def fitted(series: Sequence[float], lags: int) -> tuple[list[float], float]:
    """Return the least-squares weights (constant first, then lag 1 and on) and the sum of squared errors."""
    size = lags + 1
    normal = [[0.0] * size for _ in range(size)]
    right = [0.0] * size
    rows = [[1.0, *(series[t - 1 - i] for i in range(lags))] for t in range(lags, len(series))]
    for row, value in zip(rows, series[lags:], strict=True):
        for i in range(size):
            right[i] += row[i] * value
            for j in range(size):
                normal[i][j] += row[i] * row[j]
    weights = solved(normal, right)
    errors = (
        value - sum(w * x for w, x in zip(weights, row, strict=True))
        for row, value in zip(rows, series[lags:], strict=True)
    )
    return weights, sum(error * error for error in errors)


def solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small symmetric system, with a touch of ridge so that a constant series is no trouble."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        rows[i][i] += 1e-9 * (1.0 + rows[i][i])
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for k in range(size):
            if k != i:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


@dataclass(frozen=True, slots=True)
class Easy:
    """Thresholds of easy mode: shares of the KV cache, queued requests included."""

    up: float = 1.0
    down: float = 0.6


THROUGHPUT, LATENCY = Easy(), Easy(0.4, 0.1)


def easy_decision(uses: Sequence[float], workers: int, least: int, easy: Easy) -> int | None:
    """Return the wish of easy mode, None without a change. ``uses`` are shares of the cache, by engine."""
    if not uses or workers == 0:
        return None
    if any(use > easy.up for use in uses):
        return workers + 1
    if workers > 1 and all(use < easy.down for use in uses):
        return max(workers - 1, least)
    return None


def throughput_decision(demand_rps: float, engine_rps: float, least: int) -> int | None:
    """Return the replicas that a demand needs, None when nobody knows what an engine does."""
    return max(math.ceil(demand_rps / engine_rps), least) if engine_rps > 0.0 else None


@dataclass
class DynamoLoad:
    """The planner in easy mode, as it comes."""

    name: str = "dynamo"
    config: str = "default"
    label: str = ""
    easy: Easy = THROUGHPUT
    interval_seconds: float = LOAD_SECONDS

    def start(self, workload: Workload) -> None:
        """Forget everything. The planner never goes below one endpoint."""
        self._workload = at_least_one(workload)

    def decide(self, view: ClusterView) -> int:
        """Look once at the engines; while one loads there is nothing to decide."""
        ready = ready_of(view)
        if view.spec == 0 or ready != view.spec or len(view.pods) != view.spec:
            return max(self._workload.min_replicas, view.spec)
        queued = view.queued / ready if ready else 0.0
        uses = [(pod.in_service + queued) / self._workload.slots for pod in view.pods]
        wanted = easy_decision(uses, ready, self._workload.min_replicas, self.easy)
        return view.spec if wanted is None else min(wanted, self._workload.max_replicas)


@dataclass
class DynamoSla:
    """The planner with the target ``sla``, throughput scaling only."""

    name: str = "dynamo-sla"
    config: str = "default"
    label: str = "arima"
    predictor: Callable[[], Predictor] = Arima
    adjust_seconds: float = THROUGHPUT_SECONDS
    interval_seconds: float = 15.0
    """How often arrivals are looked at; decided is every ``adjust_seconds``."""

    def start(self, workload: Workload) -> None:
        """Forget everything."""
        self._workload = at_least_one(workload)
        self._adjusts = Ticks(self.adjust_seconds)
        self._requests, self._service = self.predictor(), self.predictor()
        self._arrivals = 0.0
        self._served: list[float] = []
        self._begun = False

    def decide(self, view: ClusterView) -> int:
        """Count, and once an interval predict the next one."""
        self._arrivals += view.arrivals
        if view.service_seconds is not None:
            self._served.append(view.service_seconds)
        stay = max(self._workload.min_replicas, view.spec)
        if not self._adjusts.fires(view.now):
            return stay
        if not self._begun:
            self._begun, self._arrivals, self._served = True, 0.0, []
            return stay
        self._requests.add(self._arrivals)
        if self._served:
            self._service.add(sum(self._served) / len(self._served))
        self._arrivals, self._served = 0.0, []
        service = self._service.predict()
        engine_rps = self._workload.slots / service if service > 0.0 else 0.0
        wanted = throughput_decision(
            max(0.0, self._requests.predict()) / self.adjust_seconds,
            engine_rps,
            self._workload.min_replicas,
        )
        whole = ready_of(view) == view.spec == len(view.pods)
        if wanted is None or not whole:
            return stay
        return min(wanted, self._workload.max_replicas)


def default() -> list[Callable[[], DynamoLoad | DynamoSla]]:
    """Return the default target, and the one with the forecast."""
    return [DynamoLoad, DynamoSla]


def documented() -> list[Callable[[], DynamoLoad | DynamoSla]]:
    """Return what the planner's guide names for users who care for latency, and for bursts.

    Dynamo's planner guide (v1.5): target ``latency``; predictor ``kalman`` for online smoothing of bursty traffic.
    """
    return [
        partial(DynamoLoad, config="documented", label="latency", easy=LATENCY),
        partial(DynamoSla, config="documented", label="kalman", predictor=Kalman),
    ]


def grid() -> list[Callable[[], DynamoLoad | DynamoSla]]:
    """Return both easy targets, and each predictor with shorter and longer intervals."""
    easy: list[Callable[[], DynamoLoad | DynamoSla]] = [
        partial(DynamoLoad, config="tuned", label=label, easy=thresholds)
        for label, thresholds in (("throughput", THROUGHPUT), ("latency", LATENCY))
    ]
    return easy + [
        partial(
            DynamoSla,
            config="tuned",
            label=f"{predictor.__name__.lower()}, {seconds:g} s",
            predictor=predictor,
            adjust_seconds=seconds,
        )
        for predictor in (Constant, Kalman, Arima)
        for seconds in (60.0, 180.0, 600.0)
    ]
