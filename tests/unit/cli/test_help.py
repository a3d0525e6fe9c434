"""What ``--help`` prints: every argument says what it is for, and what it is when it is left out."""

import argparse

import pytest
from preheat.cli.main import parser


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    choices: dict[str, argparse.ArgumentParser] = found.choices
    return choices


@pytest.mark.parametrize("name", commands())
def test_every_argument_says_what_it_is_for_and_what_it_is_when_left_out(name: str) -> None:
    command = commands()[name]
    assert command.description
    for action in command._actions:
        assert action.help, action.dest
        if action.default not in (None, False, argparse.SUPPRESS):
            assert "[" in action.help, f"{action.dest}: its default, {action.default}, is not said"


def test_the_namespace_of_the_context_is_not_taken_and_that_is_said() -> None:
    assert commands()["status"].parse_args(["llama"]).namespace == "default"
    assert "The namespace is `default` without -n" in " ".join(parser().format_help().split())
