"""What is decided in one situation, and in which words: tables keyed by a sentence."""

from dataclasses import replace

import pytest
from preheat.api.llmdeployment import RolloutStrategy
from preheat.decide.rollout import Child, Goal, Limits, Method, Observed, Pause, Phase, Room, Step, next_step

L4, T4 = "nvidia-l4", "nvidia-t4"
NO_ROOM, PLAIN = Room(), Limits()
ONE_WOULD_GO = Room(victims={"old": 1}, serving_victims=1)


def old(
    ready: int, *, asked: int | None = None, revision: str = "old", gpu_type: str = L4, **more: int
) -> Child:
    count = ready if asked is None else asked
    return Child(revision, gpu_type, count, **{"live": count, "scheduled": count, "ready": ready, **more})  # type: ignore[arg-type]


def new(
    asked: int, scheduled: int = 0, ready: int = 0, *, ages: tuple[float, ...] = (), gpu_type: str = L4
) -> Child:
    return Child(
        "new", gpu_type, asked, asked, scheduled, ready, blocked=asked - scheduled, ready_seconds=ages
    )


def step(
    *children: Child, wanted: int = 2, room: Room = NO_ROOM, limits: Limits = PLAIN, warm: int = 2,
    back: bool = False, gpus: int = 1,
) -> Step:  # fmt: skip
    goal = Goal("new", {L4: wanted}, gpus=gpus, going_back=back)
    found = next_step(Observed(children, warm), goal, {L4: room}, limits)
    assert found is not None
    return found


def counts(found: Step) -> tuple[int, int]:
    """How many old and new replicas there should be."""
    both = [sum(n for (r, _), n in found.replicas.items() if (r == "new") is mine) for mine in (False, True)]
    return both[0], both[1]


def test_without_another_revision_nothing_is_under_way() -> None:
    goal = Goal("new", {L4: 2})
    assert next_step(Observed((new(2, 2, 1),), 2), goal, {}, Limits()) is None
    assert next_step(Observed((new(2, 2, 1), old(0)), 2), goal, {}, Limits()) is None


AUTO = {
    "a free GPU: the new one comes beside the old": (
        (old(2),), Room(fits=1), (2, 2), Method.SURGE, Phase.LOADING),
    "no free GPU and two that serve: first the scheduler has to say so": (
        (old(2),), ONE_WOULD_GO, (2, 1), Method.ONE_BY_ONE, Phase.LOADING),
    "it says so: one makes room": (
        (old(2), new(1)), ONE_WOULD_GO, (1, 1), Method.ONE_BY_ONE, Phase.MAKING_ROOM),
    "it says so, but a GPU is free: it will be taken": (
        (old(2), new(1)), replace(ONE_WOULD_GO, fits=1), (2, 2), Method.SURGE, Phase.WAITING_FOR_GPU),
    "it has said so for a while: a stranger holds that GPU": (
        (old(2), new(1)), replace(ONE_WOULD_GO, fits=1, doubted=True), (1, 1), Method.ONE_BY_ONE, Phase.MAKING_ROOM),
    "weights are on their way to a node with a free GPU": (
        (old(2), new(1)), replace(ONE_WOULD_GO, cold=1), (2, 2), Method.SURGE, Phase.WAITING_FOR_GPU),
    "the freed GPU is being taken": (
        (old(1), new(1)), replace(ONE_WOULD_GO, fits=1), (1, 2), Method.SURGE, Phase.WAITING_FOR_GPU),
    "a new one loads: nobody else goes": (
        (old(1), new(2, 1)), ONE_WOULD_GO, (1, 2), Method.ONE_BY_ONE, Phase.LOADING),
    "it answers: the next one makes room": (
        (old(1), new(2, 1, 1)), ONE_WOULD_GO, (0, 2), Method.ONE_BY_ONE, Phase.MAKING_ROOM),
    "an old one is leaving: nobody else goes": (
        (old(1, leaving=1), new(1)), ONE_WOULD_GO, (1, 1), Method.ONE_BY_ONE, Phase.HANDING_OVER),
    "the Deployment is not yet as it was asked to be": (
        (old(1, live=2, scheduled=2), new(1)), ONE_WOULD_GO, (1, 1), Method.ONE_BY_ONE, Phase.HANDING_OVER),
    "no old one is where it helps": (
        (old(2), new(1)), Room(), (2, 1), Method.SURGE, Phase.WAITING_FOR_GPU),
}  # fmt: skip


