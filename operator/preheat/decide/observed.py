"""What was observed, as values. ``from_body`` parses each kind once; below it there are no dicts.

``None`` means "not there" or "not known", never zero.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from preheat.api.constants import (
    ANNOTATION_NODE,
    LABEL_GPU_TYPE,
    LABEL_REVISION,
    NODE_LABEL_PREFIX,
    NODE_LABEL_READY,
)
from preheat.api.template import AGENT
from preheat.resources.metadata import Manifest

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node: what it offers and which caches it holds complete."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    ready: bool
    schedulable: bool
    allocatable: Mapping[str, int]
    caches: frozenset[str]

    @classmethod
    def from_body(cls, body: Body) -> "NodeView":
        """Return the view of a v1 Node. Extended resources are whole numbers; others are left out."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        labels = metadata.get("labels") or {}
        return cls(
            name=metadata["name"],
            labels=labels,
            taints=tuple(
                Taint(t.get("key", ""), t.get("value", ""), t.get("effect", ""))
                for t in spec.get("taints") or ()
            ),
            ready=condition(body, "Ready") == "True",
            schedulable=not spec.get("unschedulable", False),
            allocatable={
                name: int(amount)
                for name, amount in (status.get("allocatable") or {}).items()
                if "/" in name and str(amount).isdigit()
            },
            caches=frozenset(
                key.removeprefix(NODE_LABEL_PREFIX)
                for key, value in labels.items()
                if key.startswith(NODE_LABEL_PREFIX) and value == NODE_LABEL_READY
            ),
        )


