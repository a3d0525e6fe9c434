"""`make e2e-external`: others scale LLMDeployments, with their real programs, and what came of it is printed.

python -m e2e.external [--case PATTERN] [--provider P] [--cluster-name N] [--keep]
"""

import argparse
import sys
from pathlib import Path

from e2e.cluster import PROVIDERS, provider_for
from e2e.cluster.audit import calls, requests
from e2e.cluster.provider import ROOT
from e2e.external.cases import CASES, Case, chosen
from e2e.external.judge import Outcome, spec_writes
from e2e.external.report import table, write
from e2e.external.stage import Stage, open_stage

AUTOSCALER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"


def main(arguments: list[str]) -> int:
    """Return 1 when a case failed, 2 when no case is called so."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e.external", description="Autoscalers of others, the real ones, on LLMDeployments."
    )
    parser.add_argument("--case", action="append", help="only these, by name or pattern: keda/idle, 'hpa/*'")
    parser.add_argument("--list", action="store_true", help="say which cases there are, and run none")
    parser.add_argument(
        "--provider", choices=("auto", *PROVIDERS), default="auto", help="who makes the cluster"
    )
    parser.add_argument(
        "--cluster-name", default="preheat-external", help="name of the cluster [%(default)s]"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the cluster up, for another run by its name"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench" / "external.jsonl")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{case.name:<20} {case.words}" for case in CASES.values()))
        return 0
    try:
        cases = chosen(given.case or ())
    except ValueError as error:
        print(error)
        return 2
    provider = provider_for(given.provider, given.cluster_name)
    with open_stage(provider, keep=given.keep) as stage:
        outcomes = run(stage, cases, given.results)
        if provider.audit_log is not None:
            outcomes.append(audited(provider.audit_log))
            write(given.results, outcomes)
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
            f"  {case.name:<20} {'passed' if outcome.passed else 'FAILED'}, {outcome.seconds:.0f} s",
            flush=True,
        )
        for problem in outcome.problems:
            print(f"    {problem}", flush=True)
    return outcomes


def audited(log: Path) -> Outcome:
    """Say what the API server's audit log tells of writes: the operator writes statuses, the autoscaler /scale."""
    problems = [f"the operator asked for {words}" for words in spec_writes(requests(log))]
    made = {(call.verb, call.resource, call.subresource) for call in calls(log)}
    if ("patch", "llmdeployments", "status") not in made:
        problems.append("the audit log tells of no status that the operator wrote: is it the right log?")
    if spec_writes(requests(log, AUTOSCALER)) not in ([], ["update llmdeployments/scale"]):
        problems.append(f"the autoscaler asked for {spec_writes(requests(log, AUTOSCALER))}")
    return Outcome("audit", problems=problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
