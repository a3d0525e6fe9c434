"""Numbers as people read them: short, steady, and never too long for the schema."""

import doctest
import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.decide.text import duration, size, speed

STATUS_LIMIT = 16
"""maxLength of status.eta and status.speed."""


@pytest.mark.parametrize("module", ["preheat.decide.text", "preheat.resources.names", "preheat.cli.bar"])
def test_the_examples_in_the_documentation_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (0, "1s"), (9.9, "10s"), (12, "10s"), (57.4, "55s"), (57.5, "1m"), (60, "1m"), (64, "1m"), (66, "1m10s"),
        (594, "9m50s"), (596, "10m"), (3569, "59m"), (3571, "1h"), (3660, "1h1m"), (86_400, "24h"),
    ],
)  # fmt: skip
def test_a_time_span_has_two_units_at_most(seconds: float, want: str) -> None:
    assert duration(seconds) == want


@pytest.mark.parametrize(
    ("count", "want"),
    [(1, "1 B"), (999, "999 B"), (999.6, "1 kB"), (1000, "1 kB"), (999_600, "1 MB"), (2**63, "9.22e+03 PB")],
)
def test_a_size_moves_to_the_next_unit_in_time(count: float, want: str) -> None:
    assert size(count) == want


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_time_never_reads_as_less(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert _seconds(duration(less)) <= _seconds(duration(more))


def _seconds(text: str) -> int:
    total, digits = 0, ""
    for char in text:
        if char.isdigit():
            digits += char
        else:
            total += int(digits) * {"h": 3600, "m": 60, "s": 1}[char]
            digits = ""
    return total


@given(st.floats(0, 2.0**63))
def test_what_is_said_fits_into_the_status(value: float) -> None:
    assert len(duration(min(value, 1e12))) <= STATUS_LIMIT
    assert len(speed(value)) <= STATUS_LIMIT
