"""What ``--help`` prints: every argument says what it is for, and what it is when it is left out. What is said of a name that is wrong."""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from preheat.cli import main as cli
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


@pytest.mark.parametrize(
    ("context", "given", "taken"),
    [
        ({"namespace": "models"}, [], "models"),
        ({}, [], "default"),
        (None, [], "default"),
        ({"namespace": "models"}, ["-n", "other"], "other"),
    ],
)
def test_the_namespace_is_that_of_the_context_as_kubectl_takes_it(
    context: dict[str, str] | None,
    given: list[str],
    taken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config"
    if context is not None:
        named = {"name": "c", "context": {"cluster": "c", "user": "u", **context}}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "contexts": [named],
                    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setattr(cli, "Kube", Empty)
    monkeypatch.setattr("sys.argv", ["kubectl-preheat", "status", "llama", *given])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"not found in namespace {taken}" in capsys.readouterr().err


class Empty:
    """A cluster in which nothing is."""

    def __init__(self, _timeout_seconds: float) -> None:
        pass

    async def __aenter__(self) -> "Empty":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def get(self, _kind: str, _namespace: str, _name: str) -> dict[str, Any] | None:
        return None


@pytest.mark.parametrize("name", ["status", "why", "history", "rollback"])
async def test_who_is_not_there_is_looked_for_with_another_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "Kube", Empty)
    arguments = parser().parse_args([name, "llama", "-n", "default"])
    command: Callable[[argparse.Namespace], Awaitable[int]] = arguments.command
    assert await command(arguments) == 1
    said = capsys.readouterr().err
    assert "llama not found in namespace default" in said
    assert "kubectl get llmd -A" in said
