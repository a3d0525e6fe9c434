"""The command line: what is chosen, what is said about a wrong choice, and that a run can be repeated."""

import json
from pathlib import Path

import pytest

from e2e.bench.scaling import __main__ as command
from e2e.bench.scaling.cells import synthetic_cells
from e2e.bench.scaling.synthetic import synthetic


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = command.main(list(arguments))
    except SystemExit as error:
        code = int(str(error.code))
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def a_log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(
        "TIMESTAMP,GeneratedTokens\n" + "".join(f"{at * 2},{60 + at % 50}\n" for at in range(600))
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "stepp"], "no cell stepp; --list shows them"),
        (["--scaler", "hpaa"], "no scaler hpaa; --list shows them"),
        (["--load", "soon"], "argument --load: invalid"),
        (["--load", "9h"], "argument --load: invalid"),
        (["--trace", "/no/such/file"], "/no/such/file: there is no such file"),
        (["--traces", "/no/such/folder"], "/no/such/folder does not hold servegen"),
    ],
)
def test_a_wrong_choice_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, _, err = said(capsys, *arguments, "--list")
    assert code == 2
    assert words in err


def test_cells_and_scalers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--list", "--cell", "jump")
    assert code == 0
    assert "step (jump)" in out
    assert "weekly" not in out
    assert "proportional/baseline" in out


def test_a_file_is_run_and_a_run_can_be_repeated(
    capsys: pytest.CaptureFixture[str], a_log: Path, tmp_path: Path
) -> None:
    results = []
    for folder in ("one", "two"):
        code, out, err = said(
            capsys, "--trace", str(a_log), "--load", "1m", "--scaler", "proportional", "--slots", "2",
            "--processes", "1", "--out", str(tmp_path / folder),
        )  # fmt: skip
        assert code == 0
        assert "[1/1]" in err
        assert "logs of an hour, load 1 min: log" in out
        rows = [json.loads(line) for line in (tmp_path / folder / "scaling.jsonl").read_text().splitlines()]
        results.append([{key: value for key, value in row.items() if key != "decision_us"} for row in rows])
    assert results[0] == results[1]
    assert [row["who"] for row in results[0]] == ["proportional/baseline", "static/hindsight"]
    assert (tmp_path / "one" / "scaling.svg").is_file()


def test_two_processes_find_what_one_finds(
    tmp_path: Path, a_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for processes in ("1", "2"):
        said(
            capsys, "--trace", str(a_log), "--load", "1m", "--load", "5m", "--scaler", "proportional",
            "--processes", processes, "--out", str(tmp_path / processes),
        )  # fmt: skip
        rows = [
            json.loads(line) for line in (tmp_path / processes / "scaling.jsonl").read_text().splitlines()
        ]
        found.append([(row["who"], row["load_seconds"], row["attained"], row["gpu_hours"]) for row in rows])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_every_synthetic_trace_is_what_its_name_says() -> None:
    makes = synthetic(1)
    assert {cell.make.name for cell in synthetic_cells()} == set(makes)  # type: ignore[attr-defined]
    for name, factor in (("step", 5), ("flash", 5), ("surge", 3), ("ramp", 5)):
        trace = makes[name]()
        hours = [
            int(((trace.arrivals >= at) & (trace.arrivals < at + 600)).sum()) for at in (6 * 3600, 12 * 3600)
        ]
        later = int(((trace.arrivals >= 45_000) & (trace.arrivals < 45_600)).sum())
        jumped = later if name == "ramp" else hours[1]
        assert jumped / hours[0] == pytest.approx(factor, rel=0.1), name
    surge = makes["surge"]()
    assert not ((surge.arrivals > 9 * 3600 + 10) & (surge.arrivals < 12 * 3600)).any()
