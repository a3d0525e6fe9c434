"""Replaces replicas that run on weights that were found wrong since they were loaded. Pure and stateless.

One replica of one Deployment at a time, once a verified copy is ready on some node:

    it answers nobody              what is not ready goes, as soon as no other replica is loading
    it serves                      one more replica is asked for; when that serves, the bad one goes
    it serves, and no GPU is free  it makes room itself, if at least one other replica serves
    it is the last that serves,
    and no GPU is free             it stays: bytes that were loaded are served on, and it is told

A bad replica that serves is first priced, and fewer are asked for in the next pass: then Kubernetes takes that one.
During a rollout nothing is done: it ends all old replicas anyway, and new ones mount what is right.

Worked example, one replica, a GPU free (b = the bad one, n = the new one):

    pods              asked for
    b serves          2
    b serves, n loads 2
    b serves, n too   2, and b is priced
    the same          1: b goes
    n serves          1
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preheat.api.conditions import ConditionType, Reason
from preheat.decide.conditions import Verdict
from preheat.decide.observed import DeploymentView, PodView
from preheat.decide.plan import PricePod
from preheat.decide.quarantine import runs_on_quarantined
from preheat.decide.victims import COST
from preheat.decide.wish import ServiceObservation, Wish, ready_nodes, runs, the_cache


@dataclass(frozen=True, slots=True)
class Renewal:
    """What is done for replicas on quarantined weights."""

    replicas: Mapping[str, int] = field(default_factory=dict)
    """Deployment -> how many it is asked for meanwhile. Others are asked for their share."""
    prices: Sequence[PricePod] = ()
    verdict: Verdict | None = None
    """What is told; None where all replicas run on what is right."""

    @property
    def surplus(self) -> int:
        """How many replicas more than wanted there may be meanwhile."""
        return 0 if self.verdict is None else 1


@dataclass(frozen=True, slots=True)
class _Step:
    replicas: int
    reason: Reason
    words: str
    priced: PodView | None = None


def renew(namespace: str, seen: ServiceObservation, wish: Wish) -> Renewal:
    """Return the next step."""
    cache = the_cache(wish, seen)
    nodes = (cache.status.quarantined or []) if cache is not None else []
    if not nodes or any(pod.revision != wish.id for pod in seen.pods):
        return Renewal()
    live = [pod for pod in seen.pods if not pod.deleting]
    bad = sorted((pod for pod in live if runs_on_quarantined(pod, nodes)), key=lambda pod: pod.name)
    shares = {gpu.value: share for gpu, share in wish.shares.items()}
    for view in sorted(seen.deployments, key=lambda view: view.name):
        share = shares.get(view.gpu_type, 0)
        pods = [pod for pod in live if runs(view, pod)]
        victims = [pod for pod in bad if pod in pods]
        if share == 0 or not victims:
            continue
        others = sum(pod.ready for pod in live) - sum(pod.ready for pod in pods)
        step = _step(share, pods, victims, others, view) if ready_nodes(wish, seen) else _wait(share)
        priced = [PricePod(namespace, step.priced.name, step.priced.uid, COST)] if step.priced else []
        told = ", ".join(f"{pod.name} on {pod.node}" for pod in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        words = f"On weights that were found wrong after they were loaded: {told}{more}. {step.words}"
        verdict = Verdict(ConditionType.WEIGHTS_QUARANTINED, True, step.reason, words)
        return Renewal({view.name: step.replicas}, priced, verdict)
    return Renewal()


def _wait(share: int) -> _Step:
    return _Step(
        share, Reason.WEIGHTS_FETCHING, "They are replaced once a verified copy is ready on some node."
    )


def _step(
    share: int, pods: Sequence[PodView], bad: Sequence[PodView], others: int, view: DeploymentView
) -> _Step:
    """Return how many replicas one Deployment is asked for. ``others``: replicas of other Deployments that serve."""
    ready = [pod for pod in pods if pod.ready]
    waits = [pod for pod in pods if not pod.ready and pod not in bad]
    blocked = view.refused is not None or any(pod.unschedulable is not None for pod in waits)
    loading = [pod for pod in waits if pod.scheduled]
    idle = [pod for pod in bad if not pod.ready]
    more = share + 1
    if idle:
        words = f"{idle[0].name} answers nobody and is replaced"
        asked = min(len(ready), share) if not loading else more if len(pods) > share else share
        return _Step(asked, Reason.REPLACING_PODS, f"{words}.")
    victim = next((pod for pod in bad if pod.deletion_cost == COST), bad[0])
    makes_room = blocked and not loading and len(ready) >= share and len(ready) + others > 1
    if len(ready) > share or makes_room:
        replaces = "another serves in its place" if len(ready) > share else "no GPU is free beside it"
        words = f"{victim.name} goes: {replaces}."
        if victim.deletion_cost != COST:
            return _Step(more, Reason.REPLACING_PODS, words, priced=victim)
        return _Step(min(len(ready) - 1, share), Reason.REPLACING_PODS, words)
    if blocked and len(ready) + others <= 1:
        words = (
            f"{victim.name} is the only one that serves, and there is no room for another beside it: it serves what it "
            "has loaded. Free a GPU, or delete that pod."
        )
        return _Step(more, Reason.NO_CAPACITY, words)
    return _Step(
        more, Reason.REPLACING_PODS, f"One more replica is asked for; when it serves, {victim.name} goes."
    )
