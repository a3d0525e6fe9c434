"""Knative's pod autoscaler.

Read: knative/serving @ 98e5ef90, pkg/autoscaler/scaling/{autoscaler,multiscaler}.go,
pkg/autoscaler/config/config.go,
pkg/autoscaler/{metrics/collector,aggregation/bucketing,aggregation/max/window}.go,
pkg/reconciler/autoscaling/kpa/{kpa,scaler}.go. Checked against the cases of
pkg/autoscaler/scaling/autoscaler_test.go and pkg/autoscaler/aggregation/bucketing_test.go, v0.51.0.

Defaults: tick 2 s, stable window 60 s, panic window 10 % of it, panic threshold 200 %, at most x1000 up and /2
down per tick, target 70 % of containerConcurrency, scale-down delay 0, activation scale 1, scale-to-zero grace
period 30 s, retention 0.

- Windows hold one bucket a second. A window that is not full yet averages over what it has.
- ``ready`` is the number of ready endpoints, at least 1. With a slow load it stays small, so the panic
  threshold (wanted / ready) stays exceeded, panic does not end, and the wanted number only rises.
- To zero: the revision must have been active for the stable window; then it is inactive, and 30 s later it has
  no pod. A revision that does not become ready within the progress deadline (600 s) + 30 s is scaled to 0 once
  nothing is wanted.

Our choices: containerConcurrency is the slots. The activator counts what waits, so the metric is all requests
in flight. With a load longer than Knative's progress deadline its first deployment would already fail: a user
raises it (annotation serving.knative.dev/progress-deadline), so it is the larger of 600 s and twice the p90 of
a load.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from e2e.bench.scaling.peers.common import UTILISATION, in_flight, ready_of, target_of
from e2e.bench.scaling.scaler import ClusterView, Workload

TICK_SECONDS = 2.0
ACTIVATION_BUFFER_SECONDS = 30.0


@dataclass(slots=True)
class Window:
    """One bucket a second; what was seen last holds until the next look, as a scrape a second would see it."""

    seconds: int
    buckets: deque[float] = field(default_factory=deque)
    total: float = 0.0

    def fill(self, value: float, seconds: int) -> None:
        """Record a value for so many seconds."""
        for _ in range(min(seconds, self.seconds)):
            self.buckets.append(value)
            self.total += value
            if len(self.buckets) > self.seconds:
                self.total -= self.buckets.popleft()

    def average(self) -> float:
        """Return the mean over what there is, rounded to six digits as Knative does."""
        return round(self.total / len(self.buckets), 6) if self.buckets else 0.0


@dataclass(slots=True)
class Delay:
    """The highest wish of the delay window, which has one bucket a tick."""

    buckets: int
    wishes: deque[tuple[int, int]] = field(default_factory=deque)

    def highest(self, now: float, wanted: int) -> int:
        """Record a wish and return the highest."""
        index = int(now // TICK_SECONDS)
        while self.wishes and self.wishes[0][0] <= index - self.buckets:
            self.wishes.popleft()
        while self.wishes and self.wishes[-1][1] <= wanted:
            self.wishes.pop()
        self.wishes.append((index, wanted))
        return self.wishes[0][1]


@dataclass(slots=True)
class Decider:
    """The autoscaler of one revision: concurrency over two windows in, a number of pods out."""

    target: float
    stable_seconds: float = 60.0
    panic_threshold: float = 2.0
    max_up_rate: float = 1000.0
    max_down_rate: float = 2.0
    activation_scale: int = 1
    delay: Delay | None = None
    panics_since: float | None = None
    panic_pods: int = 0

    def scale(self, now: float, ready: int, stable: float, panic: float) -> int:
        """Return the wanted number of pods, not yet within any bounds."""
        pods = max(1, ready)
        most, fewest = math.ceil(self.max_up_rate * pods), math.floor(pods / self.max_down_rate)
        wanted_stable, wanted_panic = math.ceil(stable / self.target), math.ceil(panic / self.target)
        wanted = self._activated(wanted_stable, min(max(wanted_stable, fewest), most))
        burst = self._activated(wanted_panic, min(max(wanted_panic, fewest), most))
        self._panic(now, wanted_panic / pods >= self.panic_threshold)
        if self.panics_since is not None:
            self.panic_pods = max(self.panic_pods, wanted, burst)
            wanted = self.panic_pods
        return self.delay.highest(now, wanted) if self.delay else wanted

    def _activated(self, raw: int, limited: int) -> int:
        return max(limited, self.activation_scale) if raw > 0 and self.activation_scale > 1 else limited

    def _panic(self, now: float, over: bool) -> None:
        if over:
            self.panics_since = now
        elif self.panics_since is not None and self.panics_since + self.stable_seconds < now:
            self.panics_since = None
            self.panic_pods = 0


@dataclass(slots=True)
class ToZero:
    """The reconciler's way from one pod to none: active, then inactive for the grace period, then gone."""

    stable_seconds: float
    grace_seconds: float
    deadline_seconds: float
    active_since: float | None = None
    inactive_since: float | None = None
    activating_since: float | None = None

    def scale(self, now: float, spec: int, ready: int, wanted: int) -> int:
        """Return the new spec.replicas for a wanted number that is within the bounds."""
        self._observe(now, spec, ready)
        if wanted > 0:
            if self.inactive_since is not None:
                self.inactive_since, self.active_since = None, now if ready > 0 else None
            return wanted
        if spec == 0:
            return 0
        if self.activating_since is not None:
            return 0 if now - self.activating_since > self.deadline_seconds else spec
        if self.inactive_since is not None:
            return 0 if now - self.inactive_since >= self.grace_seconds else spec
        if self.active_since is not None and now - self.active_since >= self.stable_seconds:
            self.inactive_since = now
            return spec
        return 1

    def _observe(self, now: float, spec: int, ready: int) -> None:
        if ready > 0:
            self.active_since = now if self.active_since is None else self.active_since
            self.activating_since = None
            return
        self.active_since = None
        if spec == 0:
            self.activating_since = None
        elif self.activating_since is None:
            self.activating_since = now


