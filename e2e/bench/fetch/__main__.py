"""`make bench-fetch`: downloads the same files with every tool, prints tables, ends with 1 when a target is missed."""

import argparse
import sys
import tempfile
from pathlib import Path

from e2e.bench.fetch import report
from e2e.bench.fetch.measure import CONNECTIONS, WRITE_BYTES, baselines, run
from e2e.bench.fetch.server import serving
from e2e.bench.fetch.tools import TOOLS, environment_of
from e2e.cluster.provider import ROOT

MIB = 1 << 20
PIECE = CONNECTIONS * WRITE_BYTES
"""Sizes are multiples of it: the limits are measured in such pieces."""
CASES = {"8 files": (8, 512 * MIB), "1 file": (1, 4096 * MIB)}


def main(arguments: list[str]) -> int:
    """Run the cases and tools that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.fetch", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1: 8 x 512 MiB and 4 GiB [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts [%(default)s]")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only this one")
    parser.add_argument(
        "--tool", action="append", choices=[tool.name for tool in TOOLS], help="only this one"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="the disk to write to")
    asked = parser.parse_args(arguments)
    out = ROOT / "build" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    results = out / "fetch.jsonl"
    results.write_text("")
    tools = [tool for tool in TOOLS if not asked.tool or tool.name in asked.tool]
    for tool in tools:
        environment_of(tool)
    tables, misses = {}, 0
    print(f"  {report.machine()}")
    for case in asked.case or CASES:
        count, size = CASES[case]
        each = max(round(size * asked.scale / PIECE), 1) * PIECE
        runs = []
        with serving([each] * count) as served, tempfile.TemporaryDirectory(dir=asked.work) as work:
            for number in range(asked.rounds):
                measured = baselines(case, number, served, Path(work))
                turn = number % len(tools)  # whoever comes first pays for memory that was never used before
                order = tools[turn:] + tools[:turn]
                measured += [run(tool, case, number, served, Path(work)) for tool in order]
                for one in measured:
                    report.write_json(one, asked.scale, results)
                runs += measured
        tables[case] = report.rows(runs, case)
        print("\n" + report.text(f"{case}, {each / MIB:.0f} MiB each", tables[case]), flush=True)
        misses += len(report.missed(tables[case]))
    report.write_svg(tables, out / "fetch.svg")
    print(f"\n{results}; {out / 'fetch.svg'}; targets missed: {misses}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
