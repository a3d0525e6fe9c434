"""KEDA: a HorizontalPodAutoscaler between one and many, and a poller between none and one.

Read: kedacore/keda @ 8b4f083c, pkg/scaling/executor/{scale_executor,scale_scaledobjects}.go,
apis/keda/v1alpha1/withtriggers_types.go, pkg/scalers/scaler.go.

Defaults: polling interval 30 s, cooldown 300 s, initial cooldown 0 s, activation threshold 0, metric type
AverageValue. Between one and many KEDA only answers the HPA's question for the metric, at each of its syncs;
see ``hpa``.

- Active means that a trigger is above its activation threshold. From zero it goes to max(1, minReplicaCount) in
  one poll.
- Inactive with minReplicaCount 0: from N straight to 0 once the last active poll is *more* than the cooldown
  ago. While the HPA still holds the deployment up, the cooldown already runs.

Our choices: the trigger is the requests in flight (in service and waiting), target 70 % of the slots. KEDA's
HTTP add-on, which would wake at the arrival, is a project of its own and not in beta for this use; so a wake-up
waits for a poll.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from e2e.bench.scaling.peers.common import UTILISATION, Ticks, at_least_one, in_flight, target_of
from e2e.bench.scaling.peers.hpa import (
    SYNC_SECONDS,
    TOLERANCES,
    Behavior,
    Controller,
    Metric,
    Tolerances,
    proposal,
)
from e2e.bench.scaling.scaler import ClusterView, Workload


@dataclass(slots=True)
class Activation:
    """The executor's decision between none and one; ``last_active`` is kept in the ScaledObject's status."""

    min_replicas: int
    cooldown_seconds: float = 300.0
    initial_cooldown_seconds: float = 0.0
    created: float = 0.0
    last_active: float | None = None

    def request(self, now: float, spec: int, *, active: bool) -> int:
        """Return the new spec.replicas."""
        if active:
            self.last_active = now
            return max(1, self.min_replicas) if spec == 0 else spec
        if spec > 0 and self.min_replicas == 0:
            return 0 if self._cooled_down(now) else spec
        return max(spec, self.min_replicas)

    def _cooled_down(self, now: float) -> bool:
        if self.last_active is None:
            return self.created + self.initial_cooldown_seconds < now
        return self.last_active + self.cooldown_seconds < now


@dataclass
class Keda:
    """A ScaledObject with one trigger."""

    name: str = "keda"
    config: str = "default"
    label: str = ""
    metric: Metric = Metric.IN_FLIGHT
    share: float = UTILISATION
    target: float | None = None
    polling_seconds: float = 30.0
    cooldown_seconds: float = 300.0
    behavior: Behavior | None = None
    window_seconds: float = 300.0
    keepalive_seconds: float = 0.0
    """A second trigger: active, and one replica, while a request came within so many seconds."""
    to_zero: bool = True
    tolerances: Tolerances = TOLERANCES
    interval_seconds: float = SYNC_SECONDS

    def start(self, workload: Workload) -> None:
        """Forget everything. The HPA that KEDA makes keeps at least one replica; zero is KEDA's own doing."""
        bounds = workload if self.to_zero else at_least_one(workload)
        self._aim = target_of(workload, self.target, self.share)
        self._polls = Ticks(self.polling_seconds)
        self._activation = Activation(bounds.min_replicas, self.cooldown_seconds)
        self._controller = Controller(
            at_least_one(workload).min_replicas, workload.max_replicas, self.behavior, self.window_seconds
        )
        self._last_request = -math.inf

    def decide(self, view: ClusterView) -> int:
        """Poll when it is time, then let the HPA sync."""
        spec = view.spec
        if view.arrivals > 0.0 or (spec == 0 and view.queued > 0.0):
            self._last_request = view.now
        if self._polls.fires(view.now):
            spec = self._activation.request(view.now, spec, active=self._active(view))
            if spec != view.spec:
                return spec
        tolerances = self.behavior.tolerances(self.tolerances) if self.behavior else self.tolerances
        return self._controller.sync(
            view.now, spec, partial(proposal, self.metric, self._aim, tolerances, view)
        )

    def _active(self, view: ClusterView) -> bool:
        return self._measured(view) > 0.0 or view.now - self._last_request < self.keepalive_seconds

    def _measured(self, view: ClusterView) -> float:
        match self.metric:
            case Metric.RUNNING:
                return view.in_service
            case Metric.WAITING | Metric.WAITING_TOTAL:
                return view.queued
            case _:
                return in_flight(view)


def documented() -> list[Callable[[], Keda]]:
    """Return the examples for language models of the projects that build on KEDA.

    vLLM production stack @ 183a136a, docs/source/use_cases/autoscaling-keda.rst: vllm:num_requests_waiting,
    threshold 5, polling 15 s, cooldown 360 s, to zero with a second trigger that is active while a request came
    within a minute. Its query is not summed, which KEDA refuses with more than one pod, so we sum it.

    KServe @ c01377df (kserve/website), docs/model-serving/generative-inference/autoscaling/autoscaling.md:
    vllm:num_requests_running, 2 for each pod (six requests are three replicas there), at least one replica,
    KEDA's defaults for the rest.
    """
    return [
        partial(
            Keda,
            config="documented",
            label="waiting, 5 per replica",
            metric=Metric.WAITING,
            target=5.0,
            polling_seconds=15.0,
            cooldown_seconds=360.0,
            keepalive_seconds=60.0,
        ),
        partial(
            Keda,
            name="kserve",
            config="documented",
            label="running, 2 per replica",
            metric=Metric.RUNNING,
            target=2.0,
            to_zero=False,
        ),
    ]


def grid() -> list[Callable[[], Keda]]:
    """Return what a user would try: another target, longer down-scale windows and cooldowns, slower shrinking."""
    return [
        partial(
            Keda,
            config="tuned",
            label=f"{share:.0%} of the slots, {window:g} s, cooldown {cooldown:g} s",
            share=share,
            window_seconds=window,
            cooldown_seconds=cooldown,
        )
        for share in (0.4, 0.55, 0.7, 0.85, 1.0)
        for window in (60.0, 300.0, 900.0, 2700.0)
        for cooldown in (300.0, 2700.0)
    ]
