"""Images ahead of replicas by the whole controller: pulled, not to be had, not mounted; killed after any write; at rest."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from preheat.errors import InvalidSpec, Unavailable
from typing_extensions import override

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, example
from tests.loop.test_rollout import (
    OTHER,
    SERVICE,
    Kubelets,
    change,
    crash_after,
    now,
    operator,
    serve,
    until_ready,
)

pytestmark = pytest.mark.looptime
PULL_SECONDS = 40
PULLS, REFUSES, MOUNTS_NOTHING, MISSES = "pulls", "refuses", "mounts nothing", "misses"
MISSED = 'MountVolume.SetUp failed for volume "named" : secret "keys" not found'
LAST_WORDS = '{"state": "Failed", "reason": "NoImageVolume", "message": "nothing is mounted at /images/0"}'


class Pulling(Kubelets):
    """Kubelets that pull for pullers: well, never, without image volumes, or not before a Secret is there; and a Job
    controller for those."""

    def __init__(self, kube: FakeKube, how: str) -> None:
        super().__init__(kube)
        self.how = how
        self._pulls: dict[str, int] = {}

    @override
    def _all(self, kind: str) -> list[dict[str, Any]]:
        return [body for body in super()._all(kind) if not _is_puller(body)]

    def pullers(self) -> list[dict[str, Any]]:
        return [body for body in super()._all("Job") if _is_puller(body)]

    def new_pods(self, before: str) -> int:
        """How many replicas there are of another revision."""
        return sum(pod["metadata"]["labels"]["preheat.dev/revision"] != before for pod in self._all("Pod"))

    @override
    def _warm(self) -> None:
        super()._warm()
        jobs = {job["metadata"]["uid"]: job for job in self.pullers()}
        for pod in [body for body in super()._all("Pod") if _is_puller(body)]:
            if pod["metadata"]["ownerReferences"][0]["uid"] not in jobs:
                self.kube.remove("Pod", "preheat-demo", pod["metadata"]["name"])
        for job in jobs.values():
            self._pull(job)

    def _pull(self, job: dict[str, Any]) -> None:
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        self._pulls[uid] = self._pulls.get(uid, 0) + 1
        if (job.get("status") or {}).get("conditions"):
            return
        if self._pulls[uid] == 1:
            self.kube.put({**job, "status": {"active": 1}})
            self._tell(job, {"waiting": {"reason": "ContainerCreating"}}, "Pending")
        elif self.how is REFUSES:
            waiting = {"reason": "ErrImagePull", "message": "r.example/engine:2: not found"}
            if self._pulls[uid] == 2:
                self._tell(job, {"waiting": waiting}, "Pending")
        elif self.how is MISSES:
            self.kube.said[f"pod-of-{uid}"] = {"type": "Warning", "note": MISSED}
        elif self.how is MOUNTS_NOTHING:
            self._tell(job, {"terminated": {"exitCode": 2, "message": LAST_WORDS}}, "Failed")
            self._end(name, "Failed")
        elif self._pulls[uid] > PULL_SECONDS:
            self._tell(job, {"terminated": {"exitCode": 0}}, "Succeeded")
            self._end(name, "Complete")

    def _end(self, name: str, how: str) -> None:
        job = copy.deepcopy(self.kube.store["Job", "preheat-demo", name])
        told = {"type": how, "status": "True", "lastTransitionTime": now().isoformat()}
        self.kube.put({**job, "status": {"conditions": [told]}})

    def _tell(self, job: dict[str, Any], state: dict[str, Any], phase: str) -> None:
        template, name = job["spec"]["template"], f"{job['metadata']['name']}-abcde"
        there = self.kube.store.get(("Pod", "preheat-demo", name))
        owner = {"controller": True, "kind": "Job", **{key: job["metadata"][key] for key in ("name", "uid")}}
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now().isoformat()}
        told = (there["status"]["conditions"] if there else None) or [scheduled]
        metadata = {
            **template["metadata"], "name": name, "namespace": "preheat-demo",
            "uid": f"pod-of-{job['metadata']['uid']}", "ownerReferences": [owner],
        }  # fmt: skip
        status = {
            "phase": phase,
            "conditions": told,
            "containerStatuses": [{"name": "puller", "state": state}],
        }
        spec = {**template["spec"], "nodeName": "n1"}
        self.kube.put(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
        )


def _is_puller(body: dict[str, Any]) -> bool:
    return (body["metadata"].get("labels") or {}).get("preheat.dev/component") == "puller"


@asynccontextmanager
async def a_cluster(gpus: int, how: str = PULLS, **spec: Any) -> AsyncIterator[Pulling]:
    """A node with so many GPUs, and kubelets that pull like this."""
    kube = FakeKube()
    node = copy.deepcopy(NODE)
    node["status"]["allocatable"] = {"nvidia.com/gpu": str(gpus)}
    kube.put(node)
    kube.put(example(**{"replicas": 2, **spec}))
    kubelets = Pulling(kube, how)
    task = asyncio.get_running_loop().create_task(kubelets.run())
    try:
        yield kubelets
    finally:
        task.cancel()


def new_image(kube: FakeKube) -> None:
    change(kube, runtime={**kube.store[SERVICE]["spec"]["runtime"], "image": "r.example/engine:2"})


def condition(kube: FakeKube, kind: str) -> tuple[str, str] | None:
    told = (kube.store[SERVICE].get("status") or {}).get("conditions", ())
    return next(((c["status"], c["reason"]) for c in told if c["type"] == kind), None)


async def is_at_rest(kube: FakeKube) -> None:
    await asyncio.sleep(700)  # it has soaked, and that is remembered
    done = len(kube.writes)
    await asyncio.sleep(1000)
    assert len(kube.writes) == done, f"at rest nothing is written: {kube.writes[done:]}"


@pytest.mark.parametrize("gpus", [2, 3])
async def test_nothing_moves_before_the_image_is_there(gpus: int) -> None:
    async with a_cluster(gpus) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        assert kubelets.pullers() == []
        kubelets.watch = True
        async with operator(kube):
            new_image(kube)
            await asyncio.sleep(PULL_SECONDS - 5)
            assert (kubelets.serving(), kubelets.new_pods(before)) == (2, 0)
            assert kube.store[SERVICE]["status"]["rollout"]["step"] == "WaitingForImage"
            assert condition(kube, "ImageReady") == ("False", "ImagePulling")
            assert kubelets.least == 2
            await until_ready(kube, before)
            assert condition(kube, "ImageReady") == ("True", "ImagePulled")
            assert kubelets.least == gpus - 1
            await is_at_rest(kube)
            assert len(kubelets.pullers()) == 1


async def verdict_without_a_move(kubelets: Pulling, before: str, reason: str) -> None:
    """Expect that what is told now becomes a verdict, without a pod of the new revision and with both old ones throughout."""
    kube = kubelets.kube
    assert condition(kube, "Ready") == ("False", reason)
    for _ in range(1500):
        await asyncio.sleep(1)
        assert kubelets.new_pods(before) == 0
        if condition(kube, "RolledBack"):
            break
    assert condition(kube, "RolledBack") == ("True", reason)
    await asyncio.sleep(10)
    assert kubelets.least == 2
    assert kubelets.pullers() == []
    await is_at_rest(kube)


async def test_an_image_that_is_not_to_be_had_is_a_verdict_and_no_replica_was_started() -> None:
    async with a_cluster(3, REFUSES) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        kubelets.watch = True
        async with operator(kube):
            new_image(kube)
            await asyncio.sleep(10)
            await verdict_without_a_move(kubelets, before, "ImageUnavailable")


KEY = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}
NAMES_A_SECRET = {"spec": {"containers": [{"name": "engine", "env": [KEY]}]}}


async def test_a_secret_that_is_missing_is_a_verdict_and_no_replica_was_started() -> None:
    async with a_cluster(2, MISSES) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        kubelets.watch = True
        async with operator(kube):
            change(kube, template=NAMES_A_SECRET)
            await asyncio.sleep(10)
            assert condition(kube, "ImageReady") == ("False", "ReferenceMissing")
            await verdict_without_a_move(kubelets, before, "ReferenceMissing")


async def test_a_secret_that_comes_late_needs_nobody() -> None:
    async with a_cluster(2, MISSES) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        async with operator(kube):
            change(kube, template=NAMES_A_SECRET)
            await asyncio.sleep(60)
            assert condition(kube, "Ready") == ("False", "ReferenceMissing")
            kubelets.how = PULLS
            await until_ready(kube, before)
            assert condition(kube, "RolledBack") is None


async def test_where_no_verdict_is_passed_no_time_that_goes_by_lets_a_replica_go() -> None:
    async with a_cluster(2, REFUSES) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        kubelets.watch = True
        async with operator(kube):
            new_image(kube)
            change(kube, rollout={"autoRollback": False})
            await asyncio.sleep(1800)
            assert condition(kube, "Ready") == ("False", "RolloutFailed")
            assert (kubelets.least, kubelets.new_pods(before)) == (2, 0)
            await is_at_rest(kube)


async def test_an_image_that_comes_late_needs_nobody() -> None:
    async with a_cluster(2, REFUSES) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        async with operator(kube):
            new_image(kube)
            await asyncio.sleep(20)
            assert condition(kube, "Ready") == ("False", "ImageUnavailable")
            kubelets.how = PULLS
            await until_ready(kube, before)


async def test_without_image_volumes_a_rollout_goes_as_without_pullers() -> None:
    async with a_cluster(2, MOUNTS_NOTHING) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        async with operator(kube):
            new_image(kube)
            await asyncio.sleep(5)
            assert condition(kube, "ImageReady") == ("Unknown", "ImageNotPulled")
            await until_ready(kube, before, seconds=60)
            assert [event["reason"] for event in kube.events].count("ImageNotPulled") == 1
            await is_at_rest(kube)


async def test_where_pullers_are_refused_it_is_told_once_and_holds_nothing_up() -> None:
    async with a_cluster(2) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        kube.refuses["create Job"] = InvalidSpec("admission webhook denied the request: no image volumes")
        async with operator(kube):
            new_image(kube)
            await asyncio.sleep(3)
            assert condition(kube, "ImageReady") == ("Unknown", "ImageNotPulled")
            assert condition(kube, "Ready") == ("False", "RollingOut")
            await until_ready(kube, before, seconds=60)
            change(kube, replicas=0)
            await asyncio.sleep(10)
            assert condition(kube, "Ready") == ("True", "ScaledToZero")
            assert condition(kube, "ImageReady") == ("Unknown", "ImageNotPulled")
            assert "ChildRefused" not in [event["reason"] for event in kube.events]
            await is_at_rest(kube)


async def test_where_the_api_server_never_answers_for_jobs_a_rollout_goes_on_after_a_minute() -> None:
    async with a_cluster(2) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        kube.refuses["create Job"] = Unavailable("403 Forbidden: jobs.batch is forbidden")
        async with operator(kube):
            new_image(kube)
            await asyncio.sleep(30)
            assert condition(kube, "Ready") == ("False", "ChildRefused")
            assert (kubelets.serving(), kubelets.new_pods(before)) == (2, 0)
            await until_ready(kube, before)
            await is_at_rest(kube)


async def test_other_weights_with_the_same_image_need_no_puller() -> None:
    async with a_cluster(3) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        async with operator(kube):
            change(kube, **OTHER)
            await until_ready(kube, before)
            assert kubelets.pullers() == []


async def test_at_zero_the_image_waits_with_the_weights() -> None:
    async with a_cluster(2) as kubelets:
        kube = kubelets.kube
        await serve(kubelets)
        async with operator(kube):
            change(kube, replicas=0)
            await asyncio.sleep(PULL_SECONDS + 20)
            assert condition(kube, "ImageReady") == ("True", "ImagePulled")
            await is_at_rest(kube)
            change(kube, replicas=2)
            await until_ready(kube)
            await is_at_rest(kube)
            assert len(kubelets.pullers()) == 1


async def test_a_puller_that_a_namesake_left_goes_and_is_made_anew() -> None:
    async with a_cluster(2) as kubelets:
        kube = kubelets.kube
        await serve(kubelets)
        async with operator(kube):
            change(kube, replicas=0)
            await asyncio.sleep(10)
            (puller,) = kubelets.pullers()
            puller["metadata"] |= {"ownerReferences": [], "managedFields": [{"manager": "preheat"}]}
            kube.put(puller)
            await asyncio.sleep(10)
            (again,) = kubelets.pullers()
            assert again["metadata"]["ownerReferences"][0]["kind"] == "LLMDeployment"
            assert again["metadata"]["uid"] != puller["metadata"]["uid"]


WRITES = 20
"""A rollout to a new image makes at least so many."""


@pytest.mark.parametrize("write", range(1, WRITES + 1))
async def test_killed_after_any_write_it_ends_with_nothing_moved_too_early(write: int) -> None:
    async with a_cluster(2 + write % 2) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        new_image(kube)
        kubelets.watch = True
        await crash_after(kube, write)
        async with operator(kube):
            if not any((job.get("status") or {}).get("conditions") for job in kubelets.pullers()):
                assert kubelets.new_pods(before) == 0
            await until_ready(kube, before)
            assert kubelets.least >= 1 + write % 2


WRITES_BACK = 12
"""Until an image that is not to be had is gone back from, at least so many."""


@pytest.mark.parametrize("write", range(1, WRITES_BACK + 1))
async def test_killed_after_any_write_a_missing_image_is_gone_back_from_and_costs_no_replica(
    write: int,
) -> None:
    async with a_cluster(2, REFUSES) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        new_image(kube)
        kubelets.watch = True
        await crash_after(kube, write, 1500)
        async with operator(kube):
            for _ in range(1500):
                await asyncio.sleep(1)
                assert kubelets.new_pods(before) == 0
                if condition(kube, "RolledBack"):
                    break
            await asyncio.sleep(10)
            assert condition(kube, "RolledBack") == ("True", "ImageUnavailable")
            assert kubelets.least == 2
            assert kubelets.pullers() == []
