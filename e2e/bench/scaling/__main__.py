"""`make bench-scaling`: runs every scaler on the same requests, prints tables, ends with 1 when a target is missed."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.bench.scaling import pareto, report
from e2e.bench.scaling.board import FAMILIES, TUNED, without_worse_tuned
from e2e.bench.scaling.cells import LOADS, QUICK, Cell, named_cells, shared_cells, synthetic_cells
from e2e.bench.scaling.contenders import OURS, contenders
from e2e.bench.scaling.files import TraceFileError
from e2e.bench.scaling.targets import verdicts, words
from e2e.bench.scaling.work import Row, all_of
from e2e.cluster.provider import ROOT


def main(arguments: list[str]) -> int:
    """Run what was asked for."""
    parser = arguments_of()
    asked = parser.parse_args(arguments)
    try:
        cells, scalers = cells_of(asked), scalers_of(asked.scaler, asked.tuned)
    except TraceFileError as error:
        print(f"bench-scaling: {error}", file=sys.stderr)
        return 2
    except LookupError as error:
        parser.error(str(error.args[0]))
    if asked.list:
        print("cells:    " + "\n          ".join(f"{cell.name} ({cell.group})" for cell in cells))
        print("scalers:  " + "\n          ".join(scalers))
        return 0
    loads = [60.0] if asked.quick and not asked.load else asked.load or list(LOADS)
    asked.out.mkdir(parents=True, exist_ok=True)
    results = asked.out / "scaling.jsonl"
    results.write_text("")
    tried = measured(cells, loads, asked.seed or [1], scalers, asked.processes, results)
    rows = without_worse_tuned(tried)
    print("\n" + report.tables(rows))
    for load in sorted({row.load_seconds for row in rows}):
        for family, groups in FAMILIES.items():
            these = [row for row in rows if row.load_seconds == load and row.group in groups]
            if these:
                print("\n" + pareto.plot(f"{family}, load {words(load)}", these))
    if asked.tuned:
        print("\n" + report.at_equal_service(tried))
    pareto.write_svg(rows, asked.out / "scaling.svg")
    if not any(row.scaler == OURS for row in rows):
        print(f"\n{results}; {asked.out / 'scaling.svg'}")
        return 0
    judged = verdicts(rows)
    print("\n" + report.by_cell(rows))
    print("\n" + report.judged(judged))
    missed = sum(one.met is False for one in judged)
    print(f"\n{results}; {asked.out / 'scaling.svg'}; targets missed: {missed}")
    return 1 if missed and not asked.quick else 0


def arguments_of() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.scaling", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"only {', '.join(QUICK)} with a load of 60 s; misses do not count",
    )
    parser.add_argument(
        "--traces", type=Path, default=os.environ.get("TRACES") or None, metavar="FOLDER",
        help="the shared traces (default: $TRACES; without it the synthetic cells alone)",
    )  # fmt: skip
    parser.add_argument(
        "--trace", type=Path, action="append", default=[], metavar="FILE", help="only this log or rate file"
    )
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="ID[+ID]",
        help="of the rate files of --trace: a cell of these (default: all)",
    )
    parser.add_argument(
        "--replicas", type=float, help="of --trace: thinned to so many full replicas on the average"
    )
    parser.add_argument(
        "--slots",
        type=int,
        default=8,
        help="of --trace: requests that a replica serves at once [%(default)s]",
    )
    parser.add_argument(
        "--min-replicas", type=int, default=1, help="of --trace: 0 allows to scale to zero [%(default)s]"
    )
    parser.add_argument(
        "--cell",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one; a group's name takes all of it",
    )
    parser.add_argument(
        "--load", type=seconds, action="append", metavar="TIME", help="median load time: 60s, 5m, 45m"
    )
    parser.add_argument(
        "--scaler", action="append", default=[], metavar="NAME[/CONFIG]", help="only this one"
    )
    parser.add_argument(
        "--tuned",
        action="store_true",
        help="also search each peer's settings, with hindsight; shown is the best (hundreds of runs a cell)",
    )
    parser.add_argument("--seed", type=int, action="append", help="[1]")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--list", action="store_true", help="only list cells and scalers")
    return parser


def seconds(text: str) -> float:
    """Read a load time."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    if not 1 <= number <= 6 * 3600:
        raise ValueError(text)
    return number


def cells_of(asked: argparse.Namespace) -> list[Cell]:
    """Return the cells that were asked for."""
    if asked.trace:
        found = [
            cell
            for path in asked.trace
            for cell in named_cells(path, asked.client, asked.replicas, asked.slots, asked.min_replicas)
        ]
    else:
        found = synthetic_cells() + (shared_cells(asked.traces) if asked.traces else [])
        if asked.quick and not asked.cell:
            return [cell for cell in found if cell.name in QUICK]
    if not asked.cell:
        return found
    chosen = [cell for cell in found if cell.name in asked.cell or cell.group.value in asked.cell]
    known = {cell.name for cell in found} | {cell.group.value for cell in found}
    if unknown := set(asked.cell) - known:
        raise LookupError(f"no cell {', '.join(sorted(unknown))}; --list shows them")
    return chosen


def scalers_of(asked: Sequence[str], tuned: bool) -> list[str]:
    """Return the scalers that were asked for; none asked: all. What a search tries only takes part with ``tuned``."""
    known = [name for name in contenders() if tuned or name.split("/")[1].split()[0] != TUNED]
    if not asked:
        return known
    chosen = [name for name in known if {name, name.split("/")[0], name.split()[0]} & set(asked)]
    if unknown := [
        name for name in asked if not any(name in {one, one.split("/")[0], one.split()[0]} for one in known)
    ]:
        raise LookupError(f"no scaler {', '.join(unknown)}; --list shows them")
    return chosen


def measured(
    cells: Sequence[Cell],
    loads: Sequence[float],
    seeds: Sequence[int],
    scalers: Sequence[str],
    processes: int,
    results: Path,
) -> list[Row]:
    """Run everything, tell how far it is, and return the rows in the order of the cells."""
    rows: list[Row] = []
    many, began = len(cells) * len(loads) * len(seeds), time.monotonic()
    try:
        for number, done in enumerate(all_of(cells, loads, seeds, scalers, processes), 1):
            print(
                f"[{number}/{many}] {time.monotonic() - began:5.0f} s  {done.trace}, load {words(done.load_seconds)}, "
                f"seed {done.seed}: {len(done.rows)} runs in {done.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            rows += done.rows
            for row in done.rows:
                report.write_row(row, results)
    except KeyboardInterrupt:
        print("interrupted: this is what there is so far", file=sys.stderr)
    order = {cell.name: number for number, cell in enumerate(cells)}
    rows.sort(key=lambda row: (order[row.trace], row.load_seconds, row.seed))
    results.write_text("")
    for row in rows:
        report.write_row(row, results)
    return rows


if __name__ == "__main__":
    # A shell starts what runs in the background deaf to Ctrl-C's signal; a long run should tell what it has.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
