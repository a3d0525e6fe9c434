"""Whether a new revision serves worse than its predecessor: two tests that may be looked at after every request.

What agents count since they began is all that goes in, so nothing has to be remembered between two looks, and a restart of
the operator loses nothing. Both tests are safe at any time: whoever looks as often as he likes is told of a regression that
is none with a probability of ``ALPHA`` at most, as far as requests are as assumed (README.md has the rates, measured).

Errors: each request fails or not, by itself. Against the claim "at most ``bound`` of them fail" stands a mixture of likelihood
ratios over larger rates, a non-negative martingale at the bound; by Ville's inequality it reaches 1 / ALPHA with probability
ALPHA at most. ``bound`` is what the predecessor's rate may well be (its upper limit by Wilson) and ``maxErrorPercent`` on top.

Latency: only the mean service time of a revision is known. Its logarithm is taken to be normal, with the variance that single
requests of a coefficient of variation of ``VARIATION`` give it. Against "at most ``maxSlowdownPercent`` longer" stands the
mixture sequential probability ratio test with a normal mixture of scale ``SCALE``.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from preheat.api.conditions import Reason
from preheat.api.llmdeployment import AnalysisSpec
from preheat.decide.observed import Reading

ALPHA = 0.005
"""Per test, so 1 % per rollout."""
LEAST_REQUESTS = 30
"""Of each revision: below that nothing is said, whatever the numbers are."""
WILSON = 2.58
"""The quantile of the normal distribution for one in two hundred."""
GRID = 24
"""Error rates between the bound and 1 that the mixture is made of."""
VARIATION = 1.5
"""Standard deviation over mean of a request's service time: answers have lengths of all kinds."""
LEAST_SLOWER_SECONDS = 0.1
"""A request that takes no longer than this more is not slower to anybody: of answers within milliseconds a busy node makes twice as many."""
SCALE = 0.5
"""By how much a logarithm of the ratio is expected to exceed the bound if it does: a factor of 1.65."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the agents of one revision's replicas counted. ``busy_seconds`` None: their engine does not say."""

    ended: float
    failed: float
    busy_seconds: float | None

    def to_json(self, newer: str) -> str:
        """Return it as it is stored: as that of the predecessor of revision ``newer``."""
        body = {"for": newer, "ended": self.ended, "failed": self.failed, "busySeconds": self.busy_seconds}
        return json.dumps(body, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, newer: str) -> "Tally | None":
        """Return what was stored for the successor ``newer``, None for what is none or was for another."""
        try:
            body = json.loads(text)
            busy = body.get("busySeconds")
            found = cls(float(body["ended"]), float(body["failed"]), None if busy is None else float(busy))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        return found if body.get("for") == newer else None


@dataclass(frozen=True, slots=True)
class Regression:
    """What is worse, and the numbers that it was seen from."""

    reason: Reason
    words: str
    evidence: dict[str, str | int | float]


def tally(readings: Iterable[Reading]) -> Tally | None:
    """Return what replicas counted together, None where none tells."""
    told = list(readings)
    if not told:
        return None
    busy = [one.busy_seconds for one in told if one.busy_seconds is not None]
    return Tally(
        ended=sum(one.ended for one in told),
        failed=sum(one.failed for one in told),
        busy_seconds=sum(busy) if len(busy) == len(told) else None,
    )


def regression(new: Tally, old: Tally, bounds: AnalysisSpec) -> Regression | None:
    """Return what the new revision does worse than the old one, None as long as that may be chance."""
    if min(new.ended, old.ended) < LEAST_REQUESTS:
        return None
    return _more_errors(new, old, bounds) or _slower(new, old, bounds)


def _more_errors(new: Tally, old: Tally, bounds: AnalysisSpec) -> Regression | None:
    bound = min(0.99, upper_rate(old.failed, old.ended) + bounds.max_error_percent / 100)
    if errors_against(new.failed, new.ended, bound) < -math.log(ALPHA):
        return None
    rate, before = new.failed / new.ended, old.failed / old.ended
    words = (
        f"{new.failed:.0f} of {new.ended:.0f} requests failed ({rate:.1%}); of its predecessor "
        f"{old.failed:.0f} of {old.ended:.0f} ({before:.1%}), and {bounds.max_error_percent} % more are allowed."
    )
    return Regression(
        Reason.ERROR_RATE, words, {"errorRate": round(rate, 4), "predecessor": round(before, 4)}
    )


def _slower(new: Tally, old: Tally, bounds: AnalysisSpec) -> Regression | None:
    mine, theirs = new.busy_seconds or 0.0, old.busy_seconds or 0.0
    if mine <= 0 or theirs <= 0:
        return None
    if mine / new.ended - theirs / old.ended <= LEAST_SLOWER_SECONDS:
        return None
    ratio = (mine / new.ended) / (theirs / old.ended)
    excess = math.log(ratio / (1 + bounds.max_slowdown_percent / 100))
    if slowness(excess, new.ended, old.ended) < -math.log(ALPHA):
        return None
    words = (
        f"a request takes {mine / new.ended:.2f} s over {new.ended:.0f} requests; with its predecessor "
        f"{theirs / old.ended:.2f} s over {old.ended:.0f}, and {bounds.max_slowdown_percent} % more are allowed."
    )
    evidence: dict[str, str | int | float] = {
        "seconds": round(mine / new.ended, 3),
        "predecessor": round(theirs / old.ended, 3),
    }
    return Regression(Reason.LATENCY, words, evidence)


def upper_rate(failed: float, ended: float) -> float:
    """Return the highest error rate that such a count is still likely with (Wilson's upper limit).

    >>> round(upper_rate(0, 1000), 4), round(upper_rate(100, 1000), 3)
    (0.0066, 0.127)
    """
    z2 = WILSON**2
    rate = min(1.0, failed / ended)  # engines count what they like
    spread = WILSON * math.sqrt(rate * (1 - rate) / ended + z2 / (4 * ended**2))
    return min(1.0, (rate + z2 / (2 * ended) + spread) / (1 + z2 / ended))


def errors_against(failed: float, ended: float, bound: float) -> float:
    """Return the logarithm of the evidence that more than ``bound`` of all requests fail.

    >>> errors_against(3, 100, 0.05) < 0 < errors_against(30, 100, 0.05)
    True
    """
    logs = []
    for step in range(1, GRID + 1):
        rate = bound + (1 - bound) * (step / (GRID + 1)) ** 2
        logs.append(failed * math.log(rate / bound) + (ended - failed) * math.log((1 - rate) / (1 - bound)))
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / GRID)


def slowness(excess: float, new: float, old: float) -> float:
    """Return the logarithm of the evidence that requests take longer than is allowed.

    ``excess``: the logarithm of the ratio of the means over the one that is allowed; ``new``, ``old``: requests.

    >>> slowness(-0.5, 100, 100) < 0 < slowness(1.5, 100, 100)
    True
    """
    if excess <= 0:
        return -math.inf
    variance = VARIATION**2 * (1 / new + 1 / old)
    total = variance + SCALE**2
    return 0.5 * math.log(variance / total) + SCALE**2 * excess**2 / (2 * variance * total)
