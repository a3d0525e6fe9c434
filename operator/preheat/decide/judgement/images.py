"""What pullers tell against a revision: that the images of its pods are not to be had, before any replica moved.

One node that has them, or pulls without trouble, is enough against it; so is one whose trouble is younger than a usual start.
Of a node of which nothing is known nothing follows. A Secret is missing for all nodes alike, and only some of the pods that
wait for it are asked about (``controller/complaints.py``): there a node without trouble says nothing.
"""

from collections.abc import Sequence
from datetime import datetime

from preheat.api.conditions import Reason
from preheat.decide.ahead import Pull, PullState
from preheat.decide.judgement.pods import Fault, Patience, fault_of


def fault_of_images(pulls: Sequence[Pull], patience: Patience, now: datetime) -> Fault | None:
    """Return why a revision's images are not to be had, None as long as they may be. ``pulls``: on nodes that are up."""
    states = {pull.state for pull in pulls}
    refused = [pull for pull in pulls if pull.state is PullState.UNAVAILABLE]
    for_all = all(pull.reason is Reason.REFERENCE_MISSING for pull in refused)
    if PullState.PULLED in states or (PullState.PULLING in states and not for_all):
        return None
    pods = [pull.pod for pull in refused if pull.pod is not None]
    found = [fault_of(pod, patience, now) for pod in pods]
    faults = [fault for fault in found if fault is not None]
    if not faults or len(faults) < len(found):
        return None
    return max(faults, key=lambda fault: (fault.attempts, fault.pod))
