"""How often objects under way are asked and told of: the more there are, the less often each.

One model that loads is asked every second and told of every two. A thousand that load at once cost the API server
no more than two writes a second, and their pods no more than twenty questions. What is news is told at once.
"""

from collections import OrderedDict
from collections.abc import Callable

from preheat.controller.view import Key
from preheat.decide.plan import POLL_SECONDS

TELL_SECONDS = 2.0
"""Between two writes of a status that only tells of progress, at least."""
TELLS_PER_SECOND = 2.0
FIRSTS_PER_SECOND = 1.0
"""New objects that are told of for the first time, when there is only progress to tell: most arrive before their turn."""
FIRSTS_AT_ONCE = 50
"""So many do not wait for a turn."""
FIRSTS_LATER_PER_SECOND = 5.0
FIRSTS_LATER_SECONDS = 60.0
"""From then on there are more turns: who has not arrived by then may take long, and wants to be seen."""
ASKS_PER_SECOND = 20.0
"""Over all objects."""
STILL_SECONDS = 60.0
"""What has not moved for so long does not count: a pod may wait for a GPU for days."""


class Pace:
    """Counts what is under way. Owned by one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moved: OrderedDict[Key, float] = OrderedDict()
        self._first = 0.0

    def moved(self, key: Key) -> None:
        """Note that an object is under way and has moved, or may have."""
        self._moved[key] = self._clock()
        self._moved.move_to_end(key)

    def rests(self, key: Key) -> None:
        """Note that an object has arrived, or is gone."""
        self._moved.pop(key, None)

    def tell_seconds(self) -> float:
        """Return the time between two writes that only tell of one object's progress."""
        return max(TELL_SECONDS, self._count() / TELLS_PER_SECOND)

    def first_at(self) -> float:
        """Return when to tell of one more new object for the first time: soon, or when it is its turn.

        Until then nobody can see that it is looked at, so new objects do not wait for those long under way.
        """
        now = self._clock()
        self._first = max(self._first, now) + 1 / FIRSTS_PER_SECOND
        wait = self._first - now - FIRSTS_AT_ONCE / FIRSTS_PER_SECOND
        later = max(0.0, wait - FIRSTS_LATER_SECONDS) * FIRSTS_PER_SECOND / FIRSTS_LATER_PER_SECOND
        return now + max(TELL_SECONDS, min(wait, FIRSTS_LATER_SECONDS) + later)

    def ask_seconds(self) -> float:
        """Return the time between two questions to the pods of one object."""
        return max(POLL_SECONDS, self._count() / ASKS_PER_SECOND)

    def _count(self) -> int:
        oldest = self._clock() - STILL_SECONDS
        while self._moved and next(iter(self._moved.values())) < oldest:
            self._moved.popitem(last=False)
        return len(self._moved)
