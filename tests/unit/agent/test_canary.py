"""What an answer is held against: an expression that takes for ever does not stop the agent."""

import re
import time

import pytest
from preheat_agent.canary import MATCH_SECONDS, CanaryError, _matches

ENDLESS = [
    ("(a+)+$", "a" * 40 + "b"),
    ("(a|aa)+$", "a" * 60 + "b"),
    (r"(?:a?){60}a{60}", "a" * 60),
    (r"(\w+\s?)*!", "word " * 200),
    (r"(?=(a+)+$)b", "a" * 50 + "c"),
]


@pytest.mark.parametrize(("expression", "answer"), ENDLESS)
def test_an_expression_that_takes_for_ever_is_given_up_and_said_so(expression: str, answer: str) -> None:
    started = time.process_time()
    with pytest.raises(CanaryError, match="takes too long"):
        _matches(re.compile(expression), answer)
    assert time.process_time() - started < 4 * MATCH_SECONDS


def test_an_expression_is_found_or_not() -> None:
    assert _matches(re.compile("Par.s"), "It is Paris.")
    assert not _matches(re.compile("Rome"), "It is Paris.")
