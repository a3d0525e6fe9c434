"""KubeAI's model autoscaler.

Read: kubeai-project/kubeai @ f442a2cd, internal/modelautoscaler/autoscaler.go,
internal/movingaverage/simple.go, internal/modelclient/scale.go, internal/config/system.go,
api/k8s/v1/model_types.go.

Defaults: interval 10 s, time window 10 min, scaleDownDelaySeconds 30 (so many consecutive wishes to shrink are
passed over: ceil(30 / 10) = 3, the fourth is followed), minReplicas 0, targetRequests 100.

- The ring begins with zeros and its mean is over all of it, so a surge counts fully only after ten minutes.
- The count of consecutive wishes is set back by a wish to grow or to stay, not by a scale-down itself: once
  past the delay every interval may shrink.
- From zero to one goes the proxy itself, at the first request.

Our choices: targetRequests is a whole number: 70 % of the slots, rounded. The guide's example (250 requests a
replica) is sized for an engine with hundreds of slots and says nothing for one with 8: there is no documented
configuration here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from e2e.bench.scaling.peers.common import UTILISATION, clamp, in_flight, target_of
from e2e.bench.scaling.scaler import ClusterView, Workload

INTERVAL_SECONDS = 10.0


class Ring:
    """The last values, and zeros where there were none."""

    def __init__(self, length: int) -> None:
        self.values = [0.0] * length
        self.at = 0

    def push(self, value: float) -> float:
        """Replace the oldest value and return the mean."""
        self.values[self.at] = value
        self.at = (self.at + 1) % len(self.values)
        return sum(self.values) / len(self.values)


@dataclass(slots=True)
class Patience:
    """How many wishes to shrink were passed over."""

    required: int
    passed: int = 0

    def scale(self, spec: int, wanted: int) -> int:
        """Return the new spec.replicas."""
        if wanted >= spec:
            self.passed = 0
            return wanted
        if self.passed < self.required:
            self.passed += 1
            return spec
        return wanted


@dataclass
class KubeAi:
    """A Model with autoscaling on."""

    name: str = "kubeai"
    config: str = "default"
    label: str = ""
    share: float = UTILISATION
    target: float | None = None
    window_seconds: float = 600.0
    scale_down_delay_seconds: float = 30.0
    interval_seconds: float = INTERVAL_SECONDS
    wakes_at_once: bool = True
    """The proxy sets one replica when a request finds none."""

    def start(self, workload: Workload) -> None:
        """Forget everything."""
        self._workload = workload
        self._aim = max(1, round(target_of(workload, self.target, self.share)))
        self._ring = Ring(math.ceil(self.window_seconds / self.interval_seconds))
        self._patience = Patience(math.ceil(self.scale_down_delay_seconds / self.interval_seconds))
        self._looked: float | None = None

    def decide(self, view: ClusterView) -> int:
        """Average and scale; between two intervals there is only the proxy, which wakes."""
        if self._looked is not None and view.now - self._looked < self.interval_seconds:
            return max(1, view.spec) if in_flight(view) > 0.0 else view.spec
        self._looked = view.now
        mean = self._ring.push(in_flight(view))
        wanted = self._patience.scale(view.spec, clamp(math.ceil(mean / self._aim), self._workload))
        return max(1, wanted) if view.spec == 0 and in_flight(view) > 0.0 else wanted


def grid() -> list[Callable[[], KubeAi]]:
    """Return what a user would try: another target, shorter and longer windows and delays."""
    return [
        partial(
            KubeAi,
            config="tuned",
            label=f"{share:.0%} of the slots, window {window:g} s, delay {delay:g} s",
            share=share,
            window_seconds=window,
            scale_down_delay_seconds=delay,
        )
        for share in (0.4, 0.55, 0.7, 0.85)
        for window in (60.0, 180.0, 600.0, 1800.0)
        for delay in (30.0, 300.0, 2700.0)
    ]
