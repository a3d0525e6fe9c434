"""``kubectl preheat simulate``: a trace past the operator's own policy. No cluster is asked."""

import argparse
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from preheat.api.llmdeployment import LLMDeployment, ScalingMode, StorageTier
from preheat.api.parse import InvalidSpecError, parse
from preheat.cli import chart, traces
from preheat.cli.replay import Replay, Result, Scaler, least_gpu_seconds
from preheat.cli.traces import Drawing, InvalidTraceError
from preheat.decide.autoscale import make_policy, skipped_schedules, slots_of
from preheat.decide.loads import RECENT, SPREAD, Expected, Phases, expected
from preheat.decide.scaling import Policy
from preheat.decide.text import duration
from preheat.errors import InvalidSpec

CHANGES = 20
COLUMNS = 80


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "simulate",
        help="what Preheat's scaling would do with a trace of requests",
        description="What Preheat's scaling would do with a trace of requests. No cluster is asked.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=traces.FORMATS,
    )
    command.add_argument(
        "-f",
        "--filename",
        type=Path,
        required=True,
        metavar="FILE",
        help="the LLMDeployment; with a status, its load times",
    )
    command.add_argument("--trace", type=Path, required=True, metavar="FILE", help="the requests: see below")
    command.add_argument(
        "--load-seconds",
        type=_positive,
        metavar="N",
        help="how long a load takes, instead of what the status says",
    )
    command.add_argument("--svg", type=Path, metavar="FILE", help="also draw it there")
    command.add_argument(
        "--speed", type=_positive, default=1.0, metavar="N", help="requests come N times as fast [1]"
    )
    command.add_argument(
        "--share",
        type=_positive,
        default=1.0,
        metavar="N",
        help="only this share of the requests; rates: times N [1]",
    )
    command.add_argument(
        "--request-seconds",
        type=_positive,
        default=6.0,
        metavar="N",
        help="mean time of a request without tokens [6]",
    )
    command.add_argument("--seed", type=int, default=1, metavar="N", help="what is drawn by chance [1]")
    command.add_argument(
        "--decisions", type=int, default=CHANGES, metavar="N", help=f"print so many changes [{CHANGES}]"
    )
    command.set_defaults(command=run)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


async def run(arguments: argparse.Namespace) -> int:
    """Simulate, print, draw."""
    try:
        service = read_service(arguments.filename)
        if service.spec.scaling.mode is ScalingMode.EXTERNAL:
            print(external(service), file=sys.stderr)
            return 1
        if (problem := skipped_schedules(service)) is not None:
            print(f"kubectl preheat simulate: {problem}", file=sys.stderr)
            return 2
        load, source = load_of(service, arguments.load_seconds)
        drawing = Drawing(arguments.seed, arguments.share, arguments.speed, arguments.request_seconds)
        trace = traces.read(arguments.trace, drawing)
        policy = make_policy(
            service, load, slots_of(service, None), datetime.fromtimestamp(trace.begins, UTC)
        )
    except (InvalidTraceError, InvalidSpec, InvalidSpecError) as error:
        print(f"kubectl preheat simulate: {error}", file=sys.stderr)
        return 2
    replicas = policy.bounded(service.spec.replicas)
    found = Replay(trace, policy, replicas, arguments.seed).run(Scaler(policy, replicas))
    same = Replay(trace, policy, replicas, arguments.seed).run(None)
    title = f"{service.name} in mode {policy.mode}, {arguments.trace.name}: {found.requests:,} requests in {duration(trace.seconds)}"
    told = [
        *wrapped(title),
        *wrapped(_terms(policy, source)),
        "",
        *chart.lines(found.steps, policy.slots, colour=sys.stdout.isatty()),
    ]
    told += [
        "",
        *summary(found, same, replicas, least_gpu_seconds(trace, policy)),
        "",
        *changes(found, arguments.decisions),
    ]
    print("\n".join(told))
    return _drawn(arguments.svg, title, found, policy)


