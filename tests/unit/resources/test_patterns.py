"""Expressions of users: good ones pass, bad ones are told, endless ones are given up."""

import time

import pytest
from preheat.resources import patterns


@pytest.mark.parametrize(
    "expression", ["", "Paris", r"(?i)\bparis\b", r"^\{.*\}$", r"(a+)+$", "[\x00-\uffff]"]
)
def test_a_good_expression_has_no_problem(expression: str) -> None:
    assert patterns.problem(expression) is None


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(", "unterminated"),
        ("(?<=a+)b", "fixed-width"),
        ("a{99999999999}", "too large"),
        ("a**", "multiple repeat"),
    ],
)
def test_a_bad_expression_is_told(expression: str, words: str) -> None:
    assert words in str(patterns.problem(expression))


def test_an_expression_that_takes_seconds_to_compile_is_given_up() -> None:
    expression = "(?i)" + "[\x01-\uffff]" * 50
    started = time.process_time()
    assert "too long to compile" in str(patterns.problem(expression))
    assert time.process_time() - started < 5 * patterns.LIMIT_SECONDS
    started = time.process_time()
    patterns.problem(expression)
    assert time.process_time() - started < patterns.LIMIT_SECONDS, "the verdict is remembered"