class AgentState(StrEnum):
    """What an agent says of its model (runtime/agent/README.md)."""

    WAITING_FOR_ENGINE = "WaitingForEngine"
    LOADING = "Loading"
    PROBING = "Probing"
    SERVING = "Serving"
    HEALING = "Healing"
    STALLED = "Stalled"
    FAILED = "Failed"
    DRAINING = "Draining"


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One answer of an agent's /status. Sizes in bytes, times in seconds."""

    state: AgentState
    reason: str
    message: str
    bytes_done: int
    bytes_total: int
    remaining_seconds: float | None

    @classmethod
    def from_json(cls, body: Body) -> "AgentReport":
        """Return the report. Raises KeyError, TypeError or ValueError for an answer that is none."""
        load = _mapping(_mapping(body)["load"])
        return cls(
            state=AgentState(body["state"]),
            reason=str(body.get("reason") or ""),
            message=str(body.get("message") or ""),
            bytes_done=int(_amount(load["bytesLoaded"])),
            bytes_total=int(_amount(load["bytesTotal"])),
            remaining_seconds=_amount_or_none(load.get("remainingSeconds")),
        )


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod, as far as a decision needs it."""

    name: str
    uid: str
    revision: str
    gpu_type: str
    job_node: str | None
    """The node that a warmer pod works for."""
    node: str | None
    ip: str | None
    phase: str
    ready: bool
    deleting: bool
    scheduled: bool
    unschedulable: str | None
    """Why the scheduler finds no node, in its own words."""
    waiting_reason: str | None
    waiting_message: str | None
    restarts: int
    last_exit: str | None
    """How the main container ended last: exit code and last words."""
    termination_message: str | None
    report: AgentReport | None = None
    starting: bool = False
    """Whether it has a node, and its first container or its main one is next and has not run yet."""
    begun: bool = False
    """Whether one of its containers runs or has run."""
    complaint: str | None = None
    """What the kubelet says of it, where it does not start."""
    crashing: str | None = None
    """Which container of the user's own ends again and again, and how."""
    lagging: str | None = None
    """What of the user's own keeps a pod whose engine is Ready from being so: a container, or a readiness gate."""

    @classmethod
    def from_body(cls, body: Body, main: str) -> "PodView":
        """Return the view of a v1 Pod whose main container is called ``main``."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        labels = metadata.get("labels") or {}
        scheduled = condition_of(body, "PodScheduled")
        before = status.get("initContainerStatuses") or ()
        statuses = [*before, *(status.get("containerStatuses") or ())]
        begun = any(map(_has_run, statuses))
        waiting = next(
            (w for s in statuses if (w := (s.get("state") or {}).get("waiting")) and _is_trouble(w)), None
        )
        container: Body = next((s for s in statuses if s.get("name") == main), {})
        own = [s for s in statuses if s.get("name") not in {main, AGENT}]
        ended = (container.get("state") or {}).get("terminated")
        ended_before = (container.get("lastState") or {}).get("terminated")
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            revision=labels.get(LABEL_REVISION, ""),
            gpu_type=labels.get(LABEL_GPU_TYPE, ""),
            job_node=(metadata.get("annotations") or {}).get(ANNOTATION_NODE),
            node=spec.get("nodeName"),
            ip=status.get("podIP"),
            phase=status.get("phase", "Pending"),
            ready=condition(body, "Ready") == "True",
            deleting="deletionTimestamp" in metadata,
            scheduled=scheduled.get("status") == "True",
            unschedulable=scheduled.get("message", "")
            if scheduled.get("reason") == "Unschedulable"
            else None,
            waiting_reason=waiting.get("reason") if waiting else None,
            waiting_message=waiting.get("message") if waiting else None,
            restarts=int(container.get("restartCount") or 0),
            last_exit=_exit(ended or ended_before),
            termination_message=(ended or {}).get("message"),
            starting=scheduled.get("status") == "True"
            and status.get("phase", "Pending") == "Pending"
            and (not begun or (not _has_run(container) and all(map(_has_started, before)))),
            begun=begun,
            crashing=_crashing(own),
            lagging=next(
                (f"container {s['name']}" for s in own if _is_lagging(s)),
                "a readiness gate"
                if spec.get("readinessGates") and condition(body, "ContainersReady") == "True"
                else None,
            ),
        )


_TROUBLE = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
}  # fmt: skip


def _is_trouble(waiting: Body) -> bool:
    return waiting.get("reason") in _TROUBLE


def _crashing(statuses: Sequence[Body]) -> str | None:
    """Return the first container that the kubelet holds back because it ended too often."""
    for status in statuses:
        if ((status.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff":
            ended = _exit((status.get("lastState") or {}).get("terminated")) or "no exit code"
            return f"container {status['name']} restarted {status.get('restartCount', 0)} times, {ended}"
    return None


def _has_run(status: Body) -> bool:
    return bool((status.get("state") or {}).keys() - {"waiting"} or status.get("lastState"))


def _has_started(status: Body) -> bool:
    """Tell whether an init container holds up none of those after it: it has ended well, or it is a sidecar that is up."""
    return bool(
        status.get("started") or ((status.get("state") or {}).get("terminated") or {}).get("exitCode") == 0
    )


def _is_lagging(status: Body) -> bool:
    return "running" in (status.get("state") or {}) and not status.get("ready", False)


def _exit(terminated: Body | None) -> str | None:
    if not terminated:
        return None
    words = (terminated.get("message") or "").strip().splitlines()
    last = f": {words[-1][:200]}" if words else ""
    return f"exit code {terminated.get('exitCode')} ({terminated.get('reason')}){last}"


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """A Deployment of ours."""

    name: str
    revision: str
    gpu_type: str
    replicas: int
    refused: str | None
    """Why its pods cannot even be created (quota, Pod Security, admission), in the API server's words."""

    @classmethod
    def from_body(cls, body: Body) -> "DeploymentView":
        """Return the view of an apps/v1 Deployment."""
        metadata = body["metadata"]
        labels = metadata.get("labels") or {}
        failure = condition_of(body, "ReplicaFailure")
        return cls(
            name=metadata["name"],
            revision=labels.get(LABEL_REVISION, ""),
            gpu_type=labels.get(LABEL_GPU_TYPE, ""),
            replicas=int((body.get("spec") or {}).get("replicas", 1)),
            refused=failure.get("message", "") if failure.get("status") == "True" else None,
        )


