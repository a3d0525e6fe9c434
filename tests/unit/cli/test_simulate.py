"""``kubectl preheat simulate``: traces, the run on paper, and that it decides as the operator and the benchmark do."""

import argparse
import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preheat.cli import chart, simulate, traces
from preheat.cli.replay import Replay, Scaler, least_gpu_seconds
from preheat.cli.traces import Drawing, InvalidTraceError, Trace
from preheat.decide.autoscale import make_policy
from preheat.decide.loads import Expected, Phases
from preheat.decide.scaling import Sample
from typing_extensions import override

from e2e.bench.scaling.ours import Preheat
from e2e.bench.scaling.scaler import ClusterView
from e2e.bench.scaling.simulate import Setting
from e2e.bench.scaling.simulate import run as bench
from e2e.bench.scaling.trace import Trace as BenchTrace
from tests.builders import a_service
from tests.pages import ROOT
from tests.unit.decide.scaling.world import START, a_policy

PLAIN = Drawing()
SERVICE = """
apiVersion: preheat.dev/v1alpha1
kind: LLMDeployment
metadata: {name: llama}
spec:
  model: {uri: "hf://meta/llama", revision: 0e9e39f249a16976918f6564b8830bc894c89659}
  hardware: {gpu: {types: [nvidia-l4]}}
  replicas: 2
  scaling: %s
"""
PREDICTIVE = "{mode: Predictive, minReplicas: 1, maxReplicas: 8}"
COUNTS = "minute,requests\n" + "".join(f"{m},{60 if m < 20 else 300 if m < 40 else 80}\n" for m in range(60))


def written(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("text", "arrivals", "services"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1000,10\n2023-11-16 18:15:48,0,0\n", [0, 2], [0.4, 0.03]),
        ("timestamp,input_length,output_length\n3000,0,100\n1000,0,1\n", [0, 2], [0.03, 3.0]),
        ('{"timestamp": 0, "output_length": 100}\n\n{"timestamp": 500, "output_length": 1}\n', [0, 0.5], [3.0, 0.03]),
    ],
)  # fmt: skip
def test_logs_are_read(tmp_path: Path, text: str, arrivals: list[float], services: list[float]) -> None:
    for path in (written(tmp_path, text), written(tmp_path, gzip.compress(text.encode()), "packed")):
        found = traces.read(path, PLAIN)
        assert found.arrivals == pytest.approx(arrivals)
        assert found.services == pytest.approx(services)


def test_counts_and_rates_are_drawn_the_same_by_the_same_seed(tmp_path: Path) -> None:
    rates = "client,window_start_s,rate_rps,dist,p1\n1,0,2,Gamma,0.5\n1,600,2,Gamma,0.5\n2,0,1,,\n2,600,1,,\n"
    for text, many in ((COUNTS, 60 * 20 + 300 * 20 + 80 * 20), (rates, 1200 * 3 - 900)):
        path = written(tmp_path, text)
        one, other, another = (traces.read(path, Drawing(seed=seed)) for seed in (1, 1, 2))
        assert one == other != another
        assert len(one.arrivals) == pytest.approx(many, rel=0.35)
        assert list(one.arrivals) == sorted(one.arrivals)
    assert traces.read(path, Drawing(speed=2.0)).seconds == pytest.approx(one.seconds / 2, rel=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("when,what\n1,2\n", "line 1: no known columns in 'what, when'"),
        ("TIMESTAMP\n1\nsoon\n", "line 3: TIMESTAMP is 'soon'; a date and time like"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,2\n", "line 2: 2 values, 3 are expected"),
        ("timestamp,input_length,output_length\n1,2,many\n", "line 2: output_length is 'many'; a number from 0"),
        ("minute,requests\n0,-3\n", "line 2: requests is '-3'; a number from 0"),
        ('{"timestamp": 1}\n{"timestamp"\n', "line 2: is no JSON"),
        ("client,window_start_s,rate_rps,dist,p1\n1,0,1,Pareto,1\n", "line 2: dist is 'Pareto'; Exponential, Gamma, Weibull are"),
        ("client,window_start_s,rate_rps\n1,0,1\n", "two windows or more are expected, it holds 1"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"\x1f\x8bxx", "damaged or cut off"),
    ],
)  # fmt: skip
def test_a_bad_file_says_where_and_what_was_expected(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InvalidTraceError, match=words):
        traces.read(written(tmp_path, text), PLAIN)


