"""Metrics of rollouts, ways back and healing, one series or a few for each LLMDeployment. They go with it.

Nothing happens in a level-triggered loop: things are found to be so. What has happened since the status was written is
counted once the status that tells of it is written (``Milestone``), so each is counted once, whoever restarts when. Steps of
healing are counted as agents tell of them: those of a pod that this process has not seen before are none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from preheat.api.conditions import ConditionType
from preheat.api.llmdeployment import LLMDeployment
from preheat.decide.healing import healing_of
from preheat.decide.observed import PodView, parse_time
from preheat.decide.plan import Milestone, Plan

WHERE = ("namespace", "name")
MOST_STEPS = 8
"""A ladder has five; an agent that says otherwise makes no more series than this."""

GAUGES = {
    "preheat_rollout_in_progress": "Whether a rollout is under way, a way back included: 0 or 1.",
    "preheat_rollout_old_replicas": "Replicas that old revisions are asked for, while a rollout is under way.",
    "preheat_rollout_updated_replicas": "Replicas that the new revision is asked for, while a rollout is under way.",
    "preheat_rollout_ready_updated_replicas": "Those of them that answer.",
    "preheat_rollout_start_timestamp_seconds": "When the rollout that is under way began, Unix time.",
    "preheat_rolled_back": "Whether another revision is wanted than the spec's: 0 or 1.",
    "preheat_healing_replicas": "Replicas whose model does not answer, and is healed or given up.",
}


class Turns:
    """Owned by one event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gauges = {name: Gauge(name, words, WHERE, registry=registry) for name, words in GAUGES.items()}
        self._started = Counter(
            "preheat_rollouts_started_total",
            "Rollouts that began, ways back included.",
            WHERE,
            registry=registry,
        )
        self._completed = Counter(
            "preheat_rollouts_completed_total",
            "Rollouts whose revision has taken over, ways back included.",
            WHERE,
            registry=registry,
        )
        self._rollbacks = Counter(
            "preheat_rollbacks_total",
            "Revisions that were gone back from, by the reason of the verdict, or RollbackRequested.",
            (*WHERE, "reason"),
            registry=registry,
        )
        self._steps = Counter(
            "preheat_healing_steps_total",
            "Steps of healing that agents took, by the step of their ladder.",
            (*WHERE, "step"),
            registry=registry,
        )
        self._taken: dict[tuple[str, str], dict[str, int]] = {}
        """By namespace and name: how many steps each replica had taken when it was looked at last, by pod uid."""

    def count(self, where: tuple[str, str], plan: Plan) -> None:
        """Count what a status tells of that was just written."""
        for milestone, reason in plan.milestones:
            match milestone:
                case Milestone.ROLLOUT_STARTED:
                    self._started.labels(*where).inc()
                case Milestone.ROLLOUT_COMPLETED:
                    self._completed.labels(*where).inc()
                case Milestone.ROLLED_BACK:
                    self._rollbacks.labels(*where, reason).inc()

    def show(self, service: LLMDeployment, pods: Sequence[PodView], plan: Plan) -> None:
        """Show how far a rollout and healing are. ``pods``: with what their agents said in this pass."""
        if plan.status is None:
            return
        where = (service.namespace, service.name)
        rollout = plan.status.get("rollout") or {}
        began = parse_time(rollout.get("startedAt"))
        live = [pod for pod in pods if not pod.deleting]
        shown: dict[str, float | None] = {
            "preheat_rollout_in_progress": float(bool(rollout)),
            "preheat_rollout_old_replicas": rollout.get("oldReplicas"),
            "preheat_rollout_updated_replicas": rollout.get("updatedReplicas"),
            "preheat_rollout_ready_updated_replicas": rollout.get("readyUpdatedReplicas"),
            "preheat_rollout_start_timestamp_seconds": began.timestamp() if began is not None else None,
            "preheat_rolled_back": float(_is_rolled_back(plan.status)),
            "preheat_healing_replicas": sum(healing_of(pod) is not None for pod in live),
        }
        for name, value in shown.items():
            if value is None:
                self._gauges[name].remove(*where)
            else:
                self._gauges[name].labels(*where).set(value)
        self._count_steps(where, live)

    def _count_steps(self, where: tuple[str, str], pods: Sequence[PodView]) -> None:
        before, after = self._taken.get(where, {}), {}
        for pod in pods:
            healing = healing_of(pod)
            known = before.get(pod.uid)
            if healing is None and known is None and pod.report is None and not pod.ready:
                continue  # its agent is silent: it may be anywhere on the ladder
            if healing is None:
                # A replica that is well is not asked. Its next illness begins at the foot of the ladder.
                after[pod.uid] = 0 if pod.ready or known is None else known
                continue
            after[pod.uid] = min(healing.steps, MOST_STEPS)
            begun = known if known is not None else after[pod.uid]
            for step in range(begun + 1 if begun <= after[pod.uid] else 1, after[pod.uid] + 1):
                self._steps.labels(*where, str(step)).inc()
        self._taken[where] = after

    def forget(self, where: tuple[str, str]) -> None:
        """Show nothing any more of what is gone."""
        if self._taken.pop(where, None) is None:
            return
        labels = dict(zip(WHERE, where, strict=True))
        for metric in (*self._gauges.values(), self._started, self._completed, self._rollbacks, self._steps):
            metric.remove_by_labels(labels)


def _is_rolled_back(status: Mapping[str, Any]) -> bool:
    conditions = status.get("conditions") or ()
    return any(c["type"] == ConditionType.ROLLED_BACK and c["status"] == "True" for c in conditions)
