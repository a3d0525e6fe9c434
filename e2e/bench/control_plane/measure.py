"""One case: N LLMDeployments at once, until they are settled, and then a while in which nothing changes."""

import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from preheat.controller.pace import STILL_SECONDS, TELLS_PER_SECOND

from e2e.bench.control_plane import bare, load
from e2e.bench.control_plane.audit import BARE, CREATOR, OPERATOR, RULES, Call, calls, of, subject_of
from e2e.bench.control_plane.bare import Replayed
from e2e.bench.control_plane.process import Operator, operator
from e2e.cluster.local.simulated import GPUS_PER_NODE, Sidecars, SimulatedCluster
from e2e.cluster.provider import ROOT, kubectl

QUIET_SECONDS = 5.0
"""Without a write for so long, the operator has done what there is to do."""

STATES = {
    "settled": "everything Ready",
    "weights": "waiting for weights: every warmer works and none makes progress",
    "gpu": "waiting for a GPU: the weights are there, every pod is Pending",
}
CHILDREN = frozenset(
    {
        "services",
        "modelcaches",
        "controllerrevisions",
        "deployments",
        "networkpolicies",
        "poddisruptionbudgets",
    }
)


@dataclass(frozen=True, slots=True)
class Idle:
    """A while in which nothing changed."""

    seconds: float
    writes: int
    reads: int
    """But watches, and the lists of the whole cluster that are made every five minutes, however many objects there are."""
    cpu_seconds_per_minute: float
    calls: dict[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """What one run gave. Times in seconds since the first LLMDeployment was created."""

    objects: int
    state: str
    nodes: int
    created_seconds: float
    """Until the last LLMDeployment was created."""
    first_child_p50: float
    """From an LLMDeployment created to its first child written."""
    first_child_p99: float
    told_seconds: float
    """Until the last LLMDeployment had the status that this state ends in."""
    last_write_seconds: float
    writes: int
    reads: int
    """Without watches."""
    refused: int
    """Of the writes, those that the API server did not take."""
    writes_by_resource: dict[str, float]
    """Per LLMDeployment."""
    reads_by_resource: dict[str, float]
    most_of_one: int
    """The most writes that named any one LLMDeployment: status, children, Events."""
    timeline: list[int]
    """Writes in every second."""
    cpu_seconds: float
    idle: Idle
    peak_mb: float
    rss_mb: float
    load_average: float
    bare: Replayed | None = None

    @property
    def writes_each(self) -> float:
        """Writes per LLMDeployment, what several share included."""
        return self.writes / self.objects

    @property
    def ratio(self) -> float | None:
        """How much longer it took until all was told to be Ready than the bare client needs for its writes alone."""
        return self.told_seconds / self.bare.seconds if self.bare else None

    @property
    def ready_ratio(self) -> float | None:
        """The same, where the bare client too has to see its last pod Ready."""
        return self.told_seconds / self.bare.ready_seconds if self.bare else None


def measure(objects: int, state: str, idle_seconds: float, *, with_bare: bool, logs: Path) -> Case:
    """Run one case, in a cluster of its own; the bare client gets another one of the same kind."""
    with _cluster(objects, state) as cluster, Sidecars(cluster.addresses).running():
        case, writes, uids = _run(cluster, objects, state, idle_seconds, logs)
        nodes = len(cluster.addresses)
    if not with_bare:
        return case
    with _cluster(objects, state) as cluster, Sidecars(cluster.addresses).running():
        assert len(cluster.addresses) == nodes
        _say("the same writes by a bare client, in a cluster of its own")
        replayed = bare.replay(
            load.api_client(_kubeconfig(cluster, BARE), bare.THREADS),
            load.api_client(_kubeconfig(cluster, CREATOR), load.CREATORS),
            writes,
            uids,
            objects,
        )
    return replace(case, bare=replayed)


@contextmanager
def _cluster(objects: int, state: str) -> Iterator[SimulatedCluster]:
    with tempfile.TemporaryDirectory(prefix="preheat-bench-") as folder:
        cluster = SimulatedCluster(
            Path(folder) / "plane",
            nodes=max(8, 4 * objects // GPUS_PER_NODE),
            gpus=0 if state == "gpu" else GPUS_PER_NODE,
            endless=[f"bench-{number}" for number in range(load.NAMESPACES)] if state == "weights" else [],
            audit=True,
            audit_rules=RULES,
        )
        for user in (OPERATOR, BARE, CREATOR):
            cluster.add_user(user, "system:masters")
        with cluster:
            kubectl(cluster.kubeconfig, "apply", "--server-side", "-f", str(ROOT / "crds"))
            kubectl(
                cluster.kubeconfig, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"
            )
            yield cluster


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _kubeconfig(cluster: SimulatedCluster, user: str) -> Path:
    path = cluster.folder / f"{user}.kubeconfig"
    cluster.write_kubeconfig(path, user)
    return path


def _run(
    cluster: SimulatedCluster, objects: int, state: str, idle_seconds: float, logs: Path
) -> tuple[Case, list[Call], dict[tuple[str, str, str], str]]:
    log = cluster.audit_log
    assert log is not None
    creator = load.api_client(_kubeconfig(cluster, CREATOR), load.CREATORS)
    load.create_namespaces(creator, "bench")
    with operator(_kubeconfig(cluster, OPERATOR), logs / f"operator-{objects}-{state}.log") as running:
        _wait_until_quiet(log, 120)
        _say(f"{objects} LLMDeployments, {state}: created, and waited for until nothing is written any more")
        begin, cpu = log.stat().st_size, running.cpu_seconds()
        load.create_all(creator, load.subjects(objects, "bench"))
        _wait_until_quiet(log, 600)
        if state == "weights":  # every LLMDeployment and every ModelCache has had its turn
            time.sleep(STILL_SECONDS + 2 * objects / TELLS_PER_SECOND)
        end, cpu, average = log.stat().st_size, running.cpu_seconds() - cpu, os.getloadavg()[0]
        _say(f"at rest; what is called in {idle_seconds:g} s now is counted")
        idle = _idle(log, running, end, idle_seconds)
        peak, rss = running.memory_mb("VmHWM"), running.memory_mb("VmRSS")
    found = calls(log, begin, end)
    mine = of(OPERATOR, found)
    created = {(c.namespace, c.name): c.at for c in of(CREATOR, found) if c.resource == "llmdeployments"}
    first = min(created.values())
    writes = [call for call in mine if call.is_write]
    reads = [call for call in mine if not call.is_write and not call.is_watch]
    delays = _until_first_child(created, writes)
    case = Case(
        objects=objects,
        state=state,
        nodes=len(cluster.addresses),
        created_seconds=max(created.values()) - first,
        first_child_p50=_percentile(delays, 0.50),
        first_child_p99=_percentile(delays, 0.99),
        told_seconds=_last_told(writes, state, objects) - first,
        last_write_seconds=max(call.at for call in writes) - first,
        writes=len(writes),
        reads=len(reads),
        refused=sum(call.code >= 300 for call in writes),
        writes_by_resource=_per_object(writes, objects),
        reads_by_resource=_per_object(reads, objects),
        most_of_one=max(Counter(filter(None, map(subject_of, writes))).values()),
        timeline=_timeline(writes, first),
        cpu_seconds=cpu,
        idle=idle,
        peak_mb=peak,
        rss_mb=rss,
        load_average=average,
    )
    return case, [call for call in writes if call.code < 300], _uids(cluster)


def _wait_until_quiet(log: Path, seconds: float) -> None:
    """Wait until nothing is logged for a while. Only looks at the file's size: asking would be load.

    After the deadline it goes on: an operator that never rests shows in the figures of the idle minute.
    """
    deadline, size, since = time.monotonic() + seconds, -1, time.monotonic()
    while time.monotonic() < deadline:
        now = time.monotonic()
        if log.exists() and log.stat().st_size != size:
            size, since = log.stat().st_size, now
        if now - since > QUIET_SECONDS:
            return
        time.sleep(0.2)


def _idle(log: Path, running: Operator, since_byte: int, seconds: float) -> Idle:
    started, cpu = time.monotonic(), running.cpu_seconds()
    time.sleep(seconds)
    cpu = running.cpu_seconds() - cpu
    quiet = of(OPERATOR, calls(log, since_byte))
    writes = sum(call.is_write for call in quiet)
    return Idle(
        seconds=time.monotonic() - started,
        writes=writes,
        reads=sum(_is_read_of_something(call) for call in quiet),
        cpu_seconds_per_minute=cpu * 60 / (time.monotonic() - started),
        calls=dict(Counter(f"{call.verb} {call.resource}" for call in quiet)),
    )


def _is_read_of_something(call: Call) -> bool:
    is_whole = not call.resource or (call.verb == "list" and not call.namespace)
    return not (call.is_write or call.is_watch or is_whole)


def _until_first_child(created: Mapping[tuple[str, str], float], writes: Sequence[Call]) -> list[float]:
    """Return, for every LLMDeployment, the seconds until the first child that names it was written."""
    first: dict[tuple[str, str], float] = {}
    for write in writes:
        subject = subject_of(write)
        if subject and write.resource in CHILDREN and write.code < 300:
            first.setdefault(subject, write.at)
    return sorted(first.get(subject, float("inf")) - at for subject, at in created.items())


def _last_told(writes: Sequence[Call], state: str, objects: int) -> float:
    """Return when the last LLMDeployment was told to be in this state, infinity if one was not."""
    wanted = {"settled": "Serving", "weights": "WeightsFetching", "gpu": "NoCapacity"}[state]
    told: dict[tuple[str, str], float] = {}
    for write in writes:
        if write.resource != "llmdeployments/status" or write.code >= 300:
            continue
        conditions = (write.body or {})["status"]["conditions"]
        reason = next(c["reason"] for c in conditions if c["type"] == "Ready")
        if reason != wanted:
            told.pop((write.namespace, write.name), None)
        else:
            told.setdefault((write.namespace, write.name), write.at)
    return max(told.values()) if len(told) == objects else float("inf")


def _per_object(found: Sequence[Call], objects: int) -> dict[str, float]:
    counted = Counter(f"{call.verb} {call.resource}" for call in found)
    return {what: round(number / objects, 3) for what, number in counted.most_common()}


def _timeline(writes: Sequence[Call], first: float) -> list[int]:
    counted = Counter(max(0, int(call.at - first)) for call in writes)
    return [counted[second] for second in range(max(counted) + 1)]


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of the sorted values does not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def _uids(cluster: SimulatedCluster) -> dict[tuple[str, str, str], str]:
    """Return the uid of every LLMDeployment and ModelCache, by resource, namespace and name."""
    found = {}
    for resource in ("llmdeployments", "modelcaches"):
        for item in json.loads(kubectl(cluster.kubeconfig, "get", resource, "-A", "-o", "json"))["items"]:
            metadata = item["metadata"]
            found[resource, metadata["namespace"], metadata["name"]] = metadata["uid"]
    return found
