"""Which replica may take its next step of healing: the ration. Pure, and without a memory of its own.

An agent whose model does not answer waits for a grant before each step up its ladder (runtime/agent/README.md): each costs
a load. Whether that can help is seen from all replicas of a revision together. Those that fell ill within the same
window, the time that two agents may take to notice the same fault, are ill together.

    ill together                          granted
    one, or at most half of all known     a quarter of all known at a time, one at least
    more than half: what they share       the one that is furthest up the ladder, alone: a trial
    the same, and one of them has come    none: what did not help one does not help the others
      to the end of the ladder

So a bad question, or something that all replicas need and that is broken, takes away one replica at a time, and in the end
one. The others are asked on, and serve as soon as they answer. A replica that heals ends its illness: then the next is tried.
A lone replica has nobody to be ill with. Who is granted follows from what agents tell now, so the same pod is granted the
same step until it takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preheat.api.llmdeployment import HealthSpec, LLMDeployment
from preheat.decide.loads import usual_load_seconds
from preheat.decide.observed import AgentState, HealingReport, PodView
from preheat.decide.plan import Advise

GRANT_SECONDS = 20.0
"""A grant that is not used by then is void. An agent takes its step within a second."""
SHARE = 4
"""Of so many replicas that are known, one may be healing where the others are well."""
NOTICE_SECONDS = 60.0
"""Two agents may notice the same fault so far apart, beside what the canary's own times allow."""
NEWS = 0.1
"""An agent is told another load time when it differs by more than this share."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A replica that is not well."""

    pod: PodView
    healing: HealingReport

    @property
    def ill_seconds(self) -> float:
        """For how long."""
        return self.healing.ill_seconds or 0.0

    @property
    def exhausted(self) -> bool:
        """Whether there is no step left."""
        return self.healing.steps >= self.healing.steps_at_most

    @property
    def under_way(self) -> bool:
        """Whether a step was taken, and its outcome is not known. A load that is refused or stands still is one."""
        ended = self.pod.report is not None and self.pod.report.state in {
            AgentState.FAILED,
            AgentState.STALLED,
        }
        return not self.healing.waits and not self.exhausted and not ended


@dataclass(frozen=True, slots=True)
class Ration:
    """What is granted to one revision's replicas. ``words``: why others get nothing, None when all get what they ask."""

    grants: Mapping[str, int] = field(default_factory=dict)
    """By pod uid: which step."""
    words: str | None = None


def decide_healing(service: LLMDeployment, pods: Sequence[PodView]) -> tuple[list[Advise], str | None]:
    """Return what agents are told, and why healing is rationed, if it is.

    ``pods``: the live ones, with what the agents of those that are not Ready said just now.
    """
    window = window_seconds(service.spec.health)
    grants: dict[str, int] = {}
    words: list[str] = []
    for revision in sorted({pod.revision for pod in pods}):
        found = ration(revision, [pod for pod in pods if pod.revision == revision], window)
        grants.update(found.grants)
        words += [found.words] if found.words is not None else []
    advice = [_advice(service, pod, grants.get(pod.uid)) for pod in pods if pod.ip and pod.report]
    return [advise for advise in advice if advise is not None], " ".join(words) or None


def window_seconds(health: HealthSpec) -> float:
    """Return within how many seconds two agents notice the same fault."""
    canary = health.canary
    return NOTICE_SECONDS + canary.period_seconds + canary.failure_threshold * canary.timeout_seconds


def ration(revision: str, pods: Sequence[PodView], window: float) -> Ration:
    """Return who of one revision's replicas may take the next step."""
    ill = [Patient(pod, healing) for pod in pods if (healing := healing_of(pod)) is not None]
    known = len(ill) + sum(pod.ready for pod in pods)
    room = max(1, known // SHARE) - sum(patient.under_way for patient in ill)
    grants: dict[str, int] = {}
    words = None
    for patient in sorted((p for p in ill if p.healing.waits), key=_rank):
        together = [p for p in ill if abs(p.ill_seconds - patient.ill_seconds) <= window]
        shared = len(together) > 1 and 2 * len(together) > known
        if shared:
            words = words or _words(revision, together, known, window)
        if len(grants) < room and (not shared or _leads(patient, together)):
            grants[patient.pod.uid] = patient.healing.steps + 1
        elif words is None:
            words = f"{known - len(ill)} of {known} replicas of revision {revision} are well: {max(1, known // SHARE)} at a time may heal."
    return Ration(grants, words)


def healing_of(pod: PodView) -> HealingReport | None:
    """Return what the agent of a replica that is not well says of its healing, None for any other."""
    healing = pod.report.healing if pod.report is not None and not pod.ready else None
    return healing if healing is not None and healing.ill_seconds is not None else None


def _rank(patient: Patient) -> tuple[int, float, str]:
    """Furthest up the ladder first, then ill for the longest."""
    return -patient.healing.steps, -patient.ill_seconds, patient.pod.name


def _leads(patient: Patient, together: Sequence[Patient]) -> bool:
    """Tell whether a replica is the one that is tried for all that are ill together."""
    return min(together, key=_rank) is patient


def _words(revision: str, together: Sequence[Patient], known: int, window: float) -> str:
    """Say that what is wrong is likely to be shared, who is tried for all, and what to look at."""
    first = min(together, key=_rank)
    steps = f"{first.healing.steps} of {first.healing.steps_at_most} steps"
    trial = (
        f"Pod {first.pod.name} was healed for all of them, {steps}, and did not get well: the others are left as they are"
        if first.exhausted
        else f"Pod {first.pod.name} alone is healed, as a trial ({steps}); the others wait"
    )
    said = first.pod.report.message if first.pod.report is not None else ""
    return (
        f"{len(together)} of {known} replicas of revision {revision} stopped answering within {window:.0f} s of each other: "
        f"what is wrong is likely to be shared by all (the question in `health.canary`, something that the model calls), and no "
        f"restart mends that. {trial}, and serve again as soon as they answer. They say: {said or 'nothing'}"
    )


def _advice(service: LLMDeployment, pod: PodView, grant: int | None) -> Advise | None:
    """Return what one agent is told, None when it knows already, or is of a release that takes no advice."""
    report = pod.report
    if report is None or report.healing is None or pod.ip is None:
        return None
    waits = report.healing.waits
    load = None
    if report.state in {AgentState.LOADING, AgentState.WAITING_FOR_ENGINE, AgentState.HEALING}:
        load = usual_load_seconds(
            service.status.load_times, pod.revision, pod.gpu_type, report.bytes_total or None
        )
        told = report.told_load_seconds
        if told is not None and abs(told - load) <= NEWS * load:
            load = None
    if not waits and load is None:
        return None
    return Advise(pod.ip, pod.uid, waits=waits, grant=grant, grant_seconds=GRANT_SECONDS, load_seconds=load)
