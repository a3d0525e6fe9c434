"""How many replicas more than are wanted bring a queue down.

With n extra replicas a backlog of B seconds of slots is gone after T = B / (n * slots). Until then everybody is late,
which costs price * need * T, and the extra replicas load first, which costs n * load. The sum is least at
n = sqrt(price * need * B / (slots * load)).

B is not what waits now but what will wait when a replica that is asked for now is ready: demand goes on, and so do the
loads under way. It is bounded by the patience of the clients: who has given up waits for nothing.
"""

import math

from preheat.decide.scaling.policy import Policy
from preheat.decide.scaling.sample import Known
from preheat.decide.scaling.trials import LATE_PRICE

MOST_EXTRA = 2.0
"""Times the need: at most twice as many as are wanted."""


def wait_seconds(queued: float, service_seconds: float, ready: int, slots: float) -> float:
    """Return how long the last in the queue waits for a slot; infinite without a replica."""
    if queued <= 0:
        return 0.0
    return queued * service_seconds / (ready * slots) if ready else math.inf


def projected(policy: Policy, sample: Known, wanted: float, service_seconds: float) -> float:
    """Return the seconds of slots that will wait one load time from now, if ``wanted`` slots go on being wanted."""
    most = wanted * policy.patience_seconds
    backlog = min(most, sample.queued * service_seconds)
    room, since = sample.ready * policy.slots, 0.0
    for eta in (*sorted(sample.loading), math.inf):
        until = min(eta, policy.load_seconds)
        backlog = min(most, max(0.0, backlog + (wanted - room) * (until - since)))
        if eta >= policy.load_seconds:
            break
        room, since = room + policy.slots, until
    return backlog


def extra_replicas(policy: Policy, need: float, backlog: float) -> float:
    """Return by how much to go beyond ``need`` (replicas, not rounded) for a backlog in seconds of slots."""
    extra = math.sqrt(LATE_PRICE * need * backlog / policy.slots / policy.load_seconds)
    return min(MOST_EXTRA * need, extra)
