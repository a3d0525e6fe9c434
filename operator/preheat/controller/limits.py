"""What keeps one object from flooding the API server: how often a child is put back, how many Events are posted.

Both are remembered in memory only: after a restart everything begins anew, and is bounded again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from preheat.controller.view import Key

PATIENT = 3
"""A child that was changed by others is put back at once this many times: a person's edit, a slip."""
LONGEST_SECONDS = 300.0
"""Beyond that the pause doubles, from a second up to this."""
PEACE_SECONDS = 60.0
"""A contest is over when a child stayed as it is for twice the last pause and this."""

BURST, REFILL_SECONDS = 20, 60.0
"""Events of one object: this many at once, then one per this many seconds."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Somebody else changes a child back, again and again."""

    count: int
    """How often it was put back."""
    at: float
    words: str

    @property
    def pause_seconds(self) -> float:
        """How long it is left as it is before it is put back again."""
        return 0.0 if self.count < PATIENT else float(min(LONGEST_SECONDS, 2 ** (self.count - PATIENT)))

    @property
    def over_at(self) -> float:
        """When it is forgotten."""
        return self.at + 2 * self.pause_seconds + PEACE_SECONDS


class Contests:
    """Remembers which children were put back, and says when one may be again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._contests: dict[Key, Contest] = {}

    def wait_seconds(self, key: Key) -> float:
        """Return for how long a child has to stay as others want it, 0 when it may be put back now."""
        contest = self._get(key)
        return 0.0 if contest is None else max(0.0, contest.at + contest.pause_seconds - self._clock())

    def put_back(self, key: Key, words: str) -> None:
        """Note that a child was put back; ``words`` say what was changed, and by whom."""
        before = self._get(key)
        self._contests[key] = Contest((before.count if before else 0) + 1, self._clock(), words)

    def among(self, keys: Iterable[Key]) -> list[Contest]:
        """Return the contests over these children: more than somebody's slip."""
        found = (self._get(key) for key in keys)
        return [contest for contest in found if contest is not None and contest.count > PATIENT]

    def look_again_seconds(self, keys: Iterable[Key], most: float) -> float:
        """Return when a pass is due for these children: to put one back, or to say that a contest is over."""
        for key in keys:
            contest = self._get(key)
            if contest is None or contest.count < PATIENT:
                continue
            due = contest.at + contest.pause_seconds
            most = min(most, (due if due > self._clock() else contest.over_at) - self._clock())
        return max(most, 0.0)

    def forget(self, key: Key) -> None:
        """Drop a child that is gone."""
        self._contests.pop(key, None)

    def _get(self, key: Key) -> Contest | None:
        contest = self._contests.get(key)
        if contest is not None and self._clock() >= contest.over_at:
            del self._contests[key]
            return None
        return contest


class Budget:
    """A bucket of Events for each object."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: dict[Key, tuple[float, float]] = {}

    def take(self, key: Key) -> bool:
        """Take one from an object's bucket; tell whether there was one."""
        now = self._clock()
        left, at = self._left.get(key, (float(BURST), now))
        left = min(BURST, left + (now - at) / REFILL_SECONDS)
        there = left >= 1
        self._left[key] = (left - there, now)
        return there

    def forget(self, key: Key) -> None:
        """Drop an object that is gone."""
        self._left.pop(key, None)
