"""`make e2e-external`: others scale LLMDeployments, with their real programs, and what came of it is printed.

python -m e2e.external [--case PATTERN] [--provider P] [--cluster-name N] [--keep]
"""

import sys
from pathlib import Path

from e2e import campaign
from e2e.cluster import provider_for
from e2e.cluster.audit import calls, requests
from e2e.external.cases import CASES
from e2e.external.judge import Outcome, spec_writes
from e2e.external.report import table
from e2e.external.stage import open_stage

AUTOSCALER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"


def main(arguments: list[str]) -> int:
    """Return 1 when a case failed, 2 when no case is called so."""
    given = campaign.options(
        "external", "Autoscalers of others, the real ones, on LLMDeployments."
    ).parse_args(arguments)
    if given.list:
        print(campaign.listed(CASES))
        return 0
    try:
        cases = campaign.chosen(CASES, given.case or ())
    except ValueError as error:
        print(error)
        return 2
    provider = provider_for(given.provider, given.cluster_name)
    with open_stage(provider, keep=given.keep) as stage:
        outcomes = campaign.run(stage, cases, given.results)
        if provider.audit_log is not None:
            outcomes.append(audited(provider.audit_log))
            campaign.write(given.results, outcomes)
    print(table(outcomes))
    return 1 if any(not outcome.passed for outcome in outcomes) else 0


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
