"""A status is ours: what others wrote into it is found, and conditions of theirs are left alone."""

from typing import Any

import pytest
from preheat.decide.statuses import foreign_fields, own_part

READY = {"type": "Ready", "status": "True"}
THEIRS = {"type": "Audited", "status": "True"}


def test_conditions_of_others_and_the_order_of_lists_make_no_difference() -> None:
    mine = {"conditions": [READY, {"type": "Stalled"}], "nodes": [{"name": "a"}, {"name": "b"}]}
    live = {"conditions": [THEIRS, {"type": "Stalled"}, READY], "nodes": [{"name": "b"}, {"name": "a"}]}
    assert own_part(mine) == own_part(live)
    assert own_part(mine) != own_part({**live, "percent": 1})
    assert own_part(None) == own_part("nonsense") == {}


@pytest.mark.parametrize(
    ("wanted", "live", "pointers"),
    [
        ({"percent": 1}, {"percent": 2}, []),
        ({}, {"percent": 2, "eta": "1s"}, ["/status/percent", "/status/eta"]),
        ({"cache": {"name": "x"}}, {"cache": {"name": "x", "readyNodes": 9}}, ["/status/cache/readyNodes"]),
        ({"nodes": [{"name": "b"}]}, {"nodes": [{"name": n} for n in "abc"]},
         ["/status/nodes/2", "/status/nodes/0"]),
        ({"nodes": [{"name": "a"}]}, {"nodes": [{"name": "a", "reason": "x"}]}, ["/status/nodes/0/reason"]),
        ({"gpuTypes": [{"type": "b"}]}, {"gpuTypes": [{"type": n} for n in "ab"]}, ["/status/gpuTypes/0"]),
        ({"avoidedNodes": []}, {"avoidedNodes": [{"name": "a"}]}, ["/status/avoidedNodes/0"]),
        ({"conditions": [READY]}, {"conditions": [THEIRS, READY]}, []),
        ({"conditions": [READY]}, {"conditions": [READY, {"type": "Contested"}]}, ["/status/conditions/1"]),
    ],
    ids=["a value is put back by the write", "fields that we do not set", "a field below", "nodes that are not ours",
         "a field of an item", "types that are not ours", "nodes that are not avoided", "conditions of others stay", "a condition of ours goes"],
)  # fmt: skip
def test_what_others_wrote_is_found(
    wanted: dict[str, Any], live: dict[str, Any], pointers: list[str]
) -> None:
    assert foreign_fields(wanted, live) == pointers
