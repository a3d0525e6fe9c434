"""The Kubernetes HorizontalPodAutoscaler, controller-manager 1.36.3.

Read: kubernetes/kubernetes v1.36.3,
pkg/controller/podautoscaler/{horizontal,replica_calculator,metrics/utilization}.go,
pkg/apis/autoscaling/v2/defaults.go, pkg/controller/podautoscaler/config/v1alpha1/defaults.go.

Defaults: sync 15 s, tolerance 0.1, down-scale stabilisation 300 s, no behavior block. Checked against the
controller itself, run on virtual time over random histories (tests/unit/e2e/scaling/vectors).

What a reader of the prose documentation misses, and the code does:

- The first sync records the replicas that are there as a recommendation; so nothing shrinks in the first 300 s.
- With a behavior block the window is a clamp in both directions: the result is what is there now, raised to the
  lowest and lowered to the highest recommendation of the two windows.
- The start of a policy's period is the replicas now, less those added in it, *plus those removed in it*.
- Without a block a recommendation exactly as old as the window counts, with one it does not.
- Quantities are thousandths: a per-pod mean is an integer division.

Our choices: the metric is the requests in flight over all replicas (external, AverageValue: what KEDA and a
Prometheus adapter give), the target 70 % of the slots. ``hpa-pods`` averages the pods' own gauge instead. A
replica that loads its weights is Running and has no metric yet ("missing"), as with vLLM or Triton; not
Pending.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from e2e.bench.scaling.peers.common import UTILISATION, at_least_one, in_flight, ready_of, target_of
from e2e.bench.scaling.scaler import ClusterView, Workload

SYNC_SECONDS = 15.0
INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far the ratio of usage and target may be from 1 without a change."""

    down: float = 0.1
    up: float = 0.1

    def holds(self, ratio: float) -> bool:
        """Return whether the ratio is near enough to 1."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


TOLERANCES = Tolerances()


class Unit(StrEnum):
    """What a scaling policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class Select(StrEnum):
    """Which of several policies applies: the one that allows the largest change, the smallest, or none."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Step:
    """At most this many pods, or per cent of them, in a period."""

    unit: Unit
    value: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of a behavior block."""

    window_seconds: float
    steps: tuple[Step, ...]
    select: Select = Select.MAX
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Behavior:
    """spec.behavior, with the API server's defaults where nothing is given."""

    up: Rules = Rules(0.0, (Step(Unit.PODS, 4, 15.0), Step(Unit.PERCENT, 100, 15.0)))
    down: Rules = Rules(300.0, (Step(Unit.PERCENT, 100, 15.0),))

    def tolerances(self, default: Tolerances) -> Tolerances:
        """Return the tolerances per direction."""
        return Tolerances(
            default.down if self.down.tolerance is None else self.down.tolerance,
            default.up if self.up.tolerance is None else self.up.tolerance,
        )


def milli(value: float) -> int:
    """Return a quantity in thousandths, rounded up as Kubernetes does."""
    return math.ceil(round(value * 1000.0, 6))


def average_value(usage: int, target: int, status_replicas: int, tolerances: Tolerances) -> int:
    """Return the replicas for an external metric with an AverageValue; usage and target in thousandths."""
    if status_replicas and tolerances.holds(usage / (float(target) * status_replicas)):
        return status_replicas
    return min(INT32, math.ceil(usage / target))


def total_value(usage: int, target: int, spec: int, ready: int, tolerances: Tolerances) -> int:
    """Return the replicas for an external or object metric with a Value: the ratio times the *ready* replicas."""
    ratio = usage / target
    if spec == 0:
        return math.ceil(ratio)
    return spec if tolerances.holds(ratio) else min(INT32, math.ceil(ratio * ready))


