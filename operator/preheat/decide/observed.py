"""What was observed, as values. ``from_body`` parses each kind once; below it there are no dicts.

``None`` means "not there" or "not known", never zero.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from preheat.api.constants import (
    ANNOTATION_APPLIED,
    ANNOTATION_BOOT,
    ANNOTATION_BUDGET,
    ANNOTATION_DELETION_COST,
    ANNOTATION_NODE,
    ANNOTATION_PEERS,
    ANNOTATION_REMOVES,
    ANNOTATION_ROOM,
    ANNOTATION_VERIFIES,
    COMPONENT_WARMER,
    LABEL_COMPONENT,
    LABEL_GPU_TYPE,
    LABEL_REVISION,
    NODE_LABEL_AVOIDED,
    NODE_LABEL_LEAVING,
    NODE_LABEL_PREFIX,
    NODE_LABEL_READY,
    NODE_LABEL_WARMING,
)
from preheat.api.quantity import parse_bytes, parse_count
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
    """Keys of the weights that are there, complete and verified, whether pods may start with them or not."""
    warming: frozenset[str] = frozenset()
    """Keys of the weights of which a part may lie there."""
    leaving: frozenset[str] = frozenset()
    """Keys of the weights that are to be taken off its disk."""
    avoided: frozenset[str] = frozenset()
    """Of those: the ones with which no pod may start there."""
    gpu_fault: str | None = None
    """What the node says of a faulty GPU, None when it says nothing of the kind."""
    boot: str = ""
    """Which of its starts this is."""
    budget_bytes: int | None = None
    """What its own annotation allows, None without one."""
    version: str = ""
    """Its resourceVersion."""
    memory_bytes: int | None = None
    """What pods may take of its memory, None where it does not say."""

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
                name: count
                for name, amount in (status.get("allocatable") or {}).items()
                if "/" in name and (count := parse_count(amount)) is not None
            },
            caches=_keys(labels, NODE_LABEL_READY) | _keys(labels, NODE_LABEL_AVOIDED),
            warming=_keys(labels, NODE_LABEL_WARMING),
            leaving=_keys(labels, NODE_LABEL_LEAVING),
            avoided=_keys(labels, NODE_LABEL_AVOIDED),
            gpu_fault=_gpu_fault(body),
            boot=(status.get("nodeInfo") or {}).get("bootID", ""),
            budget_bytes=_bytes((metadata.get("annotations") or {}).get(ANNOTATION_BUDGET)),
            version=metadata.get("resourceVersion", ""),
            memory_bytes=_bytes((status.get("allocatable") or {}).get("memory")),
        )


def _keys(labels: Mapping[str, str], state: str) -> frozenset[str]:
    return frozenset(
        key.removeprefix(NODE_LABEL_PREFIX)
        for key, value in labels.items()
        if key.startswith(NODE_LABEL_PREFIX) and value == state
    )


_FAULT = re.compile(
    r"(gpu|xid|nvlink|accelerat\w*).*"
    r"(unhealthy|error|fault|fail|missing|lost|problem|critical|degraded|inactive|broken|bad)"
)
"""What is True of a GPU that is faulty: XidCriticalError (GKE), GPUMissing, NVLinkStatusInactive (AKS), GpuUnhealthy."""
_HEALTH = re.compile(r"(gpu|nvlink|accelerat)\w*(ready|(?<!un)healthy)$")
"""What is False of it: AcceleratedHardwareReady (EKS)."""


def _gpu_fault(body: Body) -> str | None:
    """Return what a node's conditions or taints tell of a faulty GPU. Node agents have no common name for it."""
    for told in (body.get("status") or {}).get("conditions") or ():
        kind, status = str(told.get("type", "")), told.get("status")
        bad = "False" if _HEALTH.search(kind.lower()) else "True" if _FAULT.search(kind.lower()) else None
        if bad is not None and status == bad:
            words = " ".join(filter(None, (str(told.get(name) or "") for name in ("reason", "message"))))
            return f"{kind}={status} {words[:200]}".strip()
    for taint in (body.get("spec") or {}).get("taints") or ():
        if _FAULT.search(str(taint.get("key", "")).lower()):
            return f"taint {taint['key']}"
    return None


