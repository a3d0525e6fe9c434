"""The fast part of `make chaos-fetch`: every case once, small; and bugs that must be found."""

import pytest

from e2e.chaos.fetch.campaign import CASES, Choice, Outcome, run

FAST = Choice(seed=2, kills=1, scale=0.4, away_seconds=3.0)


def outcomes(choice: Choice) -> list[Outcome]:
    return run(choice, lambda _: None)


IN_OTHERS = {"token expired", "disk full"}
"""They are the first halves of others."""


@pytest.mark.parametrize("case", [case for case in CASES if case not in IN_OTHERS])
def test_the_bytes_are_right_or_the_reason_is_clear(case: str) -> None:
    found = outcomes(Choice(FAST.seed, FAST.kills, FAST.scale, FAST.away_seconds, (case,)))
    if all(outcome.skipped for outcome in found):
        pytest.skip("a small disk needs root")
    assert [outcome.problem for outcome in found] == [""] * len(found)


@pytest.mark.parametrize(
    ("plant", "case", "told"),
    [
        ("digests-are-not-compared", "wrong byte once", "a wrong file was published"),
        ("nothing-is-noted", "killed five times", "came again"),
        ("nobody-locks", "two at once", ""),
    ],
)
def test_a_planted_bug_is_found(plant: str, case: str, told: str) -> None:
    (found,) = outcomes(Choice(seed=2, scale=0.4, cases=(case,), plant=plant))
    assert found.problem
    assert told in found.problem