def _drawn(path: Path | None, title: str, found: Result, policy: Policy) -> int:
    if path is None:
        return 0
    try:
        path.write_text(chart.svg(title, found.steps, policy.slots), "utf-8")
    except OSError as error:
        print(f"{path}: cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def read_service(path: Path) -> LLMDeployment:
    """Return the one LLMDeployment of a file. Raises InvalidSpec."""
    try:
        bodies = list(yaml.safe_load_all(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path}: is no YAML: {error}") from error
    wanted = [body for body in bodies if isinstance(body, dict) and body.get("kind") == "LLMDeployment"]
    if len(wanted) != 1:
        raise InvalidSpec(f"{path}: holds {len(wanted)} LLMDeployments; one is expected")
    metadata = wanted[0].get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise InvalidSpec(f"{path}: metadata.name is missing")
    return parse(LLMDeployment, {**wanted[0], "metadata": {"namespace": "default", "uid": "", **metadata}})


def external(service: LLMDeployment) -> str:
    """Say why there is nothing to simulate."""
    return (
        f"{service.name}: spec.scaling.mode is External: spec.replicas decides, and whoever writes it. Preheat decides "
        "nothing there. To see what it would do, set spec.scaling.mode to Predictive (or Reactive), and "
        "spec.scaling.maxReplicas, the budget."
    )


def load_of(service: LLMDeployment, seconds: float | None) -> tuple[Expected, str]:
    """Return what a load takes, and who says so: the command line, the kind that the status saw last, or nobody."""
    if seconds is not None:
        # As sure as one that was observed as often as the operator remembers.
        phases = Phases(0.0, 0.0, 0.0, seconds, 0.0)
        return Expected(seconds, seconds * (1 + SPREAD / RECENT**0.5), phases, 0), "as given"
    known = service.status.load_times
    if known is None or not known.kinds:
        assumed = expected(None, "", "", StorageTier.ON_DISK, None)
        return assumed, "assumed: no load was observed; --load-seconds says it better"
    kind = known.kinds[0]
    found = expected(known, kind.revision, kind.gpu_type, kind.tier, None)
    return found, f"as observed on {kind.gpu_type}, {kind.tier}"


def _terms(policy: Policy, source: str) -> str:
    load = f"a load takes {duration(policy.load.p50)} (90 %: {duration(policy.load.p90)}), {source}"
    return f"{load}; {policy.min_replicas} to {policy.max_replicas} replicas of {policy.slots:g} slots; late after {duration(policy.late_seconds)}"


def summary(found: Result, same: Result, replicas: int, least_seconds: float) -> list[str]:
    """Return what it was worth, beside a number that stays and one who knows the future."""
    rows = [("Preheat", found), (f"always {replicas}", same)]
    result = [f"{'':<22}{'late':>9}{'GPU-hours':>12}{'cold starts':>13}{'most':>6}"]
    result += [
        f"  {name:<20}{one.late_share:>9.2%}{one.gpu_seconds / 3600:>12.2f}{one.loads:>13}{one.most:>6}"
        for name, one in rows
    ]
    return [
        *result,
        f"  {'nobody waits':<20}{0:>9.2%}{least_seconds / 3600:>12.2f}{'-':>13}{'-':>6}  with foresight",
    ]


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Return a line as lines of 80 columns at most."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=" " * indent)


def changes(found: Result, most: int) -> list[str]:
    """Return the changes of the number with their reasons, the first ones."""
    if not found.changes:
        return ["the number of replicas never changed"]
    shown = found.changes[: max(0, most)]
    rows = [
        f"  {chart.clock(change.at):>11}  {change.before:>3} -> {change.after:<3}  {change.why.reason}: {change.why.message}"
        for change in shown
    ]
    rows = [line for row in rows for line in wrapped(row, indent=15)]
    left = len(found.changes) - len(shown)
    return [
        "decisions",
        *rows,
        *([f"  and {left} more: --decisions {len(found.changes)}"] if left > 0 else []),
    ]
