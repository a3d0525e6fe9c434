"""What a keeper has done so far: the numbers behind its last words and its metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LISTED_AT_MOST = 200
"""No more fit into last words. Counts are whole."""
WORDS_LIMIT = 200


@dataclass(slots=True)
class Tally:
    """Written by one thread; others may read. ``stuck``: what could not be removed, and why."""

    freed_bytes: int = 0
    removed: int = 0
    verified: int = 0
    in_use: list[str] = field(default_factory=list)
    in_use_count: int = 0
    young: list[str] = field(default_factory=list)
    young_count: int = 0
    stuck: dict[str, str] = field(default_factory=dict)
    stuck_count: int = 0
    corrupt: dict[str, str] = field(default_factory=dict)
    corrupt_count: int = 0
    cut_short: bool = False
    """Something was not hashed, because something else was found corrupt before."""
    on_change: Callable[[dict[str, Any]], None] = lambda _: None
    """Is given the words each time that they have changed: a run that is killed has told what it did."""

    def add_removed(self) -> None:
        """Note a folder that is gone."""
        self.removed += 1
        self.on_change(self.words())

    def add_verified(self) -> None:
        """Note a cache that is what it must be."""
        self.verified += 1
        self.on_change(self.words())

    def add_in_use(self, key: str) -> None:
        """Note a cache that nobody asks for and somebody uses."""
        self.in_use_count += 1
        if len(self.in_use) < LISTED_AT_MOST:
            self.in_use.append(key)
        self.on_change(self.words())

    def add_young(self, key: str) -> None:
        """Note a cache that nobody asks for and that was touched a moment ago."""
        self.young_count += 1
        if len(self.young) < LISTED_AT_MOST:
            self.young.append(key)
        self.on_change(self.words())

    def add_stuck(self, folder: str, why: str) -> None:
        """Note a folder that could not be removed."""
        self.stuck_count += 1
        if len(self.stuck) < LISTED_AT_MOST:
            self.stuck[folder] = why[:WORDS_LIMIT]
        self.on_change(self.words())

    def add_corrupt(self, key: str, why: str) -> None:
        """Note a cache that is not what it must be."""
        self.corrupt_count += 1
        if len(self.corrupt) < LISTED_AT_MOST:
            self.corrupt[key] = why[:WORDS_LIMIT]
        self.on_change(self.words())

    def words(self) -> dict[str, Any]:
        """Return it as last words."""
        return {
            "freedBytes": self.freed_bytes,
            "removedCount": self.removed,
            "inUse": self.in_use,
            "inUseCount": self.in_use_count,
            "young": self.young,
            "youngCount": self.young_count,
            "stuck": self.stuck,
            "stuckCount": self.stuck_count,
            "corrupt": self.corrupt,
            "corruptCount": self.corrupt_count,
            "verifiedCount": self.verified,
            "cutShort": self.cut_short,
        }
