"""What the demo backend says about its configuration and its weights before anything is loaded."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "runtime/engines/triton/models"))

from llamacpp.settings import InvalidSettingsError, Settings, parse_settings
from llamacpp.weights import find_weights, read_at_pace


def a_config(**parameters: str) -> dict[str, Any]:
    return {"parameters": {name: {"string_value": text} for name, text in parameters.items()}}


def test_only_the_path_is_needed() -> None:
    assert parse_settings(a_config(gguf_path="/mnt/models")) == Settings(
        gguf_path=Path("/mnt/models"), context_tokens=2048, slots=2, threads=1, load_bytes_per_second=0
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "parameter gguf_path is missing"),
        ({"gguf_path": "/m", "n_parallel": "two"}, "n_parallel must be a whole number, was 'two'"),
        ({"gguf_path": "/m", "n_threads": "0"}, "n_threads must be at least 1, was 0"),
        (
            {"gguf_path": "/m", "load_bytes_per_second": "-1"},
            "load_bytes_per_second must be at least 0, was -1",
        ),
        ({"gguf_path": "/m", "n_ctx": "128", "n_parallel": "4"}, "n_ctx is 128 for 4 slots"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSettingsError, match=message):
        parse_settings(a_config(**parameters))


def test_a_folder_with_one_gguf_file_is_enough(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF....")
    (tmp_path / ".preheat-manifest.json").write_text("{}")
    assert find_weights(tmp_path) == tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no \*.gguf file in"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, r"2 GGUF files in .* \(a.gguf, b.gguf\): name one"),
        ({"a.gguf": b"PK\x03\x04"}, "is not a GGUF file"),
    ],
)
def test_a_folder_that_leaves_doubt_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidSettingsError, match=message):
        find_weights(tmp_path)


def test_weights_that_are_not_there_point_at_the_cache(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError, match="check gguf_path, and that the cache"):
        find_weights(tmp_path / "model.gguf")


def test_reading_keeps_the_pace_to_the_last_block(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x" * (5 << 19))  # two blocks and a half
    waits: list[float] = []
    done = read_at_pace(path, 1 << 20, clock=lambda: sum(waits), wait=waits.append)
    assert done == 5 << 19
    assert waits == [1.0, 1.0, 0.5]


def test_a_disk_slower_than_the_pace_is_not_slowed_further(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x" * (2 << 20))
    clock = iter(range(0, 1000, 10))
    waits: list[float] = []
    read_at_pace(path, 1 << 20, clock=lambda: float(next(clock)), wait=waits.append)
    assert waits == []
