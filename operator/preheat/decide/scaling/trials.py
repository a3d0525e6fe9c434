"""How careful to be: each dial scales a deployment of its own, on paper, and the cheapest one is listened to.

Calm traffic and bursty traffic want different dials, and nobody should have to say which he has. So every dial's rules
are followed on what really came: when it would have asked for replicas, when they would have been ready, who would
have waited. What that costs is what was paid for, and a price for each request that would have been late. This is the
whole tuning; it goes on all the time.

Dials that cost nearly the same are listened to together: what they say is averaged, the more of each the cheaper it was.
What replicas cost is convex in their number, so the average costs at most the average of what they cost, mostly less,
and which of two dials happens to be ahead when a surge comes is no matter of luck (exponential weights: N. Littlestone
and M. Warmuth, "The weighted majority algorithm", Information and Computation 108, 1994).
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from preheat.decide.scaling.dials import BAND, DIALS, FIRST, HOLD
from preheat.decide.scaling.minutes import Minute
from preheat.decide.scaling.policy import Policy

LATE_PRICE = 12.0
"""All requests late are as bad as twelve times the GPUs that the work needs: a point of attainment is worth 12 %. For
backlogs and for the keep-alive; dials have late_price."""
DIAL_PRICE = 25.0
"""The same for dials, where a load takes up to QUICK_SECONDS: a point of attainment is worth 25 %."""
QUICK_SECONDS = 300.0
SLOW_SECONDS = 2700.0
PRICE_POWER = -0.33
"""How it falls from there on, to 12.1 at SLOW_SECONDS: the longer a load, the less of what comes can be foreseen, and the
more a point costs."""
HALVES_MINUTES = 2880.0
LOYALTY = 0.97
"""Another dial has to be this much cheaper before it speaks for all (in words)."""
NEIGHBOURS = 2
"""So many dials to each side of the one that speaks are listened to with it. All of them would not do: where nothing has
happened yet, all have cost the same."""
NEARLY = 0.04
"""A dial that costs so much more than the cheapest one is listened to 1/e as much."""
SCHOOL_MINUTES = 60
"""Before that nobody has shown anything."""
PARTS = 6
"""The hold window is remembered in so many parts."""
GROUPS = 12
"""So many loads of a trial are told apart."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The most that was forecast within the last load time (and up to a part of it longer)."""

    parts: tuple[float, ...] = (0.0,) * (PARTS + 1)

    def after(self, value: float, turned: bool) -> "Hold":
        """Return it after one more minute; ``turned``: the oldest part is over."""
        if turned:
            return Hold((value, *self.parts[:PARTS]))
        return self if value <= self.parts[0] else Hold((value, *self.parts[1:]))

    @property
    def most(self) -> float:
        """Return it, in slots."""
        return max(self.parts)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one dial makes of a minute, in slots."""

    up: float
    """Up to here, once there is less than ``low``."""
    low: float
    held: float
    """The most of what it forecast for the next load time, within the last one: not fewer are kept."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The deployment of one dial."""

    ready: int = 1
    loads: tuple[tuple[int, int], ...] = ()
    """In which minute how many are ready, soonest first."""
    backlog: float = 0.0
    """Seconds of slots that wait."""
    cost: float = 0.0
    """Seconds of slots that were paid for, of late."""
    late: float = 0.0
    """Requests that were late, of late."""
    hold: Hold = Hold()

    @property
    def replicas(self) -> int:
        """All of them."""
        return self.ready + sum(many for _, many in self.loads)

    def served(self, slots: float, wanted: float, arrivals: float, seconds: float, policy: Policy) -> "Trial":
        """Return it after a window in which so many slots were wanted."""
        room = self.ready * slots
        backlog = min(max(0.0, self.backlog + (wanted - room) * seconds), room * policy.patience_seconds)
        late = self.late + (arrivals if backlog > room * policy.late_seconds else 0.0)
        cost = self.cost + self.replicas * slots * seconds
        return Trial(self.ready, self.loads, backlog, cost, late, self.hold)

    def decided(self, minute: int, outlook: Outlook, hold: Hold, policy: Policy) -> "Trial":
        """Return it after it has done what the rules say."""
        ready = self.ready + sum(many for due, many in self.loads if due <= minute)
        loads = tuple(load for load in self.loads if load[0] > minute)
        have = ready + sum(many for _, many in loads)
        upper = min(policy.max_replicas, policy.replicas_for(outlook.up))
        if have * policy.slots < outlook.low and upper > have:
            loads = _with(loads, minute, policy.horizon_minutes, upper - have)
        elif not loads and self.backlog <= 0:
            ready = min(ready, max(1, policy.min_replicas, policy.replicas_for(outlook.held)))
        fade = 0.5 ** (1 / HALVES_MINUTES)
        return Trial(ready, loads, self.backlog, self.cost * fade, self.late * fade, hold)