def _bytes(text: str | None) -> int | None:
    """Return an amount, none where it is none: an annotation with a typing error must not fill a disk."""
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError:
        return 0


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
class HealingReport:
    """How far up its ladder an agent is."""

    ill_seconds: float | None
    """For how long its model has not been well, None when it is."""
    steps: int
    steps_at_most: int
    waits: bool
    """Whether it waits for a grant before it takes the next step."""

    @classmethod
    def from_json(cls, body: Any) -> "HealingReport | None":
        """Return what an agent says of it, None for one that says nothing: it is of 0.1.0."""
        if body is None:
            return None
        told = _mapping(body)
        return cls(
            ill_seconds=_amount_or_none(told.get("illSeconds")),
            steps=int(_amount(told["steps"])),
            steps_at_most=int(_amount(told["stepsAtMost"])),
            waits=told.get("waitsFor") is not None,
        )


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One answer of an agent's /status. Sizes in bytes, times in seconds."""

    state: AgentState
    reason: str
    message: str
    bytes_done: int
    bytes_total: int
    remaining_seconds: float | None
    load_started: datetime | None = None
    load_seconds: float | None = None
    """How long the last finished load took."""
    first_answer_seconds: float | None = None
    """From its end to the first good answer."""
    storage_bytes: int | None = None
    """Of the weights: what came from a disk and not from the page cache. An agent of 0.1.0 does not say."""
    heals: int = 0
    engine_starts: int = 0
    healing: HealingReport | None = None
    """None: an agent that heals without asking, and takes no advice."""
    told_load_seconds: float | None = None
    """How long it was told that a load takes."""
    load_failures: int = 0
    """How often in a row the load was refused. An agent of 0.1.0 does not say."""

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
            load_started=parse_time(str(load.get("startedAt") or "")),
            load_seconds=_amount_or_none(load.get("seconds")),
            first_answer_seconds=_amount_or_none(load.get("firstAnswerSeconds")),
            storage_bytes=None if (read := _amount_or_none(load.get("storageBytes"))) is None else int(read),
            heals=int(_amount(body.get("heals") or 0)),
            engine_starts=int(_amount(body.get("engineStarts") or 0)),
            healing=HealingReport.from_json(body.get("healing")),
            told_load_seconds=_amount_or_none(_mapping(body.get("stall") or {}).get("loadSeconds")),
            load_failures=int(_amount(load.get("failures") or 0)),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer of an agent's /signals (runtime/agent/README.md). Times in seconds; None: the engine does not say."""

    since: str
    """Tells one agent from the next: its counters began at zero then."""
    age_seconds: float
    came: float
    ended: float
    failed: float
    in_service: float | None
    waiting: float
    busy_seconds: float | None
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    slots: float | None = None

    @classmethod
    def from_json(cls, body: Body) -> "Reading":
        """Return the reading. Raises KeyError, TypeError or ValueError for an answer that is none, or says nothing yet."""
        signals = _mapping(_mapping(body)["signals"])
        return cls(
            since=str(body["since"])[:64],
            age_seconds=_amount(signals["ageSeconds"]),
            came=_amount(signals["came"]),
            ended=_amount(signals["ended"]),
            failed=_amount(signals["failed"]),
            in_service=_amount_or_none(signals.get("inService")),
            waiting=_amount(signals["waiting"]),
            busy_seconds=_amount_or_none(signals.get("busySeconds")),
            prompt_tokens=_amount_or_none(signals.get("promptTokens")),
            generated_tokens=_amount_or_none(signals.get("generatedTokens")),
            slots=_amount_or_none(signals.get("slots")),
        )


