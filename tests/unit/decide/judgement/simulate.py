"""How often the comparison of two revisions is wrong: rollouts on paper, with a seed.

.venv/bin/python -m tests.unit.decide.judgement.simulate     # the table in operator/preheat/decide/judgement/README.md
"""

from dataclasses import dataclass

import numpy as np
from preheat.api.llmdeployment import AnalysisSpec
from preheat.decide.judgement.compare import Tally, regression

LOOK_SECONDS = 15
SOAK_SECONDS = 600
CASES = 2000


@dataclass(frozen=True, slots=True)
class World:
    """What two revisions do. Rates per second and per request; ``burst``: failures come so many at a time."""

    name: str
    per_second: float
    errors_before: float = 0.0
    errors: float = 0.0
    slower: float = 1.0
    """A request takes so many times what it took before."""
    spread: float = 1.0
    """Standard deviation of the logarithm of a request's service time."""
    burst: int = 1
    before: int = 2000
    """Requests of the predecessor."""
    bad: bool = False
    """Whether it should be found."""


WORLDS = (
    World("the same, no errors", 2),
    World("the same, 1 % errors", 2, 0.01, 0.01),
    World("the same, 20 % errors", 2, 0.2, 0.2),
    World("the same, 1 % errors, 10 at a time", 2, 0.01, 0.01, burst=10),
    World("the same, few requests before", 2, 0.02, 0.02, before=40),
    World("the same, 10 requests a second, long tails", 10, 0.01, 0.01, spread=1.5),
    World("4 % more errors: within what is allowed", 2, 0.01, 0.05),
    World("1.5 times as slow: within what is allowed", 2, slower=1.5),
    World("10 % more errors", 2, 0.01, 0.11, bad=True),
    World("10 % more errors, 1 request in 5 s", 0.2, 0.01, 0.11, bad=True),
    World("half of all fail", 2, 0.01, 0.5, bad=True),
    World("half of all fail, 1 request in 5 s", 0.2, 0.01, 0.5, bad=True),
    World("3 times as slow", 2, slower=3, bad=True),
    World("3 times as slow, 1 request in 5 s", 0.2, slower=3, bad=True),
    World("5 times as slow, 1 request in 5 s", 0.2, slower=5, bad=True),
)


def alarms(world: World, cases: int, seed: int) -> tuple[float, float | None]:
    """Return in which share of rollouts a regression is found, and after how many seconds in the middle."""
    random = np.random.default_rng(seed)
    bounds, found = AnalysisSpec(), []
    for _ in range(cases):
        old = _tally(random, world.before, world.errors_before, 1.0, world)
        ended = failed = busy = 0.0
        for look in range(LOOK_SECONDS, SOAK_SECONDS + 1, LOOK_SECONDS):
            part = _tally(
                random, random.poisson(world.per_second * LOOK_SECONDS), world.errors, world.slower, world
            )
            ended, failed, busy = ended + part.ended, failed + part.failed, busy + (part.busy_seconds or 0)
            if ended and regression(Tally(ended, failed, busy), old, bounds) is not None:
                found.append(look)
                break
    return len(found) / cases, float(np.median(found)) if found else None


def _tally(random: np.random.Generator, count: int, errors: float, slower: float, world: World) -> Tally:
    failed = random.binomial(max(0, count // world.burst), errors) * world.burst
    times = random.lognormal(0.0, world.spread, count) * slower
    return Tally(float(count), float(failed), float(times.sum()))


def main() -> None:
    """Print the table."""
    print("| two revisions | should be found | found | in the middle after |")
    print("|---|---|---|---|")
    for number, world in enumerate(WORLDS):
        share, seconds = alarms(world, CASES, number)
        after = "" if seconds is None else f"{seconds:.0f} s"
        print(f"| {world.name} | {'yes' if world.bad else 'no'} | {share:.2%} | {after} |")


if __name__ == "__main__":
    main()