@dataclass
class Kpa:
    """A revision with a hard concurrency limit."""

    name: str = "kpa"
    config: str = "default"
    label: str = ""
    share: float = UTILISATION
    target: float | None = None
    stable_seconds: int = 60
    panic_share: float = 0.1
    panic_threshold: float = 2.0
    max_down_rate: float = 2.0
    scale_down_delay_seconds: float = 0.0
    grace_seconds: float = 30.0
    retention_seconds: float = 0.0
    interval_seconds: float = TICK_SECONDS
    wakes_at_once: bool = True
    """The activator holds the request and tells the autoscaler at once."""

    def start(self, workload: Workload) -> None:
        """Forget everything. A new autoscaler begins in panic with what is ready, so as not to shrink on no data."""
        self._workload = workload
        delay = (
            Delay(math.ceil(self.scale_down_delay_seconds / TICK_SECONDS))
            if self.scale_down_delay_seconds
            else None
        )
        self._decider = Decider(
            max(0.01, target_of(workload, self.target, self.share)),
            self.stable_seconds,
            self.panic_threshold,
            max_down_rate=self.max_down_rate,
            delay=delay,
        )
        self._windows = (
            Window(self.stable_seconds),
            Window(max(1, round(self.stable_seconds * self.panic_share))),
        )
        self._seen: float | None = None
        self._to_zero = ToZero(
            self.stable_seconds,
            max(self.grace_seconds, self.retention_seconds),
            max(600.0, 2.0 * workload.load_p90_seconds) + ACTIVATION_BUFFER_SECONDS,
        )

    def decide(self, view: ClusterView) -> int:
        """Tick once."""
        ready = ready_of(view)
        if self._seen is None and ready > 1:
            self._decider.panics_since, self._decider.panic_pods = view.now, ready
        seconds = 1 if self._seen is None else int(view.now) - int(self._seen)
        self._seen = view.now
        for window in self._windows:
            window.fill(in_flight(view), max(1, seconds) if not window.buckets else seconds)
        stable, panic = (window.average() for window in self._windows)
        wanted = self._decider.scale(view.now, ready, stable, panic)
        if view.spec == 0 and in_flight(view) > 0.0:
            wanted = max(1, wanted)
        bounded = max(self._workload.min_replicas, min(self._workload.max_replicas, wanted))
        return self._to_zero.scale(view.now, view.spec, ready, bounded)


def grid() -> list[Callable[[], Kpa]]:
    """Return what a user would try: another target, longer windows, delays and a retention of the last pod."""
    return [
        partial(
            Kpa,
            config="tuned",
            label=f"{share:.0%} of the slots, window {window} s, delay {delay:g} s, panic at {panic:g}",
            share=share,
            stable_seconds=window,
            scale_down_delay_seconds=delay,
            retention_seconds=delay,
            panic_threshold=panic,
        )
        for share in (0.5, 0.7, 0.9)
        for window in (60, 300, 600)
        for delay in (0.0, 900.0, 2700.0)
        for panic in (2.0, 10.0)
    ]