@pytest.mark.parametrize("case", AUTO)
def test_auto(case: str) -> None:
    children, room, want, method, phase = AUTO[case]
    chosen = (
        Method.ONE_BY_ONE
        if len(children) > 1 and case.startswith(("a new", "an old", "the Deployment"))
        else None
    )
    found = step(*children, room=room, limits=Limits(chosen=chosen))
    assert (counts(found), found.chosen, found.phase) == (want, method, phase)


def test_the_only_one_that_serves_goes_first_and_that_is_said() -> None:
    found = step(old(1), new(1), wanted=1, room=ONE_WOULD_GO)
    assert (counts(found), found.chosen) == ((0, 1), Method.DRAIN_FIRST)
    assert "nothing answers until" in found.why


def test_a_larger_replica_takes_the_place_of_several() -> None:
    room = Room(victims={"old": 2}, serving_victims=2)
    found = step(old(4), new(1), room=room, gpus=2)
    assert (counts(found)[0], found.chosen) == (2, Method.DRAIN_FIRST)
    assert "needs 2 GPUs on one node and an old one gives back 1" in found.why


def test_what_was_told_stays_until_somebody_that_serves_has_to_go() -> None:
    surge = Limits(chosen=Method.SURGE)
    assert step(old(2), new(2, 1), limits=surge).chosen is Method.SURGE
    assert step(old(2), new(1), room=ONE_WOULD_GO, limits=surge).chosen is Method.ONE_BY_ONE


def test_which_way_is_open_while_no_node_has_the_weights() -> None:
    found = step(old(2), new(1), warm=0)
    assert (found.chosen, found.phase, counts(found)) == (None, Phase.WAITING_FOR_WEIGHTS, (2, 1))


def test_an_old_one_that_serves_nobody_makes_room_also_for_surge() -> None:
    limits = Limits(RolloutStrategy.SURGE)
    idle = Room(victims={"old": 1})
    assert counts(step(old(1, asked=2), new(2), room=idle, limits=limits))[0] == 1
    assert counts(step(old(2), new(2), room=ONE_WOULD_GO, limits=limits))[0] == 2


def test_one_that_serves_nobody_does_not_wait_until_a_new_one_answers() -> None:
    assert counts(step(old(1, asked=2), new(2, 1), room=Room(victims={"old": 1})))[0] == 1
    assert counts(step(old(2), new(2, 1), room=ONE_WOULD_GO))[0] == 2


def test_old_ones_without_a_gpu_do_not_compete_for_the_freed_one() -> None:
    waiting = Child("second", L4, 1, live=1, blocked=1)
    assert step(old(1), waiting, new(1), room=ONE_WOULD_GO).replicas["second", L4] == 0


def test_those_that_serve_stay_longest() -> None:
    found = step(old(0, asked=2, revision="second"), old(2), new(2))
    assert (found.replicas["second", L4], found.replicas["old", L4]) == (0, 2)


def test_going_back_what_failed_goes_at_once_and_what_serves_does_not() -> None:
    failed = old(1, asked=3, revision="failed")
    found = step(failed, new(1, 1, 1), wanted=3, back=True)
    assert found.replicas["failed", L4] == 1
    assert step(failed, new(1, 1, 1), wanted=3).replicas["failed", L4] == 2


def test_neither_a_pause_nor_a_canary_holds_going_back_up() -> None:
    limits = Limits(RolloutStrategy.CANARY, (Pause(10, 600), Pause(100, 0)), paused=True)
    assert counts(step(old(0, asked=2), new(0), room=Room(fits=2), limits=limits, back=True)) == (0, 2)


