"""`make faults`: runs the campaign, or a part of it, and prints what it found.

python -m e2e.faults [--workload W] [--fault F] [--case ID] [--seed N] [--lanes N] [--fast] [--plant P]
"""

import argparse
import sys
from pathlib import Path

from e2e.cluster.audit import CALLS
from e2e.cluster.provider import ROOT
from e2e.faults.campaign import Choice, run
from e2e.faults.report import Report
from e2e.faults.workloads import WORKLOADS


def main(arguments: list[str]) -> int:
    """Return 1 when a case failed, or when none ran."""
    parser = argparse.ArgumentParser(prog="python -m e2e.faults", description="The fault campaign.")
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS), help="only this one")
    parser.add_argument(
        "--fault", action="append", help="only this one: killed, 503, watch-cut, clock+1h, ..."
    )
    parser.add_argument("--case", action="append", help="only this one, as a failure names it")
    parser.add_argument("--seed", type=int, default=1, help="order of the cases")
    parser.add_argument("--lanes", type=int, default=6, help="how many cases at a time")
    parser.add_argument("--fast", action="store_true", help="the part that runs with every change")
    parser.add_argument("--plant", default="", help="plant a bug, which must be found: see the README")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench" / "faults.jsonl")
    given = parser.parse_args(arguments)
    for case in given.case or ():
        if case.partition("/")[0] not in WORKLOADS:
            parser.error(f"no workload of case {case!r}: there are {', '.join(sorted(WORKLOADS))}")
    choice = Choice(
        workloads=tuple(given.workload or ()),
        faults=tuple(given.fault or ()),
        cases=tuple(given.case or ()),
        seed=given.seed,
        fast=given.fast,
        plant=given.plant,
    )
    report = Report(given.results, CALLS / "faults.json")
    print("  starting a control plane; then each workload undisturbed: a minute or two", flush=True)
    run(given.lanes, choice, report)
    if not report.verdicts:
        print("no case is called so; build/bench/faults.jsonl of a whole run has all names", file=sys.stderr)
        return 1
    print(report.text())
    print(given.results)
    return 1 if report.failed or not report.ran else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
