"""GPUs in numbers."""

import pytest
from preheat.decide.capacity import GPUUse, in_numbers, too_large
from preheat.decide.observed import Taint

from tests.builders import a_node, a_service

TWO = a_service(hardware={"gpu": {"count": 2}})


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], None),
        ([a_node(gpus=2)], None),
        ([a_node(gpus=1), a_node("n2", gpus=4)], None),
        ([a_node(product="NVIDIA-A10G", gpus=1)], None),
        ([a_node(gpus=1, ready=False)], None),
        ([a_node(gpus=1)], "needs 2 nvidia.com/gpu on one node; the largest of 1 matching node offers 1"),
        ([a_node(gpus=1), a_node("n2", gpus=0)], "the largest of 2 matching nodes offers 1"),
        ([a_node(gpus=0)], "1 matching node offers no nvidia.com/gpu at all: a device plugin that is not up"),
        ([a_node(gpus=0), a_node("n2", gpus=0)], "2 matching nodes offer no nvidia.com/gpu at all"),
        (
            [a_node(gpus=1), a_node("n2", gpus=8, taints=(Taint("team", "x", "NoSchedule"),))],
            "the largest of 1 matching node offers 1",
        ),
    ],
)
def test_a_replica_that_no_matching_node_can_hold_is_told(nodes: list[object], words: str | None) -> None:
    told = too_large(TWO, nodes)  # type: ignore[arg-type]
    assert told is None if words is None else words in (told or "")


def test_what_is_there_and_who_holds_it() -> None:
    nodes = [a_node(gpus=4), a_node("n2", gpus=4), a_node("other", "NVIDIA-A10G", gpus=8)]
    uses = [GPUUse("n1", "a/llama", 2), GPUUse("n2", "a/llama", 2), GPUUse("n1", "b/qwen", 1),
            GPUUse("other", "b/qwen", 8)]  # fmt: skip
    assert in_numbers(TWO, nodes, uses) == (
        "One replica needs 2 nvidia.com/gpu on one node; 2 matching nodes offer 8: a/llama holds 4, b/qwen holds 1, "
        "3 are free or held by pods that are not Preheat's."
    )


def test_what_is_held_on_gpus_that_are_not_offered_any_more_is_not_free() -> None:
    told = in_numbers(TWO, [a_node(gpus=1)], [GPUUse("n1", "a/llama", 2)])
    assert told.endswith(
        "1 matching node offers 1: a/llama holds 2, 0 are free or held by pods that are not Preheat's."
    )


def test_many_holders_are_counted() -> None:
    uses = [GPUUse("n1", f"a/m{i}", 1) for i in range(7)]
    told = in_numbers(TWO, [a_node(gpus=8)], uses)
    assert "a/m4 holds 1, 2 others 2, 1 is free" in told
    assert "a/m5" not in told
