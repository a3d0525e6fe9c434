"""Trace files: what is read, what is drawn, and what is said about a bad one."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from e2e.bench.scaling import cells, files
from e2e.bench.scaling.files import Log, Rates, TraceFileError, Window
from e2e.bench.scaling.trace import mean_service

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 6758, "output_length": 500}
{"timestamp": 4000, "input_length": 7322, "output_length": 490}
"""
RATES = """client,window_start_s,rate_rps,cv,dist,p1,p2
a,0,2,1,Gamma,1.0,0.5
a,600,4,1,Gamma,1.0,0.25
b,1200,1,1,Weibull,0.5,0.5
"""


def a_file(folder: Path, content: str | bytes, name: str = "trace", packed: bool = False) -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


def a_log(path: Path) -> Log:
    found = files.read(path)
    assert isinstance(found, Log)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_a_csv_log(tmp_path: Path, packed: bool) -> None:
    log = a_log(a_file(tmp_path, AZURE, packed=packed))
    assert list(log.arrivals) == pytest.approx([0, 4.314579], abs=1e-5)
    assert log.input_tokens is not None
    assert log.output_tokens is not None
    assert (list(log.input_tokens), list(log.output_tokens)) == ([374, 396], [44, 109])
    trace = files.log_trace("t", log, 1)
    assert list(trace.services) == pytest.approx([44 * 0.03 + 0.0374, 109 * 0.03 + 0.0396])


@pytest.mark.parametrize("packed", [False, True])
def test_a_jsonl_log(tmp_path: Path, packed: bool) -> None:
    log = a_log(a_file(tmp_path, MOONCAKE, packed=packed))
    assert list(log.arrivals) == [0, 3]
    assert log.output_tokens is not None
    assert list(log.output_tokens) == [500, 490]


@pytest.mark.parametrize(
    "content",
    [
        AZURE.replace("\n", "\r\n"),
        "\ufeff" + AZURE,
        AZURE.replace("6805900", "68059").replace("9951690", "99517"),
        AZURE.replace("6805900", "680590+00:00").replace("9951690", "995169+00:00"),
        "TIMESTAMP,ContextTokens,GeneratedTokens\n1700158546.680590,374,44\n1700158550.995169,396,109\n",
        "timestamp,input_length,output_length\n7000,374,44\n11314.579,396,109\n",
        '{"TIMESTAMP": "2023-11-16 18:15:46.68059", "ContextTokens": 374, "GeneratedTokens": 44}\n'
        '\n{"TIMESTAMP": "2023-11-16T18:15:50.995169", "ContextTokens": 396, "GeneratedTokens": 109}\n',
        "GeneratedTokens,who,ContextTokens,TIMESTAMP\n109,x,396,2023-11-16 18:15:50.995169\n"
        "44,y,374,2023-11-16 18:15:46.680590\n",
    ],
    ids=[
        "crlf",
        "bom",
        "five digits",
        "with a zone",
        "seconds",
        "milliseconds",
        "dates in jsonl",
        "any order",
    ],
)
def test_other_ways_to_write_the_same_log(tmp_path: Path, content: str) -> None:
    log = a_log(a_file(tmp_path, content))
    assert list(log.arrivals) == pytest.approx([0, 4.314579], abs=1e-4)
    assert log.output_tokens is not None
    assert list(log.output_tokens) == [44, 109]


def test_eight_digits_are_no_date(tmp_path: Path) -> None:
    assert list(a_log(a_file(tmp_path, "timestamp\n20231116\n20231216\n")).arrivals) == pytest.approx(
        [0, 0.1]
    )


def test_a_log_without_tokens_gets_those_of_conversations(tmp_path: Path) -> None:
    lines = "\n".join(str(at * 1000) for at in range(20000))
    trace = files.log_trace("t", a_log(a_file(tmp_path, f"timestamp\n{lines}\n")), 1)
    assert trace.services.mean() == pytest.approx(mean_service(), rel=0.03)
    assert mean_service() == pytest.approx(6.4, rel=0.05)