class JobState(StrEnum):
    """How a Job stands."""

    ACTIVE = "Active"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class JobView:
    """A warmer Job."""

    name: str
    uid: str
    node: str
    state: JobState
    ended: datetime | None
    deleting: bool
    namespace: str = ""
    owner: str | None = None
    """The uid of its cache."""
    podless: bool = False
    """Whether it is at work and has no pod."""
    complaint: str | None = None
    """Why its pod cannot be created, in the API server's words."""

    @classmethod
    def from_body(cls, body: Body) -> "JobView":
        """Return the view of a batch/v1 Job."""
        metadata = body["metadata"]
        complete, failed = condition_of(body, "Complete"), condition_of(body, "Failed")
        state, since = JobState.ACTIVE, None
        if complete.get("status") == "True":
            state, since = JobState.COMPLETE, complete.get("lastTransitionTime")
        elif failed.get("status") == "True":
            state, since = JobState.FAILED, failed.get("lastTransitionTime")
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            namespace=metadata.get("namespace", ""),
            owner=next(
                (r.get("uid") for r in metadata.get("ownerReferences") or () if r.get("controller")), None
            ),
            node=(metadata.get("annotations") or {}).get(ANNOTATION_NODE, ""),
            state=state,
            ended=parse_time(since),
            deleting="deletionTimestamp" in metadata,
            podless=state is JobState.ACTIVE and not (body.get("status") or {}).get("active"),
        )


@dataclass(frozen=True, slots=True)
class WarmerReport:
    """One answer of a warmer's /progress, or its last words. Sizes in bytes, speeds in bytes per second."""

    state: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    remaining_seconds: float | None
    reason: str = ""
    message: str = ""
    manifest_sha256: str | None = None
    resolved_revision: str | None = None

    @classmethod
    def from_json(cls, body: Body) -> "WarmerReport":
        """Return the report. Raises KeyError, TypeError or ValueError for an answer that is none."""
        body = _mapping(body)
        total = int(_amount(body.get("bytesTotal") or 0))
        return cls(
            state=str(body["state"]),
            bytes_done=int(_amount(body.get("bytesDone") or (total if body["state"] == "Published" else 0))),
            bytes_total=total,
            bytes_per_second=_amount(body.get("bytesPerSecond") or 0.0),
            remaining_seconds=_amount_or_none(body.get("remainingSeconds")),
            reason=str(body.get("reason") or "")[:64],
            message=str(body.get("message") or "")[:512],
            manifest_sha256=str(body.get("manifestSHA256") or "")[:64] or None,
            resolved_revision=str(body.get("resolvedRevision") or "")[:128] or None,
        )


MOST = float(2**50)
"""No honest size or time is larger; a thousand nodes' worth of more, no status could hold."""


def _mapping(body: Any) -> Body:
    """Return a JSON object. A pod answers what it likes. Raises TypeError for anything else."""
    if not isinstance(body, Mapping):
        raise TypeError(f"an answer must be an object, not {type(body).__name__}")
    return body


def _amount(value: Any) -> float:
    """Return a size or a time. Raises ValueError for what is negative, endless or no number."""
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("a number that large is no size and no time") from error
    if not 0 <= number <= MOST:
        raise ValueError(f"{number!r} is no size and no time")
    return number


def _amount_or_none(value: Any) -> float | None:
    return None if value is None else _amount(value)


def condition_of(body: Body, kind: str) -> Body:
    """Return a condition of an object, empty when it has none of that type."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), {})


def condition(body: Body, kind: str) -> str | None:
    """Return the status of a condition."""
    return condition_of(body, kind).get("status")


def parse_time(text: str | None) -> datetime | None:
    """Return an API timestamp as an aware datetime, None when there is none or it is none."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def controller_name(body: Body, kind: str) -> str | None:
    """Return the name of the controller of an object if it is of this kind."""
    references = body["metadata"].get("ownerReferences") or ()
    return next((r.get("name") for r in references if r.get("controller") and r.get("kind") == kind), None)


def is_replica_of(pod: Body, deployments: Collection[str]) -> bool:
    """Tell whether a pod belongs to one of these Deployments.

    Labels alone do not tell: anybody can set them. A ReplicaSet is named after its Deployment and a hash.
    """
    replica_set = controller_name(pod, "ReplicaSet") or ""
    return replica_set.rpartition("-")[0] in deployments


def is_controlled_by(body: Body, uid: str) -> bool:
    """Tell whether the object with this uid is the controller of an object."""
    return any(
        reference.get("controller") and reference.get("uid") == uid
        for reference in body["metadata"].get("ownerReferences") or ()
    )


__all__ = [
    "AgentReport",
    "AgentState",
    "Body",
    "DeploymentView",
    "JobState",
    "JobView",
    "Manifest",
    "NodeView",
    "PodView",
    "Taint",
    "WarmerReport",
    "condition",
    "condition_of",
    "controller_name",
    "is_controlled_by",
    "is_replica_of",
    "parse_time",
]
