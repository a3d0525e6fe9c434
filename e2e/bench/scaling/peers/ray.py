"""Ray Serve's autoscaler.

Read: ray-project/ray, python/ray/serve/autoscaling_policy.py @ 00590c45,
python/ray/serve/_private/autoscaling_state.py @ 00215194, _private/constants.py @ 0016b72b,
tests/unit/test_autoscaling_policy.py @ 01624ad4 (where the delay is wall-clock time; at 00590c45 it counts
ticks of 0.1 s, which is the same).

Defaults: target_ongoing_requests 2, look_back_period 30 s, metrics pushed every 10 s, upscale delay 30 s,
downscale delay 600 s (to zero the same), factors 1.0, aggregation by the mean.

- The wish is compared with the *target*, but a factor stretches the distance from the *running* replicas.
- A wish has to hold for the delay without a break; a wish in the other direction, or none, starts it again. The
  value that counts is that of the last moment. Nothing is remembered of how high the wishes were.
- To zero only from one; to one at once, without a delay.

Our choices: target 70 % of the slots (the default of 2 is for a model that serves 5 at once: the documented
configuration keeps it, because the guides for language models change only min_replicas and max_replicas). The
loop runs every 10 s, as often as there is something new: handles push every 10 s, and delays are multiples of
it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from e2e.bench.scaling.peers.common import UTILISATION, Mean, clamp, in_flight, ready_of, target_of
from e2e.bench.scaling.scaler import ClusterView, Workload

PUSH_SECONDS = 10.0


@dataclass(slots=True)
class Delay:
    """How long the same direction has been wanted."""

    up_seconds: float = 30.0
    down_seconds: float = 600.0
    to_zero_seconds: float | None = None
    direction: int = 0
    since: float = 0.0

    def decide(self, now: float, wanted: int, target: int) -> int:
        """Return the new target: the wish, once it has held for long enough."""
        direction = (wanted > target) - (wanted < target)
        if direction != self.direction:
            self.direction, self.since = direction, now
        if direction == 0:
            return target
        seconds = self.up_seconds
        if direction < 0:
            to_zero = self.down_seconds if self.to_zero_seconds is None else self.to_zero_seconds
            seconds = to_zero if target == 1 else self.down_seconds
            wanted = wanted if target == 1 else max(1, wanted)
        if now - self.since < seconds:
            return target
        self.direction = 0
        return wanted


def stretched(desired: float, running: int, up_factor: float, down_factor: float) -> int:
    """Return the wish after the scaling factors; shrinking never gets stuck above it."""
    change = desired - running
    scaled = math.ceil(running + (up_factor if change > 0 else down_factor) * change)
    return scaled - 1 if math.ceil(desired) < running and scaled == running else scaled


def from_zero(requests: float, target: int, up_factor: float) -> int:
    """Return the target while no replica runs: at once, by the factor, never less than is on its way."""
    return max(math.ceil(up_factor), target) if requests > 0.0 else target


@dataclass
class RayServe:
    """A deployment with an autoscaling_config."""

    name: str = "ray"
    config: str = "default"
    label: str = ""
    share: float = UTILISATION
    target: float | None = None
    look_back_seconds: float = 30.0
    up_delay_seconds: float = 30.0
    down_delay_seconds: float = 600.0
    up_factor: float = 1.0
    down_factor: float = 1.0
    interval_seconds: float = PUSH_SECONDS
    wakes_at_once: bool = True
    """A handle pushes at once when a request finds no replica."""

    def start(self, workload: Workload) -> None:
        """Forget everything."""
        self._workload = workload
        self._aim = target_of(workload, self.target, self.share)
        self._mean = Mean(self.look_back_seconds)
        self._delay = Delay(self.up_delay_seconds, self.down_delay_seconds)

    def decide(self, view: ClusterView) -> int:
        """Look once at what the handles pushed."""
        requests = self._mean.add(view.now, in_flight(view))
        running = ready_of(view)
        if running == 0:
            return clamp(from_zero(requests, view.spec, self.up_factor), self._workload)
        wanted = stretched(requests / self._aim, running, self.up_factor, self.down_factor)
        return self._delay.decide(view.now, clamp(wanted, self._workload), view.spec)


def documented() -> list[Callable[[], RayServe]]:
    """Return the quickstart for language models: all but the bounds at its default, 2 requests a replica.

    ray-project/ray @ 0064a420, doc/source/serve/llm/serving-llms.rst.
    """
    return [partial(RayServe, config="documented", target=2.0)]


def grid() -> list[Callable[[], RayServe]]:
    """Return what a user would try: another target, other delays, a slower descent."""
    return [
        partial(
            RayServe,
            config="tuned",
            label=f"{share:.0%} of the slots, up {up:g} s, down {down:g} s, factor {factor:g}",
            share=share,
            up_delay_seconds=up,
            down_delay_seconds=down,
            down_factor=factor,
        )
        for share in (0.4, 0.55, 0.7, 0.85)
        for up in (0.0, 30.0)
        for down in (300.0, 600.0, 2700.0)
        for factor in (0.3, 1.0)
    ]