BAD = {
    "nothing": ("", "the file is empty"),
    "only a header": ("TIMESTAMP,ContextTokens\n", "it holds no request"),
    "unknown columns": ("when,what\n1,2\n", "line 1: no known columns in 'when, what'; a log has TIMESTAMP"),
    "no date": (AZURE.replace("2023-11-16 18:15:50.9951690", "yesterday"), "line 3: TIMESTAMP is 'yesterday': neither"),
    "no number": (AZURE.replace("109", "many"), "line 3: GeneratedTokens is 'many', not a number"),
    "less than nothing": (AZURE.replace("109", "-1"), "line 3: GeneratedTokens is -1; it must be between 0 and"),
    "not a number at all": (AZURE.replace("109", "nan"), "line 3: GeneratedTokens is nan"),
    "endless": (AZURE.replace("109", "inf"), "line 3: GeneratedTokens is inf"),
    "a value too few": (AZURE.replace(",109", ""), "line 3: 2 values for 3 columns"),
    "half a line of JSON": (MOONCAKE[:-10], "line 2: not JSON"),
    "a list": (MOONCAKE + "[1]\n", "line 3: not an object"),
    "JSON without a time": (MOONCAKE.replace("timestamp", "time"), "line 1: no TIMESTAMP or timestamp"),
    "tokens here and there": (
        MOONCAKE.replace(', "output_length": 490', ""),
        "output_length is missing in 1 of 2 lines",
    ),
    "a law nobody knows": (RATES.replace("Weibull", "Pareto"), "line 4: dist is 'Pareto'; known are Gamma, Weibull and Exponential"),
    "after an empty line": (AZURE.replace("44\n", "44\n\n").replace("109", "x"), "line 4: GeneratedTokens is 'x'"),
    "a rate below zero": (RATES.replace("600,4", "600,-4"), "line 3: rate_rps is -4"),
    "a shape of zero": (RATES.replace("Gamma,1.0,0.5", "Gamma,0,0.5"), "line 2: p1 is 0"),
    "a window twice": (RATES.replace("a,600", "a,0"), "line 3: client a has window 0 twice"),
    "one window": ("\n".join(RATES.splitlines()[:2]) + "\n", "needs two windows or more"),
    "windows anyhow": (RATES + "b,1300,1,1,Gamma,1,1\nb,1450,1,1,Gamma,1,1\n", "cannot tell how long they are"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "not text in UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_told_apart_with_its_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = a_file(tmp_path, content)
    with pytest.raises(TraceFileError) as error:
        files.read(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


def test_a_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = a_file(tmp_path, gzip.compress(AZURE.encode())[:-20])
    with pytest.raises(TraceFileError, match="damaged or cut off"):
        files.read(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceFileError, match="there is no such file"):
        files.read(tmp_path / "none")
    with pytest.raises(TraceFileError, match="cannot be read"):
        files.read(tmp_path)


def test_a_log_is_thinned_to_what_was_asked_for() -> None:
    log = Log(np.arange(40_000.0), None, np.full(40_000, 100.0))  # 3 slots busy
    assert files.log_trace("t", log, 1).arrivals.size == 40_000
    thinned = files.log_trace("t", log, 1, busy_slots=0.75)
    assert thinned.arrivals.size == pytest.approx(10_000, rel=0.05)
    assert thinned.end_seconds == 40_000


def test_a_rate_file(tmp_path: Path) -> None:
    found = files.read(a_file(tmp_path, RATES, packed=True))
    assert isinstance(found, Rates)
    assert found.window_seconds == 600
    assert found.clients["a"] == [Window(0, 2, "Gamma", 1), Window(600, 4, "Gamma", 1)]
    with pytest.raises(TraceFileError, match=r"no client c; there are a, b"):
        files.rate_trace("t", found, ["c"], 1, 8)


def test_a_window_without_a_law_is_poissons(tmp_path: Path) -> None:
    found = files.read(a_file(tmp_path, RATES + "b,1800,1,,,,\nb,2400,1,1,Exponential,,\n"))
    assert isinstance(found, Rates)
    assert [window.law for window in found.clients["b"]] == ["Weibull", "Exponential", "Exponential"]


def some_rates(rates: list[float], law: str = "Gamma", shape: float = 1.0) -> Rates:
    windows = [Window(600.0 * number, rate, law, shape) for number, rate in enumerate(rates) if rate]
    return Rates(
        {"x": windows, "y": [Window(0, 0, "Gamma", 1), Window(600.0 * (len(rates) - 1), 0, "Gamma", 1)]}, 600
    )


def test_traffic_is_worth_the_slots_that_were_asked_for() -> None:
    trace = files.rate_trace("t", some_rates([1, 2, 3, 2] * 50), [], 1, 40)
    assert trace.services.sum() / trace.end_seconds == pytest.approx(40, rel=0.03)
    assert trace.end_seconds == 200 * 600


def test_rates_are_those_of_the_windows_and_change_without_a_jump() -> None:
    trace = files.rate_trace("t", some_rates([1, 1, 3, 3]), ["x"], 1, 2000)
    counts, _ = np.histogram(trace.arrivals, np.arange(0, 2401, 60))
    per_minute = counts / counts.mean() * 2
    assert per_minute[5:10].mean() == pytest.approx(1, rel=0.05)
    assert per_minute[30:].mean() == pytest.approx(3, rel=0.05)
    assert per_minute[20] == pytest.approx(2.1, rel=0.1)  # between the middles of the second and third window
    assert abs(np.diff(per_minute)).max() < 0.3


def test_silent_windows_are_silent() -> None:
    trace = files.rate_trace("t", some_rates([1, 0, 0, 0, 1]), ["x"], 1, 100)
    assert not ((trace.arrivals > 901) & (trace.arrivals < 2099)).any()


@pytest.mark.parametrize(
    ("law", "shape", "variation"),
    [("Exponential", 1.0, 1.0), ("Gamma", 1.0, 1.0), ("Gamma", 0.25, 2.0), ("Weibull", 0.5, 5**0.5)],
)
def test_gaps_have_the_law_of_their_window(law: str, shape: float, variation: float) -> None:
    trace = files.rate_trace("t", some_rates([1.0] * 60, law, shape), ["x"], 1, 60)
    gaps = np.diff(trace.arrivals[(trace.arrivals > 600) & (trace.arrivals < 35_000)])
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)
    if law == "Weibull":
        assert np.median(gaps) / gaps.mean() == pytest.approx(math.log(2) ** 2 / 2, rel=0.1)


def test_a_seed_draws_the_same_and_another_one_another() -> None:
    first, again, other = (
        files.rate_trace("t", some_rates([1, 2]), [], seed, 8).arrivals for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:50], other[:50])


def test_something_counts_of_every_trace() -> None:
    early = files.rate_trace("t", some_rates([1.0] * 100 + [0.0] * 1000), [], 1, 8)
    assert early.history_seconds == 0
    assert early.scored.all()
    later = files.rate_trace("t", some_rates([1.0] * 1100), [], 1, 8)
    assert later.history_seconds == 3 * 86_400
    with pytest.raises(TraceFileError, match="no request is left"):
        files.log_trace("t", Log(np.arange(10.0), None, None), 1, busy_slots=1e-9)


def test_named_files_become_cells(tmp_path: Path) -> None:
    log, rates = a_file(tmp_path, AZURE, "a.csv"), a_file(tmp_path, RATES, "b_clients.csv.gz", packed=True)
    assert [cell.name for cell in cells.named_cells(log, [], None, 8, 1)] == ["a"]
    found = cells.named_cells(rates, ["a", "a+b"], 2, 4, 0)
    assert [(cell.name, cell.slots, cell.min_replicas, cell.group) for cell in found] == [
        ("b a", 4, 0, cells.Group.ZERO),
        ("b a+b", 4, 0, cells.Group.ZERO),
    ]
    trace = found[1].make(1)
    assert trace.services.sum() / trace.end_seconds == pytest.approx(8, rel=0.15)
    with pytest.raises(TraceFileError, match="no client z"):
        cells.named_cells(rates, ["z"], None, 8, 1)


def test_shared_traces_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceFileError, match="does not hold servegen_m-small"):
        cells.shared_cells(tmp_path)
