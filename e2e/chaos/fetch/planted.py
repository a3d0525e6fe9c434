"""The warmer with a bug in it: `python -m e2e.chaos.fetch.planted NAME`. The campaign must find each."""

import sys

from preheat_warmer import fetch, main, part
from preheat_warmer.spans import covered


def digests_are_not_compared() -> None:
    """Whatever is as long as it should be is right."""
    setattr(part.Part, "right", property(lambda self: covered(self.there) == self.file.size))  # noqa: B010


def nothing_is_noted() -> None:
    """What several connections brought is forgotten by a kill."""
    setattr(part.Part, "note", lambda *_: None)  # noqa: B010


def nobody_locks() -> None:
    """Two warmers write into one folder."""

    async def lock(*_: object) -> bool:
        return False

    setattr(main, "lock", lock)  # noqa: B010


def nothing_is_tried_again() -> None:
    """The first refusal ends the run, for good."""
    fetch.FRUITLESS_AT_MOST = 0


PLANTS = {
    "digests-are-not-compared": digests_are_not_compared,
    "nothing-is-noted": nothing_is_noted,
    "nobody-locks": nobody_locks,
    "nothing-is-tried-again": nothing_is_tried_again,
}

if __name__ == "__main__":
    PLANTS[sys.argv[1]]()
    main.main()
