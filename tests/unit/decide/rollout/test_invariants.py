"""What holds of every rollout, on clusters made by chance: pods wait, load, fail and leave, and the planner is killed.

Each test names the planted mistake with which it was seen to fail (README.md of the planner has the list).
"""

import random
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.api.llmdeployment import RolloutStrategy
from preheat.decide.rollout import Goal, Limits, Pause, Phase, Step

from tests.unit.decide.rollout.cluster import NEW, OLD, THIRD, Cluster, Node

L4, T4 = "nvidia-l4", "nvidia-t4"
ENOUGH = 600
"""Ticks in which every rollout of these sizes ends."""
SOME = settings(max_examples=60, deadline=None)
"""A rollout is some hundred passes: no time limit for one, and not a hundred of them."""
CANARY = (Pause(10, 4), Pause(50, 3), Pause(100, 0))


@dataclass
class Case:
    """A cluster on which the old revision serves, and what is wanted of the new one."""

    cluster: Cluster
    goal: Goal
    limits: Limits
    spare: int

    @property
    def desired(self) -> int:
        return self.goal.replicas


@st.composite
def cases(
    draw: st.DrawFn, *strategies: RolloutStrategy, least_spare: int = 0, bad: frozenset[str] = frozenset()
) -> Case:
    """One or two GPU types; each has a GPU for each of its replicas, and some that are spare."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    shares = {L4: draw(st.integers(1, 5)), T4: draw(st.sampled_from([0, 0, 1, 3]))}
    nodes: list[Node] = []
    spare = draw(st.integers(least_spare, least_spare + 3))
    for gpu_type, share in shares.items():
        left = share + (spare if gpu_type == L4 else 0)
        while left > 0:
            gpus = min(left, draw(st.integers(1, 4)))
            warm_at = draw(st.sampled_from([0, 0, 5, 12]))
            pulled_at = draw(st.sampled_from([0, 0, 0, 8, 15]))
            nodes.append(Node(f"n{len(nodes)}", gpu_type, gpus, warm_at, pulled_at))
            left -= gpus
    cluster = Cluster(nodes, chance, slowest=draw(st.integers(1, 6)), bad=bad)
    for gpu_type, share in shares.items():
        if share:
            cluster.serve(OLD, gpu_type, share)
    strategy = draw(st.sampled_from(strategies or tuple(RolloutStrategy)))
    pauses = CANARY if strategy is RolloutStrategy.CANARY else ()
    goal = Goal(NEW, {gpu_type: share for gpu_type, share in shares.items() if share})
    return Case(cluster, goal, Limits(strategy, pauses), spare)


ROLLING = (RolloutStrategy.AUTO, RolloutStrategy.IN_PLACE, RolloutStrategy.CANARY)
"""Strategies that end on a cluster without a spare GPU."""


def make_step(case: Case, goal: Goal, limits: Limits, *, crash: bool = False) -> Step | None:
    """Decide and write, perhaps only a part of it."""
    step = case.cluster.step(goal, limits)
    if step is not None:
        writes = case.cluster.chance.randint(0, len(step.replicas)) if crash else None
        case.cluster.carry_out(step, case.cluster.rooms(goal), writes=writes)
    return step


def serves_after(case: Case, step: Step) -> int:
    """How many answer once a step is carried out: a ReplicaSet ends what is not ready first."""
    return sum(
        min(
            sum(pod.ready for pod in case.cluster.pods if pod.key == key),
            step.replicas.get(key, case.cluster.asked[key]),
        )
        for key in case.cluster.asked
    )


def roll_out(case: Case, goal: Goal, limits: Limits, ticks: int = ENOUGH, *, crashes: bool = True) -> bool:
    """Let it run; tell whether it ended with all that is wanted ready."""
    for _ in range(ticks):
        step = make_step(case, goal, limits, crash=crashes and case.cluster.chance.random() < 0.2)
        if step is None:
            for gpu_type, share in goal.shares.items():
                case.cluster.asked[goal.revision, gpu_type] = share
            if case.cluster.ready(goal.revision) == goal.replicas:
                return True
        case.cluster.tick()
    return False


@SOME
@given(cases(*ROLLING))
def test_it_always_ends(case: Case) -> None:
    """Planted: a freed GPU counts as not taken for ever."""
    assert roll_out(case, case.goal, case.limits)
    assert case.cluster.ready(OLD) == 0


@SOME
@given(cases(RolloutStrategy.SURGE, least_spare=1))
def test_surge_ends_with_one_spare_gpu(case: Case) -> None:
    """Planted: `surge` that keeps one more than is wanted. The spare GPU is an L4: other types wait for one of theirs."""
    case.goal = Goal(NEW, {L4: case.goal.shares[L4]})
    for key in [key for key in case.cluster.asked if key[1] != L4]:
        case.cluster.asked[key] = 0
    assert roll_out(case, case.goal, case.limits)


@SOME
@given(cases(RolloutStrategy.SURGE, RolloutStrategy.BLUE_GREEN, RolloutStrategy.AUTO), st.integers(0, 40))
def test_no_step_takes_one_that_serves_and_is_needed_while_it_need_not(case: Case, losses: int) -> None:
    """Surge and BlueGreen never; Auto never while a GPU is free. Planted: `only_idle` left out."""
    strict = case.limits.strategy is not RolloutStrategy.AUTO
    for tick in range(80):
        step = case.cluster.step(case.goal, case.limits)
        if step is None:
            break
        free = any(room.free for room in case.cluster.rooms(case.goal).values()) and not any(
            case.cluster.rooms(case.goal)[t].free == 0 for t in case.goal.shares
        )
        if strict or free:
            assert serves_after(case, step) >= min(case.desired, case.cluster.serving())
        case.cluster.carry_out(step, case.cluster.rooms(case.goal))
        case.cluster.tick()
        if tick % 7 == 3 and losses > tick:
            case.cluster.lose()


@SOME
@given(cases(RolloutStrategy.BLUE_GREEN))
def test_blue_green_switches_once_and_at_once(case: Case) -> None:
    """No old one goes before all new ones answer, then all go in one step. Planted: `ready >= replicas - 1`."""
    before = sum(count for (revision, _), count in case.cluster.asked.items() if revision == OLD)
    for _ in range(120):
        ready = case.cluster.ready(NEW)
        step = make_step(case, case.goal, case.limits)
        if step is None:
            break
        left = sum(count for (revision, _), count in case.cluster.asked.items() if revision == OLD)
        assert left in {0, before}
        assert left == before or ready >= case.desired or before == 0
        before = left
        case.cluster.tick()


@SOME
@given(cases(*ROLLING), st.booleans())
def test_never_less_than_one_below_what_served(case: Case, crashes: bool) -> None:
    """One replica at a time makes room. Planted: `is_settled`, or a freed GPU that is not taken, left out of `_why_not`."""
    for _ in range(ENOUGH):
        step = make_step(case, case.goal, case.limits, crash=crashes and case.cluster.chance.random() < 0.3)
        assert case.cluster.serving() >= case.desired - 1
        if step is None:
            return
        case.cluster.tick()
    raise AssertionError("it did not end")


@SOME
@given(cases(RolloutStrategy.AUTO, RolloutStrategy.CANARY, least_spare=1))
def test_with_a_spare_gpu_nothing_that_is_needed_goes(case: Case) -> None:
    """A surge of one is enough. Planted: `room.free > 0` left out of `_why_not`."""
    case.goal = Goal(NEW, {L4: case.goal.shares[L4]})
    case.cluster.asked = {key: count for key, count in case.cluster.asked.items() if key[1] == L4}
    case.cluster.pods = [pod for pod in case.cluster.pods if pod.key[1] == L4]
    for _ in range(ENOUGH):
        step = make_step(case, case.goal, case.limits)
        if step is None:
            return
        case.cluster.tick()
        assert case.cluster.serving() >= case.desired
    raise AssertionError("it did not end")


@SOME
@given(cases(RolloutStrategy.AUTO), st.integers(0, 30))
def test_no_more_is_asked_for_than_there_is_room_for_and_one_of_each_type(case: Case, losses: int) -> None:
    """Planted: `ask_for_all` in `auto`."""
    for tick in range(100):
        rooms = case.cluster.rooms(case.goal)
        children = {
            child.gpu_type: child
            for child in case.cluster.observed(case.goal).children
            if child.revision == NEW
        }
        step = case.cluster.step(case.goal, case.limits)
        if step is None:
            break
        for gpu_type, share in case.goal.shares.items():
            child = children.get(gpu_type)
            there = (child.scheduled if child else 0) + rooms[gpu_type].free + 1
            assert step.replicas[NEW, gpu_type] <= min(share, max(child.asked if child else 0, there))
        case.cluster.carry_out(step, rooms)
        case.cluster.tick()
        if tick % 9 == 4 and losses > tick:
            case.cluster.lose()


@SOME
@given(cases(RolloutStrategy.IN_PLACE))
def test_in_place_never_asks_for_more_than_is_wanted(case: Case) -> None:
    """Planted: `ask_for_all` in `in_place`."""
    for _ in range(ENOUGH):
        step = make_step(case, case.goal, case.limits)
        assert sum(case.cluster.asked.values()) <= case.desired
        if step is None:
            return
        case.cluster.tick()
    raise AssertionError("it did not end")


@SOME
@given(cases(), st.integers(0, 8))
def test_no_old_replica_goes_before_the_weights_of_the_new_one_are_where_it_helps(
    case: Case, late: int
) -> None:
    """Planted: `node.warm` left out of `room`."""
    for node in case.cluster.nodes:
        node.warm_at = late
    for _ in range(late):
        make_step(case, case.goal, case.limits)
        assert case.cluster.ready(OLD) == case.desired
        assert (
            sum(count for (revision, _), count in case.cluster.asked.items() if revision == OLD)
            == case.desired
        )
        case.cluster.tick()
        if case.cluster.now >= late:
            break


@SOME
@given(cases(), st.integers(1, 8))
def test_nothing_moves_before_a_node_with_the_weights_has_the_images(case: Case, late: int) -> None:
    """Nobody is asked for either: the images may not be to be had. Planted: `once_pulled` left out of `_step`."""
    for node in case.cluster.nodes:
        node.warm_at, node.pulled_at = 0, late
    before = dict(case.cluster.asked)
    for _ in range(late):
        step = make_step(case, case.goal, case.limits)
        assert step is not None
        assert step.phase in {Phase.WAITING_FOR_IMAGE, Phase.WATCHING}
        assert {key: count for key, count in case.cluster.asked.items() if count} == before
        case.cluster.tick()


@SOME
@given(cases(*ROLLING, least_spare=0), st.integers(0, 4))
def test_no_old_replica_makes_room_on_a_node_without_the_images(case: Case, here: int) -> None:
    """Of one node it is known that they are there. Planted: `node.pulled` left out of `room`."""
    here %= len(case.cluster.nodes)
    for number, node in enumerate(case.cluster.nodes):
        node.warm_at, node.pulled_at = 0, 0 if number == here else ENOUGH
    there = case.cluster.nodes[here]
    for _ in range(60):
        rooms = case.cluster.rooms(case.goal)
        names = {pod.name for pod in case.cluster.pods if pod.node is there}
        assert all(set(room.useful) <= names for room in rooms.values())
        make_step(case, case.goal, case.limits)
        case.cluster.tick()


@SOME
@given(cases(bad=frozenset({NEW})), st.integers(0, 60))
def test_one_can_always_go_back(case: Case, after: int) -> None:
    """Also from a revision that never answers, on a full cluster, with the planner killed at any time.

    Planted: `paused` looked at before `going_back`.
    """
    back = Goal(OLD, case.goal.shares, going_back=True)
    for _ in range(after):
        make_step(case, case.goal, case.limits, crash=case.cluster.chance.random() < 0.3)
        case.cluster.tick()
    assert roll_out(case, back, replace(case.limits, paused=True))
    assert case.cluster.ready(OLD) == case.desired


@SOME
@given(cases(bad=frozenset({NEW})), st.integers(0, 60))
def test_what_failed_and_is_not_ready_goes_in_the_first_step_back(case: Case, after: int) -> None:
    """Planted: `going_back` not looked at in `keep`."""
    for _ in range(after):
        make_step(case, case.goal, case.limits)
        case.cluster.tick()
    make_step(case, Goal(OLD, case.goal.shares, going_back=True), case.limits)
    assert sum(count for (revision, _), count in case.cluster.asked.items() if revision == NEW) == 0


@SOME
@given(cases(*ROLLING), st.integers(0, 60), st.booleans())
def test_a_third_revision_takes_over_in_the_middle(case: Case, after: int, bad: bool) -> None:
    """Whatever is left of the two before it, and if the second never answers. Planted: who does not answer never makes room."""
    case.cluster.bad = frozenset({NEW}) if bad else frozenset()
    for _ in range(after):
        make_step(case, case.goal, case.limits, crash=case.cluster.chance.random() < 0.3)
        case.cluster.tick()
    third = Goal(THIRD, case.goal.shares)
    assert roll_out(case, third, case.limits)
    assert case.cluster.ready(OLD) + case.cluster.ready(NEW) == 0


@SOME
@given(cases(*ROLLING), st.integers(0, 30), st.integers(1, 8))
def test_it_ends_when_it_is_scaled_in_the_middle(case: Case, after: int, wanted: int) -> None:
    """There is a GPU for each that is wanted. Planted: Auto that asks once."""
    for _ in range(after):
        make_step(case, case.goal, case.limits)
        case.cluster.tick()
    case.cluster.nodes.append(Node("more", L4, max(0, wanted - case.goal.shares[L4])))
    goal = Goal(NEW, {**case.goal.shares, L4: wanted})
    assert roll_out(case, goal, case.limits)


@SOME
@given(cases(*ROLLING), st.integers(1, 4))
def test_it_ends_when_more_is_wanted_than_the_gpus_can_serve(case: Case, more: int) -> None:
    """Old replicas go, though there are fewer of them than are wanted. Planted: what fits by the numbers not looked at."""
    case.goal = Goal(NEW, {L4: case.goal.shares[L4] + more + case.spare})
    case.cluster.asked = {key: count for key, count in case.cluster.asked.items() if key[1] == L4}
    case.cluster.pods = [pod for pod in case.cluster.pods if pod.key[1] == L4]
    limits = Limits(case.limits.strategy, case.limits.pauses or ())
    if case.limits.strategy is RolloutStrategy.CANARY:
        limits = Limits(RolloutStrategy.AUTO)
    for _ in range(ENOUGH):
        if make_step(case, case.goal, limits) is None:
            break
        case.cluster.tick()
    for _ in range(20):
        case.cluster.tick()
    assert case.cluster.ready(OLD) == 0
    assert case.cluster.ready(NEW) == sum(node.gpus for node in case.cluster.nodes if node.gpu_type == L4)


@SOME
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32), st.integers(2, 3))
def test_replicas_that_need_more_gpus_than_the_old_ones_come_up(
    nodes: int, per_node: int, seed: int, size: int
) -> None:
    """Several old ones on one node make room for one. Planted: `_victims` that knows one victim or none."""
    cluster = Cluster(
        [Node(f"n{n}", L4, per_node * size) for n in range(nodes)], random.Random(seed), sizes={NEW: size}
    )
    cluster.serve(OLD, L4, nodes * per_node * size)
    goal = Goal(NEW, {L4: nodes * per_node * size}, gpus=size)
    case = Case(cluster, goal, Limits(), 0)
    for _ in range(ENOUGH):
        if make_step(case, goal, Limits()) is None:
            break
        cluster.tick()
    for _ in range(20):
        cluster.tick()
    assert (cluster.ready(OLD), cluster.ready(NEW)) == (0, nodes * per_node)


@SOME
@given(cases(), st.integers(0, 40), st.integers(0, 30))
def test_paused_nothing_shrinks_and_only_what_serves_grows(case: Case, after: int, losses: int) -> None:
    """Planted: `paused` not looked at."""
    for _ in range(after):
        make_step(case, case.goal, case.limits)
        case.cluster.tick()
    frozen = Limits(case.limits.strategy, case.limits.pauses, paused=True)
    asked = dict(case.cluster.asked)
    for tick in range(20):
        make_step(case, case.goal, frozen)
        if sum(asked.values()) >= case.desired:
            assert {key: count for key, count in case.cluster.asked.items() if count} == {
                key: count for key, count in asked.items() if count
            }
        assert all(case.cluster.asked[key] >= count for key, count in asked.items())
        case.cluster.tick()
        if tick < losses and tick % 4 == 1:
            case.cluster.lose()


@SOME
@given(cases(RolloutStrategy.SURGE, RolloutStrategy.BLUE_GREEN))
def test_without_room_it_waits_and_all_old_ones_serve(case: Case) -> None:
    """Planted: `make_room` with `only_idle` left out."""
    if case.spare:
        return
    for _ in range(60):
        step = make_step(case, case.goal, case.limits)
        assert step is not None
        case.cluster.tick()
        assert case.cluster.ready(OLD) == case.desired
    assert "nvidia-" in step.message


def test_what_an_old_one_gave_back_is_asked_for_first_also_by_the_next_operator() -> None:
    """Killed between the two writes of a handover. Else another type made room as well, and two were missing."""
    cluster = Cluster([Node("n0", L4, 4), Node("n1", T4, 3)], random.Random(1))
    for revision, gpu_type, replicas in ((OLD, L4, 3), (OLD, T4, 1), (NEW, L4, 1), (NEW, T4, 2)):
        cluster.serve(revision, gpu_type, replicas)
    goal = Goal(NEW, {L4: 4, T4: 3})
    for strategy, pauses in ((RolloutStrategy.IN_PLACE, ()), (RolloutStrategy.CANARY, (Pause(50, 0),))):
        cluster.asked[OLD, T4] = 0  # its pod is still on its way out: the GPU is not free yet
        step = cluster.step(goal, Limits(strategy, pauses))
        assert step is not None
        assert (step.replicas[NEW, T4], step.replicas[NEW, L4], step.replicas[OLD, L4]) == (3, 1, 3)
