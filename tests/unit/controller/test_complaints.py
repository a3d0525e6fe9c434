"""Events are asked for only while something does not start, less and less often, and what they say is believed
only while nothing better was said since."""

from dataclasses import replace
from typing import Any, cast

import pytest
from preheat.cluster.kube import Kube
from preheat.controller.complaints import (
    ASKS_PER_SECOND,
    AT_ONCE,
    FORGET_SECONDS,
    FRESH_SECONDS,
    GAP_SECONDS,
    JOB_SECONDS,
    LONGEST_SECONDS,
    POD_SECONDS,
    Complaints,
)
from preheat.errors import Unavailable

from tests.builders import a_pod
from tests.fakes import FakeKube

MISSING = {"type": "Warning", "reason": "FailedMount", "note": 'secret "x" not found'}


class World:
    """A clock that a test moves, and a cluster that says things."""

    def __init__(self) -> None:
        self.now = 0.0
        self.kube = FakeKube()
        self.complaints = Complaints(cast("Kube", self.kube), lambda: self.now)

    async def look(self, seconds: float = 0.0, **waiting: str) -> tuple[dict[str, str], float | None]:
        self.now += seconds
        return await self.complaints.about("default", waiting)


@pytest.fixture
def world() -> World:
    made = World()
    made.kube.said["pod"] = MISSING
    return made


async def test_at_rest_nobody_asks(world: World) -> None:
    assert await world.look() == ({}, None)
    assert world.kube.asked == []


async def test_a_start_is_given_a_moment_before_anybody_asks(world: World) -> None:
    assert await world.look(pod="default") == ({}, POD_SECONDS)
    assert world.kube.asked == []
    told, again = await world.look(POD_SECONDS, pod="default")
    assert told == {"pod": 'secret "x" not found'}
    assert again == 2 * POD_SECONDS


async def test_a_job_is_given_longer_than_a_pod(world: World) -> None:
    assert await world.complaints.about("default", ["a"], ["b"]) == ({}, POD_SECONDS)
    assert await world.complaints.about("default", [], ["b"]) == ({}, JOB_SECONDS)


async def test_it_is_remembered_between_and_asked_less_and_less(world: World) -> None:
    for _ in range(600):
        told, again = await world.look(1.0, pod="default")
        assert again is not None
        assert again <= LONGEST_SECONDS
    assert told
    assert len(world.kube.asked) <= 5 + 600 / LONGEST_SECONDS


async def test_after_a_good_event_the_trouble_is_over(world: World) -> None:
    await world.look(pod="default")
    assert (await world.look(POD_SECONDS, pod="default"))[0]
    world.kube.said["pod"] = {"type": "Normal", "reason": "Pulling", "note": "Pulling image"}
    assert (await world.look(LONGEST_SECONDS, pod="default"))[0] == {}


async def test_who_starts_is_forgotten_and_given_a_moment_again(world: World) -> None:
    await world.look(pod="default")
    await world.look(POD_SECONDS, pod="default")
    await world.look(FORGET_SECONDS + LONGEST_SECONDS, other="default")
    assert await world.look(pod="default") == ({}, POD_SECONDS)


async def test_of_many_a_few_are_asked(world: World) -> None:
    many = {f"pod-{i}": "default" for i in range(100)}
    await world.look(**many)
    await world.look(POD_SECONDS, **many)
    assert len(world.kube.asked) == AT_ONCE


async def test_the_more_start_at_once_the_longer_each_is_given(world: World) -> None:
    for number in range(99):
        await world.look(**{f"pod-{number}": "default"})
    assert await world.look(late="default") == ({}, 100 / ASKS_PER_SECOND)
    assert await world.look(FRESH_SECONDS + 1, later="default") == ({}, POD_SECONDS)


async def test_one_that_is_forgotten_while_it_is_asked_about_is_told_of_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.look(pod="default")

    async def slow(*_: Any) -> dict[str, str]:
        world.now += FORGET_SECONDS
        await world.look(FORGET_SECONDS, other="default")
        return MISSING

    world.now += FORGET_SECONDS / 2
    monkeypatch.setattr(world.kube, "newest_event", slow)
    assert (await world.look(pod="default"))[0]


async def test_an_api_server_that_refuses_is_no_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise Unavailable("403 events is forbidden")

    monkeypatch.setattr(world.kube, "newest_event", refuse)
    await world.look(pod="default")
    assert (await world.look(POD_SECONDS, pod="default"))[0] == {}


async def test_words_are_bounded_and_said_once(world: World) -> None:
    world.kube.said["pod"] = {**MISSING, "note": "(combined from similar events): " + "x" * 10_000}
    await world.look(pod="default")
    told, _ = await world.look(POD_SECONDS, pod="default")
    assert set(told["pod"]) == {"x"}
    assert len(told["pod"]) <= 400


NO_IMAGE = {"waiting_reason": "ErrImagePull", "waiting_message": "unexpected EOF"}


def lasts(world: World, seconds: float, **fields: Any) -> tuple[float | None, float]:
    """For how long a pod that has a node and does not start is in trouble, and was well before."""
    world.now += seconds
    given = {"phase": "Pending", "ready": False, "starting": True, "begun": False, **fields}
    (told,) = world.complaints.timed([replace(a_pod("p"), uid="uid-p", **given)])
    return told.troubled_seconds, told.well_seconds


def test_trouble_is_as_old_as_it_was_seen_not_as_old_as_the_pod(world: World) -> None:
    assert lasts(world, 0) == (None, 0)
    assert lasts(world, 2400, **NO_IMAGE) == (0, 2400), "an image was pulled for as long"
    assert lasts(world, 30, **NO_IMAGE) == (30, 2400)
    assert lasts(world, 900, **NO_IMAGE) == (930, 2400), "however seldom anybody looks"


def test_trouble_that_is_over_for_a_moment_is_the_same(world: World) -> None:
    lasts(world, 0, **NO_IMAGE)
    assert lasts(world, 10) == (None, 0)
    assert lasts(world, GAP_SECONDS, **NO_IMAGE) == (10 + GAP_SECONDS, 0)
    lasts(world, 10)
    assert lasts(world, GAP_SECONDS + 1, **NO_IMAGE) == (0, 81 + GAP_SECONDS)


def test_a_wait_for_a_place_is_no_time_that_went_well(world: World) -> None:
    lasts(world, 0, scheduled=False, starting=False)
    assert lasts(world, 3600, **NO_IMAGE) == (0, 0)


def test_a_wait_for_a_place_is_as_old_as_it_was_seen(world: World) -> None:
    full = {
        "scheduled": False,
        "starting": False,
        "unschedulable": "0/2 nodes: 2 Insufficient nvidia.com/gpu.",
    }
    waits = replace(a_pod("p"), uid="uid-p", **{"phase": "Pending", "ready": False, **full})
    seen = []
    for seconds in (0, 40, 40):
        world.now += seconds
        seen += [pod.placeless_seconds for pod in world.complaints.timed([waits])]
    assert seen == [0, 40, 80]
    placed = replace(waits, scheduled=True, unschedulable=None, starting=True)
    assert [pod.placeless_seconds for pod in world.complaints.timed([placed])] == [None]


def test_who_has_started_is_in_no_trouble_and_begins_anew(world: World) -> None:
    lasts(world, 0, **NO_IMAGE)
    assert lasts(world, 10, starting=False, begun=True) == (None, 0)
    assert lasts(world, 10, **NO_IMAGE) == (0, 0)
