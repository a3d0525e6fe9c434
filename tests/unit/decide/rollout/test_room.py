"""Room is counted node by node, where the weights are."""

import pytest
from preheat.decide.rollout import Room
from preheat.decide.rollout.room import Held, NodeRoom, room


def node(
    name: str, free: int, *held: int, warm: bool = True, coming: bool = False, ready: bool = True,
    pulled: bool = True,
) -> NodeRoom:  # fmt: skip
    pods = [Held(f"{name}-{n}", "old", gpus, ready) for n, gpus in enumerate(held)]
    return NodeRoom(name, free, warm, coming, pods, pulled)


CASES = {
    "free GPUs on one node": ([node("a", 5)], 2, Room(fits=2)),
    "free GPUs on two nodes do not add up": ([node("a", 1), node("b", 1)], 2, Room()),
    "one old one is enough": (
        [node("a", 1, 1)], 2, Room(victims={"old": 1}, serving_victims=1, useful=("a-0",))),
    "two have to go": (
        [node("a", 0, 1, 1, 1)], 2, Room(victims={"old": 2}, serving_victims=2, useful=("a-0", "a-1"))),
    "the node where the fewest go": (
        [node("a", 0, 1, 1), node("b", 1, 1)], 2,
        Room(victims={"old": 1}, serving_victims=1, useful=("b-0", "a-0", "a-1"))),
    "those that serve nobody first": (
        [node("a", 0, 1), node("b", 0, 1, ready=False)], 1, Room(victims={"old": 1}, useful=("b-0", "a-0"))),
    "too few GPUs whoever goes": ([node("a", 0, 1)], 2, Room()),
    "weights on their way": ([node("a", 2, warm=False, coming=True)], 1, Room(cold=2)),
    "no weights, and none to come": ([node("a", 2, 1, warm=False)], 1, Room()),
    "images on their way: nobody goes, and the scheduler may use what is free": (
        [node("a", 3, 1, pulled=False)], 2, Room(fits=1, unpulled=1)),
    "the node with the images": (
        [node("a", 0, 1, pulled=False), node("b", 0, 1)], 1,
        Room(victims={"old": 1}, serving_victims=1, useful=("b-0",))),
    "more is held than there is": ([node("a", -1, 1)], 1, Room(victims={"old": 1}, serving_victims=1, useful=("a-0",))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_room(case: str) -> None:
    nodes, gpus, want = CASES[case]
    assert room(nodes, gpus) == want
