"""When a step of healing may be taken: as the operator grants it, or alone where the operator is away. Pure.

A step takes a replica away for as long as a load takes, and whether that can help is nothing that one replica can know: a
question that no replica answers is no illness of one. The operator sees them all, and grants a step
(operator/preheat/decide/healing.py). It says so to every agent that waits, every second or two: to those that get no grant
as well. So silence means that it is away. Then a step is taken all the same, after pauses that double, and that are
another for each pod: replicas that fell ill together do not leave together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

AWAY_SECONDS = 30.0
"""So long after its last word, and after a step began to wait, the operator is taken to be away."""
LONGEST_SECONDS = 1800.0
"""The longest pause before a step that nobody granted."""
GRANT_SECONDS = 300.0
"""No grant holds longer, whatever it says."""
LOAD_SECONDS = 7 * 86_400.0
"""No load takes longer, whatever is said."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What the operator said last. Times are seconds on the loop's clock."""

    at: float | None = None
    """When it spoke of healing; None: never."""
    step: int | None = None
    """The step that it grants, counted from 1 since the model was last well; None: it grants none."""
    until: float = 0.0
    """When that grant expires."""
    load_seconds: float | None = None
    """How long loads of this kind take, nearly always; None: it did not say."""


def may_step(advice: Advice, step: int, waits_since: float, spread: float, now: float) -> bool:
    """Tell whether a step may be taken. ``spread``: 0 to 1, another for each pod."""
    heard = waits_since if advice.at is None else max(advice.at, waits_since)
    if advice.at is not None and advice.step == step and advice.at >= waits_since and now <= advice.until:
        return True
    return now - heard >= alone_seconds(step, spread)


def alone_seconds(step: int, spread: float) -> float:
    """Return how long a step waits without a word from the operator: AWAY_SECONDS at least, and up to twice that.

    >>> [alone_seconds(step, 0.5) for step in (1, 2, 3, 4, 5)]
    [45.0, 90.0, 180.0, 360.0, 720.0]
    """
    return min(LONGEST_SECONDS, AWAY_SECONDS * (1 + spread) * 2.0 ** (step - 1))


def read(body: Any, before: Advice, now: float) -> Advice:
    """Return what is known after one more word (contract: ../README.md).

    What it says nothing of stays as it was. Raises KeyError, TypeError or ValueError for what is no advice.
    """
    if not isinstance(body, Mapping):
        raise TypeError("it must be a JSON object")
    after, load = before, body.get("loadSeconds")
    if load is not None:
        after = replace(after, load_seconds=_between(load, LOAD_SECONDS))
    healing = body.get("healing")
    if healing is None:
        return after
    step = healing["grant"]
    if step is None:
        return replace(after, at=now, step=None)
    until = now + _between(healing["seconds"], GRANT_SECONDS)
    return replace(after, at=now, step=int(_between(step, 1000)), until=until)


def _between(value: Any, most: float) -> float:
    number = float(value)
    if not 0 <= number <= most:
        raise ValueError(f"{value!r} is not between 0 and {most:g}")
    return number
