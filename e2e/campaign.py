"""What the campaigns on a real cluster share: the command's options, one case after the other, results, the table."""

import argparse
import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from e2e.cluster import PROVIDERS
from e2e.cluster.provider import ROOT

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case; a line of the results."""

    case: str
    problems: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.problems


Stage_contra = TypeVar("Stage_contra", contravariant=True)
Outcome_co = TypeVar("Outcome_co", bound=Outcome, covariant=True)
Known = TypeVar("Known")


class Case(Protocol[Stage_contra, Outcome_co]):
    """One case."""

    @property
    def name(self) -> str: ...

    @property
    def words(self) -> str: ...

    def play(self, stage: Stage_contra, tell: Tell) -> Outcome_co:
        """Run it; what goes wrong on the way is its outcome as well."""
        ...


def options(campaign: str, description: str) -> argparse.ArgumentParser:
    """Return the options that every campaign has."""
    parser = argparse.ArgumentParser(prog=f"python -m e2e.{campaign}", description=description)
    parser.add_argument("--case", action="append", help="only these, by name or pattern: 'bad/*'")
    parser.add_argument("--list", action="store_true", help="say which cases there are, and run none")
    parser.add_argument(
        "--provider", choices=("auto", *PROVIDERS), default="auto", help="who makes the cluster"
    )
    parser.add_argument(
        "--cluster-name", default=f"preheat-{campaign}", help="name of the cluster [%(default)s]"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the cluster up, for another run by its name"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench" / f"{campaign}.jsonl")
    return parser


def listed(cases: Mapping[str, Case[Any, Any]]) -> str:
    """Return a line per case."""
    width = max(map(len, cases))
    return "\n".join(f"{name:<{width}}  {case.words}" for name, case in cases.items())


def chosen(cases: Mapping[str, Known], patterns: Sequence[str]) -> list[Known]:
    """Return the cases that a pattern fits, all without one. Raises ValueError for a pattern that fits none."""
    for pattern in patterns:
        if not fnmatch.filter(cases, pattern):
            raise ValueError(f"no case is called {pattern!r}: there are {', '.join(cases)}")
    return [
        case
        for name, case in cases.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def run(
    stage: Stage_contra, cases: Sequence[Case[Stage_contra, Outcome_co]], results: Path
) -> list[Outcome_co]:
    """Run cases one after the other, and tell of each. What is known is written after each."""
    width = max(len(case.name) for case in cases)
    outcomes: list[Outcome_co] = []
    for number, case in enumerate(cases, 1):
        print(f"{number}/{len(cases)} {case.name}: {case.words}", flush=True)
        outcome = case.play(stage, lambda words: print(words, flush=True))
        outcomes.append(outcome)
        write(results, outcomes)
        word = "passed" if outcome.passed else "FAILED"
        print(f"  {case.name:<{width}}  {word}, {outcome.seconds:.0f} s", flush=True)
        for problem in outcome.problems:
            print(f"    {problem}", flush=True)
    return outcomes


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a JSON object per case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**asdict(outcome), "passed": outcome.passed}) for outcome in outcomes]
    path.write_text("".join(f"{line}\n" for line in lines))


def table(header: Sequence[str], row: Callable[[Any], Sequence[str]], outcomes: Sequence[Outcome]) -> str:
    """Return a line per case, below them what went wrong, and how many did.

    ``row(outcome)``: its cells, as many as ``header`` has; whether it passed is added to them.
    """
    rows = [[*header, ""]]
    rows += [[*row(outcome), "passed" if outcome.passed else "FAILED"] for outcome in outcomes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]
    lines += [f"  {outcome.case}: {problem}" for outcome in outcomes for problem in outcome.problems]
    bad = sum(not outcome.passed for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return "\n".join([*lines, f"cases run: {len(outcomes)}, failed: {bad}; {seconds / 60:.1f} minutes"])