IN_PLACE = {
    "the first goes, though GPUs are free": ((old(3),), (2, 1)),
    "the new one is on its way": ((old(2), new(1, 1)), (2, 1)),
    "it answers, and the next goes": ((old(2), new(1, 1, 1)), (1, 2)),
    "the planner was killed between two writes": ((old(2),), (2, 1)),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_in_place(case: str) -> None:
    children, want = IN_PLACE[case]
    room = replace(ONE_WOULD_GO, fits=2)
    assert counts(step(*children, wanted=3, room=room, limits=Limits(RolloutStrategy.IN_PLACE))) == want


CANARY = {
    "nothing is there yet": ((old(10),), (10, 1), 1, None),
    "its pause has not begun": ((old(10), new(1, 1)), (10, 1), 1, None),
    "it answers, and an old one may go": ((old(10), new(1, 1, 1, ages=(200,))), (9, 1), 1, 400.0),
    "its pause is over": ((old(9), new(1, 1, 1, ages=(700,))), (9, 3), 2, None),
    "not all of the second step answer": ((old(9), new(3, 3, 2, ages=(700, 50))), (8, 3), 2, None),
    "they have for as long as it asks": ((old(7), new(3, 3, 3, ages=(1300, 700, 600))), (7, 10), 3, None),
    "the last of them came later": ((old(7), new(3, 3, 3, ages=(1300, 700, 599))), (7, 3), 2, 1.0),
    "all answer": ((old(7), new(10, 10, 10, ages=(9,) * 10)), (0, 10), 3, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CANARY)
def test_canary(case: str) -> None:
    children, want, number, left = CANARY[case]
    limits = Limits(RolloutStrategy.CANARY, (Pause(10, 600), Pause(30, 600), Pause(100, 0)))
    found = step(*children, wanted=10, limits=limits, room=Room(fits=10))
    assert (counts(found), found.number, found.of, found.look_again_seconds) == (want, number, 3, left)


def test_steps_that_ask_for_as_many_take_their_pauses_one_after_another() -> None:
    limits = Limits(RolloutStrategy.CANARY, (Pause(10, 60), Pause(40, 60), Pause(100, 0)))
    for age, number, want in ((30.0, 1, (2, 1)), (90.0, 2, (2, 1)), (120.0, 3, (1, 2))):
        found = step(old(2), new(1, 1, 1, ages=(age,)), limits=limits, room=Room(fits=2))
        assert found.number == number
        assert counts(found)[1] == want[1]


def test_a_canary_of_one_replica_stands_beside_the_old_one() -> None:
    limits = Limits(RolloutStrategy.CANARY, (Pause(10, 600), Pause(100, 0)))
    found = step(old(1), new(1, 1, 1, ages=(30,)), wanted=1, limits=limits)
    assert counts(found) == (1, 1)
    assert found.phase is Phase.WATCHING


PAUSED = {
    "nothing moves": ((old(1), new(1, 1)), 2, (1, 1)),
    "a new revision does not begin": ((old(2),), 2, (2, 0)),
    "what serves grows": ((old(2), new(1, 1)), 5, (4, 1)),
    "more than is wanted stays": ((old(2), new(2, 2, 2)), 2, (2, 2)),
    "nothing is wanted: all go": ((old(2), new(2, 2, 2)), 0, (0, 0)),
}


@pytest.mark.parametrize("case", PAUSED)
def test_paused(case: str) -> None:
    children, wanted, want = PAUSED[case]
    assert counts(step(*children, wanted=wanted, limits=Limits(paused=True), room=Room(fits=5))) == want


def test_where_the_new_revision_waits_the_old_one_gives_its_gpu_back_first() -> None:
    goal = Goal("new", {L4: 1, T4: 1})
    seen = Observed((old(1), old(1, gpu_type=T4), new(1, 1, 1), new(1, gpu_type=T4)), 2)
    found = next_step(seen, goal, {}, Limits())
    assert found is not None
    assert (found.replicas["old", L4], found.replicas["old", T4]) == (1, 0)