@dataclass(frozen=True, slots=True)
class Trials:
    """All dials, and which of them speaks for those that are listened to."""

    trials: tuple[Trial, ...] = ()
    work: float = 0.0
    """Seconds of slots that were wanted, of late; at least those of one replica."""
    arrivals: float = 0.0
    dial: int = FIRST
    minutes: int = 0
    """For how long they have run."""
    turned: int = 0
    """The part of the hold window that this minute is in."""

    def served(self, wanted: float, arrivals: float, seconds: float, ready: int, policy: Policy) -> "Trials":
        """Return them after a window. They begin with what is really there."""
        slots = policy.slots
        trials = self.trials or (Trial(max(1, ready)),) * len(DIALS)
        return replace(
            self,
            trials=tuple(trial.served(slots, wanted, arrivals, seconds, policy) for trial in trials),
            work=self.work + max(wanted, slots) * seconds,
            arrivals=self.arrivals + arrivals,
        )

    def decided(
        self, minute: Minute, point: Sequence[float], most: Sequence[float], policy: Policy
    ) -> "Trials":
        """Return them after a minute, for which each dial has its forecasts."""
        part = minute.minute // max(1, int(policy.load_seconds // 60 // PARTS))
        turned = part != self.turned
        trials = []
        for dial, trial in enumerate(self.trials):
            hold = trial.hold.after(max(minute.peak, most[max(0, dial - HOLD)]), turned)
            trials.append(
                trial.decided(minute.minute, _outlook(dial, minute.peak, point, hold), hold, policy)
            )
        fade = 0.5 ** (1 / HALVES_MINUTES)
        after = Trials(
            tuple(trials), self.work * fade, self.arrivals * fade, self.dial, self.minutes + 1, part
        )
        return replace(after, dial=after._cheapest(policy))

    def outlook(self, peak: float, point: Sequence[float], policy: Policy) -> Outlook:
        """Return what the dials that are listened to make of a minute with such a peak."""
        weights = self.weights(policy)
        heard = [
            (weight, _outlook(dial, peak, point, self.trials[dial].hold))
            for dial, weight in enumerate(weights)
            if weight
        ]
        return Outlook(
            sum(weight * one.up for weight, one in heard),
            sum(weight * one.low for weight, one in heard),
            sum(weight * one.held for weight, one in heard),
        )

    def quantile(self, policy: Policy) -> float:
        """Return how sure those that are listened to are, on the average."""
        return sum(weight * sure for weight, sure in zip(self.weights(policy), DIALS, strict=True))

    def weights(self, policy: Policy) -> tuple[float, ...]:
        """Return how much each dial is listened to, 1 in all; while nobody has shown anything, only the one that speaks."""
        if not self.has_learnt(policy):
            return tuple(float(dial == self.dial) for dial in range(len(DIALS)))
        heard = range(max(0, self.dial - NEIGHBOURS), min(len(DIALS), self.dial + NEIGHBOURS + 1))
        prices = {dial: self.price(dial, policy) for dial in heard}
        least = min(prices.values())
        shares = {dial: math.exp((1 - price / least) / NEARLY) for dial, price in prices.items()}
        return tuple(shares.get(dial, 0.0) / sum(shares.values()) for dial in range(len(DIALS)))

    def price(self, dial: int, policy: Policy) -> float:
        """Return what a dial's rules would have cost, in multiples of the work; more than 0."""
        trial = self.trials[dial]
        late = trial.late / max(self.arrivals, 1.0)
        return max(
            trial.cost / max(self.work, 1.0) + late_price(policy.load_seconds) * late, sys.float_info.min
        )

    def has_learnt(self, policy: Policy) -> bool:
        """Tell whether the dials have run for long enough to be compared."""
        return bool(self.trials) and self.minutes >= SCHOOL_MINUTES + 2 * policy.horizon_minutes

    def _cheapest(self, policy: Policy) -> int:
        if not self.has_learnt(policy):
            return self.dial
        prices = [
            self.price(dial, policy) * (LOYALTY if dial == self.dial else 1) for dial in range(len(DIALS))
        ]
        return min(range(len(DIALS)), key=prices.__getitem__)


def late_price(load_seconds: float) -> float:
    """Return what all requests late would cost, in multiples of the GPUs that the work needs.

    >>> late_price(60), late_price(300), round(late_price(2700), 1), late_price(7200) == late_price(2700)
    (25.0, 25.0, 12.1, True)
    """
    load = min(max(load_seconds, QUICK_SECONDS), SLOW_SECONDS)
    return DIAL_PRICE * math.pow(load / QUICK_SECONDS, PRICE_POWER)


def _with(
    loads: tuple[tuple[int, int], ...], minute: int, ahead: int, many: int
) -> tuple[tuple[int, int], ...]:
    """Return the loads with some more. When they are ready is rounded, so that there are no more than GROUPS of them."""
    grain = -(-ahead // GROUPS)
    due = max(minute + 1, round((minute + ahead) / grain) * grain)
    if loads and loads[-1][0] == due:
        return (*loads[:-1], (due, loads[-1][1] + many))
    return (*loads, (due, many))


def _outlook(dial: int, peak: float, point: Sequence[float], hold: Hold) -> Outlook:
    return Outlook(max(peak, point[dial]), max(peak, point[max(0, dial - BAND)]), hold.most)
