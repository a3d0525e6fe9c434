"""How long a load may show no sign of progress. Pure.

The time scale is the load's own. With nothing given (``stallSeconds``), the limit is the largest of

    LEAST_SECONDS                                  nothing is known yet
    PAUSES x the longest pause seen                between two signs, in this load and those before it that ended well
    SHARE x the time from its start to its last sign
    SHARE x what loads of this kind take           told by the operator, from the loads that it observed

and doubles with each load in a row that was given up. So a false alarm takes a pause that is longer than all of these, and
what was given up wrongly is not given up again and again. A load that is ten times as slow as the ones before has pauses
ten times as long: within PAUSES. A load that is really stuck is given up after LEAST_SECONDS, or a quarter of its time.
"""

from dataclasses import dataclass, replace

LEAST_SECONDS = 300.0
MOST_SECONDS = 86_400.0
PAUSES = 10.0
SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Pauses:
    """What was seen of the pauses between two signs of progress. Seconds; times on the loop's clock."""

    longest: float = 0.0
    """Of loads that ended well."""
    now_longest: float = 0.0
    """Of the one that is under way."""
    began_at: float = 0.0
    last_sign: float = 0.0
    """From the start of the load that is under way to its last sign."""
    stalls: int = 0
    """Loads in a row that were given up."""

    def began(self, now: float) -> "Pauses":
        """Return what is known as a load begins."""
        return replace(self, now_longest=0.0, last_sign=0.0, began_at=now)

    def saw(self, pause: float, now: float) -> "Pauses":
        """Return what is known after a sign that came so long after the one before."""
        last_sign = max(0.0, now - self.began_at)
        return replace(self, now_longest=max(self.now_longest, pause), last_sign=last_sign)

    def ended(self) -> "Pauses":
        """Return what is known once a load has ended well."""
        return Pauses(longest=max(self.longest, self.now_longest), began_at=self.began_at)

    def stalled(self) -> "Pauses":
        """Return what is known once a load was given up."""
        return replace(self, now_longest=0.0, last_sign=0.0, stalls=self.stalls + 1)


def limit_seconds(given: float | None, pauses: Pauses, load_seconds: float | None) -> float:
    """Return how long nothing may be seen: as given, or by what was seen and what is expected."""
    if given is not None:
        return given
    longest = max(pauses.longest, pauses.now_longest)
    limit = max(LEAST_SECONDS, PAUSES * longest, SHARE * pauses.last_sign, SHARE * (load_seconds or 0.0))
    return min(MOST_SECONDS, limit * 2.0 ** min(pauses.stalls, 16))