Name = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class FrontReport:
    """One answer of the front's /arrivals (runtime/front/README.md)."""

    since: str
    """Tells one process from the next: its counts began at zero then."""
    arrivals: Mapping[Name, tuple[int, float]]
    """How many requests came for whom, and how many seconds ago the last one did."""

    @classmethod
    def from_json(cls, body: Body) -> "FrontReport":
        """Return the report. Raises KeyError, TypeError or ValueError for an answer that is none."""
        told = [_mapping(one) for one in _mapping(body)["arrivals"]]
        return cls(
            since=str(body["since"])[:64],
            arrivals={
                (str(one["namespace"]), str(one["name"])): (
                    int(_amount(one["count"])),
                    _amount(one["secondsAgo"]),
                )
                for one in told
            },
        )


def dead_nodes(nodes: Iterable[NodeView]) -> set[str]:
    """Return the names of nodes that are not Ready: a pod that is being deleted there leaves for ever."""
    return {node.name for node in nodes if not node.ready}


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
    troubled_seconds: float | None = None
    """For how long it has been seen to be kept from starting, None while it is not, or where nobody watched."""
    placeless_seconds: float | None = None
    """For how long the scheduler has been seen to find no node for it, None while it does, or where nobody watched."""
    well_seconds: float = 0.0
    """For how long it was on its node before that, and nothing was wrong: an image was pulled."""
    crashing: str | None = None
    """Which container of the user's own ends again and again, and how."""
    lagging: str | None = None
    """What of the user's own keeps a pod whose engine is Ready from being so: a container, or a readiness gate."""
    created: datetime | None = None
    scheduled_at: datetime | None = None
    ready_at: datetime | None = None
    """Since when it is Ready, None while it is not."""
    deletion_cost: int | None = None
    """What it says that deleting it costs, None when it says nothing."""
    unready_since: datetime | None = None
    """Since when its main container runs and it is not Ready, None while either is not so."""

    @property
    def has_ended(self) -> bool:
        """Whether it ended for good: evicted, refused by its kubelet, on a node that was shut down.

        It holds no GPU, and its ReplicaSet has made another. Kubernetes leaves it there until thousands have gathered.
        """
        return self.phase in {"Failed", "Succeeded"}

    @classmethod
    def from_body(cls, body: Body, main: str) -> "PodView":
        """Return the view of a v1 Pod whose main container is called ``main``."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        labels = metadata.get("labels") or {}
        scheduled, is_ready = condition_of(body, "PodScheduled"), condition_of(body, "Ready")
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
            ready=is_ready.get("status") == "True",
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
            created=parse_time(metadata.get("creationTimestamp")),
            scheduled_at=_since(scheduled),
            ready_at=_since(is_ready),
            deletion_cost=_cost((metadata.get("annotations") or {}).get(ANNOTATION_DELETION_COST)),
            unready_since=_unready_since(container, is_ready),
        )


def _unready_since(main: Body, is_ready: Body) -> datetime | None:
    running = (main.get("state") or {}).get("running")
    began = parse_time((running or {}).get("startedAt"))
    if began is None or is_ready.get("status") == "True":
        return None
    lost = parse_time(is_ready.get("lastTransitionTime"))
    return began if lost is None else max(began, lost)


def _cost(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _since(condition: Body) -> datetime | None:
    """Return since when a condition holds, None while it does not."""
    return parse_time(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None


_TROUBLE = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "CrashLoopBackOff", "ImageVolumeMountFailed",
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
    """A Job of a cache (a warmer, a seeder) or of a service (a puller, a pager)."""

    name: str
    uid: str
    node: str
    state: JobState
    ended: datetime | None
    deleting: bool
    namespace: str = ""
    owner: str | None = None
    """The uid of whose it is."""
    podless: bool = False
    """Whether it is at work and has no pod."""
    complaint: str | None = None
    """Why its pod cannot be created, in the API server's words."""
    suspended: bool = False
    """Whether it waits for room."""
    created: datetime | None = None
    boot: str = ""
    """As which of its starts the node ran when it was made."""
    room_bytes: int | None = None
    """How much it may take on its node, None without a budget."""
    removes: frozenset[str] = frozenset()
    """Of a keeper: the keys of the weights that it takes off its node's disk."""
    verifies: frozenset[str] = frozenset()
    """Of a keeper: the keys of the weights that it hashes."""
    component: str = COMPONENT_WARMER
    peers: tuple[str, ...] = ()
    """Of a warmer: the nodes that it gets the weights from; none: it asks the source."""
    applied: str = ""
    """The hash of our own wish, as it was made."""

    @classmethod
    def from_body(cls, body: Body) -> "JobView":
        """Return the view of a batch/v1 Job."""
        metadata = body["metadata"]
        annotations = metadata.get("annotations") or {}
        suspended = bool((body.get("spec") or {}).get("suspend"))
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
            node=annotations.get(ANNOTATION_NODE, ""),
            state=state,
            ended=parse_time(since),
            deleting="deletionTimestamp" in metadata,
            podless=state is JobState.ACTIVE
            and not suspended
            and not (body.get("status") or {}).get("active"),
            suspended=suspended and state is JobState.ACTIVE,
            created=parse_time(metadata.get("creationTimestamp")),
            boot=annotations.get(ANNOTATION_BOOT, ""),
            room_bytes=parse_count(annotations.get(ANNOTATION_ROOM, "")),
            removes=_listed(annotations.get(ANNOTATION_REMOVES)),
            verifies=_listed(annotations.get(ANNOTATION_VERIFIES)),
            component=(metadata.get("labels") or {}).get(LABEL_COMPONENT, COMPONENT_WARMER),
            peers=tuple(filter(None, annotations.get(ANNOTATION_PEERS, "").split(","))),
            applied=annotations.get(ANNOTATION_APPLIED, ""),
        )


