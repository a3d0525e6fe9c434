"""Loads under way: finished, or given up while that still saves something.

A replica that loads is the cheapest to have soon and worth nothing if it goes now. So a load is given up only when it
has just begun, or has no GPU yet: what it took is next to nothing, what it would still take is nearly all of a load.
Any other is finished, and a ready replica does not go in its place: Kubernetes takes the loading ones first.
"""

import math

from preheat.decide.scaling.policy import Policy
from preheat.decide.scaling.sample import Known

JUST_BEGUN = 0.03
"""Of the load time."""


def fewest(policy: Policy, sample: Known) -> int:
    """Return the fewest replicas that can be asked for without giving up a load that is worth finishing."""
    worth = [eta for eta in sample.loading if not has_just_begun(policy, eta)]
    return sample.ready + len(worth) if worth else 0


def has_just_begun(policy: Policy, eta_seconds: float) -> bool:
    """Return whether next to nothing is lost with a load that is this far from ready."""
    return math.isinf(eta_seconds) or eta_seconds >= (1 - JUST_BEGUN) * policy.load_seconds
