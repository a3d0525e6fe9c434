"""On how many nodes weights lie: ahead of replicas, never on more nodes than there are."""

from typing import Any

import pytest
from preheat.decide.serving import nodes_to_warm

from tests.builders import a_service


@pytest.mark.parametrize(
    ("replicas", "forecast", "margin", "available", "expected"),
    [
        (1, None, 0, 9, 1),
        (0, None, 0, 9, 1),
        (2, None, 1, 9, 3),
        (2, 5, 1, 9, 6),
        (2, 1, 0, 9, 2),
        (2, 50, 1, 9, 9),
        (1, None, 0, 0, 1),
    ],
)
def test_as_many_as_replicas_that_run_or_are_expected_and_a_margin(
    replicas: int, forecast: int | None, margin: int, available: int, expected: int
) -> None:
    cache: dict[str, Any] = {"warmNodes": margin}
    assert nodes_to_warm(a_service(cache=cache), replicas, forecast, available) == expected
