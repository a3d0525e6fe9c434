"""The whole controller with a route through a gateway: steps, a clean switch, hands of others, Gateway API that comes and goes."""

import asyncio
import copy
from typing import Any

import pytest
from preheat.decide.plan import RESYNC_SECONDS
from preheat.errors import InvalidSpec

from tests.fakes import FakeKube
from tests.loop.test_rollout import (
    OTHER,
    SERVICE,
    Kubelets,
    a_cluster,
    change,
    crash_after,
    operator,
    until_ready,
)

pytestmark = pytest.mark.looptime
ROUTE = ("HTTPRoute", "preheat-demo", "smollm2")
GATEWAY = {"gateway": {"parentRefs": [{"name": "public"}]}}
CANARY = {
    "strategy": "Canary",
    "steps": [{"percent": 50, "pauseSeconds": 60, "weight": 10}, {"percent": 100}],
    **GATEWAY,
}


def weights(kube: FakeKube) -> dict[str, int]:
    backends = kube.store[ROUTE]["spec"]["rules"][0]["backendRefs"]
    return {b["name"].removeprefix("smollm2-"): b["weight"] for b in backends}


def told(kube: FakeKube) -> dict[str, int]:
    return {t["revision"]: t["weight"] for t in kube.store[SERVICE]["status"].get("traffic", ())}


def routed(kube: FakeKube) -> str:
    found = [c for c in kube.store[SERVICE]["status"]["conditions"] if c["type"] == "Routed"]
    return str(found[0]["reason"]) if found else ""


def services(kube: FakeKube) -> list[str]:
    return sorted(name for kind, _, name in kube.store if kind == "Service" and name != "smollm2")


