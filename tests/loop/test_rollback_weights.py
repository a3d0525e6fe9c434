"""A revision whose weights are not to be had is gone back from: the whole controller, with warmers that give up."""

import asyncio
import copy
import json
from typing import Any

import pytest
from preheat.decide.caching import RETRY_SECONDS
from preheat.resources.serving import revision_id
from typing_extensions import override

from tests.builders import parse_service
from tests.loop.test_controller import NODE
from tests.loop.test_rollback import (
    SERVICE,
    Cluster,
    _quality,
    annotate,
    clock,
    condition,
    quality,
    running,
    verdicts,
    with_a_good_one,
)

pytestmark = pytest.mark.looptime
LOST = "lost"
AGAIN_SECONDS = RETRY_SECONDS * 1.2 + 15
"""A Job that failed is looked at once a minute, and the next one fails at once."""


def lost(**spec: Any) -> dict[str, Any]:
    """The example with weights that are elsewhere."""
    model = {"uri": f"http://store/{LOST}/", "format": "GGUF"}
    return quality(LOST, model=model, **spec)


class Source(Cluster):
    """With warmers that say how they ended, and the garbage collector. ``word``: theirs, of the weights that are lost."""

    def __init__(self, gpus: int, nodes: int = 1, word: str = "NotFound") -> None:
        super().__init__(gpus)
        self.word: str | None = word
        self.passing: dict[str, str] = {}
        """By node: another word."""
        self.silent: set[str] = set()
        """Nodes whose warmers never end."""
        self.tries: list[str] = []
        """The nodes of the Jobs that gave up."""
        for number in range(2, nodes + 1):
            body = copy.deepcopy(self.store["Node", "", "n1"])
            body["metadata"] = {**copy.deepcopy(NODE["metadata"]), "name": f"n{number}"}
            self.put(body)

    @override
    def work(self) -> None:
        uids = {body["metadata"]["uid"] for body in self.store.values()}
        for kind in ("Job", "Pod"):
            for body in self.all(kind):
                owner = body["metadata"]["ownerReferences"][0]
                if owner["kind"] in {"ModelCache", "Job"} and owner["uid"] not in uids:
                    self.remove(kind, "preheat-demo", body["metadata"]["name"])
        for job in self.all("Job"):
            if self._is_lost(job) and not (job.get("status") or {}).get("conditions"):
                self._end(job)
        kept = {k: b for k, b in self.store.items() if k[0] == "Job" and self._is_lost(b) and self._waits(b)}
        warmers = {k: b for k, b in self.store.items() if k[0] == "Pod" and _is_warmer(b)}
        for key in (*kept, *warmers):
            del self.store[key]
        super().work()
        self.store |= {**kept, **warmers}

    def _is_lost(self, job: dict[str, Any]) -> bool:
        owner = job["metadata"]["ownerReferences"][0]
        cache = self.store.get(("ModelCache", "preheat-demo", owner["name"]))
        return cache is not None and LOST in cache["spec"]["source"]["uri"] and self.word is not None

    def _waits(self, job: dict[str, Any]) -> bool:
        return not (job.get("status") or {}).get("conditions")

    def _end(self, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        node = metadata["annotations"]["preheat.dev/node"]
        if node in self.silent:
            return
        self.tries.append(node)
        words = {"state": "Failed", "reason": self.passing.get(node, self.word), "message": "GET m.gguf: 404"}
        ended = {"terminated": {"exitCode": 2, "message": json.dumps(words)}}
        owner = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        self.put({
            "kind": "Pod", "apiVersion": "v1", "spec": {"nodeName": node},
            "metadata": {"name": f"{metadata['name']}-x", "namespace": "preheat-demo", "labels": metadata["labels"],
                         "annotations": {"preheat.dev/node": node}, "ownerReferences": [owner]},
            "status": {"phase": "Failed", "containerStatuses": [{"name": "warmer", "state": ended}]},
        })  # fmt: skip
        failed = {"type": "Failed", "status": "True", "lastTransitionTime": clock().isoformat()}
        self.put({**copy.deepcopy(job), "status": {"conditions": [failed]}})

    @override
    def _schedule(self, pod: dict[str, Any]) -> None:
        if _quality(pod) != LOST or self.word is None:
            super()._schedule(pod)


def _is_warmer(pod: dict[str, Any]) -> bool:
    return bool(pod["metadata"]["ownerReferences"][0]["kind"] == "Job")


def caches(cluster: Cluster) -> list[str]:
    return sorted(body["spec"]["source"]["uri"] for body in cluster.all("ModelCache"))


@pytest.mark.parametrize("word", ["NotFound", "DigestMismatch", "PickleRefused"])
@pytest.mark.parametrize("gpus", [1, 2])
async def test_one_node_that_gave_up_twice_is_gone_back_from(gpus: int, word: str) -> None:
    cluster = Source(gpus, word=word)
    async with running(cluster):
        await with_a_good_one(cluster)
        before = caches(cluster)
        cluster.put(lost())
        cluster.least_ready = 1
        await asyncio.sleep(RETRY_SECONDS / 2)
        assert cluster.tries == ["n1"]
        assert verdicts(cluster) == [], "once is not for good"
        ready = condition(cluster, "Ready")
        assert ready is not None
        assert ready["reason"] == "WeightsFailed"
        await asyncio.sleep(AGAIN_SECONDS)
        assert cluster.tries == ["n1", "n1"]
        (verdict,) = verdicts(cluster)
        assert verdict["reason"] == "WeightsFailed"
        assert verdict["backTo"] == revision_id(parse_service(quality("good")))
        assert (verdict["evidence"]["node"], verdict["evidence"]["told"]) == ("n1", word)
        back, ready = condition(cluster, "RolledBack"), condition(cluster, "Ready")
        assert back is not None
        assert ready is not None
        assert (back["status"], back["reason"]) == ("True", "WeightsFailed")
        assert f"n1: {word}: GET m.gguf: 404." in back["message"]
        assert (ready["status"], ready["reason"]) == ("False", "RolledBack")
        assert cluster.least_ready == 1, "the old one served all the time"
        assert cluster.wanted() == {"good": 1, LOST: 0}
        assert LOST in cluster.store[SERVICE]["spec"]["model"]["uri"], "the spec is a person's"
        assert caches(cluster) == before, (
            "the weights of the old one stay, nobody fetches the others any more"
        )
        assert [e["reason"] for e in cluster.events].count("RolledBack") == 1
        done = len(cluster.writes)
        await asyncio.sleep(3 * RETRY_SECONDS)
        assert set(cluster.writes[done:]) <= {"apply ControllerRevision"}, "but that the good one has soaked"
        assert cluster.tries == ["n1", "n1"]


async def test_two_nodes_that_gave_up_are_enough() -> None:
    cluster = Source(2, nodes=3)
    cache = {"warmNodes": 1}
    async with running(cluster):
        await with_a_good_one(cluster, cache=cache)
        cluster.put(lost(cache=cache))
        await asyncio.sleep(60)
        assert len(set(cluster.tries)) == 2
        assert [v["reason"] for v in verdicts(cluster)] == ["WeightsFailed"]
        assert cluster.wanted() == {"good": 1, LOST: 0}


@pytest.mark.parametrize("word", ["SourceUnavailable", "Unauthorized", "DiskFull"])
async def test_what_is_not_the_revisions_fault_is_waited_for(word: str) -> None:
    cluster = Source(2, word=word)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(lost())
        await asyncio.sleep(4 * AGAIN_SECONDS)
        assert len(cluster.tries) >= 3
        assert verdicts(cluster) == []
        assert condition(cluster, "RolledBack") is None
        cluster.word = None
        await asyncio.sleep(AGAIN_SECONDS + 60)
        assert cluster.wanted() == {"good": 0, LOST: 1}
        assert cluster.ready(LOST) == 1


@pytest.mark.parametrize("other", ["silent", "network"])
async def test_one_node_alone_is_nothing(other: str) -> None:
    cluster = Source(2, nodes=2)
    cache = {"warmNodes": 1}
    if other == "silent":
        cluster.silent.add("n2")
    else:
        cluster.passing["n2"] = "SourceUnavailable"
    async with running(cluster):
        await with_a_good_one(cluster, cache=cache)
        cluster.put(lost(cache=cache))
        await asyncio.sleep(4 * AGAIN_SECONDS)
        assert cluster.tries.count("n1") >= 3
        assert verdicts(cluster) == []


async def test_another_revision_of_the_same_weights_is_not_judged_by_them() -> None:
    """The old one needs them as well: that they are not to be had any more is no reason to go back to it."""
    cluster = Source(2)
    cluster.word = None
    async with running(cluster):
        cluster.put(lost())
        await asyncio.sleep(30)
        assert cluster.ready(LOST) == 1
        cluster.word = "NotFound"
        for job in cluster.all("Job"):
            cluster.remove("Job", "preheat-demo", job["metadata"]["name"])
        node = copy.deepcopy(cluster.store["Node", "", "n1"])
        node["metadata"]["labels"] = NODE["metadata"]["labels"]
        cluster.put(node)
        cluster.put({**lost(), "spec": {**lost()["spec"], "health": {"stallSeconds": 77}}})
        await asyncio.sleep(4 * AGAIN_SECONDS)
        assert cluster.tries.count("n1") >= 3
        assert verdicts(cluster) == []


async def test_with_no_replica_wanted_nobody_misses_the_weights() -> None:
    cluster = Source(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(lost(replicas=0, scaling={"minReplicas": 0}))
        await asyncio.sleep(3 * AGAIN_SECONDS)
        assert len(cluster.tries) >= 3
        assert verdicts(cluster) == []
        cluster.put(lost(replicas=1))
        await asyncio.sleep(AGAIN_SECONDS)
        assert [v["reason"] for v in verdicts(cluster)] == ["WeightsFailed"]
        assert cluster.ready("good") == 1


async def test_a_cache_that_a_person_made_is_judged_once_and_stays() -> None:
    cluster = Source(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put({
            "apiVersion": "preheat.dev/v1alpha1", "kind": "ModelCache",
            "metadata": {"name": "ahead", "namespace": "preheat-demo"},
            "spec": {"source": {"uri": f"http://store/{LOST}/", "format": "GGUF"}, "placement": {"gpuTypes": ["nvidia-l4"]}},
        })  # fmt: skip
        cluster.put(lost())
        await asyncio.sleep(AGAIN_SECONDS + 30)
        (verdict,) = verdicts(cluster)
        assert verdict["evidence"]["cache"] == "uid-ModelCache-ahead"
        assert cluster.wanted() == {"good": 1, LOST: 0}
        assert ("ModelCache", "preheat-demo", "ahead") in cluster.store
        annotate(cluster, retry="please")
        await asyncio.sleep(2 * AGAIN_SECONDS)
        assert [v["retry"] for v in verdicts(cluster)] == [""], "what it tells is nothing new"
        cluster.word = None
        await asyncio.sleep(AGAIN_SECONDS)
        assert cluster.ready(LOST) == 1


async def test_a_person_has_it_tried_again_with_new_tries() -> None:
    cluster = Source(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(lost())
        await asyncio.sleep(AGAIN_SECONDS + 30)
        assert cluster.wanted() == {"good": 1, LOST: 0}
        annotate(cluster, retry="please")
        await asyncio.sleep(60)
        assert cluster.tries == ["n1"] * 3
        assert condition(cluster, "RolledBack") is None, "what was told before is not held against it"
        await asyncio.sleep(AGAIN_SECONDS)
        assert cluster.tries == ["n1"] * 4
        assert [v["retry"] for v in verdicts(cluster)] == ["please"]
        assert cluster.wanted() == {"good": 1, LOST: 0}
        cluster.word = None
        annotate(cluster, retry="mended")
        await asyncio.sleep(60)
        assert cluster.wanted() == {"good": 0, LOST: 1}
        assert cluster.ready(LOST) == 1
        assert condition(cluster, "RolledBack") is None


async def test_where_nobody_may_go_back_it_is_tried_on_and_a_retry_begins_anew() -> None:
    cluster = Source(2)
    rollout = {"autoRollback": False}
    async with running(cluster):
        await with_a_good_one(cluster, rollout=rollout)
        cluster.put(lost(rollout=rollout))
        await asyncio.sleep(3 * AGAIN_SECONDS)
        ready = condition(cluster, "Ready")
        assert ready is not None
        assert ready["reason"] == "RolloutFailed"
        assert cluster.wanted()["good"] == 1
        done = len(cluster.tries)
        assert done >= 3
        annotate(cluster, retry="please")
        await asyncio.sleep(60)
        assert len(cluster.tries) == done + 1
        assert [v["retry"] for v in verdicts(cluster)] == [""], "one new try is not for good"
        await asyncio.sleep(AGAIN_SECONDS)
        assert [v["retry"] for v in verdicts(cluster)] == ["please"]


async def test_weights_that_came_after_the_verdict_are_not_fetched_once_more() -> None:
    cluster = Source(2)
    rollout = {"autoRollback": False}
    async with running(cluster):
        await with_a_good_one(cluster, rollout=rollout)
        cluster.put(lost(rollout=rollout))
        await asyncio.sleep(AGAIN_SECONDS + 30)
        assert len(verdicts(cluster)) == 1
        cluster.word = None
        await asyncio.sleep(AGAIN_SECONDS + 30)
        assert cluster.wanted()["good"] == 1, "nothing moves by itself"
        uids = {body["metadata"]["uid"] for body in cluster.all("ModelCache")}
        annotate(cluster, retry="please")
        await asyncio.sleep(60)
        assert cluster.ready(LOST) == 1
        assert cluster.wanted()["good"] == 0
        assert {body["metadata"]["uid"] for body in cluster.all("ModelCache")} == uids


async def test_a_first_revision_goes_on_trying() -> None:
    cluster = Source(2)
    cluster.put(lost())
    async with running(cluster):
        await asyncio.sleep(3 * AGAIN_SECONDS)
        assert len(cluster.tries) >= 3
        assert verdicts(cluster) == []
        ready = condition(cluster, "Ready")
        assert ready is not None
        assert ready["reason"] == "WeightsFailed"
        assert "no earlier revision" in ready["message"]


async def test_the_status_is_wiped_and_the_operator_dies_after_every_write() -> None:
    for number in range(1, 60):
        cluster = Source(1)
        async with running(cluster):
            await with_a_good_one(cluster)
            cluster.put(lost())
            cluster.crash_after = len(cluster.writes) + number
            await asyncio.sleep(AGAIN_SECONDS + 30)
        crashed = len(cluster.writes) >= (cluster.crash_after or 0)
        cluster.crash_after = None
        for body in (*cluster.all("LLMDeployment"), *cluster.all("ModelCache")):
            body.pop("status", None)
        async with running(cluster):
            await asyncio.sleep(2 * AGAIN_SECONDS)
            assert cluster.wanted() == {"good": 1, LOST: 0}, f"crashed after write {number}"
            assert cluster.ready("good") == 1
            assert len(verdicts(cluster)) == 1
        if not crashed:
            return
    raise AssertionError("it never came to rest")


async def test_it_is_counted_once_and_forgotten_with_its_object() -> None:
    cluster = Source(2)
    async with running(cluster) as made:

        def shown(name: str, **labels: str) -> float | None:
            where = {"namespace": "preheat-demo", "name": "smollm2", **labels}
            return made.metrics.registry.get_sample_value(f"preheat_{name}", where)

        await with_a_good_one(cluster)
        assert (shown("rollout_in_progress"), shown("rolled_back")) == (0, 0)
        assert shown("rollouts_started_total") is None, "a first revision takes over from nobody"
        cluster.put(lost())
        await asyncio.sleep(60)
        assert shown("rollout_in_progress") == 1
        assert shown("rollbacks_total", reason="WeightsFailed") is None
        assert shown("rollouts_started_total") == 1
        await asyncio.sleep(AGAIN_SECONDS)
        assert shown("rollbacks_total", reason="WeightsFailed") == 1
        assert (shown("rollout_in_progress"), shown("rolled_back")) == (0, 1)
        assert (shown("rollouts_started_total"), shown("rollouts_completed_total")) == (2, 1)
        told = [e["note"] for e in cluster.events if e["reason"] == "RolledOut"]
        good, bad = (revision_id(parse_service(body)) for body in (quality("good"), lost()))
        assert [note.split(",")[0] for note in told] == [f"Revision {good} has taken over from {bad}"]
        await asyncio.sleep(3 * RETRY_SECONDS)
        assert shown("rollbacks_total", reason="WeightsFailed") == 1
        cluster.remove(*SERVICE)
        await asyncio.sleep(5)
        assert shown("rollbacks_total", reason="WeightsFailed") is None
        assert shown("rolled_back") is None


async def test_another_operator_counts_nothing_twice() -> None:
    cluster = Source(2)
    async with running(cluster):
        await with_a_good_one(cluster)
        cluster.put(lost())
        await asyncio.sleep(AGAIN_SECONDS + 30)
        assert len(verdicts(cluster)) == 1
    async with running(cluster) as made:
        await asyncio.sleep(2 * RETRY_SECONDS)
        where = {"namespace": "preheat-demo", "name": "smollm2"}
        value = made.metrics.registry.get_sample_value
        assert value("preheat_rolled_back", where) == 1
        assert value("preheat_rollbacks_total", {**where, "reason": "WeightsFailed"}) is None
