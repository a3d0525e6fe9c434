"""`make e2e-rollout`: runs the campaign, or a part of it, on a real cluster, and prints what came of it.

python -m e2e.rollout [--case PATTERN] [--seed N] [--provider P] [--cluster-name N] [--kubeconfig F] [--keep]
"""

import random
import sys
from pathlib import Path

from e2e import campaign
from e2e.cluster import provider_for
from e2e.rollout.cases import CASES
from e2e.rollout.report import table
from e2e.rollout.stage import open_stage


def main(arguments: list[str]) -> int:
    """Return 1 when a case failed, 2 when no case is called so."""
    parser = campaign.options("rollout", "Good and bad revisions on a real cluster, under traffic.")
    parser.add_argument("--seed", type=int, default=1, help="order of the cases [%(default)s]")
    parser.add_argument("--kubeconfig", type=Path, help="use this cluster, with the operator in it, instead")
    given = parser.parse_args(arguments)
    if given.list:
        print(campaign.listed(CASES))
        return 0
    try:
        cases = campaign.chosen(CASES, given.case or ())
    except ValueError as error:
        print(error)
        return 2
    random.Random(given.seed).shuffle(cases)
    provider = provider_for(given.provider, given.cluster_name)
    with open_stage(provider, given.kubeconfig, keep=given.keep) as stage:
        outcomes = campaign.run(stage, cases, given.results)
    print(table(outcomes))
    return 1 if any(not outcome.passed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