class Watch:
    """What a gateway would have done at each change: who got how much, and who of those could answer."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.seen: list[dict[str, int]] = []
        self.nobody: list[dict[str, int]] = []
        self._tell = kube._tell
        kube._tell = self._look  # type: ignore[method-assign]

    def _look(self, event: str, body: dict[str, Any]) -> None:
        self._tell(event, body)
        if ROUTE in self.kube.store and body["kind"] in {"HTTPRoute", "Pod", "Deployment"}:
            found = weights(self.kube)
            if not self.seen or self.seen[-1] != found:
                self.seen.append(found)
            if any(weight and not self._answers(revision) for revision, weight in found.items()):
                self.nobody.append(found)

    def _answers(self, revision: str) -> bool:
        return any(
            key[0] == "Pod"
            and revision in {pod["metadata"]["labels"].get("preheat.dev/revision"), "smollm2"}
            and "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" for c in (pod.get("status") or {}).get("conditions", ()))
            for key, pod in self.kube.store.items()
        )


async def serve(kubelets: Kubelets, **rollout: Any) -> str:
    change(kubelets.kube, rollout=rollout)
    async with operator(kubelets.kube):
        await until_ready(kubelets.kube)
        await asyncio.sleep(5)
    return str(kubelets.kube.store[SERVICE]["status"]["revision"])


async def test_a_canary_gets_its_weight_then_all_of_it_and_then_it_rests() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, **CANARY)
        assert weights(kube) == told(kube) == {before: 100}
        watch = Watch(kube)
        async with operator(kube):
            change(kube, **OTHER)
            await asyncio.sleep(40)
            after = kube.store[SERVICE]["status"]["revision"]
            assert weights(kube) == told(kube) == {after: 10, before: 90}
            await until_ready(kube, before)
            await asyncio.sleep(30)
            assert weights(kube) == told(kube) == {after: 100}
            assert services(kube) == [f"smollm2-{after}"]
            assert watch.nobody == [], "nothing for who cannot answer"
            await asyncio.sleep(700)
            done = len(kube.writes)
            await asyncio.sleep(3 * RESYNC_SECONDS)
            assert len(kube.writes) == done, f"at rest nothing is written: {kube.writes[done:]}"


async def test_blue_green_switches_in_one_write_and_old_replicas_go_after_it() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, strategy="BlueGreen", **GATEWAY)
        watch = Watch(kube)
        async with operator(kube):
            change(kube, **OTHER)
            await until_ready(kube, before)
            await asyncio.sleep(30)
        after = kube.store[SERVICE]["status"]["revision"]
        assert watch.seen == [
            {before: 100}, {after: 0, before: 100}, {after: 100, before: 0}, {after: 100}
        ]  # fmt: skip
        assert watch.nobody == []


async def test_in_place_an_old_replica_goes_before_a_new_one_comes_also_through_a_gateway() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, strategy="InPlace", **GATEWAY)
        watch, asked = Watch(kube), [0]
        async with operator(kube):
            change(kube, **OTHER)
            for _ in range(300):
                await asyncio.sleep(0.1)
                asked.append(
                    sum(b["spec"]["replicas"] for k, b in kube.store.items() if k[0] == "Deployment")
                )
        after = kube.store[SERVICE]["status"]["revision"]
        assert max(asked) == 2, "never more than are wanted, though GPUs are free"
        assert watch.seen == [
            {before: 100}, {after: 0, before: 100}, {after: 100, before: 0}, {after: 100}
        ]  # fmt: skip
        assert watch.nobody == []


async def test_a_pause_holds_the_weights() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, **CANARY)
        async with operator(kube):
            change(kube, **OTHER)
            await asyncio.sleep(40)
            change(kube, rollout={**CANARY, "paused": True})
            await asyncio.sleep(300)
            after = kube.store[SERVICE]["status"]["revision"]
            assert weights(kube) == {after: 10, before: 90}
            change(kube, rollout=CANARY)
            await until_ready(kube, before)
            await asyncio.sleep(30)
            assert weights(kube) == {after: 100}


async def test_back_by_hand_the_one_that_is_left_gets_nothing_at_once() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, **CANARY)
        async with operator(kube):
            change(kube, **OTHER)
            await asyncio.sleep(40)
            body = copy.deepcopy(kube.store[SERVICE])
            body["metadata"]["annotations"] = {"preheat.dev/rollback-to": before}
            kube.put(body)
            await asyncio.sleep(2)
            assert weights(kube)[before] == 100
            await asyncio.sleep(60)
            assert weights(kube) == {before: 100}


async def test_an_edit_by_hand_is_put_back_and_a_route_deleted_by_hand_comes_back() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, **GATEWAY)
        async with operator(kube):
            body = copy.deepcopy(kube.store[ROUTE])
            body["spec"]["rules"][0]["backendRefs"][0]["weight"] = 1
            kube.put(body)
            await asyncio.sleep(2)
            assert weights(kube) == {before: 100}
            kube.remove(*ROUTE)
            await asyncio.sleep(2)
            assert weights(kube) == {before: 100}


async def test_a_route_of_a_stranger_is_left_alone_and_replicas_move_all_the_same() -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets)
        theirs = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                  "metadata": {"name": "smollm2", "namespace": "preheat-demo"}, "spec": {"rules": []}}  # fmt: skip
        kube.put(theirs)
        async with operator(kube):
            change(kube, rollout=GATEWAY, **OTHER)
            await asyncio.sleep(60)
            assert kube.store[ROUTE]["spec"] == {"rules": []}
            status = kube.store[SERVICE]["status"]
            ready = next(c for c in status["conditions"] if c["type"] == "Ready")
            assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
            assert status["servingRevision"] != before
            assert kubelets.serving() == 2
            kube.remove(*ROUTE)
            await asyncio.sleep(RESYNC_SECONDS)
            assert weights(kube) == {status["revision"]: 100}


async def test_without_the_field_nothing_of_it_is_left() -> None:
    async with a_cluster(4) as kubelets:
        kube, _ = kubelets.kube, await serve(kubelets, **GATEWAY)
        async with operator(kube):
            change(kube, rollout={})
            await asyncio.sleep(5)
            assert ROUTE not in kube.store
            assert services(kube) == []
            assert (routed(kube), told(kube)) == ("", {})


async def test_gateway_api_comes_late_and_goes_in_the_middle() -> None:
    async with a_cluster(4) as kubelets:
        kube = kubelets.kube
        kube.absent = {"HTTPRoute"}
        before = await serve(kubelets, **CANARY)
        assert routed(kube) == "GatewayAPIMissing"
        assert services(kube) == []
        async with operator(kube) as made:
            await asyncio.sleep(10)
            done = len(kube.writes)
            await asyncio.sleep(RESYNC_SECONDS)
            assert kube.writes[done:] == [], "at rest nothing is written without it"
            kube.absent = set()
            await asyncio.sleep(RESYNC_SECONDS + 5)
            assert made.kinds_changed.is_set(), "it has to be watched"
            assert weights(kube) == {before: 100}
            change(kube, **OTHER)
            await asyncio.sleep(40)
            kube.absent = {"HTTPRoute"}
            del kube.store[ROUTE]
            made.view.remove({"kind": "HTTPRoute", "metadata": {"namespace": ROUTE[1], "name": ROUTE[2], "uid": "uid-HTTPRoute-smollm2", "resourceVersion": "999999"}})  # fmt: skip
            await asyncio.sleep(20)
            assert routed(kube) == "GatewayAPIMissing"
            assert services(kube) == []
            await until_ready(kube, before)
            assert kubelets.serving() == 2


WRITES = 23
"""So many a rollout through a gateway takes, counted."""


@pytest.mark.parametrize("write", range(1, WRITES + 1))
async def test_killed_after_any_write_nobody_who_cannot_answer_gets_anything(write: int) -> None:
    async with a_cluster(4) as kubelets:
        kube, before = kubelets.kube, await serve(kubelets, strategy="BlueGreen", **GATEWAY)
        watch = Watch(kube)
        change(kube, **OTHER)
        await crash_after(kube, write)
        async with operator(kube):
            await until_ready(kube, before)
            await asyncio.sleep(30)
        assert weights(kube) == {kube.store[SERVICE]["status"]["revision"]: 100}
        assert watch.nobody == []


async def a_canary(kubelets: Kubelets, **rollout: Any) -> tuple[str, str]:
    """Have a canary get its tenth; return its revision and that of its predecessor."""
    kube = kubelets.kube
    before = str(kube.store[SERVICE]["status"]["revision"])
    change(kube, rollout={**CANARY, **rollout}, **OTHER)
    await asyncio.sleep(40)
    after = str(kube.store[SERVICE]["status"]["revision"])
    assert weights(kube) == {after: 10, before: 90}
    return after, before


@pytest.mark.parametrize("paused", [False, True])
async def test_a_spec_that_is_put_back_takes_nothing_from_who_serves(paused: bool) -> None:
    async with a_cluster(4) as kubelets:
        kube, model = kubelets.kube, kubelets.kube.store[SERVICE]["spec"]["model"]
        await serve(kubelets, **CANARY)
        async with operator(kube):
            canary, before = await a_canary(kubelets)
            watch = Watch(kube)
            change(kube, rollout={**CANARY, "paused": paused}, model=model)
            await asyncio.sleep(120)
            assert [seen for seen in watch.seen if seen.get(canary, 0) > 10] == []
            assert weights(kube) == ({canary: 10, before: 90} if paused else {before: 100})
            change(kube, rollout=CANARY)
            await asyncio.sleep(120)
            assert [seen for seen in watch.seen if seen.get(canary, 0) > 10] == []
            assert weights(kube) == {before: 100}


@pytest.mark.parametrize("what", ["the spec", "a Deployment"])
async def test_who_is_lost_gets_nothing_whatever_is_refused_meanwhile(what: str) -> None:
    async with a_cluster(4) as kubelets:
        kube, _ = kubelets.kube, await serve(kubelets, **CANARY)
        async with operator(kube):
            canary, before = await a_canary(kubelets)
            if what == "the spec":
                change(kube, health={"canary": {"expect": "(unclosed"}})
            else:
                kube.refuses["apply Deployment"] = InvalidSpec("422 a policy says no")
                change(kube, health={"stallSeconds": 900})
            await asyncio.sleep(5)
            (pod,) = [
                key for key, body in kube.store.items()
                if key[0] == "Pod" and body["metadata"]["labels"]["preheat.dev/revision"] == canary
            ]  # fmt: skip
            kube.remove(*pod)
            await asyncio.sleep(3)
            assert weights(kube).get(canary, 0) == 0
            assert weights(kube)[before] == 100
            assert told(kube).get(before) == 100


async def test_a_route_that_cannot_be_written_keeps_nothing_from_being_remembered() -> None:
    async with a_cluster(4) as kubelets:
        kube = kubelets.kube
        scaling = {"mode": "Predictive", "minReplicas": 2, "maxReplicas": 4, "targetConcurrency": 4}
        change(kube, scaling=scaling)
        kube.refuses["apply HTTPRoute"] = InvalidSpec("422 a policy says no")
        change(kube, rollout=GATEWAY)
        async with operator(kube):
            await asyncio.sleep(3 * RESYNC_SECONDS)
        assert ("ControllerRevision", "preheat-demo", "smollm2-scaler") in kube.store
