"""What the pods of a revision tell against it. One bad node, or what is nobody's fault, is nothing against it.

    what                                             told by             attempts
    load refused                                     the agent           its count of refusals in a row
    load without progress                            the agent           starts of the engine
    engine ends again and again                      the kubelet         restarts, less what its agent killed to heal
    a container of the template does                 the kubelet         enough: it backs off
    question not answered, whatever was tried        the agent           enough: three engines
    image, configuration, reference                  kubelet, scheduler  enough, once it lasts longer than a usual start, and
                                                                         than what went well before
    started and neither loads nor answers            kubelet, agent      enough, at ``progressLimitFactor`` usual starts

A revision failed when its replicas made ``ATTEMPTS`` together, none of them is well, and none that has a node still has its
first attempt before it. So it takes three attempts where one replica is all there is, and fewer of each with several; a replica
on a bad node says nothing while another loads or answers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.conditions import Reason
from preheat.decide.observed import AgentState, PodView
from preheat.decide.text import duration
from preheat.decide.troubles import MOUNTING, STARTS_NOTHING, sentence, trouble_of

ATTEMPTS = 3
RELOADS = 2
"""An agent's steps before the first that kills the engine (runtime/agent/README.md, "The ladder")."""
CRASHES = 3
"""Restarts after which a replica that is Ready now is not taken to be well."""
LEAST_PATIENCE_SECONDS = 30.0
"""A kubelet tries to pull an image again after 10 and 20 s."""
LEAST_MOUNT_SECONDS = 135.0
"""And to mount again after 63 and 127 s: a Secret that came after a minute is noticed by then."""
NOT_OF_THE_REVISION = frozenset({"WeightsIncomplete"})
"""Reasons of an agent's Failed that are about the node's disk."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is no proof by itself must last. Seconds, from what loads took."""

    start: float
    """What lies between a node and the first answer, nearly always."""
    progress: float
    """After so long a replica that neither loads nor answers has failed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What one pod tells against its revision."""

    reason: Reason
    pod: str
    node: str
    words: str
    attempts: int


def decisive_fault(
    pods: Sequence[PodView], lost: Collection[str], patience: Patience, now: datetime
) -> Fault | None:
    """Return why a revision cannot serve, None as long as it may. ``pods``: its live ones; ``lost``: nodes not Ready."""
    judged = [pod for pod in pods if not pod.has_ended and pod.node not in lost]
    if any(pod.ready and pod.restarts < CRASHES for pod in judged):
        return None
    found = [(pod, fault_of(pod, patience, now)) for pod in judged]
    if any(fault is None and pod.scheduled for pod, fault in found):
        return None
    faults = [fault for _, fault in found if fault is not None]
    if sum(fault.attempts for fault in faults) < ATTEMPTS:
        return None
    return max(faults, key=lambda fault: (fault.attempts, fault.pod))


def fault_of(pod: PodView, patience: Patience, now: datetime) -> Fault | None:
    """Return what a pod tells against its revision, None for nothing."""
    return (
        _of_start(pod, patience, now) or _of_crash(pod) or _of_agent(pod) or _of_idleness(pod, patience, now)
    )


def _fault(pod: PodView, reason: Reason, words: str, attempts: int = ATTEMPTS) -> Fault:
    where = f" on {pod.node}" if pod.node else ""
    return Fault(reason, pod.name, pod.node or "", f"pod {pod.name}{where}: {sentence(words)}", attempts)


def _of_start(pod: PodView, patience: Patience, now: datetime) -> Fault | None:
    trouble = trouble_of(pod)
    if trouble is None or trouble.reason not in STARTS_NOTHING:
        return None
    if trouble.reason is Reason.POD_NOT_STARTING and pod.waiting_reason is None:
        return None  # A sandbox or a volume that is not set up: that is the node's business.
    since = pod.scheduled_at or pod.created
    lasts = (now - since).total_seconds() if since is not None else 0.0
    if pod.troubled_seconds is not None:
        lasts = pod.troubled_seconds
    least = LEAST_MOUNT_SECONDS if trouble.told == MOUNTING else LEAST_PATIENCE_SECONDS
    # A pull that breaks off after half an hour is tried again, and may take as long again.
    if lasts < max(least, patience.start, pod.well_seconds):
        return None
    return _fault(pod, trouble.reason, f"{trouble.told} for {duration(lasts)}: {trouble.message}")


def _of_crash(pod: PodView) -> Fault | None:
    if pod.crashing is not None:
        return _fault(pod, Reason.CONTAINER_CRASHING, pod.crashing)
    ended = pod.restarts - _killed_by_agent(pod)
    if ended <= 0 or pod.last_exit is None:
        return None
    if pod.report is not None and pod.report.state is AgentState.STALLED:
        return None
    words = f"the engine ended {ended} times, {pod.last_exit}"
    return _fault(pod, Reason.ENGINE_CRASHING, words, ended)


def _killed_by_agent(pod: PodView) -> int:
    """Return how many ends of the engine were steps of healing: they are no crashes, and the ladder's own end is a fault."""
    healing = pod.report.healing if pod.report is not None else None
    return max(0, healing.steps - RELOADS) if healing is not None else 0


def _of_agent(pod: PodView) -> Fault | None:
    report = pod.report
    if report is None or report.reason in NOT_OF_THE_REVISION:
        return None
    words = report.message or report.reason
    if report.state is AgentState.STALLED:
        return _fault(pod, Reason.LOAD_STALLED, words, pod.restarts + 1)
    if report.state is AgentState.FAILED and report.reason == "CanaryFailed":
        return _fault(pod, Reason.CANARY_FAILED, words)
    if report.state is AgentState.FAILED or report.load_failures > 0:
        attempts = max(1, report.load_failures)
        return _fault(pod, Reason.LOAD_FAILED, f"the load was refused {attempts} times: {words}", attempts)
    return None


_IDLE = frozenset({AgentState.WAITING_FOR_ENGINE, AgentState.PROBING})
"""States in which nothing is loaded. Over the progress of a load the agent itself watches; its silence says nothing."""


def _of_idleness(pod: PodView, patience: Patience, now: datetime) -> Fault | None:
    """Return that a pod whose engine runs has neither loaded nor answered for many times what a start takes."""
    if pod.unready_since is None or pod.report is None or pod.report.state not in _IDLE:
        return None
    lasts = (now - pod.unready_since).total_seconds()
    if lasts < patience.progress:
        return None
    words = (
        f"its engine runs for {duration(lasts)}, neither loads nor answers ({pod.report.state}), and a whole start "
        f"takes {duration(patience.start)}"
    )
    return _fault(pod, Reason.PROGRESS_DEADLINE, words)
