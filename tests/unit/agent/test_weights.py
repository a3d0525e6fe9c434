"""Weights that are not whole are told in words that help, and those that are stay locked."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from preheat_agent.ladder import Repository
from preheat_agent.main import Agent
from preheat_agent.weights import MANIFEST, Weights

from tests.unit.agent.test_ladder import CONFIG


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.gguf").write_bytes(b"x" * 1234)
    (tmp_path / "deep/b.json").write_bytes(b"{}")
    files = [{"path": "a.gguf", "sizeBytes": 1234}, {"path": "deep/b.json", "sizeBytes": 2}]
    (tmp_path / MANIFEST).write_text(json.dumps({"files": files}))
    return tmp_path


@pytest.fixture
def weights(folder: Path) -> Iterator[Weights]:
    made = Weights(str(folder))
    yield made
    made.close()


def test_whole_weights_are_no_problem(weights: Weights) -> None:
    assert weights.problem() == ""
    assert weights.held


def test_what_is_missing_is_told_with_both_sizes_and_what_to_do(weights: Weights, folder: Path) -> None:
    (folder / "a.gguf").write_bytes(b"x")
    told = weights.problem()
    assert "a.gguf has 1 bytes, and should have 1,234" in told
    assert "Delete this pod" in told
    (folder / "a.gguf").unlink()
    assert "a.gguf is not there, and should have 1,234 bytes" in weights.problem()
    (folder / "a.gguf").write_bytes(b"x" * 1234)
    assert weights.problem() == "", "they came back"


def test_a_folder_without_a_manifest_holds_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"x")
    weights = Weights(str(tmp_path))
    assert f"{MANIFEST} is not there: these are no published weights" in weights.problem()
    assert not weights.held


def may_be_removed(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_lock_is_held_until_the_end(weights: Weights, folder: Path) -> None:
    assert may_be_removed(folder / MANIFEST)
    weights.problem()
    assert not may_be_removed(folder / MANIFEST)
    (folder / "a.gguf").unlink()
    weights.problem()
    assert not may_be_removed(folder / MANIFEST), "also while they are not whole"
    weights.close()
    assert may_be_removed(folder / MANIFEST)


def test_two_pods_may_hold_it(weights: Weights, folder: Path) -> None:
    other = Weights(str(folder))
    assert weights.problem() == other.problem() == ""
    other.close()


def test_weights_that_are_being_removed_are_not_loaded(weights: Weights, folder: Path) -> None:
    with (folder / MANIFEST).open() as keeper:
        fcntl.flock(keeper, fcntl.LOCK_EX)
        assert "being removed" in weights.problem()
    assert weights.problem() == ""


def test_another_manifest_is_locked_instead(weights: Weights, folder: Path) -> None:
    weights.problem()
    fresh = folder / "fresh"
    fresh.write_text(json.dumps({"files": [{"path": "a.gguf", "sizeBytes": 9}]}))
    fresh.rename(folder / MANIFEST)
    assert "and should have 9" in weights.problem()
    assert not may_be_removed(folder / MANIFEST)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", '{"files": 5}', '{"files": [5]}', '{"files": [{"path": 1}]}', "[" * 99_999]
)
def test_a_manifest_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    weights = Weights(str(tmp_path))
    assert "cannot be read" in weights.problem()
    assert not weights.held


@pytest.mark.parametrize("checks", [True, False])
async def test_an_image_has_no_manifest_to_be_looked_at(tmp_path: Path, checks: bool) -> None:
    agent = Agent(replace(CONFIG, weights_directory=str(tmp_path), check_weights=checks))
    assert bool(await agent._look_at_weights(Repository.ABSENT, 0.0)) is checks
