"""AIBrix' pod autoscaler: its strategies APA and KPA.

Read: vllm-project/aibrix @ 015a2e5f (with pull request 2671, "pending replica guard"),
pkg/controller/podautoscaler/{autoscaler,podautoscaler_controller}.go and, @ 029a38b1, autoscaler_test.go; the
rest @ e3e10f9e, just before it: algorithm/{apa,kpa,algorithm}.go, context/context.go,
metrics/{client,collector}.go, types/metrics.go, workload_scale.go. The guard's tests, whose numbers come out of
both, hold here. A prediction package (@ 98354005: a straight line, 2 min ahead) is not called by the autoscaler
@ 015a2e5f and is left out.

Defaults: resync 10 s, stable window 180 s, panic window 60 s, at most x2 up and /2 down, tolerances 0.1, panic
threshold 2, cooldown 0 s up and 300 s down, one value a second and window, which is the *mean* over the pods
that answered.

- Current is spec.replicas, loading ones included. What the guard adds: with replicas pending, a wish to grow is
  worked out again with the pending ones idle, a wish to shrink with them at the target; it never turns a wish
  around. Only for metrics of pods (and resources), not for external ones. Without the guard APA compounded at
  every resync.
- The cooldown for shrinking takes the *lowest* wish of its 300 s (selectMax is false): it does not damp, it
  deepens.
- The panic ratchet (maxPanicPods) has no effect: the context is made anew at each resync, its getter returns 0
  and its setter does nothing. Panic is stable <= 0 or panic / stable > 2, and only means that the larger window
  counts.
- Below the minimum: zero replicas with a minimum above zero are left alone ("scaling disabled").

Our choices: APA gets the share of slots in use, as all of AIBrix' samples for a served model give it the KV
cache's, target 70 %. With what a pod has in service and in its queue (the grid has it not) it does not settle
at any load time: every 10 s it multiplies by a ratio that is the mean of 180 s. KPA divides a *total* by the
target, which makes sense for an external metric only, as AIBrix' own sample
(samples/autoscaling/external-metrics-kpa.yaml) has it: it gets all requests in flight.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from e2e.bench.scaling.peers.common import UTILISATION, at_least_one, clamp, in_flight, ready_of, target_of
from e2e.bench.scaling.scaler import ClusterView, Workload

RESYNC_SECONDS = 10.0


class Strategy(StrEnum):
    """How a metric becomes a number of replicas."""

    APA = "APA"
    KPA = "KPA"


class Source(StrEnum):
    """What is measured."""

    IN_FLIGHT = "in flight per pod"
    """Mean over the ready pods of what they serve and their share of what waits."""
    IN_FLIGHT_TOTAL = "in flight in total"
    """External: one number for all."""
    SLOTS = "slots in use"
    """Mean over the ready pods of the share of slots in use, which is how full the KV cache is of an engine with as many
    slots as its cache holds requests (gpu_cache_usage_perc)."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The scaling context of a PodAutoscaler."""

    max_up: float = 2.0
    max_down: float = 2.0
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    panic_threshold: float = 2.0


@dataclass(slots=True)
class Window:
    """Values by second; those older than the window leave, one exactly as old stays."""

    seconds: int
    values: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, now: float, value: float) -> float:
        """Record a value and return the mean."""
        second = int(now)
        if self.values and self.values[-1][0] == second:
            self.values.pop()
        self.values.append((second, value))
        while self.values[0][0] < int(now - self.seconds):
            self.values.popleft()
        return sum(recorded for _, recorded in self.values) / len(self.values)


def apa(current: int, use: float, target: float, rates: Rates) -> int:
    """Return the replicas for a use per pod: the current number times how far it is from the target."""
    if target <= 0.0:
        return current
    ratio = use / target
    if ratio > 1 + rates.up_tolerance:
        return min(math.ceil(current * ratio), math.ceil(rates.max_up * current))
    if ratio < 1 - rates.down_tolerance:
        return max(math.ceil(current * ratio), math.floor(current / rates.max_down))
    return current


def kpa(current: int, stable: float, panic: float, target: float, rates: Rates) -> int:
    """Return the replicas for the two windows."""
    most, fewest = max(1, math.ceil(rates.max_up * current)), math.floor(current / rates.max_down)

    def wanted(value: float) -> int:
        near = target * (1 - rates.down_tolerance) <= value <= target * (1 + rates.up_tolerance)
        return int(min(max(current if near else math.ceil(value / target), fewest), most))

    panics = stable <= 0.0 or panic / stable > rates.panic_threshold
    return max(wanted(stable), wanted(panic)) if panics else wanted(stable)


def guarded(strategy: Strategy, wanted: int, current: int, ready: int, use: float, target: float) -> int:
    """Return the wish with the pending replicas counted in, for a metric of pods.

    ``use`` is what the algorithm went by; ``ready`` may be anything between 0 and ``current``.
    """
    ready = max(0, min(ready, current))
    pending = current - ready
    if pending == 0 or wanted == current or current <= 0 or target <= 0.0:
        return wanted
    if wanted > current:
        adjusted = use * ready / current
        again = current * adjusted / target if strategy is Strategy.APA else adjusted / target
        return min(wanted, max(current, math.ceil(again)))
    total = use * ready + target * pending
    again = current * (total / current) / target if strategy is Strategy.APA else total / target
    return max(wanted, min(current, math.ceil(again)))