def _listed(keys: str | None) -> frozenset[str]:
    return frozenset(filter(None, (keys or "").split(",")))


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


@dataclass(frozen=True, slots=True)
class Puller:
    """A Job that has a node pull the images of pods, or read weights (a pager), its newest pod, and that pod's last words."""

    job: JobView
    pod: PodView | None = None
    report: WarmerReport | None = None
    orphan: bool = False
    """Whether it was left by an LLMDeployment of the same name."""


@dataclass(frozen=True, slots=True)
class KeeperReport:
    """A keeper's last words: what it could not remove, and what was no longer what it should be."""

    in_use: frozenset[str] = frozenset()
    young: frozenset[str] = frozenset()
    """Keys of weights that were touched too short a while before to be removed."""
    corrupt: Mapping[str, str] = field(default_factory=dict)
    """By key: what is wrong with the weights."""
    whole: bool = True
    """Whether it tells of everything that it was to do. If not, another keeper is due for what is left."""
    ended_well: bool = True
    """If not it was killed or stopped, and this is what it had found until then."""

    @classmethod
    def from_json(cls, body: Body) -> "KeeperReport":
        """Return the report. Raises KeyError, TypeError or ValueError for an answer that is none."""
        body = _mapping(body)
        ended_well = body["state"] == "Kept"
        if not ended_well and "corruptCount" not in body:
            raise ValueError("it tells nothing of what it did")
        corrupt = _mapping(body.get("corrupt") or {})
        stuck = {str(folder).rpartition("/")[2] for folder in _mapping(body.get("stuck") or {})}
        in_use, young = ([str(key) for key in body.get(name) or ()] for name in ("inUse", "young"))
        told = {"inUse": len(in_use), "young": len(young), "stuck": len(stuck), "corrupt": len(corrupt)}
        return cls(
            in_use=frozenset(in_use) | stuck,
            young=frozenset(young),
            corrupt={str(key): str(why)[:256] for key, why in corrupt.items()},
            ended_well=ended_well,
            whole=ended_well
            and not body.get("cutShort")
            and all(_amount(body.get(f"{name}Count") or 0) <= count for name, count in told.items()),
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
    """Return a timestamp as an aware datetime, None when there is none or it is none. People leave out the time zone: UTC."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


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
    "FrontReport",
    "HealingReport",
    "JobState",
    "JobView",
    "KeeperReport",
    "Manifest",
    "Name",
    "NodeView",
    "PodView",
    "Puller",
    "Reading",
    "Taint",
    "WarmerReport",
    "condition",
    "condition_of",
    "controller_name",
    "is_controlled_by",
    "is_replica_of",
    "parse_time",
]
