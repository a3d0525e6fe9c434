"""llm-d's workload-variant-autoscaler, and the HPA that follows it.

Read: llm-d/llm-d-workload-variant-autoscaler @ b08b1c77, internal/saturation/{analyzer,constants}.go,
internal/engines/saturation/engine.go, internal/engines/pipeline/enforcer.go, internal/config/scale_to_zero.go,
charts/workload-variant-autoscaler/{values.yaml,templates/hpa.yaml}, config/samples/hpa-integration.yaml.

Defaults: saturated at 80 % of the KV cache or 5 in a replica's queue; one more replica when the replicas that
are not saturated have, on average, less than 10 % KV or 3 places in the queue to spare; one fewer when N / (N -
1) of the load still leaves that. The engine runs every 30 s (the 60 s of the chart are read and not used). It
only publishes wva_desired_replicas; an HPA sets them: AverageValue 1, windows 240 s both ways, 10 pods in 150
s.

- While the wish is not the current number, or a replica does not report, nothing is decided: at most one
  replica a load.
- The HPA's tolerance of 10 % swallows one replica more or less from ten upwards (11 / 10 is within 1.1, 9 / 10
  within 0.9): with the chart as it is a deployment never grows beyond 10, which is the chart's maximum, and
  never leaves 10 again.
- With no metrics at all the target is what there is. Scale to zero: no request within 10 min.

Our choices: slots in use stand for the KV cache, what waits is shared by the ready replicas. A user of more
than ten replicas sets the HPA's tolerance to 0, which Kubernetes 1.36 allows: that is the default here, the
documented configurations are the chart's and the sample's own. To and from zero goes the engine itself, at its
next round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from e2e.bench.scaling.peers.common import Ticks, in_flight, ready_of
from e2e.bench.scaling.peers.hpa import (
    SYNC_SECONDS,
    Behavior,
    Controller,
    Rules,
    Step,
    Tolerances,
    Unit,
    average_value,
    milli,
)
from e2e.bench.scaling.scaler import ClusterView, Workload

ENGINE_SECONDS = 30.0
TEN_PODS = (Step(Unit.PODS, 10, 150.0),)
CHART = Behavior(Rules(240.0, TEN_PODS), Rules(240.0, TEN_PODS))
EXACT = Behavior(Rules(240.0, TEN_PODS, tolerance=0.0), Rules(240.0, TEN_PODS, tolerance=0.0))
SAMPLE = Behavior(Rules(0.0, (Step(Unit.PODS, 10, 15.0),)), Rules(0.0, (Step(Unit.PODS, 10, 15.0),)))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The saturation-scaling ConfigMap."""

    kv: float = 0.8
    queue: float = 5.0
    kv_spare: float = 0.1
    queue_spare: float = 3.0


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the analyzer says of one variant."""

    unsaturated: int
    grow: bool
    may_shrink: bool


def analyse(replicas: Sequence[tuple[float, float]], thresholds: Thresholds) -> Analysis:
    """Judge replicas by their KV usage (0 to 1) and queue length."""
    if not replicas:
        return Analysis(0, grow=False, may_shrink=False)
    free = [(kv, queue) for kv, queue in replicas if kv < thresholds.kv and queue < thresholds.queue]
    many = len(free)
    kv_spare = sum(thresholds.kv - kv for kv, _ in free) / many if free else 0.0
    queue_spare = sum(thresholds.queue - queue for _, queue in free) / many if free else 0.0
    grow = kv_spare < thresholds.kv_spare or queue_spare < thresholds.queue_spare
    return Analysis(many, grow, _may_shrink(many, kv_spare, queue_spare, thresholds))


def _may_shrink(many: int, kv_spare: float, queue_spare: float, thresholds: Thresholds) -> bool:
    if many < 2:
        return False
    more = many / (many - 1)
    kv_left = thresholds.kv - (thresholds.kv - kv_spare) * more
    queue_left = thresholds.queue - (thresholds.queue - queue_spare) * more
    return kv_left >= thresholds.kv_spare and queue_left >= thresholds.queue_spare


def target(analysis: Analysis, reporting: int, current: int, desired: int, pending: int) -> int:
    """Return the wish for one variant. ``desired`` is the last one, 0 when there was none."""
    if desired not in {0, current}:
        return desired
    if reporting != current:
        return current
    if analysis.grow:
        return reporting if pending > 0 else reporting + 1
    return reporting - 1 if analysis.may_shrink and reporting > 1 else reporting


@dataclass
class Wva:
    """A VariantAutoscaling of one variant, with its HPA."""

    name: str = "wva"
    config: str = "default"
    label: str = ""
    thresholds: Thresholds = Thresholds()
    behavior: Behavior = EXACT
    retention_seconds: float = 600.0
    interval_seconds: float = SYNC_SECONDS

    def start(self, workload: Workload) -> None:
        """Forget everything."""
        self._workload = workload
        self._rounds = Ticks(ENGINE_SECONDS)
        self._desired = 0
        self._published: int | None = None
        self._last_request: float | None = None
        self._controller = Controller(max(1, workload.min_replicas), workload.max_replicas, self.behavior)

    def decide(self, view: ClusterView) -> int:
        """Run the engine when it is time, then let the HPA sync."""
        if self._last_request is None or in_flight(view) > 0.0 or view.arrivals > 0.0:
            self._last_request = view.now
        if self._rounds.fires(view.now):
            if self._workload.min_replicas == 0 and (zero := self._around_zero(view)) is not None:
                self._desired = self._published = zero
                return zero
            self._desired = self._published = self._engine(view)
        tolerances = self.behavior.tolerances(Tolerances())
        return self._controller.sync(view.now, view.spec, partial(self._proposal, view, tolerances))

    def _engine(self, view: ClusterView) -> int:
        ready, current = ready_of(view), len(view.pods) or view.spec
        if not ready:
            return current
        share = view.queued / ready
        replicas = [(pod.in_service / self._workload.slots, share) for pod in view.pods if pod.ready]
        analysis = analyse(replicas, self.thresholds)
        return target(analysis, ready, current, self._desired, current - ready)

    def _around_zero(self, view: ClusterView) -> int | None:
        if view.spec == 0:
            return 1 if in_flight(view) > 0.0 else 0
        idle_since = view.now if self._last_request is None else self._last_request
        return 0 if view.now - idle_since >= self.retention_seconds else None

    def _proposal(self, view: ClusterView, tolerances: Tolerances) -> int | None:
        if self._published is None:
            return None
        return average_value(milli(self._published), 1000, len(view.pods), tolerances)


def documented() -> list[Callable[[], Wva]]:
    """Return the chart's HPA and the sample's, which waits for nothing."""
    return [
        partial(Wva, config="documented", label="chart", behavior=CHART),
        partial(Wva, config="documented", label="sample", behavior=SAMPLE),
    ]


def grid() -> list[Callable[[], Wva]]:
    """Return what a user would try: saturation earlier or later, and an HPA that follows at once."""
    exact = Behavior(
        Rules(0.0, (Step(Unit.PODS, 10, 15.0),), tolerance=0.0),
        Rules(300.0, (Step(Unit.PODS, 10, 15.0),), tolerance=0.0),
    )
    return [
        partial(
            Wva,
            config="tuned",
            label=f"KV {kv:.0%}, spare {spare:.0%}, queue {queue:g}, {'fast' if behavior is exact else 'chart'} HPA",
            thresholds=Thresholds(kv=kv, kv_spare=spare, queue=queue, queue_spare=min(3.0, queue / 2)),
            behavior=behavior,
        )
        for kv in (0.7, 0.8, 0.95)
        for spare in (0.05, 0.1, 0.3)
        for queue in (1.0, 5.0)
        for behavior in (EXACT, exact)
    ]