@dataclass(slots=True)
class Cooldown:
    """The recommendations that the cooldown windows look back on."""

    up_seconds: float = 0.0
    down_seconds: float = 300.0
    history: deque[tuple[float, int]] = field(default_factory=deque)

    def stabilise(self, now: float, wanted: int, current: int) -> int:
        """Return the highest wish of the up window, or the lowest of the down window."""
        self.history.append((now, wanted))
        oldest = now - max(self.up_seconds, self.down_seconds)
        while self.history and self.history[0][0] <= oldest:
            self.history.popleft()
        if wanted == current:
            return current
        if wanted > current:
            return max([wanted, *self._since(now - self.up_seconds)])
        return min([wanted, *self._since(now - self.down_seconds)])

    def _since(self, cutoff: float) -> Sequence[int]:
        return [wanted for at, wanted in self.history if at > cutoff]


@dataclass
class Aibrix:
    """A PodAutoscaler with one metric source."""

    name: str = "aibrix-apa"
    strategy: Strategy = Strategy.APA
    config: str = "default"
    label: str = ""
    source: Source = Source.SLOTS
    share: float = UTILISATION
    target: float | None = None
    rates: Rates = Rates()
    stable_seconds: int = 180
    panic_seconds: int = 60
    down_cooldown_seconds: float = 300.0
    guard: bool = True
    """The pending replica guard."""
    interval_seconds: float = RESYNC_SECONDS

    def start(self, workload: Workload) -> None:
        """Forget everything. At zero AIBrix cannot measure, so with a minimum of zero it keeps one."""
        self._workload = at_least_one(workload)
        self._aim = self._target()
        self._stable, self._panic = Window(self.stable_seconds), Window(self.panic_seconds)
        self._cooldown = Cooldown(down_seconds=self.down_cooldown_seconds)

    def decide(self, view: ClusterView) -> int:
        """Resync once."""
        use = self._measured(view)
        if view.spec == 0 or use is None:
            return max(self._workload.min_replicas, view.spec)
        stable, panic = self._stable.add(view.now, use), self._panic.add(view.now, use)
        if self.strategy is Strategy.APA:
            went_by, wanted = stable, apa(view.spec, stable, self._aim, self.rates)
        else:
            panics = stable <= 0.0 or panic / stable > self.rates.panic_threshold
            went_by = panic if panics else stable
            wanted = kpa(view.spec, stable, panic, self._aim, self.rates)
        wanted = clamp(wanted, self._workload)
        if self.guard and self.source is not Source.IN_FLIGHT_TOTAL:
            wanted = guarded(self.strategy, wanted, view.spec, ready_of(view), went_by, self._aim)
        return clamp(self._cooldown.stabilise(view.now, wanted, view.spec), self._workload)

    def _target(self) -> float:
        of_slots = self.share if self.source is Source.SLOTS else target_of(self._workload, None, self.share)
        return of_slots if self.target is None else self.target

    def _measured(self, view: ClusterView) -> float | None:
        ready = ready_of(view)
        match self.source:
            case Source.IN_FLIGHT_TOTAL:
                return in_flight(view)
            case Source.IN_FLIGHT:
                return in_flight(view) / ready if ready else None
            case Source.SLOTS:
                return view.in_service / ready / self._workload.slots if ready else None


def default() -> list[Callable[[], Aibrix]]:
    """Return both strategies with their defaults."""
    return [Aibrix, partial(Aibrix, name="aibrix-kpa", strategy=Strategy.KPA, source=Source.IN_FLIGHT_TOTAL)]


def documented() -> list[Callable[[], Aibrix]]:
    """Return AIBrix' sample for a served model: KV cache of 50 %, tolerances 0.1 and 0.2.

    vllm-project/aibrix @ e3e10f9e, samples/autoscaling/apa.yaml. The annotations apa.../window and
    kpa.../scale-down-delay that the samples set are read by nothing (context.go). KPA's sample (kpa.yaml) is
    left out: with a mean over pods it asks for ceil(mean / target) replicas in all, never more than two.
    """
    return [
        partial(Aibrix, config="documented", target=0.5, rates=Rates(up_tolerance=0.1, down_tolerance=0.2))
    ]


def grid() -> list[Callable[[], Aibrix]]:
    """Return what a user would try: another target, other windows, a slower descent."""
    return [
        partial(
            Aibrix,
            name=name,
            strategy=strategy,
            config="tuned",
            label=f"{share:.0%} of the slots, window {window} s, down by at most /{down:g}, {tolerance:.0%} tolerance",
            source=source,
            share=share,
            stable_seconds=window,
            rates=Rates(max_down=down, down_tolerance=tolerance),
        )
        for name, strategy, source in (
            ("aibrix-apa", Strategy.APA, Source.SLOTS),
            ("aibrix-kpa", Strategy.KPA, Source.IN_FLIGHT_TOTAL),
        )
        for share in (0.4, 0.55, 0.7, 0.85)
        for window in (60, 180, 600)
        for down in (1.1, 2.0)
        for tolerance in (0.1, 0.3)
    ]