class Recorded(Preheat):
    """Keeps what it was shown and what it said."""

    @override
    def start(self, workload: Any) -> None:
        super().start(workload)
        self.workload = workload
        self.seen: list[tuple[list[Sample], float, int]] = []
        self.shown: list[Sample] = []

    @override
    def samples(self, view: ClusterView) -> list[Sample]:
        self.shown = super().samples(view)
        return self.shown

    @override
    def decide(self, view: ClusterView) -> int:
        said = super().decide(view)
        self.seen.append((self.shown, view.now, said))
        return said


def test_on_the_same_samples_it_decides_as_the_scaler_of_the_benchmark() -> None:
    arrivals = np.sort(np.random.default_rng(1).uniform(0, 3600, 3000) ** 0.9 * 1.9)
    trace = BenchTrace("one", arrivals, np.full(arrivals.size, 24.0), 0.0, 3600.0)
    scaler = Recorded()
    bench(trace, Setting(60.0, max_replicas=20), scaler)
    load = Expected(
        scaler.workload.load_p50_seconds, scaler.workload.load_p90_seconds, Phases(0, 0, 0, 60, 0), 0
    )
    service = a_service(scaling={"mode": "Predictive", "minReplicas": 1, "maxReplicas": 20})
    policy = make_policy(service, load, 8.0, simulate.datetime.fromtimestamp(START, simulate.UTC))
    assert policy == scaler.policy
    ours, compared = Scaler(policy, 1), 0
    for shown, now, said in scaler.seen:
        if shown and shown[0].is_known:
            counts = ours.decide(shown[0], now)
            assert counts is not None
            assert counts.replicas == said
            compared += 1
    assert compared > 200
    assert len({said for _, _, said in scaler.seen}) > 2


def test_a_number_that_stays_serves_what_it_can_and_is_billed_for_all_of_it() -> None:
    trace = Trace(START, [float(second) for second in range(600)], [4.0] * 600)
    found = Replay(trace, a_policy(), 1, seed=1).run(None)
    assert (found.late, found.loads, found.most) == (0, 0, 1)
    assert found.gpu_seconds == pytest.approx(trace.seconds, abs=20)
    crowded = Replay(Trace(START, trace.arrivals, [16.0] * 600), a_policy(), 1, seed=1).run(None)
    assert 0.3 < crowded.late_share < 1


def test_who_knows_the_future_keeps_over_short_gaps_and_loads_again_over_long_ones() -> None:
    policy = a_policy(min_replicas=0, load=10.0)
    assert least_gpu_seconds(Trace(START, [0.0, 8.0], [5.0, 5.0]), policy) == pytest.approx(10 + 5 + 3 + 5)
    assert least_gpu_seconds(Trace(START, [0.0, 99.0], [5.0, 5.0]), policy) == pytest.approx(2 * (10 + 5))


def asked(folder: Path, scaling: str = PREDICTIVE, text: str = COUNTS, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add(parser.add_subparsers())
    service, trace = written(folder, SERVICE % scaling, "llmd.yaml"), written(folder, text)
    return parser.parse_args(["simulate", "-f", str(service), "--trace", str(trace), *more])


def test_on_a_terminal_misses_are_red() -> None:
    trace = Trace(START, [second / 10 for second in range(6000)], [6.0] * 6000)
    steps = Replay(trace, a_policy(), 1, seed=1).run(None).steps
    plain, painted = (chart.lines(steps, 8.0, colour=colour) for colour in (False, True))
    assert chart.RED in "".join(painted)
    assert [
        line.replace(chart.RED, "").replace(chart.YELLOW, "").replace(chart.PLAIN, "") for line in painted
    ] == plain


async def test_where_somebody_else_decides_it_says_what_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await simulate.run(asked(tmp_path, "{maxReplicas: 8}")) == 1
    assert "set spec.scaling.mode to Predictive" in capsys.readouterr().err


async def test_a_schedule_that_would_be_skipped_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = '{start: "08:00", end: "18:00", minReplicas: 2, timeZone: Mars/Olympus}'
    spec = f"{{mode: Predictive, minReplicas: 1, maxReplicas: 8, schedules: [{hours}]}}"
    assert await simulate.run(asked(tmp_path, spec)) == 2
    assert "nobody knows the time zone 'Mars/Olympus'" in capsys.readouterr().err


async def test_a_bad_trace_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await simulate.run(asked(tmp_path, PREDICTIVE, "minute,requests\nx,1\n")) == 2
    assert "line 2: minute is 'x'" in capsys.readouterr().err


def test_the_example_needs_no_cluster_and_a_reader_may_have_seen_enough(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from preheat.cli.main import main; main()", "simulate"]
    command += ["-f", "examples/predictive.yaml", "--trace", "examples/requests.csv", "--load-seconds", "900"]
    environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(
            "llama in mode Predictive, requests.csv: 102,231 requests"
        )
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in {0, 141}  # all of it may have fitted into the pipe
