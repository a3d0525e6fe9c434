"""A revision that fails is gone back from: the whole controller, with kubelets and agents that take virtual time."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.controller.service import Controller
from preheat.decide.observed import AgentReport, AgentState, Reading
from preheat.decide.plan import RESYNC_SECONDS
from preheat.resources.serving import revision_id
from typing_extensions import override

from tests.builders import parse_service
from tests.fakes import FakeKube, FakeSidecars
from tests.loop.test_controller import CONFIG, NODE, a_controller, example

pytestmark = pytest.mark.looptime
START = datetime(2026, 1, 1, tzinfo=UTC)
SERVICE = ("LLMDeployment", "preheat-demo", "smollm2")
LOADS_SECONDS = 10.0
REFUSES = "refuses"


def clock() -> datetime:
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def quality(word: str, **spec: Any) -> dict[str, Any]:
    """The example as a revision of this quality: one that ``refuses`` never loads."""
    return example(template={"metadata": {"labels": {"quality": word}}}, **spec)


class Cluster(FakeKube):
    """With ReplicaSets, a scheduler and kubelets: warmers fetch at once, pods get a GPU while there is one, and load."""

    def __init__(self, gpus: int) -> None:
        super().__init__()
        self.gpus = gpus
        self.sidecars = FakeSidecars()
        self.least_ready: int | None = None
        """The fewest replicas that were Ready since this was set."""
        self._pods = 0
        self.put({**NODE, "status": {**NODE["status"], "allocatable": {"nvidia.com/gpu": str(gpus)}}})

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [body for key, body in self.store.items() if key[0] == kind]

    @override
    def _save(self, key: Any, body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"].setdefault("creationTimestamp", clock().isoformat())
        return super()._save(key, body)

    def ready(self, word: str | None = None) -> int:
        """How many replicas answer, of one quality or of all."""
        return sum(_is_ready(p) for p in self.all("Pod") if word in {None, _quality(p)})

    def wanted(self) -> dict[str, int]:
        """How many replicas each quality is asked for."""
        return {
            d["spec"]["template"]["metadata"]["labels"].get("quality", ""): d["spec"]["replicas"]
            for d in self.all("Deployment")
        }

    async def kubelets(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.work()
            if self.least_ready is not None:
                self.least_ready = min(self.least_ready, self.ready())

    def work(self) -> None:
        for job in self.all("Job"):
            if not (job.get("status") or {}).get("conditions"):
                done = {"type": "Complete", "status": "True", "lastTransitionTime": clock().isoformat()}
                self.put({**copy.deepcopy(job), "status": {"conditions": [done]}})
        for deployment in self.all("Deployment"):
            self._scale(deployment)
        for pod in self.all("Pod"):
            self._schedule(pod) if not pod["spec"].get("nodeName") else self._load(pod)

    def _scale(self, deployment: dict[str, Any]) -> None:
        name = deployment["metadata"]["name"]
        mine = [p for p in self.all("Pod") if p["metadata"]["ownerReferences"][0]["name"] == f"{name}-abc"]
        for pod in sorted(mine, key=_is_ready)[: max(0, len(mine) - deployment["spec"]["replicas"])]:
            self.remove("Pod", "preheat-demo", pod["metadata"]["name"])
        for _ in range(deployment["spec"]["replicas"] - len(mine)):
            self._pods += 1
            self.put({
                "kind": "Pod", "apiVersion": "v1",
                "metadata": {
                    "name": f"p{self._pods}", "namespace": "preheat-demo",
                    "labels": deployment["spec"]["template"]["metadata"]["labels"],
                    "ownerReferences": [{"kind": "ReplicaSet", "name": f"{name}-abc", "uid": "rs", "controller": True}],
                },
                "spec": {"containers": deployment["spec"]["template"]["spec"]["containers"]},
                "status": {"phase": "Pending"},
            })  # fmt: skip

    def _schedule(self, pod: dict[str, Any]) -> None:
        used = sum(bool(p["spec"].get("nodeName")) for p in self.all("Pod"))
        if used < self.gpus:
            conditions = [_condition("PodScheduled", True), _condition("Ready", False)]
            ip = f"10.0.0.{pod['metadata']['name'][1:]}"
            status = {"phase": "Running", "podIP": ip, "conditions": conditions}
            self.put({**copy.deepcopy(pod), "spec": {**pod["spec"], "nodeName": "n1"}, "status": status})
            return
        words = {
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        }
        if not (pod["status"].get("conditions")):
            conditions = [{**_condition("PodScheduled", False), **words}]
            self.put({**copy.deepcopy(pod), "status": {"phase": "Pending", "conditions": conditions}})

    def _load(self, pod: dict[str, Any]) -> None:
        scheduled = datetime.fromisoformat(pod["status"]["conditions"][0]["lastTransitionTime"])
        age = (clock() - scheduled).total_seconds()
        ip = pod["status"]["podIP"]
        if _quality(pod).startswith(REFUSES):
            failures = int(age // LOADS_SECONDS)
            state = AgentState.FAILED if failures else AgentState.LOADING
            self.sidecars.reports[ip] = AgentReport(
                state, "LoadFailed" if failures else "Loading", "no such file: weights.gguf", 0, 0, None,
                load_failures=failures,
            )  # fmt: skip
        elif age >= LOADS_SECONDS and not _is_ready(pod):
            conditions = [pod["status"]["conditions"][0], _condition("Ready", True)]
            self.put({**copy.deepcopy(pod), "status": {**pod["status"], "conditions": conditions}})
        elif not _is_ready(pod):
            self.sidecars.reports[ip] = AgentReport(AgentState.LOADING, "Loading", "", 1, 2, None)


def _condition(kind: str, holds: bool) -> dict[str, Any]:
    return {"type": kind, "status": str(holds), "lastTransitionTime": clock().isoformat()}


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _quality(pod: dict[str, Any]) -> str:
    found: str = pod["metadata"]["labels"].get("quality", "")
    return found


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Controller]:
    made = a_controller(cluster, CONFIG, clock, cluster.sidecars)
    kubelets = asyncio.create_task(cluster.kubelets())
    await made.start()
    try:
        yield made
    finally:
        cluster.watcher = None
        kubelets.cancel()
        with suppress(asyncio.CancelledError):
            await kubelets
        await made.stop()


def condition(cluster: Cluster, kind: str) -> dict[str, Any] | None:
    conditions = cluster.store[SERVICE]["status"]["conditions"]
    return next((c for c in conditions if c["type"] == kind), None)


def verdicts(cluster: Cluster) -> list[dict[str, Any]]:
    texts = [
        (b["metadata"].get("annotations") or {}).get("preheat.dev/verdict")
        for b in cluster.all("ControllerRevision")
    ]
    return [json.loads(text) for text in texts if text]


def annotate(cluster: Cluster, **annotations: str) -> None:
    body = copy.deepcopy(cluster.store[SERVICE])
    body["metadata"]["annotations"] = {
        f"preheat.dev/{k.replace('_', '-')}": v for k, v in annotations.items()
    }
    cluster.put(body)


async def with_a_good_one(cluster: Cluster, **spec: Any) -> None:
    cluster.put(quality("good", **spec))
    await asyncio.sleep(30)
    assert cluster.ready("good") == spec.get("replicas", 1)


def id_of(body: dict[str, Any]) -> str:
    return revision_id(parse_service(body))


@pytest.mark.parametrize(("gpus", "replicas"), [(2, 1), (1, 1), (2, 2), (3, 2)])
async def test_a_revision_that_does_not_load_is_gone_back_from(gpus: int, replicas: int) -> None:
    """With a spare GPU and without one."""
    cluster = Cluster(gpus)
    async with running(cluster):
        await with_a_good_one(cluster, replicas=replicas)
        cluster.put(quality(REFUSES, replicas=replicas))
        cluster.least_ready = replicas
        await asyncio.sleep(100)
        assert cluster.wanted() == {"good": replicas, REFUSES: 0}
        assert cluster.ready("good") == replicas
        assert cluster.least_ready == min(replicas, gpus - 1), "one replica at most has made room"
        (verdict,) = verdicts(cluster)
        assert verdict["reason"] == "LoadFailed"
        assert verdict["backTo"] == id_of(quality("good"))
        back = condition(cluster, "RolledBack")
        assert back is not None
        assert (back["status"], back["reason"]) == ("True", "LoadFailed")
        assert "no such file: weights.gguf" in back["message"]
        ready, stalled = condition(cluster, "Ready"), condition(cluster, "Stalled")
        assert ready is not None
        assert stalled is not None
        assert (ready["status"], ready["reason"], stalled["status"]) == ("False", "RolledBack", "True")
        assert [e["reason"] for e in cluster.events].count("RolledBack") == 1
        assert cluster.store[SERVICE]["spec"]["template"]["metadata"]["labels"] == {"quality": REFUSES}
        done = len(cluster.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        late = cluster.writes[done:]
        assert set(late) <= {"apply ControllerRevision"}, "it does not loop, and at rest nothing is written"
        assert len(late) <= 1, "but that the good one has soaked"


@pytest.mark.parametrize("gpus", [1, 2])
async def test_one_that_was_stopped_as_another_went_back_moves_nothing(gpus: int) -> None:
    """It hears of the new spec, and not yet of the verdict."""
    cluster = Cluster(gpus)
    async with running(cluster):
        await with_a_good_one(cluster)
        stopped = cluster.watcher
        assert stopped is not None
        async with running(cluster):
            cluster.put(quality(REFUSES))
            await asyncio.sleep(130)
            assert cluster.wanted() == {"good": 1, REFUSES: 0}
            assert cluster.ready("good") == 1
        cluster.watcher, done = stopped, len(cluster.writes)
        stopped("MODIFIED", copy.deepcopy(cluster.store[SERVICE]))
        await asyncio.sleep(20)
        assert "apply Deployment" not in cluster.writes[done:]
        assert cluster.wanted() == {"good": 1, REFUSES: 0}
        assert len(verdicts(cluster)) == 1


@pytest.mark.parametrize("gpus", [1, 2])
async def test_it_survives_a_crash_after_every_write(gpus: int) -> None:
    for number in range(1, 60):
        cluster = Cluster(gpus)
        async with running(cluster):
            await with_a_good_one(cluster)
            cluster.put(quality(REFUSES))
            # The status is wiped as well: it only says.
            cluster.crash_after = len(cluster.writes) + number
            await asyncio.sleep(60)
        crashed = len(cluster.writes) >= (cluster.crash_after or 0)
        cluster.crash_after = None
        cluster.store[SERVICE].pop("status", None)
        async with running(cluster):
            await asyncio.sleep(70)
            assert cluster.wanted() == {"good": 1, REFUSES: 0}, f"crashed after write {number}"
            assert cluster.ready("good") == 1
            assert len(verdicts(cluster)) == 1
        if not crashed:
            return
    raise AssertionError("it never came to rest")


async def test_the_verdict_is_written_before_anything_moves() -> None:
    cluster = Cluster(1)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(quality(REFUSES))
        await asyncio.sleep(15)
        assert cluster.wanted() == {"good": 0, REFUSES: 1}
        done = len(cluster.writes)
        for _ in range(600):
            if not verdicts(cluster):
                await asyncio.sleep(0.1)
        assert cluster.wanted() == {"good": 0, REFUSES: 1}
        assert [w for w in cluster.writes[done:] if not w.startswith("status")] == [
            "apply ControllerRevision"
        ]


async def test_a_first_revision_goes_on_trying() -> None:
    cluster = Cluster(2)
    cluster.put(quality(REFUSES))
    async with running(cluster):
        await asyncio.sleep(200)
        assert cluster.wanted() == {REFUSES: 1}
        assert verdicts(cluster) == []
        ready = condition(cluster, "Ready")
        assert ready is not None
        assert ready["reason"] == "LoadFailed"
        assert "no earlier revision" in ready["message"]
        assert condition(cluster, "RolledBack") is None


async def test_a_person_has_it_tried_again_once() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(quality(REFUSES))
        await asyncio.sleep(90)
        assert cluster.wanted() == {"good": 1, REFUSES: 0}
        annotate(cluster, retry="please")
        await asyncio.sleep(5)
        assert cluster.wanted() == {"good": 1, REFUSES: 1}
        assert condition(cluster, "RolledBack") is None
        await asyncio.sleep(90)
        assert cluster.wanted() == {"good": 1, REFUSES: 0}
        assert [v["retry"] for v in verdicts(cluster)] == ["please"]
        assert [e["reason"] for e in cluster.events].count("RolledBack") == 2


async def test_another_spec_is_tried_and_the_failed_one_is_not() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(quality(REFUSES))
        await asyncio.sleep(90)
        cluster.put(quality("better"))
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 0, REFUSES: 0, "better": 1}
        assert condition(cluster, "RolledBack") is None
        ready = condition(cluster, "Ready")
        assert ready is not None
        assert ready["reason"] == "Serving"
        cluster.put(quality(REFUSES))
        await asyncio.sleep(20)
        assert cluster.wanted()[REFUSES] == 0
        assert cluster.ready("good") + cluster.ready("better") >= 1


async def test_the_old_spec_again_is_a_rollout_like_any_other() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(quality(REFUSES))
        await asyncio.sleep(90)
        cluster.put(quality("good"))
        await asyncio.sleep(30)
        assert cluster.wanted() == {"good": 1, REFUSES: 0}
        ready = condition(cluster, "Ready")
        assert ready is not None
        assert ready["reason"] == "Serving"


async def test_where_nobody_may_go_back_nothing_moves() -> None:
    cluster = Cluster(3)
    rollout = {"autoRollback": False}
    async with running(cluster):
        await with_a_good_one(cluster, replicas=2, rollout=rollout)
        cluster.put(quality(REFUSES, replicas=2, rollout=rollout))
        await asyncio.sleep(100)
        before = cluster.wanted()
        assert before[REFUSES] == 2
        assert before["good"] >= 1
        assert len(verdicts(cluster)) == 1
        ready, stalled = condition(cluster, "Ready"), condition(cluster, "Stalled")
        assert ready is not None
        assert stalled is not None
        assert (ready["reason"], stalled["status"]) == ("RolloutFailed", "True")
        await asyncio.sleep(200)
        assert cluster.wanted() == before
        cluster.put(quality(REFUSES, replicas=2))
        await asyncio.sleep(60)
        assert cluster.wanted() == {"good": 2, REFUSES: 0}, "it may now"


async def test_no_verdict_while_another_replica_serves() -> None:
    """One pod on a node that is bad."""
    cluster = Cluster(4)
    async with running(cluster):
        await with_a_good_one(cluster, replicas=2)
        cluster.put(quality("new", replicas=2))
        await asyncio.sleep(10)
        unlucky = next(p for p in cluster.all("Pod") if _quality(p) == "new")
        unlucky["metadata"]["labels"]["quality"] = REFUSES
        await asyncio.sleep(200)
        assert cluster.ready("new") == 1
        assert verdicts(cluster) == []
        assert cluster.wanted()["good"] >= 1


async def test_a_person_goes_back_and_forth() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(quality("new"))
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 0, "new": 1}
        annotate(cluster, rollback_to="1")
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 1, "new": 0}
        back, ready = condition(cluster, "RolledBack"), condition(cluster, "Ready")
        assert back is not None
        assert ready is not None
        assert (back["status"], back["reason"]) == ("True", "RollbackRequested")
        assert (ready["status"], ready["reason"]) == ("True", "Serving")
        annotate(cluster)
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 0, "new": 1}
        assert condition(cluster, "RolledBack") is None


async def test_a_wish_from_before_the_spec_changed_is_none() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(quality("new"))
        await asyncio.sleep(40)
        annotate(cluster, rollback_to=f"1@{id_of(quality('new'))}")
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 1, "new": 0}
        body = copy.deepcopy(cluster.store[SERVICE])
        body["spec"] = quality("newer")["spec"]
        cluster.put(body)
        await asyncio.sleep(40)
        assert cluster.wanted()["newer"] == 1


async def test_a_revision_that_is_not_there_is_told_with_those_that_are() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        annotate(cluster, rollback_to="7")
        await asyncio.sleep(10)
        told = condition(cluster, "RolledBack")
        assert told is not None
        assert (told["status"], told["reason"]) == ("False", "RevisionUnknown")
        assert f"1 ({id_of(quality('good'))})" in told["message"]
        assert cluster.wanted() == {"good": 1}


async def test_a_rollback_by_hand_while_a_rollout_is_stuck_with_no_gpu_to_spare() -> None:
    cluster = Cluster(1)
    rollout = {"autoRollback": False}
    async with running(cluster):
        await with_a_good_one(cluster, rollout=rollout)
        cluster.put(quality(REFUSES, rollout=rollout))
        await asyncio.sleep(90)
        assert cluster.wanted() == {"good": 0, REFUSES: 1}
        annotate(cluster, rollback_to="1")
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 1, REFUSES: 0}
        assert cluster.ready("good") == 1


async def test_what_serves_for_long_enough_is_remembered_to_be_good_once() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        await asyncio.sleep(600 + 2 * RESYNC_SECONDS)
        marks = [b["metadata"]["annotations"] for b in cluster.all("ControllerRevision")]
        assert [m for m in marks if "preheat.dev/soaked" in m] == marks
        done = len(cluster.writes)
        await asyncio.sleep(3 * RESYNC_SECONDS)
        assert cluster.writes[done:] == []


@pytest.mark.parametrize(
    ("failed", "seconds", "reason"), [(0.5, 1.0, "ErrorRateRose"), (0.0, 5.0, "LatencyRose")]
)
async def test_a_revision_that_serves_worse_is_gone_back_from_after_the_old_one_is_gone(
    failed: float, seconds: float, reason: str
) -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        (pod,) = cluster.all("Pod")
        cluster.sidecars.told[pod["status"]["podIP"]] = Reading("a", 1.0, 900, 900, 9, 1, 0, 900.0)
        cluster.put(quality("worse"))
        await asyncio.sleep(40)
        assert cluster.wanted() == {"good": 0, "worse": 1}
        (pod,) = cluster.all("Pod")
        for ended in range(0, 200, 20):
            reading = Reading("b", 1.0, ended, ended, ended * failed, 1, 0, ended * seconds)
            cluster.sidecars.told[pod["status"]["podIP"]] = reading
            await asyncio.sleep(10)
        await asyncio.sleep(30)
        assert [v["reason"] for v in verdicts(cluster)] == [reason]
        assert cluster.wanted() == {"good": 1, "worse": 0}
        done = len(cluster.writes)
        await asyncio.sleep(100)
        assert cluster.writes[done:] == []


async def test_a_revision_that_serves_as_well_stays() -> None:
    cluster = Cluster(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        (pod,) = cluster.all("Pod")
        cluster.sidecars.told[pod["status"]["podIP"]] = Reading("a", 1.0, 900, 900, 9, 1, 0, 900.0)
        cluster.put(quality("other"))
        await asyncio.sleep(40)
        (pod,) = cluster.all("Pod")
        cluster.sidecars.told[pod["status"]["podIP"]] = Reading("b", 1.0, 500, 500, 5, 1, 0, 600.0)
        await asyncio.sleep(100)
        assert verdicts(cluster) == []
        assert cluster.wanted() == {"good": 0, "other": 1}