def pods_value(
    measured: Sequence[int], missing: int, pending: int, target: int, spec: int, tolerances: Tolerances
) -> int | None:
    """Return the replicas for a Pods metric, None when no pod has one (an error: nothing changes).

    ``measured`` are the pods that have a value, in thousandths; ``missing`` run without one, ``pending`` do not run.
    """
    if not measured:
        return None
    ratio = (sum(measured) // len(measured)) / target
    grows_with_pending = pending > 0 and ratio > 1.0
    if not grows_with_pending and not missing:
        return spec if tolerances.holds(ratio) else math.ceil(ratio * len(measured))
    filled, counted = sum(measured), len(measured)
    if missing and ratio != 1.0:
        # Who has no value is taken to be at the target when it gets less, and idle when it gets more.
        filled += missing * target if ratio < 1.0 else 0
        counted += missing
    if grows_with_pending:
        counted += pending
    again = (filled // counted) / target
    if tolerances.holds(again) or (ratio < 1.0 < again) or (again < 1.0 < ratio):
        return spec
    wanted = math.ceil(again * counted)
    turns_back = (again < 1.0 and wanted > spec) or (again > 1.0 and wanted < spec)
    return spec if turns_back else wanted


@dataclass(slots=True)
class Controller:
    """What the controller keeps of one HorizontalPodAutoscaler, and its reconciliation."""

    min_replicas: int
    max_replicas: int
    behavior: Behavior | None = None
    window_seconds: float = 300.0
    recommended: deque[tuple[float, int]] = field(default_factory=deque)
    added: list[tuple[float, int]] = field(default_factory=list)
    removed: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, spec: int, propose: Callable[[], int | None]) -> int:
        """Return the new spec.replicas. ``propose`` is asked only where the controller would look at metrics."""
        if not self.recommended:
            self.recommended.append((now, spec))
        if spec == 0 and self.min_replicas != 0:
            return spec
        wanted = self._bounded(now, spec, propose)
        if wanted != spec and self.behavior is not None:
            (self.added if wanted > spec else self.removed).append((now, abs(wanted - spec)))
        return wanted

    def _bounded(self, now: float, spec: int, propose: Callable[[], int | None]) -> int:
        if spec > self.max_replicas:
            return self.max_replicas
        if spec < self.min_replicas:
            return self.min_replicas
        proposal = propose()
        if proposal is None:
            return spec
        if self.behavior is None:
            return self._without_behavior(now, spec, proposal)
        return limited(
            spec,
            self._stabilised(now, spec, proposal, self.behavior),
            (self.min_replicas, self.max_replicas),
            self.behavior,
            (self._within(now, self.added), self._within(now, self.removed)),
        )

    def _without_behavior(self, now: float, spec: int, proposal: int) -> int:
        while self.recommended and self.recommended[0][0] < now - self.window_seconds:
            self.recommended.popleft()
        highest = max([proposal, *(replicas for _, replicas in self.recommended)])
        self.recommended.append((now, proposal))
        ceiling = min(self.max_replicas, max(2 * spec, 4))
        return self.min_replicas if highest < self.min_replicas else min(ceiling, highest)

    def _stabilised(self, now: float, spec: int, proposal: int, behavior: Behavior) -> int:
        keep = max(behavior.up.window_seconds, behavior.down.window_seconds)
        while self.recommended and self.recommended[0][0] < now - keep:
            self.recommended.popleft()
        lowest = min([proposal, *self._since(now - behavior.up.window_seconds)])
        highest = max([proposal, *self._since(now - behavior.down.window_seconds)])
        self.recommended.append((now, proposal))
        return min(max(spec, lowest), highest)

    def _since(self, cutoff: float) -> list[int]:
        return [replicas for at, replicas in self.recommended if at > cutoff]

    def _within(self, now: float, events: list[tuple[float, int]]) -> Callable[[float], int]:
        def changed(seconds: float) -> int:
            return sum(many for at, many in events if at > now - seconds)

        if self.behavior is not None:
            longest = max(
                step.seconds for rules in (self.behavior.up, self.behavior.down) for step in rules.steps
            )
            events[:] = [(at, many) for at, many in events if at >= now - longest]
        return changed


def limited(
    spec: int,
    wanted: int,
    bounds: tuple[int, int],
    behavior: Behavior,
    changed: tuple[Callable[[float], int], Callable[[float], int]],
) -> int:
    """Return what the policies of a behavior block allow of the wanted number.

    ``bounds``: least and most replicas. ``changed``: replicas added and removed in the last so many seconds.
    """
    lowest, highest = bounds
    if wanted > spec:
        return min(wanted, highest, max(spec, up_limit(spec, behavior.up, *changed)))
    if wanted < spec:
        return max(wanted, lowest, min(spec, down_limit(spec, behavior.down, *changed)))
    return wanted


def up_limit(spec: int, rules: Rules, added: Callable[[float], int], removed: Callable[[float], int]) -> int:
    """Return the most replicas that the policies allow."""
    if rules.select is Select.DISABLED:
        return spec
    limits = []
    for step in rules.steps:
        start = spec - added(step.seconds) + removed(step.seconds)
        more = start + step.value if step.unit is Unit.PODS else math.ceil(start * (1 + step.value / 100))
        limits.append(more)
    return min(limits) if rules.select is Select.MIN else max(limits)


def down_limit(
    spec: int, rules: Rules, added: Callable[[float], int], removed: Callable[[float], int]
) -> int:
    """Return the fewest replicas that the policies allow."""
    if rules.select is Select.DISABLED:
        return spec
    limits = []
    for step in rules.steps:
        start = spec - added(step.seconds) + removed(step.seconds)
        fewer = start - step.value if step.unit is Unit.PODS else int(start * (1 - step.value / 100))
        limits.append(fewer)
    return max(limits) if rules.select is Select.MIN else min(limits)


class Metric(StrEnum):
    """What the autoscaler looks at."""

    IN_FLIGHT = "in flight"
    """External, AverageValue: requests in service and waiting, over the replicas of status."""
    RUNNING = "running"
    """External, AverageValue: requests in service."""
    WAITING = "waiting"
    """External, AverageValue: requests that wait."""
    WAITING_TOTAL = "waiting in total"
    """Object, Value: requests that wait, whoever serves."""
    PODS = "per pod"
    """Pods: what each ready replica has in service and in its queue."""


def proposal(metric: Metric, target: float, tolerances: Tolerances, view: ClusterView) -> int | None:
    """Return the replicas that one metric asks for."""
    aim = milli(target)
    match metric:
        case Metric.PODS:
            values = [milli(pod.in_service + pod.queued) for pod in view.pods if pod.ready]
            return pods_value(values, len(view.pods) - len(values), 0, aim, view.spec, tolerances)
        case Metric.WAITING_TOTAL:
            return total_value(milli(view.queued), aim, view.spec, ready_of(view), tolerances)
        case Metric.IN_FLIGHT:
            usage = in_flight(view)
        case Metric.RUNNING:
            usage = view.in_service
        case Metric.WAITING:
            usage = view.queued
    return average_value(milli(usage), aim, len(view.pods), tolerances)


@dataclass
class Hpa:
    """A HorizontalPodAutoscaler on one metric."""

    name: str = "hpa"
    config: str = "default"
    label: str = ""
    metric: Metric = Metric.IN_FLIGHT
    share: float = UTILISATION
    """Of a replica's slots, to aim for."""
    target: float | None = None
    """Instead of a share: a number per replica, in all for WAITING_TOTAL."""
    behavior: Behavior | None = None
    window_seconds: float = 300.0
    """--horizontal-pod-autoscaler-downscale-stabilization, where there is no behavior block."""
    tolerances: Tolerances = TOLERANCES
    interval_seconds: float = SYNC_SECONDS

    def start(self, workload: Workload) -> None:
        """Forget everything. At zero an HPA does nothing (the HPAScaleToZero gate is off), so it keeps one."""
        self._workload = at_least_one(workload)
        self._aim = target_of(workload, self.target, self.share)
        self._controller = Controller(
            self._workload.min_replicas, workload.max_replicas, self.behavior, self.window_seconds
        )

    def decide(self, view: ClusterView) -> int:
        """Sync once."""
        if view.spec == 0:
            return self._workload.min_replicas
        tolerances = self.behavior.tolerances(self.tolerances) if self.behavior else self.tolerances
        return self._controller.sync(
            view.now, view.spec, partial(proposal, self.metric, self._aim, tolerances, view)
        )


def per_pod() -> Hpa:
    """Return the same on the pods' own gauge, which saturates where the queue is not in the pods."""
    return Hpa(name="hpa-pods", metric=Metric.PODS)


def documented() -> list[Callable[[], Hpa]]:
    """Return the vLLM production stack's example: Object metric vllm_num_requests_waiting, Value 1.

    vllm-project/production-stack @ a7d2672b, tutorials/assets/hpa-10.yaml.
    """
    return [partial(Hpa, config="documented", metric=Metric.WAITING_TOTAL, target=1.0)]


def grid() -> list[Callable[[], Hpa]]:
    """Return what a user would try: another target, another metric, a longer memory."""
    return [
        partial(
            Hpa,
            name="hpa" if metric is Metric.IN_FLIGHT else "hpa-pods",
            config="tuned",
            label=f"{metric}, {share:.0%} of the slots, {window:g} s",
            metric=metric,
            window_seconds=window,
            share=share,
        )
        for metric in (Metric.IN_FLIGHT, Metric.PODS)
        for share in (0.4, 0.55, 0.7, 0.85, 1.0)
        for window in (60.0, 300.0, 900.0, 2700.0)
    ]
