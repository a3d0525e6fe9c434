"""`make e2e-rollout`: runs the campaign, or a part of it, on a real cluster, and prints what came of it.

python -m e2e.rollout [--case PATTERN] [--seed N] [--provider P] [--cluster-name N] [--kubeconfig F] [--keep]
"""

import argparse
import sys
from pathlib import Path

from e2e.cluster import PROVIDERS, provider_for
from e2e.cluster.provider import ROOT
from e2e.rollout.cases import CASES, Case, chosen
from e2e.rollout.judge import Outcome
from e2e.rollout.report import table, write
from e2e.rollout.stage import Stage, open_stage


def main(arguments: list[str]) -> int:
    """Return 1 when a case failed, 2 when no case is called so."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e.rollout", description="Good and bad revisions on a real cluster, under traffic."
    )
    parser.add_argument(
        "--case", action="append", help="only these, by name or pattern: bad/load-raises, 'bad/*'"
    )
    parser.add_argument("--list", action="store_true", help="say which cases there are, and run none")
    parser.add_argument("--seed", type=int, default=1, help="order of the cases [%(default)s]")
    parser.add_argument(
        "--provider", choices=("auto", *PROVIDERS), default="auto", help="who makes the cluster"
    )
    parser.add_argument("--cluster-name", default="preheat-rollout", help="name of the cluster [%(default)s]")
    parser.add_argument("--kubeconfig", type=Path, help="use this cluster, with the operator in it, instead")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up afterwards")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench" / "rollout.jsonl")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{case.name:<24} {case.words}" for case in CASES.values()))
        return 0
    try:
        cases = chosen(given.case or (), given.seed)
    except ValueError as error:
        print(error)
        return 2
    provider = provider_for(given.provider, given.cluster_name)
    with open_stage(provider, given.kubeconfig, keep=given.keep) as stage:
        outcomes = run(stage, cases, given.results)
    print(table(outcomes))
    return 1 if any(not outcome.passed for outcome in outcomes) else 0


def run(stage: Stage, cases: list[Case], results: Path) -> list[Outcome]:
    """Run cases one after the other. What is known is written after each."""
    outcomes: list[Outcome] = []
    for number, case in enumerate(cases, 1):
        print(f"{number}/{len(cases)} {case.name}: {case.words}", flush=True)
        outcome = case.play(stage, lambda words: print(words, flush=True))
        outcomes.append(outcome)
        write(results, outcomes)
        print(
            f"  {case.name:<24} {'passed' if outcome.passed else 'FAILED'}, {outcome.seconds:.0f} s",
            flush=True,
        )
        for problem in outcome.problems:
            print(f"    {problem}", flush=True)
    return outcomes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
